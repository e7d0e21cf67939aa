//! The actions of SQS, in the JSON protocol of its SDKs: `X-Amz-Target: AmazonSQS.<action>`.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use serde::de::{DeserializeOwned, IgnoredAny};
use serde_json::{Map, Value, json};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::attributes::attributes;
use super::md5_of;
use super::messages::{Message, NotHidden, Receipt, Want};
use super::queue::{New, Queue, milliseconds};
use super::refusal::Refusal;
use super::{MAX_BATCH_BYTES, Queues};
use crate::template::{self, Redrive};

/// The most entries of a batch, and the most messages of one answer.
const MAX_ENTRIES: usize = 10;

const MAX_DELAY_SECONDS: i64 = 900;
const MAX_VISIBILITY_SECONDS: i64 = 12 * 60 * 60;
const MAX_WAIT_SECONDS: i64 = 20;

/// What an action does to a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    SendMessage,
    SendMessageBatch,
    ReceiveMessage,
    DeleteMessage,
    DeleteMessageBatch,
    ChangeMessageVisibility,
    ChangeMessageVisibilityBatch,
    GetQueueUrl,
    GetQueueAttributes,
    PurgeQueue,
}

impl Action {
    const ALL: [(&str, Self); 10] = [
        ("SendMessage", Self::SendMessage),
        ("SendMessageBatch", Self::SendMessageBatch),
        ("ReceiveMessage", Self::ReceiveMessage),
        ("DeleteMessage", Self::DeleteMessage),
        ("DeleteMessageBatch", Self::DeleteMessageBatch),
        ("ChangeMessageVisibility", Self::ChangeMessageVisibility),
        ("ChangeMessageVisibilityBatch", Self::ChangeMessageVisibilityBatch),
        ("GetQueueUrl", Self::GetQueueUrl),
        ("GetQueueAttributes", Self::GetQueueAttributes),
        ("PurgeQueue", Self::PurgeQueue),
    ];

    /// The action that a request names in its header, and its name.
    pub(super) fn of(target: &str) -> Option<(&'static str, Self)> {
        let wanted = target.strip_prefix("AmazonSQS.")?;
        Self::ALL.into_iter().find(|(name, _)| *name == wanted)
    }
}

/// What every action says of its queue.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Addressed {
    queue_url: Option<String>,
    queue_name: Option<String>,
}

/// The queue that a request is for.
pub(super) fn queue_of(queues: &Queues, action: Action, body: &[u8]) -> Result<Arc<Queue>, Refusal> {
    let Addressed { queue_url, queue_name } = read(body)?;
    let name = if action == Action::GetQueueUrl {
        queue_name.ok_or(Refusal::MissingParameter("QueueName"))?
    } else {
        let url = queue_url.ok_or(Refusal::MissingParameter("QueueUrl"))?;
        url.rsplit('/').next().unwrap_or_default().to_owned()
    };
    queues.get(&name).cloned().ok_or(Refusal::NoSuchQueue)
}

/// Does what a request asks for. A receiver waits until `stop` at most.
pub(super) async fn act(
    queue: &Arc<Queue>,
    action: Action,
    body: &[u8],
    base: &str,
    stop: &CancellationToken,
) -> Result<Value, Refusal> {
    match action {
        Action::SendMessage => send(queue, read(body)?).await,
        Action::SendMessageBatch => send_batch(queue, read::<Batch<Send>>(body)?).await,
        Action::ReceiveMessage => receive(queue, read(body)?, stop).await,
        Action::DeleteMessage => delete(queue, read(body)?).await.map(|()| json!({})),
        Action::DeleteMessageBatch => delete_batch(queue, read::<Batch<Delete>>(body)?).await,
        Action::ChangeMessageVisibility => change(queue, read(body)?).await.map(|()| json!({})),
        Action::ChangeMessageVisibilityBatch => change_batch(queue, read::<Batch<Change>>(body)?).await,
        Action::GetQueueUrl => {
            Ok(json!({"QueueUrl": crate::local_values::queue_url(base, &queue.settings.name)}))
        }
        Action::GetQueueAttributes => queue_attributes(queue, read(body)?),
        Action::PurgeQueue => {
            queue.purge().await?;
            Ok(json!({}))
        }
    }
}

