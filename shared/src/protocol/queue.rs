//! The bodies of queue messages.

use serde::{Deserialize, Serialize};

use super::frames::EventBody;
use crate::domain::{messages::Position, rooms::RoomId};

/// An event on its way to Postgres.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ArchiveRecord {
    /// Where it was written.
    pub room: RoomId,
    /// Its place in the room's log.
    pub position: Position,
    /// The place before it; null when the log was empty.
    pub previous: Option<Position>,
    /// What the log holds of it.
    pub event: EventBody,
}
