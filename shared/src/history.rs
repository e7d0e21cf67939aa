//! A room's history without seam: what the log in Redis has, and what only Postgres has.
//!
//! After `since` the log is whole and alone answers, also while Postgres is away. Up to `since` history is both together,
//! by the names of the events: what the archive has stored stands at the place that Postgres gives it, what is still on
//! its way there stands where the log has it. The log must be read first: what is trimmed meanwhile is in Postgres then.

use std::collections::HashSet;

use crate::{
    domain::{
        messages::{EventId, Position},
        rooms::RoomId,
    },
    error::Result,
    postgres::{Postgres, Stretch},
    protocol::frames::{Event, EventKind},
};

/// What the log has of a page.
#[derive(Debug)]
pub struct LogPart {
    /// The log is whole after this position.
    pub since: Position,
    /// Oldest first.
    pub events: Vec<Event>,
    /// The log has more beyond them, in the direction of reading.
    pub more: bool,
}

/// A page, oldest first.
#[derive(Debug, PartialEq)]
pub struct Page {
    /// The events.
    pub events: Vec<Event>,
    /// There is more beyond them, in the direction of reading.
    pub more: bool,
}

/// Everything that was logged after a position, as it was logged: for a resume.
///
/// # Errors
/// [`crate::Error::Unavailable`] if Postgres is needed and away.
pub async fn events_after(
    postgres: &Postgres,
    room: &RoomId,
    after: Position,
    limit: usize,
    log: LogPart,
) -> Result<Page> {
    if log.since <= after {
        return Ok(Page { events: log.events, more: log.more });
    }
    let since = log.since;
    let log = drop_stored(postgres, room, log).await?;
    let stretch = postgres.events_after(room, after, since, limit).await?;
    Ok(merge(Direction::Forwards, limit, log, stretch))
}

/// Messages after a position, as they are now: for somebody who pages through.
///
/// # Errors
/// [`crate::Error::Unavailable`] if Postgres is needed and away.
pub async fn messages_after(
    postgres: &Postgres,
    room: &RoomId,
    after: Position,
    limit: usize,
    log: LogPart,
) -> Result<Page> {
    if log.since <= after {
        return Ok(Page { events: messages_of(log.events), more: log.more });
    }
    let since = log.since;
    let mut log = drop_stored(postgres, room, log).await?;
    log.events = messages_of(log.events);
    let stretch = postgres.messages_after(room, after, since, limit).await?;
    Ok(merge(Direction::Forwards, limit, log, stretch))
}

/// Messages before a position, as they are now; before [`Position::END`] are the newest.
///
/// # Errors
/// [`crate::Error::Unavailable`] if Postgres is needed and away.
pub async fn messages_before(
    postgres: &Postgres,
    room: &RoomId,
    before: Position,
    limit: usize,
    log: LogPart,
) -> Result<Page> {
    let LogPart { since, events, more } = log;
    let is_whole = events.first().is_some_and(|oldest| since < oldest.position);
    let whole =
        events.iter().filter(|event| since < event.position && event.kind == EventKind::Message).count();
    // The page ends where the log is still whole: whether there is anything before it is for the next page to find out.
    if since == Position::BEGINNING || limit <= whole || (more && is_whole) {
        let events = messages_of(events);
        let surplus = events.len().saturating_sub(limit);
        let more = more || 0 < surplus || Position::BEGINNING < since;
        return Ok(Page { events: events.into_iter().skip(surplus).collect(), more });
    }
    let mut log = drop_stored(postgres, room, LogPart { since, events, more }).await?;
    log.events = messages_of(log.events);
    let stretch = postgres.messages_before(room, before, since, limit).await?;
    Ok(merge(Direction::Backwards, limit, log, stretch))
}

fn messages_of(mut events: Vec<Event>) -> Vec<Event> {
    events.retain(|event| event.kind == EventKind::Message);
    events
}

/// What the log has up to `since` and Postgres has as well stands where Postgres has it, perhaps on another page. To be
/// asked before Postgres' part is read: what is stored in between is in both parts then, and not in neither.
async fn drop_stored(postgres: &Postgres, room: &RoomId, log: LogPart) -> Result<Sifted> {
    let doubtful = log.events.iter().filter(|event| event.position <= log.since);
    let doubtful: Vec<EventId> = doubtful.map(|event| event.event).collect();
    let ends =
        (log.events.first().map(|event| event.position), log.events.last().map(|event| event.position));
    let LogPart { since, mut events, more } = log;
    if !doubtful.is_empty() {
        let stored = postgres.stored_among(room, &doubtful).await?;
        events.retain(|event| since < event.position || !stored.contains(&event.event));
    }
    Ok(Sifted { events, more, ends })
}

/// What the log alone knows of a page, and how far it was read.
struct Sifted {
    events: Vec<Event>,
    more: bool,
    ends: (Option<Position>, Option<Position>),
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Direction {
    Forwards,
    Backwards,
}

/// Puts both parts in order, as far as both were read, and cuts behind `limit`, but not between equal places.
fn merge(direction: Direction, limit: usize, log: Sifted, stretch: Stretch) -> Page {
    let (oldest, newest) = log.ends;
    let stretch_end = stretch.events.last().map(|event| event.position);
    let stored: HashSet<EventId> = stretch.events.iter().map(|event| event.event).collect();
    let mut events = log.events;
    events.retain(|event| !stored.contains(&event.event));
    events.extend(stretch.events);
    let mut more = log.more || stretch.more;
    match direction {
        Direction::Forwards => {
            let log_end = newest.filter(|_| log.more);
            let read = log_end.into_iter().chain(stretch_end.filter(|_| stretch.more)).min();
            events.retain(|event| read.is_none_or(|read| event.position <= read));
            events.sort_by_key(|event| (event.position, event.event));
            let end = end_of(&events, limit);
            more |= end < events.len();
            events.truncate(end);
        }
        Direction::Backwards => {
            let log_end = oldest.filter(|_| log.more);
            let read = log_end.into_iter().chain(stretch_end.filter(|_| stretch.more)).max();
            events.retain(|event| read.is_none_or(|read| read <= event.position));
            events.sort_by_key(|event| std::cmp::Reverse((event.position, event.event)));
            let end = end_of(&events, limit);
            more |= end < events.len();
            events.truncate(end);
            events.reverse();
        }
    }
    Page { events, more }
}

/// Behind the last event that was asked for and all others at its place.
fn end_of(events: &[Event], limit: usize) -> usize {
    let mut end = limit.min(events.len());
    while 0 < end && end < events.len() && events[end].position == events[end - 1].position {
        end += 1;
    }
    end
}
