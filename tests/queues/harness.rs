//! A local AWS with queues, whose functions are in the test's hands.

use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use aws_sdk_sqs::Client;
use aws_sdk_sqs::config::retry::RetryConfig;
use aws_sdk_sqs::config::{Config, Credentials, Region};
use aws_sdk_sqs::types::{
    Message, MessageSystemAttributeName, QueueAttributeName, SendMessageBatchRequestEntry,
};
use serde_json::{Value, json};
use tempfile::TempDir;
use tests::fixture::{self, Call, Functions};
use tests::local_aws::{LocalAws, Setup};
use tests::test_app::eventually;

const FUNCTIONS: [&str; 4] = ["worker", "brief", "gatherer", "single"];

/// As long as SQS lets a receiver wait.
const LONG: i32 = 20;

pub(crate) struct Queues {
    pub(crate) aws: LocalAws,
    pub(crate) functions: Functions,
    pub(crate) client: Client,
    pub(crate) folder: TempDir,
}

/// How many messages of a queue are where.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) visible: usize,
    pub(crate) in_flight: usize,
    pub(crate) delayed: usize,
}

impl Queues {
    pub(crate) async fn start() -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("queues-test-").tempdir()?;
        Self::start_in(folder, Functions::listen().await?).await
    }

    /// Starts in a folder that another has used before.
    pub(crate) async fn start_in(folder: TempDir, functions: Functions) -> Result<Self> {
        let binaries = folder.path().join("functions");
        if !binaries.exists() {
            fixture::binaries(&binaries, &FUNCTIONS)?;
        }
        let template = folder.path().join("template.yaml");
        let text = Path::new(env!("CARGO_MANIFEST_DIR")).join("queues/template.yaml");
        let text = std::fs::read_to_string(text)?;
        let address = format!("Default: {}", functions.address());
        ensure!(text.contains("Default: nobody"), "the template does not ask for the fixture's address");
        std::fs::write(&template, text.replace("Default: nobody", &address))?;
        let state = folder.path().join("state");
        let aws = Setup::new(&template).functions(&binaries).state(state).start().await?;
        let client = client(&aws.endpoints.sqs);
        Ok(Self { aws, functions, client, folder })
    }

    /// Ends it in order and starts it again with what it has kept.
    pub(crate) async fn restart(self) -> Result<Self> {
        let Self { aws, functions, folder, .. } = self;
        let status = aws.stop().await?;
        ensure!(status.success(), "{status}");
        Self::start_in(folder, functions).await
    }

    /// Kills it and starts it again with what it has kept.
    pub(crate) async fn kill_and_restart(self) -> Result<Self> {
        let Self { aws, functions, folder, .. } = self;
        aws.kill().await?;
        Self::start_in(folder, functions).await
    }

    pub(crate) fn url(&self, queue: &str) -> String {
        format!("{}/000000000000/{queue}", self.aws.endpoints.sqs)
    }

    /// Sends a message and tells its id.
    pub(crate) async fn send(&self, queue: &str, body: &str) -> Result<String> {
        let sent = self.client.send_message().queue_url(self.url(queue)).message_body(body).send().await?;
        Ok(sent.message_id().context("a message has an id")?.to_owned())
    }

    /// Sends messages in one request, so that they are there at the same time, and tells their ids.
    pub(crate) async fn send_batch(&self, queue: &str, bodies: &[&str]) -> Result<Vec<String>> {
        let entries = bodies.iter().enumerate().map(|(n, body)| {
            SendMessageBatchRequestEntry::builder().id(n.to_string()).message_body(*body).build()
        });
        let entries = entries.collect::<Result<Vec<_>, _>>()?;
        let send = self.client.send_message_batch().queue_url(self.url(queue));
        let sent = send.set_entries(Some(entries)).send().await?;
        ensure!(sent.failed().is_empty(), "{sent:?}");
        Ok(sent.successful().iter().map(|entry| entry.message_id().to_owned()).collect())
    }

    /// The next messages of a queue with all their attributes, hidden for so many seconds; waits for the first.
    pub(crate) async fn receive(&self, queue: &str, hidden: i32) -> Result<Vec<Message>> {
        self.receive_within(queue, hidden, LONG).await
    }

    pub(crate) async fn receive_within(&self, queue: &str, hidden: i32, wait: i32) -> Result<Vec<Message>> {
        let received = self
            .client
            .receive_message()
            .queue_url(self.url(queue))
            .max_number_of_messages(10)
            .visibility_timeout(hidden)
            .wait_time_seconds(wait)
            .message_system_attribute_names(MessageSystemAttributeName::All)
            .send()
            .await?;
        Ok(received.messages.unwrap_or_default())
    }

    /// The one message that is in a queue.
    pub(crate) async fn receive_one(&self, queue: &str, hidden: i32) -> Result<Message> {
        let mut messages = self.receive(queue, hidden).await?;
        ensure!(messages.len() == 1, "{messages:?}");
        Ok(messages.remove(0))
    }

    pub(crate) async fn delete(&self, queue: &str, message: &Message) -> Result<()> {
        let handle = message.receipt_handle().context("it was received")?;
        self.client.delete_message().queue_url(self.url(queue)).receipt_handle(handle).send().await?;
        Ok(())
    }

    pub(crate) async fn counts(&self, queue: &str) -> Result<Counts> {
        let url = self.url(queue);
        let asked =
            self.client.get_queue_attributes().queue_url(url).attribute_names(QueueAttributeName::All);
        let attributes = asked.send().await?.attributes.context("a queue has attributes")?;
        let count = |name| -> Result<usize> { Ok(attributes.get(&name).context("it is counted")?.parse()?) };
        Ok(Counts {
            visible: count(QueueAttributeName::ApproximateNumberOfMessages)?,
            in_flight: count(QueueAttributeName::ApproximateNumberOfMessagesNotVisible)?,
            delayed: count(QueueAttributeName::ApproximateNumberOfMessagesDelayed)?,
        })
    }

    /// Waits until so many messages are where they should be.
    pub(crate) async fn counted(&self, queue: &str, expected: Counts) {
        eventually("the messages are where they should be", async || match self.counts(queue).await {
            Ok(counts) if counts == expected => Ok(()),
            other => Err(format!("{queue}: {other:?} and not {expected:?}")),
        })
        .await;
    }

    /// Waits until a queue has no message.
    pub(crate) async fn empty(&self, queue: &str) {
        self.counted(queue, Counts::default()).await;
    }

    /// The lines of the access log that are about queues.
    pub(crate) fn log_lines(&self) -> Vec<Value> {
        let log = self.aws.log();
        let lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        lines.filter(|line| line["api"] == "sqs").collect()
    }
}

