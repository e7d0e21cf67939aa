//! The frames of the WebSocket API.

use std::{collections::BTreeMap, io};

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Author, Failure, Timestamp};
use crate::domain::{
    messages::{ClientId, EventId, Generation, Position, Text},
    rooms::RoomId,
    users::UserId,
};

/// The largest reply. The gateway refuses 128 KiB; the rest is for its own framing and for `ref`.
pub const LARGEST_REPLY_BYTES: usize = 96 * 1024;

/// What a logged event is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum EventKind {
    /// Somebody wrote something.
    Message,
    /// A message got another text.
    Edited,
    /// A message was deleted.
    Deleted,
    /// Somebody added a reaction to a message, or took it back.
    Reacted,
}

/// What the room's stream and the archive queue hold of an event: everything but its place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventBody {
    /// Its name for good.
    pub event: EventId,
    /// Who made it.
    pub from: Author,
    /// What it is, and what belongs to that.
    #[serde(flatten)]
    pub content: Content,
}

/// What belongs to each kind of event.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "lowercase")]
pub enum Content {
    /// Somebody wrote something.
    Message {
        /// What was written.
        text: Text,
        /// The client's own id, if it gave one.
        #[serde(skip_serializing_if = "Option::is_none")]
        id: Option<ClientId>,
        /// The message that it answers.
        #[serde(skip_serializing_if = "Option::is_none")]
        reply_to: Option<EventId>,
    },
    /// A message got another text.
    Edited {
        /// Which message.
        target: EventId,
        /// What it says now.
        text: Text,
    },
    /// A message was deleted, for good.
    Deleted {
        /// Which message.
        target: EventId,
    },
    /// Somebody added a reaction to a message, or took it back.
    Reacted {
        /// Which message.
        target: EventId,
        /// One emoji.
        emoji: String,
        /// Added, or taken back.
        on: bool,
    },
}

impl Content {
    /// What it is.
    pub fn kind(&self) -> EventKind {
        match self {
            Self::Message { .. } => EventKind::Message,
            Self::Edited { .. } => EventKind::Edited,
            Self::Deleted { .. } => EventKind::Deleted,
            Self::Reacted { .. } => EventKind::Reacted,
        }
    }
}

/// A logged event, as clients see it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Event {
    /// What it is.
    #[serde(rename = "type")]
    pub kind: EventKind,
    /// Where it was written.
    #[schema(value_type = String, example = "general")]
    pub room: RoomId,
    /// Its place in the room's one order.
    #[schema(value_type = String, example = "1795351680377-0")]
    pub position: Position,
    /// The place before it; null when the log was empty.
    #[schema(value_type = Option<String>, example = "1795351680123-0")]
    pub previous: Option<Position>,
    /// Its name for good.
    #[schema(value_type = uuid::Uuid)]
    pub event: EventId,
    /// Who made it.
    pub from: Author,
    /// What was written: 1–4,000 characters. In history, what the message says now; absent if it was deleted.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub text: Option<Text>,
    /// When, by Redis' clock.
    pub at: Timestamp,
    /// The id that the sender gave it, if any.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub id: Option<ClientId>,
    /// The message that it answers, if any.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<uuid::Uuid>)]
    pub reply_to: Option<EventId>,
    /// The message that it changes; with `edited`, `deleted` and `reacted`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<uuid::Uuid>)]
    pub target: Option<EventId>,
    /// With `reacted`: one emoji.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub emoji: Option<String>,
    /// With `reacted`: added, or taken back.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub on: Option<bool>,
    /// What has become of a message; in history.
    #[serde(flatten)]
    pub now: Now,
}

/// What later events made of a message, besides its text.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, ToSchema)]
pub struct Now {
    /// When it got its present text, if not from the start.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub edited_at: Option<Timestamp>,
    /// It was deleted, and has no text any more.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub deleted: bool,
    /// Who reacted with which emoji.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    #[schema(value_type = BTreeMap<String, Vec<uuid::Uuid>>)]
    pub reactions: BTreeMap<String, Vec<UserId>>,
}

