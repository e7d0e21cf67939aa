//! The Lambda function `web`: health, and the description of the HTTP API.

mod description;
mod health;

use std::sync::Arc;

use axum::Router;
use shared::{
    configuration::{ConfigurationError, Environment, PostgresSection, RedisSection},
    postgres::Postgres,
    redis::Redis,
};
use utoipa_axum::{router::OpenApiRouter, routes};

/// What the function is made of, built once in the life of a process.
pub struct App {
    postgres: Postgres,
    redis: Redis,
}

impl App {
    /// Builds it from the environment.
    ///
    /// # Errors
    /// The first variable that is absent or bad.
    pub fn from_env(environment: &Environment) -> Result<Self, ConfigurationError> {
        Ok(Self {
            postgres: Postgres::new(&environment.section::<PostgresSection>()?),
            redis: Redis::new(&environment.section::<RedisSection>()?)?,
        })
    }
}

/// The routes with their description.
pub fn api() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new().routes(routes!(health::read)).routes(routes!(description::read))
}

/// The routes, ready to serve.
pub fn router(app: App) -> Router {
    api().with_state(Arc::new(app)).into()
}
