//! The queues in SQS: events on their way to Postgres, and frames on their way to many.
//!
//! Where SQS is, and with which credentials, the SDK reads from the environment by itself. It has no time limits of its
//! own, and its retries know no budget: both are ours.

use std::{collections::BTreeSet, time::Duration};

use aws_sdk_sqs::{
    Client,
    config::{retry::RetryConfig, timeout::TimeoutConfig},
    error::SdkError,
    types::{ChangeMessageVisibilityBatchRequestEntry, SendMessageBatchRequestEntry},
};
use futures::{StreamExt, stream};
use tokio::time::Instant;

use crate::{
    configuration::{ArchiveQueueSection, DeadLetterSection, FanoutSection},
    error::{Error, Result},
    protocol::queue::{ArchiveRecord, FanoutSlice},
    retry::{Backoff, chain, delay, fraction, passes},
};

/// SQS answers within some 20 ms; one try that hangs must leave time for another.
const ATTEMPT_TIMEOUT: Duration = Duration::from_millis(1_000);
/// The first pause before a retry; each further one may be twice as long, up to the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(30);
const LONGEST_PAUSE: Duration = Duration::from_millis(480);

/// For so long one message is offered to a queue that refuses it: then the sender of an event is told to repeat, which it
/// does anyway.
const SEND_BUDGET: Duration = Duration::from_millis(3_000);
/// For so long pushes may be offered to a queue that refuses them: clients notice by themselves what is missing.
const FANOUT_BUDGET: Duration = Duration::from_millis(1_000);
/// For so long `archive` tries to move records out of the way. What is not moved comes again sooner, and that is all.
const POSTPONE_BUDGET: Duration = Duration::from_millis(3_000);

/// The most entries that SQS takes in one request.
const MOST_ENTRIES: usize = 10;
/// How large one request may be, as the sum of its messages. AWS takes 1 MiB since 2025, and took this much before.
const LARGEST_BATCH_BYTES: usize = 256 * 1024;
/// How many requests of one call are under way at once.
const WIDTH: usize = 8;

/// The longest delay that SQS knows for a message.
pub(crate) const LONGEST_DELAY: Duration = Duration::from_secs(15 * 60);
/// After an outage, however long, the last record is stored at most so much later.
const LONGEST_POSTPONEMENT: Duration = Duration::from_secs(60 * 60);

/// SQS, as all queues of a function reach it: one for the life of the function, for it keeps its HTTP connections.
#[derive(Clone)]
pub struct Sqs {
    client: Client,
}

impl Sqs {
    /// Prepares the client; nothing is sent yet.
    pub async fn new() -> Self {
        let config = aws_config::load_defaults(aws_config::BehaviorVersion::latest()).await;
        let timeouts = TimeoutConfig::builder()
            .connect_timeout(ATTEMPT_TIMEOUT)
            .operation_attempt_timeout(ATTEMPT_TIMEOUT)
            .build();
        let config = aws_sdk_sqs::config::Builder::from(&config)
            .timeout_config(timeouts)
            .retry_config(RetryConfig::disabled())
            .build();
        Self { client: Client::from_conf(config) }
    }

    /// Sends one message, and again while the failure may pass and there is time.
    async fn send(&self, url: &str, body: &str) -> Result<(), String> {
        let mut backoff = Backoff::until(Instant::now() + SEND_BUDGET, FIRST_PAUSE, LONGEST_PAUSE);
        loop {
            match self.client.send_message().queue_url(url).message_body(body).send().await {
                Ok(_) => return Ok(()),
                Err(error) if passes(error.raw_response()) && backoff.pause().await => {
                    tracing::debug!(cause = chain(&error), "the queue refused");
                }
                Err(error) => return Err(chain(&error)),
            }
        }
    }
}

/// The way of acknowledged events to Postgres.
#[derive(Clone)]
pub struct ArchiveQueue {
    sqs: Sqs,
    url: String,
}

/// A record that could not be stored now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Postponed<'a> {
    /// What SQS handed out with the message when it was received.
    pub receipt: &'a str,
    /// How often it was received: its `ApproximateReceiveCount`.
    pub receives: u32,
}

impl ArchiveQueue {
    /// The queue at its address.
    pub fn new(sqs: &Sqs, section: &ArchiveQueueSection) -> Self {
        Self { sqs: sqs.clone(), url: section.url.clone() }
    }

