//! `$connect`: records the connection, and enforces the limit of connections for one user.

use std::time::Duration;

use lambda::{
    Fatal,
    access::Access,
    websocket::{Answer, Event},
};
use shared::{
    Error, Result,
    configuration::{ConnectionSection, Environment, PostgresSection, RedisSection, SessionSection},
    identity::Identity,
    postgres::Postgres,
    redis::Redis,
};

/// What the function needs, built once.
pub struct App {
    postgres: Postgres,
    redis: Redis,
    session_lifetime: Duration,
    most_per_user: usize,
}

impl App {
    /// Reads the configuration.
    ///
    /// # Errors
    /// A variable is absent or bad.
    pub fn from_env(environment: &Environment) -> Result<Self, Fatal> {
        Ok(Self {
            postgres: Postgres::new(&environment.section::<PostgresSection>()?),
            redis: Redis::new(&environment.section::<RedisSection>()?)?,
            session_lifetime: environment.section::<SessionSection>()?.lifetime,
            most_per_user: environment.section::<ConnectionSection>()?.most_per_user,
        })
    }
}

/// Decides whether the handshake goes through.
pub async fn handle(app: &App, event: Event, access: &mut Access) -> Answer {
    match record(app, &event).await {
        Ok(()) => Answer::ok(),
        Err(error) => {
            access.log_cause(&error);
            Answer::refused(&error)
        }
    }
}

async fn record(app: &App, event: &Event) -> Result<()> {
    let identity = event.identity.as_ref().ok_or(Error::no_session())?;
    match check(app, event, identity).await {
        Ok(()) => Ok(()),
        Err(error @ Error::TooManyConnections { .. }) => Err(error),
        Err(error) => {
            // Also if the record seems to have failed: only its answer may be lost, and it would keep the user's place.
            app.redis.forget_connection(&event.connection, identity.user).await?;
            Err(error)
        }
    }
}

async fn check(app: &App, event: &Event, identity: &Identity) -> Result<()> {
    app.redis.record_connection(&event.connection, identity, app.most_per_user).await?;
    // The session may have ended since the authorizer looked. Whoever ends one does so in Postgres first and closes the
    // recorded connections then: so either they saw this one, or the session is seen to have ended here.
    let session = app.postgres.session(&identity.session, app.session_lifetime).await?;
    session.map(|_| ()).ok_or(Error::session_ended())
}
