//! One queue: its messages in memory, and in its file whatever an answer has promised.
//!
//! The lock is held for a few instructions and never while waiting. What happens under it goes to the file in the same
//! order, and whoever asked for it goes on once it is there.

use std::future::Future;
use std::path::Path;
use std::pin::pin;
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use std::time::Duration;

use anyhow::Result;
use time::OffsetDateTime;
use tokio::sync::Notify;
use tokio::time::sleep;
use uuid::Uuid;

use super::journal::{Broken, Journal, Safety, Written};
use super::messages::{Counts, Message, Messages, NotHidden, Receipt, Taken, Want};
use crate::faults::{Faults, hits};
use crate::ids::epoch_ms;
use crate::local_values::queue_arn;
use crate::template;

/// A message that is sent.
#[derive(Debug)]
pub(super) struct New {
    pub(super) id: Uuid,
    pub(super) body: Arc<str>,
    /// How long it is hidden; if it does not say, as long as the queue says.
    pub(super) delay: Option<Duration>,
}

#[derive(Debug)]
pub(super) struct Queue {
    pub(super) settings: template::Queue,
    messages: Mutex<Messages>,
    journal: Journal,
    /// There may be something to receive earlier than was known.
    changed: Notify,
    /// Where messages go that are received too often. Set once all queues are there: they can refer to each other.
    dead_letters: OnceLock<Weak<Queue>>,
    faults: Faults,
}

impl Queue {
    /// Opens a queue with what its file in this folder holds.
    pub(super) fn open(settings: template::Queue, folder: &Path, faults: Faults) -> Result<Self> {
        let (journal, messages) = Journal::open(folder.join(format!("{}.jsonl", settings.name)))?;
        let messages = Mutex::new(Messages::restored(messages));
        let (changed, dead_letters) = Default::default();
        Ok(Self { settings, messages, journal, changed, dead_letters, faults })
    }

    pub(super) fn set_dead_letters(&self, queue: &Arc<Self>) {
        // It is set once, by whoever has opened all queues.
        let _ = self.dead_letters.set(Arc::downgrade(queue));
    }

    pub(super) fn arn(&self) -> String {
        queue_arn(&self.settings.name)
    }

    /// Takes messages. They are on the disk when this returns.
    pub(super) async fn send(&self, new: Vec<New>) -> Result<(), Broken> {
        let usual = self.settings.delay;
        let ((), sent) = self.change(Safety::Synced, |messages, now| {
            for New { id, body, delay } in new {
                messages.add(id, body, now, milliseconds(delay.unwrap_or(usual)));
            }
        });
        self.changed.notify_waiters();
        sent.done().await
    }

    /// Waits for messages until `end`. None also if the next is too large to be added to what the receiver has.
    pub(super) async fn receive(
        self: &Arc<Self>,
        want: Want,
        end: impl Future<Output = ()>,
    ) -> Result<Vec<Message>, Broken> {
        let mut end = pin!(end);
        loop {
            // Before looking, so that nothing is missed that comes while looking.
            let changed = self.changed.notified();
            let taken = self.take(want).await?;
            if !taken.messages.is_empty() || taken.full {
                return Ok(taken.messages);
            }
            let next_visible = self.until_visible();
            tokio::select! {
                biased;
                () = &mut end => return Ok(Vec::new()),
                () = changed => {}
                () = next_visible => {}
            }
        }
    }

    async fn take(self: &Arc<Self>, want: Want) -> Result<Taken, Broken> {
        let faults = self.faults.current();
        let twice = faults.as_ref().and_then(|faults| faults.sqs.as_ref()).map(|sqs| sqs.duplicate_share);
        let again = || twice.is_some_and(hits);
        let (mut taken, written) =
            self.change(Safety::Written, |messages, now| messages.take(now, want, again));
        if !taken.dead.is_empty() {
            // Not given up with the receiver.
            tokio::spawn(Arc::clone(self).bury(std::mem::take(&mut taken.dead)));
        }
        // Others than this receiver, who gets what it has taken: woken by itself, it would look for ever.
        if twice.is_some() && !taken.messages.is_empty() {
            self.changed.notify_waiters();
        }
        written.done().await.map(|()| taken)
    }

