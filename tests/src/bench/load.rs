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
/// How often is looked whether deliveries have come.
const GLANCE: Duration = Duration::from_millis(1);

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
    replies: mpsc::UnboundedReceiver<Replied>,
    received: Arc<AtomicU64>,
    finish: Arc<Notify>,
    next: u64,
    acked: Vec<u64>,
}

/// A reply to a frame.
struct Replied {
    number: u64,
    at: Instant,
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

impl Audit {
    /// # Errors
    /// Something was lost, or came twice.
    pub fn expect_whole(self) -> Result<()> {
        ensure!(self.lost == 0 && self.duplicated == 0, "{} lost, {} doubled", self.lost, self.duplicated);
        Ok(())
    }
}

impl Room {
    /// Opens `size` connections and joins them all to a new room.
    ///
    /// # Errors
    /// The stack refuses something.
    pub async fn open(stack: &Stack, size: usize) -> Result<Self> {
        let id = stack.sign_up("Owner").await.make_public_room().await;
        Self::enter(stack, &id, size).await
    }

    /// Opens `size` connections and joins them all to a room that is there.
    ///
    /// # Errors
    /// The stack refuses something.
    pub async fn enter(stack: &Stack, id: &str, size: usize) -> Result<Self> {
        let mut users = Vec::new();
        for number in 0..size.div_ceil(CONNECTIONS_PER_USER) {
            users.push(stack.sign_up(&format!("Reader{number}")).await);
        }
        let began = Instant::now();
        let received = Arc::new(AtomicU64::new(0));
        let finish = Arc::new(Notify::new());
        let (replied, replies) = mpsc::unbounded_channel();
        let users = &users;
        let sockets: Vec<_> = stream::iter(0..size)
            .map(|number| async move {
                let mut line = Line::open(stack, &users[number / CONNECTIONS_PER_USER]).await?;
                line.ask(&json!({"action": "join", "room": id}), "joined").await?;
                anyhow::Ok(line.socket)
            })
            .buffered(HANDSHAKES)
            .try_collect()
            .await?;
        let mut room = Self {
            id: id.to_owned(),
            began,
            writers: Vec::new(),
            readers: Vec::new(),
            replies,
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
                replied: replied.clone(),
                received: Arc::clone(&received),
                finish: Arc::clone(&finish),
            };
            room.readers.push(tokio::spawn(reader.run(socket, to_write)));
        }
        Ok(room)
    }