fn read<T: DeserializeOwned>(body: &[u8]) -> Result<T, Refusal> {
    serde_json::from_slice(body).map_err(|why| Refusal::Unreadable(why.to_string()))
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Batch<T> {
    #[serde(default = "Vec::new")]
    entries: Vec<Entry<T>>,
}

#[derive(Deserialize)]
struct Entry<T> {
    #[serde(rename = "Id")]
    id: String,
    #[serde(flatten)]
    request: T,
}

impl<T> Batch<T> {
    /// The entries, if there are not too many and each has an id of its own.
    fn entries(self) -> Result<Vec<Entry<T>>, Refusal> {
        if self.entries.is_empty() {
            return Err(Refusal::EmptyBatch);
        }
        if self.entries.len() > MAX_ENTRIES {
            return Err(Refusal::TooManyEntries(self.entries.len()));
        }
        let mut ids = BTreeSet::new();
        for Entry { id, .. } in &self.entries {
            let valid = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
            if !(1..=80).contains(&id.len()) || !id.chars().all(valid) {
                return Err(Refusal::InvalidEntryId);
            }
            if !ids.insert(id.as_str()) {
                return Err(Refusal::EntryIdsNotDistinct(id.clone()));
            }
        }
        Ok(self.entries)
    }
}

#[derive(Default)]
struct Results {
    successful: Vec<Value>,
    failed: Vec<Value>,
}

impl Results {
    fn fail(&mut self, id: &str, refusal: &Refusal) {
        self.failed.push(json!({
            "Id": id,
            "SenderFault": refusal.is_senders(),
            "Code": refusal.code(),
            "Message": refusal.to_string(),
        }));
    }

    fn add(&mut self, id: &str, outcome: Result<(), Refusal>) {
        match outcome {
            Ok(()) => self.successful.push(json!({ "Id": id })),
            Err(refusal) => self.fail(id, &refusal),
        }
    }

    fn answer(self) -> Value {
        json!({"Successful": self.successful, "Failed": self.failed})
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Send {
    message_body: Option<String>,
    delay_seconds: Option<i64>,
    #[serde(default)]
    message_attributes: Option<Map<String, Value>>,
    #[serde(default)]
    message_system_attributes: Option<Map<String, Value>>,
    #[serde(default)]
    message_group_id: Option<IgnoredAny>,
    #[serde(default)]
    message_deduplication_id: Option<IgnoredAny>,
}

impl Send {
    fn checked(self, settings: &template::Queue) -> Result<New, Refusal> {
        let used =
            |attributes: &Option<Map<String, Value>>| attributes.as_ref().is_some_and(|map| !map.is_empty());
        // Refused rather than dropped without a word.
        if used(&self.message_attributes) || used(&self.message_system_attributes) {
            return Err(Refusal::Unsupported("message attributes"));
        }
        if self.message_group_id.is_some() || self.message_deduplication_id.is_some() {
            return Err(Refusal::Unsupported("message groups"));
        }
        let body = self.message_body.filter(|body| !body.is_empty());
        let body = body.ok_or(Refusal::MissingParameter("MessageBody"))?;
        if body.len() > settings.max_message_bytes {
            return Err(Refusal::TooLong(settings.max_message_bytes));
        }
        if !body.chars().all(is_allowed) {
            return Err(Refusal::InvalidContents);
        }
        let delay = self.delay_seconds.map(|seconds| within("DelaySeconds", seconds, MAX_DELAY_SECONDS));
        Ok(New { id: Uuid::new_v4(), body: body.into(), delay: delay.transpose()? })
    }
}

/// Whether a message may have this character: those of XML 1.0.
fn is_allowed(c: char) -> bool {
    matches!(c, '\t' | '\n' | '\r' | ' '..='\u{d7ff}' | '\u{e000}'..='\u{fffd}' | '\u{10000}'..)
}

fn within(name: &'static str, seconds: i64, most: i64) -> Result<Duration, Refusal> {
    let valid = u64::try_from(seconds).ok().filter(|_| seconds <= most);
    valid.map(Duration::from_secs).ok_or_else(|| {
        Refusal::InvalidParameter(name, seconds.to_string(), format!("Must be >= 0 and <= {most}."))
    })
}

/// What the sender of a message is told.
fn sent(new: &New) -> Value {
    json!({"MessageId": new.id, "MD5OfMessageBody": md5_of(&new.body)})
}

async fn send(queue: &Queue, request: Send) -> Result<Value, Refusal> {
    let new = request.checked(&queue.settings)?;
    let answer = sent(&new);
    queue.send(vec![new]).await?;
    Ok(answer)
}

async fn send_batch(queue: &Queue, batch: Batch<Send>) -> Result<Value, Refusal> {
    let entries = batch.entries()?;
    let bodies = entries.iter().filter_map(|entry| entry.request.message_body.as_ref());
    let length = bodies.map(String::len).sum();
    if length > MAX_BATCH_BYTES {
        return Err(Refusal::BatchTooLong { limit: MAX_BATCH_BYTES, length });
    }
    let (mut results, mut messages) = (Results::default(), Vec::new());
    for Entry { id, request } in entries {
        match request.checked(&queue.settings) {
            Ok(new) => {
                let mut sent = sent(&new);
                sent["Id"] = id.into();
                results.successful.push(sent);
                messages.push(new);
            }
            Err(refusal) => results.fail(&id, &refusal),
        }
    }
    queue.send(messages).await?;
    Ok(results.answer())
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Receive {
    max_number_of_messages: Option<i64>,
    visibility_timeout: Option<i64>,
    wait_time_seconds: Option<i64>,
    #[serde(default)]
    attribute_names: Option<Vec<String>>,
    #[serde(default)]
    message_system_attribute_names: Option<Vec<String>>,
}

async fn receive(queue: &Arc<Queue>, request: Receive, stop: &CancellationToken) -> Result<Value, Refusal> {
    let settings = &queue.settings;
    let wanted = request.max_number_of_messages.unwrap_or(1);
    let count = usize::try_from(wanted).ok().filter(|count| (1..=MAX_ENTRIES).contains(count));
    let count = count.ok_or_else(|| {
        let why = format!("Must be between 1 and {MAX_ENTRIES}, if provided.");
        Refusal::InvalidParameter("MaxNumberOfMessages", wanted.to_string(), why)
    })?;
    let hide = request.visibility_timeout;
    let hide =
        hide.map(|seconds| within("VisibilityTimeout", seconds, MAX_VISIBILITY_SECONDS)).transpose()?;
    let wait = request.wait_time_seconds;
    let wait = wait.map(|seconds| within("WaitTimeSeconds", seconds, MAX_WAIT_SECONDS)).transpose()?;
    let want = Want {
        count,
        // A limit of events, not of answers.
        event_bytes: usize::MAX,
        hide_ms: milliseconds(hide.unwrap_or(settings.visibility_timeout)),
        max_receives: settings.redrive.as_ref().map(|redrive| redrive.max_receive_count),
    };
    let waited = sleep(wait.unwrap_or(settings.receive_wait));
    let ended = async {
        tokio::select! {
            () = waited => {}
            () = stop.cancelled() => {}
        }
    };
    let messages = queue.receive(want, ended).await?;
    let names = [request.attribute_names, request.message_system_attribute_names];
    let names: BTreeSet<String> = names.into_iter().flatten().flatten().collect();
    let messages: Vec<Value> = messages.iter().map(|message| received(message, &names)).collect();
    Ok(if messages.is_empty() { json!({}) } else { json!({ "Messages": messages }) })
}

fn received(message: &Message, names: &BTreeSet<String>) -> Value {
    let mut received = json!({
        "MessageId": message.id,
        "ReceiptHandle": message.receipt().handle(),
        "Body": &*message.body,
        "MD5OfBody": md5_of(&message.body),
    });
    let mut attributes = attributes(message);
    attributes.retain(|name, _| names.contains("All") || names.contains(name));
    if !attributes.is_empty() {
        received["Attributes"] = attributes.into();
    }
    received
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Delete {
    receipt_handle: Option<String>,
}

fn receipt(handle: Option<String>) -> Result<Receipt, Refusal> {
    let handle = handle.ok_or(Refusal::MissingParameter("ReceiptHandle"))?;
    Receipt::parse(&handle).ok_or(Refusal::InvalidReceipt(handle))
}

async fn delete(queue: &Queue, request: Delete) -> Result<(), Refusal> {
    Ok(queue.delete(&[receipt(request.receipt_handle)?]).await?)
}

async fn delete_batch(queue: &Queue, batch: Batch<Delete>) -> Result<Value, Refusal> {
    let mut results = Results::default();
    for Entry { id, request } in batch.entries()? {
        results.add(&id, delete(queue, request).await);
    }
    Ok(results.answer())
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Change {
    receipt_handle: Option<String>,
    visibility_timeout: Option<i64>,
}

async fn change(queue: &Queue, request: Change) -> Result<(), Refusal> {
    let handle = request.receipt_handle.clone().unwrap_or_default();
    let receipt = receipt(request.receipt_handle)?;
    let seconds = request.visibility_timeout.ok_or(Refusal::MissingParameter("VisibilityTimeout"))?;
    let time = within("VisibilityTimeout", seconds, MAX_VISIBILITY_SECONDS)?;
    queue.hide(&receipt, time).await?.map_err(|why| match why {
        NotHidden::Visible => Refusal::NotInFlight,
        NotHidden::Gone => {
            let why = "Message does not exist or is not available for visibility timeout change.";
            Refusal::InvalidParameter("ReceiptHandle", handle, why.to_owned())
        }
    })
}

async fn change_batch(queue: &Queue, batch: Batch<Change>) -> Result<Value, Refusal> {
    let mut results = Results::default();
    for Entry { id, request } in batch.entries()? {
        results.add(&id, change(queue, request).await);
    }
    Ok(results.answer())
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct GetAttributes {
    #[serde(default)]
    attribute_names: Option<Vec<String>>,
}

fn queue_attributes(queue: &Queue, request: GetAttributes) -> Result<Value, Refusal> {
    let (settings, counts) = (&queue.settings, queue.counts());
    let seconds = |time: Duration| time.as_secs().to_string();
    let mut all = vec![
        ("ApproximateNumberOfMessages", counts.visible.to_string()),
        ("ApproximateNumberOfMessagesDelayed", counts.delayed.to_string()),
        ("ApproximateNumberOfMessagesNotVisible", counts.in_flight.to_string()),
        ("DelaySeconds", seconds(settings.delay)),
        ("MaximumMessageSize", settings.max_message_bytes.to_string()),
        ("MessageRetentionPeriod", seconds(settings.retention)),
        ("QueueArn", queue.arn()),
        ("ReceiveMessageWaitTimeSeconds", seconds(settings.receive_wait)),
        ("VisibilityTimeout", seconds(settings.visibility_timeout)),
    ];
    if let Some(Redrive { queue, max_receive_count }) = &settings.redrive {
        let target = crate::local_values::queue_arn(queue);
        let policy = json!({"deadLetterTargetArn": target, "maxReceiveCount": max_receive_count});
        all.push(("RedrivePolicy", policy.to_string()));
    }
    let names = request.attribute_names.unwrap_or_default();
    let everything = names.iter().any(|name| name == "All");
    let known =
        |name: &str| matches!(name, "All" | "RedrivePolicy") || all.iter().any(|(known, _)| *known == name);
    if let Some(unknown) = names.iter().find(|name| !known(name)) {
        return Err(Refusal::InvalidAttributeName(unknown.clone()));
    }
    all.retain(|(known, _)| everything || names.iter().any(|name| name == known));
    let attributes: Map<String, Value> =
        all.into_iter().map(|(name, value)| (name.to_owned(), value.into())).collect();
    Ok(if attributes.is_empty() { json!({}) } else { json!({ "Attributes": attributes }) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_may_have_the_characters_of_xml_and_no_others() {
        for good in [
            '\t',
            '\n',
            '\r',
            ' ',
            '~',
            '\u{7f}',
            '\u{d7ff}',
            '\u{e000}',
            '\u{fffd}',
            '\u{1f600}',
            '\u{1ffff}',
        ] {
            assert!(is_allowed(good), "{good:?}");
        }
        for bad in ['\0', '\u{8}', '\u{b}', '\u{1f}', '\u{fffe}', '\u{ffff}'] {
            assert!(!is_allowed(bad), "{bad:?}");
        }
    }

    #[test]
    fn an_action_is_known_by_its_target() {
        let (name, action) = Action::of("AmazonSQS.SendMessageBatch").expect("known");
        assert_eq!((name, action), ("SendMessageBatch", Action::SendMessageBatch));
        assert_eq!(Action::of("AmazonSQS.CreateQueue"), None);
        assert_eq!(Action::of("SendMessage"), None);
    }
}
