//! Telling a room that Redis had forgotten a part of it.

use shared::{
    Result,
    domain::{messages::Generation, rooms::RoomId},
    protocol::frames::Resync,
};

use tokio::time::Instant;

use crate::App;

/// Tells everybody in a room to read again, if they have to. Redis remembers that until everybody has been told or is in
/// the fan-out queue, so a failure costs no more than a delay: the next frame in the room tries again.
pub(crate) async fn tell_if(
    forgotten: bool,
    app: &App,
    room: &RoomId,
    generation: &Generation,
    deadline: Instant,
) {
    if !forgotten {
        return;
    }
    tracing::warn!(room.id = %room, generation = generation.as_str(), "Redis has forgotten a part of the room's log");
    if let Err(error) = tell(app, room, generation, deadline).await {
        tracing::warn!(room.id = %room, cause = error.cause_chain(), "a room could not be told to read again");
    }
}

async fn tell(app: &App, room: &RoomId, generation: &Generation, deadline: Instant) -> Result<()> {
    let frame = Resync { room: room.clone(), generation: generation.clone() };
    let frame = serde_json::to_string(&frame).expect("two strings serialise");
    let subscribers = app.redis.subscribers(room).await?;
    let told = app.fan_out.tell(room, &frame, &subscribers.iter().collect::<Vec<_>>(), deadline).await;
    if told.lost == 0 {
        app.redis.note_told(room, generation).await?;
    }
    Ok(())
}
