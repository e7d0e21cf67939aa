//! The Lambda function `signup`: makes an account and opens its first session.

mod account;

use std::{sync::Arc, time::Duration};

use axum::Router;
use shared::{
    configuration::{
        ConfigurationError, Environment, HttpThrottleSection, PostgresSection, RedisSection, SessionSection,
    },
    domain::rates::Rates,
    postgres::Postgres,
    redis::Redis,
};
use utoipa_axum::{router::OpenApiRouter, routes};

/// What the function is made of, built once in the life of a process.
pub struct App {
    postgres: Postgres,
    redis: Redis,
    throttle: Rates,
    session_lifetime: Duration,
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
            throttle: environment.section::<HttpThrottleSection>()?.rates,
            session_lifetime: environment.section::<SessionSection>()?.lifetime,
        })
    }
}

/// The routes with their description.
pub fn api() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new().routes(routes!(account::sign_up))
}

/// The routes, ready to serve.
pub fn router(app: App) -> Router {
    api().with_state(Arc::new(app)).into()
}
