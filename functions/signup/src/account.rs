//! `POST /signup`.

use std::sync::Arc;

use axum::{Json, extract::State, http::StatusCode};
use lambda::http::{Caller, Failed, JsonBody};
use shared::{
    Result, checked,
    domain::users::{Email, Name, NewPassword, UserId},
    password,
    postgres::NewUser,
    protocol::{
        Form,
        http::{FailureBody, SessionBody, SignupRequest},
        openapi::{BodyResponses, OutageResponses, ThrottleResponses},
    },
    token::Token,
};
use uuid::Uuid;

use crate::App;

/// Sign up
///
/// Makes an account and opens its first session.
#[utoipa::path(
    post, path = "/signup", tag = "account", operation_id = "signUp",
    request_body = SignupRequest,
    responses(
        (status = 201, description = "The account, and the token of its first session.", body = SessionBody),
        (status = 409, description = "`conflict`: there is an account with this e-mail address.", body = FailureBody),
        BodyResponses, ThrottleResponses, OutageResponses,
    ),
)]
pub(crate) async fn sign_up(
    State(app): State<Arc<App>>,
    caller: Caller,
    JsonBody(form): JsonBody,
) -> Result<(StatusCode, Json<SessionBody>), Failed> {
    // Before the fields are looked at: to guess how strong a password is takes time as well.
    app.redis.throttle("signup", &caller.throttled_address(), &app.throttle).await?;
    let Signup { first_name, last_name, email, password } = Signup::parse(form)?;
    app.redis.throttle("signup", &email.as_str().to_lowercase(), &app.throttle).await?;

    let password = password::hash(password).await?;
    let id = UserId::new(Uuid::now_v7());
    caller.is(id);
    let token = Token::random()?;
    let new = NewUser { id, first_name, last_name, email, password };
    let session = app.postgres.sign_up(new, &token.hash(), app.session_lifetime).await?;

    Ok((StatusCode::CREATED, Json(SessionBody::new(&session.user, &token, session.expires_at))))
}

struct Signup {
    first_name: Name,
    last_name: Name,
    email: Email,
    password: NewPassword,
}

impl Signup {
    fn parse(mut form: Form) -> Result<Self> {
        let first_name = form.required("first_name", Name::parse);
        let last_name = form.required("last_name", Name::parse);
        let email = form.required("email", Email::parse);
        let names = first_name.iter().chain(&last_name);
        let password = form.required("password", |raw| NewPassword::parse(raw, names, email.as_ref()));
        checked!(form, first_name, last_name, email, password);
        Ok(Self { first_name, last_name, email, password })
    }
}
