//! The way of what was acknowledged to Postgres, and back when Redis has it no more.

use std::{collections::BTreeSet, time::Duration};

use redis::{AsyncCommands, streams::StreamRangeReply};
use serde_json::{Value, json};
use sqlx::Executor;
use tests::{
    chat::{Chat, expect_type, parse_position, texts, texts_of},
    test_app::{TestApp, eventually, eventually_within},
    user::{User, text},
};
use uuid::Uuid;

const QUEUE: &str = "ArchiveQueue";
const DEAD_LETTERS: &str = "ArchiveDeadLetterQueue";

fn numbers(range: std::ops::Range<usize>) -> Vec<String> {
    range.map(|n| n.to_string()).collect()
}

/// Writes the numbers of a range: the acks.
async fn write(chat: &mut Chat, room: &str, range: std::ops::Range<usize>) -> Vec<Value> {
    let mut acks = Vec::new();
    for n in range {
        acks.push(chat.send(room, &n.to_string()).await);
    }
    acks
}

fn position(ack: &Value) -> String {
    text(&ack["position"])
}

/// A position so many milliseconds after some moment.
fn at(milliseconds: u64) -> String {
    format!("{}-0", 1_795_351_680_000 + milliseconds)
}

/// Lets Postgres refuse every event with this error, until it is [let go](let_go). Everything else works as ever.
async fn hold_back(app: &TestApp, error: &str) {
    let function = format!(
        "create function hold_back() returns trigger language plpgsql as
         $$ begin raise exception 'held back by the test' using errcode = '{error}'; end $$"
    );
    let trigger =
        "create trigger hold_back before insert on messages for each statement execute function hold_back()";
    let mut database = app.database().await;
    database.execute(sqlx::AssertSqlSafe(function)).await.expect("the function is valid");
    database.execute(trigger).await.expect("the trigger is valid");
}

/// See [`hold_back`].
async fn let_go(app: &TestApp) {
    app.database().await.execute("drop function hold_back cascade").await.expect("it was held back");
}

/// Waits until the archive has failed to store something.
async fn was_refused(app: &TestApp) {
    eventually("the archive could not store something", async || {
        let calls = app.calls_of("archive");
        if calls.iter().any(|line| line["failed"] != 0) { Ok(()) } else { Err(format!("{calls:?}")) }
    })
    .await;
}

/// Waits until everything that was queued is stored.
async fn stored(app: &TestApp) {
    app.queue_has(QUEUE, 0).await;
}

async fn rows(app: &TestApp, room: &str) -> i64 {
    let count = sqlx::query_scalar("select count(*) from messages where room_id = $1").bind(room);
    count.fetch_one(&mut app.database().await).await.expect("Postgres answers")
}

/// Waits until a room's history is this, by HTTP.
async fn history_becomes(user: &User, room: &str, expected: &[String]) {
    eventually("the history is whole", async || {
        let history = user.read_forwards(room, 200).await;
        let history = texts(&history);
        if history == expected { Ok(()) } else { Err(format!("{history:?} instead of {expected:?}")) }
    })
    .await;
}

/// Joins as soon as Redis and Postgres are there again.
async fn join_again(chat: &mut Chat, room: &str) -> Value {
    expect_type(chat.ask_until_available(json!({"action": "join", "room": room})).await, "joined")
}

