//! Frames that go through the fan-out queue: for big rooms, and for receivers that cannot be reached at once. And the
//! queue on the way to Postgres, without which nothing is acknowledged.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use redis::AsyncCommands;
use serde_json::json;
use tests::{
    chat::{Chat, texts_of},
    test_app::{Setup, TestApp, eventually},
    user::{User, text},
    view::View,
};

/// A Banter in which rooms are big from six receivers on.
fn small_direct() -> Setup {
    TestApp::with([("FANOUT_DIRECT", "5")])
}

/// One user's connections in a room, each with its picture of it.
async fn readers(user: &User, room: &str, count: usize) -> Vec<(Chat, View)> {
    let mut readers = Vec::new();
    for _ in 0..count {
        let mut chat = user.connect().await;
        let view = View::join(&mut chat, room).await;
        readers.push((chat, view));
    }
    readers
}

/// How often something was put into a queue.
fn puts(app: &TestApp, queue: &str) -> usize {
    let lines = app.log_lines().into_iter();
    let route = format!("SendMessageBatch local-{queue}");
    lines.filter(|line| line["route"] == route && line["status"] == 200).count()
}

#[tokio::test]
async fn in_a_big_room_everybody_is_pushed_every_message_once_and_sees_the_one_order() {
    const READERS: usize = 12;
    const MESSAGES: usize = 20;
    small_direct()
        .run(async |app| {
            let (ada, bob) = (app.user("Ada").await, app.user("Bob").await);
            let room = ada.make_public_room().await;
            let mut at_ada = ada.join(&room).await;
            let mut readers = readers(&bob, &room, READERS).await;
            let mut acked = Vec::new();
            for n in 0..MESSAGES {
                acked.push(text(&at_ada.send(&room, &n.to_string()).await["event"]));
            }
            for (chat, view) in &mut readers {
                view.wait_for_pushes(chat, &acked).await;
            }
            app.queue_has("FanoutQueue", 0).await;
            for (chat, view) in &mut readers {
                view.settle(chat).await;
                assert_eq!(view.names(), acked);
                assert!(acked.iter().all(|event| view.times_pushed(event) == 1), "once, and not by asking");
            }
            assert!(at_ada.pushed_before_now().await.is_empty(), "the ack is enough for the sender");

            let lines = app.calls_of("fanout");
            // Three slices for each message: five, five and two receivers.
            let records: u64 = lines.iter().filter_map(|line| line["records"].as_u64()).sum();
            assert_eq!(
                records,
                3 * MESSAGES as u64,
                "nobody was posted to directly, and nothing was tried again"
            );
            for line in lines {
                assert_eq!(
                    (&line["route"], &line["status"], &line["failed"]),
                    (&json!("sqs"), &json!(200), &json!(0))
                );
            }
        })
        .await;
}

#[tokio::test]
async fn in_a_big_room_one_who_is_gone_is_forgotten_and_costs_the_others_nothing() {
    const READERS: usize = 7;
    small_direct()
        .run(async |app| {
            let (ada, bob) = (app.user("Ada").await, app.user("Bob").await);
            let room = ada.make_public_room().await;
            let mut at_ada = ada.join(&room).await;
            let mut readers = readers(&bob, &room, READERS).await;
            app.aws.faults(&json!({"drop_disconnect": true})).await.expect("faults are set");
            drop(readers.swap_remove(2));

            // The gateway notices the cut when it notices it; until then it takes pushes.
            let mut acked = Vec::new();
            let subscribers = async || -> usize {
                app.redis().await.hlen(format!("room:{{{room}}}:subscribers")).await.expect("Redis answers")
            };
            while subscribers().await != READERS {
                assert!(acked.len() < 1_000, "he is never forgotten");
                acked.push(text(&at_ada.send(&room, &acked.len().to_string()).await["event"]));
                app.queue_has("FanoutQueue", 0).await;
            }
            acked.push(text(&at_ada.send(&room, "And now we are fewer").await["event"]));
            for (chat, view) in &mut readers {
                view.wait_for_pushes(chat, &acked).await;
                assert_eq!(view.names(), acked);
            }
            app.aws.faults(&json!({})).await.expect("faults are cleared");
            let failed: Vec<_> =
                app.calls_of("fanout").into_iter().filter(|line| line["failed"] != 0).collect();
            assert!(failed.is_empty(), "{failed:?}");
        })
        .await;
}

