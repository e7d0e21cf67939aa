//! Event source mappings: receive for a function, call it, and delete what it has done.
//!
//! What a function has not done stays hidden until its visibility timeout ends, and is received again then: after an
//! error, a time-out, a throttled call, or when the function has named it in `batchItemFailures`.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Result;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use tokio::sync::Semaphore;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::attributes::attributes;
use super::md5_of;
use super::messages::{Message, Receipt, Want};
use super::queue::{Queue, milliseconds};
use crate::access_log::{Access, AccessLog, Api};
use crate::ids::REGION;
use crate::lambda::{InvokeError, Lambda, MAX_PAYLOAD_BYTES};
use crate::template::EventSource;

/// What all that is no record takes in an event.
const EVENT_FRAME_BYTES: usize = 64;

/// One event source mapping.
#[derive(Clone, Debug)]
pub(super) struct Poller {
    pub(super) source: EventSource,
    pub(super) queue: Arc<Queue>,
    pub(super) lambda: Lambda,
    pub(super) log: AccessLog,
    /// The most calls of the function at a time.
    pub(super) concurrency: usize,
}

impl Poller {
    /// Calls the function until `stop`, and returns when the last call has ended.
    pub(super) async fn run(self, stop: CancellationToken) -> Result<()> {
        let (free, calls) = (Arc::new(Semaphore::new(self.concurrency)), TaskTracker::new());
        while !stop.is_cancelled() {
            // Before receiving: what waits for a call would be hidden in vain.
            let place = tokio::select! {
                place = Arc::clone(&free).acquire_owned() => place?,
                () = stop.cancelled() => break,
            };
            let batch = self.collect(&stop).await?;
            if batch.is_empty() {
                continue;
            }
            if stop.is_cancelled() {
                self.queue.give_back(&batch).await?;
                break;
            }
            let poller = self.clone();
            calls.spawn(async move {
                poller.deliver(&batch).await;
                drop(place);
            });
        }
        calls.close();
        calls.wait().await;
        Ok(())
    }

    /// Waits for a first message, and then for others until the batch is full or its window ends.
    async fn collect(&self, stop: &CancellationToken) -> Result<Vec<Message>> {
        let mut want = Want {
            count: self.source.batch_size,
            event_bytes: MAX_PAYLOAD_BYTES - EVENT_FRAME_BYTES,
            hide_ms: milliseconds(self.queue.settings.visibility_timeout),
            max_receives: self.queue.settings.redrive.as_ref().map(|redrive| redrive.max_receive_count),
        };
        let mut batch = self.queue.receive(want, stop.cancelled()).await?;
        if batch.is_empty() || self.source.window == Duration::ZERO {
            return Ok(batch);
        }
        let end = Instant::now() + self.source.window;
        let mut more = batch.len();
        while more > 0 {
            let last = &batch[batch.len() - more..];
            want.count -= more;
            want.event_bytes -= last.iter().map(Message::event_bytes).sum::<usize>();
            if want.count == 0 {
                break;
            }
            let window = sleep(end.saturating_duration_since(Instant::now()));
            let ended = async {
                tokio::select! {
                    () = window => {}
                    () = stop.cancelled() => {}
                }
            };
            let messages = self.queue.receive(want, ended).await?;
            more = messages.len();
            batch.extend(messages);
        }
        Ok(batch)
    }

    /// Calls the function with a batch.
    async fn deliver(&self, batch: &[Message]) {
        let begin = Instant::now();
        let event = event(batch, &self.queue.arn());
        let (status, request_id, error, done) =
            match self.lambda.invoke(&self.source.function, event.into()).await {
                Ok(call) => match call.error_message() {
                    None if call.function_error.is_none() => {
                        let done = self.done(batch, &call.payload);
                        let left = batch.len() - done.len();
                        let error =
                            (left > 0).then(|| format!("{left} of {} messages come back", batch.len()));
                        (200, call.request_id, error, done)
                    }
                    message => (500, call.request_id, Some(message.unwrap_or_default()), Vec::new()),
                },
                Err(why) => {
                    let status = if matches!(why, InvokeError::Throttled) { 429 } else { 500 };
                    (status, "-".to_owned(), Some(why.to_string()), Vec::new())
                }
            };
        if self.queue.delete(&done).await.is_err() {
            // Its cause is in the log, and the messages come again.
            tracing::error!(queue = self.source.queue, "what was done cannot be deleted");
        }
        self.log.write(&Access {
            api: Api::Sqs,
            route: &format!("{} → {}", self.source.queue, self.source.function),
            status,
            duration: begin.elapsed(),
            request_id: &request_id,
            connection_id: None,
            function: Some(&self.source.function),
            source_ip: None,
            error: error.as_deref(),
        });
    }

    fn done(&self, batch: &[Message], answer: &[u8]) -> Vec<Receipt> {
        let failed =
            if self.source.reports_failures { failures(batch, answer) } else { Some(BTreeSet::new()) };
        let Some(failed) = failed else { return Vec::new() };
        let done = batch.iter().filter(|message| !failed.contains(&message.id.to_string()));
        done.map(Message::receipt).collect()
    }
}

