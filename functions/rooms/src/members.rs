//! `GET /rooms/{room}/members`; `PUT`, `DELETE /rooms/{room}/members/{user_id}`.

use std::sync::Arc;

use axum::{Json, extract::State, http::StatusCode};
use lambda::http::{Authenticated, Failed, JsonBody, QueryForm, RoomInPath, UserInPath};
use shared::{
    Result, checked,
    domain::{rooms::Role, users::UserId},
    protocol::{
        Form, USUAL_PAGE,
        http::{FailureBody, MemberBody, MemberList, MemberRequest, parse_limit},
        openapi::{
            BodyResponses, OutageResponses, PermissionResponses, QueryResponses, RoomResponses,
            SessionResponses,
        },
    },
};

use crate::App;

/// List the members of a room
#[utoipa::path(
    get, path = "/rooms/{room}/members", tag = "members", operation_id = "listMembers", security(("bearer" = [])),
    params(
        ("room" = String, Path, description = "The room's id."),
        ("after" = Option<uuid::Uuid>, Query, description = "Only members behind this id: `next` of the page before."),
        ("limit" = Option<usize>, Query, minimum = 1, maximum = 200, description = "How many at most; 50 by default."),
    ),
    responses(
        (status = 200, description = "A page of members.", body = MemberList),
        SessionResponses, RoomResponses, QueryResponses, OutageResponses,
    ),
)]
pub(crate) async fn list(
    State(app): State<Arc<App>>,
    Authenticated(session): Authenticated,
    RoomInPath(id): RoomInPath,
    QueryForm(query): QueryForm,
) -> Result<Json<MemberList>, Failed> {
    let Query { after, limit } = Query::parse(query)?;
    let (room, _) = app.open_room(&id, session.user.id).await?;

    let page = app.postgres.members(&room.id, after, limit).await?;

    let next = page.more.then(|| page.items.last().map(|member| member.user.as_uuid())).flatten();
    Ok(Json(MemberList { members: page.items.iter().map(MemberBody::from).collect(), next }))
}

struct Query {
    after: Option<UserId>,
    limit: usize,
}

impl Query {
    fn parse(mut query: Form) -> Result<Self> {
        let after = query.optional("after", UserId::parse);
        let limit = query.optional("limit", parse_limit);
        query.check()?;
        Ok(Self { after, limit: limit.unwrap_or(USUAL_PAGE) })
    }
}

/// Join, invite, or change a role
///
/// You put yourself into a public room; moderators and owners put others into theirs; owners give roles.
#[utoipa::path(
    put, path = "/rooms/{room}/members/{user_id}", tag = "members", operation_id = "putMember",
    security(("bearer" = [])),
    params(
        ("room" = String, Path, description = "The room's id."),
        ("user_id" = uuid::Uuid, Path, description = "Who is to be a member."),
    ),
    request_body = MemberRequest,
    responses(
        (status = 200, description = "The member.", body = MemberBody),
        (status = 409, description = "`conflict`: the room would lose its last owner.", body = FailureBody),
        SessionResponses, PermissionResponses, RoomResponses, BodyResponses, OutageResponses,
    ),
)]
pub(crate) async fn put(
    State(app): State<Arc<App>>,
    Authenticated(session): Authenticated,
    RoomInPath(room): RoomInPath,
    UserInPath(user): UserInPath,
    JsonBody(form): JsonBody,
) -> Result<Json<MemberBody>, Failed> {
    let role = parse_role(form)?;
    let actor = session.user.id;

    let decide = app.postgres.give_role(&room, actor, user, |situation| {
        let standing = app.standing(actor, situation.kind, situation.actor);
        if user == actor {
            standing.may_take(role)?;
        } else {
            standing.may_give(role, situation.member)?;
        }
        Ok(role)
    });
    let member = decide.await?;

    Ok(Json(MemberBody::from(&member)))
}

fn parse_role(mut form: Form) -> Result<Role> {
    let role = form.required("role", Role::parse);
    checked!(form, role);
    Ok(role)
}

/// Leave, or remove a member
///
/// Ends the user's subscriptions in the room. If it answers `unavailable`, the member is removed, but may still hear of
/// the room: then the call can be repeated, also by one who has left.
#[utoipa::path(
    delete, path = "/rooms/{room}/members/{user_id}", tag = "members", operation_id = "removeMember",
    security(("bearer" = [])),
    params(
        ("room" = String, Path, description = "The room's id."),
        ("user_id" = uuid::Uuid, Path, description = "Who is to be a member no more."),
    ),
    responses(
        (status = 204, description = "The user is no member."),
        (status = 409, description = "`conflict`: the room would lose its last owner.", body = FailureBody),
        SessionResponses, PermissionResponses, RoomResponses, OutageResponses,
    ),
)]
pub(crate) async fn remove(
    State(app): State<Arc<App>>,
    Authenticated(session): Authenticated,
    RoomInPath(room): RoomInPath,
    UserInPath(user): UserInPath,
) -> Result<StatusCode, Failed> {
    let actor = session.user.id;
    let leaves = user == actor;

    let removed = app.postgres.remove_member(&room, actor, user, |situation| {
        let standing = app.standing(actor, situation.kind, situation.actor);
        match leaves {
            // Who has left, but was told that Redis is away, knows of the room and finishes what they began.
            true if situation.half_removed => {}
            true => standing.may_take_part()?,
            false => standing.may_remove(situation.member)?,
        }
        Ok(())
    });
    removed.await?;
    app.redis.expel(&room, user).await?;
    app.postgres.forget_member(&room, user).await?;

    Ok(StatusCode::NO_CONTENT)
}
