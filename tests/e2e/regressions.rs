//! What breaks other chat systems most often, by its name. Some of it is tested where it belongs:
//!
//! | what breaks | what shows that it does not |
//! |---|---|
//! | duplicate on retry | `pushes::a_function_that_is_killed_in_mid_send_loses_nothing_that_was_acked`, and if Redis was lost in between `archive::a_repeat_after_redis_came_back_empty_is_the_same_message` |
//! | loss in fan-out under load | [`no_loss_in_fan_out_under_load`] |
//! | missed after reconnect | [`nothing_is_missed_after_a_reconnect_in_the_middle_of_a_conversation`] |
//! | recovery that does not recover when nothing was received yet, or a second time | [`a_recovery_recovers_when_nothing_was_received_yet_and_a_second_time`] |
//! | order wrong with several writers | `order::everybody_sees_every_message_once_and_in_the_one_order_whoever_writes_meanwhile` |
//! | a deletion that reaches Postgres before its message | [`a_deletion_that_reaches_postgres_before_its_message_deletes_it`] |
//! | a socket that outlives its session because Redis forgot it | `sessions::a_socket_that_redis_has_forgotten_speaks_on_if_its_session_lives_and_is_closed_if_not` |
//! | a subscriber list that is stale after Redis was lost | [`a_subscriber_list_is_not_stale_after_redis_was_lost`] |
//! | presence ghosts | [`presence_ghosts_are_gone_by_the_next_push`], [`presence_ghosts_are_gone_by_age`] |
//! | session end that leaves a socket open | `sessions::a_log_out_ends_one_session_and_closes_its_sockets_at_once`, and when it fails half-way `outages::a_log_out_that_failed_half_way_closes_the_sockets_when_it_is_repeated` |
//! | one stale connection that fails a whole fan-out | [`one_stale_connection_does_not_fail_a_whole_fan_out`], and through the queue `fanout::in_a_big_room_one_who_is_gone_is_forgotten_and_costs_the_others_nothing` |
//! | work that was not awaited before the answer | [`all_work_is_awaited_before_the_answer`] |

use redis::AsyncCommands;
use serde_json::{Value, json};
use tests::{
    chat::{Chat, expect_type, texts_of},
    test_app::{TestApp, eventually},
    user::{User, text},
    view::View,
};
use uuid::Uuid;

/// The names of the events in a reply.
fn names_of(reply: &Value) -> Vec<String> {
    let events = reply["events"].as_array().unwrap_or_else(|| panic!("no events: {reply}"));
    events.iter().map(|event| text(&event["event"])).collect()
}

/// Lets a connection end so that the gateway knows of it and nobody else.
async fn vanish(app: &TestApp, chat: Chat) {
    app.aws.faults(&json!({"drop_disconnect": true})).await.expect("faults are set");
    chat.close().await;
    app.aws.faults(&json!({})).await.expect("faults are cleared");
}

async fn online(user: &User, room: &str) -> Value {
    user.get(&format!("/rooms/{room}/online")).await.expect(200)
}

#[tokio::test]
async fn no_loss_in_fan_out_under_load() {
    const READERS: usize = 12;
    const WRITERS: usize = 4;
    const EACH: usize = 10;
    // Big rooms go through the queue; of the posts some are refused, by the gateway's own limits and by its failures.
    for direct in ["100", "5"] {
        TestApp::with([("FANOUT_DIRECT", direct), ("PUSH_BUDGET_MS", "200")])
            .run(async |app| {
                app.expect_failures();
                let (ada, bob) = (app.user("Ada").await, app.user("Bob").await);
                let room = ada.make_public_room().await;
                let mut readers = Vec::new();
                for _ in 0..READERS {
                    let mut chat = bob.connect().await;
                    let view = View::join(&mut chat, &room).await;
                    readers.push((chat, view));
                }
                let mut writers = Vec::new();
                for _ in 0..WRITERS {
                    writers.push(ada.join(&room).await);
                }
                for (status, share) in [(429, 0.3), (503, 0.3)] {
                    let faults = json!({"management": {"status": status, "share": share}});
                    app.aws.faults(&faults).await.expect("faults are set");
                    let mut acked = Vec::new();
                    for _ in 0..EACH {
                        let sends = writers.iter_mut().map(|chat| chat.send(&room, "One of very many"));
                        acked.extend(futures::future::join_all(sends).await);
                    }
                    let acked: Vec<String> = acked.iter().map(|ack| text(&ack["event"])).collect();
                    // Reading fills the gaps of a view. What counts here is that each was pushed.
                    for (chat, view) in &mut readers {
                        view.wait_for_pushes(chat, &acked).await;
                    }
                }
                app.aws.faults(&json!({})).await.expect("faults are cleared");
                let log = ada.read_forwards(&room, 200).await;
                let log: Vec<String> = log.iter().map(|event| text(&event["event"])).collect();
                assert_eq!(log.len(), 2 * WRITERS * EACH);
                for (_, view) in &readers {
                    assert_eq!(view.names(), log, "and all in one order");
                }
            })
            .await;
    }
}

