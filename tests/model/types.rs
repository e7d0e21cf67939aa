//! What the parts of the model tell each other.

use std::{collections::BTreeMap, fmt};

/// A position as Redis gives it: milliseconds and a number within the millisecond. `ZERO` is before all.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(crate) struct Position(u64);

/// How many positions a millisecond of the model has.
const IN_A_MILLISECOND: u64 = 1000;

impl Position {
    pub(crate) const ZERO: Self = Self(0);
    /// Larger than every position: a log of which nobody has said yet since when it is whole.
    pub(crate) const UNKNOWN: Self = Self(u64::MAX);

    pub(crate) fn at(milliseconds: u64) -> Self {
        Self(milliseconds * IN_A_MILLISECOND)
    }

    pub(crate) fn milliseconds(self) -> u64 {
        self.0 / IN_A_MILLISECOND
    }

    pub(crate) fn next(self) -> Self {
        self.plus(1)
    }

    pub(crate) fn plus(self, more: u64) -> Self {
        Self(self.0 + more)
    }
}

impl fmt::Debug for Position {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if *self == Self::UNKNOWN {
            return formatter.write_str("?");
        }
        write!(formatter, "{}-{}", self.0 / IN_A_MILLISECOND, self.0 % IN_A_MILLISECOND)
    }
}

/// Time in which a client id stands for one message.
pub(crate) const DAY_MS: u64 = 86_400_000;

/// An event's id. `name` stands for room, author and client id; `again` tells a message apart whose client id was
/// used for another one more than a day before. Only the archive finds that out.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct EventId {
    pub(crate) name: u32,
    pub(crate) again: Position,
}

impl EventId {
    pub(crate) fn new(name: u32) -> Self {
        Self { name, again: Position::ZERO }
    }
}

impl fmt::Debug for EventId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "e{}", self.name)?;
        if self.again == Position::ZERO { Ok(()) } else { write!(formatter, "'{:?}", self.again) }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    Message,
    /// Sets one slot of its target: 0 is the text, the others are somebody's reaction. The largest position wins.
    Edit {
        target: EventId,
        slot: u8,
    },
    Delete {
        target: EventId,
    },
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Event {
    pub(crate) id: EventId,
    pub(crate) kind: Kind,
}

impl Event {
    /// The message that it is, or changes.
    pub(crate) fn message(self) -> EventId {
        match self.kind {
            Kind::Message => self.id,
            Kind::Edit { target, .. } | Kind::Delete { target } => target,
        }
    }
}

impl fmt::Debug for Event {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            Kind::Message => write!(formatter, "{:?}", self.id),
            Kind::Edit { target, slot } => write!(formatter, "{:?}=edit({target:?}.{slot})", self.id),
            Kind::Delete { target } => write!(formatter, "{:?}=delete({target:?})", self.id),
        }
    }
}

/// What edits made of a message: slot → the edit that won. An edit's id stands for the value that it sets.
pub(crate) type State = BTreeMap<u8, (Position, EventId)>;

/// Sets a slot unless a later edit has.
pub(crate) fn set_slot(state: &mut State, slot: u8, edit: (Position, EventId)) {
    let current = state.entry(slot).or_insert(edit);
    *current = (*current).max(edit);
}

/// An event in a page of history: a message as it is now, the others as they were logged.
#[derive(Clone, PartialEq)]
pub(crate) struct Shown {
    pub(crate) event: Event,
    pub(crate) position: Position,
    /// Only what comes from the log has it.
    pub(crate) previous: Option<Position>,
    pub(crate) state: State,
}

impl fmt::Debug for Shown {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:?}@{:?} {:?}", self.event, self.position, self.state)
    }
}

/// What goes through the archive queue.
#[derive(Clone, Copy, PartialEq)]
pub(crate) struct Record {
    pub(crate) event: Event,
    pub(crate) position: Position,
    pub(crate) previous: Position,
}

impl fmt::Debug for Record {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:?}@{:?} (after {:?})", self.event, self.position, self.previous)
    }
}

/// A logged event on its way to one connection, or the ack of one's own.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pushed {
    pub(crate) generation: Generation,
    pub(crate) record: Record,
}

/// A random value in the real thing: it can only be compared.
pub(crate) type Generation = u32;

/// A WebSocket. Ids are never given twice.
pub(crate) type Connection = u32;

/// One call of a function.
pub(crate) type CallId = u64;

/// Which part of a room's history is asked for.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Part {
    Newest,
    /// All events after a position.
    After(Position),
    /// Messages before a position.
    Before(Position),
}

/// What reaches a client.
#[derive(Clone, Debug)]
pub(crate) enum Frame {
    Joined {
        reference: u64,
        generation: Generation,
        position: Position,
        reset: bool,
        events: Vec<Shown>,
        more: bool,
    },
    Page {
        reference: u64,
        part: Part,
        generation: Generation,
        position: Position,
        events: Vec<Shown>,
        more: bool,
    },
    /// The question could not be answered.
    Failed {
        reference: u64,
    },
    NotJoined,
    Event(Pushed),
    Ack(Pushed),
    /// The target is deleted.
    Refused {
        event: EventId,
    },
    Resync {
        generation: Generation,
    },
    Pong {
        behind: bool,
        rejoin: bool,
    },
}
