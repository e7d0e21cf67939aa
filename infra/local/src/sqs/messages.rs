//! The messages of one queue, and who may receive which when. Times are milliseconds since 1970 and come from outside.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::journal::Record;

/// About what a line of the file takes beside a message's body.
const RECORD_BYTES: usize = 200;

/// A file is not written anew before it has grown by this.
const MIN_GROWTH_BYTES: usize = 1024 * 1024;

/// About what a message takes in an event beside its body.
const EVENT_RECORD_BYTES: usize = 1_024;

/// A message in a queue.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
pub(super) struct Message {
    /// Its place in the order of sending, within its queue.
    pub(super) number: u64,
    /// What SQS calls it. It stays the same in a dead-letter queue.
    pub(super) id: Uuid,
    pub(super) body: Arc<str>,
    /// When it was sent first: a move to a dead-letter queue changes nothing of that.
    pub(super) sent_ms: i64,
    /// The ARN of the queue that it was moved here from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) source: Option<String>,
    #[serde(flatten)]
    pub(super) delivery: Delivery,
}

/// What changes of a message while it is in a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub(super) struct Delivery {
    /// Nobody receives it before.
    pub(super) visible_ms: i64,
    pub(super) receives: u32,
    pub(super) first_received_ms: Option<i64>,
}

impl Message {
    pub(super) fn receipt(&self) -> Receipt {
        Receipt { number: self.number, receives: self.delivery.receives, id: self.id }
    }

    /// About its size in an event: its body is a JSON string there.
    pub(super) fn event_bytes(&self) -> usize {
        let escaped = self.body.bytes().filter(|byte| matches!(byte, b'"' | b'\\' | b'\n' | b'\r' | b'\t'));
        self.body.len() + escaped.count() + EVENT_RECORD_BYTES
    }
}

/// A receipt handle: who has received which message, and as its how manieth receiver. It is good also after a restart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Receipt {
    number: u64,
    receives: u32,
    id: Uuid,
}

impl Receipt {
    pub(super) fn handle(&self) -> String {
        URL_SAFE_NO_PAD.encode(format!("{}.{}.{}", self.number, self.receives, self.id))
    }

    pub(super) fn parse(handle: &str) -> Option<Self> {
        let text = String::from_utf8(URL_SAFE_NO_PAD.decode(handle).ok()?).ok()?;
        let mut parts = text.splitn(3, '.');
        let (number, receives, id) = (parts.next()?, parts.next()?, parts.next()?);
        Some(Self { number: number.parse().ok()?, receives: receives.parse().ok()?, id: id.parse().ok()? })
    }
}

/// What a receiver wants.
#[derive(Clone, Copy, Debug)]
pub(super) struct Want {
    /// So many messages at most.
    pub(super) count: usize,
    /// So many bytes of an event at most.
    pub(super) event_bytes: usize,
    /// How long they are hidden then.
    pub(super) hide_ms: i64,
    /// What was received so often before is not received again.
    pub(super) max_receives: Option<u32>,
}

/// What a receiver gets.
#[derive(Debug, Default)]
pub(super) struct Taken {
    pub(super) messages: Vec<Message>,
    /// The next message is too large to be added.
    pub(super) full: bool,
    /// Received too often: to be moved to the dead-letter queue. Nobody else gets them meanwhile.
    pub(super) dead: Vec<Message>,
}

/// Why the visibility of a message does not change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NotHidden {
    /// It is not there, or somebody else has received it since.
    Gone,
    /// It is visible again already.
    Visible,
}

/// How many messages are where.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) visible: usize,
    pub(super) in_flight: usize,
    pub(super) delayed: usize,
}

#[derive(Debug, Default)]
pub(super) struct Messages {
    all: BTreeMap<u64, Message>,
    /// When each can be received, and which it is. Without those that are being moved.
    order: BTreeSet<(i64, u64)>,
    by_age: BTreeSet<(i64, u64)>,
    /// A fault: they have been received, and are received again even if they are deleted before.
    twice: BTreeSet<u64>,
    next_number: u64,
    /// What is to be written to the file.
    records: Vec<Record>,
    /// The size of the file if it were written anew, and what was appended since it was.
    live_bytes: usize,
    appended_bytes: usize,
}

impl Messages {
    /// What a file held.
    pub(super) fn restored(messages: Vec<Message>) -> Self {
        let mut restored = Self::default();
        for message in messages {
            restored.next_number = restored.next_number.max(message.number + 1);
            restored.place(message);
        }
        restored
    }

