//! The time to read a page of a conversation of 100,000 events, at its end, in its middle, and at its beginning.
//!
//! The newest events are in Redis, all others in Postgres only, among as many events of other rooms.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use http::Method;
use serde::Serialize;
use serde_json::Value;
use sqlx::PgConnection;
use time::OffsetDateTime;
use uuid::Uuid;

use super::{Plan, Spread, Stack, Times, load::Room};
use crate::user::User;

/// Events of the conversation.
const EVENTS: i64 = 100_000;
/// Other rooms, and the events of each.
const OTHERS: (i64, i64) = (100, 1_000);
/// Events after those, which Redis has.
const HOT: u64 = 200;
/// Messages in a page.
const PAGE: usize = 50;
/// Milliseconds between two events of the conversation.
const PACE_MS: i64 = 1_000;
/// Turns before those that count.
const WARM_UP: usize = 20;

/// What was measured at one place.
#[derive(Debug, Serialize)]
pub struct PageFigures {
    /// Where the page is.
    pub page: &'static str,
    /// Pages that were read, over all rounds.
    pub reads: usize,
    /// How long a page took, from request to the last byte.
    pub time: Times,
    /// By the time of the newest page that Postgres has, p50 of each round.
    pub to_newest_in_postgres: Spread,
}

/// How many places there are.
const PLACES: usize = 5;
/// Which of them the others are compared with.
const REFERENCE: usize = 1;

/// Measures all places. `progress` is told of every finished round.
///
/// # Errors
/// The stack does not start, or a page is not what it should be.
pub async fn measure(plan: &Plan, progress: impl Fn()) -> Result<Vec<PageFigures>> {
    let stack = Stack::start(&plan.functions).await?;
    let user = stack.sign_up("Ada").await;
    let conversation = Conversation::write(&stack, &user).await?;
    let places = conversation.places();
    for _ in 0..WARM_UP {
        for (_, query) in &places {
            conversation.read(&user, query).await?;
        }
    }
    let mut times: [Vec<Duration>; PLACES] = Default::default();
    let mut ratios: [Vec<f64>; PLACES] = Default::default();
    for _ in 0..plan.rounds {
        let mut round: [Vec<Duration>; PLACES] = Default::default();
        let start = Instant::now();
        while start.elapsed() < Duration::from_secs(plan.seconds) {
            // In turn: what the machine does beside the bench happens to all.
            for (times, (_, query)) in round.iter_mut().zip(&places) {
                times.push(conversation.read(&user, query).await?);
            }
        }
        let reference = Times::of(&round[REFERENCE]).p50_ms;
        for (place, round) in round.iter().enumerate() {
            ratios[place].push(Times::of(round).p50_ms / reference);
            times[place].extend(round);
        }
        progress();
    }
    stack.aws.stop().await?;
    let figures =
        places.iter().zip(times.iter().zip(&ratios)).map(|((page, _), (times, ratios))| PageFigures {
            page,
            reads: times.len(),
            time: Times::of(times),
            to_newest_in_postgres: Spread::of(ratios),
        });
    Ok(figures.collect())
}

struct Conversation {
    room: String,
    /// Milliseconds of the position before its first event.
    start_ms: i64,
    /// The first position that Redis has.
    hot: String,
}

impl Conversation {
    async fn write(stack: &Stack, user: &User) -> Result<Self> {
        let mut database = stack.database().await?;
        let room = user.make_public_room().await;
        // All of it lies an hour back.
        let now_ms = OffsetDateTime::now_utc().unix_timestamp() * 1_000;
        let start_ms = now_ms - 3_600_000 - EVENTS * PACE_MS;
        store_others(&mut database, start_ms).await?;
        store(&mut database, &room, start_ms, EVENTS).await?;
        // As autovacuum does a minute later.
        sqlx::query("analyze messages").execute(&mut database).await?;

        let mut hot = Room::enter(stack, &room, 1).await?;
        hot.write(HOT, 1).await?;
        hot.close().await?.expect_whole()?;
        // A page whose newest message is the last before Redis begins has all of its messages in Postgres.
        let newest = user.get(&format!("/rooms/{room}/messages?limit={HOT}")).await.expect(200);
        let messages = newest["messages"].as_array().map(Vec::as_slice).unwrap_or_default();
        ensure!(messages.len() as u64 == HOT, "{} messages are in Redis", messages.len());
        let first = messages[0]["position"].as_str().unwrap_or_default().to_owned();
        Ok(Self { room, start_ms, hot: first })
    }

    fn places(&self) -> [(&'static str, String); PLACES] {
        let middle = self.start_ms + EVENTS / 2 * PACE_MS;
        [
            ("newest, in Redis", String::new()),
            ("newest in Postgres", format!("&before={}", self.hot)),
            ("middle, backwards", format!("&before={middle}-0")),
            ("middle, forwards", format!("&after={middle}-0")),
            ("first", "&after=0-0".to_owned()),
        ]
    }

    async fn read(&self, user: &User, query: &str) -> Result<Duration> {
        let path = format!("/rooms/{}/messages?limit={PAGE}{query}", self.room);
        let call = user.call(Method::GET, &path);
        let start = Instant::now();
        let answer = call.send().await;
        let took = start.elapsed();
        let page: Value = answer.expect(200);
        let messages = page["messages"].as_array().map(Vec::len);
        ensure!(messages == Some(PAGE), "{query}: {messages:?} messages");
        Ok(took)
    }
}

/// Writes a conversation straight into Postgres: of a hundred events, five are reactions, two are edits, the rest messages.
async fn store(database: &mut PgConnection, room: &str, start_ms: i64, events: i64) -> Result<()> {
    let statement = "
        insert into messages
          (room_id, event_id, position_ms, position_n, previous_ms, previous_n, kind, author_id, author_name, client_id,
           text, target_id, emoji, is_on)
        select $1, md5($1 || n)::uuid, $2 + n * $3, 0,
               case when 1 < n then $2 + (n - 1) * $3 end, case when 1 < n then 0 end, kind, $5, 'Ada Tester',
               case when kind = 'message' then n::text end,
               case when kind <> 'reacted' then rpad('message ' || n || ' ', 120, '.') end,
               case when kind <> 'message' then md5($1 || (n - 1))::uuid end,
               case when kind = 'reacted' then '👍' end, case when kind = 'reacted' then true end
        from generate_series(1, $4) n
        cross join lateral (
          select case when n % 20 = 0 then 'reacted' when n % 50 = 25 then 'edited' else 'message' end
        ) k (kind)";
    let query = sqlx::query(statement).bind(room).bind(start_ms).bind(PACE_MS).bind(events);
    query.bind(Uuid::from_u128(1)).execute(database).await?;
    Ok(())
}

async fn store_others(database: &mut PgConnection, start_ms: i64) -> Result<()> {
    let (rooms, events) = OTHERS;
    for number in 0..rooms {
        let room = format!("other-{number}");
        let statement = "insert into rooms (id, title, kind) values ($1, 'Another room', 'public')";
        sqlx::query(statement).bind(&room).execute(&mut *database).await?;
        store(database, &room, start_ms, events).await?;
    }
    Ok(())
}
