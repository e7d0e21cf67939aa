//! One task for each open connection: it reads the client's frames, is the only one to write to it, watches
//! its clocks, and closes it.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures::{SinkExt, StreamExt};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::{Error, Message, Utf8Bytes, error::ProtocolError};

use super::connections::{Connection, Outbound};
use super::{Gateway, frames};
use crate::access_log::Close;

/// How many frames of one client may be in work. With more, its socket is not read for a while: one client
/// that floods must not fill this machine's memory.
const MAX_FRAMES_IN_WORK: usize = 256;

/// How long a client may take to answer the gateway's close before its TCP connection is dropped.
const LINGER: Duration = Duration::from_secs(2);

/// How a connection ended.
#[derive(Debug, PartialEq)]
pub(super) enum End {
    /// The client sent a close frame, with or without a code.
    ByClient(Option<CloseFrame>),
    /// The gateway closes.
    ByGateway(CloseCode, &'static str),
    /// It broke off without a close frame.
    Lost,
}

impl End {
    const GOING_AWAY: Self = Self::ByGateway(CloseCode::Away, "Going away");

    /// `disconnectStatusCode` and `disconnectReason`.
    pub(super) fn status(&self) -> (u16, &str) {
        match self {
            Self::ByClient(Some(frame)) => (frame.code.into(), frame.reason.as_str()),
            Self::ByClient(None) => (CloseCode::Status.into(), "Client-side close frame status not set"),
            Self::ByGateway(code, reason) => ((*code).into(), reason),
            Self::Lost => (CloseCode::Abnormal.into(), "Connection Closed Abnormally"),
        }
    }

    /// For the log.
    pub(super) fn close(&self) -> Close {
        Close { code: self.status().0, by_gateway: matches!(self, Self::ByGateway(..)) }
    }

    /// What the gateway makes of a socket that cannot be read any further.
    fn of_error(error: &Error) -> Self {
        match error {
            Error::Capacity(_) => Self::ByGateway(CloseCode::Size, "Message too long"),
            Error::Utf8(_) => Self::ByGateway(CloseCode::Invalid, "Invalid UTF-8"),
            Error::Protocol(ProtocolError::ResetWithoutClosingHandshake) => Self::Lost,
            Error::Protocol(_) => Self::ByGateway(CloseCode::Protocol, "Protocol error"),
            _ => Self::Lost,
        }
    }
}

/// Serves a connection until it ends, and tells `$disconnect`.
pub(super) async fn run(
    gateway: Arc<Gateway>,
    connection: Arc<Connection>,
    outbound: Outbound,
    stream: WebSocketStream<TcpStream>,
) {
    let mut socket =
        Socket { gateway, connection, outbound, stream, unflushed: false, frames: JoinSet::new() };
    let end = socket.converse().await;
    socket.gateway.ended(&socket.connection, &end);
    // Their functions run on, and their lines belong into the log: the gateway waits for them.
    socket.frames.detach_all();
    // A client that does not answer is left.
    let _ = timeout(LINGER, socket.say_goodbye(end)).await;
}

struct Socket {
    gateway: Arc<Gateway>,
    connection: Arc<Connection>,
    outbound: Outbound,
    stream: WebSocketStream<TcpStream>,
    /// Whether something was written that may still be in a buffer of ours.
    unflushed: bool,
    frames: JoinSet<()>,
}

impl Socket {
    async fn converse(&mut self) -> End {
        let connection = Arc::clone(&self.connection);
        let mut close = std::pin::pin!(connection.close.cancelled());
        let mut alarm = std::pin::pin!(sleep(self.time_left()));
        loop {
            tokio::select! {
                received = poll_fn(|cx| self.poll(cx)) => match self.receive(received) {
                    Some(end) => return end,
                    None => continue,
                },
                () = &mut close => return self.told_to_close(),
                () = &mut alarm => {
                    // Activity only makes more time; the alarm is set anew when it has rung.
                    let left = self.time_left();
                    if left.is_zero() {
                        return End::GOING_AWAY;
                    }
                    alarm.as_mut().reset(Instant::now() + left);
                }
            }
        }
    }

    /// Until the connection has been idle for too long, or open for too long.
    fn time_left(&self) -> Duration {
        let limits = &self.gateway.limits;
        let age = (self.connection.last_active() + limits.idle).min(limits.connection);
        age.saturating_sub(self.connection.age())
    }