#[tokio::test]
async fn what_can_never_be_stored_is_put_aside_unchanged_and_harms_no_other_record_of_its_batch() {
    TestApp::run(async |app| {
        app.expect_failures();
        let ada = app.user("Ada").await;
        let room = ada.make_public_room().await;
        let secret = "hunter2-is-what-somebody-wrote";
        app.ledger().secret(secret);
        let message = |text: &str| json!({"type": "message", "text": text});
        let good = |n: u64| {
            let previous = n.checked_sub(1).map(at);
            let place = (at(n), previous.as_deref().map(str::to_owned));
            ada.record(&room, (&place.0, place.1.as_deref()), Uuid::new_v4(), &message(&n.to_string()))
                .to_string()
        };
        let bad = |room: &str, text: &str| {
            ada.record(room, (&at(9), Some(&at(8))), Uuid::new_v4(), &message(text)).to_string()
        };
        let bodies = [
            good(0),
            secret.to_owned(),
            good(1),
            json!({"room": room, "text": secret}).to_string(),
            good(2),
            bad("no-such-room", secret),
            good(3),
            // Valid JSON, a valid record, and no text that Postgres takes.
            bad(&room, &format!("{secret}\u{0}")),
        ];
        let ids = app.put(QUEUE, &bodies).await;

        app.queue_has(DEAD_LETTERS, 4).await;
        let put_aside: BTreeSet<String> = app.waiting(DEAD_LETTERS).await.into_iter().collect();
        let expected = [1, 3, 5, 7].map(|bad| bodies[bad].clone());
        assert_eq!(put_aside, BTreeSet::from(expected));
        stored(app).await;
        assert_eq!(texts(&ada.read_forwards(&room, 50).await), numbers(0..4));

        let calls = eventually("the call is in the log", async || {
            let calls = app.calls_of("archive");
            if calls.is_empty() { Err(app.aws.log()) } else { Ok(calls) }
        })
        .await;
        assert_eq!(calls.len(), 1, "all came in one batch: {calls:?}");
        assert_eq!((&calls[0]["records"], &calls[0]["failed"]), (&json!(8), &json!(0)));
        for (number, id) in ids.iter().enumerate() {
            let lines = app.log_lines();
            let of_it: Vec<&Value> = lines.iter().filter(|line| line["message.id"] == id.as_str()).collect();
            let is_bad = number % 2 == 1;
            assert_eq!(of_it.len(), usize::from(is_bad), "{of_it:?}");
            assert!(
                of_it.iter().all(|line| line["level"] == "ERROR" && line["reason"].is_string()),
                "{of_it:?}"
            );
        }
    })
    .await;
}

#[tokio::test]
async fn while_postgres_is_away_chat_goes_on_and_afterwards_everything_is_stored() {
    TestApp::setup()
        .own_postgres()
        .run(async |app| {
            app.expect_failures();
            let (room, (ada, mut at_ada), (_, mut at_bob)) = app.two_in_a_room().await;
            app.postgres.server().kill().await.expect("Postgres ends");
            for n in 0..10 {
                let ack = at_ada.send(&room, &n.to_string()).await;
                assert_eq!(at_bob.pushed_message().await["event"], ack["event"]);
            }
            // More than once: what a single failure may not cost, a repeated one may not either.
            eventually("the archive has tried again", async || {
                let failed = app.calls_of("archive").iter().filter(|line| line["failed"] != 0).count();
                if 2 <= failed { Ok(()) } else { Err(format!("{failed} calls have failed")) }
            })
            .await;
            app.postgres.server().resume().await.expect("Postgres starts");
            stored(app).await;
            assert_eq!(app.queued(DEAD_LETTERS).await, 0);
            assert_eq!(rows(app, &room).await, 10);
            history_becomes(&ada, &room, &numbers(0..10)).await;
        })
        .await;
}

#[tokio::test]
async fn what_postgres_refuses_for_another_reason_than_the_record_is_no_dead_letter() {
    // A right that was taken away, a table that a deployment has yet to make, a disk that fails.
    for error in ["42501", "42P01", "58030"] {
        TestApp::run(async |app| {
            app.expect_failures();
            let (room, (ada, mut at_ada), _) = app.two_in_a_room().await;
            hold_back(app, error).await;
            write(&mut at_ada, &room, 0..3).await;
            was_refused_or_buried(app).await;
            let_go(app).await;
            stored(app).await;
            assert_eq!(app.queued(DEAD_LETTERS).await, 0, "{error}");
            history_becomes(&ada, &room, &numbers(0..3)).await;
            assert_eq!(rows(app, &room).await, 3);
        })
        .await;
    }
}

/// Waits until the archive has done something about an error.
async fn was_refused_or_buried(app: &TestApp) {
    eventually("the archive was called", async || {
        let calls = app.calls_of("archive");
        if calls.is_empty() { Err("not yet".to_owned()) } else { Ok(()) }
    })
    .await;
}

