//! The frames of the WebSocket API.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use utoipa::ToSchema;

use super::{Author, Failure, Timestamp};
use crate::domain::{
    messages::{ClientId, EventId, Generation, Position, Text},
    rooms::RoomId,
};

/// The largest reply. The gateway refuses 128 KiB; the rest is for its own framing and for `ref`.
pub const LARGEST_REPLY_BYTES: usize = 96 * 1024;

/// What a logged event is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum EventKind {
    /// Somebody wrote something.
    Message,
}

/// What the room's stream holds of an event: everything but its place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventBody {
    /// What it is.
    #[serde(rename = "type")]
    pub kind: EventKind,
    /// Its name for good.
    pub event: EventId,
    /// Who made it.
    pub from: Author,
    /// What was written.
    pub text: Text,
    /// The client's own id, if it gave one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<ClientId>,
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
    /// What was written: 1–4,000 characters.
    #[schema(value_type = String)]
    pub text: Text,
    /// When, by Redis' clock.
    pub at: Timestamp,
    /// The id that the sender gave it, if any.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub id: Option<ClientId>,
}

impl Event {
    /// Puts a body in its place.
    pub fn new(room: RoomId, position: Position, previous: Option<Position>, body: EventBody) -> Self {
        let EventBody { kind, event, from, text, id } = body;
        Self { kind, room, position, previous, event, from, text, at: Timestamp(position.at()), id }
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
        events: Vec<Box<RawValue>>,
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
        events: Vec<Box<RawValue>>,
        /// There is more than the answer holds.
        more: bool,
    },
    /// The reply to `ping`.
    Pong {
        /// Rooms in which something newer was logged than the client has, with the newest position.
        behind: std::collections::BTreeMap<RoomId, Position>,
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
pub fn cut_to_size(events: &[Event], keep: Keep) -> serde_json::Result<(Vec<Box<RawValue>>, bool)> {
    // For the members of the reply around the events: room id, generation, positions, `ref` of 64 characters.
    const AROUND_BYTES: usize = 2 * 1024;
    let mut left = LARGEST_REPLY_BYTES - AROUND_BYTES;
    let mut kept = Vec::with_capacity(events.len());
    let mut take = |event: &Event| -> serde_json::Result<bool> {
        let json = serde_json::value::to_raw_value(event)?;
        let Some(rest) = left.checked_sub(json.get().len() + 1) else { return Ok(false) };
        left = rest;
        kept.push(json);
        Ok(true)
    };
    match keep {
        Keep::Oldest => {
            for event in events {
                if !take(event)? {
                    break;
                }
            }
        }
        Keep::Newest => {
            for event in events.iter().rev() {
                if !take(event)? {
                    break;
                }
            }
            kept.reverse();
        }
    }
    let cut = kept.len() < events.len();
    Ok((kept, cut))
}