    /// Queues an event. When this returns, SQS keeps it for 14 days, or until `archive` has stored it. Safe to repeat:
    /// `archive` ignores what it has.
    ///
    /// # Errors
    /// [`Error::Unavailable`] if the queue has not taken it within about three seconds: it may be queued or not.
    pub async fn put(&self, record: &ArchiveRecord) -> Result<()> {
        const OPERATION: &str = "queueing an event";
        let body = record.to_body().map_err(|cause| Error::internal(OPERATION, cause))?;
        self.sqs.send(&self.url, &body).await.map_err(|cause| Error::unavailable(OPERATION, cause))
    }

    /// Moves records that could not be stored out of the way: the more often one was received, the longer, up to an hour.
    /// Best effort: one that is not moved comes again after the queue's own visibility timeout.
    pub async fn postpone(&self, records: &[Postponed<'_>]) {
        let deadline = Instant::now() + POSTPONE_BUDGET;
        let batches: Vec<Vec<_>> =
            records.chunks(MOST_ENTRIES).map(|batch| batch.iter().map(postponement).collect()).collect();
        let moves = stream::iter(batches).map(|batch| self.change_visibility(batch, deadline));
        let left: usize = moves.buffer_unordered(WIDTH).fold(0, async |left, more| left + more).await;
        if 0 < left {
            tracing::warn!(records = left, "records could not be postponed; they come again sooner");
        }
    }

    /// Answers how many could not be moved.
    async fn change_visibility(&self, entries: Vec<(String, Duration)>, deadline: Instant) -> usize {
        let mut backoff = Backoff::until(deadline, FIRST_PAUSE, LONGEST_PAUSE);
        loop {
            let numbered = entries.iter().enumerate().map(|(number, (receipt, hidden))| {
                let entry = ChangeMessageVisibilityBatchRequestEntry::builder()
                    .id(number.to_string())
                    .receipt_handle(receipt)
                    .visibility_timeout(seconds(*hidden));
                entry.build().expect("it has an id and a receipt")
            });
            let request = self.sqs.client.change_message_visibility_batch().queue_url(&self.url);
            match request.set_entries(Some(numbered.collect())).send().await {
                // One whose time has run out meanwhile is visible already: nothing to try again.
                Ok(answer) => return answer.failed.len(),
                Err(error) if passes(error.raw_response()) && backoff.pause().await => {}
                Err(error) => {
                    tracing::warn!(cause = chain(&error), "the queue refused to postpone records");
                    return entries.len();
                }
            }
        }
    }
}

fn postponement(record: &Postponed<'_>) -> (String, Duration) {
    let tries = record.receives.saturating_sub(1);
    (record.receipt.to_owned(), delay(tries, LONGEST_POSTPONEMENT, fraction()))
}

/// Where records go that can never be stored: for a person to look at.
#[derive(Clone)]
pub struct DeadLetterQueue {
    sqs: Sqs,
    url: String,
}

impl DeadLetterQueue {
    /// The queue at its address.
    pub fn new(sqs: &Sqs, section: &DeadLetterSection) -> Self {
        Self { sqs: sqs.clone(), url: section.url.clone() }
    }

    /// Puts a message aside, unchanged, so that it can be moved back when what it suffers from is mended. The reason goes
    /// to the log, where the id leads from one to the other; it must not tell what is in the message.
    ///
    /// # Errors
    /// [`Error::Unavailable`] if the queue has not taken it within about three seconds: the message must stay where it is.
    pub async fn put(&self, message_id: &str, body: &str, reason: &str) -> Result<()> {
        self.sqs
            .send(&self.url, body)
            .await
            .map_err(|cause| Error::unavailable("putting a dead letter aside", cause))?;
        tracing::error!(
            message.id = message_id,
            reason,
            "a record can never be stored: it is a dead letter now"
        );
        Ok(())
    }
}

/// The way of frames to receivers that a function does not post to by itself.
#[derive(Clone)]
pub struct FanoutQueue {
    sqs: Sqs,
    url: String,
}

/// What a queue has not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the queue refused frames for {receivers} receivers: {cause}")]
pub struct Refused {
    /// How many receivers the slices have that it has not taken.
    pub receivers: usize,
    /// Why, as it said last.
    pub cause: String,
}

/// A slice as it is sent.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Entry {
    /// Unique in its batch.
    id: String,
    body: String,
    receivers: usize,
}

impl FanoutQueue {
    /// The queue at its address.
    pub fn new(sqs: &Sqs, section: &FanoutSection) -> Self {
        Self { sqs: sqs.clone(), url: section.queue_url.clone() }
    }

