//! The load generator: a room full of readers, some of which write.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use futures::{SinkExt as _, StreamExt as _, TryStreamExt as _, stream};
use serde_json::{Value, json};
use tokio::{
    net::TcpStream,
    sync::{Notify, mpsc},
    task::JoinHandle,
};
use tokio_tungstenite::{
    WebSocketStream, client_async,
    tungstenite::{Message, client::IntoClientRequest as _},
};

use super::Stack;
use crate::user::User;

/// How many handshakes are under way at once.
const HANDSHAKES: usize = 16;
/// Connections that one account opens.
const CONNECTIONS_PER_USER: usize = 100;
/// What a message's text is filled up to, so that a frame has about 400 bytes.
const TEXT_BYTES: usize = 120;
/// Deliveries that have not come so long after the last ack are lost.
const PATIENCE: Duration = Duration::from_secs(20);

/// What one reader was shown.
#[derive(Debug, Default)]
struct Seen {
    /// The number of each message that came, and microseconds from its send to its receipt.
    messages: Vec<(u64, u32)>,
}

/// A room with readers, each on a connection of its own.
pub struct Room {
    id: String,
    began: Instant,
    writers: Vec<mpsc::UnboundedSender<Message>>,
    readers: Vec<JoinHandle<Result<Seen>>>,
    acks: mpsc::UnboundedReceiver<u64>,
    received: Arc<AtomicU64>,
    finish: Arc<Notify>,
    next: u64,
    acked: Vec<u64>,
}

/// What all readers were shown together.
#[derive(Debug)]
pub struct Audit {
    /// Microseconds from send to receipt, of every delivery.
    pub latencies_us: Vec<u32>,
    /// Acknowledged messages that a reader was not shown.
    pub lost: u64,
    /// Messages that a reader was shown more than once.
    pub duplicated: u64,
}

impl Room {
    /// Opens `size` connections and joins them all to a new room.
    ///
    /// # Errors
    /// The stack refuses something.
    pub async fn open(stack: &Stack, size: usize) -> Result<Self> {
        let mut users = Vec::new();
        for number in 0..size.div_ceil(CONNECTIONS_PER_USER) {
            users.push(
                User::sign_up(&stack.api, &stack.aws.endpoints.websocket, &format!("Reader{number}")).await,
            );
        }
        let id = users[0].make_public_room().await;
        let began = Instant::now();
        let received = Arc::new(AtomicU64::new(0));
        let finish = Arc::new(Notify::new());
        let (acked, acks) = mpsc::unbounded_channel();
        let url = &stack.aws.endpoints.websocket;
        let (id_ref, users) = (&id, &users);
        let sockets: Vec<_> = stream::iter(0..size)
            .map(|number| async move { join(url, &users[number / CONNECTIONS_PER_USER].token, id_ref).await })
            .buffered(HANDSHAKES)
            .try_collect()
            .await?;
        let mut room = Self {
            id,
            began,
            writers: Vec::new(),
            readers: Vec::new(),
            acks,
            received: Arc::clone(&received),
            finish: Arc::clone(&finish),
            next: 0,
            acked: Vec::new(),
        };
        for socket in sockets {
            let (write, to_write) = mpsc::unbounded_channel();
            room.writers.push(write);
            let reader = Reader {
                began,
                acked: acked.clone(),
                received: Arc::clone(&received),
                finish: Arc::clone(&finish),
            };
            room.readers.push(tokio::spawn(reader.run(socket, to_write)));
        }
        Ok(room)
    }

    fn size(&self) -> usize {
        self.readers.len()
    }

    /// Sends from a connection, as if at `due`; latencies count from then.
    fn send(&mut self, writer: usize, due: Instant) -> Result<()> {
        let number = self.next;
        self.next += 1;
        let sent_us = due.duration_since(self.began).as_micros();
        let text = format!("{number} {sent_us} ");
        let frame = json!({"action": "send", "room": self.id, "text": format!("{text:.<TEXT_BYTES$}"), "ref": number.to_string()});
        self.writers[writer].send(Message::text(frame.to_string())).context("a connection has ended")
    }

    async fn ack(&mut self) -> Result<u64> {
        let ack = tokio::time::timeout(PATIENCE, self.acks.recv()).await.context("no ack comes")?;
        let number = ack.context("all connections have ended")?;
        self.acked.push(number);
        Ok(number)
    }

    /// Sends at a fixed rate, whatever the answers: `deliveries_per_second` over all readers.
    ///
    /// # Errors
    /// A connection ends, or acks stay out.
    pub async fn steadily(&mut self, deliveries_per_second: u32, duration: Duration) -> Result<()> {
        let receivers = u32::try_from(self.size() - 1)?;
        let pause = Duration::from_secs(1) * receivers / deliveries_per_second;
        let start = Instant::now();
        let mut due = start;
        let mut writer = 0;
        while due < start + duration {
            tokio::time::sleep_until(due.into()).await;
            self.send(writer, due)?;
            writer = (writer + 1) % self.size().min(10);
            due += pause;
        }
        while (self.acked.len() as u64) < self.next {
            self.ack().await?;
        }
        Ok(())
    }

