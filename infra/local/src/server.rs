//! The plain HTTP/1.1 server under the HTTP API and the control API.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// A client that has not sent the head of its request by then is not waited for any longer.
const HEAD_LIMIT: Duration = Duration::from_secs(30);

/// How long the requests in flight may take at the end.
const DRAIN_LIMIT: Duration = Duration::from_secs(5);

/// A body that is too large is read on up to this size and thrown away: a client that is still sending when it gets its
/// answer may see a broken connection instead.
const DISCARD_BYTES: usize = 64 * 1024 * 1024;

/// How long to wait before asking again, when the system has no file for another connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(20);

/// Why a body could not be read.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum BodyError {
    TooLarge,
    /// The connection broke.
    Broken,
}

/// Reads a body of at most this size. One that came in one piece is not copied.
pub(crate) async fn read_body(mut body: Incoming, limit: usize) -> Result<Bytes, BodyError> {
    let mut parts: Vec<Bytes> = Vec::new();
    let mut length = 0;
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.map_err(|_| BodyError::Broken)?.into_data() else { continue };
        length += data.len();
        if length <= limit {
            parts.push(data);
        } else if length > DISCARD_BYTES {
            break;
        } else {
            parts.clear();
        }
    }
    match parts.as_mut_slice() {
        _ if length > limit => Err(BodyError::TooLarge),
        [one] => Ok(std::mem::take(one)),
        parts => Ok(parts.concat().into()),
    }
}

/// Takes connections until `shutdown`, then waits a little for the requests in flight.
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
    let _ = tokio::time::timeout(DRAIN_LIMIT, connections.wait()).await;
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