    pub(super) fn add(&mut self, id: Uuid, body: Arc<str>, now: i64, delay_ms: i64) {
        let delivery = Delivery { visible_ms: now + delay_ms, receives: 0, first_received_ms: None };
        self.insert(Message { number: 0, id, body, sent_ms: now, source: None, delivery });
    }

    /// Takes a message that another queue could not get rid of.
    pub(super) fn add_dead(&mut self, message: Message, source: &str, now: i64) {
        // As the first receiver of this queue sees it; only its age goes on.
        let delivery = Delivery { visible_ms: now, receives: 0, first_received_ms: None };
        self.insert(Message { source: Some(source.to_owned()), delivery, ..message });
    }

    fn insert(&mut self, message: Message) {
        let message = Message { number: self.next_number, ..message };
        self.next_number += 1;
        self.record(Record::Message(message.clone()));
        self.place(message);
    }

    fn place(&mut self, message: Message) {
        self.live_bytes += message.body.len() + RECORD_BYTES;
        self.order.insert((message.delivery.visible_ms, message.number));
        self.by_age.insert((message.sent_ms, message.number));
        self.all.insert(message.number, message);
    }

    /// Gives out what can be received now. `again` draws which messages are to be received twice.
    pub(super) fn take(&mut self, now: i64, want: Want, mut again: impl FnMut() -> bool) -> Taken {
        let (mut taken, mut event_bytes, mut hidden) = (Taken::default(), 0, Vec::new());
        while taken.messages.len() < want.count {
            let Some(&(visible_ms, number)) = self.order.first().filter(|(visible_ms, _)| *visible_ms <= now)
            else {
                break;
            };
            let message = self.all.get_mut(&number).expect("what is in the order is there");
            if want.max_receives.is_some_and(|most| message.delivery.receives >= most) {
                self.order.remove(&(visible_ms, number));
                taken.dead.push(message.clone());
                continue;
            }
            event_bytes += message.event_bytes();
            if event_bytes > want.event_bytes {
                taken.full = true;
                break;
            }
            self.order.remove(&(visible_ms, number));
            let first = message.delivery.receives == 0;
            message.delivery.receives += 1;
            message.delivery.first_received_ms.get_or_insert(now);
            let repeat = first && again();
            message.delivery.visible_ms = if repeat { now } else { now + want.hide_ms };
            taken.messages.push(message.clone());
            let delivery = message.delivery;
            self.record(Record::Delivery { number, delivery });
            if repeat {
                self.twice.insert(number);
            } else {
                self.twice.remove(&number);
            }
            hidden.push((delivery.visible_ms, number));
        }
        // Not before, so that one that is visible again at once is not received twice by the same receiver.
        self.order.extend(hidden);
        taken
    }

    /// Deletes a message, unless somebody else has received it since.
    pub(super) fn delete(&mut self, receipt: &Receipt) {
        if self.current(receipt).is_some() && !self.twice.contains(&receipt.number) {
            self.remove(&[receipt.number]);
        }
    }

    /// Deletes messages that are in the dead-letter queue now.
    pub(super) fn moved(&mut self, messages: &[Message]) {
        let numbers: Vec<u64> = messages.iter().map(|message| message.number).collect();
        self.remove(&numbers);
    }

    /// Hides a message from now for so long, or no longer.
    pub(super) fn hide(&mut self, receipt: &Receipt, now: i64, hide_ms: i64) -> Result<(), NotHidden> {
        let message = self.current(receipt).ok_or(NotHidden::Gone)?;
        if message.delivery.visible_ms <= now {
            return Err(NotHidden::Visible);
        }
        let delivery = Delivery { visible_ms: now + hide_ms, ..message.delivery };
        self.deliver(receipt.number, delivery);
        Ok(())
    }

    /// Takes back a message that was taken and seen by nobody.
    pub(super) fn give_back(&mut self, receipt: &Receipt, now: i64) {
        let Some(message) = self.current(receipt) else { return };
        let receives = message.delivery.receives - 1;
        let first_received_ms = message.delivery.first_received_ms.filter(|_| receives > 0);
        self.deliver(receipt.number, Delivery { visible_ms: now, receives, first_received_ms });
    }

    fn current(&self, receipt: &Receipt) -> Option<&Message> {
        self.all.get(&receipt.number).filter(|message| message.receipt() == *receipt)
    }

    fn deliver(&mut self, number: u64, delivery: Delivery) {
        let message = self.all.get_mut(&number).expect("it was just looked at");
        self.order.remove(&(message.delivery.visible_ms, number));
        self.order.insert((delivery.visible_ms, number));
        message.delivery = delivery;
        self.record(Record::Delivery { number, delivery });
    }

