//! `GET /rooms`.

use std::{collections::HashMap, sync::Arc};

use axum::{Json, extract::State};
use lambda::http::{Authenticated, Failed, QueryForm};
use shared::{
    Result,
    domain::{Invalid, rooms::RoomId},
    protocol::{
        Form, USUAL_PAGE,
        http::{ListedRoom, RoomBody, RoomList, parse_limit},
        openapi::{OutageResponses, QueryResponses, SessionResponses},
    },
};

use crate::App;

/// List rooms
///
/// Your own, or all public ones; by id, with what goes on in each.
#[utoipa::path(
    get, path = "/rooms", tag = "rooms", operation_id = "listRooms", security(("bearer" = [])),
    params(
        ("scope" = Option<String>, Query, pattern = "^(mine|public)$", description = "`mine` (the default) or `public`."),
        ("after" = Option<String>, Query, description = "Only rooms behind this id: `next` of the page before."),
        ("limit" = Option<usize>, Query, minimum = 1, maximum = 200, description = "How many at most; 50 by default."),
    ),
    responses(
        (status = 200, description = "A page of rooms.", body = RoomList),
        SessionResponses, QueryResponses, OutageResponses,
    ),
)]
pub(crate) async fn list(
    State(app): State<Arc<App>>,
    Authenticated(session): Authenticated,
    QueryForm(query): QueryForm,
) -> Result<Json<RoomList>, Failed> {
    let Query { scope, after, limit } = Query::parse(query)?;
    let user = session.user.id;

    let page = match scope {
        Scope::Mine => app.postgres.rooms_of(user, after.as_ref(), limit).await?,
        Scope::Public => app.postgres.public_rooms(user, after.as_ref(), limit).await?,
    };
    let ids: Vec<_> = page.items.iter().map(|(room, _)| room.id.clone()).collect();
    let summaries = app.redis.room_summaries(&ids).await?;
    // Rooms that were idle for long, or that Redis has forgotten.
    let silent = ids.iter().zip(&summaries).filter(|(_, summary)| summary.last_message.is_none());
    let silent: Vec<_> = silent.map(|(id, _)| id.clone()).collect();
    let mut stored =
        if silent.is_empty() { HashMap::new() } else { app.postgres.last_messages(&silent).await? };

    let rooms = page.items.iter().zip(summaries).map(|((room, role), summary)| ListedRoom {
        room: RoomBody::new(room, *role),
        last_message: summary.last_message.or_else(|| stored.remove(&room.id)),
        online: summary.online,
    });
    let next = page.more.then(|| ids.last().map(RoomId::to_string)).flatten();
    Ok(Json(RoomList { rooms: rooms.collect(), next }))
}

enum Scope {
    Mine,
    Public,
}

impl Scope {
    fn parse(raw: &str) -> Result<Self, Invalid> {
        match raw {
            "mine" => Ok(Self::Mine),
            "public" => Ok(Self::Public),
            _ => Err(Invalid::because("must be mine or public")),
        }
    }
}

struct Query {
    scope: Scope,
    after: Option<RoomId>,
    limit: usize,
}

impl Query {
    fn parse(mut query: Form) -> Result<Self> {
        let scope = query.optional("scope", Scope::parse);
        let after = query.optional("after", RoomId::parse);
        let limit = query.optional("limit", parse_limit);
        query.check()?;
        Ok(Self { scope: scope.unwrap_or(Scope::Mine), after, limit: limit.unwrap_or(USUAL_PAGE) })
    }
}