#[tokio::test]
async fn nothing_is_missed_after_a_reconnect_in_the_middle_of_a_conversation() {
    const VISITS: usize = 8;
    TestApp::run(async |app| {
        let (room, (_, mut at_ada), (bob, mut at_bob)) = app.two_in_a_room().await;
        let generation = text(&at_bob.join(&room).await["generation"]);
        let (enough, mut told) = tokio::sync::oneshot::channel();
        let writing = tokio::spawn({
            let room = room.clone();
            async move {
                let mut acked = Vec::new();
                while told.try_recv().is_err() {
                    acked.push(text(&at_ada.send(&room, "In the middle of it").await["event"]));
                }
                (acked, at_ada)
            }
        });
        let (mut seen, mut last) = (Vec::new(), "0-0".to_owned());
        for _ in 0..VISITS {
            let push = at_bob.pushed_message().await;
            // A push that does not follow on is left for the next resume.
            if push["previous"].as_str().unwrap_or("0-0") == last {
                seen.push(text(&push["event"]));
                last = text(&push["position"]);
            }
            // Cut in mid-stream, whatever is on its way.
            drop(at_bob);
            at_bob = bob.connect().await;
            let joined = at_bob.resume(&room, &last, &generation).await;
            assert_eq!((&joined["reset"], &joined["more"]), (&json!(false), &json!(false)));
            seen.extend(names_of(&joined));
            last = text(&joined["position"]);
        }
        enough.send(()).expect("Ada still writes");
        let (acked, _at_ada) = writing.await.expect("the writer is well");
        let rest = at_bob.history_after(&room, &last).await;
        seen.extend(names_of(&rest));
        assert_eq!(seen, acked, "each once, and in order");
    })
    .await;
}

#[tokio::test]
async fn a_recovery_recovers_when_nothing_was_received_yet_and_a_second_time() {
    TestApp::run(async |app| {
        let (ada, bob) = (app.user("Ada").await, app.user("Bob").await);
        let room = ada.make_public_room().await;
        let mut at_ada = ada.join(&room).await;
        let mut at_bob = bob.connect().await;
        let joined = at_bob.join(&room).await;
        assert_eq!((&joined["position"], &joined["events"]), (&Value::Null, &json!([])));
        let generation = text(&joined["generation"]);

        let mut expected = Vec::new();
        // From before the first event, and three times from the same place, for nothing comes between the recoveries.
        for n in 0..3 {
            drop(at_bob);
            expected.push(n.to_string());
            at_ada.send(&room, &n.to_string()).await;
            at_bob = bob.connect().await;
            let recovered = at_bob.resume(&room, "0-0", &generation).await;
            assert_eq!(recovered["reset"], false, "{recovered}");
            assert_eq!(texts_of(&recovered), expected);
        }
        // And from what a recovery has brought, twice.
        let last = text(&at_bob.join_after(&room, "0-0").await["position"]);
        drop(at_bob);
        at_ada.send(&room, "3").await;
        for _ in 0..2 {
            let mut again = bob.connect().await;
            let recovered = again.resume(&room, &last, &generation).await;
            assert_eq!((&recovered["reset"], texts_of(&recovered)), (&json!(false), vec!["3"]));
        }
    })
    .await;
}

#[tokio::test]
async fn a_deletion_that_reaches_postgres_before_its_message_deletes_it() {
    const SECRET: &str = "I should not have said this";
    TestApp::run(async |app| {
        let ada = app.user("Ada").await;
        let room = ada.make_public_room().await;
        let [first, second, deletion] = ["1795351680001-0", "1795351680002-0", "1795351680003-0"];
        let target = Uuid::new_v4();
        let deleted = json!({"type": "deleted", "target": target});
        let deletion = ada.record(&room, (deletion, Some(second)), Uuid::new_v4(), &deleted);
        let written = |text: &str| json!({"type": "message", "text": text});
        let kept = ada.record(&room, (first, None), Uuid::new_v4(), &written("And this is fine"));
        let message = ada.record(&room, (second, Some(first)), target, &written(SECRET));
        for record in [deletion, kept, message] {
            app.put("ArchiveQueue", &[record.to_string()]).await;
            // One after the other: none of them is in a batch with another.
            app.queue_has("ArchiveQueue", 0).await;
        }
        let history = ada.read_forwards(&room, 50).await;
        assert_eq!(history.len(), 2, "{history:?}");
        assert_eq!(history[0]["text"], "And this is fine");
        assert_eq!((&history[1]["event"], &history[1]["deleted"]), (&json!(target), &json!(true)));
        assert!(history[1].get("text").is_none(), "{history:?}");
        let left: i64 =
            sqlx::query_scalar("select count(*) from messages m where m::text like '%' || $1 || '%'")
                .bind(SECRET)
                .fetch_one(&mut app.database().await)
                .await
                .expect("Postgres answers");
        assert_eq!(left, 0, "the text is nowhere in Postgres");
    })
    .await;
}

