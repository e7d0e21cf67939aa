//! `POST /tickets`.

use std::sync::Arc;

use axum::{Json, extract::State, http::StatusCode};
use lambda::http::{Authenticated, Failed};
use shared::{
    domain::users::display_name,
    identity::Identity,
    protocol::{
        Timestamp,
        http::TicketBody,
        openapi::{OutageResponses, SessionResponses},
    },
    redis::Redis,
    token::Token,
};
use time::OffsetDateTime;

use crate::App;

/// Get a ticket
///
/// It opens one WebSocket, once, within 30 seconds. For browsers: they cannot set the header of a WebSocket, and a
/// session's token has no place in a URL.
#[utoipa::path(
    post, path = "/tickets", tag = "account", operation_id = "issueTicket", security(("bearer" = [])),
    responses(
        (status = 201, description = "The ticket.", body = TicketBody),
        SessionResponses, OutageResponses,
    ),
)]
pub(crate) async fn issue(
    State(app): State<Arc<App>>,
    Authenticated(session): Authenticated,
) -> Result<(StatusCode, Json<TicketBody>), Failed> {
    let ticket = Token::random()?;
    // Taken before Redis starts to count, so that a ticket never lives shorter than it says.
    let expires_at = Timestamp(OffsetDateTime::now_utc() + Redis::TICKET_LIFETIME);
    let name = display_name(&session.user.first_name, &session.user.last_name);
    let identity = Identity { user: session.user.id, name, session: session.hash };
    app.redis.issue_ticket(&ticket.hash(), &identity).await?;

    Ok((StatusCode::CREATED, Json(TicketBody { ticket: ticket.as_str().to_owned(), expires_at })))
}
