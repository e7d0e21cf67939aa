//! A queue that answers at once, in the place of the one behind `message`; and what is asked of the real one.

use std::{
    fs,
    os::unix::fs::{PermissionsExt as _, symlink},
    path::Path,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use aws_sdk_sqs::{
    Client,
    config::{Config, Credentials, Region},
    types::{QueueAttributeName, SendMessageBatchRequestEntry},
};
use futures::{TryStreamExt as _, stream};
use serde_json::Value;
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};

use super::Stack;
use crate::local_aws::workspace_dir;

/// The queue of `template.yaml`, as the local AWS calls one to which the template gives no name.
const ARCHIVE_QUEUE: &str = "local-ArchiveQueue";
/// How many requests are under way at once when the real queue is filled.
const WIDTH: usize = 16;
/// How often is looked whether the real queue is empty.
const GLANCE: Duration = Duration::from_millis(20);

/// An SQS that says of every message that it has it. It keeps them in memory, for whoever takes them.
pub(super) struct InstantQueue {
    state: Arc<State>,
    url: String,
    serving: JoinHandle<()>,
}

#[derive(Default)]
struct State {
    delay_ms: AtomicU64,
    bodies: Mutex<Vec<String>>,
}

impl InstantQueue {
    /// Starts one.
    pub(super) async fn start() -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let url = format!("http://{}", listener.local_addr()?);
        let state = Arc::new(State::default());
        let shared = Arc::clone(&state);
        let serving = tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let state = Arc::clone(&shared);
                // A function that ends leaves its connection in the middle, and that is no matter.
                tokio::spawn(async move { serve(socket, &state).await });
            }
        });
        Ok(Self { state, url, serving })
    }

    /// From now on it takes so long to answer.
    pub(super) fn answer_after(&self, delay: Duration) {
        self.state.delay_ms.store(u64::try_from(delay.as_millis()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// Takes the bodies of all messages so far.
    pub(super) fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.state.bodies.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// A folder with the functions' binaries in which `message` knows this queue and no other. The binary itself is the
    /// same; what starts it says where SQS is.
    pub(super) fn functions(&self, binaries: &Path) -> Result<TempDir> {
        let folder = tempfile::Builder::new().prefix("bench-functions-").tempdir()?;
        for entry in fs::read_dir(workspace_dir().join("functions"))? {
            let name = entry?.file_name();
            let binary = fs::canonicalize(binaries.join(&name))
                .with_context(|| format!("{} was not built", name.to_string_lossy()))?;
            let place = folder.path().join(&name);
            if name == "message" {
                let (url, binary) = (&self.url, binary.display());
                fs::write(
                    &place,
                    format!("#!/bin/sh\nexport AWS_ENDPOINT_URL_SQS='{url}'\nexec '{binary}'\n"),
                )?;
                fs::set_permissions(&place, fs::Permissions::from_mode(0o755))?;
            } else {
                symlink(binary, place)?;
            }
        }
        Ok(folder)
    }
}

impl Drop for InstantQueue {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

/// Just enough HTTP for the SDK, so that next to nothing is measured of it.
async fn serve(socket: TcpStream, state: &State) -> Result<()> {
    socket.set_nodelay(true)?;
    let mut socket = BufReader::new(socket);
    let (mut head, mut body) = (String::new(), Vec::new());
    loop {
        head.clear();
        while !head.ends_with("\r\n\r\n") {
            ensure!(0 < socket.read_line(&mut head).await?, "the connection has ended");
        }
        let header = |name: &str| {
            let mut lines = head.lines().filter_map(|line| line.split_once(": "));
            lines.find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value)
        };
        body.resize(header("content-length").context("no length")?.parse()?, 0);
        let is_send = header("x-amz-target") == Some("AmazonSQS.SendMessage");
        socket.read_exact(&mut body).await?;
        let (status, answer) = if is_send {
            let request: Value = serde_json::from_slice(&body)?;
            let message = request["MessageBody"].as_str().context("no body")?.to_owned();
            state.bodies.lock().unwrap_or_else(PoisonError::into_inner).push(message);
            ("200 OK", r#"{"MessageId":"00000000-0000-0000-0000-000000000000"}"#)
        } else {
            ("400 Bad Request", r#"{"__type":"com.amazonaws.sqs#UnsupportedOperation"}"#)
        };
        let delay_ms = state.delay_ms.load(Ordering::Relaxed);
        if 0 < delay_ms {
            tokio::time::sleep(Duration::from_millis(delay_ms)).await;
        }
        let length = answer.len();
        let answer = format!(
            "HTTP/1.1 {status}\r\ncontent-type: application/x-amz-json-1.0\r\ncontent-length: {length}\r\n\r\n{answer}"
        );
        socket.write_all(answer.as_bytes()).await?;
    }
}

/// The archive queue of a stack.
pub(super) struct ArchiveQueue {
    client: Client,
    url: String,
}

impl ArchiveQueue {
    /// The one of this stack.
    pub(super) fn of(stack: &Stack) -> Self {
        let sqs = &stack.aws.endpoints.sqs;
        let config = Config::builder()
            .behavior_version_latest()
            .region(Region::new("us-east-1"))
            .credentials_provider(Credentials::new("AKIABENCH", "secret", None, None, "bench"))
            .endpoint_url(sqs)
            .build();
        Self { client: Client::from_conf(config), url: format!("{sqs}/000000000000/{ARCHIVE_QUEUE}") }
    }

    /// Puts messages into it, as fast as it takes them.
    pub(super) async fn fill(&self, bodies: &[String]) -> Result<()> {
        // What SQS takes in one request.
        let batches = stream::iter(bodies.chunks(10).map(Ok));
        batches.try_for_each_concurrent(WIDTH, |batch| self.send(batch)).await
    }

    async fn send(&self, bodies: &[String]) -> Result<()> {
        let entries = bodies.iter().enumerate().map(|(number, body)| {
            let entry = SendMessageBatchRequestEntry::builder().id(number.to_string()).message_body(body);
            entry.build().expect("it has an id and a body")
        });
        let request = self.client.send_message_batch().queue_url(&self.url);
        let answer = request.set_entries(Some(entries.collect())).send().await?;
        ensure!(answer.failed.is_empty(), "the queue refused: {:?}", answer.failed);
        Ok(())
    }

    /// Waits until it is empty: every call for what was in it has ended well.
    pub(super) async fn until_empty(&self) -> Result<()> {
        while 0 < self.length().await? {
            tokio::time::sleep(GLANCE).await;
        }
        Ok(())
    }

    async fn length(&self) -> Result<u64> {
        let names = [
            QueueAttributeName::ApproximateNumberOfMessages,
            QueueAttributeName::ApproximateNumberOfMessagesNotVisible,
        ];
        let request = self.client.get_queue_attributes().queue_url(&self.url);
        let answer = request.set_attribute_names(Some(names.to_vec())).send().await?;
        let counts = answer.attributes.unwrap_or_default();
        counts.values().map(|count| Ok(count.parse::<u64>()?)).sum()
    }
}

/// How long calls took that reached the local AWS, by what its access log says of them.
pub(super) fn calls(stack: &Stack, route: &str) -> Vec<Duration> {
    let log = stack.aws.log();
    let lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let of_route = lines.filter(|line| line["api"] == "sqs" && line["route"] == route);
    of_route
        .filter_map(|line| Some(Duration::from_secs_f64(line["duration_ms"].as_f64()? / 1_000.0)))
        .collect()
}

/// The route of the calls that fill the archive queue.
pub(super) fn route_of_sends() -> String {
    format!("SendMessage {ARCHIVE_QUEUE}")
}

/// The route of the calls that empty it.
pub(super) fn route_of_archive() -> String {
    format!("{ARCHIVE_QUEUE} → archive")
}
