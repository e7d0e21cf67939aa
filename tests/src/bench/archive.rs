//! How fast acknowledged events come from the queue to Postgres.
//!
//! Real messages are sent in several rooms, whose records a queue in the bench keeps back. Then all of them go into the
//! local AWS's queue at once, as after an hour without Postgres, and it is counted how fast they arrive. What counts is
//! the time after the last was put in, so that the bench's own work is no part of it. Postgres does not wait for its
//! disk here, as everywhere in the bench.
//!
//! Once the logs in Redis take everything, as in new rooms, and once nearly all has to be taken out of them again, as in
//! rooms that have as much as they may.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use serde::Serialize;
use sqlx::PgConnection;

use super::{
    Plan, Spread, Stack, Times,
    load::Room,
    queue::{ArchiveQueue, InstantQueue, calls, route_of_archive},
};

/// Events in a round.
const EVENTS: u64 = 10_000;
/// The rooms in which they are written.
const ROOMS: u64 = 8;
/// Messages of one room that are under way at once.
const UNDER_WAY: u64 = 4;
/// How long the logs may be, in both cases.
pub const HOT: [u64; 2] = [10_000, 100];
/// How often is looked what has arrived.
const GLANCE: Duration = Duration::from_millis(10);
/// Nothing new for so long means that something is lost.
const PATIENCE: Duration = Duration::from_secs(60);

/// What was measured of the archive.
#[derive(Debug, Default, Serialize)]
pub struct ArchiveFigures {
    /// Events in each round.
    pub events: u64,
    /// The rooms that they are of.
    pub rooms: u64,
    /// `HISTORY_HOT`: how many events of a room may stay in Redis.
    pub hot: u64,
    /// How many did.
    pub left_in_logs: u64,
    /// Events a second that came to Postgres.
    pub events_per_second: Spread,
    /// Calls of `archive` in a round.
    pub calls: Spread,
    /// How long a call took.
    pub call: Times,
    /// Seconds that it took to fill the queue; `archive` was at work meanwhile.
    pub fill_seconds: Spread,
    /// Events that were in Postgres when the queue was full.
    pub stored_while_filling: Spread,
}

/// Measures one case. `progress` is told of every finished round.
///
/// # Errors
/// The stack does not start, or an event does not arrive.
pub async fn measure(plan: &Plan, hot: u64, progress: impl Fn()) -> Result<ArchiveFigures> {
    let (mut rates, mut counts, mut times) = (Vec::new(), Vec::new(), Vec::new());
    let (mut fills, mut early, mut left) = (Vec::new(), Vec::new(), 0);
    for _ in 0..plan.rounds {
        let instant_queue = InstantQueue::start().await?;
        let functions = instant_queue.functions(&plan.functions)?;
        let stack = Stack::start_with(functions.path(), &[("HISTORY_HOT", &hot.to_string())]).await?;
        let mut rooms = Vec::new();
        for _ in 0..ROOMS {
            rooms.push(Room::open(&stack, 1).await?);
        }
        let writes = rooms.iter_mut().map(|room| room.write(EVENTS / ROOMS, UNDER_WAY));
        futures::future::try_join_all(writes).await?;
        let records = instant_queue.take();
        ensure!(records.len() as u64 == EVENTS, "{} records of {EVENTS} events", records.len());

        let mut database = stack.database().await?;
        let queue = ArchiveQueue::of(&stack);
        let start = Instant::now();
        queue.fill(&records).await?;
        let (full, stored) = (Instant::now(), stored(&mut database).await?);
        until_stored(&mut database, EVENTS).await?;
        rates.push((EVENTS - stored) as f64 / full.elapsed().as_secs_f64());
        fills.push((full - start).as_secs_f64());
        early.push(stored as f64);
        // What is stored is compared with the logs before the call ends.
        queue.until_empty().await?;
        let calls = calls(&stack, &route_of_archive());
        counts.push(calls.len() as f64);
        times.extend(calls);
        left = 0;
        for room in rooms {
            left += stack.log_length(room.id()).await?;
            room.close().await?.expect_whole()?;
        }
        stack.aws.stop().await?;
        progress();
    }
    Ok(ArchiveFigures {
        events: EVENTS,
        rooms: ROOMS,
        hot,
        left_in_logs: left,
        events_per_second: Spread::of(&rates),
        calls: Spread::of(&counts),
        call: Times::of(&times),
        fill_seconds: Spread::of(&fills),
        stored_while_filling: Spread::of(&early),
    })
}

async fn stored(database: &mut PgConnection) -> Result<u64> {
    let count: i64 = sqlx::query_scalar("select count(*) from messages").fetch_one(database).await?;
    Ok(count.unsigned_abs())
}

async fn until_stored(database: &mut PgConnection, events: u64) -> Result<()> {
    let (mut last, mut since) = (0, Instant::now());
    loop {
        let stored = stored(database).await?;
        if stored == events {
            return Ok(());
        }
        if last < stored {
            (last, since) = (stored, Instant::now());
        }
        ensure!(since.elapsed() < PATIENCE, "{stored} of {events} events are stored, and no more come");
        tokio::time::sleep(GLANCE).await;
    }
}
