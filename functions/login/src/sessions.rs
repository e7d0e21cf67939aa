//! `POST /login`, `POST /logout`.

use std::sync::Arc;

use axum::{Json, extract::State, http::StatusCode};
use lambda::http::{BearerToken, Caller, Failed, JsonBody, QueryForm};
use shared::{
    Error, Result, checked,
    domain::{
        Invalid,
        users::{Email, TypedPassword},
    },
    password,
    postgres::Credentials,
    protocol::{
        Form,
        http::{LoginRequest, SessionBody},
        openapi::{BodyResponses, OutageResponses, QueryResponses, SessionResponses, ThrottleResponses},
    },
    token::Token,
};

use crate::App;

/// Log in
///
/// Opens a session. Takes the same time and says the same whether there is such an account or not.
#[utoipa::path(
    post, path = "/login", tag = "account", operation_id = "logIn",
    request_body = LoginRequest,
    responses(
        (status = 200, description = "The account, and the token of its new session.", body = SessionBody),
        SessionResponses, BodyResponses, ThrottleResponses, OutageResponses,
    ),
)]
pub(crate) async fn log_in(
    State(app): State<Arc<App>>,
    caller: Caller,
    JsonBody(form): JsonBody,
) -> Result<Json<SessionBody>, Failed> {
    app.redis.throttle("login", &caller.throttled_address(), &app.throttle).await?;
    let Login { email, password } = Login::parse(form)?;
    app.redis.throttle("login", &email.as_str().to_lowercase(), &app.throttle).await?;

    let checked = check(&app, &email, password).await?;
    caller.is(checked.user);
    let token = Token::random()?;
    let session = app.postgres.log_in(&checked, &token.hash(), app.session_lifetime).await?;

    Ok(Json(SessionBody::new(&session.user, &token, session.expires_at)))
}

async fn check(app: &App, email: &Email, typed: TypedPassword) -> Result<Credentials> {
    let Some(credentials) = app.postgres.credentials(email).await? else {
        password::matches_nobody(typed).await?;
        return Err(Error::wrong_credentials());
    };
    if !password::matches(typed, credentials.password.clone()).await? {
        return Err(Error::wrong_credentials());
    }
    Ok(credentials)
}

struct Login {
    email: Email,
    password: TypedPassword,
}

impl Login {
    fn parse(mut form: Form) -> Result<Self> {
        let email = form.required("email", Email::parse);
        let password = form.required("password", TypedPassword::parse);
        checked!(form, email, password);
        Ok(Self { email, password })
    }
}

/// Log out
///
/// Ends the session and closes its sockets at once. If it answers `unavailable`, the session has ended, but some sockets
/// may still be open: then the call can be repeated with the same token.
#[utoipa::path(
    post, path = "/logout", tag = "account", operation_id = "logOut", security(("bearer" = [])),
    params(("everywhere" = Option<bool>, Query, description = "`true` ends all of the user's sessions.")),
    responses(
        (status = 204, description = "The session has ended."),
        SessionResponses, QueryResponses, OutageResponses,
    ),
)]
pub(crate) async fn log_out(
    State(app): State<Arc<App>>,
    caller: Caller,
    // Not the extractor of a session that is alive: it may be ended already, with sockets that are not closed yet.
    BearerToken(token): BearerToken,
    QueryForm(form): QueryForm,
) -> Result<StatusCode, Failed> {
    let ended = match Scope::parse(form)? {
        Scope::Here => app.postgres.end_session(&token).await?,
        Scope::Everywhere => app.postgres.end_all_sessions(&token).await?,
    };
    let ended = ended.ok_or(Error::session_ended())?;
    caller.is(ended.user);
    app.close_sockets(&ended).await?;

    Ok(StatusCode::NO_CONTENT)
}

enum Scope {
    Here,
    Everywhere,
}

impl Scope {
    fn parse(mut query: Form) -> Result<Self> {
        let everywhere = query.optional("everywhere", |raw| match raw {
            "true" => Ok(Self::Everywhere),
            "false" => Ok(Self::Here),
            _ => Err(Invalid::because("must be true or false")),
        });
        query.check()?;
        Ok(everywhere.unwrap_or(Self::Here))
    }
}