#[tokio::test]
async fn a_subscriber_list_is_not_stale_after_redis_was_lost() {
    TestApp::run(async |app| {
        app.expect_failures();
        let (room, (ada, mut at_ada), (_, mut at_bob)) = app.two_in_a_room().await;
        let carol = app.user("Carol").await;
        let mut at_carol = carol.join(&room).await;
        // The function that sends is warm now, and knows all three.
        at_ada.send(&room, "Good morning to the three of us").await;
        for chat in [&mut at_bob, &mut at_carol] {
            chat.pushed_message().await;
        }
        app.redis.restart_empty().await.expect("Redis starts");

        // As many joins as before, so that a version which counts them is the same, but of others.
        let dan = app.user("Dan").await;
        // `connect` may find out only now that its line is dead.
        let connect = async || {
            eventually("one can connect", async || {
                dan.connect_with_token().await.map_err(|refused| refused.to_string())
            })
            .await
        };
        let (mut at_dan, mut at_dan_too) = (connect().await, connect().await);
        for chat in [&mut at_ada, &mut at_dan, &mut at_dan_too] {
            let join = json!({"action": "join", "room": room});
            expect_type(chat.ask_until_available(join).await, "joined");
        }
        let ack = at_ada.send(&room, "Who is in here by now?").await;
        for chat in [&mut at_dan, &mut at_dan_too] {
            assert_eq!(chat.pushed_message().await["event"], ack["event"]);
        }
        for chat in [&mut at_bob, &mut at_carol] {
            let told =
                chat.ask_until_available(json!({"action": "ping", "positions": {room.clone(): "0-0"}})).await;
            assert_eq!(told["rejoin"], json!([room]), "who has to join again is told so");
            let pushed = chat.pushed_before_now().await;
            assert!(pushed.iter().all(|push| push["type"] != "message"), "{pushed:?}");
        }
        assert_eq!(online(&ada, &room).await["count"], 2);
    })
    .await;
}

#[tokio::test]
async fn presence_ghosts_are_gone_by_the_next_push() {
    TestApp::with([("MAX_CONNECTIONS_PER_USER", "1")])
        .run(async |app| {
            let (room, (ada, mut at_ada), (bob, at_bob)) = app.two_in_a_room().await;
            vanish(app, at_bob).await;
            assert_eq!(online(&ada, &room).await["count"], 2, "nobody has noticed yet");
            let refused = bob.connect_with_token().await.err().expect("he has his one connection");
            assert_eq!(refused.status, 429);

            at_ada.send(&room, "Is Bob still with us?").await;
            let users = json!([{"id": ada.id, "name": ada.name}]);
            assert_eq!(online(&ada, &room).await, json!({"users": users, "count": 1}));
            assert_eq!(at_ada.join(&room).await["online"], 1);
            bob.connect_with_token().await.expect("he has his place back").close().await;
        })
        .await;
}

#[tokio::test]
async fn presence_ghosts_are_gone_by_age() {
    // Longer than the gateway lets any connection live.
    const AGE: u64 = 2 * 60 * 60 + 11 * 60;
    TestApp::with([("MAX_CONNECTIONS_PER_USER", "1")])
        .run(async |app| {
            let (room, (ada, _at_ada), (bob, at_bob)) = app.two_in_a_room().await;
            vanish(app, at_bob).await;
            let mut redis = app.redis().await;
            let mut grow_old = async |key: &str, of: Option<&str>| {
                let all: Vec<(String, String)> = redis.hgetall(key).await.expect("Redis answers");
                for (connection, value) in all {
                    let (whose, since) = value.rsplit_once(' ').expect("it tells since when");
                    if of.is_none_or(|of| of == whose) {
                        let since: u64 = since.parse().expect("it is a number");
                        let older = format!("{whose} {}", since - AGE);
                        let _: usize = redis.hset(key, connection, older).await.expect("Redis answers");
                    }
                }
            };
            grow_old(&format!("room:{{{room}}}:subscribers"), Some(&bob.id)).await;
            grow_old(&format!("user:{{{}}}:connections", bob.id), None).await;
            // Rooms are swept every ten minutes.
            let _: usize = app
                .redis()
                .await
                .hdel(format!("room:{{{room}}}:head"), "swept")
                .await
                .expect("Redis answers");

            let users = json!([{"id": ada.id, "name": ada.name}]);
            assert_eq!(online(&ada, &room).await, json!({"users": users, "count": 1}));
            bob.connect_with_token().await.expect("he has his place back").close().await;
            // What is left of the ghost is its own key, which goes by its age as well.
            let left: Vec<String> = app.redis_keys("connection:*").await;
            let mut redis = app.redis().await;
            for key in left {
                let seconds: i64 = redis.ttl(&key).await.expect("Redis answers");
                assert!(0 < seconds && seconds.unsigned_abs() < AGE, "{key} stays for {seconds} s");
            }
            app.expect_ghosts();
        })
        .await;
}