    /// `writers` connections send one message after the other, each as soon as its last was acknowledged. Answers the
    /// deliveries a second.
    ///
    /// # Errors
    /// A connection ends, or acks stay out.
    pub async fn at_full_speed(&mut self, writers: usize, duration: Duration) -> Result<f64> {
        let start = Instant::now();
        let before = self.received.load(Ordering::Relaxed);
        let first = self.next;
        for writer in 0..writers {
            self.send(writer, Instant::now())?;
        }
        // Whose turn it is can be told by any rule that keeps `writers` messages under way.
        let mut writer = 0;
        while start.elapsed() < duration {
            self.ack().await?;
            self.send(writer, Instant::now())?;
            writer = (writer + 1) % writers;
        }
        while (self.acked.len() as u64) < self.next {
            self.ack().await?;
        }
        let delivered = self.wait_for(before + self.deliveries_since(first)).await - before;
        Ok(delivered as f64 / start.elapsed().as_secs_f64())
    }

    /// Waits until so many deliveries have come in all; what stays out for too long is for the audit to tell.
    async fn wait_for(&self, deliveries: u64) -> u64 {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let received = self.received.load(Ordering::Relaxed);
            if deliveries <= received || deadline < Instant::now() {
                return received;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    /// Closes all connections and looks at what each was shown.
    ///
    /// # Errors
    /// A reader failed.
    pub async fn close(self) -> Result<Audit> {
        let expected = self.deliveries_since(0);
        self.wait_for(expected).await;
        self.finish.notify_waiters();
        drop(self.writers);
        let mut audit = Audit { latencies_us: Vec::new(), lost: 0, duplicated: 0 };
        let sent = usize::try_from(self.next)?;
        let mut shown = 0;
        for reader in self.readers {
            let mut times = vec![0_u32; sent];
            for (number, latency_us) in reader.await??.messages {
                audit.latencies_us.push(latency_us);
                times[usize::try_from(number)?] += 1;
            }
            shown += times.iter().filter(|&&times| 0 < times).count() as u64;
            audit.duplicated += times.iter().map(|&times| u64::from(times.saturating_sub(1))).sum::<u64>();
        }
        audit.lost = expected - shown;
        Ok(audit)
    }

    /// Deliveries that there must be of the messages since `first`: each goes to all but its sender.
    fn deliveries_since(&self, first: u64) -> u64 {
        (self.next - first) * (self.size() as u64 - 1)
    }
}

async fn join(url: &str, token: &str, room: &str) -> Result<WebSocketStream<TcpStream>> {
    let mut request = url.into_client_request()?;
    request.headers_mut().insert("authorization", format!("Bearer {token}").parse()?);
    let authority = request.uri().authority().context("the URL has a host")?.to_string();
    let tcp = TcpStream::connect(authority).await?;
    tcp.set_nodelay(true)?;
    let (mut socket, _) = client_async(request, tcp).await.context("the handshake fails")?;
    socket.send(Message::text(json!({"action": "join", "room": room}).to_string())).await?;
    let reply = socket.next().await.context("the connection has ended")??;
    let reply: Value = serde_json::from_str(reply.to_text()?)?;
    ensure!(reply["type"] == "joined", "no join: {reply}");
    Ok(socket)
}

struct Reader {
    began: Instant,
    acked: mpsc::UnboundedSender<u64>,
    received: Arc<AtomicU64>,
    finish: Arc<Notify>,
}

impl Reader {
    async fn run(
        self,
        socket: WebSocketStream<TcpStream>,
        mut to_write: mpsc::UnboundedReceiver<Message>,
    ) -> Result<Seen> {
        let (mut write, mut read) = socket.split();
        let finish = Arc::clone(&self.finish);
        let mut finished = std::pin::pin!(finish.notified());
        let mut seen = Seen::default();
        loop {
            tokio::select! {
                message = read.next() => {
                    let message = message.context("the connection has ended")??;
                    self.note(message.to_text()?, &mut seen)?;
                }
                Some(message) = to_write.recv() => write.send(message).await?,
                () = &mut finished => break,
            }
        }
        write.close().await?;
        Ok(seen)
    }

    // Frames are looked at and not parsed: the load generator must not be what is measured.
    fn note(&self, frame: &str, seen: &mut Seen) -> Result<()> {
        if frame.starts_with(r#"{"type":"message""#) {
            let received_us = self.began.elapsed().as_micros();
            let mut parts = after(frame, r#""text":""#)?.split(' ');
            let number = parts.next().context("no number")?.parse()?;
            let sent_us: u128 = parts.next().context("no time")?.parse()?;
            seen.messages
                .push((number, u32::try_from(received_us.saturating_sub(sent_us)).unwrap_or(u32::MAX)));
            self.received.fetch_add(1, Ordering::Relaxed);
        } else if frame.starts_with(r#"{"type":"ack""#) {
            let number = after(frame, r#""ref":""#)?.split('"').next().context("no ref")?.parse()?;
            // Nobody listens any more once the round is over.
            let _ = self.acked.send(number);
        } else if frame.starts_with(r#"{"type":"error""#) {
            bail!("a send was refused: {frame}");
        }
        Ok(())
    }
}

fn after<'a>(frame: &'a str, mark: &str) -> Result<&'a str> {
    frame.split_once(mark).map(|(_, rest)| rest).with_context(|| format!("no {mark} in {frame}"))
}