#[tokio::test]
async fn an_archive_that_is_killed_in_mid_call_stores_everything_once_after_all() {
    /// As long as the queue hides what a dead call has received, and some more.
    const PATIENCE: Duration = Duration::from_secs(70);
    TestApp::run(async |app| {
        app.expect_failures();
        let (room, (ada, mut at_ada), _) = app.two_in_a_room().await;
        // In the middle of its transaction: it waits for the table.
        let mut database = app.database().await;
        database.execute("begin").await.expect("Postgres answers");
        database.execute("lock table messages in exclusive mode").await.expect("Postgres answers");
        let kill = json!({"kill": {"function": "archive", "after_ms": 500}});
        app.aws.faults(&kill).await.expect("faults are set");
        write(&mut at_ada, &room, 0..3).await;
        eventually("the archive is dead", async || {
            let lines = app.log_lines();
            let dead = lines
                .iter()
                .any(|line| line["api"] == "sqs" && line["function"] == "archive" && line["status"] == 500);
            if dead { Ok(()) } else { Err(app.aws.log()) }
        })
        .await;
        app.aws.faults(&json!({})).await.expect("faults are cleared");
        database.execute("rollback").await.expect("Postgres answers");
        assert_eq!(app.queued(QUEUE).await, 3, "nothing is done, and nothing is lost");
        eventually_within(PATIENCE, "everything is stored", async || {
            let queued = app.queued(QUEUE).await;
            if queued == 0 { Ok(()) } else { Err(format!("{queued} records are in the queue")) }
        })
        .await;
        assert_eq!(rows(app, &room).await, 3);
        assert_eq!(app.queued(DEAD_LETTERS).await, 0);
        history_becomes(&ada, &room, &numbers(0..3)).await;
    })
    .await;
}

#[tokio::test]
async fn a_record_that_is_delivered_twice_is_one_row_and_nobody_notices() {
    TestApp::run(async |app| {
        let (room, (ada, mut at_ada), (_, mut at_bob)) = app.two_in_a_room().await;
        let generation = at_bob.join(&room).await["generation"].take();
        let twice = json!({"sqs": {"duplicate_share": 1.0}});
        app.aws.faults(&twice).await.expect("faults are set");
        write(&mut at_ada, &room, 0..5).await;
        eventually("each was delivered twice", async || {
            let delivered: u64 =
                app.calls_of("archive").iter().filter_map(|line| line["records"].as_u64()).sum();
            if delivered == 10 { Ok(()) } else { Err(format!("{delivered} records")) }
        })
        .await;
        stored(app).await;
        assert_eq!(rows(app, &room).await, 5);
        assert_eq!(texts(&ada.read_forwards(&room, 50).await), numbers(0..5));
        let pushed = at_bob.pushed_before_now().await;
        assert_eq!(texts(&pushed), numbers(0..5), "and nobody has to read again");
        assert_eq!(at_bob.join(&room).await["generation"], generation);
    })
    .await;
}

/// Reads a room by frames from a position on, in pages.
async fn frames_forwards(chat: &mut Chat, room: &str, after: &str, limit: usize) -> Vec<String> {
    let (mut all, mut after) = (Vec::new(), after.to_owned());
    loop {
        let frame = json!({"action": "history", "room": room, "after": after, "limit": limit});
        let page = expect_type(chat.ask(frame).await, "history");
        all.extend(texts_of(&page).into_iter().map(str::to_owned));
        if page["more"] == false {
            return all;
        }
        after = end_of(&page);
    }
}

/// Reads a room back by frames, in pages; oldest first.
async fn frames_backwards(chat: &mut Chat, room: &str, limit: usize) -> Vec<String> {
    let mut all = Vec::new();
    let mut frame = json!({"action": "history", "room": room, "limit": limit});
    loop {
        let page = expect_type(chat.ask(frame.clone()).await, "history");
        let mut older: Vec<String> = texts_of(&page).into_iter().map(str::to_owned).collect();
        older.append(&mut all);
        all = older;
        if page["more"] == false {
            return all;
        }
        frame["before"] = page["events"][0]["position"].clone();
    }
}

/// Comes back to a room as a client does, page by page: the texts, and how many pages it took.
async fn resume(chat: &mut Chat, room: &str, after: &str, generation: &str) -> (Vec<String>, usize) {
    let (mut all, mut after, mut pages) = (Vec::new(), after.to_owned(), 0);
    loop {
        let page = chat.resume(room, &after, generation).await;
        assert_eq!((&page["reset"], &page["generation"]), (&json!(false), &json!(generation)));
        all.extend(texts_of(&page).into_iter().map(str::to_owned));
        pages += 1;
        if page["more"] == false {
            return (all, pages);
        }
        after = end_of(&page);
    }
}

/// The position of the last event of a page.
fn end_of(page: &Value) -> String {
    let last = page["events"].as_array().and_then(|events| events.last());
    position(last.expect("a page that is not the last has events"))
}

