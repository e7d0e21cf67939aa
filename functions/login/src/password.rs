//! `POST /me/password`.

use std::sync::Arc;

use axum::{extract::State, http::StatusCode};
use lambda::http::{Authenticated, Caller, Failed, JsonBody};
use shared::{
    Error, Result, checked,
    domain::users::{NewPassword, TypedPassword, User},
    password,
    postgres::{EndedSessions, Session},
    protocol::{
        Form,
        http::{FailureBody, PasswordRequest},
        openapi::{BodyResponses, OutageResponses, SessionResponses, ThrottleResponses},
    },
};

use crate::App;

/// Change your password
///
/// Ends all your other sessions and closes their sockets. If it answers `unavailable`, some sockets may still be open:
/// then the call can be repeated as it was.
#[utoipa::path(
    post, path = "/me/password", tag = "account", operation_id = "changePassword", security(("bearer" = [])),
    request_body = PasswordRequest,
    responses(
        (status = 204, description = "The password is changed, and the other sessions have ended."),
        (status = 403, description = "`forbidden`: `current` is not your password.", body = FailureBody),
        (status = 409, description = "`conflict`: another call has changed it just now.", body = FailureBody),
        SessionResponses, BodyResponses, ThrottleResponses, OutageResponses,
    ),
)]
pub(crate) async fn change(
    State(app): State<Arc<App>>,
    caller: Caller,
    Authenticated(session): Authenticated,
    JsonBody(form): JsonBody,
) -> Result<StatusCode, Failed> {
    app.redis.throttle("password", &caller.throttled_address(), &app.throttle).await?;
    app.redis.throttle("password", &session.user.id.to_string(), &app.throttle).await?;
    let change = Change::parse(form, &session.user)?;

    let ended = change.make(&app, &session).await?;
    app.close_sockets(&ended).await?;

    Ok(StatusCode::NO_CONTENT)
}

struct Change {
    current: TypedPassword,
    new: NewPassword,
}

impl Change {
    fn parse(mut form: Form, user: &User) -> Result<Self> {
        let names = [&user.first_name, &user.last_name];
        let current = form.required("current", TypedPassword::parse);
        let new = form.required("new", |raw| NewPassword::parse(raw, names, Some(&user.email)));
        checked!(form, current, new);
        Ok(Self { current, new })
    }

    async fn make(self, app: &App, session: &Session) -> Result<EndedSessions> {
        let user = session.user.id;
        let stored = app.postgres.password(user).await?;
        if password::matches(self.current, stored.clone()).await? {
            let new = password::hash(self.new).await?;
            return app.postgres.change_password(user, &stored, &new, &session.hash).await;
        }
        // The repeat of a call that has changed the password, but could not close all sockets.
        if password::matches(self.new.retyped(), stored).await? {
            return app.postgres.ended_sessions(user).await;
        }
        Err(Error::Forbidden)
    }
}