    /// Deletes what was sent before this.
    pub(super) fn expire(&mut self, sent_before_ms: i64) {
        let old = self.by_age.iter().take_while(|(sent_ms, _)| *sent_ms < sent_before_ms);
        let old: Vec<u64> = old.map(|(_, number)| *number).collect();
        self.remove(&old);
    }

    /// Deletes everything.
    pub(super) fn purge(&mut self) {
        let all: Vec<u64> = self.all.keys().copied().collect();
        self.remove(&all);
    }

    fn remove(&mut self, numbers: &[u64]) {
        let mut removed = Vec::new();
        for number in numbers {
            let Some(message) = self.all.remove(number) else { continue };
            self.order.remove(&(message.delivery.visible_ms, *number));
            self.by_age.remove(&(message.sent_ms, *number));
            self.twice.remove(number);
            self.live_bytes -= message.body.len() + RECORD_BYTES;
            removed.push(*number);
        }
        if !removed.is_empty() {
            self.record(Record::Deleted(removed));
        }
    }

    fn record(&mut self, record: Record) {
        self.appended_bytes += RECORD_BYTES;
        if let Record::Message(message) = &record {
            self.appended_bytes += message.body.len();
        }
        self.records.push(record);
    }

    /// What has happened since this was asked last.
    pub(super) fn take_records(&mut self) -> Vec<Record> {
        std::mem::take(&mut self.records)
    }

    /// All messages, if the file tells mostly of others by now.
    pub(super) fn all_if_much_is_gone(&mut self) -> Option<Vec<Message>> {
        if self.appended_bytes < MIN_GROWTH_BYTES + 2 * self.live_bytes {
            return None;
        }
        self.appended_bytes = 0;
        Some(self.all.values().cloned().collect())
    }

    /// When the next message can be received that cannot be received now, or can and was not.
    pub(super) fn next_visible_ms(&self) -> Option<i64> {
        self.order.first().map(|(visible_ms, _)| *visible_ms)
    }