/// Lets the log be trimmed, and waits until it is as short as it is to be. It would be two minutes later: so long an event
/// stays in the log after it was stored.
async fn trimmed(app: &TestApp, room: &str, hot: usize) {
    stored(app).await;
    let aged = "update messages set stored_at = stored_at - interval '1 hour'";
    app.database().await.execute(aged).await.expect("the statement is valid");
    // A log is trimmed when something of its room comes out of the queue; something that is stored already changes nothing.
    let log = format!("room:{{{room}}}:log");
    let newest: StreamRangeReply =
        app.redis().await.xrevrange_count(&log, "+", "-", 1).await.expect("Redis answers");
    let newest = newest.ids.first().expect("the log is not empty");
    let field = |name| newest.get::<String>(name).expect("an entry has it");
    let event: Value = serde_json::from_str(&field("e")).expect("is JSON");
    let record = json!({"room": room, "position": newest.id, "previous": field("p"), "event": event});
    app.put(QUEUE, &[record.to_string()]).await;
    eventually("the log is trimmed", async || {
        let length: usize = app.redis().await.xlen(&log).await.expect("Redis answers");
        let about = hot..=hot + hot.div_ceil(10);
        if about.contains(&length) { Ok(()) } else { Err(format!("{length} entries")) }
    })
    .await;
}

#[tokio::test]
async fn history_is_read_without_seam_from_redis_into_postgres_in_both_directions_while_it_grows() {
    TestApp::with([("HISTORY_HOT", "20")])
        .run(async |app| {
            let (room, (ada, mut at_ada), (_, mut at_bob)) = app.two_in_a_room().await;
            let generation = text(&at_bob.join(&room).await["generation"]);
            write(&mut at_ada, &room, 0..60).await;
            trimmed(app, &room, 20).await;

            let (enough, mut told) = tokio::sync::oneshot::channel();
            let writing = tokio::spawn({
                let room = room.clone();
                async move {
                    let mut written = 60;
                    while told.try_recv().is_err() {
                        write(&mut at_ada, &room, written..written + 1).await;
                        written += 1;
                    }
                    (written, at_ada)
                }
            });
            for limit in [7, 20, 50] {
                let walks = [
                    texts(&ada.read_forwards(&room, limit).await).into_iter().map(str::to_owned).collect(),
                    texts(&ada.read_backwards(&room, limit).await).into_iter().map(str::to_owned).collect(),
                    frames_forwards(&mut at_bob, &room, "0-0", limit).await,
                    frames_backwards(&mut at_bob, &room, limit).await,
                    resume(&mut at_bob, &room, "0-0", &generation).await.0,
                ];
                for (way, walk) in walks.iter().enumerate() {
                    assert!(60 <= walk.len(), "way {way} is too short: {walk:?}");
                    assert_eq!(walk, &numbers(0..walk.len()), "way {way}, {limit} at a time");
                }
            }
            enough.send(()).expect("Ada still writes");
            let (written, _at_ada) = writing.await.expect("the writer is well");
            assert!(60 < written, "it has grown");
            stored(app).await;
            trimmed(app, &room, 20).await;
            assert_eq!(rows(app, &room).await, i64::try_from(written).expect("it fits"));
            assert_eq!(frames_forwards(&mut at_bob, &room, "0-0", 50).await, numbers(0..written));
            assert!(
                at_bob.take_pushes().iter().all(|push| push["type"] == "message"),
                "a trimmed log is no reason to read again"
            );
        })
        .await;
}

