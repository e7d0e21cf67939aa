//! `GET /rooms/{room}/online`.

use std::sync::Arc;

use axum::{Json, extract::State};
use lambda::http::{Authenticated, Failed, RoomInPath};
use shared::protocol::{
    http::OnlineList,
    openapi::{OutageResponses, RoomResponses, SessionResponses},
};

use crate::App;

/// Who is in a room now
#[utoipa::path(
    get, path = "/rooms/{room}/online", tag = "rooms", operation_id = "readOnline", security(("bearer" = [])),
    params(("room" = String, Path, description = "The room's id.")),
    responses(
        (status = 200, description = "The users with a socket that has joined the room.", body = OnlineList),
        SessionResponses, RoomResponses, OutageResponses,
    ),
)]
pub(crate) async fn read(
    State(app): State<Arc<App>>,
    Authenticated(session): Authenticated,
    RoomInPath(id): RoomInPath,
) -> Result<Json<OnlineList>, Failed> {
    let (room, _) = app.open_room(&id, session.user.id).await?;

    let (users, count) = app.redis.online(&room.id).await?;

    Ok(Json(OnlineList { users, count }))
}
