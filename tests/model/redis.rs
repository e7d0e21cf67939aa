//! One room in Redis. Every method that is named like a script is one: nothing happens in its midst.

mod settle;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use crate::{
    postgres::Known,
    rules::{Break, Rules},
    types::{Connection, DAY_MS, Event, EventId, Generation, Kind, Part, Position, Record, State, set_slot},
};

/// Redis without data is its default.
#[derive(Clone, Default, Debug)]
pub(crate) struct Redis {
    pub(crate) head: Option<Head>,
    pub(crate) log: Option<Stream>,
    /// Event → position, the one before, when.
    pub(crate) sent: BTreeMap<EventId, Sent>,
    pub(crate) subscribers: BTreeSet<Connection>,
    /// What became of messages, as far as the log tells.
    pub(crate) now: BTreeMap<EventId, Now>,
}

#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) struct Head {
    pub(crate) generation: Generation,
    /// How many generations the room had, as far as this Redis knows. Postgres remembers it, too.
    pub(crate) count: u64,
    /// The position given last.
    pub(crate) last: Position,
    /// The log is whole after this position. Up to it, history is the log and Postgres together.
    pub(crate) since: Position,
}

#[derive(Clone, Default, Debug)]
pub(crate) struct Stream {
    pub(crate) entries: BTreeMap<Position, Entry>,
    /// Redis keeps it when entries are deleted.
    pub(crate) last: Position,
}

#[derive(Clone, Copy, PartialEq)]
pub(crate) struct Entry {
    pub(crate) event: Event,
    pub(crate) previous: Position,
}

impl fmt::Debug for Entry {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:?} (after {:?})", self.event, self.previous)
    }
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Sent {
    position: Position,
    previous: Position,
    at_ms: u64,
}

#[derive(Clone, Default, Debug)]
pub(crate) struct Now {
    pub(crate) state: State,
    /// The event that deleted it.
    pub(crate) deleted: Option<EventId>,
}

pub(crate) enum Posting {
    NotJoined,
    Refused,
    Posted(Posted),
}

#[derive(Clone, Debug)]
pub(crate) struct Posted {
    pub(crate) fresh: bool,
    /// Whether the log still has it: if not, nobody may be shown it again.
    pub(crate) in_the_log: bool,
    pub(crate) record: Record,
    pub(crate) generation: Generation,
    pub(crate) subscribers: Vec<Connection>,
    pub(crate) forgotten: bool,
}

/// What `join` and `page` read.
#[derive(Clone, Debug)]
pub(crate) struct Reading {
    pub(crate) head: Head,
    pub(crate) part: Part,
    pub(crate) reset: bool,
    pub(crate) entries: BTreeMap<Position, Entry>,
    /// Whom a `resync` must reach, if Redis was found to have forgotten.
    pub(crate) forgotten: Option<Vec<Connection>>,
}

/// An event as Postgres has it, for `settle`.
#[derive(Clone, Debug)]
pub(crate) struct Settlement {
    /// As the log names it.
    pub(crate) logged: EventId,
    /// Positions at which the log may have it.
    pub(crate) places: Vec<Position>,
    pub(crate) stored: EventId,
    pub(crate) position: Position,
    /// Its text is deleted.
    pub(crate) gone: bool,
    /// This call has stored or moved it, or its record came before: whoever took it then may have died before settling.
    pub(crate) unsettled: bool,
    pub(crate) kind: Kind,
    /// What edits made of it, or of the message that it edits.
    pub(crate) state: State,
}

impl Settlement {
    /// Whether Postgres has the event not here, or as another one.
    fn is_elsewhere(&self, place: Position) -> bool {
        place != self.position || self.stored != self.logged
    }
}

/// Redis had forgotten something, and has begun a generation.
#[derive(Clone, Debug)]
pub(crate) struct Settled {
    pub(crate) count: u64,
    pub(crate) generation: Generation,
    pub(crate) tell: Vec<Connection>,
}

