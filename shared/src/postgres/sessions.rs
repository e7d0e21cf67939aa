//! Sessions: opening, sliding, ending.
//!
//! A session is alive until it has run out or was ended. One that was ended keeps its row until its sockets are closed:
//! see the migration.

use std::time::Duration;

use sqlx::PgConnection;
use time::OffsetDateTime;

use super::{Postgres, link::Stopped, users::Credentials};
use crate::{
    domain::users::{Email, Name, User, UserId},
    error::{Error, Result},
    token::TokenHash,
};

/// A use moves the end of a session only if that moves by more than this: a write for every call would buy nothing.
const SLIDE_SECONDS: f64 = 60.0 * 60.0;

/// A session that is alive.
#[derive(Debug, Clone)]
pub struct Session {
    /// Whose it is.
    pub user: User,
    /// The hash of its token.
    pub hash: TokenHash,
    /// When it ends if it is not used.
    pub expires_at: OffsetDateTime,
}

/// Sessions of one user that were ended and whose sockets are still to be closed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndedSessions {
    /// Whose they were.
    pub user: UserId,
    /// The hashes of their tokens.
    pub hashes: Vec<TokenHash>,
}

impl Postgres {
    /// Opens a session for one whose password was checked, and removes the user's sessions that have run out.
    ///
    /// # Errors
    /// [`Error::Unauthorized`] if the password is another one by now: who changes it wants all other sessions ended,
    /// also one that is just being opened.
    pub async fn log_in(
        &self,
        checked: &Credentials,
        token: &TokenHash,
        lifetime: Duration,
    ) -> Result<Session> {
        self.link
            .run_whole("opening a session", async |connection| {
                let user = checked.user.as_uuid();
                // Locked until the session is there: a change of the password waits, and then sees and ends it.
                let row = sqlx::query!(
                    "select first_name, last_name, email, created_at
                     from users
                     where id = $1 and password_hash = $2
                     for share",
                    user,
                    checked.password.as_str(),
                )
                .fetch_optional(&mut *connection)
                .await?
                .ok_or(Error::wrong_credentials())?;
                sqlx::query!("delete from sessions where user_id = $1 and expires_at <= now()", user)
                    .execute(&mut *connection)
                    .await?;
                let user = User {
                    id: checked.user,
                    first_name: Name::from_store(row.first_name),
                    last_name: Name::from_store(row.last_name),
                    email: Email::from_store(row.email),
                    created_at: row.created_at,
                };
                insert(connection, user, token, lifetime).await
            })
            .await
    }

    /// The session with this token, if it is alive; this use of it moves its end.
    pub async fn session(&self, token: &TokenHash, lifetime: Duration) -> Result<Option<Session>> {
        self.link
            .run("looking up a session", async |connection| {
                let Some(row) = sqlx::query!(
                    r#"select u.id, u.first_name, u.last_name, u.email, u.created_at, s.expires_at,
                              s.expires_at + make_interval(secs => $3) < now() + make_interval(secs => $2) as "slides!"
                       from sessions s
                       join users u on u.id = s.user_id
                       where s.token_hash = $1 and s.ended_at is null and now() < s.expires_at"#,
                    token.as_bytes().as_slice(),
                    lifetime.as_secs_f64(),
                    SLIDE_SECONDS,
                )
                .fetch_optional(&mut *connection)
                .await?
                else {
                    return Ok(None);
                };
                let expires_at = if row.slides {
                    slide(connection, token, lifetime).await?
                } else {
                    Some(row.expires_at)
                };
                Ok(expires_at.map(|expires_at| Session {
                    user: User {
                        id: UserId::new(row.id),
                        first_name: Name::from_store(row.first_name),
                        last_name: Name::from_store(row.last_name),
                        email: Email::from_store(row.email),
                        created_at: row.created_at,
                    },
                    hash: *token,
                    expires_at,
                }))
            })
            .await
    }

    /// Ends the session with this token. If it was ended before but its sockets are not closed yet, that is told again.
    /// None if there is no such session, or it has run out.
    pub async fn end_session(&self, token: &TokenHash) -> Result<Option<EndedSessions>> {
        self.link
            .run_whole("ending a session", async |connection| {
                let Some((user, _)) = end(&mut *connection, token).await? else { return Ok(None) };
                Ok(Some(ended(connection, user).await?))
            })
            .await
    }

