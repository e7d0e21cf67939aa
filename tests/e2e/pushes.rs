//! What becomes of receivers that are gone or cannot be reached.

use redis::AsyncCommands;
use serde_json::json;
use tests::{
    chat::texts_of,
    test_app::{TestApp, eventually},
    user::text,
};

async fn subscribers(app: &TestApp, room: &str) -> usize {
    app.redis().await.hlen(format!("room:{{{room}}}:subscribers")).await.expect("Redis answers")
}

#[tokio::test]
async fn a_receiver_that_is_gone_without_a_word_is_forgotten_by_the_next_message() {
    TestApp::run(async |app| {
        let (room, (_, mut at_ada), (bob, at_bob)) = app.two_in_a_room().await;
        app.aws.faults(&json!({"drop_disconnect": true})).await.expect("faults are set");
        drop(at_bob);
        // The gateway notices the cut when it notices it; until then it takes pushes.
        let mut sent = 0;
        while subscribers(app, &room).await != 1 {
            assert!(sent < 1_000, "Bob is never forgotten");
            sent += 1;
            at_ada.send(&room, &sent.to_string()).await;
        }
        let connections = format!("user:{{{}}}:connections", bob.id);
        assert!(app.redis_keys(&connections).await.is_empty(), "he has his place back");
        app.aws.faults(&json!({})).await.expect("faults are cleared");
        assert_eq!(at_ada.join(&room).await["online"], 1);
    })
    .await;
}

#[tokio::test]
async fn a_push_that_is_refused_for_a_while_is_tried_again() {
    // Longer than the test needs to see two refusals.
    TestApp::with([("PUSH_BUDGET_MS", "10000")])
        .run(async |app| {
            app.expect_failures();
            let (room, (_, mut at_ada), (_, mut at_bob)) = app.two_in_a_room().await;
            for status in [429, 500, 503] {
                let faults = json!({"management": {"status": status}});
                app.aws.faults(&faults).await.expect("faults are set");
                let words = format!("Against {status}, until it gives way");
                at_ada.post(&json!({"action": "send", "room": room, "text": words})).await;
                eventually("the push was refused twice", async || {
                    let refused = pushes_answered(app, status);
                    if 2 <= refused { Ok(()) } else { Err(format!("{refused} times {status}")) }
                })
                .await;
                app.aws.faults(&json!({})).await.expect("faults are cleared");
                assert_eq!(at_bob.push().await["text"], words);
                let ack = at_ada.reply().await;
                assert_eq!(ack["type"], "ack", "{ack}");
            }
        })
        .await;
}

/// How many posts to connections the gateway has answered with this status.
fn pushes_answered(app: &TestApp, status: u16) -> usize {
    let is_one = |line: &serde_json::Value| line["api"] == "management" && line["status"] == status;
    let lines = app.aws.log();
    lines.lines().filter_map(|line| serde_json::from_str(line).ok()).filter(is_one).count()
}

#[tokio::test]
async fn pushes_that_fail_delay_an_ack_no_longer_than_the_budget_and_are_seen_by_a_ping() {
    TestApp::with([("PUSH_BUDGET_MS", "300")])
        .run(async |app| {
            app.expect_failures();
            let (room, (_, mut at_ada), (_, mut at_bob)) = app.two_in_a_room().await;
            let first = at_ada.send(&room, "This one comes through").await;
            at_bob.push().await;

            for faults in [
                json!({"management": {"status": 500}}),
                json!({"management": {"status": 429}}),
                json!({"management": {"delay_ms": 20_000}}),
            ] {
                app.aws.faults(&faults).await.expect("faults are set");
                let sent = std::time::Instant::now();
                at_ada.send(&room, "This one does not reach Bob").await;
                let took = sent.elapsed();
                // The budget, and what a loaded machine adds; far less than any of the waits that it cuts short.
                assert!(took < std::time::Duration::from_secs(5), "{faults}: the ack took {took:?}");
            }
            app.aws.faults(&json!({})).await.expect("faults are cleared");

            let positions = json!({room.clone(): first["position"]});
            let pong = at_bob.ask(json!({"action": "ping", "positions": positions})).await;
            assert!(pong["behind"].get(&room).is_some(), "{pong}");
            let missed = at_bob.history_after(&room, &text(&first["position"])).await;
            assert_eq!(texts_of(&missed), ["This one does not reach Bob"; 3]);
            at_ada.send(&room, "And this one comes again").await;
            let push = loop {
                let push = at_bob.push().await;
                if push["text"] != "This one does not reach Bob" {
                    break push;
                }
            };
            assert_eq!(
                push["text"], "And this one comes again",
                "who could not be reached is still in the room"
            );
        })
        .await;
}