#[tokio::test]
async fn one_stale_connection_does_not_fail_a_whole_fan_out() {
    const READERS: usize = 8;
    TestApp::run(async |app| {
        let (ada, bob) = (app.user("Ada").await, app.user("Bob").await);
        let room = ada.make_public_room().await;
        let mut at_ada = ada.join(&room).await;
        let mut readers = Vec::new();
        for _ in 0..READERS {
            readers.push(bob.join(&room).await);
        }
        vanish(app, readers.swap_remove(READERS / 2)).await;

        let ack = at_ada.send(&room, "To all who can hear me").await;
        for chat in &mut readers {
            assert_eq!(chat.push().await["event"], ack["event"]);
        }
        let left: Vec<String> =
            app.redis().await.hkeys(format!("room:{{{room}}}:subscribers")).await.expect("Redis answers");
        assert_eq!(left.len(), READERS, "those who are there, and Ada: {left:?}");
        at_ada.send(&room, "And once more, to all of you").await;
        for chat in &mut readers {
            chat.push().await;
        }
        let log = app.log_lines();
        let gone = log.iter().filter(|line| line["api"] == "management" && line["status"] == 410).count();
        assert_eq!(gone, 1, "nobody asks for it again");
    })
    .await;
}

#[tokio::test]
async fn all_work_is_awaited_before_the_answer() {
    const READERS: usize = 3;
    // A Lambda is frozen after its answer: what is not done by then may be done in an hour, or never.
    TestApp::with([("FANOUT_DIRECT", "3"), ("PUSH_BUDGET_MS", "10000")])
        .run(async |app| {
            let (ada, bob) = (app.user("Ada").await, app.user("Bob").await);
            let (small, big) = (ada.make_public_room().await, ada.make_public_room().await);
            let mut at_ada = ada.connect().await;
            let mut readers = Vec::new();
            for number in 0..2 * READERS {
                let mut chat = bob.join(&big).await;
                if number < READERS {
                    chat.join(&small).await;
                }
                readers.push(chat);
            }
            at_ada.join(&small).await;
            at_ada.join(&big).await;
            // Each side is the slow one once, and neither may be what the answer does not wait for.
            for slow in [json!({"management": {"delay_ms": 700}}), json!({"sqs": {"delay_ms": 700}})] {
                app.aws.faults(&slow).await.expect("faults are set");
                for (room, pushed, sliced) in [(&small, READERS, 0), (&big, 0, 1)] {
                    let before = done(app);
                    at_ada.send(room, "Is all of it done?").await;
                    let after = done(app);
                    assert_eq!(after.queued - before.queued, 1, "{slow}: the queue has the event");
                    if room == &small {
                        assert_eq!(after.pushed - before.pushed, pushed, "{slow}: every receiver was tried");
                    }
                    assert_eq!(after.sliced - before.sliced, sliced, "{slow}: the slices are in their queue");
                }
                app.aws.faults(&json!({})).await.expect("faults are cleared");
                app.queue_has("FanoutQueue", 0).await;
            }
            for chat in &mut readers[..READERS] {
                for _ in 0..4 {
                    chat.push().await;
                }
            }
        })
        .await;
}

/// What the gateway and the queues have answered so far. They write a line before they answer.
struct Done {
    queued: usize,
    pushed: usize,
    sliced: usize,
}

fn done(app: &TestApp) -> Done {
    let lines = app.log_lines();
    let count = |api: &str, route: &str| {
        lines
            .iter()
            .filter(|line| line["api"] == api && line["route"] == route && line["status"] == 200)
            .count()
    };
    Done {
        queued: count("sqs", "SendMessage local-ArchiveQueue"),
        pushed: count("management", "POST /@connections/{id}"),
        sliced: count("sqs", "SendMessageBatch local-FanoutQueue"),
    }
}