impl Redis {
    /// Appends an event, once.
    pub(crate) fn post(
        &mut self,
        connection: Connection,
        event: Event,
        target_is_stored: bool,
        clock_ms: u64,
        fresh: Generation,
        rules: Rules,
    ) -> Posting {
        if !self.subscribers.contains(&connection) || self.head.is_none() {
            return Posting::NotJoined;
        }
        let forgotten = self.check_head(fresh, Position::ZERO, rules);
        let given = self.sent.get(&event.id).filter(|sent| sent.at_ms + DAY_MS > clock_ms).copied();
        let deleted = |target| self.is_deleted(target, Kind::Message);
        let (record, in_the_log) = match (given, event.kind) {
            (Some(sent), _) => {
                let log = self.log.get_or_insert_default();
                let there = log.entries.get(&sent.position).is_some_and(|entry| entry.event.id == event.id);
                (Record { event, position: sent.position, previous: sent.previous }, there)
            }
            (None, Kind::Edit { target, .. } | Kind::Delete { target })
                if deleted(target) || !(self.has_message(target) || target_is_stored) =>
            {
                return Posting::Refused;
            }
            (None, _) => (self.append(event, clock_ms), true),
        };
        let generation = self.head.map_or(fresh, |head| head.generation);
        let subscribers = self.subscribers.iter().copied().collect();
        Posting::Posted(Posted {
            fresh: given.is_none(),
            in_the_log,
            record,
            generation,
            subscribers,
            forgotten,
        })
    }

    fn append(&mut self, event: Event, clock_ms: u64) -> Record {
        let log = self.log.get_or_insert_default();
        let position = Position::at(clock_ms).max(log.last.next());
        let head = self.head.as_mut().expect("the head was checked");
        let previous = head.last;
        head.last = position;
        log.last = position;
        log.entries.insert(position, Entry { event, previous });
        self.sent.insert(event.id, Sent { position, previous, at_ms: clock_ms });
        match event.kind {
            Kind::Message => {}
            Kind::Edit { target, slot } => {
                set_slot(&mut self.now.entry(target).or_default().state, slot, (position, event.id));
            }
            Kind::Delete { target } => {
                self.now.insert(target, Now { state: State::new(), deleted: Some(event.id) });
                log.entries.retain(|_, entry| !is_of(entry.event, target));
            }
        }
        Record { event, position, previous }
    }

    /// Compares head and log. If there is no head, or they disagree, the room gets a new generation. Answers whether
    /// Redis has forgotten something.
    fn check_head(&mut self, fresh: Generation, since_if_new: Position, rules: Rules) -> bool {
        let given = self.log.as_ref().map_or(Position::ZERO, |log| log.last);
        match self.head {
            Some(head) if head.last == given => false,
            Some(_) if rules.breaks(Break::TrustsAHeadThatDisagrees) => false,
            Some(head) => {
                let newest = given.max(head.last);
                let (count, since) = (head.count + 1, newest.max(head.since));
                self.head = Some(Head { generation: fresh, count, last: newest, since });
                self.move_on(newest, rules);
                true
            }
            None => {
                self.head = Some(Head { generation: fresh, count: 0, last: given, since: since_if_new });
                self.move_on(given, rules);
                given > Position::ZERO
            }
        }
    }

    /// The head, if the log agrees with it.
    pub(crate) fn sound_head(&self) -> Option<Head> {
        let given = self.log.as_ref().map_or(Position::ZERO, |log| log.last);
        self.head.filter(|head| head.last == given)
    }

    /// The log gives no position up to this one any more.
    fn move_on(&mut self, to: Position, rules: Rules) {
        if self.log.is_none() && !rules.breaks(Break::KeepsNowWithoutLog) {
            self.now.clear();
        }
        let log = self.log.get_or_insert_default();
        log.last = log.last.max(to);
    }

    pub(crate) fn subscribe(&mut self, connection: Connection) {
        self.subscribers.insert(connection);
    }

    /// Subscribes a connection and reads what it missed. A head that it has to make is whole since nobody knows when:
    /// `compare` says it when Postgres was asked.
    pub(crate) fn join(
        &mut self,
        connection: Connection,
        after: Option<(Position, Generation)>,
        fresh: Generation,
        rules: Rules,
    ) -> Reading {
        let others: Vec<_> = self.subscribers.iter().copied().collect();
        let since_if_new = if rules.breaks(Break::NewHeadIsWholeAtOnce) {
            self.log.as_ref().map_or(Position::ZERO, |log| log.last)
        } else {
            Position::UNKNOWN
        };
        let forgotten = self.check_head(fresh, since_if_new, rules).then_some(others);
        if !rules.breaks(Break::JoinReadsBeforeSubscribing) {
            self.subscribe(connection);
        }
        let head = self.head.expect("the head was checked");
        let reset = after.is_some_and(|(position, generation)| {
            (generation != head.generation && !rules.breaks(Break::NobodyComparesGenerations))
                || (position > head.last && !rules.breaks(Break::NobodyNoticesAPositionAhead))
        });
        let part = match after {
            Some((position, _)) if !reset => Part::After(position),
            _ => Part::Newest,
        };
        Reading { reset, forgotten, ..self.read(head, part) }
    }

    /// Reads a page for a connection that has joined.
    pub(crate) fn page(&self, connection: Connection, part: Part) -> Option<Reading> {
        let head = self.sound_head().filter(|_| self.subscribers.contains(&connection))?;
        Some(self.read(head, part))
    }

