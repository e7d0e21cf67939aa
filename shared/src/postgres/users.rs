//! Accounts.

use std::time::Duration;

use super::{
    Postgres,
    sessions::{self, EndedSessions, Session},
};
use crate::{
    domain::users::{Email, Name, User, UserId},
    error::{Error, Result},
    password::PasswordHash,
    token::TokenHash,
};

/// An account to be.
pub struct NewUser {
    /// The id that it will have.
    pub id: UserId,
    /// First name.
    pub first_name: Name,
    /// Last name.
    pub last_name: Name,
    /// The address to log in with.
    pub email: Email,
    /// The hash of the password.
    pub password: PasswordHash,
}

/// What a log-in is checked against.
pub struct Credentials {
    /// Whose they are.
    pub user: UserId,
    /// The hash of the password.
    pub password: PasswordHash,
}

impl Postgres {
    /// Makes an account, and opens its first session.
    ///
    /// # Errors
    /// [`Error::Conflict`] if the e-mail address is taken, in whatever case.
    pub async fn sign_up(&self, new: NewUser, token: &TokenHash, lifetime: Duration) -> Result<Session> {
        let NewUser { id, first_name, last_name, email, password } = new;
        self.link
            .run_whole("making an account", async |connection| {
                let created_at = sqlx::query_scalar!(
                    "insert into users (id, first_name, last_name, email, password_hash)
                     values ($1, $2, $3, $4, $5)
                     returning created_at",
                    id.as_uuid(),
                    first_name.as_str(),
                    last_name.as_str(),
                    email.as_str(),
                    password.as_str(),
                )
                .fetch_one(&mut *connection)
                .await?;
                let user = User { id, first_name, last_name, email, created_at };
                sessions::insert(connection, user, token, lifetime).await
            })
            .await
    }

    /// What a log-in with this address is checked against; none if there is no such account.
    pub async fn credentials(&self, email: &Email) -> Result<Option<Credentials>> {
        self.link
            .run("looking up an account", async |connection| {
                let row = sqlx::query!(
                    r#"select id, password_hash
                       from users
                       where lower(email collate "und-x-icu") collate "C"
                             = lower($1 collate "und-x-icu") collate "C""#,
                    email.as_str(),
                )
                .fetch_optional(connection)
                .await?;
                Ok(row.map(|row| Credentials {
                    user: UserId::new(row.id),
                    password: PasswordHash::from_store(row.password_hash),
                }))
            })
            .await
    }

    /// The hash of a user's password.
    ///
    /// # Errors
    /// [`Error::NotFound`] if the account is gone.
    pub async fn password(&self, user: UserId) -> Result<PasswordHash> {
        self.link
            .run("reading a password's hash", async |connection| {
                let hash =
                    sqlx::query_scalar!("select password_hash from users where id = $1", user.as_uuid())
                        .fetch_optional(connection)
                        .await?;
                Ok(hash.map(PasswordHash::from_store).ok_or(Error::NotFound("user"))?)
            })
            .await
    }

    /// Changes what was given of a user's name.
    ///
    /// # Errors
    /// [`Error::NotFound`] if the account is gone.
    pub async fn rename(
        &self,
        user: UserId,
        first_name: Option<&Name>,
        last_name: Option<&Name>,
    ) -> Result<User> {
        self.link
            .run("renaming a user", async |connection| {
                let row = sqlx::query!(
                    "update users
                     set first_name = coalesce($2, first_name), last_name = coalesce($3, last_name)
                     where id = $1
                     returning first_name, last_name, email, created_at",
                    user.as_uuid(),
                    first_name.map(Name::as_str),
                    last_name.map(Name::as_str),
                )
                .fetch_optional(connection)
                .await?
                .ok_or(Error::NotFound("user"))?;
                Ok(User {
                    id: user,
                    first_name: Name::from_store(row.first_name),
                    last_name: Name::from_store(row.last_name),
                    email: Email::from_store(row.email),
                    created_at: row.created_at,
                })
            })
            .await
    }

    /// Replaces the password that was checked by another one, and ends all the user's sessions but the one at hand.
    /// Whether `checked` is still the user's password is asked again here, so of two changes at a time one is refused.
    ///
    /// # Errors
    /// [`Error::Conflict`] if the password has been changed since it was checked.
    pub async fn change_password(
        &self,
        user: UserId,
        checked: &PasswordHash,
        new: &PasswordHash,
        at_hand: &TokenHash,
    ) -> Result<EndedSessions> {
        self.link
            .run_whole("changing a password", async |connection| {
                let changed = sqlx::query!(
                    "update users set password_hash = $3 where id = $1 and password_hash = $2",
                    user.as_uuid(),
                    checked.as_str(),
                    new.as_str(),
                )
                .execute(&mut *connection)
                .await?;
                if changed.rows_affected() == 0 {
                    return Err(Error::Conflict("The password has just been changed").into());
                }
                sessions::end_others(&mut *connection, user, at_hand).await?;
                Ok(sessions::ended(connection, user).await?)
            })
            .await
    }
}
