//! The time from send to ack, with the archive queue and without the time that the queue takes.
//!
//! Two stacks run at once, and one message is sent in the one, the next in the other: what the machine does beside the
//! bench happens to both. They differ in one thing: `message` of the second puts its events into a queue in the bench
//! that answers at once, where the queue of the local AWS has each event on the disk before it answers.

use std::time::{Duration, Instant};

use anyhow::Result;
use serde::Serialize;

use super::{
    Plan, Spread, Stack, Times,
    load::Room,
    queue::{InstantQueue, calls, route_of_sends},
};

/// The sizes of the rooms: one in which nothing is pushed, and one in which pushes take longer than the queue.
pub const SIZES: [usize; 2] = [1, 100];
/// Of so many turns one is with a queue that is slow.
const SLOW_EVERY: usize = 8;
/// How long that one takes: about what SQS does.
const SLOW: Duration = Duration::from_millis(20);
/// Turns before those that count.
const WARM_UP: usize = 50;

/// What was measured in a room of one size.
#[derive(Debug, Serialize)]
pub struct AckFigures {
    /// Connections in the room.
    pub size: usize,
    /// Sends on each side, over all rounds.
    pub sends: usize,
    /// From send to ack, with the local AWS's queue.
    pub queue: Times,
    /// The same with a queue that answers at once.
    pub instant_queue: Times,
    /// The same with a queue that answers after 20 ms.
    pub slow_queue: Times,
    /// From ping to pong: two scripts in Redis as for a send, but nothing is queued and nothing pushed.
    pub ping: Times,
    /// What the local AWS's queue itself took, from request to answer.
    pub in_queue: Times,
    /// `queue` by `instant_queue`, p50 of each round.
    pub ratio_p50: Spread,
    /// The same, p99.
    pub ratio_p99: Spread,
}

#[derive(Default)]
struct Samples {
    queue: Vec<Duration>,
    instant_queue: Vec<Duration>,
    slow_queue: Vec<Duration>,
    ping: Vec<Duration>,
    in_queue: Vec<Duration>,
}

/// Measures a room of one size. `progress` is told of every finished round.
///
/// # Errors
/// A stack does not start, or refuses something.
pub async fn measure(plan: &Plan, size: usize, progress: impl Fn()) -> Result<AckFigures> {
    let mut all = Samples::default();
    let (mut ratios_p50, mut ratios_p99) = (Vec::new(), Vec::new());
    for _ in 0..plan.rounds {
        let round = round(plan, size).await?;
        let (with, without) = (Times::of(&round.queue), Times::of(&round.instant_queue));
        ratios_p50.push(with.p50_ms / without.p50_ms);
        ratios_p99.push(with.p99_ms / without.p99_ms);
        all.queue.extend(round.queue);
        all.instant_queue.extend(round.instant_queue);
        all.slow_queue.extend(round.slow_queue);
        all.ping.extend(round.ping);
        all.in_queue.extend(round.in_queue);
        progress();
    }
    Ok(AckFigures {
        size,
        sends: all.queue.len(),
        queue: Times::of(&all.queue),
        instant_queue: Times::of(&all.instant_queue),
        slow_queue: Times::of(&all.slow_queue),
        ping: Times::of(&all.ping),
        in_queue: Times::of(&all.in_queue),
        ratio_p50: Spread::of(&ratios_p50),
        ratio_p99: Spread::of(&ratios_p99),
    })
}

async fn round(plan: &Plan, size: usize) -> Result<Samples> {
    let instant_queue = InstantQueue::start().await?;
    let functions = instant_queue.functions(&plan.functions)?;
    let with = Stack::start(&plan.functions).await?;
    let without = Stack::start(functions.path()).await?;
    let (mut in_with, mut in_without) = (Room::open(&with, size).await?, Room::open(&without, size).await?);
    for _ in 0..WARM_UP {
        in_with.send_alone().await?;
        in_without.send_alone().await?;
    }

    let mut samples = Samples::default();
    let start = Instant::now();
    for turn in 0.. {
        // Neither always comes after the other: what follows a message is not part of the next.
        for half in [turn, turn + 1] {
            match half % 2 {
                0 => samples.queue.push(in_with.send_alone().await?),
                _ => samples.instant_queue.push(in_without.send_alone().await?),
            }
        }
        samples.ping.push(in_without.ping().await?);
        if turn % SLOW_EVERY == 0 {
            instant_queue.answer_after(SLOW);
            samples.slow_queue.push(in_without.send_alone().await?);
            instant_queue.answer_after(Duration::ZERO);
        }
        if Duration::from_secs(2 * plan.seconds) <= start.elapsed() {
            break;
        }
    }
    in_with.close().await?.expect_whole()?;
    in_without.close().await?.expect_whole()?;
    samples.in_queue = calls(&with, &route_of_sends()).split_off(WARM_UP);
    with.aws.stop().await?;
    without.aws.stop().await?;
    Ok(samples)
}