impl Event {
    /// Puts a body in its place.
    pub fn new(room: RoomId, position: Position, previous: Option<Position>, body: EventBody) -> Self {
        let EventBody { event, from, content } = body;
        let (kind, at) = (content.kind(), Timestamp(position.at()));
        let (mut text, mut id, mut reply_to) = (None, None, None);
        let (mut target, mut emoji, mut on) = (None, None, None);
        match content {
            Content::Message { text: written, id: given, reply_to: answered } => {
                (text, id, reply_to) = (Some(written), given, answered);
            }
            Content::Edited { target: edited, text: written } => {
                (target, text) = (Some(edited), Some(written));
            }
            Content::Deleted { target: deleted } => target = Some(deleted),
            Content::Reacted { target: liked, emoji: with, on: added } => {
                (target, emoji, on) = (Some(liked), Some(with), Some(added));
            }
        }
        let now = Now::default();
        Self { kind, room, position, previous, event, from, text, at, id, reply_to, target, emoji, on, now }
    }
}

/// The reply to a frame. It travels as the route response.
#[derive(Debug, Serialize)]
#[serde(tag = "type", rename_all = "lowercase")]
pub enum Reply {
    /// The reply to `join`.
    Joined {
        /// The room.
        room: RoomId,
        /// The life of the room's log; positions of another one are no measure.
        generation: Generation,
        /// The newest position of the room; null while nothing was written.
        position: Option<Position>,
        /// With `after`: what came since, oldest first. Without: the newest.
        events: Vec<Event>,
        /// The events do not follow on from `after`: forget and begin anew.
        reset: bool,
        /// There is more than the answer holds.
        more: bool,
        /// How many users are in the room now.
        online: u64,
    },
    /// The reply to `leave`.
    Left {
        /// The room.
        room: RoomId,
    },
    /// The reply to `send`: the message is kept.
    Ack {
        /// The room.
        room: RoomId,
        /// The client's own id, if it gave one.
        #[serde(skip_serializing_if = "Option::is_none")]
        id: Option<ClientId>,
        /// The event's name for good.
        event: EventId,
        /// Its place.
        position: Position,
        /// The place before it, so that the sender can tell whether it missed something without a push of its own message.
        previous: Option<Position>,
        /// When it was logged.
        at: Timestamp,
    },
    /// The reply to `history`.
    History {
        /// The room.
        room: RoomId,
        /// The life of the room's log.
        generation: Generation,
        /// Oldest first.
        events: Vec<Event>,
        /// There is more than the answer holds.
        more: bool,
    },
    /// The reply to `ping`.
    Pong {
        /// Rooms in which something newer was logged than the client has, with the newest position.
        behind: BTreeMap<RoomId, Position>,
        /// Rooms in which this connection is not known (any more).
        rejoin: Vec<RoomId>,
    },
    /// The frame was not done.
    Error(Failure),
}

/// A reply with the `ref` of the frame it answers.
#[derive(Debug, Serialize)]
pub struct Referenced {
    /// The reply.
    #[serde(flatten)]
    pub reply: Reply,
    /// What the client wrote into `ref`.
    #[serde(rename = "ref", skip_serializing_if = "Option::is_none")]
    pub reference: Option<String>,
}

/// Pushed to a room's subscribers when Redis was found to have forgotten: read again.
#[derive(Debug, Serialize)]
#[serde(tag = "type", rename = "resync")]
pub struct Resync {
    /// The room.
    pub room: RoomId,
    /// The new life of its log.
    pub generation: Generation,
}

/// Which end of a page must survive when it is too large.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keep {
    /// A resume: what comes next first.
    Oldest,
    /// A look back: what is nearest to now first.
    Newest,
}

/// Cuts a page, oldest first, to what fits into one reply; also tells whether anything was cut.
///
/// # Errors
/// Only if an event cannot be serialised, which none can fail to.
pub fn cut_to_size(mut events: Vec<Event>, keep: Keep) -> serde_json::Result<(Vec<Event>, bool)> {
    // For the members of the reply around the events: room id, generation, positions, `ref` of 64 characters.
    const AROUND_BYTES: usize = 2 * 1024;
    let sizes = events.iter().map(size_bytes).collect::<serde_json::Result<Vec<_>>>()?;
    let mut left = LARGEST_REPLY_BYTES - AROUND_BYTES;
    let mut fits = |size: &&usize| match left.checked_sub(**size) {
        Some(rest) => {
            left = rest;
            true
        }
        None => false,
    };
    let kept = match keep {
        Keep::Oldest => sizes.iter().take_while(&mut fits).count(),
        Keep::Newest => sizes.iter().rev().take_while(&mut fits).count(),
    };
    let kept = kept_of(&events, keep, kept);
    let cut = events.len() - kept;
    match keep {
        Keep::Oldest => events.truncate(kept),
        Keep::Newest => drop(events.drain(..cut)),
    }
    Ok((events, 0 < cut))
}