    /// Queues slices, in batches side by side. They are posted after the delay, of at most 15 minutes.
    ///
    /// # Errors
    /// The queue has not taken all of them within about a second.
    pub async fn put(&self, slices: &[FanoutSlice], delay: Duration) -> Result<(), Refused> {
        let deadline = Instant::now() + FANOUT_BUDGET;
        let delay = delay.min(LONGEST_DELAY);
        let batches = batches(slices.iter().enumerate().map(|(number, slice)| Entry {
            id: number.to_string(),
            body: slice.to_body().expect("strings and numbers serialise"),
            receivers: slice.receivers.len(),
        }));
        let puts = stream::iter(batches).map(|batch| self.put_batch(batch, delay, deadline));
        let refusals = puts.buffer_unordered(WIDTH).filter_map(async |put| put.err());
        let all = refusals.fold(None::<Refused>, async |all, refused| {
            let others = all.map_or(0, |all| all.receivers);
            Some(Refused { receivers: others + refused.receivers, ..refused })
        });
        all.await.map_or(Ok(()), Err)
    }

    async fn put_batch(
        &self,
        mut entries: Vec<Entry>,
        delay: Duration,
        deadline: Instant,
    ) -> Result<(), Refused> {
        let mut backoff = Backoff::until(deadline, FIRST_PAUSE, LONGEST_PAUSE);
        loop {
            let numbered = entries.iter().map(|entry| {
                let request = SendMessageBatchRequestEntry::builder()
                    .id(&entry.id)
                    .message_body(&entry.body)
                    .delay_seconds(seconds(delay));
                request.build().expect("it has an id and a body")
            });
            let request = self.sqs.client.send_message_batch().queue_url(&self.url);
            let (again, cause) = match request.set_entries(Some(numbered.collect())).send().await {
                Ok(answer) => {
                    let failed: BTreeSet<_> = answer.failed.iter().map(|failed| failed.id.as_str()).collect();
                    entries.retain(|entry| failed.contains(entry.id.as_str()));
                    let Some(first) = answer.failed.first() else { return Ok(()) };
                    (answer.failed.iter().any(|failed| !failed.sender_fault), first.code.clone())
                }
                Err(error) => (may_pass(&error), chain(&error)),
            };
            if !again || !backoff.pause().await {
                let receivers = entries.iter().map(|entry| entry.receivers).sum();
                return Err(Refused { receivers, cause });
            }
        }
    }
}

fn may_pass<E>(error: &SdkError<E>) -> bool {
    passes(error.raw_response())
}

/// Puts entries together as far as SQS takes them in one request.
fn batches(entries: impl IntoIterator<Item = Entry>) -> Vec<Vec<Entry>> {
    let mut batches: Vec<Vec<Entry>> = Vec::new();
    let mut bytes = 0;
    for entry in entries {
        match batches.last_mut() {
            Some(batch) if batch.len() < MOST_ENTRIES && bytes + entry.body.len() <= LARGEST_BATCH_BYTES => {
                bytes += entry.body.len();
                batch.push(entry);
            }
            _ => {
                bytes = entry.body.len();
                batches.push(vec![entry]);
            }
        }
    }
    batches
}

fn seconds(duration: Duration) -> i32 {
    i32::try_from(duration.as_secs()).unwrap_or(i32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(number: usize, bytes: usize) -> Entry {
        Entry { id: number.to_string(), body: "x".repeat(bytes), receivers: 1 }
    }

    #[test]
    fn a_batch_has_as_much_as_one_request_takes_and_no_slice_is_lost() {
        for bytes in [1, 1_000, LARGEST_BATCH_BYTES / 10, LARGEST_BATCH_BYTES / 3, LARGEST_BATCH_BYTES] {
            for count in [0, 1, 9, 10, 11, 35] {
                let entries: Vec<_> = (0..count).map(|number| entry(number, bytes)).collect();
                let batches = batches(entries.clone());
                let fit = MOST_ENTRIES.min(LARGEST_BATCH_BYTES / bytes);
                assert_eq!(batches.len(), count.div_ceil(fit), "{count} slices of {bytes} bytes");
                assert!(batches.iter().all(|batch| batch.len() <= fit));
                assert_eq!(batches.concat(), entries);
            }
        }
    }

    #[test]
    fn a_record_is_postponed_the_longer_the_more_often_it_came_and_never_for_more_than_an_hour() {
        let hidden = |receives| postponement(&Postponed { receipt: "r", receives }).1;
        // Between half of it and all of it.
        for (receives, most) in [(0, 1), (1, 1), (2, 2), (5, 16), (12, 2_048), (13, 3_600), (1_000, 3_600)] {
            let hidden = hidden(receives).as_secs();
            assert!(most / 2 <= hidden && hidden <= most, "{receives} times: {hidden} s");
        }
    }
}
