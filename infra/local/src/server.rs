//! The plain HTTP/1.1 server under the HTTP API and the control API.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// A client that has not sent the head of its request by then is not waited for any longer.
const HEAD_LIMIT: Duration = Duration::from_secs(30);

/// How long to wait before asking again, when the system has no file for another connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(20);

/// Takes connections until `shutdown`, then waits until the requests in flight are answered.
pub(crate) async fn serve<H, F>(listener: TcpListener, shutdown: CancellationToken, handle: H)
where
    H: Fn(Request<Incoming>, SocketAddr) -> F + Clone + Send + 'static,
    F: Future<Output = Result<Response<Full<Bytes>>, Infallible>> + Send + 'static,
{
    let connections = TaskTracker::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = shutdown.cancelled() => break,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                pause_after(&error).await;
                continue;
            }
        };
        drop(stream.set_nodelay(true));
        let (handle, shutdown) = (handle.clone(), shutdown.clone());
        let service = service_fn(move |request| handle(request, peer));
        connections.spawn(async move {
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEAD_LIMIT)
                .serve_connection(TokioIo::new(stream), service);
            tokio::pin!(connection);
            // What goes wrong on a connection is the client's to notice.
            tokio::select! {
                _ = connection.as_mut() => {}
                () = shutdown.cancelled() => {
                    connection.as_mut().graceful_shutdown();
                    drop(connection.await);
                }
            }
        });
    }
    drop(listener);
    connections.close();
    connections.wait().await;
}

/// Says that a connection could not be taken, and waits when that may last.
async fn pause_after(error: &io::Error) {
    // The client has already hung up: nothing is wrong here.
    if matches!(error.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset) {
        return;
    }
    tracing::warn!("a connection could not be taken: {error}");
    tokio::time::sleep(ACCEPT_PAUSE).await;
}
