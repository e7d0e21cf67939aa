//! `./dev bench`: what Banter's whole local stack delivers, how late, and what it costs to start.
//!
//! Everything is real: optimised binaries behind the local AWS, a Postgres and a Redis of its own, WebSocket clients.
//! The load generator runs on the same machine and takes its share of it, so the figures compare runs on one machine
//! and say nothing about AWS.

pub mod load;
pub mod machine;
pub mod room;
pub mod start;

use std::path::PathBuf;

use anyhow::{Context as _, Result};
use serde::Serialize;
use servers::{Postgres, PostgresOptions, Redis, RedisOptions};

use crate::{
    api::Api,
    ledger::Ledger,
    local_aws::{LocalAws, Setup, workspace_dir},
};

/// A whole Banter to measure, with servers of its own.
pub struct Stack {
    /// The local AWS.
    pub aws: LocalAws,
    /// Its HTTP API.
    pub api: Api,
    // They end with the stack.
    _postgres: Postgres,
    _redis: Redis,
}

impl Stack {
    /// Starts one, without throttles: they would measure themselves.
    ///
    /// # Errors
    /// A server or the local AWS does not start.
    pub async fn start(functions: &std::path::Path) -> Result<Self> {
        let postgres = Postgres::start(PostgresOptions::default()).await?;
        postgres.create_database("banter").await?;
        let redis = Redis::start(RedisOptions::default()).await?;
        let aws = Setup::new(workspace_dir().join("template.yaml"))
            .functions(functions)
            .variable("DATABASE_URL", postgres.url("banter"))
            .variable("REDIS_URL", redis.url())
            .variable("HTTP_THROTTLE", "unlimited")
            .variable("WEBSOCKET_THROTTLE", "unlimited")
            .variable("MAX_CONNECTIONS_PER_USER", "1000")
            .start()
            .await
            .context("the local AWS does not start")?;
        let api = Api::new(&aws.endpoints.http, Ledger::default());
        Ok(Self { aws, api, _postgres: postgres, _redis: redis })
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
    /// Start times, by function.
    pub starts: Vec<start::StartFigures>,
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
    }
}
