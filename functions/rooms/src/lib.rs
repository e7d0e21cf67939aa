//! The Lambda function `rooms`: rooms, their members, their history, and who is online.

mod history;
mod list;
mod members;
mod online;
mod room;

use std::{sync::Arc, time::Duration};

use axum::Router;
use lambda::http::Sessions;
use shared::{
    Error, Result,
    configuration::{
        ConfigurationError, Environment, PolicySection, PostgresSection, RedisSection, SessionSection,
    },
    domain::{
        rooms::{Kind, Role, RoomId, Standing},
        users::UserId,
    },
    postgres::{Postgres, RoomWithRole},
    redis::Redis,
};
use utoipa_axum::{router::OpenApiRouter, routes};

/// What the function is made of, built once in the life of a process.
pub struct App {
    postgres: Postgres,
    redis: Redis,
    policy: PolicySection,
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
            policy: environment.section()?,
            session_lifetime: environment.section::<SessionSection>()?.lifetime,
        })
    }

    /// How a user stands to a room of this kind in which they have this role.
    fn standing(&self, user: UserId, kind: Kind, role: Option<Role>) -> Standing {
        Standing { kind, role, admin: self.policy.admins.contains(&user) }
    }

    /// A room that the user may take part in, with their role.
    ///
    /// # Errors
    /// [`Error::NotFound`] if there is none, or none that they may know of.
    async fn open_room(&self, id: &RoomId, user: UserId) -> Result<RoomWithRole> {
        let (room, role) = self.postgres.room(id, user).await?.ok_or(Error::NotFound("room"))?;
        self.standing(user, room.kind, role).may_take_part()?;
        Ok((room, role))
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
        .routes(routes!(list::list, room::create))
        .routes(routes!(room::read, room::retitle, room::end))
        .routes(routes!(members::list))
        .routes(routes!(members::put, members::remove))
        .routes(routes!(history::read))
        .routes(routes!(online::read))
}

/// The routes, ready to serve.
pub fn router(app: App) -> Router {
    api().with_state(Arc::new(app)).into()
}