/// How many of so many are kept if the cut may not fall between two events at one position, since a cursor is a position.
/// Two lives of a log may have given the same one.
fn kept_of(events: &[Event], keep: Keep, most: usize) -> usize {
    let is_between = |kept: usize| {
        let cut = match keep {
            Keep::Oldest => kept,
            Keep::Newest => events.len() - kept,
        };
        0 < cut && cut < events.len() && events[cut - 1].position == events[cut].position
    };
    // Rather cut there than keep nothing.
    (1..=most).rev().find(|kept| !is_between(*kept)).unwrap_or(most)
}

/// What an event takes in a list, with the comma behind it.
fn size_bytes(event: &Event) -> serde_json::Result<usize> {
    let mut written = Written(1);
    serde_json::to_writer(&mut written, event)?;
    Ok(written.0)
}

/// Counts the bytes that it is given, and keeps none.
struct Written(usize);

impl io::Write for Written {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 += bytes.len();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::domain::users::UserId;

    fn page(texts: impl IntoIterator<Item = String>) -> Vec<Event> {
        let event = |(index, text): (usize, String)| {
            let room = RoomId::from_store("general".to_owned());
            let author = UserId::new(Uuid::from_u128(1));
            let body = EventBody {
                event: EventId::of_request(&room, author, &index.to_string()),
                from: Author { id: author, name: "Ada Lovelace".to_owned() },
                content: Content::Message {
                    text: Text::parse(&text).expect("is a text"),
                    id: None,
                    reply_to: None,
                },
            };
            let position = Position::parse(&format!("1795351680123-{index}")).expect("is a position");
            Event::new(room, position, None, body)
        };
        texts.into_iter().enumerate().map(event).collect()
    }

    #[test]
    fn a_page_that_is_too_large_keeps_the_end_that_is_asked_for() {
        // Escaped, each is twice as long as typed.
        let all = page((0..50).map(|n| format!("{n}{}", "\"\\".repeat(1_900))));
        for keep in [Keep::Oldest, Keep::Newest] {
            let (kept, cut) = cut_to_size(all.clone(), keep).expect("serialises");
            assert!(cut && !kept.is_empty() && kept.len() < all.len());
            let expected = match keep {
                Keep::Oldest => &all[..kept.len()],
                Keep::Newest => &all[all.len() - kept.len()..],
            };
            assert_eq!(kept, expected);
            let reply = Reply::History {
                room: RoomId::from_store("general".to_owned()),
                generation: Generation::from_random(0),
                events: kept.clone(),
                more: cut,
            };
            let reference = Some("\u{1f980}".repeat(64));
            let bytes = serde_json::to_vec(&Referenced { reply, reference }).expect("serialises").len();
            assert!(bytes <= LARGEST_REPLY_BYTES, "{bytes} bytes");
            let one_more = size_bytes(&all[0]).expect("serialises");
            assert!(LARGEST_REPLY_BYTES < bytes + one_more + 2 * 1024, "another one would fit");
        }
    }

    #[test]
    fn a_page_is_not_cut_between_two_events_at_one_position() {
        let mut all = page((0..50).map(|n| format!("{n}{}", "\"\\".repeat(1_900))));
        for keep in [Keep::Oldest, Keep::Newest] {
            let (kept, _) = cut_to_size(all.clone(), keep).expect("serialises");
            let (end, next) = match keep {
                Keep::Oldest => (kept.len() - 1, kept.len()),
                Keep::Newest => (all.len() - kept.len(), all.len() - kept.len() - 1),
            };
            let other = all[next].position;
            all[next].position = all[end].position;
            let (fewer, cut) = cut_to_size(all.clone(), keep).expect("serialises");
            assert!(cut);
            assert_eq!(fewer.len(), kept.len() - 1);
            all[next].position = other;
        }
    }

    #[test]
    fn a_page_that_fits_is_whole() {
        let all = page(["one".to_owned(), "two".to_owned()]);
        assert_eq!(cut_to_size(all.clone(), Keep::Newest).expect("serialises"), (all, false));
        assert_eq!(cut_to_size(Vec::new(), Keep::Oldest).expect("serialises"), (Vec::new(), false));
    }
}
