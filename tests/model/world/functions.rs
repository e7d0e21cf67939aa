//! Functions at work. Each step is one call of a store; between two, anything may happen, also the function's end.

use crate::{
    pages::{needs_postgres, page},
    postgres::{Known, Postgres, Stored},
    redis::{Entry, Head, Posted, Posting, Reading, Redis},
    rules::Break,
    types::{Connection, Event, Frame, Generation, Kind, Part, Position, Pushed, Record},
    world::World,
};

/// A function at work. Each step is one call of a store; between two, anything may happen, also its end.
#[derive(Clone, Debug)]
pub(super) enum Work {
    Send {
        connection: Connection,
        event: Event,
    },
    Deliver {
        connection: Connection,
        posted: Posted,
        todo: Vec<Errand>,
        refused: bool,
    },
    Join {
        connection: Connection,
        reference: u64,
        after: Option<(Position, Generation)>,
        admitted: bool,
    },
    /// Postgres is asked after the script.
    Joined {
        connection: Connection,
        reference: u64,
        after: Option<(Position, Generation)>,
        reading: Reading,
    },
    /// Only where the subscription comes last, on purpose wrong.
    SubscribeLate {
        connection: Connection,
        frame: Box<Frame>,
    },
    History {
        connection: Connection,
        reference: u64,
        part: Part,
        before: Option<Postgres>,
    },
    Page {
        connection: Connection,
        reference: u64,
        part: Part,
        reading: Reading,
    },
    Ping {
        connection: Connection,
        position: Position,
        generation: Generation,
    },
    Store {
        records: Vec<(u64, Record)>,
    },
    Settle {
        records: Vec<(u64, Record)>,
        stored: Stored,
    },
    Trim {
        entries: Vec<(Position, Entry)>,
    },
    Trimming {
        stored: Stored,
        removable: Vec<(Position, Entry)>,
    },
    Tell {
        generation: Generation,
        todo: Vec<Connection>,
        then: Box<Work>,
    },
    Remember {
        count: u64,
        then: Box<Work>,
    },
    Remove {
        records: Vec<(u64, Record)>,
    },
}

impl Work {
    /// The queue records in hand.
    pub(super) fn records(&self) -> &[(u64, Record)] {
        match self {
            Self::Tell { then, .. } | Self::Remember { then, .. } => then.records(),
            Self::Store { records } | Self::Settle { records, .. } | Self::Remove { records } => records,
            _ => &[],
        }
    }

    /// What a batch did that is under way.
    pub(super) fn stored(&self) -> Option<&Stored> {
        match self {
            Self::Tell { then, .. } | Self::Remember { then, .. } => then.stored(),
            Self::Settle { stored, .. } | Self::Trimming { stored, .. } => Some(stored),
            _ => None,
        }
    }
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Errand {
    Queue,
    Push(Connection),
    Resync(Connection),
}

impl World {
    pub(super) fn call(&mut self, work: Work) {
        let id = self.fresh();
        self.calls.push((id, work));
    }

    pub(super) fn step_a_call(&mut self) {
        if self.calls.is_empty() {
            return;
        }
        // Some calls are slow: what came last is often first.
        let newest = self.calls.len() - 1;
        let index = if self.rng.chance(40) { newest } else { self.rng.below(self.calls.len()) };
        let (id, work) = self.calls.remove(index);
        self.note(|| format!("call {id} does {work:?}"));
        if let Some(next) = self.work(work) {
            self.calls.push((id, next));
        }
        if self.trace.is_some() {
            let Redis { head, log, .. } = &self.redis;
            let state = match (head, log) {
                (Some(head), Some(log)) => {
                    let Head { generation, last, since, .. } = head;
                    format!("  generation {generation} last {last:?} since {since:?} log {:?} ", log.entries)
                }
                _ => format!("  {head:?} {log:?}"),
            };
            self.note(|| state);
        }
    }

