//! Functions that are called for the messages of a queue.

use std::{cell::Cell, panic::AssertUnwindSafe};

use aws_lambda_events::sqs::{BatchItemFailure, SqsBatchResponse, SqsEvent, SqsMessage};
use futures::FutureExt;
use lambda_runtime::{LambdaEvent, service_fn};

use crate::{
    Fatal,
    access::{Access, log_failure, panic_text},
};

/// What a call of such a function is made for, in whatever order.
pub type Batch = Vec<Record>;

/// A message that was received.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Its id, the same however often it comes.
    pub id: String,
    /// What was sent.
    pub body: String,
    /// What this one receipt is known by; the next time it is another.
    pub receipt: String,
    /// How often it was received, this time included; SQS calls it approximate.
    pub receives: u32,
}

/// The messages that come again: those that are not named are done, and deleted.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Failures(Vec<String>);

impl Failures {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether all is done.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl<'a> FromIterator<&'a Record> for Failures {
    fn from_iter<I: IntoIterator<Item = &'a Record>>(records: I) -> Self {
        Self(records.into_iter().map(|record| record.id.clone()).collect())
    }
}

/// Serves a queue until the process ends. `handle` may add to the access line what it learns of the call. If it panics, the
/// whole batch comes again.
///
/// # Errors
/// The Runtime API is gone.
pub async fn run(
    function: &'static str,
    handle: impl AsyncFn(Batch, &mut Access) -> Failures,
) -> Result<(), Fatal> {
    let cold_start = Cell::new(true);
    lambda_runtime::run(service_fn(async |event: LambdaEvent<SqsEvent>| {
        let LambdaEvent { payload, context } = event;
        serve(function, &handle, payload, &context.request_id, cold_start.replace(false)).await
    }))
    .await
}

async fn serve(
    function: &'static str,
    handle: &impl AsyncFn(Batch, &mut Access) -> Failures,
    event: SqsEvent,
    request_id: &str,
    cold_start: bool,
) -> Result<SqsBatchResponse, Fatal> {
    let mut access = Access::begin(function, request_id, "sqs", cold_start);
    let batch: Batch = event.records.into_iter().map(record).collect();
    let count = batch.len();
    access.records = Some(count);
    // In a box: the types of futures nest deeply, and the compiler gives up on laying them out in one piece.
    let outcome = AssertUnwindSafe(handle(batch, &mut access).boxed_local()).catch_unwind().await;
    match outcome {
        Ok(failures) => {
            access.failed = Some(failures.len());
            access.end(Some(200), (!failures.is_empty()).then_some("incomplete"));
            Ok(response(failures))
        }
        Err(panic) => {
            log_failure(request_id, function, "internal", &format_args!("panic: {}", panic_text(&*panic)));
            access.failed = Some(count);
            access.end(Some(500), Some("internal"));
            // An answer would be taken to name what has failed; an error is taken for all, and counted as one.
            Err("internal".into())
        }
    }
}

/// What SQS leaves out is nothing that it ever leaves out: such a record is unreadable, and comes again.
fn record(message: SqsMessage) -> Record {
    let number = |name: &str| message.attributes.get(name).and_then(|value| value.parse::<u64>().ok());
    let receives = number("ApproximateReceiveCount").unwrap_or(1);
    Record {
        id: message.message_id.unwrap_or_default(),
        body: message.body.unwrap_or_default(),
        receipt: message.receipt_handle.unwrap_or_default(),
        receives: u32::try_from(receives).unwrap_or(u32::MAX),
    }
}

fn response(failures: Failures) -> SqsBatchResponse {
    let failure = |id| {
        let mut failure = BatchItemFailure::default();
        failure.item_identifier = id;
        failure
    };
    let mut response = SqsBatchResponse::default();
    response.batch_item_failures = failures.0.into_iter().map(failure).collect();
    response
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn event() -> SqsEvent {
        let message = |id: &str, receives: &str| {
            json!({
                "messageId": id, "receiptHandle": format!("receipt of {id}"), "body": format!("body of {id}"),
                "attributes": {"ApproximateReceiveCount": receives, "SentTimestamp": "1520621625029"},
                "messageAttributes": {}, "eventSource": "aws:sqs",
            })
        };
        let event = json!({"Records": [message("a", "1"), message("b", "7")]});
        serde_json::from_value(event).expect("is an event")
    }

    async fn answer(handle: impl AsyncFn(Batch, &mut Access) -> Failures) -> Result<Value, String> {
        let answer = serve("test", &handle, event(), "r", false).await.map_err(|error| error.to_string())?;
        Ok(serde_json::to_value(answer).expect("serialises"))
    }

    #[tokio::test]
    async fn a_function_gets_all_that_sqs_tells_of_a_message() {
        let handle = async |batch: Batch, _: &mut Access| {
            let expected = |id: &str, receives| Record {
                id: id.to_owned(),
                body: format!("body of {id}"),
                receipt: format!("receipt of {id}"),
                receives,
            };
            assert_eq!(batch, [expected("a", 1), expected("b", 7)]);
            Failures::default()
        };
        assert_eq!(answer(handle).await, Ok(json!({"batchItemFailures": []})));
    }

    #[tokio::test]
    async fn only_what_failed_comes_again() {
        let handle = async |batch: Batch, _: &mut Access| batch.iter().skip(1).collect();
        let named = json!({"batchItemFailures": [{"itemIdentifier": "b"}]});
        assert_eq!(answer(handle).await, Ok(named));
    }

    #[tokio::test]
    async fn after_a_panic_the_whole_batch_comes_again() {
        assert_eq!(answer(async |_, _| panic!("on purpose")).await, Err("internal".to_owned()));
    }
}
