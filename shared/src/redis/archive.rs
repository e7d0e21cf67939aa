//! What only the archive does with a room's log, and what finds out that Redis has forgotten a part of it.

use redis::Value;

use super::{
    Call, MOST_ARGUMENTS, Redis, keys,
    rooms::{Answer, Head, fresh, parse_body},
};
use crate::{
    domain::{
        messages::{ConnectionId, EventId, Generation, Position},
        rooms::RoomId,
    },
    error::{Error, Result},
    postgres::{Known, Settlement, StoredRoom},
    protocol::{frames::EventBody, queue::ArchiveRecord},
};

/// How many events are compared by one run of the script: each takes a key and six arguments, and [`MOST_ARGUMENTS`] hold
/// for both together.
const MOST_SETTLED: usize = MOST_ARGUMENTS / 8;

/// How often a room may have to read again only because somebody uses ids again.
const RENAMED_PAUSE_SECONDS: u64 = 60;

/// What came of a comparison of a room's head with what Postgres knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Compared {
    /// They agree, or somebody else has begun a generation meanwhile: read again.
    Unchanged,
    /// A generation has begun.
    Begun {
        /// How many there have been.
        generations: u64,
    },
}

/// What came of a comparison of stored events with the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Settled {
    /// The room is not in Redis. Postgres has to remember that, should an old Redis come back.
    Absent {
        /// How many generations there have been.
        generations: u64,
    },
    /// Readers find everything.
    Agrees {
        /// How many entries the log has.
        length: usize,
        /// Some events have to come again.
        waits: bool,
    },
    /// Redis had forgotten something, and a generation has begun.
    Begun {
        /// How many entries the log has.
        length: usize,
        /// Some events have to come again.
        waits: bool,
        /// The generation.
        generation: Generation,
        /// How many there have been.
        generations: u64,
    },
}

impl Settled {
    /// What came of both parts of a comparison. One that has begun a generation is not outdone by one that has not.
    fn and(self, next: Self) -> Self {
        let is_waiting = self.waits() || next.waits();
        let mut both = match (self, next) {
            (begun @ Self::Begun { .. }, Self::Agrees { .. }) => begun,
            (_, next) => next,
        };
        if let Self::Agrees { waits, .. } | Self::Begun { waits, .. } = &mut both {
            *waits = is_waiting;
        }
        both
    }

    /// Whether some events have to come again.
    fn waits(&self) -> bool {
        matches!(self, Self::Agrees { waits: true, .. } | Self::Begun { waits: true, .. })
    }
}

/// An entry of a log.
#[derive(Debug)]
pub enum Entry {
    /// An event.
    Event(ArchiveRecord),
    /// Something that this release cannot read.
    Unreadable(Position),
}

impl Entry {
    /// Its place.
    pub fn position(&self) -> Position {
        match self {
            Self::Event(record) => record.position,
            Self::Unreadable(position) => *position,
        }
    }
}

impl Redis {
    /// Compares the head that was read with what Postgres knew after that, and begins a generation if they disagree. The
    /// connection that asks is not counted among those who have to be told.
    ///
    /// # Errors
    /// [`Error::Unavailable`] if Redis is away.
    pub async fn compare(
        &self,
        room: &RoomId,
        head: &Head,
        known: &Known,
        asking: &ConnectionId,
    ) -> Result<Compared> {
        const OPERATION: &str = "comparing a room with Postgres";
        let keys = [keys::head(room), keys::log(room), keys::subscribers(room)];
        let call = Call::of(&self.scripts.compare, keys)
            .arg(head.generation.as_str())
            .arg(fresh()?)
            .arg(known.newest.to_string())
            .arg(known.generations)
            .arg(asking.as_str())
            .arg(self.room_lifetime_seconds);
        let answer: Vec<Value> = self.run(call, OPERATION).await?;
        let mut answer = Answer::new(answer, OPERATION);
        if answer.next::<String>()? == "unchanged" {
            return Ok(Compared::Unchanged);
        }
        Ok(Compared::Begun { generations: answer.next()? })
    }