    /// One step of a function; what is left to do.
    fn work(&mut self, work: Work) -> Option<Work> {
        match work {
            Work::Send { connection, event } => self.post(connection, event),
            Work::Deliver { connection, posted, todo, refused } => {
                self.deliver(connection, posted, todo, refused)
            }
            Work::Join { connection, reference, after, admitted: false } => {
                // Whether the user may take part.
                self.ask_postgres(connection, reference)?;
                Some(Work::Join { connection, reference, after, admitted: true })
            }
            Work::Join { connection, reference, after, admitted: true } => {
                let fresh = self.fresh_generation();
                let reading = self.redis.join(connection, after, fresh, self.rules);
                self.forgotten += usize::from(reading.forgotten.is_some());
                let tell = reading.forgotten.clone();
                Some(Self::tell(tell, fresh, Work::Joined { connection, reference, after, reading }))
            }
            Work::Joined { connection, reference, after, reading } => {
                self.joined(connection, reference, after, reading)
            }
            Work::SubscribeLate { connection, frame } => {
                self.redis.subscribe(connection);
                self.reply(connection, *frame);
                None
            }
            Work::History { connection, reference, part, before } => {
                self.history(connection, reference, part, before)
            }
            Work::Page { connection, reference, part, reading } => {
                self.page(connection, reference, part, &reading);
                None
            }
            Work::Ping { connection, position, generation } => {
                self.pong(connection, position, generation);
                None
            }
            Work::Tell { generation, mut todo, then } => {
                let Some(connection) = todo.pop() else { return Some(*then) };
                self.push(connection, Frame::Resync { generation });
                Some(Work::Tell { generation, todo, then })
            }
            Work::Remember { count, then } => {
                if self.postgres_is_away {
                    return None;
                }
                if !self.rules.breaks(Break::DoesNotCountGenerations) {
                    self.postgres.remember(count);
                }
                Some(*then)
            }
            Work::Store { .. }
            | Work::Settle { .. }
            | Work::Remove { .. }
            | Work::Trim { .. }
            | Work::Trimming { .. } => self.archive(work),
        }
    }

    /// The function fails if Postgres is away.
    fn ask_postgres(&mut self, connection: Connection, reference: u64) -> Option<Known> {
        if self.postgres_is_away {
            self.reply(connection, Frame::Failed { reference });
            return None;
        }
        Some(self.postgres.known())
    }

    /// One errand of `post`, in whatever order; the ack when all are done.
    fn deliver(
        &mut self,
        connection: Connection,
        posted: Posted,
        mut todo: Vec<Errand>,
        mut refused: bool,
    ) -> Option<Work> {
        if todo.is_empty() {
            if !refused && !self.rules.breaks(Break::AcksBeforeTheQueue) {
                self.ack(connection, &posted);
            }
            return None;
        }
        let pushed = Pushed { generation: posted.generation, record: posted.record };
        match todo.swap_remove(self.rng.below(todo.len())) {
            Errand::Queue if self.queue_refuses => refused = true,
            Errand::Queue => {
                let id = self.fresh();
                self.queue.push((id, posted.record));
            }
            Errand::Push(to) => self.push(to, Frame::Event(pushed)),
            Errand::Resync(to) => self.push(to, Frame::Resync { generation: posted.generation }),
        }
        Some(Work::Deliver { connection, posted, todo, refused })
    }

    fn history(
        &mut self,
        connection: Connection,
        reference: u64,
        part: Part,
        before: Option<Postgres>,
    ) -> Option<Work> {
        if self.rules.breaks(Break::AsksPostgresBeforeRedis) && before.is_none() {
            let before = Some(self.postgres.clone());
            return Some(Work::History { connection, reference, part, before });
        }
        let Some(reading) = self.redis.page(connection, part) else {
            self.reply(connection, Frame::NotJoined);
            return None;
        };
        if let Some(before) = before {
            self.reply_page(connection, reference, part, &reading, Some(&before));
            return None;
        }
        Some(Work::Page { connection, reference, part, reading })
    }

    fn page(&mut self, connection: Connection, reference: u64, part: Part, reading: &Reading) {
        if !needs_postgres(reading, self.weather.limit, self.rules) {
            self.reply_page(connection, reference, part, reading, None);
        } else if self.ask_postgres(connection, reference).is_some() {
            let postgres = std::mem::take(&mut self.postgres);
            self.reply_page(connection, reference, part, reading, Some(&postgres));
            self.postgres = postgres;
        }
    }