    pub(super) fn counts(&self, now: i64) -> Counts {
        let mut counts = Counts::default();
        for message in self.all.values() {
            let Delivery { visible_ms, receives, .. } = message.delivery;
            match (visible_ms <= now, receives) {
                (true, _) => counts.visible += 1,
                (false, 0) => counts.delayed += 1,
                (false, _) => counts.in_flight += 1,
            }
        }
        counts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WANT: Want = Want { count: 10, event_bytes: usize::MAX, hide_ms: 1_000, max_receives: None };

    fn queue(bodies: &[&str]) -> Messages {
        let mut queue = Messages::default();
        for body in bodies {
            queue.add(Uuid::new_v4(), (*body).into(), 0, 0);
        }
        queue
    }

    fn take(queue: &mut Messages, now: i64) -> Vec<Message> {
        queue.take(now, WANT, || false).messages
    }

    fn bodies(messages: &[Message]) -> Vec<&str> {
        messages.iter().map(|message| &*message.body).collect()
    }

    #[test]
    fn a_message_is_received_once_and_again_after_its_visibility_timeout() {
        let mut queue = queue(&["a", "b"]);
        assert_eq!(bodies(&take(&mut queue, 0)), ["a", "b"]);
        assert!(take(&mut queue, 999).is_empty());
        let again = take(&mut queue, 1_000);
        assert_eq!(bodies(&again), ["a", "b"]);
        assert_eq!((again[0].delivery.receives, again[0].delivery.first_received_ms), (2, Some(0)));
        again.iter().for_each(|message| queue.delete(&message.receipt()));
        assert!(take(&mut queue, 9_000).is_empty());
        assert_eq!(queue.counts(9_000), Counts::default());
    }

    #[test]
    fn the_receipt_of_an_earlier_receiver_deletes_nothing_and_hides_nothing() {
        let mut queue = queue(&["a"]);
        let first = take(&mut queue, 0)[0].receipt();
        let second = take(&mut queue, 1_000)[0].receipt();
        queue.delete(&first);
        assert_eq!(queue.hide(&first, 1_000, 5_000), Err(NotHidden::Gone));
        assert_eq!(queue.counts(1_000).in_flight, 1);
        assert_eq!(queue.hide(&second, 1_000, 5_000), Ok(()));
        assert!(take(&mut queue, 5_999).is_empty());
        assert_eq!(queue.hide(&second, 6_000, 1), Err(NotHidden::Visible));
        queue.delete(&second);
        assert_eq!(queue.counts(6_000), Counts::default());
    }

    #[test]
    fn a_receipt_reads_back_from_its_handle() {
        let receipt = take(&mut queue(&["a"]), 0)[0].receipt();
        assert_eq!(Receipt::parse(&receipt.handle()), Some(receipt));
        assert_eq!(Receipt::parse("nonsense"), None);
    }

    #[test]
    fn what_was_received_too_often_is_to_be_moved_and_is_given_to_nobody_meanwhile() {
        let mut queue = queue(&["a"]);
        let want = Want { max_receives: Some(1), ..WANT };
        assert_eq!(queue.take(0, want, || false).messages.len(), 1);
        let taken = queue.take(1_000, want, || false);
        assert_eq!((bodies(&taken.messages), bodies(&taken.dead)), (vec![], vec!["a"]));
        assert!(queue.take(9_000, want, || false).dead.is_empty());
        let mut dead_letters = Messages::default();
        dead_letters.add_dead(taken.dead[0].clone(), "arn:source", 1_000);
        queue.moved(&taken.dead);
        assert_eq!(queue.counts(9_000), Counts::default());
        let dead = take(&mut dead_letters, 1_000).remove(0);
        assert_eq!((dead.id, dead.sent_ms, dead.delivery.receives), (taken.dead[0].id, 0, 1));
        // Its age counts from when it was sent first.
        dead_letters.expire(1);
        assert_eq!(dead_letters.counts(9_000), Counts::default());
    }

    #[test]
    fn a_receiver_gets_no_more_bytes_than_an_event_may_have() {
        let mut queue = queue(&["\"\"\"\"", "b"]);
        let one = 4 + 4 + EVENT_RECORD_BYTES;
        let taken = queue.take(0, Want { event_bytes: one, ..WANT }, || false);
        assert_eq!((bodies(&taken.messages), taken.full), (vec!["\"\"\"\""], true));
        let taken = queue.take(0, Want { event_bytes: one - 8, ..WANT }, || false);
        assert_eq!((bodies(&taken.messages), taken.full), (vec![], true));
    }

    #[test]
    fn a_message_that_is_to_be_received_twice_is_so_even_if_it_is_deleted_in_between() {
        let mut queue = queue(&["a"]);
        let first = queue.take(0, WANT, || true).messages;
        assert_eq!(first.len(), 1);
        queue.delete(&first[0].receipt());
        let second = queue.take(0, WANT, || true).messages;
        assert_eq!(bodies(&second), ["a"]);
        queue.delete(&second[0].receipt());
        assert_eq!(queue.counts(9_000), Counts::default());
    }

    #[test]
    fn a_message_that_is_hidden_for_no_time_is_received_once_by_each_receiver() {
        let mut queue = queue(&["a", "b"]);
        for receives in 1..=3 {
            let taken = queue.take(0, Want { hide_ms: 0, ..WANT }, || false).messages;
            assert_eq!(bodies(&taken), ["a", "b"]);
            assert!(taken.iter().all(|message| message.delivery.receives == receives));
        }
    }

    #[test]
    fn what_nobody_has_seen_is_given_back_as_it_was() {
        let mut queue = queue(&["a"]);
        let before = queue.all[&0].clone();
        let taken = take(&mut queue, 0);
        queue.give_back(&taken[0].receipt(), 0);
        assert_eq!(queue.all[&0], before);
        assert_eq!(take(&mut queue, 0).len(), 1);
    }

    #[test]
    fn the_file_is_written_anew_only_when_most_of_it_is_gone() {
        let mut queue = Messages::default();
        let body: Arc<str> = "x".repeat(1_000).into();
        let mut rewritten = Vec::new();
        for n in 0..3_000 {
            queue.add(Uuid::new_v4(), Arc::clone(&body), 0, 0);
            if n >= 10 {
                let message = queue.take(0, Want { count: 1, ..WANT }, || false).messages.remove(0);
                queue.delete(&message.receipt());
            }
            rewritten.extend(queue.all_if_much_is_gone().map(|left| left.len()));
        }
        assert!((2..=4).contains(&rewritten.len()), "{rewritten:?}");
        assert!(rewritten.iter().all(|left| *left == 10), "{rewritten:?}");
    }

    #[test]
    fn a_delayed_message_is_counted_as_such_until_it_is_visible() {
        let mut queue = Messages::default();
        queue.add(Uuid::new_v4(), "a".into(), 0, 500);
        assert_eq!(queue.counts(0), Counts { delayed: 1, ..Counts::default() });
        assert!(take(&mut queue, 499).is_empty());
        assert_eq!(queue.next_visible_ms(), Some(500));
        assert_eq!(take(&mut queue, 500).len(), 1);
    }
}