    /// Reads all that a page may need; the real script reads only as much as the page holds.
    pub(crate) fn read(&self, head: Head, part: Part) -> Reading {
        let entries = self.log.iter().flat_map(|log| log.entries.iter());
        let wanted = entries.filter(|(position, _)| match part {
            Part::Newest => true,
            Part::After(after) => **position > after,
            Part::Before(before) => **position < before,
        });
        let entries = wanted.map(|(position, entry)| (*position, *entry)).collect();
        Reading { head, part, reset: false, entries, forgotten: None }
    }

    /// Compares with what Postgres knows, asked after the head was seen: makes a new head usable, finds out that an old
    /// one has forgotten. Changes nothing if the generation is another meanwhile.
    pub(crate) fn compare(
        &mut self,
        seen: Generation,
        known: Known,
        fresh: Generation,
        rules: Rules,
    ) -> Option<Settled> {
        if self.head.is_some() {
            self.check_head(fresh, Position::UNKNOWN, rules);
        }
        let given = self.log.as_ref().map_or(Position::ZERO, |log| log.last);
        let head =
            self.head.as_mut().filter(|head| head.generation == seen && known.is_ahead_of(**head, rules))?;
        let is_new = head.since == Position::UNKNOWN;
        if is_new {
            head.since = given;
        }
        // A new head begins a generation, too, for it can be a snapshot's.
        if !is_new || !rules.breaks(Break::NewHeadKeepsItsGeneration) {
            head.generation = fresh;
        }
        Some(self.begin_generation(known, known.newest, rules))
    }

    /// Counts a generation that cannot trust the log up to `lost`, and moves the log on to there.
    fn begin_generation(&mut self, known: Known, lost: Position, rules: Rules) -> Settled {
        let head = self.head.as_mut().expect("the caller has looked");
        head.count = head.count.max(known.count) + 1;
        head.since = head.since.max(lost);
        if !rules.breaks(Break::DoesNotMoveTheClockOn) {
            head.last = head.last.max(lost);
        }
        let Head { generation, count, last, .. } = *head;
        self.move_on(last, rules);
        Settled { count, generation, tell: self.subscribers.iter().copied().collect() }
    }

    /// The real script knows a message's position from `now` or from the caller.
    fn has_message(&self, message: EventId) -> bool {
        self.log.iter().flat_map(|log| log.entries.values()).any(|entry| entry.event.id == message)
    }

    fn has(&self, event: EventId, position: Position) -> bool {
        let entry = self.log.as_ref().and_then(|log| log.entries.get(&position));
        entry.is_some_and(|entry| entry.event.id == event)
    }

    /// Whether the log lacks an event only because its text was deleted.
    pub(crate) fn is_deleted(&self, event: EventId, kind: Kind) -> bool {
        let message = if let Kind::Edit { target, .. } = kind { target } else { event };
        self.now.get(&message).is_some_and(|now| now.deleted.is_some())
    }

    /// The oldest entries, when there are more than `hot`.
    pub(crate) fn oldest(&self, hot: usize) -> Vec<(Position, Entry)> {
        let entries = self.log.as_ref().map(|log| &log.entries);
        let surplus = entries.map_or(0, BTreeMap::len).saturating_sub(hot);
        entries.into_iter().flatten().take(surplus).map(|(position, entry)| (*position, *entry)).collect()
    }

    /// Takes entries that Postgres has out of the log.
    pub(crate) fn trim(&mut self, stored: &[(Position, Entry)]) {
        let (Some(head), Some(log)) = (self.head.as_mut(), self.log.as_mut()) else { return };
        for (position, _) in stored {
            // Should another event be there now, its record finds that it is not.
            if log.entries.remove(position).is_some() {
                head.since = head.since.max(*position);
            }
        }
        // What became of a message is kept while the log has it or what changed it.
        let kept = |event: &EventId| log.entries.values().any(|entry| entry.event.id == *event);
        self.now.retain(|message, now| {
            if !kept(message) {
                now.state.retain(|_, edit| kept(&edit.1));
            }
            !now.state.is_empty() || now.deleted.as_ref().is_some_and(kept)
        });
    }

    /// An idle room leaves. What was sent today is known on.
    pub(crate) fn expire(&mut self) {
        self.head = None;
        self.log = None;
        self.now.clear();
        self.subscribers.clear();
    }
}

/// Whether an event is a message or one of its edits.
pub(crate) fn is_of(event: Event, message: EventId) -> bool {
    event.id == message || matches!(event.kind, Kind::Edit { target, .. } if target == message)
}
