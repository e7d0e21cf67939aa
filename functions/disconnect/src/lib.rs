//! `$disconnect`: forgets the connection and its subscriptions. Best effort on AWS, so nothing depends on it.

use lambda::{
    Fatal,
    access::Access,
    websocket::{Answer, Event},
};
use shared::{
    Error, Result,
    configuration::{Environment, RedisSection},
    redis::Redis,
};

/// What the function needs, built once.
pub struct App {
    redis: Redis,
}

impl App {
    /// Reads the configuration.
    ///
    /// # Errors
    /// A variable is absent or bad.
    pub fn from_env(environment: &Environment) -> Result<Self, Fatal> {
        Ok(Self { redis: Redis::new(&environment.section::<RedisSection>()?)? })
    }
}

/// Forgets the connection. Nobody reads the answer.
pub async fn handle(app: &App, event: Event, access: &mut Access) -> Answer {
    match forget(app, &event).await {
        Ok(()) => Answer::ok(),
        Err(error) => {
            access.log_cause(&error);
            Answer::refused(&error)
        }
    }
}

async fn forget(app: &App, event: &Event) -> Result<()> {
    let identity = event.identity.as_ref().ok_or(Error::no_session())?;
    app.redis.forget_connection(&event.connection, identity.user).await
}