    /// Compares events that Postgres has just stored with the log. Takes out what Postgres has elsewhere or no more, and
    /// begins a generation if readers cannot have found one of them. Safe to repeat.
    ///
    /// # Errors
    /// [`Error::Unavailable`] if Redis is away.
    pub async fn settle(&self, room: &RoomId, stored: &StoredRoom) -> Result<Settled> {
        let mut parts = stored.events.chunks(MOST_SETTLED);
        let mut settled = self.settle_part(room, stored, parts.next().unwrap_or_default()).await?;
        for part in parts {
            let next = self.settle_part(room, stored, part).await?;
            settled = settled.and(next);
        }
        Ok(settled)
    }

    async fn settle_part(
        &self,
        room: &RoomId,
        stored: &StoredRoom,
        events: &[Settlement],
    ) -> Result<Settled> {
        const OPERATION: &str = "comparing what was stored with the log";
        let StoredRoom { known, lost, .. } = stored;
        let sent = events.iter().map(|event| keys::sent(room, event.logged));
        let keys = [keys::head(room), keys::log(room)].into_iter().chain(sent);
        let call = Call::of(&self.scripts.settle, keys)
            .arg(fresh()?)
            .arg(lost.map_or(String::new(), |lost| lost.to_string()))
            .arg(known.newest.to_string())
            .arg(known.generations)
            .arg(self.room_lifetime_seconds)
            .arg(RENAMED_PAUSE_SECONDS);
        let call = events.iter().fold(call, |call, event| {
            let Settlement { logged, stored, position, places, gone, unsettled } = event;
            let places: Vec<_> = places.iter().map(Position::to_string).collect();
            call.arg(logged.to_string())
                .arg(position.to_string())
                .arg(u8::from(*gone))
                .arg(u8::from(stored != logged))
                .arg(u8::from(*unsettled))
                .arg(places.join(" "))
        });
        let answer: Vec<Value> = self.run(call, OPERATION).await?;
        let mut answer = Answer::new(answer, OPERATION);
        Ok(match answer.next::<String>()?.as_str() {
            "absent" => Settled::Absent { generations: answer.next()? },
            "agrees" => Settled::Agrees { length: answer.next()?, waits: answer.flag()? },
            _ => Settled::Begun {
                length: answer.next()?,
                waits: answer.flag()?,
                generation: Generation::from_store(answer.next()?),
                generations: answer.next()?,
            },
        })
    }

    /// The oldest entries of a log after a position.
    ///
    /// # Errors
    /// [`Error::Unavailable`] if Redis is away.
    pub async fn oldest(&self, room: &RoomId, after: Position, count: usize) -> Result<Vec<Entry>> {
        const OPERATION: &str = "reading the oldest entries of a log";
        let mut command = redis::cmd("XRANGE");
        command.arg(keys::log(room)).arg(format!("({after}")).arg("+").arg("COUNT").arg(count);
        let entries: Vec<(String, Vec<String>)> = self.link.query(&command, OPERATION).await?;
        entries.iter().map(|(position, fields)| parse_entry(room, position, fields, OPERATION)).collect()
    }

    /// Takes entries out of a log that Postgres has at just these places. Answers how many were still there.
    ///
    /// # Errors
    /// [`Error::Unavailable`] if Redis is away.
    pub async fn trim(&self, room: &RoomId, entries: &[(Position, EventId)]) -> Result<usize> {
        let call = Call::of(&self.scripts.trim, [keys::head(room), keys::log(room)]);
        let call = entries
            .iter()
            .fold(call, |call, (position, event)| call.arg(position.to_string()).arg(event.to_string()));
        self.run(call, "trimming a log").await
    }
}

fn parse_entry(room: &RoomId, position: &str, fields: &[String], operation: &'static str) -> Result<Entry> {
    let parse = |raw: &str| Position::parse(raw).map_err(|cause| Error::internal(operation, cause));
    let at = parse(position)?;
    let [_, previous, _, body] = fields else { return Ok(Entry::Unreadable(at)) };
    let body: Result<EventBody> = parse_body(body, operation);
    let Ok(event) = body else { return Ok(Entry::Unreadable(at)) };
    let previous =
        Some(previous).filter(|previous| !previous.is_empty()).map(|raw| parse(raw)).transpose()?;
    Ok(Entry::Event(ArchiveRecord { room: room.clone(), position: at, previous, event }))
}