    /// The room's id.
    pub fn id(&self) -> &str {
        &self.id
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

    async fn reply(&mut self) -> Result<Replied> {
        let reply = tokio::time::timeout(PATIENCE, self.replies.recv()).await.context("no reply comes")?;
        reply.context("all connections have ended")
    }

    async fn ack(&mut self) -> Result<()> {
        let reply = self.reply().await?;
        self.acked.push(reply.number);
        Ok(())
    }

    async fn all_acks(&mut self) -> Result<()> {
        while (self.acked.len() as u64) < self.next {
            self.ack().await?;
        }
        Ok(())
    }

    /// Sends one message: the time until its ack came. Then waits until everybody has it.
    ///
    /// # Errors
    /// A connection ends, or the ack stays out.
    pub async fn send_alone(&mut self) -> Result<Duration> {
        let start = Instant::now();
        self.send(0, start)?;
        let ack = self.reply().await?;
        self.acked.push(ack.number);
        self.wait_for(self.deliveries_since(0)).await;
        Ok(ack.at - start)
    }

    /// Pings for this room: the time until the pong came.
    ///
    /// # Errors
    /// The connection ends, or the pong stays out.
    pub async fn ping(&mut self) -> Result<Duration> {
        // No message has this number.
        let frame = json!({"action": "ping", "positions": {&self.id: "0-0"}, "ref": u64::MAX.to_string()});
        let start = Instant::now();
        self.writers[0].send(Message::text(frame.to_string())).context("a connection has ended")?;
        Ok(self.reply().await?.at - start)
    }

    /// Sends so many messages as fast as they are acknowledged, with so many under way at once.
    ///
    /// # Errors
    /// A connection ends, or acks stay out.
    pub async fn write(&mut self, messages: u64, under_way: u64) -> Result<()> {
        let first = self.next;
        while self.next < first + messages {
            while self.next - self.acked.len() as u64 >= under_way {
                self.ack().await?;
            }
            let writer = usize::try_from(self.next)? % self.size();
            self.send(writer, Instant::now())?;
        }
        self.all_acks().await
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
        self.all_acks().await
    }

    /// `writers` connections send one message after the other, each as soon as the last was acknowledged and readers keep
    /// up: a big room's messages are acknowledged before they are delivered. Answers the deliveries a second.
    ///
    /// # Errors
    /// A connection ends, or acks stay out.
    pub async fn at_full_speed(&mut self, writers: usize, duration: Duration) -> Result<f64> {
        let start = Instant::now();
        let before = self.received.load(Ordering::Relaxed);
        let first = self.next;
        // As many again may be on the last bit of the way, from the gateway to their readers.
        let most_deliveries = 2 * writers as u64 * (self.size() as u64 - 1).max(1);
        // Whose turn it is can be told by any rule that keeps `writers` messages under way.
        let mut writer = 0;
        while start.elapsed() < duration {
            let unacked = self.next - self.acked.len() as u64;
            let undelivered = before + self.deliveries_since(first) - self.received.load(Ordering::Relaxed);
            if unacked < writers as u64 && undelivered < most_deliveries {
                self.send(writer, Instant::now())?;
                writer = (writer + 1) % writers;
            } else if 0 < unacked {
                self.ack().await?;
            } else {
                tokio::time::sleep(GLANCE).await;
            }
        }
        self.all_acks().await?;
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
            tokio::time::sleep(GLANCE).await;
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

/// One connection, on which one frame is asked after the other.
pub(super) struct Line {
    socket: WebSocketStream<TcpStream>,
}

impl Line {
    /// Opens one with the session's token.
    pub(super) async fn open(stack: &Stack, user: &User) -> Result<Self> {
        let mut request = stack.aws.endpoints.websocket.as_str().into_client_request()?;
        request.headers_mut().insert("authorization", format!("Bearer {}", user.token).parse()?);
        let authority = request.uri().authority().context("the URL has a host")?.to_string();
        let tcp = TcpStream::connect(authority).await?;
        tcp.set_nodelay(true)?;
        let (socket, _) = client_async(request, tcp).await.context("the handshake fails")?;
        Ok(Self { socket })
    }

    /// Sends a frame and waits for the reply, which must be of this type. What is pushed before it is no part of it: where
    /// many join a new room at once, one may be told to read again.
    pub(super) async fn ask(&mut self, frame: &Value, kind: &str) -> Result<Value> {
        self.socket.send(Message::text(frame.to_string())).await?;
        loop {
            let reply = tokio::time::timeout(PATIENCE, self.socket.next()).await.context("no reply comes")?;
            let reply = reply.context("the connection has ended")??;
            let reply: Value = serde_json::from_str(reply.to_text()?)?;
            match reply["type"].as_str() {
                Some("message" | "presence" | "resync") => {}
                other => {
                    ensure!(other == Some(kind), "not {kind}: {reply}");
                    return Ok(reply);
                }
            }
        }
    }
}

struct Reader {
    began: Instant,
    replied: mpsc::UnboundedSender<Replied>,
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
        } else if frame.starts_with(r#"{"type":"ack""#) || frame.starts_with(r#"{"type":"pong""#) {
            let at = Instant::now();
            let number = after(frame, r#""ref":""#)?.split('"').next().context("no ref")?.parse()?;
            // Nobody listens any more once the round is over.
            let _ = self.replied.send(Replied { number, at });
        } else if frame.starts_with(r#"{"type":"error""#) {
            bail!("a send was refused: {frame}");
        }
        Ok(())
    }
}

fn after<'a>(frame: &'a str, mark: &str) -> Result<&'a str> {
    frame.split_once(mark).map(|(_, rest)| rest).with_context(|| format!("no {mark} in {frame}"))
}
