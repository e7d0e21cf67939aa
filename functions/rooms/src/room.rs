//! `POST /rooms`; `GET`, `PATCH`, `DELETE /rooms/{room}`.

use std::{iter, sync::Arc};

use axum::{Json, extract::State, http::StatusCode};
use lambda::http::{Authenticated, Failed, JsonBody, RoomInPath};
use shared::{
    Error, Result, checked,
    domain::{
        Invalid,
        rooms::{Kind, Role, RoomId, Title},
    },
    protocol::{
        Form,
        http::{FailureBody, RoomBody, RoomRequest, TitleRequest},
        openapi::{BodyResponses, OutageResponses, PermissionResponses, RoomResponses, SessionResponses},
    },
};
use uuid::Uuid;

use crate::App;

/// Make a room
///
/// You become its owner. A public room gets the id that you give it, or one made from its title; a private one a random
/// id, so that nobody can guess or take it.
#[utoipa::path(
    post, path = "/rooms", tag = "rooms", operation_id = "createRoom", security(("bearer" = [])),
    request_body = RoomRequest,
    responses(
        (status = 201, description = "The room.", body = RoomBody),
        (status = 409, description = "`conflict`: there is a room with this id, or once was.", body = FailureBody),
        SessionResponses, PermissionResponses, BodyResponses, OutageResponses,
    ),
)]
pub(crate) async fn create(
    State(app): State<Arc<App>>,
    Authenticated(session): Authenticated,
    JsonBody(form): JsonBody,
) -> Result<(StatusCode, Json<RoomBody>), Failed> {
    let owner = session.user.id;
    if !app.policy.anyone_makes_rooms && !app.policy.admins.contains(&owner) {
        return Err(Error::Forbidden.into());
    }
    let new = NewRoom::parse(form)?;

    for id in new.ids() {
        if let Some(room) = app.postgres.create_room(&id, &new.title, new.kind, owner).await? {
            return Ok((StatusCode::CREATED, Json(RoomBody::new(&room, Some(Role::Owner)))));
        }
    }
    Err(Error::Conflict("There is a room with this id, or once was; choose another one").into())
}

struct NewRoom {
    id: Option<RoomId>,
    title: Title,
    kind: Kind,
}

impl NewRoom {
    fn parse(mut form: Form) -> Result<Self> {
        let id = form.optional("id", RoomId::parse_chosen);
        let title = form.required("title", Title::parse);
        let kind = form.required("kind", Kind::parse);
        if id.is_some() && kind == Some(Kind::Private) {
            form.fail::<RoomId>("id", Invalid::because("must be absent: a private room gets a random id"));
        }
        checked!(form, title, kind);
        Ok(Self { id, title, kind })
    }

    /// The ids to try, one after the other.
    fn ids(&self) -> Vec<RoomId> {
        /// How often a title that gives a taken id gets another end. One of 36^6 ends is hardly ever taken as well.
        const SUFFIXES: usize = 3;
        let random = || RoomId::from_random(Uuid::new_v4().as_u128());
        match (&self.id, self.kind) {
            (Some(id), _) => vec![id.clone()],
            (None, Kind::Private) => vec![random()],
            (None, Kind::Public) => match RoomId::from_title(&self.title) {
                Some(id) => {
                    let others = (0..SUFFIXES).map(|_| id.with_suffix(&random())).collect::<Vec<_>>();
                    iter::once(id).chain(others).collect()
                }
                None => vec![random()],
            },
        }
    }
}

/// A room
#[utoipa::path(
    get, path = "/rooms/{room}", tag = "rooms", operation_id = "readRoom", security(("bearer" = [])),
    params(("room" = String, Path, description = "The room's id.")),
    responses(
        (status = 200, description = "The room.", body = RoomBody),
        SessionResponses, RoomResponses, OutageResponses,
    ),
)]
pub(crate) async fn read(
    State(app): State<Arc<App>>,
    Authenticated(session): Authenticated,
    RoomInPath(id): RoomInPath,
) -> Result<Json<RoomBody>, Failed> {
    let (room, role) = app.open_room(&id, session.user.id).await?;

    Ok(Json(RoomBody::new(&room, role)))
}

/// Change a room's title
///
/// For owners and administrators.
#[utoipa::path(
    patch, path = "/rooms/{room}", tag = "rooms", operation_id = "changeRoom", security(("bearer" = [])),
    params(("room" = String, Path, description = "The room's id.")),
    request_body = TitleRequest,
    responses(
        (status = 200, description = "The room, as it is now.", body = RoomBody),
        SessionResponses, PermissionResponses, RoomResponses, BodyResponses, OutageResponses,
    ),
)]
pub(crate) async fn retitle(
    State(app): State<Arc<App>>,
    Authenticated(session): Authenticated,
    RoomInPath(id): RoomInPath,
    JsonBody(form): JsonBody,
) -> Result<Json<RoomBody>, Failed> {
    let title = parse_title(form)?;
    let user = session.user.id;

    let may_manage = |kind, role| Ok(app.standing(user, kind, role).may_manage()?);
    let (room, role) = app.postgres.retitle_room(&id, &title, user, may_manage).await?;

    Ok(Json(RoomBody::new(&room, role)))
}

fn parse_title(mut form: Form) -> Result<Title> {
    let title = form.required("title", Title::parse);
    checked!(form, title);
    Ok(title)
}

/// End a room
///
/// For good: its id is never given again. For owners and administrators. If it answers `unavailable`, the room has ended,
/// but some may still hear of it: then the call can be repeated.
#[utoipa::path(
    delete, path = "/rooms/{room}", tag = "rooms", operation_id = "endRoom", security(("bearer" = [])),
    params(("room" = String, Path, description = "The room's id.")),
    responses(
        (status = 204, description = "The room has ended."),
        SessionResponses, PermissionResponses, RoomResponses, OutageResponses,
    ),
)]
pub(crate) async fn end(
    State(app): State<Arc<App>>,
    Authenticated(session): Authenticated,
    RoomInPath(id): RoomInPath,
) -> Result<StatusCode, Failed> {
    let user = session.user.id;

    let may_manage = |kind, role| Ok(app.standing(user, kind, role).may_manage()?);
    app.postgres.end_room(&id, user, may_manage).await?;
    app.redis.end_room(&id).await?;
    app.postgres.forget_ended_room(&id).await?;

    Ok(StatusCode::NO_CONTENT)
}