    fn pong(&mut self, connection: Connection, position: Position, generation: Generation) {
        let head = self.redis.sound_head().filter(|_| self.redis.subscribers.contains(&connection));
        let current =
            |head: Head| head.generation == generation || self.rules.breaks(Break::PingIgnoresTheGeneration);
        let last = head.map_or(Position::ZERO, |head| head.last);
        let ahead = position > last && !self.rules.breaks(Break::NobodyNoticesAPositionAhead);
        let rejoin = ahead || !head.is_some_and(current);
        self.reply(connection, Frame::Pong { behind: position < last, rejoin });
    }

    pub(super) fn post(&mut self, connection: Connection, event: Event) -> Option<Work> {
        let fresh = self.fresh_generation();
        let clock = self.redis_clock();
        // Asked for before, if the log does not have it.
        let target_is_stored = match event.kind {
            Kind::Message => true,
            _ if self.rules.breaks(Break::EditsWhatIsNotThere) => true,
            Kind::Edit { target, .. } | Kind::Delete { target } => {
                !self.postgres_is_away && self.postgres.rows.get(&target).is_some_and(|row| !row.gone)
            }
        };
        let posted = match self.redis.post(connection, event, target_is_stored, clock, fresh, self.rules) {
            Posting::NotJoined => {
                self.reply(connection, Frame::NotJoined);
                return None;
            }
            Posting::Refused => {
                self.reply(connection, Frame::Refused { event: event.id });
                return None;
            }
            Posting::Posted(posted) => posted,
        };
        if posted.fresh {
            self.appended.push(posted.record);
        }
        let mut todo = Vec::new();
        if posted.fresh || !self.rules.breaks(Break::DoesNotQueueARepeat) {
            todo.push(Errand::Queue);
        }
        if posted.in_the_log {
            let others = posted.subscribers.iter().filter(|to| **to != connection);
            todo.extend(others.map(|to| Errand::Push(*to)));
        }
        if posted.forgotten {
            self.forgotten += 1;
            todo.extend(posted.subscribers.iter().map(|to| Errand::Resync(*to)));
        }
        if self.rules.breaks(Break::AcksBeforeTheQueue) {
            self.ack(connection, &posted);
        }
        Some(Work::Deliver { connection, posted, todo, refused: false })
    }

    pub(super) fn ack(&mut self, connection: Connection, posted: &Posted) {
        self.reply(connection, Frame::Ack(Pushed { generation: posted.generation, record: posted.record }));
    }

    pub(super) fn joined(
        &mut self,
        connection: Connection,
        reference: u64,
        after: Option<(Position, Generation)>,
        reading: Reading,
    ) -> Option<Work> {
        let known = self.ask_postgres(connection, reference)?;
        let is_new = reading.head.since == Position::UNKNOWN;
        let asks = is_new || !self.rules.breaks(Break::JoinDoesNotAskPostgres);
        if asks && known.is_ahead_of(reading.head, self.rules) {
            let fresh = self.fresh_generation();
            let settled = self.redis.compare(reading.head.generation, known, fresh, self.rules);
            self.forgotten += usize::from(settled.is_some() && !is_new);
            let again = Work::Join { connection, reference, after, admitted: true };
            return Some(Self::and_tell(settled, again));
        }
        let (events, more) = {
            let postgres = needs_postgres(&reading, self.weather.limit, self.rules).then_some(&self.postgres);
            page(&reading, self.weather.limit, postgres, &self.redis.now, self.rules)
        };
        let Reading { head: Head { generation, last: position, .. }, reset, .. } = reading;
        self.check_join(&reading, &events, more);
        let frame = Frame::Joined { reference, generation, position, reset, events, more };
        if self.rules.breaks(Break::JoinReadsBeforeSubscribing) {
            return Some(Work::SubscribeLate { connection, frame: Box::new(frame) });
        }
        self.reply(connection, frame);
        None
    }

    pub(super) fn reply_page(
        &mut self,
        connection: Connection,
        reference: u64,
        part: Part,
        reading: &Reading,
        postgres: Option<&Postgres>,
    ) {
        let (events, more) = page(reading, self.weather.limit, postgres, &self.redis.now, self.rules);
        let Head { generation, last: position, .. } = reading.head;
        self.reply(connection, Frame::Page { reference, part, generation, position, events, more });
    }

    pub(super) fn tell(connections: Option<Vec<Connection>>, generation: Generation, then: Work) -> Work {
        match connections {
            Some(todo) => Work::Tell { generation, todo, then: Box::new(then) },
            None => then,
        }
    }
}