#[tokio::test]
async fn a_resume_across_the_seam_is_whole_and_one_that_cannot_be_says_so() {
    /// Five of the longest texts fit into one reply.
    const MESSAGES: usize = 42;
    TestApp::with([("HISTORY_HOT", "20")])
        .run(async |app| {
            let (room, (_, mut at_ada), (bob, mut at_bob)) = app.two_in_a_room().await;
            let generation = text(&at_bob.join(&room).await["generation"]);
            let mut positions = Vec::new();
            for n in 0..MESSAGES {
                let longest = format!("{n:03}{}", "😀".repeat(3_997));
                positions.push(position(&at_ada.send(&room, &longest).await));
            }
            trimmed(app, &room, 20).await;
            drop(at_bob);
            let mut at_bob = bob.connect().await;
            let shortened = |texts: Vec<String>| -> Vec<String> {
                texts.iter().map(|text| text[..3].trim_start_matches('0').to_owned()).collect()
            };
            let expected = |from: usize| -> Vec<String> {
                (from..MESSAGES).map(|n| format!("{n:03}").trim_start_matches('0').to_owned()).collect()
            };
            // From before the seam, from about it, and from behind it.
            for known in [5, MESSAGES - 21, MESSAGES - 20, MESSAGES - 3] {
                let (missed, pages) = resume(&mut at_bob, &room, &positions[known], &generation).await;
                assert_eq!(shortened(missed), expected(known + 1), "from {known} on");
                assert!(known != 5 || 5 < pages, "{pages} pages");
            }
            // One that never was gives all that comes after it.
            for known in [5, MESSAGES - 3] {
                let (milliseconds, sequence) = parse_position(&positions[known]).expect("it is a position");
                let never_was = format!("{milliseconds}-{}", sequence + 999);
                let (missed, _) = resume(&mut at_bob, &room, &never_was, &generation).await;
                assert_eq!(shortened(missed), expected(known + 1), "from what never was, after {known}");
            }
            // One from the future, and one of another generation.
            let newest = MESSAGES - 5;
            for (after, of) in
                [("99999999999999-0", generation.as_str()), (&positions[5], "0123456789abcdef")]
            {
                let reset = at_bob.resume(&room, after, of).await;
                assert_eq!((&reset["reset"], &reset["generation"]), (&json!(true), &json!(generation)));
                let newest_of_them = texts_of(&reset).into_iter().map(str::to_owned).collect();
                assert_eq!(shortened(newest_of_them), expected(newest), "the newest that fit");
                assert_eq!(reset["more"], true);
            }
            for unreadable in ["soon", "", "1795351680123", "-1-0", "1-18446744073709551616"] {
                let frame =
                    json!({"action": "join", "room": room, "after": unreadable, "generation": generation});
                assert_eq!(at_bob.invalid(frame).await, ["after"], "{unreadable}");
            }
        })
        .await;
}

/// How Redis forgets.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Loss {
    /// It comes back empty.
    Everything,
    /// It comes back as it was some time ago, as a replica or a snapshot does.
    TheNewest,
}

/// What was acknowledged is there again after Redis has lost it, also for one who was back before Postgres had it.
async fn what_redis_has_lost_comes_back(loss: Loss) {
    TestApp::run(async |app| {
        app.expect_failures();
        let (room, (ada, mut at_ada), (_, mut at_bob)) = app.two_in_a_room().await;
        let generation = text(&at_bob.join(&room).await["generation"]);
        write(&mut at_ada, &room, 0..2).await;
        stored(app).await;
        let earlier = app.redis.snapshot().await.expect("Redis can be copied");
        hold_back(app, "57P03").await;
        let acks = write(&mut at_ada, &room, 2..5).await;
        was_refused(app).await;
        match loss {
            Loss::Everything => app.redis.restart_empty().await.expect("Redis starts"),
            Loss::TheNewest => app.redis.restart_from(&earlier).await.expect("Redis starts"),
        }

        // Bob is back before the rest is in Postgres. He is told at once that he cannot go on from where he was.
        let last = position(&acks[2]);
        let joined = at_bob.resume(&room, &last, &generation).await;
        assert_eq!(joined["reset"], true);
        assert_eq!(texts_of(&joined), numbers(0..2), "what is known by now");
        if loss == Loss::Everything {
            assert_ne!(joined["generation"], generation.as_str());
        }
        at_bob.pushed_before_now().await;
        let_go(app).await;
        let resync = at_bob.pushed_resync().await;
        assert!(resync != generation && joined["generation"] != resync.as_str(), "{resync}");
        history_becomes(&ada, &room, &numbers(0..5)).await;
        stored(app).await;
        assert_eq!(frames_forwards(&mut at_bob, &room, "0-0", 2).await, numbers(0..5));
        assert_eq!(frames_backwards(&mut at_bob, &room, 2).await, numbers(0..5));

        // Each is where its ack says, and what comes now comes after all of it.
        let history = ada.read_forwards(&room, 50).await;
        for (event, ack) in history[2..].iter().zip(&acks) {
            assert_eq!((&event["event"], &event["position"]), (&ack["event"], &ack["position"]));
        }
        let joined = join_again(&mut at_ada, &room).await;
        assert_eq!(
            (texts_of(&joined), &joined["reset"]),
            (numbers(0..5).iter().map(String::as_str).collect(), &json!(false))
        );
        let next = at_ada.send(&room, "5").await;
        assert!(parse_position(&last) < parse_position(&position(&next)), "{next} comes after {last}");
        assert_eq!(at_bob.pushed_message().await["event"], next["event"]);
        stored(app).await;
        history_becomes(&ada, &room, &numbers(0..6)).await;
        assert_eq!(rows(app, &room).await, 6);
        assert_eq!(app.queued(DEAD_LETTERS).await, 0);
    })
    .await;
}