fn client(url: &str) -> Client {
    let config = Config::builder()
        .behavior_version_latest()
        .region(Region::new("us-east-1"))
        .credentials_provider(Credentials::new("AKIATEST", "secret", None, None, "test"))
        .endpoint_url(url)
        // A refusal is a test's to see, not the client's to try again.
        .retry_config(RetryConfig::disabled())
        .build();
    Client::from_conf(config)
}

/// One system attribute of a message.
pub(crate) fn attribute(message: &Message, name: MessageSystemAttributeName) -> &str {
    let attributes = message.attributes().expect("all attributes were asked for");
    attributes.get(&name).map_or("", String::as_str)
}

/// How often a message was received.
pub(crate) fn receives(message: &Message) -> &str {
    attribute(message, MessageSystemAttributeName::ApproximateReceiveCount)
}

/// The records of a function's event.
pub(crate) fn records(call: &Call) -> &[Value] {
    call.event()["Records"].as_array().expect("an event of a queue has records")
}

/// The bodies of the messages in a function's event.
pub(crate) fn bodies(call: &Call) -> Vec<&str> {
    let mut bodies: Vec<&str> =
        records(call).iter().map(|record| record["body"].as_str().expect("a message has a body")).collect();
    // A standard queue promises no order.
    bodies.sort_unstable();
    bodies
}

/// What a function answers that could not do these messages.
pub(crate) fn failed(ids: &[&str]) -> Value {
    let failures: Vec<Value> = ids.iter().map(|id| json!({ "itemIdentifier": id })).collect();
    json!({ "batchItemFailures": failures })
}
