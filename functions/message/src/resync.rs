//! Telling a room that Redis had forgotten a part of it.

use shared::{
    Result,
    domain::{
        messages::{ConnectionId, Generation},
        rooms::RoomId,
    },
    protocol::frames::Resync,
};

use tokio::time::Instant;

use crate::App;

/// Tells everybody in a room to read again, if they have to. Redis remembers that until it is done, so a failure costs
/// no more than a delay: the next frame in the room tries again.
pub(crate) async fn tell_if(
    forgotten: bool,
    app: &App,
    room: &RoomId,
    generation: &Generation,
    deadline: Instant,
) {
    if forgotten {
        tell_or_log(app, room, generation, None, deadline).await;
    }
}

/// The same, but for one connection that knows already.
pub(crate) async fn tell_others_if(
    forgotten: bool,
    app: &App,
    room: &RoomId,
    generation: &Generation,
    knows: &ConnectionId,
    deadline: Instant,
) {
    if forgotten {
        tell_or_log(app, room, generation, Some(knows), deadline).await;
    }
}

async fn tell_or_log(
    app: &App,
    room: &RoomId,
    generation: &Generation,
    knows: Option<&ConnectionId>,
    deadline: Instant,
) {
    tracing::warn!(room.id = %room, generation = generation.as_str(), "Redis has forgotten a part of the room's log");
    if let Err(error) = tell(app, room, generation, knows, deadline).await {
        tracing::warn!(room.id = %room, cause = error.cause_chain(), "a room could not be told to read again");
    }
}

async fn tell(
    app: &App,
    room: &RoomId,
    generation: &Generation,
    knows: Option<&ConnectionId>,
    deadline: Instant,
) -> Result<()> {
    let frame = Resync { room: room.clone(), generation: generation.clone() };
    let frame = serde_json::to_string(&frame).expect("two strings serialise");
    let subscribers = app.redis.subscribers(room).await?;
    let receivers = subscribers.iter().filter(|subscriber| Some(&subscriber.connection) != knows);
    app.connections.push(room, &frame, &receivers.collect::<Vec<_>>(), deadline).await;
    app.redis.note_told(room, generation).await
}