#[tokio::test]
async fn what_was_acked_is_there_again_after_redis_came_back_empty() {
    what_redis_has_lost_comes_back(Loss::Everything).await;
}

#[tokio::test]
async fn what_was_acked_is_there_again_after_redis_came_back_as_it_was_some_time_ago() {
    what_redis_has_lost_comes_back(Loss::TheNewest).await;
}

#[tokio::test]
async fn a_redis_from_before_an_earlier_loss_is_not_believed() {
    TestApp::run(async |app| {
        app.expect_failures();
        let (room, (ada, mut at_ada), (bob, mut at_bob)) = app.two_in_a_room().await;
        let first_generation = text(&at_bob.join(&room).await["generation"]);
        let last_of_it = position(&write(&mut at_ada, &room, 0..2).await[1]);
        stored(app).await;
        let earlier = app.redis.snapshot().await.expect("Redis can be copied");

        app.redis.restart_empty().await.expect("Redis starts");
        for chat in [&mut at_ada, &mut at_bob] {
            join_again(chat, &room).await;
        }
        let newest = position(&write(&mut at_ada, &room, 2..4).await[1]);
        stored(app).await;
        app.redis.restart_from(&earlier).await.expect("Redis starts");

        // Redis agrees with itself, and knows Ada as one who has joined. What she writes shows what it lacks.
        let send = json!({"action": "send", "room": room, "text": "4", "id": "four"});
        let ack = expect_type(at_ada.ask_until_available(send).await, "ack");
        assert!(parse_position(&newest) < parse_position(&position(&ack)), "{ack}");
        at_bob.pushed_resync().await;
        stored(app).await;
        history_becomes(&ada, &room, &numbers(0..5)).await;

        // One who has slept since the first generation is not told that there was nothing else.
        app.redis.restart_from(&earlier).await.expect("Redis starts");
        let mut asleep = eventually("one can connect", async || {
            bob.connect_with_token().await.map_err(|refused| refused.to_string())
        })
        .await;
        let joined = asleep.resume(&room, &last_of_it, &first_generation).await;
        assert_eq!(joined["reset"], true, "{joined}");
        assert_ne!(joined["generation"], first_generation.as_str());
        assert_eq!(texts_of(&joined), numbers(0..5));
        assert_eq!(joined["position"], ack["position"]);
        assert_eq!(rows(app, &room).await, 5);
    })
    .await;
}

#[tokio::test]
async fn a_text_that_was_deleted_does_not_come_back_by_a_repeat() {
    const SECRET: &str = "Forget that I have ever said it";
    for is_emptied in [false, true] {
        TestApp::run(async |app| {
            app.expect_failures();
            let (room, (ada, mut at_ada), (_, mut at_bob)) = app.two_in_a_room().await;
            let sent = at_ada.send_with_id(&room, SECRET, "regretted").await;
            stored(app).await;
            let (milliseconds, sequence) = parse_position(&position(&sent)).expect("it is a position");
            let place = format!("{milliseconds}-{}", sequence + 1);
            let deleted = json!({"type": "deleted", "target": sent["event"]});
            let deletion = ada.record(&room, (&place, Some(&position(&sent))), Uuid::new_v4(), &deleted);
            app.put(QUEUE, &[deletion.to_string()]).await;
            stored(app).await;
            if is_emptied {
                app.redis.restart_empty().await.expect("Redis starts");
                for chat in [&mut at_ada, &mut at_bob] {
                    join_again(chat, &room).await;
                }
            }
            at_bob.pushed_before_now().await;

            let again = at_ada.send_with_id(&room, SECRET, "regretted").await;
            assert_eq!(again["event"], sent["event"]);
            stored(app).await;
            let history = ada.read_forwards(&room, 50).await;
            assert_eq!(history.len(), 1, "{history:?}");
            assert!(history[0]["deleted"] == true && history[0].get("text").is_none(), "{history:?}");
            assert_nowhere(app, &room, SECRET).await;
            if !is_emptied {
                let pushed = at_bob.pushed_before_now().await;
                assert!(pushed.is_empty(), "nobody is shown it again: {pushed:?}");
            }
        })
        .await;
    }
}