#[tokio::test]
async fn a_push_that_got_lost_shows_as_a_gap_at_the_next_one() {
    TestApp::run(async |app| {
        let (room, (_, mut at_ada), (_, mut at_bob)) = app.two_in_a_room().await;
        let first = at_ada.send(&room, "Everybody sees this one").await;
        at_bob.push().await;
        app.aws.faults(&json!({"management": {"silent_share": 1.0}})).await.expect("faults are set");
        let lost = at_ada.send(&room, "The gateway loses this one").await;
        app.aws.faults(&json!({})).await.expect("faults are cleared");
        at_ada.send(&room, "And this one tells of it").await;
        let push = at_bob.push().await;
        assert_eq!(push["text"], "And this one tells of it");
        assert_eq!(push["previous"], lost["position"], "not what Bob saw last");
        let missed = at_bob.history_after(&room, &text(&first["position"])).await;
        assert_eq!(texts_of(&missed), ["The gateway loses this one", "And this one tells of it"]);
    })
    .await;
}

#[tokio::test]
async fn a_function_that_is_killed_in_mid_send_loses_nothing_that_was_acked() {
    /// So many sends are cut off between the log and the ack, the one place where a repeat has something to find.
    const CUT_OFF: u64 = 3;
    TestApp::with([("PUSH_BUDGET_MS", "10000")])
        .run(async |app| {
            app.expect_failures();
            let (room, (_, mut at_ada), (_, mut at_bob)) = app.two_in_a_room().await;
            let (mut sent, mut cut_off, mut after_ms) = (0, 0, 0);
            while cut_off < CUT_OFF {
                // The push holds up the ack far longer than the function lives. Where it is killed before that is for
                // chance to say, so it lives longer each time until it gets as far as the log.
                let faults = json!({
                    "kill": {"function": "message", "after_ms": after_ms},
                    "management": {"delay_ms": 20_000},
                });
                app.aws.faults(&faults).await.expect("faults are set");
                let number = sent.to_string();
                let send = json!({"action": "send", "room": room, "text": number, "id": number});
                assert!(!at_ada.ask_unreliably(&send).await, "killed after {after_ms} ms, it has answered");
                app.aws.faults(&json!({})).await.expect("faults are cleared");
                if logged(app, &room).await == sent {
                    after_ms = after_ms * 2 + 1;
                    assert!(after_ms < 10_000, "the function never gets as far as the log");
                } else {
                    cut_off += 1;
                }
                // The sender repeats with the same id until there is an ack, as clients do.
                assert!(at_ada.ask_unreliably(&send).await, "nobody kills it any more");
                sent += 1;
            }
            assert_eq!(logged(app, &room).await, sent);
            let history = at_bob.join_after(&room, "0-0").await;
            let expected: Vec<_> = (0..sent).map(|number| number.to_string()).collect();
            assert_eq!(texts_of(&history), expected, "each once, in the order of the acks");
        })
        .await;
}

/// How many events are in a room's log.
async fn logged(app: &TestApp, room: &str) -> u64 {
    app.redis().await.xlen(format!("room:{{{room}}}:log")).await.expect("Redis answers")
}
