//! Deliveries a second, and the time from send to receipt, in rooms of several sizes.

use std::time::Duration;

use anyhow::Result;
use serde::Serialize;
use serde_json::Value;

use super::{Plan, Stack, load::Room, machine::resident_kib, median, percentile};

/// The rate at which latencies are measured, in deliveries a second: far below what any room takes, so that they tell
/// of the path and not of a queue.
const STEADY_RATE: u32 = 1_000;
/// Connections that write at once when deliveries are counted.
const WRITERS: usize = 4;
/// How much of a measurement goes before it, unmeasured.
const WARM_UP: Duration = Duration::from_secs(1);

/// What was measured in rooms of one size: medians over the rounds.
#[derive(Debug, Serialize)]
pub struct RoomFigures {
    /// Connections in the room.
    pub size: usize,
    /// Deliveries a second at full speed.
    pub deliveries_per_second: f64,
    /// Milliseconds from send to receipt, at 1,000 deliveries a second: half of the deliveries took no longer.
    pub p50_ms: f64,
    /// The same, 99 of 100.
    pub p99_ms: f64,
    /// Deliveries that were looked at, over all rounds.
    pub deliveries: usize,
    /// Acknowledged messages that a reader was not shown.
    pub lost: u64,
    /// Messages that a reader was shown more than once.
    pub duplicated: u64,
    /// Resident memory of the largest `message` process after the last round, in KiB.
    pub message_resident_kib: u64,
}

/// Measures rooms of one size. `progress` is told of every finished part.
///
/// # Errors
/// The stack does not start, or refuses something.
pub async fn measure(plan: &Plan, size: usize, progress: impl Fn()) -> Result<RoomFigures> {
    let duration = Duration::from_secs(plan.seconds);
    let (mut rates, mut p50s, mut p99s) = (Vec::new(), Vec::new(), Vec::new());
    let mut figures = RoomFigures {
        size,
        deliveries_per_second: 0.0,
        p50_ms: 0.0,
        p99_ms: 0.0,
        deliveries: 0,
        lost: 0,
        duplicated: 0,
        message_resident_kib: 0,
    };
    for _ in 0..plan.rounds {
        // A stack of its own for each round: none runs on what the one before has warmed.
        let stack = Stack::start(&plan.functions).await?;

        warm_up(&stack, size).await?;
        let mut room = Room::open(&stack, size).await?;
        room.steadily(STEADY_RATE, duration).await?;
        let audit = room.close().await?;
        let milliseconds =
            |percent| percentile(&audit.latencies_us, percent).map(|us| f64::from(us) / 1_000.0);
        p50s.extend(milliseconds(50));
        p99s.extend(milliseconds(99));
        figures.deliveries += audit.latencies_us.len();
        figures.lost += audit.lost;
        figures.duplicated += audit.duplicated;
        progress();

        let mut room = Room::open(&stack, size).await?;
        rates.push(room.at_full_speed(WRITERS, duration).await?);
        let audit = room.close().await?;
        figures.deliveries += audit.latencies_us.len();
        figures.lost += audit.lost;
        figures.duplicated += audit.duplicated;
        figures.message_resident_kib = figures.message_resident_kib.max(resident_of_message(&stack).await?);
        stack.aws.stop().await?;
        progress();
    }
    figures.deliveries_per_second = median(&rates).unwrap_or_default();
    figures.p50_ms = median(&p50s).unwrap_or_default();
    figures.p99_ms = median(&p99s).unwrap_or_default();
    Ok(figures)
}

async fn warm_up(stack: &Stack, size: usize) -> Result<()> {
    let mut room = Room::open(stack, size.min(100)).await?;
    room.at_full_speed(WRITERS, WARM_UP).await?;
    room.close().await?;
    Ok(())
}

async fn resident_of_message(stack: &Stack) -> Result<u64> {
    let url = format!("{}/functions", stack.aws.endpoints.control);
    let instances: Vec<Value> = reqwest::get(url).await?.json().await?;
    let resident = instances
        .iter()
        .filter(|instance| instance["function"] == "message")
        .filter_map(|instance| resident_kib(instance["pid"].as_u64()?))
        .max();
    Ok(resident.unwrap_or_default())
}