/// No store has this text any more.
async fn assert_nowhere(app: &TestApp, room: &str, words: &str) {
    let mut read = redis::cmd("XRANGE");
    read.arg(format!("room:{{{room}}}:log")).arg("-").arg("+");
    let log: redis::Value = read.query_async(&mut app.redis().await).await.expect("Redis answers");
    assert!(!format!("{log:?}").contains(words), "it is in the log");
    let left: i64 = sqlx::query_scalar("select count(*) from messages m where m::text like '%' || $1 || '%'")
        .bind(words)
        .fetch_one(&mut app.database().await)
        .await
        .expect("Postgres answers");
    assert_eq!(left, 0, "it is in Postgres");
}

#[tokio::test]
async fn a_repeat_after_redis_came_back_empty_is_the_same_message() {
    for was_stored in [true, false] {
        TestApp::run(async |app| {
            app.expect_failures();
            let (room, (ada, mut at_ada), (_, mut at_bob)) = app.two_in_a_room().await;
            at_ada.send(&room, "What was there before it").await;
            stored(app).await;
            if !was_stored {
                hold_back(app, "57P03").await;
            }
            let first = at_ada.send_with_id(&room, "Only once, please", "one").await;
            if was_stored {
                stored(app).await;
            } else {
                was_refused(app).await;
            }
            app.redis.restart_empty().await.expect("Redis starts");
            join_again(&mut at_ada, &room).await;
            let again = at_ada.send_with_id(&room, "Only once, please", "one").await;
            assert_eq!(again["event"], first["event"], "its name for good");
            join_again(&mut at_bob, &room).await;
            if !was_stored {
                let_go(app).await;
            }

            let expected = ["What was there before it", "Only once, please"].map(str::to_owned);
            stored(app).await;
            history_becomes(&ada, &room, &expected).await;
            assert_eq!(rows(app, &room).await, 2);
            assert_eq!(frames_forwards(&mut at_bob, &room, "0-0", 1).await, expected);
            let history = ada.read_forwards(&room, 50).await;
            assert_eq!(
                (&history[1]["event"], &history[1]["position"]),
                (&first["event"], &first["position"])
            );
            // And once more, now that it is known again.
            assert_eq!(at_ada.send_with_id(&room, "Only once, please", "one").await["event"], first["event"]);
            stored(app).await;
            history_becomes(&ada, &room, &expected).await;
        })
        .await;
    }
}

#[tokio::test]
async fn a_room_that_nobody_used_for_long_comes_back_whole_from_postgres() {
    TestApp::run(async |app| {
        let (room, (ada, mut at_ada), (_, mut at_bob)) = app.two_in_a_room().await;
        let generation = text(&at_bob.join(&room).await["generation"]);
        write(&mut at_ada, &room, 0..4).await;
        let last = at_ada.send_with_id(&room, "4", "the last").await;
        stored(app).await;
        // What their end does, 30 days early. What is known of repeats has an end of its own.
        let keys = app.redis_keys(&format!("room:{{{room}}}:*")).await;
        let expiring: Vec<_> = keys.iter().filter(|key| !key.contains(":sent:")).collect();
        let mut redis = app.redis().await;
        for key in &expiring {
            let seconds: i64 = redis.ttl(key).await.expect("Redis answers");
            assert!(0 < seconds && seconds <= 30 * 24 * 60 * 60, "{key} stays for {seconds} s");
            let _: u64 = redis.del(key).await.expect("Redis answers");
        }
        assert!(expiring.iter().any(|key| key.ends_with(":log")), "{keys:?}");

        let listed = ada.get("/rooms?scope=mine").await.expect(200);
        assert_eq!(listed["rooms"][0]["last_message"]["text"], "4", "{listed}");
        assert_eq!(listed["rooms"][0]["last_message"]["position"], last["position"]);
        assert_eq!(texts(&ada.read_forwards(&room, 2).await), numbers(0..5));
        assert_eq!(texts(&ada.read_backwards(&room, 2).await), numbers(0..5));
        at_bob.refused(json!({"action": "send", "room": room, "text": "Too soon"}), "not_joined").await;

        let joined = at_bob.join(&room).await;
        assert_eq!(
            (texts_of(&joined), &joined["more"]),
            (numbers(0..5).iter().map(String::as_str).collect(), &json!(false))
        );
        assert_eq!(joined["position"], last["position"]);
        assert_eq!(
            at_bob.resume(&room, &position(&last), &generation).await["reset"],
            true,
            "another generation"
        );
        let now = text(&joined["generation"]);
        assert!(texts_of(&at_bob.resume(&room, &position(&last), &now).await).is_empty());

        at_ada.join(&room).await;
        at_bob.pushed_before_now().await;
        assert_eq!(
            at_ada.send_with_id(&room, "4", "the last").await["position"],
            last["position"],
            "a repeat"
        );
        let next = at_ada.send(&room, "5").await;
        assert_eq!(next["previous"], last["position"], "it goes on where it was");
        assert_eq!(at_bob.pushed_message().await["event"], next["event"]);
        stored(app).await;
        assert_eq!(texts(&ada.read_forwards(&room, 50).await), numbers(0..6));
        assert_eq!(rows(app, &room).await, 6);
    })
    .await;
}