#[tokio::test]
async fn a_push_that_is_refused_for_long_comes_as_soon_as_it_is_not_without_being_asked_for() {
    TestApp::with([("PUSH_BUDGET_MS", "200")])
        .run(async |app| {
            app.expect_failures();
            let (room, (_, mut at_ada), (_, mut at_bob)) = app.two_in_a_room().await;
            let mut acked = Vec::new();
            for status in [500, 429] {
                let faults = json!({"management": {"status": status}});
                app.aws.faults(&faults).await.expect("faults are set");
                let words = format!("Against {status}, until it gives way");
                acked.push(text(&at_ada.send(&room, &words).await["event"]));
            }
            // Twice by the sender's function, which could not reach him, and then by the other one, which could not either.
            eventually("what was tried was put back", async || {
                let put = puts(app, "FanoutQueue");
                if 4 <= put { Ok(()) } else { Err(format!("{put} times")) }
            })
            .await;
            app.aws.faults(&json!({})).await.expect("faults are cleared");
            let pushed = [at_bob.push().await, at_bob.push().await];
            let pushed: BTreeSet<_> = pushed.iter().map(|push| text(&push["event"])).collect();
            assert_eq!(pushed, acked.into_iter().collect());
            app.queue_has("FanoutQueue", 0).await;
            assert!(at_bob.pushed_before_now().await.is_empty(), "once each");
        })
        .await;
}

#[tokio::test]
async fn a_slow_receiver_delays_one_ack_and_not_the_next() {
    const BUDGET: Duration = Duration::from_secs(3);
    TestApp::with([("PUSH_BUDGET_MS", "3000")])
        .run(async |app| {
            app.expect_failures();
            let (room, (_, mut at_ada), (_, mut at_bob)) = app.two_in_a_room().await;
            let faults = json!({"management": {"delay_ms": 20_000}});
            app.aws.faults(&faults).await.expect("faults are set");
            let mut took = Vec::new();
            for words in ["This one waits for Bob", "And this one does not"] {
                let begin = Instant::now();
                at_ada.send(&room, words).await;
                took.push(begin.elapsed());
            }
            assert!(BUDGET <= took[0] && took[1] < BUDGET, "{took:?}");
            app.aws.faults(&json!({})).await.expect("faults are cleared");
            let (first, second) = (at_bob.push().await, at_bob.push().await);
            let pushed = BTreeSet::from([text(&first["text"]), text(&second["text"])]);
            assert_eq!(
                pushed,
                BTreeSet::from(["This one waits for Bob".into(), "And this one does not".into()])
            );
        })
        .await;
}

#[tokio::test]
async fn while_the_archive_queue_refuses_nothing_is_acknowledged_and_a_repeat_is_the_same_message() {
    TestApp::run(async |app| {
        app.expect_failures();
        let (room, (_, mut at_ada), (_, mut at_bob)) = app.two_in_a_room().await;
        let send = json!({"action": "send", "room": room, "text": "Until it is kept", "id": "one"});
        app.aws.faults(&json!({"sqs": {"refuse_share": 1.0}})).await.expect("faults are set");
        for _ in 0..2 {
            at_ada.refused(send.clone(), "unavailable").await;
        }
        let first = at_bob.push().await;
        assert_eq!(first["text"], "Until it is kept", "those in the room need not wait for Postgres");
        app.aws.faults(&json!({})).await.expect("faults are cleared");

        let ack = at_ada.send_with_id(&room, "Whatever a repeat says", "one").await;
        assert_eq!(at_ada.send_with_id(&room, "Until it is kept", "one").await, ack);
        for _ in 0..3 {
            assert_eq!(at_bob.push().await, first, "the same message again");
        }
        assert_eq!((&ack["event"], &ack["position"]), (&first["event"], &first["position"]));
        assert_eq!(texts_of(&at_bob.join_after(&room, "0-0").await), ["Until it is kept"]);
    })
    .await;
}

