//! The open connections, and what each of them still has to be sent.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use dashmap::DashMap;
use serde_json::value::RawValue;
use time::OffsetDateTime;
use tokio::sync::mpsc;
use tokio_tungstenite::tungstenite::Utf8Bytes;
use tokio_util::sync::CancellationToken;

use super::events::{Caller, Identity};
use crate::ids::Id;

/// What may wait for one slow reader, in bytes. A message may have 128 KB and most have a few hundred bytes,
/// so counting messages would bound nothing.
const OUTBOUND_LIMIT_BYTES: usize = 1024 * 1024;

/// What a waiting message costs beside its text.
const MESSAGE_OVERHEAD_BYTES: usize = 64;

/// All open connections by their id. Sharded: a frame never waits for the frame of somebody else.
#[derive(Debug, Default)]
pub(crate) struct Connections(DashMap<Id, Arc<Connection>>);

impl Connections {
    pub(crate) fn get(&self, id: Id) -> Option<Arc<Connection>> {
        self.0.get(&id).map(|connection| Arc::clone(&connection))
    }

    pub(super) fn insert(&self, connection: Arc<Connection>) {
        self.0.insert(connection.caller.connection_id, connection);
    }

    /// Takes a connection away: from here on it is gone for everybody who posts.
    pub(crate) fn remove(&self, id: Id) -> Option<Arc<Connection>> {
        self.0.remove(&id).map(|(_, connection)| connection)
    }
}

/// An open connection, as everybody but its own socket sees it.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(super) caller: Caller,
    /// The `authorizer` block that all its events repeat.
    pub(super) authorizer: Option<Box<RawValue>>,
    /// Ends the socket with 1000, or with 1001 if the whole gateway is closing.
    pub(crate) close: CancellationToken,
    opened: Instant,
    last_active_ms: AtomicU64,
    outbound: mpsc::UnboundedSender<Utf8Bytes>,
    outbound_bytes: AtomicUsize,
}

/// Why a message cannot be sent to a connection.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum PushError {
    /// The client does not read as fast as it is written to.
    Full,
    /// Its socket has ended.
    Gone,
}

impl Connection {
    pub(super) fn new(
        caller: Caller,
        authorizer: Option<Box<RawValue>>,
        close: CancellationToken,
    ) -> (Arc<Self>, Outbound) {
        let (sender, receiver) = mpsc::unbounded_channel();
        let connection = Self {
            caller,
            authorizer,
            close,
            opened: Instant::now(),
            last_active_ms: AtomicU64::new(0),
            outbound: sender,
            outbound_bytes: AtomicUsize::new(0),
        };
        (Arc::new(connection), Outbound(receiver))
    }

    pub(crate) fn id(&self) -> Id {
        self.caller.connection_id
    }

    pub(crate) fn identity(&self) -> Identity<'_> {
        self.caller.identity()
    }

    pub(crate) fn connected_at(&self) -> OffsetDateTime {
        self.caller.connected_at
    }

    pub(crate) fn last_active_at(&self) -> OffsetDateTime {
        self.caller.connected_at + self.last_active()
    }

    pub(super) fn age(&self) -> Duration {
        self.opened.elapsed()
    }

    /// The connection's age when something was last sent or received.
    pub(super) fn last_active(&self) -> Duration {
        Duration::from_millis(self.last_active_ms.load(Ordering::Relaxed))
    }

    pub(super) fn touch(&self) {
        let age_ms = u64::try_from(self.age().as_millis()).unwrap_or(u64::MAX);
        self.last_active_ms.store(age_ms, Ordering::Relaxed);
    }

    /// Sends a message, unless too much waits already. The text is shared, not copied.
    pub(crate) fn push(&self, text: Utf8Bytes) -> Result<(), PushError> {
        let cost = cost(&text);
        if self.outbound_bytes.fetch_add(cost, Ordering::Relaxed) + cost > OUTBOUND_LIMIT_BYTES {
            self.outbound_bytes.fetch_sub(cost, Ordering::Relaxed);
            return Err(PushError::Full);
        }
        self.outbound.send(text).map_err(|_| PushError::Gone)
    }

    /// Sends what answers a frame of the client's own, however much waits: [`Self::is_congested`] keeps it
    /// from asking for more.
    pub(super) fn reply(&self, text: Utf8Bytes) {
        self.outbound_bytes.fetch_add(cost(&text), Ordering::Relaxed);
        // If its socket has ended meanwhile, nobody is there to be answered.
        let _ = self.outbound.send(text);
    }

    /// Whether so much waits that the client is not to be read from.
    pub(super) fn is_congested(&self) -> bool {
        self.outbound_bytes.load(Ordering::Relaxed) > OUTBOUND_LIMIT_BYTES
    }

    /// Tells that a message left [`Outbound`] for the socket.
    pub(super) fn sent(&self, text: &Utf8Bytes) {
        self.outbound_bytes.fetch_sub(cost(text), Ordering::Relaxed);
        self.touch();
    }
}

fn cost(text: &Utf8Bytes) -> usize {
    text.len() + MESSAGE_OVERHEAD_BYTES
}

/// What waits to be written to a socket, for its one writer.
#[derive(Debug)]
pub(super) struct Outbound(pub(super) mpsc::UnboundedReceiver<Utf8Bytes>);

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn connection() -> (Arc<Connection>, Outbound) {
        let caller = Caller {
            connection_id: Id::new(),
            connected_at: OffsetDateTime::UNIX_EPOCH,
            source_ip: Ipv4Addr::LOCALHOST.into(),
            user_agent: None,
            domain_name: "here".into(),
        };
        Connection::new(caller, None, CancellationToken::new())
    }

    #[test]
    fn what_waits_for_a_slow_reader_is_bounded_in_bytes() {
        let (connection, mut outbound) = connection();
        let text = Utf8Bytes::from("x".repeat(128 * 1024));
        let pushed = std::iter::from_fn(|| connection.push(text.clone()).ok()).count();
        assert_eq!(pushed, 7, "a megabyte holds 7 of the largest messages and what they cost");
        assert_eq!(connection.push(text.clone()), Err(PushError::Full));

        let sent = outbound.0.try_recv().expect("waits");
        connection.sent(&sent);
        assert_eq!(connection.push(text.clone()), Ok(()), "there is room again");
        assert_eq!(connection.push(text), Err(PushError::Full));
    }

    #[test]
    fn a_reply_is_never_refused_but_stops_the_reading() {
        let (connection, mut outbound) = connection();
        let text = Utf8Bytes::from("x".repeat(600 * 1024));
        connection.reply(text.clone());
        assert!(!connection.is_congested());
        connection.reply(text);
        assert!(connection.is_congested());
        connection.sent(&outbound.0.try_recv().expect("waits"));
        assert!(!connection.is_congested());
    }

    #[test]
    fn a_message_to_an_ended_socket_is_gone() {
        let (connection, outbound) = connection();
        drop(outbound);
        assert_eq!(connection.push("x".into()), Err(PushError::Gone));
    }

    #[test]
    fn a_removed_connection_is_known_to_nobody() {
        let connections = Connections::default();
        let (connection, _outbound) = connection();
        connections.insert(Arc::clone(&connection));
        assert!(connections.get(connection.id()).is_some());
        assert!(connections.remove(connection.id()).is_some());
        assert!(connections.get(connection.id()).is_none());
        assert!(connections.remove(connection.id()).is_none());
    }
}
