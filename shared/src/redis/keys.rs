//! Every key, in one place.
//!
//! Safe on a cluster: the part in braces is the hash tag, and all keys of one script carry the same one.

use sha2::{Digest, Sha256};

use crate::{
    domain::{
        messages::{ConnectionId, EventId},
        rates::Rate,
        rooms::RoomId,
        users::UserId,
    },
    token::TokenHash,
};

/// Who may open a socket with a ticket, and by which session. 30 s.
pub(super) fn ticket(ticket: &TokenHash) -> String {
    format!("ticket:{{{ticket}}}")
}

/// Hash connection → `<session> <since>`, with `-` before it once the session has ended.
pub(super) fn user_connections(user: UserId) -> String {
    format!("user:{{{user}}}:connections")
}

/// There if a connection of the user is gone. 5 min.
pub(super) fn user_gone(user: UserId, connection: &ConnectionId) -> String {
    format!("user:{{{user}}}:gone:{connection}")
}

/// The times of a user's last frames of a kind, newest first.
pub(super) fn user_throttle(user: UserId, kind: &str, rate: Rate) -> String {
    format!("user:{{{user}}}:throttle:{kind}:{rate}")
}

/// How often a repeated send has passed the throttle uncounted. 2 min.
pub(super) fn user_admitted(user: UserId, event: Option<EventId>) -> String {
    match event {
        Some(event) => format!("user:{{{user}}}:admitted:{event}"),
        None => format!("user:{{{user}}}:admitted"),
    }
}

/// The times of the last calls of one address or account. The subject may be an e-mail address: it is hashed.
pub(super) fn throttle(kind: &str, subject: &str, rate: Rate) -> String {
    let digest = Sha256::digest(subject.as_bytes());
    let subject: String = digest[..16].iter().map(|byte| format!("{byte:02x}")).collect();
    format!("throttle:{{{kind}:{subject}}}:{rate}")
}

/// The rooms that a connection has joined, for the clean-up. 2 h 10 min.
pub(super) fn connection(connection: &ConnectionId) -> String {
    format!("connection:{{{connection}}}")
}

/// Generation, last position, versions of subscribers and of access; see `room.lua`.
pub(super) fn head(room: &RoomId) -> String {
    format!("room:{{{room}}}:head")
}

/// The stream of events.
pub(super) fn log(room: &RoomId) -> String {
    format!("room:{{{room}}}:log")
}

/// Hash connection → `<user> <since>`: who gets pushes.
pub(super) fn subscribers(room: &RoomId) -> String {
    format!("room:{{{room}}}:subscribers")
}

/// Hash user → `<connections> <name>`: who is in the room.
pub(super) fn online(room: &RoomId) -> String {
    format!("room:{{{room}}}:online")
}

/// The position that an event was given, and the one before. 24 h if the client can repeat it.
pub(super) fn sent(room: &RoomId, event: EventId) -> String {
    format!("room:{{{room}}}:sent:{event}")
}
