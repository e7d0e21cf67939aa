//! The archive: from the queue to Postgres, and out of the log.

use std::collections::BTreeSet;

use crate::{
    postgres::Stored,
    redis::{Entry, Settled},
    rules::Break,
    types::{EventId, Position, Record},
    world::{World, functions::Work},
};

impl World {
    /// One step of the archive; what is left to do.
    pub(super) fn archive(&mut self, work: Work) -> Option<Work> {
        match work {
            Work::Store { records } => {
                if self.rules.breaks(Break::DeletesRecordsFirst) {
                    self.remove(&records);
                }
                let again = self.delivered_again(&records);
                let stored = self.store(records.iter().map(|(_, record)| *record), &again)?;
                Some(Work::Settle { records, stored })
            }
            Work::Settle { records, stored } => {
                let settled = self.settle(&stored);
                Some(Self::and_tell(settled, Work::Remove { records }))
            }
            Work::Remove { records } => {
                self.remove(&records);
                None
            }
            Work::Trim { entries } => {
                if self.rules.breaks(Break::TrimsWhatIsNotStored) {
                    self.redis.trim(&entries);
                }
                let is_stored =
                    |(position, entry): &(Position, Entry)| self.postgres.has(entry.event.id, *position);
                let (removable, others): (Vec<_>, Vec<_>) = entries.into_iter().partition(is_stored);
                let record = |(position, Entry { event, previous })| Record { event, position, previous };
                let stored = self.store(others.into_iter().map(record), &BTreeSet::new())?;
                Some(Work::Trimming { stored, removable })
            }
            Work::Trimming { stored, removable } => {
                let settled = self.settle(&stored);
                self.redis.trim(&removable);
                Some(Self::and_tell(settled, Work::Remove { records: Vec::new() }))
            }
            _ => None,
        }
    }

    pub(super) fn deliver_records(&mut self) {
        let records = self.calls.iter().flat_map(|(_, work)| work.records());
        let busy: BTreeSet<u64> = records.map(|(id, _)| *id).collect();
        let repeats = self.weather.queue_repeats && self.rng.chance(30);
        let in_hand = self.in_hand();
        let free = |(id, record): &&(u64, Record)| !busy.contains(id) && !in_hand.contains(&record.event.id);
        let mut waiting: Vec<_> =
            self.queue.iter().filter(|record| repeats || free(record)).copied().collect();
        let mut records = Vec::new();
        let size = 1 + self.rng.below(3);
        while !waiting.is_empty() && records.len() < size {
            records.push(waiting.swap_remove(self.rng.below(waiting.len())));
        }
        if !records.is_empty() {
            self.call(Work::Store { records });
        }
    }

    /// Events that a call of the archive is at work on.
    pub(super) fn in_hand(&self) -> BTreeSet<EventId> {
        let mut events = BTreeSet::new();
        for (_, work) in &self.calls {
            events.extend(work.records().iter().map(|(_, record)| record.event.id));
            events.extend(
                work.stored().iter().flat_map(|stored| &stored.settlements).map(|event| event.logged),
            );
            if let Work::Trim { entries, .. } = work {
                events.extend(entries.iter().map(|(_, entry)| entry.event.id));
            }
        }
        events
    }

    fn delivered_again(&mut self, records: &[(u64, Record)]) -> BTreeSet<EventId> {
        let again = records.iter().filter(|(id, _)| !self.delivered.insert(*id));
        again.map(|(_, record)| record.event.id).collect()
    }

    fn store(&mut self, records: impl Iterator<Item = Record>, again: &BTreeSet<EventId>) -> Option<Stored> {
        let records: Vec<_> = records.collect();
        (!self.postgres_is_away).then(|| self.postgres.store(&records, again, self.rules))
    }

    pub(super) fn settle(&mut self, stored: &Stored) -> Option<Settled> {
        let fresh = self.fresh_generation();
        let settled = self.redis.settle(stored, fresh, self.rules);
        self.forgotten += usize::from(settled.is_some() && self.redis.head.is_some());
        settled
    }

    /// First Postgres remembers what was found, for Redis may forget it again; then the subscribers are told.
    pub(super) fn and_tell(settled: Option<Settled>, then: Work) -> Work {
        match settled {
            Some(Settled { count, generation, tell }) => {
                Work::Remember { count, then: Box::new(Self::tell(Some(tell), generation, then)) }
            }
            None => then,
        }
    }

    pub(super) fn remove(&mut self, records: &[(u64, Record)]) {
        self.queue.retain(|(id, _)| !records.iter().any(|(other, _)| other == id));
    }

    pub(super) fn begin_trim(&mut self) {
        let mut entries = self.redis.oldest(self.weather.hot);
        // Only what is older than any function lives: nobody has it in hand.
        let mut spared = self.in_hand();
        if !self.weather.queue_is_long {
            spared.extend(self.on_its_way());
        }
        let free =
            |entry: &Entry| !spared.contains(&entry.event.id) && !spared.contains(&entry.event.message());
        entries.retain(|(_, entry)| free(entry));
        if !entries.is_empty() {
            self.call(Work::Trim { entries });
        }
    }

    /// Events that will come to the archive, or come again.
    fn on_its_way(&self) -> BTreeSet<EventId> {
        let mut events: BTreeSet<_> = self.queue.iter().map(|(_, record)| record.event.id).collect();
        events.extend(self.clients.iter().flat_map(|client| &client.outbox).map(|event| event.id));
        for (_, work) in &self.calls {
            match work {
                Work::Send { event, .. } => _ = events.insert(event.id),
                Work::Deliver { posted, .. } => _ = events.insert(posted.record.event.id),
                _ => {}
            }
        }
        events
    }
}
