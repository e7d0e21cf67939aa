//! The plain HTTP/1.1 server under the HTTP API and the control API, and what other servers have in common with it.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Body, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// A client that has not sent the head of its request by then is not waited for any longer.
const HEAD_LIMIT: Duration = Duration::from_secs(30);

/// A body that has not come whole by then is not waited for any longer.
const BODY_LIMIT: Duration = Duration::from_secs(30);

/// How long the requests in flight may take at the end.
const DRAIN_LIMIT: Duration = Duration::from_secs(5);

/// A body that is too large is read on up to this size and thrown away: a client that is still sending when it gets its
/// answer may see a broken connection instead.
const DISCARD_BYTES: usize = 64 * 1024 * 1024;

/// How long to wait before asking again, when the system has no file for another connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(20);

/// That connections cannot be taken is said once in this time.
const TELL_AGAIN: Duration = Duration::from_secs(60);

/// Why a body could not be read.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum BodyError {
    TooLarge,
    /// It did not come whole: the connection broke, or it took too long.
    Broken,
}

/// Reads a body of at most this size. One that came in one piece is not copied.
pub(crate) async fn read_body(body: Incoming, limit: usize) -> Result<Bytes, BodyError> {
    read_within(body, limit, BODY_LIMIT).await
}

async fn read_within<B>(body: B, limit: usize, patience: Duration) -> Result<Bytes, BodyError>
where
    B: Body<Data = Bytes> + Unpin,
{
    tokio::time::timeout(patience, read_to_end(body, limit)).await.unwrap_or(Err(BodyError::Broken))
}

async fn read_to_end<B>(mut body: B, limit: usize) -> Result<Bytes, BodyError>
where
    B: Body<Data = Bytes> + Unpin,
{
    let mut parts: Vec<Bytes> = Vec::new();
    let mut length = 0;
    // A body whose length was announced is complete without being asked once more.
    while !body.is_end_stream() {
        let Some(frame) = body.frame().await else { break };
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
    let mut acceptor = Acceptor::new(listener);
    loop {
        let (stream, peer) = tokio::select! {
            accepted = acceptor.accept() => accepted,
            () = shutdown.cancelled() => break,
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
    drop(acceptor);
    connections.close();
    let _ = tokio::time::timeout(DRAIN_LIMIT, connections.wait()).await;
}

/// Takes connections, also after the system had no file for one.
#[derive(Debug)]
pub(crate) struct Acceptor {
    listener: TcpListener,
    /// When it was last said that a connection could not be taken.
    told: Option<Instant>,
}

impl Acceptor {
    pub(crate) fn new(listener: TcpListener) -> Self {
        Self { listener, told: None }
    }

    /// The next connection. Can be given up and asked again.
    pub(crate) async fn accept(&mut self) -> (TcpStream, SocketAddr) {
        loop {
            match self.listener.accept().await {
                Ok(accepted) => return accepted,
                Err(error) => self.pause_after(&error).await,
            }
        }
    }

    /// Waits when the cause may last: asking again at once would keep a processor busy with it.
    async fn pause_after(&mut self, error: &io::Error) {
        // The client has already hung up: nothing is wrong here.
        if matches!(error.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset) {
            return;
        }
        if self.told.is_none_or(|told| told.elapsed() >= TELL_AGAIN) {
            self.told = Some(Instant::now());
            tracing::warn!("a connection could not be taken: {error}");
        }
        tokio::time::sleep(ACCEPT_PAUSE).await;
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::StreamBody;
    use hyper::body::Frame;

    use super::*;

    type Piece = Result<Frame<Bytes>, Infallible>;

    fn piece(bytes: &Bytes) -> Piece {
        Ok(Frame::data(bytes.clone()))
    }

    #[tokio::test]
    async fn pieces_of_a_body_become_one_and_one_piece_is_not_copied() {
        let (one, other) = (Bytes::from(vec![b'a'; 10]), Bytes::from_static(b"b"));
        let body = StreamBody::new(futures::stream::iter([piece(&one)]));
        let whole = read_to_end(body, 10).await.expect("it fits");
        assert_eq!(whole.as_ptr(), one.as_ptr());
        let body = StreamBody::new(futures::stream::iter([piece(&one), piece(&other)]));
        assert_eq!(read_to_end(body, 11).await.expect("it fits"), "aaaaaaaaaab");
        let body = StreamBody::new(futures::stream::iter([piece(&one), piece(&other)]));
        assert_eq!(read_to_end(body, 10).await, Err(BodyError::TooLarge));
    }

    #[tokio::test]
    async fn a_body_that_does_not_come_is_not_waited_for() {
        let body = StreamBody::new(futures::stream::pending::<Piece>());
        assert_eq!(read_within(body, 10, Duration::from_millis(1)).await, Err(BodyError::Broken));
    }
}
