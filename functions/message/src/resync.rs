//! Telling a room that Redis had forgotten a part of it.

use shared::{
    domain::{
        messages::{ConnectionId, Generation},
        rooms::RoomId,
    },
    resync,
};
use tokio::time::Instant;

use crate::App;

/// Tells everybody in a room to read again, if they have to.
pub(crate) async fn tell_if(
    forgotten: bool,
    app: &App,
    room: &RoomId,
    generation: &Generation,
    deadline: Instant,
) {
    if forgotten {
        resync::tell(&app.redis, &app.postgres, &app.fan_out, room, generation, deadline).await;
    }
}

/// Tells everybody but one who knows already.
pub(crate) async fn tell_others_if(
    forgotten: bool,
    app: &App,
    room: &RoomId,
    generation: &Generation,
    knows: &ConnectionId,
    deadline: Instant,
) {
    if forgotten {
        resync::tell_others(&app.redis, &app.postgres, &app.fan_out, room, generation, knows, deadline).await;
    }
}
