//! `GET /me`, `PATCH /me`.

use std::sync::Arc;

use axum::{Json, extract::State};
use lambda::http::{Authenticated, Failed, JsonBody};
use shared::{
    Result,
    domain::users::Name,
    protocol::{
        Form,
        http::{ProfileRequest, UserBody},
        openapi::{BodyResponses, OutageResponses, SessionResponses},
    },
};

use crate::App;

/// Your account
#[utoipa::path(
    get, path = "/me", tag = "account", operation_id = "readMe", security(("bearer" = [])),
    responses(
        (status = 200, description = "The account.", body = UserBody),
        SessionResponses, OutageResponses,
    ),
)]
pub(crate) async fn read(Authenticated(session): Authenticated) -> Json<UserBody> {
    Json(UserBody::from(&session.user))
}

/// Change your name
///
/// Connections that are open keep the old one.
#[utoipa::path(
    patch, path = "/me", tag = "account", operation_id = "changeMe", security(("bearer" = [])),
    request_body = ProfileRequest,
    responses(
        (status = 200, description = "The account, as it is now.", body = UserBody),
        SessionResponses, BodyResponses, OutageResponses,
    ),
)]
pub(crate) async fn change(
    State(app): State<Arc<App>>,
    Authenticated(session): Authenticated,
    JsonBody(form): JsonBody,
) -> Result<Json<UserBody>, Failed> {
    let Profile { first_name, last_name } = Profile::parse(form)?;
    let user = app.postgres.rename(session.user.id, first_name.as_ref(), last_name.as_ref()).await?;

    Ok(Json(UserBody::from(&user)))
}

struct Profile {
    first_name: Option<Name>,
    last_name: Option<Name>,
}

impl Profile {
    fn parse(mut form: Form) -> Result<Self> {
        let first_name = form.optional("first_name", Name::parse);
        let last_name = form.optional("last_name", Name::parse);
        form.check()?;
        Ok(Self { first_name, last_name })
    }
}