    fn told_to_close(&self) -> End {
        if self.gateway.closing.is_cancelled() {
            End::GOING_AWAY
        } else {
            End::ByGateway(CloseCode::Normal, "Connection Closed Normally")
        }
    }

    /// Writes what waits to be written, and then reads. A client that does not read keeps being read from,
    /// until it is congested.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Message, Error>>> {
        if let Poll::Ready(Err(error)) = self.poll_write(cx) {
            return Poll::Ready(Some(Err(error)));
        }
        while let Poll::Ready(Some(_)) = self.frames.poll_join_next(cx) {}
        if self.frames.len() >= MAX_FRAMES_IN_WORK || self.connection.is_congested() {
            return Poll::Pending;
        }
        self.stream.poll_next_unpin(cx)
    }

    /// Moves messages into the socket for as long as it takes them: many small ones become one write.
    fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        loop {
            ready!(self.stream.poll_ready_unpin(cx))?;
            let Poll::Ready(Some(text)) = self.outbound.0.poll_recv(cx) else { break };
            self.write(text)?;
        }
        if self.unflushed {
            ready!(self.stream.poll_flush_unpin(cx))?;
            self.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }

    fn write(&mut self, text: Utf8Bytes) -> Result<(), Error> {
        self.connection.sent(&text);
        self.unflushed = true;
        self.stream.start_send_unpin(Message::Text(text))
    }

    /// Takes what was read. `Some`: the connection ends by it.
    fn receive(&mut self, received: Option<Result<Message, Error>>) -> Option<End> {
        match received {
            Some(Ok(Message::Text(text))) => {
                self.connection.touch();
                let (gateway, connection) = (Arc::clone(&self.gateway), Arc::clone(&self.connection));
                let frame = frames::handle(gateway, connection, text);
                self.frames.spawn(self.gateway.tasks.track_future(frame));
                None
            }
            // A pong goes out by itself. Whether pings keep a connection from being idle on AWS is not known,
            // so that nothing may depend on it: here they do not.
            Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => None,
            Some(Ok(Message::Binary(_))) => {
                Some(End::ByGateway(CloseCode::Unsupported, "Binary is not supported"))
            }
            Some(Ok(Message::Close(frame))) => Some(End::ByClient(frame)),
            Some(Err(error)) => Some(End::of_error(&error)),
            None => Some(End::Lost),
        }
    }

    /// Closes by the book: what was accepted is delivered, the close frame is exchanged, and TCP is ended in
    /// a way that lets the client read to the end. Dropping it with unread bytes would reset it, and the
    /// client might lose the close frame.
    async fn say_goodbye(&mut self, end: End) -> Result<(), Error> {
        match end {
            End::Lost => return Ok(()),
            End::ByClient(_) => {}
            End::ByGateway(code, reason) => {
                while let Ok(text) = self.outbound.0.try_recv() {
                    self.stream.feed(Message::Text(text)).await?;
                }
                let reason = Utf8Bytes::from_static(reason);
                self.stream.send(Message::Close(Some(CloseFrame { code, reason }))).await?;
            }
        }
        while let Some(Ok(_)) = self.stream.next().await {}
        let tcp = self.stream.get_mut();
        tcp.shutdown().await?;
        let mut rest = [0; 4 * 1024];
        while tcp.read(&mut rest).await? > 0 {}
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(end: &End, expected: (u16, &str)) {
        assert_eq!(end.status(), expected);
    }

    #[test]
    fn disconnect_codes_and_reasons_are_those_seen_on_aws() {
        let frame =
            |code, reason: &'static str| Some(CloseFrame { code, reason: Utf8Bytes::from_static(reason) });
        check(&End::ByClient(None), (1005, "Client-side close frame status not set"));
        check(&End::ByClient(frame(CloseCode::Away, "")), (1001, ""));
        check(&End::ByClient(frame(CloseCode::from(4001), "bye")), (4001, "bye"));
        check(
            &End::ByGateway(CloseCode::Normal, "Connection Closed Normally"),
            (1000, "Connection Closed Normally"),
        );
        check(&End::GOING_AWAY, (1001, "Going away"));
        check(&End::Lost, (1006, "Connection Closed Abnormally"));
    }
}