/// The ids that a function says have failed; `None` if its answer is none of the kind, which counts as if all had.
fn failures(batch: &[Message], answer: &[u8]) -> Option<BTreeSet<String>> {
    #[derive(Default, Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Answer {
        #[serde(default)]
        batch_item_failures: Option<Vec<Failure>>,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Failure {
        item_identifier: String,
    }
    let answer: Option<Answer> = serde_json::from_slice(answer).ok()?;
    let failures = answer.unwrap_or_default().batch_item_failures.unwrap_or_default();
    let ids: BTreeSet<String> = failures.into_iter().map(|failure| failure.item_identifier).collect();
    let known: BTreeSet<String> = batch.iter().map(|message| message.id.to_string()).collect();
    ids.is_subset(&known).then_some(ids)
}

/// The event of a batch, as Lambda makes it.
fn event(batch: &[Message], queue_arn: &str) -> Vec<u8> {
    #[derive(Serialize)]
    #[serde(rename_all = "PascalCase")]
    struct Event<'a> {
        records: Vec<Record<'a>>,
    }
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Record<'a> {
        message_id: String,
        receipt_handle: String,
        body: &'a str,
        attributes: Map<String, Value>,
        message_attributes: Map<String, Value>,
        md5_of_body: String,
        event_source: &'static str,
        #[serde(rename = "eventSourceARN")]
        event_source_arn: &'a str,
        aws_region: &'static str,
    }
    let records = batch.iter().map(|message| Record {
        message_id: message.id.to_string(),
        receipt_handle: message.receipt().handle(),
        body: &message.body,
        attributes: attributes(message),
        message_attributes: Map::new(),
        md5_of_body: md5_of(&message.body),
        event_source: "aws:sqs",
        event_source_arn: queue_arn,
        aws_region: REGION,
    });
    serde_json::to_vec(&Event { records: records.collect() }).expect("an event is JSON")
}

#[cfg(test)]
mod tests {
    use aws_lambda_events::sqs::SqsEvent;
    use serde_json::json;
    use uuid::Uuid;

    use super::*;
    use crate::sqs::messages::Delivery;

    fn message(body: &str) -> Message {
        let delivery =
            Delivery { visible_ms: 30_000, receives: 2, first_received_ms: Some(1_520_621_634_884) };
        let id = Uuid::new_v4();
        Message { number: 7, id, body: body.into(), sent_ms: 1_520_621_625_029, source: None, delivery }
    }

    #[track_caller]
    fn check(answer: &Value, expected: Option<&[&Message]>, batch: &[Message]) {
        let expected = expected.map(|failed| failed.iter().map(|message| message.id.to_string()).collect());
        assert_eq!(failures(batch, answer.to_string().as_bytes()), expected, "{answer}");
    }

    #[test]
    fn a_function_says_which_messages_have_failed_and_what_it_says_otherwise_means_all() {
        let batch = [message("a"), message("b")];
        let failed = |id: Value| json!({"batchItemFailures": [{"itemIdentifier": id}]});
        check(&failed(batch[1].id.to_string().into()), Some(&[&batch[1]]), &batch);
        for nothing in
            [json!(null), json!({}), json!({"batchItemFailures": []}), json!({"batchItemFailures": null})]
        {
            check(&nothing, Some(&[]), &batch);
        }
        for bad in [
            failed("".into()),
            failed(Value::Null),
            failed("nobody".into()),
            json!({"batchItemFailures": [{"messageId": batch[0].id}]}),
            json!({"batchItemFailures": "all"}),
            json!("done"),
        ] {
            check(&bad, None, &batch);
        }
        assert_eq!(failures(&batch, b"{"), None);
    }

    #[test]
    fn an_event_is_read_by_lambdas_own_types() {
        let message = message("{\"a\": \"\u{e4}\"}");
        let event = event(std::slice::from_ref(&message), "arn:aws:sqs:us-east-1:000000000000:archive");
        let read: SqsEvent = serde_json::from_slice(&event).expect("an event");
        let record = &read.records[0];
        assert_eq!(record.body.as_deref(), Some(&*message.body));
        assert_eq!(record.message_id, Some(message.id.to_string()));
        assert_eq!(record.receipt_handle, Some(message.receipt().handle()));
        assert_eq!(record.attributes["ApproximateReceiveCount"], "2");
        assert_eq!(record.attributes["SentTimestamp"], "1520621625029");
        assert_eq!(record.attributes["ApproximateFirstReceiveTimestamp"], "1520621634884");
        assert_eq!(record.event_source.as_deref(), Some("aws:sqs"));
        assert_eq!(record.event_source_arn.as_deref(), Some("arn:aws:sqs:us-east-1:000000000000:archive"));
        assert_eq!(record.aws_region.as_deref(), Some(REGION));
        assert_eq!(record.md5_of_body, Some(md5_of(&message.body)));
    }

    #[test]
    fn the_size_of_a_message_in_an_event_is_never_more_than_was_counted() {
        for body in ["a", "\"\\\n\r\t", "\u{1f600}\u{7f}\u{2028}", &"\"".repeat(10_000)] {
            let message = message(body);
            let size = event(std::slice::from_ref(&message), &"a".repeat(120)).len();
            assert!(size <= message.event_bytes() + EVENT_FRAME_BYTES, "{size} {body:.20}");
        }
    }
}
