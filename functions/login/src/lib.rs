//! The Lambda function `login`: sessions, and the account that they are of.

mod password;
mod profile;
mod sessions;
mod tickets;

use std::{sync::Arc, time::Duration};

use axum::Router;
use lambda::http::Sessions;
use shared::{
    Result,
    configuration::{
        ConfigurationError, Environment, HttpThrottleSection, PostgresSection, PushSection, RedisSection,
        SessionSection,
    },
    domain::rates::Rates,
    postgres::{EndedSessions, Postgres},
    push::Connections,
    redis::Redis,
};
use utoipa_axum::{router::OpenApiRouter, routes};

/// What the function is made of, built once in the life of a process.
pub struct App {
    postgres: Postgres,
    redis: Redis,
    connections: Connections,
    throttle: Rates,
    session_lifetime: Duration,
}

impl App {
    /// Builds it from the environment.
    ///
    /// # Errors
    /// The first variable that is absent or bad.
    pub async fn from_env(environment: &Environment) -> Result<Self, ConfigurationError> {
        let redis = Redis::new(&environment.section::<RedisSection>()?)?;
        let push = environment.section::<PushSection>()?;
        Ok(Self {
            postgres: Postgres::new(&environment.section::<PostgresSection>()?),
            connections: Connections::new(redis.clone(), &push).await,
            redis,
            throttle: environment.section::<HttpThrottleSection>()?.rates,
            session_lifetime: environment.section::<SessionSection>()?.lifetime,
        })
    }

    /// Closes the sockets of sessions that have ended, and only then lets Postgres forget the sessions: if this fails,
    /// a repeat of the call finds there what is left to do.
    async fn close_sockets(&self, ended: &EndedSessions) -> Result<()> {
        if ended.hashes.is_empty() {
            return Ok(());
        }
        self.connections.end_sessions(ended.user, &ended.hashes).await?;
        self.postgres.forget_sessions(ended).await
    }
}

impl Sessions for App {
    fn postgres(&self) -> &Postgres {
        &self.postgres
    }

    fn session_lifetime(&self) -> Duration {
        self.session_lifetime
    }
}

/// The routes with their description.
pub fn api() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new()
        .routes(routes!(sessions::log_in))
        .routes(routes!(sessions::log_out))
        .routes(routes!(profile::read, profile::change))
        .routes(routes!(password::change))
        .routes(routes!(tickets::issue))
}

/// The routes, ready to serve.
pub fn router(app: App) -> Router {
    api().with_state(Arc::new(app)).into()
}
