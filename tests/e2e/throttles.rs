//! Throttles are exact: the n-th passes, the next one is told how long to wait, and passes then.

use std::time::{Duration, Instant};

use http::Method;
use serde_json::{Value, json};
use tests::{
    api::check_failure,
    chat::{Chat, check_error},
    test_app::TestApp,
};

async fn send(chat: &mut Chat, room: &str, text: &str) -> Value {
    chat.ask(json!({"action": "send", "room": room, "text": text})).await
}

fn wait(refused: &Value) -> Duration {
    Duration::from_millis(refused["retry_after_ms"].as_u64().expect("it is told how long"))
}

#[tokio::test]
async fn the_eleventh_message_in_the_window_is_refused_with_the_exact_time_to_wait() {
    TestApp::with([("WEBSOCKET_THROTTLE", "10/minute")])
        .run(async |app| {
            let (room, (ada, mut at_ada), (_, mut at_bob)) = app.two_in_a_room().await;
            let before_first = Instant::now();
            assert_eq!(send(&mut at_ada, &room, "0").await["type"], "ack");
            let after_first = Instant::now();
            for n in 1..10 {
                assert_eq!(send(&mut at_ada, &room, &n.to_string()).await["type"], "ack", "number {n}");
            }
            let before_refusal = Instant::now();
            let refused = send(&mut at_ada, &room, "10").await;
            let after_refusal = Instant::now();
            check_error(&refused, "throttled");
            let minute = Duration::from_secs(60);
            let (shortest, longest) = (after_refusal - before_first, before_refusal - after_first);
            // One millisecond for the rounding up.
            let expected = minute - shortest..=minute - longest + Duration::from_millis(1);
            assert!(expected.contains(&wait(&refused)), "{:?} is not in {expected:?}", wait(&refused));

            // It is the user who is throttled, not the socket, and nobody else.
            let mut elsewhere = ada.join(&room).await;
            check_error(&send(&mut elsewhere, &room, "11").await, "throttled");
            assert_eq!(send(&mut at_bob, &room, "Bob may still write").await["type"], "ack");
            // What is refused is not counted, and the rest goes on.
            at_ada.ping().await;
            at_ada.join(&room).await;
        })
        .await;
}

#[tokio::test]
async fn one_who_waits_as_long_as_told_passes() {
    TestApp::with([("WEBSOCKET_THROTTLE", "1/second")])
        .run(async |app| {
            let (room, (_, mut at_ada), _) = app.two_in_a_room().await;
            for round in 0..3 {
                // On a slow machine a second may pass between two sends; some send is soon enough.
                let refused = loop {
                    let reply = send(&mut at_ada, &room, &format!("{round}")).await;
                    if reply["type"] == "error" {
                        break reply;
                    }
                };
                check_error(&refused, "throttled");
                assert!(wait(&refused) <= Duration::from_secs(1), "{refused}");
                // Not waiting for something to happen: that this time is enough is what is tested.
                tokio::time::sleep(wait(&refused)).await;
                assert_eq!(send(&mut at_ada, &room, "Now it is time").await["type"], "ack");
            }
        })
        .await;
}

#[tokio::test]
async fn a_repeated_send_passes_uncounted_and_no_more_than_five_times() {
    TestApp::with([("WEBSOCKET_THROTTLE", "1/minute")])
        .run(async |app| {
            let (room, (_, mut at_ada), _) = app.two_in_a_room().await;
            let ack = at_ada.send_with_id(&room, "Did you get this?", "a").await;
            for _ in 0..5 {
                assert_eq!(at_ada.send_with_id(&room, "Did you get this?", "a").await, ack);
            }
            for id in ["a", "b"] {
                let frame = json!({"action": "send", "room": room, "text": "Did you get this?", "id": id});
                check_error(&at_ada.ask(frame).await, "throttled");
            }
            check_error(&send(&mut at_ada, &room, "And one without an id").await, "throttled");
        })
        .await;
}

#[tokio::test]
async fn several_windows_hold_together() {
    TestApp::with([("WEBSOCKET_THROTTLE", "2/day,1/second")])
        .run(async |app| {
            let (room, (_, mut at_ada), _) = app.two_in_a_room().await;
            let mut acked = 0;
            let refused = loop {
                let reply = send(&mut at_ada, &room, "Again and again").await;
                if reply["type"] == "ack" {
                    acked += 1;
                } else if Duration::from_secs(1) < wait(&reply) {
                    break reply;
                } else {
                    tokio::time::sleep(wait(&reply)).await;
                }
            };
            assert_eq!(acked, 2);
            assert!(Duration::from_secs(23 * 60 * 60) < wait(&refused), "{refused}");
        })
        .await;
}

#[tokio::test]
async fn other_frames_have_a_window_ten_times_as_wide_and_nonsense_counts() {
    TestApp::with([("WEBSOCKET_THROTTLE", "1/minute")])
        .run(async |app| {
            let ada = app.user("Ada").await;
            let mut chat = ada.connect().await;
            for n in 0..10 {
                if n % 2 == 0 {
                    chat.ping().await;
                } else {
                    chat.post_raw("nonsense").await;
                    check_error(&chat.reply().await, "bad_json");
                }
            }
            check_error(&chat.ask(json!({"action": "ping"})).await, "throttled");
            chat.post_raw("nonsense").await;
            check_error(&chat.reply().await, "throttled");
        })
        .await;
}

#[tokio::test]
async fn sign_up_and_log_in_are_throttled_by_address() {
    TestApp::with([("HTTP_THROTTLE", "3/hour")])
        .run(async |app| {
            let log_in = json!({"email": "ada@example.com", "password": "violet-kettle-orbit-42"});
            for path in ["/signup", "/login"] {
                for n in 0..3 {
                    let mut body = log_in.clone();
                    body["email"] = json!(format!("ada{n}@example.com"));
                    body["first_name"] = json!("Ada");
                    body["last_name"] = json!("Lovelace");
                    assert_ne!(app.api.post(path, body).await.status, 429, "{path}, number {n}");
                }
                // Anybody can write such a header; the address that counts is the one that the gateway saw.
                let elsewhere = app.api.call(Method::POST, path).header("x-forwarded-for", "192.0.2.7");
                elsewhere.json(&log_in).send().await.refused(429, "throttled");
                let answer = app.api.post(path, log_in.clone()).await;
                let error = answer.refused(429, "throttled");
                check_failure(&error, "throttled", &["code", "message", "request_id"]);
                let seconds: u64 = answer.headers["retry-after"]
                    .to_str()
                    .expect("it is text")
                    .parse()
                    .expect("it is a number of seconds");
                assert_eq!(seconds, wait(&error).as_millis().div_ceil(1_000) as u64);
                assert!((3_000..=3_600).contains(&seconds), "{seconds} s");
            }
        })
        .await;
}

#[tokio::test]
async fn a_throttle_that_cannot_be_read_means_the_default_and_a_warning() {
    TestApp::with([("WEBSOCKET_THROTTLE", "as often as you like")])
        .run(async |app| {
            let (room, (_, mut at_ada), _) = app.two_in_a_room().await;
            send(&mut at_ada, &room, "Is there a default?").await;
            let keys = app.redis_keys("user:*:throttle:*").await;
            assert!(keys.iter().any(|key| key.ends_with("10/second")), "{keys:?}");
            let log = app.aws.log();
            assert!(
                log.lines().any(|line| line.contains("WEBSOCKET_THROTTLE") && line.contains("10/second")),
                "{log}"
            );
        })
        .await;
}