#[tokio::test]
async fn history_shows_a_message_as_edits_reactions_and_its_deletion_made_it() {
    const SECRET: &str = "This was better not said at all";
    TestApp::run(async |app| {
        app.ledger().secret(SECRET);
        let (room, (ada, mut at_ada), (bob, mut at_bob)) = app.two_in_a_room().await;
        // The first two are written as ever, the rest is queued by hand: no frame makes such events yet.
        let edited = at_ada.send(&room, "The first text of it").await;
        let deleted = at_ada.send(&room, SECRET).await;
        stored(app).await;
        let (milliseconds, _) = parse_position(&position(&deleted)).expect("it is a position");
        let mut previous = position(&deleted);
        let mut records = Vec::new();
        let liked = Uuid::new_v4();
        for (n, (who, name, content)) in [
            (&bob, liked, json!({"type": "message", "text": "What Bob has to say"})),
            (
                &ada,
                Uuid::new_v4(),
                json!({"type": "edited", "target": edited["event"], "text": "The second text of it"}),
            ),
            (&ada, Uuid::new_v4(), json!({"type": "reacted", "target": liked, "emoji": "👍", "on": true})),
            (&bob, Uuid::new_v4(), json!({"type": "reacted", "target": liked, "emoji": "👍", "on": true})),
            (&ada, Uuid::new_v4(), json!({"type": "reacted", "target": liked, "emoji": "🎉", "on": true})),
            (
                &ada,
                Uuid::new_v4(),
                json!({"type": "edited", "target": edited["event"], "text": "The last text of it"}),
            ),
            (&bob, Uuid::new_v4(), json!({"type": "reacted", "target": liked, "emoji": "👍", "on": false})),
            (&ada, Uuid::new_v4(), json!({"type": "deleted", "target": deleted["event"]})),
        ]
        .into_iter()
        .enumerate()
        {
            let place = format!("{milliseconds}-{}", n + 1);
            records.push(who.record(&room, (&place, Some(&previous)), name, &content).to_string());
            previous = place;
        }
        // In two batches, and neither in order.
        let (later, sooner) = records.split_at(4);
        for half in [sooner, later] {
            let half: Vec<String> = half.iter().rev().cloned().collect();
            app.put(QUEUE, &half).await;
            stored(app).await;
        }

        let history = ada.read_forwards(&room, 50).await;
        assert_eq!(history.len(), 3, "{history:?}");
        assert_eq!(history, ada.read_backwards(&room, 1).await);
        let [first, second, third] = history.as_slice() else { panic!("there are three") };
        assert_eq!(
            (&first["text"], &first["position"]),
            (&json!("The last text of it"), &edited["position"])
        );
        assert!(first["edited_at"].is_string() && first["type"] == "message", "{first}");
        assert_eq!((&second["event"], &second["deleted"]), (&deleted["event"], &json!(true)));
        assert!(second.get("text").is_none(), "{second}");
        assert_eq!(third["reactions"], json!({"👍": [ada.id], "🎉": [ada.id]}));
        assert!(third.get("edited_at").is_none() && third["text"] == "What Bob has to say", "{third}");

        // What was deleted is nowhere any more, and those who have it are told to read again.
        at_bob.pushed_resync().await;
        assert_nowhere(app, &room, SECRET).await;
    })
    .await;
}
