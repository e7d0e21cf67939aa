//! `./dev bench`: what Banter's whole local stack delivers, how late, and what it costs to start.
//!
//! Everything is real: optimised binaries behind the local AWS, a Postgres and a Redis of its own, WebSocket clients.
//! The load generator runs on the same machine and takes its share of it, so the figures compare runs on one machine
//! and say nothing about AWS.

pub mod ack;
pub mod archive;
pub mod load;
pub mod machine;
pub mod pages;
pub mod queue;
pub mod resume;
pub mod room;
pub mod start;

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result};
use serde::Serialize;
use servers::{Postgres, PostgresOptions, Redis, RedisOptions};
use sqlx::{Connection as _, PgConnection};

use crate::{
    api::Api,
    ledger::Ledger,
    local_aws::{LocalAws, Setup, workspace_dir},
    user::User,
};

/// The database's name.
const DATABASE: &str = "banter";

/// A whole Banter to measure, with servers of its own.
pub struct Stack {
    /// The local AWS.
    pub aws: LocalAws,
    /// Its HTTP API.
    pub api: Api,
    // They end with the stack.
    postgres: Postgres,
    redis: Redis,
}

impl Stack {
    /// Starts one, without throttles: they would measure themselves.
    ///
    /// # Errors
    /// A server or the local AWS does not start.
    pub async fn start(functions: &Path) -> Result<Self> {
        Self::start_with(functions, &[]).await
    }

    /// Starts one with other settings than the template's.
    ///
    /// # Errors
    /// A server or the local AWS does not start.
    pub async fn start_with(functions: &Path, settings: &[(&str, &str)]) -> Result<Self> {
        let postgres = Postgres::start(PostgresOptions::default()).await?;
        postgres.create_database(DATABASE).await?;
        let redis = Redis::start(RedisOptions::default()).await?;
        let mut setup = Setup::new(workspace_dir().join("template.yaml"))
            .functions(functions)
            .variable("DATABASE_URL", postgres.url(DATABASE))
            .variable("REDIS_URL", redis.url())
            .variable("HTTP_THROTTLE", "unlimited")
            .variable("WEBSOCKET_THROTTLE", "unlimited")
            .variable("MAX_CONNECTIONS_PER_USER", "1000");
        for (name, value) in settings {
            setup = setup.variable(name, value);
        }
        let aws = setup.start().await.context("the local AWS does not start")?;
        let api = Api::new(&aws.endpoints.http, Ledger::default());
        Ok(Self { aws, api, postgres, redis })
    }

    /// Somebody who has just signed up.
    pub async fn sign_up(&self, first_name: &str) -> User {
        User::sign_up(&self.api, &self.aws.endpoints.websocket, first_name).await
    }

    /// A connection to look into Postgres, and to write there, behind the functions' backs.
    ///
    /// # Errors
    /// Postgres does not answer.
    pub async fn database(&self) -> Result<PgConnection> {
        Ok(PgConnection::connect(&self.postgres.url(DATABASE)).await?)
    }

    /// How many events of a room Redis has.
    ///
    /// # Errors
    /// Redis does not answer.
    pub async fn log_length(&self, room: &str) -> Result<u64> {
        let client = redis::Client::open(self.redis.url())?;
        let mut connection = client.get_multiplexed_async_connection().await?;
        let log = format!("room:{{{room}}}:log");
        Ok(redis::cmd("XLEN").arg(log).query_async(&mut connection).await?)
    }
}

/// What the bench measures.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The folder of the functions' binaries.
    pub functions: PathBuf,
    /// How long each measurement goes on, in seconds.
    pub seconds: u64,
    /// How often each is made; the medians are told.
    pub rounds: usize,
}

/// Everything that was measured, as `.local/bench/bench.json` holds it.
#[derive(Debug, Default, Serialize)]
pub struct Report {
    /// On what.
    pub machine: machine::Machine,
    /// Deliveries, by size of the room.
    pub rooms: Vec<room::RoomFigures>,
    /// Times from send to ack, by size of the room.
    pub acks: Vec<ack::AckFigures>,
    /// How fast acknowledged events come to Postgres, while the logs grow and while they are trimmed.
    pub archive: Vec<archive::ArchiveFigures>,
    /// Reading pages of a long conversation, by place.
    pub pages: Vec<pages::PageFigures>,
    /// Resumes after many missed events, by store.
    pub resumes: Vec<resume::ResumeFigures>,
    /// Start times, by function.
    pub starts: Vec<start::StartFigures>,
}

/// The middle of what the rounds gave, and how far they lie apart.
#[derive(Debug, Default, Clone, Copy, PartialEq, Serialize)]
pub struct Spread {
    /// The median.
    pub median: f64,
    /// The smallest.
    pub least: f64,
    /// The largest.
    pub most: f64,
}

impl Spread {
    /// Of these values; zeros if there are none.
    pub fn of(values: &[f64]) -> Self {
        let at = |percent| percentile(values, percent).unwrap_or_default();
        Self { median: at(50), least: at(0), most: at(100) }
    }
}

/// How long something took.
#[derive(Debug, Default, Clone, Copy, PartialEq, Serialize)]
pub struct Times {
    /// Milliseconds: half of all took no longer.
    pub p50_ms: f64,
    /// The same, 99 of 100.
    pub p99_ms: f64,
}

impl Times {
    /// Of these; zeros if there are none.
    pub fn of(durations: &[Duration]) -> Self {
        let at = |percent| {
            percentile(durations, percent).map_or(0.0, |time: Duration| time.as_secs_f64() * 1_000.0)
        };
        Self { p50_ms: at(50), p99_ms: at(99) }
    }
}

/// The middle of values, which may come in any order. The lower of two middles.
pub fn median<T: PartialOrd + Copy>(values: &[T]) -> Option<T> {
    percentile(values, 50)
}

/// The value that `percent` of the values do not exceed.
pub fn percentile<T: PartialOrd + Copy>(values: &[T], percent: usize) -> Option<T> {
    let mut sorted = values.to_vec();
    sorted.sort_by(|a, b| a.partial_cmp(b).unwrap_or(std::cmp::Ordering::Equal));
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    sorted.get(rank - 1).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_values_that_were_seen() {
        let values: Vec<u32> = (1..=100).rev().collect();
        assert_eq!(percentile(&values, 50), Some(50));
        assert_eq!(percentile(&values, 99), Some(99));
        assert_eq!(percentile(&values, 100), Some(100));
        assert_eq!(median(&[3, 1, 2]), Some(2));
        assert_eq!(median::<u32>(&[]), None);
        assert_eq!(Spread::of(&[3.0, 1.0, 2.0]), Spread { median: 2.0, least: 1.0, most: 3.0 });
        assert_eq!(Times::of(&[]), Times::default());
    }
}
