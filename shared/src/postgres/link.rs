//! The one connection of a process.
//!
//! Not sqlx's pool: a Lambda handles one call at a time and is frozen between two. A pool keeps its connections in order
//! with tasks of its own, which would be frozen in the middle, and rolls transactions back when the connection is used
//! next, which would leave rows locked for as long as the process sleeps.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use sqlx::{
    Connection, PgConnection,
    postgres::{PgConnectOptions, PgDatabaseError},
};
use tokio::{sync::Mutex, time::timeout};

use crate::error::{Error, Result};

/// The longest that opening a connection may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// The longest that one operation may take, waiting for its turn and connecting included.
const OPERATION_TIMEOUT: Duration = Duration::from_secs(5);
/// After this long unused, a connection is asked whether it still lives; sooner, its answer would only cost time.
const TRUSTED_FOR: Duration = Duration::from_secs(1);
/// The longest that the answer to that may take.
const PING_TIMEOUT: Duration = Duration::from_millis(500);
/// What Postgres itself is told: a Lambda that is killed says no good-bye, and Postgres would keep the locks of its
/// transaction until TCP gives up, in hours. An operation is over after 5 s; what then still stands open belongs to nobody.
const SERVER_LIMITS: [(&str, &str); 2] =
    [("lock_timeout", "4s"), ("idle_in_transaction_session_timeout", "10s")];

#[derive(Clone)]
pub(super) struct Link {
    options: Arc<PgConnectOptions>,
    idle: Arc<Mutex<Option<Idle>>>,
}

struct Idle {
    connection: PgConnection,
    /// By the wall clock: the other one may stand still while a process is frozen.
    since: SystemTime,
}

/// Why the work on a connection ended early.
pub(super) enum Stopped {
    /// By Postgres, or on the way there.
    Failed(sqlx::Error),
    /// By a decision of ours; the connection is as good as before.
    Refused(Error),
}

impl From<sqlx::Error> for Stopped {
    fn from(cause: sqlx::Error) -> Self {
        Self::Failed(cause)
    }
}

impl From<Error> for Stopped {
    fn from(refusal: Error) -> Self {
        Self::Refused(refusal)
    }
}

impl Link {
    pub(super) fn new(options: &PgConnectOptions) -> Self {
        let options = options.clone().application_name("banter").options(SERVER_LIMITS);
        Self { options: Arc::new(options), idle: Arc::default() }
    }

    /// Works on the connection, alone. `operation` names the work for errors.
    pub(super) async fn run<T>(
        &self,
        operation: &'static str,
        work: impl AsyncFnOnce(&mut PgConnection) -> Result<T, Stopped>,
    ) -> Result<T> {
        let worked = timeout(OPERATION_TIMEOUT, async {
            let mut idle = self.idle.lock().await;
            // Taken out while in use: if this future is dropped half-way, so is the connection, in whatever state it is.
            let mut connection = self.living(idle.take()).await?;
            let worked = work(&mut connection).await;
            let lost = matches!(&worked, Err(Stopped::Failed(cause)) if is_away(cause));
            if !lost {
                *idle = Some(Idle { connection, since: SystemTime::now() });
            }
            worked
        });
        match worked.await {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(Stopped::Refused(refusal))) => Err(refusal),
            Ok(Err(Stopped::Failed(cause))) => Err(failed(operation, cause)),
            Err(elapsed) => Err(Error::unavailable(operation, elapsed)),
        }
    }

    /// Works in a transaction: all of it holds, or nothing.
    pub(super) async fn run_whole<T>(
        &self,
        operation: &'static str,
        work: impl AsyncFnOnce(&mut PgConnection) -> Result<T, Stopped>,
    ) -> Result<T> {
        self.run(operation, async |connection| {
            let mut transaction = connection.begin().await?;
            match work(&mut transaction).await {
                Ok(value) => {
                    transaction.commit().await?;
                    Ok(value)
                }
                Err(stopped) => {
                    transaction.rollback().await?;
                    Err(stopped)
                }
            }
        })
        .await
    }

    async fn living(&self, idle: Option<Idle>) -> Result<PgConnection, sqlx::Error> {
        if let Some(Idle { mut connection, since }) = idle {
            let trusted = since.elapsed().is_ok_and(|unused| unused < TRUSTED_FOR);
            if trusted || matches!(timeout(PING_TIMEOUT, connection.ping()).await, Ok(Ok(()))) {
                return Ok(connection);
            }
        }
        match timeout(CONNECT_TIMEOUT, PgConnection::connect_with(&self.options)).await {
            Ok(connected) => connected,
            Err(elapsed) => Err(sqlx::Error::Io(elapsed.into())),
        }
    }
}

/// Gives a failure its place among our errors.
fn failed(operation: &'static str, cause: sqlx::Error) -> Error {
    match constraint(&cause) {
        Some("users_email_key") => Error::Conflict("There is an account with this e-mail address already"),
        Some("members_user_id_fkey") => Error::NotFound("user"),
        _ if is_away(&cause) => Error::unavailable(operation, cause),
        _ => Error::internal(operation, cause),
    }
}

/// Whether Postgres refuses what it was given, whoever gives it and whenever: data that it cannot hold, that break a rule,
/// or that are too large. Anything else that it may say is about its own state, or about our way to it.
pub fn is_refusal(error: &Error) -> bool {
    // PostgreSQL 15, appendix A: data exception, integrity constraint violation, program limit exceeded.
    const CLASSES: [&str; 3] = ["22", "23", "54"];
    let Error::Internal { cause, .. } = error else { return false };
    let database = cause.downcast_ref::<sqlx::Error>().and_then(sqlx::Error::as_database_error);
    let code = database.and_then(|error| error.code());
    code.is_some_and(|code| CLASSES.iter().any(|class| code.starts_with(class)))
}

fn constraint(cause: &sqlx::Error) -> Option<&str> {
    cause.as_database_error().and_then(|error| error.constraint())
}

/// Whether it is Postgres that is not there, rather than our query that is wrong.
fn is_away(cause: &sqlx::Error) -> bool {
    match cause {
        sqlx::Error::Io(_) | sqlx::Error::Tls(_) | sqlx::Error::Protocol(_) => true,
        sqlx::Error::Database(error) => error.try_downcast_ref::<PgDatabaseError>().is_some_and(|error| {
            // PostgreSQL 15, appendix A. The classes: 08 connection, 53 too many of them or no memory left, 57 shutting
            // down or starting up. The single codes: a replica that is not the primary (any more), a transaction that was
            // left open for too long, and work that gave way to other work and may be tried again.
            let code = error.code();
            ["08", "53", "57"].iter().any(|class| code.starts_with(class))
                || ["25006", "25P03", "40001", "40P01", "55P03"].contains(&code)
        }),
        _ => false,
    }
}
