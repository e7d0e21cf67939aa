//! Postgres and Redis: those that the shell names, else private ones whose data is kept between runs.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};
use servers::{Postgres, PostgresOptions, Redis, RedisOptions};
use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{ConnectOptions as _, Connection as _, Executor as _};

use crate::local_values::Shell;
use crate::progress::Progress;

/// The database in the private Postgres.
const DATABASE: &str = "banter";

/// How long a database in the shell may take to answer.
const CONNECT_LIMIT: Duration = Duration::from_secs(15);

/// The error code of Postgres for a database that is not there.
const NO_SUCH_DATABASE: &str = "3D000";

/// The stores that the functions use.
#[derive(Debug)]
pub struct Stores {
    postgres: Option<Postgres>,
    redis: Option<Redis>,
    /// `DATABASE_URL`, if a function names it.
    pub database_url: Option<String>,
    /// `REDIS_URL`, if a function names it.
    pub redis_url: Option<String>,
}

/// Which stores some function names in its environment.
#[derive(Clone, Copy, Debug)]
pub struct Needs {
    /// `DATABASE_URL`.
    pub postgres: bool,
    /// `REDIS_URL`.
    pub redis: bool,
}

impl Stores {
    /// Starts what is needed and not given, side by side, and brings the database to the newest schema.
    ///
    /// # Errors
    /// When a server does not start, cannot be reached, or refuses a migration.
    pub async fn start(needs: Needs, shell: &Shell, state: &Path, progress: &Progress) -> Result<Self> {
        let postgres = async {
            if !needs.postgres {
                return Ok((None, None));
            }
            let (server, url) = match shell.get("DATABASE_URL") {
                Some(url) => (None, url.to_owned()),
                None => private_postgres(state, progress).await.map(|(server, url)| (Some(server), url))?,
            };
            migrate(&url, progress).await?;
            anyhow::Ok((server, Some(url)))
        };
        let redis = async {
            Ok(match (needs.redis, shell.get("REDIS_URL")) {
                (false, _) => (None, None),
                (true, Some(url)) => (None, Some(url.to_owned())),
                (true, None) => {
                    let step = progress.step("Redis");
                    let options = RedisOptions {
                        data: Some(state.join("redis")),
                        append_only: true,
                        ..Default::default()
                    };
                    let server = Redis::start(options).await?;
                    step.done();
                    let url = server.url();
                    (Some(server), Some(url))
                }
            })
        };
        let ((postgres, database_url), (redis, redis_url)) = tokio::try_join!(postgres, redis)?;
        Ok(Self { postgres, redis, database_url, redis_url })
    }

    /// Stops the private servers in good order: everything is on disk afterwards.
    pub async fn stop(mut self) {
        let postgres = async {
            if let Some(server) = &mut self.postgres
                && let Err(why) = server.stop().await
            {
                tracing::warn!("Postgres did not stop well: {:#}", anyhow!(why));
            }
        };
        let redis = async {
            if let Some(server) = &mut self.redis
                && let Err(why) = server.stop().await
            {
                tracing::warn!("Redis did not stop well: {:#}", anyhow!(why));
            }
        };
        tokio::join!(postgres, redis);
    }
}

async fn private_postgres(state: &Path, progress: &Progress) -> Result<(Postgres, String)> {
    let step = progress.step("Postgres");
    let options = PostgresOptions { data: Some(state.join("postgres")), ..Default::default() };
    let server = Postgres::start(options).await?;
    let url = server.url(DATABASE);
    // A run that was killed early may have left a server without its database.
    match connect(&url).await {
        Ok(connection) => connection.close().await?,
        Err(sqlx::Error::Database(error)) if error.code().as_deref() == Some(NO_SUCH_DATABASE) => {
            server.create_database(DATABASE).await?;
        }
        Err(error) => return Err(error).context("connecting to the private Postgres"),
    }
    step.done();
    Ok((server, url))
}

async fn connect(url: &str) -> sqlx::Result<PgConnection> {
    url.parse::<PgConnectOptions>()?.disable_statement_logging().connect().await
}

/// Runs the migrations that the database has not had. A database that has had later ones is left as it is: another
/// branch has been run here, and every migration works with the code before it.
async fn migrate(url: &str, progress: &Progress) -> Result<()> {
    let step = progress.step("migrations");
    let place = place(url);
    let connection = tokio::time::timeout(CONNECT_LIMIT, connect(url)).await;
    let connection =
        connection.map_err(|_| anyhow!("it does not answer")).and_then(|connected| Ok(connected?));
    let mut connection = connection.with_context(|| format!("connecting to Postgres at {place}"))?;
    // The messages "already exists, skipping" of the migrations' own table are of no use to anybody.
    connection.execute("set client_min_messages = warning").await?;
    let mut migrator = sqlx::migrate!("../../migrations");
    migrator.set_ignore_missing(true);
    migrator.run(&mut connection).await.with_context(|| format!("migrating the database at {place}"))?;
    connection.close().await?;
    step.done();
    Ok(())
}

/// Where a database is, without its password.
fn place(url: &str) -> String {
    match url.parse::<PgConnectOptions>() {
        Ok(options) => {
            let socket = options.get_socket().map(|path| path.display().to_string());
            let host = socket.unwrap_or_else(|| format!("{}:{}", options.get_host(), options.get_port()));
            format!("{host}/{}", options.get_database().unwrap_or_default())
        }
        Err(_) => "a URL that cannot be read".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_database_is_named_without_its_password() {
        let named = place("postgres://ada:secret@db.example:5433/chat");
        assert_eq!(named, "db.example:5433/chat");
    }
}