    /// Moves messages to the dead-letter queue: there first, so that an end in between loses none.
    async fn bury(self: Arc<Self>, dead: Vec<Message>) {
        let Some(grave) = self.dead_letters.get().and_then(Weak::upgrade) else { return };
        let source = self.arn();
        let (_, written) = grave.change(Safety::Synced, |messages, now| {
            for message in &dead {
                messages.add_dead(message.clone(), &source, now);
            }
        });
        if written.done().await.is_ok() {
            let (_, written) = self.change(Safety::Written, |messages, _| messages.moved(&dead));
            // What is not deleted here is moved again after a restart.
            let _ = written.done().await;
            grave.changed.notify_waiters();
            tracing::warn!(
                queue = self.settings.name,
                dead_letter_queue = grave.settings.name,
                messages = dead.len(),
                "messages were received too often and are dead letters now"
            );
        }
    }

    fn until_visible(&self) -> impl Future<Output = ()> + use<> {
        let next = self.lock().next_visible_ms();
        let wait = next.map(|next| u64::try_from(next - now_ms()).unwrap_or(0));
        async move {
            match wait {
                Some(wait) => sleep(Duration::from_millis(wait)).await,
                None => std::future::pending().await,
            }
        }
    }

    /// Deletes what these receipts are for.
    pub(super) async fn delete(&self, receipts: &[Receipt]) -> Result<(), Broken> {
        let (_, written) = self.change(Safety::Written, |messages, _| {
            receipts.iter().for_each(|receipt| messages.delete(receipt));
        });
        written.done().await
    }

    /// Hides a message for so long from now.
    pub(super) async fn hide(
        &self,
        receipt: &Receipt,
        time: Duration,
    ) -> Result<Result<(), NotHidden>, Broken> {
        let (hidden, written) =
            self.change(Safety::Written, |messages, now| messages.hide(receipt, now, milliseconds(time)));
        self.changed.notify_waiters();
        written.done().await.map(|()| hidden)
    }

    /// Takes back messages that nobody has seen.
    pub(super) async fn give_back(&self, messages: &[Message]) -> Result<(), Broken> {
        let (_, written) = self.change(Safety::Written, |all, now| {
            messages.iter().for_each(|message| all.give_back(&message.receipt(), now));
        });
        self.changed.notify_waiters();
        written.done().await
    }

    /// Deletes everything.
    pub(super) async fn purge(&self) -> Result<(), Broken> {
        self.change(Safety::Written, |messages, _| messages.purge()).1.done().await
    }

    pub(super) fn counts(&self) -> Counts {
        self.change(Safety::Written, |messages, now| messages.counts(now)).0
    }

    /// Does something to the messages as they are now, and tells when it is safe.
    fn change<T>(&self, safety: Safety, act: impl FnOnce(&mut Messages, i64) -> T) -> (T, Written) {
        let now = now_ms();
        let mut messages = self.lock();
        messages.expire(now - milliseconds(self.settings.retention));
        let outcome = act(&mut messages, now);
        let records = messages.take_records();
        let written =
            if records.is_empty() { Written::NOTHING } else { self.journal.append(records, safety) };
        if let Some(left) = messages.all_if_much_is_gone() {
            self.journal.rewrite(left);
        }
        (outcome, written)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Messages> {
        self.messages.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn now_ms() -> i64 {
    epoch_ms(OffsetDateTime::now_utc())
}

/// A time that a queue knows: years at most.
pub(super) fn milliseconds(time: Duration) -> i64 {
    time.as_millis().try_into().unwrap_or(i64::MAX / 2)
}
