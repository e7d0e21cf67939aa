//! `GET /rooms/{room}/messages`.

use std::sync::Arc;

use axum::{Json, extract::State};
use lambda::http::{Authenticated, Failed, QueryForm, RoomInPath};
use shared::{
    Result,
    domain::{Invalid, messages::Position},
    history::{self, LogPart},
    protocol::{
        Form, USUAL_PAGE,
        http::{MessageList, parse_limit},
        openapi::{OutageResponses, QueryResponses, RoomResponses, SessionResponses},
    },
    redis::Cursor,
};

use crate::App;

/// Read a room's history
///
/// Oldest first in a page. Without `before` and `after`: the newest page.
#[utoipa::path(
    get, path = "/rooms/{room}/messages", tag = "rooms", operation_id = "readMessages", security(("bearer" = [])),
    params(
        ("room" = String, Path, description = "The room's id."),
        ("before" = Option<String>, Query, description = "Only what is older than this position: `previous` of a page."),
        ("after" = Option<String>, Query, description = "Only what is newer than this position: `next` of a page."),
        ("limit" = Option<usize>, Query, minimum = 1, maximum = 200, description = "How many at most; 50 by default."),
    ),
    responses(
        (status = 200, description = "A page of messages.", body = MessageList),
        SessionResponses, RoomResponses, QueryResponses, OutageResponses,
    ),
)]
pub(crate) async fn read(
    State(app): State<Arc<App>>,
    Authenticated(session): Authenticated,
    RoomInPath(id): RoomInPath,
    QueryForm(query): QueryForm,
) -> Result<Json<MessageList>, Failed> {
    let Query { cursor, limit } = Query::parse(query)?;
    let (room, _) = app.open_room(&id, session.user.id).await?;

    let log = app.redis.page(&room.id, cursor, limit).await?;
    let known = app.postgres.known(&room.id).await?;
    // What Redis has forgotten, Postgres has or will have.
    let newest = log.head.as_ref().and_then(|head| head.last).max(Some(known.newest));
    let trusted = log.head.filter(|head| !head.disagrees_with(&known));
    let since = trusted.map_or(Position::END, |head| head.since);
    let part = |more| LogPart { since, events: log.events, more };

    let (page, older, newer);
    match cursor {
        Cursor::After(after) => {
            page = history::messages_after(&app.postgres, &room.id, after, limit, part(log.newer)).await?;
            newer = page.more;
            older = log.older || (Position::BEGINNING < since && Position::BEGINNING < after);
        }
        Cursor::Newest | Cursor::Before(_) => {
            let before = cursor.before();
            page = history::messages_before(&app.postgres, &room.id, before, limit, part(log.older)).await?;
            older = page.more;
            newer = Some(before) <= newest;
        }
    }
    let first = page.events.first().filter(|_| older).map(|event| event.position.to_string());
    let last = page.events.last().filter(|_| newer).map(|event| event.position.to_string());
    Ok(Json(MessageList { messages: page.events, next: last, previous: first }))
}

struct Query {
    cursor: Cursor,
    limit: usize,
}

impl Query {
    fn parse(mut query: Form) -> Result<Self> {
        let before = query.optional("before", Position::parse);
        let after = query.optional("after", Position::parse);
        let limit = query.optional("limit", parse_limit);
        if before.is_some() && after.is_some() {
            query.fail::<Position>("before", Invalid::because("must not stand beside after"));
        }
        query.check()?;
        let cursor = before.map(Cursor::Before).or(after.map(Cursor::After)).unwrap_or(Cursor::Newest);
        Ok(Self { cursor, limit: limit.unwrap_or(USUAL_PAGE) })
    }
}