    /// Ends all sessions of the user who has the one with this token. One that was ended before has no power over the
    /// others any more; then this tells only, like [`Postgres::end_session`], whose sockets are not closed yet.
    pub async fn end_all_sessions(&self, token: &TokenHash) -> Result<Option<EndedSessions>> {
        self.link
            .run_whole("ending all sessions of a user", async |connection| {
                let Some((user, was_alive)) = end(&mut *connection, token).await? else { return Ok(None) };
                if was_alive {
                    end_others(&mut *connection, user, token).await?;
                }
                Ok(Some(ended(connection, user).await?))
            })
            .await
    }

    /// Sessions of a user that were ended and whose sockets are still to be closed.
    pub async fn ended_sessions(&self, user: UserId) -> Result<EndedSessions> {
        self.link
            .run("looking up ended sessions", async |connection| Ok(ended(connection, user).await?))
            .await
    }

    /// Removes ended sessions whose sockets are closed.
    pub async fn forget_sessions(&self, ended: &EndedSessions) -> Result<()> {
        let hashes: Vec<_> = ended.hashes.iter().map(|hash| hash.as_bytes().to_vec()).collect();
        self.link
            .run("forgetting ended sessions", async |connection| {
                sqlx::query!(
                    "delete from sessions where token_hash = any($1) and ended_at is not null",
                    &hashes
                )
                .execute(connection)
                .await?;
                Ok(())
            })
            .await
    }
}

pub(super) async fn insert(
    connection: &mut PgConnection,
    user: User,
    token: &TokenHash,
    lifetime: Duration,
) -> Result<Session, Stopped> {
    let expires_at = sqlx::query_scalar!(
        "insert into sessions (token_hash, user_id, expires_at)
         values ($1, $2, now() + make_interval(secs => $3))
         returning expires_at",
        token.as_bytes().as_slice(),
        user.id.as_uuid(),
        lifetime.as_secs_f64(),
    )
    .fetch_one(connection)
    .await?;
    Ok(Session { user, hash: *token, expires_at })
}

/// None if the session was ended in the meantime.
async fn slide(
    connection: &mut PgConnection,
    token: &TokenHash,
    lifetime: Duration,
) -> sqlx::Result<Option<OffsetDateTime>> {
    sqlx::query_scalar!(
        "update sessions
         set expires_at = greatest(expires_at, now() + make_interval(secs => $2))
         where token_hash = $1 and ended_at is null
         returning expires_at",
        token.as_bytes().as_slice(),
        lifetime.as_secs_f64(),
    )
    .fetch_optional(connection)
    .await
}

/// Ends one session. Answers whose it is, and whether it was alive until now.
async fn end(connection: &mut PgConnection, token: &TokenHash) -> sqlx::Result<Option<(UserId, bool)>> {
    let token = token.as_bytes().as_slice();
    let ended_now = sqlx::query_scalar!(
        "update sessions
         set ended_at = now()
         where token_hash = $1 and ended_at is null and now() < expires_at
         returning user_id",
        token,
    )
    .fetch_optional(&mut *connection)
    .await?;
    if let Some(user) = ended_now {
        return Ok(Some((UserId::new(user), true)));
    }
    let ended_before = sqlx::query_scalar!(
        "select user_id from sessions where token_hash = $1 and ended_at is not null",
        token,
    )
    .fetch_optional(connection)
    .await?;
    Ok(ended_before.map(|user| (UserId::new(user), false)))
}

pub(super) async fn end_others(
    connection: &mut PgConnection,
    user: UserId,
    at_hand: &TokenHash,
) -> sqlx::Result<()> {
    sqlx::query!(
        "update sessions set ended_at = now() where user_id = $1 and token_hash <> $2 and ended_at is null",
        user.as_uuid(),
        at_hand.as_bytes().as_slice(),
    )
    .execute(connection)
    .await?;
    Ok(())
}

pub(super) async fn ended(connection: &mut PgConnection, user: UserId) -> sqlx::Result<EndedSessions> {
    let hashes: Vec<Vec<u8>> = sqlx::query_scalar!(
        "select token_hash from sessions where user_id = $1 and ended_at is not null",
        user.as_uuid(),
    )
    .fetch_all(connection)
    .await?;
    // The table's own check keeps every hash at 32 bytes.
    let hashes = hashes.iter().filter_map(|hash| TokenHash::from_bytes(hash)).collect();
    Ok(EndedSessions { user, hashes })
}