#[tokio::test]
async fn while_the_fan_out_queue_refuses_a_sender_is_acknowledged_and_the_others_find_out_by_a_ping() {
    // SQS is there, but not this queue.
    small_direct()
        .set("FANOUT_QUEUE_URL", "http://127.0.0.1:9/000000000000/nothing")
        .run(async |app| {
            let (ada, bob) = (app.user("Ada").await, app.user("Bob").await);
            let room = ada.make_public_room().await;
            let mut at_ada = ada.join(&room).await;
            let mut readers = readers(&bob, &room, 6).await;
            let ack = at_ada.send(&room, "Nobody is pushed this one").await;
            for (chat, view) in &mut readers {
                let pong = chat.ask(json!({"action": "ping", "positions": {room.clone(): "0-0"}})).await;
                assert_eq!(pong["behind"][&room], ack["position"], "{pong}");
                view.settle(chat).await;
                assert_eq!(view.times_pushed(&text(&ack["event"])), 0);
            }
            let lines = app.log_lines();
            let warned = lines.iter().find(|line| line["level"] == "WARN" && line["receivers"] == 6);
            assert!(warned.is_some_and(|line| line["room.id"] == room.as_str()), "{lines:?}");
        })
        .await;
}

#[tokio::test]
async fn a_slice_that_cannot_be_read_or_is_too_old_harms_no_other() {
    TestApp::run(async |app| {
        app.expect_failures();
        let (room, _ada, (bob, mut at_bob)) = app.two_in_a_room().await;
        let secret = "hunter2-is-what-somebody-wrote";
        app.ledger().secret(secret);
        let key = format!("room:{{{room}}}:subscribers");
        let subscribers: Vec<(String, String)> = app.redis().await.hgetall(key).await.expect("Redis answers");
        let of_bob = |(_, subscriber): &&(String, String)| subscriber.starts_with(&bob.id);
        let (connection, _) = subscribers.iter().find(of_bob).expect("Bob has joined");
        let now_ms = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("it is later");
        let now_ms = u64::try_from(now_ms.as_millis()).expect("not that late");
        let slice = |generation: &str, made_at_ms: u64| {
            let frame = json!({"type": "resync", "room": room, "generation": generation}).to_string();
            let receivers = json!([[connection, bob.id]]);
            json!({"room": room, "frame": frame, "receivers": receivers, "attempt": 0, "made_at_ms": made_at_ms})
        };
        const LIFETIME_MS: u64 = 130 * 60 * 1_000;
        let bodies = [
            secret.to_owned(),
            json!({"room": secret}).to_string(),
            slice("old", now_ms - LIFETIME_MS - 1_000).to_string(),
            slice("new", now_ms).to_string(),
        ];
        app.put("FanoutQueue", &bodies).await;

        assert_eq!(at_bob.push().await["generation"], "new");
        eventually("the others have been looked at", async || {
            let failed: u64 = app.calls_of("fanout").iter().filter_map(|line| line["failed"].as_u64()).sum();
            let log = app.aws.log();
            let told = log.matches("a slice cannot be posted").count();
            let dropped = log.matches("older than any connection").count();
            if (failed, told, dropped) == (2, 2, 1) { Ok(()) } else { Err(log) }
        })
        .await;
        assert!(at_bob.pushed_before_now().await.is_empty(), "the old one has gone to nobody");
    })
    .await;
}
