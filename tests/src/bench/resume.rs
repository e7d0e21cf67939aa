//! The time in which a reader who was away gets a thousand missed events, from Redis and from Postgres.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde::Serialize;
use serde_json::{Value, json};

use super::{
    Plan, Spread, Stack, Times,
    load::{Line, Room},
    queue::ArchiveQueue,
};
use crate::user::User;

/// What was written while the reader was away.
const EVENTS: u64 = 1_000;
/// Messages under way at once when they are written.
const UNDER_WAY: u64 = 4;
/// As few as the log may be left with.
const COLD: &str = "1";
/// Turns before those that count.
const WARM_UP: usize = 5;

/// What was measured of one store.
#[derive(Debug, Serialize)]
pub struct ResumeFigures {
    /// Where the missed events are.
    pub from: &'static str,
    /// How many there are.
    pub events: u64,
    /// In how many pages they come.
    pub pages: usize,
    /// Resumes, over all rounds.
    pub resumes: usize,
    /// From the `join` to the last page, on a connection that is open.
    pub time: Times,
    /// By the time from Redis, p50 of each round.
    pub to_redis: Spread,
}

struct Away {
    stack: Stack,
    reader: User,
    room: String,
    left_at: String,
    generation: String,
}

/// Measures both stores. `progress` is told of every finished round.
///
/// # Errors
/// A stack does not start, or a resume is not whole.
pub async fn measure(plan: &Plan, progress: impl Fn()) -> Result<Vec<ResumeFigures>> {
    let in_redis = Away::miss(plan, &[]).await?;
    let in_postgres = Away::miss(plan, &[("HISTORY_HOT", COLD)]).await?;
    let left = [in_redis.log_length().await?, in_postgres.log_length().await?];
    // A tenth more than it should be is good enough for the archive.
    ensure!(left[0] == EVENTS + 1 && left[1] <= 2, "of {EVENTS} events and one, Redis has {left:?}");
    let stores = [("Redis", in_redis), ("Postgres", in_postgres)];
    let mut pages = [0; 2];
    for _ in 0..WARM_UP {
        for (store, (_, away)) in stores.iter().enumerate() {
            pages[store] = away.resume().await?.1;
        }
    }
    let mut times: [Vec<Duration>; 2] = Default::default();
    let mut ratios: [Vec<f64>; 2] = Default::default();
    for _ in 0..plan.rounds {
        let mut round: [Vec<Duration>; 2] = Default::default();
        let start = Instant::now();
        while start.elapsed() < Duration::from_secs(plan.seconds) {
            for (times, (_, away)) in round.iter_mut().zip(&stores) {
                times.push(away.resume().await?.0);
            }
        }
        let reference = Times::of(&round[0]).p50_ms;
        for (store, round) in round.iter().enumerate() {
            ratios[store].push(Times::of(round).p50_ms / reference);
            times[store].extend(round);
        }
        progress();
    }
    let mut figures = Vec::new();
    for (store, (from, away)) in stores.into_iter().enumerate() {
        figures.push(ResumeFigures {
            from,
            events: EVENTS,
            pages: pages[store],
            resumes: times[store].len(),
            time: Times::of(&times[store]),
            to_redis: Spread::of(&ratios[store]),
        });
        away.stack.aws.stop().await?;
    }
    Ok(figures)
}

impl Away {
    /// A reader who left, and what was written afterwards.
    async fn miss(plan: &Plan, settings: &[(&str, &str)]) -> Result<Self> {
        let stack = Stack::start_with(&plan.functions, settings).await?;
        let reader = stack.sign_up("Ada").await;
        let mut room = Room::open(&stack, 1).await?;
        // There is something to have seen: an empty room has no position.
        room.write(1, 1).await?;
        let mut line = Line::open(&stack, &reader).await?;
        let joined = line.ask(&json!({"action": "join", "room": room.id()}), "joined").await?;
        drop(line);
        room.write(EVENTS, UNDER_WAY).await?;
        // The archive trims the log before it is done with an event.
        ArchiveQueue::of(&stack).until_empty().await?;
        let field = |name: &str| joined[name].as_str().map(str::to_owned).context("the reader has joined");
        let (left_at, generation) = (field("position")?, field("generation")?);
        let id = room.id().to_owned();
        room.close().await?.expect_whole()?;
        Ok(Self { stack, reader, room: id, left_at, generation })
    }

    async fn log_length(&self) -> Result<u64> {
        self.stack.log_length(&self.room).await
    }

    /// Comes back and reads everything: how long that took, and in how many pages.
    async fn resume(&self) -> Result<(Duration, usize)> {
        let mut line = Line::open(&self.stack, &self.reader).await?;
        let room = &self.room;
        let start = Instant::now();
        let join =
            json!({"action": "join", "room": room, "after": self.left_at, "generation": self.generation});
        let mut page = line.ask(&join, "joined").await?;
        ensure!(page["reset"] == false, "a resume of {EVENTS} events begins anew");
        let (mut last, mut events, mut pages) = (self.left_at.clone(), 0, 1);
        loop {
            (last, events) = follow(&page, last, events)?;
            if page["more"] == false {
                break;
            }
            let history = json!({"action": "history", "room": room, "after": last, "limit": 200});
            page = line.ask(&history, "history").await?;
            pages += 1;
        }
        let took = start.elapsed();
        ensure!(events == EVENTS, "{events} events of {EVENTS} came");
        Ok((took, pages))
    }
}

/// Looks whether each event of a page is the next.
fn follow(page: &Value, mut last: String, mut events: u64) -> Result<(String, u64)> {
    for event in page["events"].as_array().context("a page has events")? {
        ensure!(event["previous"] == last, "after {last} comes {event}");
        event["position"].as_str().context("an event has a position")?.clone_into(&mut last);
        events += 1;
    }
    Ok((last, events))
}
