//! `GET /health`.

use std::sync::Arc;

use axum::{Json, extract::State, http::StatusCode};
use shared::{Result, protocol::http::HealthBody};

use crate::App;

/// Health
///
/// Whether the parts that Banter needs answer.
#[utoipa::path(
    get, path = "/health", tag = "service", operation_id = "readHealth",
    responses(
        (status = 200, description = "Everything answers.", body = HealthBody),
        (status = 503, description = "Something is away.", body = HealthBody),
    ),
)]
pub(crate) async fn read(State(app): State<Arc<App>>) -> (StatusCode, Json<HealthBody>) {
    let (postgres, redis) = tokio::join!(app.postgres.ping(), app.redis.ping());
    let status =
        if postgres.is_ok() && redis.is_ok() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };

    (status, Json(HealthBody { postgres: told(postgres), redis: told(redis) }))
}

fn told(answer: Result<()>) -> &'static str {
    match answer {
        Ok(()) => "ok",
        Err(error) => {
            tracing::warn!(cause = error.cause_chain(), "a part of the service is away");
            "unavailable"
        }
    }
}
