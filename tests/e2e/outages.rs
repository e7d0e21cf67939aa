//! Redis or Postgres away: `unavailable`, the process lives, and works again when they are back.

use redis::AsyncCommands;
use serde_json::{Value, json};
use tests::{
    chat::{Chat, check_error, texts_of},
    test_app::{TestApp, eventually},
    user::{User, text},
};

async fn health(app: &TestApp) -> (u16, Value) {
    let answer = app.api.get("/health").await;
    (answer.status.as_u16(), answer.json())
}

fn state(postgres: &str, redis: &str) -> (u16, Value) {
    let status = if (postgres, redis) == ("ok", "ok") { 200 } else { 503 };
    (status, json!({"postgres": postgres, "redis": redis}))
}

/// Sends until it works: how long a client needs to get through again is bounded by patience only.
async fn send_until_acked(chat: &mut Chat, room: &str, words: &str, id: &str) -> Value {
    let frame = json!({"action": "send", "room": room, "text": words, "id": id});
    for _ in 0..1_000 {
        let reply = chat.ask(frame.clone()).await;
        if reply["type"] == "ack" {
            return reply;
        }
        check_error(&reply, "unavailable");
    }
    panic!("it is never acknowledged");
}

/// Waits until a room's history is this: what Redis has lost comes back when the archive has stored it.
async fn history_is(chat: &mut Chat, room: &str, expected: &[&str]) {
    for _ in 0..10_000 {
        let page = chat.ask(json!({"action": "history", "room": room})).await;
        if page["type"] == "history" && texts_of(&page) == expected {
            return;
        }
        // What joins again is told how to go on.
        if page["code"] == "not_joined" {
            chat.join(room).await;
        }
    }
    panic!("it never becomes {expected:?}");
}

async fn works_again(user: &User) {
    eventually("the API works again", async || {
        let answer = user.get("/rooms").await;
        match answer.status.as_u16() {
            200 => Ok(()),
            503 => Err(answer.body),
            other => panic!("{other}: {}", answer.body),
        }
    })
    .await;
}

#[tokio::test]
async fn without_redis_calls_and_frames_are_unavailable_and_work_again_when_it_is_back() {
    // Whoever counts log-ins needs Redis for it.
    TestApp::with([("HTTP_THROTTLE", "1000/minute")])
        .run(async |app| {
            app.expect_failures();
            let (room, (ada, mut at_ada), (_, mut at_bob)) = app.two_in_a_room().await;
            at_ada.send(&room, "Before Redis went away").await;
            at_bob.push().await;
            let (ticket, email) = (ada.ticket().await, ada.email.clone());
            // This Redis keeps nothing: with its process everything in it is gone.
            app.redis.kill().await.expect("Redis ends");

            assert_eq!(health(app).await, state("ok", "unavailable"));
            for _ in 0..2 {
                for frame in [
                    json!({"action": "send", "room": room, "text": "Is anybody there?"}),
                    json!({"action": "join", "room": room}),
                    json!({"action": "history", "room": room}),
                    json!({"action": "leave", "room": room}),
                    json!({"action": "ping"}),
                ] {
                    at_ada.refused(frame, "unavailable").await;
                }
            }
            let log_in = json!({"email": email, "password": ada.password});
            app.api.post("/login", log_in).await.refused(503, "unavailable");
            ada.post("/tickets", json!({})).await.refused(503, "unavailable");
            ada.get(&format!("/rooms/{room}/messages")).await.refused(503, "unavailable");
            let refused = ada.connect_with_ticket(&ticket).await.err().expect("nobody can redeem a ticket");
            assert!(500 <= refused.status.as_u16(), "{refused}");

            app.redis.resume().await.expect("Redis starts");
            works_again(&ada).await;
            assert_eq!(health(app).await, state("ok", "ok"));
            // Both connections are known again by their sessions; their rooms they join again, as `rejoin` tells them.
            let pong = at_ada.ask(json!({"action": "ping", "positions": {room.clone(): "0-0"}})).await;
            assert_eq!(pong["rejoin"], json!([room]));
            at_ada.refused(json!({"action": "send", "room": room, "text": "Too soon"}), "not_joined").await;
            at_ada.join(&room).await;
            at_bob.join(&room).await;
            at_ada.send(&room, "After Redis came back").await;
            assert_eq!(at_bob.pushed_message().await["text"], "After Redis came back");
            history_is(&mut at_bob, &room, &["Before Redis went away", "After Redis came back"]).await;
            ada.log_in().await.connect().await.ping().await;
        })
        .await;
}

#[tokio::test]
async fn a_redis_that_came_back_empty_is_noticed_by_those_who_resume() {
    TestApp::run(async |app| {
        app.expect_failures();
        let (room, (ada, mut at_ada), (_, mut at_bob)) = app.two_in_a_room().await;
        let generation = at_bob.join(&room).await["generation"].take();
        let mut last = String::new();
        for n in 0..3 {
            last = text(&at_ada.send(&room, &n.to_string()).await["position"]);
        }
        app.redis.restart_empty().await.expect("Redis starts");
        works_again(&ada).await;

        let resume = json!({"action": "join", "room": room, "after": last, "generation": generation});
        let resumed = at_ada.ask_until_available(resume).await;
        assert_eq!((&resumed["type"], &resumed["reset"]), (&json!("joined"), &json!(true)));
        assert_ne!(resumed["generation"], generation);
        at_ada.send(&room, "The first of a new life").await;
        history_is(&mut at_ada, &room, &["0", "1", "2", "The first of a new life"]).await;
    })
    .await;
}

#[tokio::test]
async fn a_redis_that_lost_the_newest_part_of_a_room_is_noticed_and_everybody_is_told_to_read_again() {
    TestApp::run(async |app| {
        let (room, (_, mut at_ada), (_, mut at_bob)) = app.two_in_a_room().await;
        let generation = at_bob.join(&room).await["generation"].take();
        let mut last = String::new();
        for n in 0..3 {
            last = text(&at_ada.send(&room, &n.to_string()).await["position"]);
            at_bob.push().await;
        }
        // As after a failover to a replica that had not everything yet.
        let removed: u64 =
            app.redis().await.xdel(format!("room:{{{room}}}:log"), &[&last]).await.expect("Redis answers");
        assert_eq!(removed, 1);
        let _: () = redis::cmd("XSETID")
            .arg(format!("room:{{{room}}}:log"))
            .arg(text(&at_bob.history_after(&room, "0-0").await["events"][1]["position"]))
            .query_async(&mut app.redis().await)
            .await
            .expect("Redis answers");

        let ack = at_ada.send(&room, "Is anything missing here?").await;
        let (resync, message) = (at_bob.push().await, at_bob.push().await);
        assert_eq!((&resync["type"], &resync["room"]), (&json!("resync"), &json!(room)));
        assert_ne!(resync["generation"], generation);
        assert_eq!(message["event"], ack["event"]);
        assert_eq!(at_ada.push().await, resync, "the sender has to read again as well");

        let read = at_bob.ask(json!({"action": "history", "room": room})).await;
        assert_eq!(read["generation"], resync["generation"]);
        let read = texts_of(&read);
        assert!(read.starts_with(&["0", "1"]) && read.ends_with(&["Is anything missing here?"]), "{read:?}");
        history_is(&mut at_bob, &room, &["0", "1", "2", "Is anything missing here?"]).await;
        let resume = json!({"action": "join", "room": room, "after": last, "generation": generation});
        assert_eq!(at_bob.ask(resume).await["reset"], true);
    })
    .await;
}

#[tokio::test]
async fn redis_is_spoken_to_over_tls_by_every_function() {
    TestApp::setup()
        .redis_tls()
        .run(async |app| {
            let (room, (ada, mut at_ada), (_, mut at_bob)) = app.two_in_a_room().await;
            at_ada.send(&room, "Nobody else can read this").await;
            assert_eq!(at_bob.push().await["text"], "Nobody else can read this");
            ada.get(&format!("/rooms/{room}/messages")).await.expect(200);
            assert_eq!(health(app).await, state("ok", "ok"));
        })
        .await;
}

#[tokio::test]
async fn a_redis_that_hangs_is_unavailable_and_not_waited_for() {
    TestApp::run(async |app| {
        app.expect_failures();
        let (room, (ada, mut at_ada), (_, mut at_bob)) = app.two_in_a_room().await;
        at_ada.send(&room, "Before Redis hangs up").await;
        at_bob.push().await;
        app.redis.freeze().expect("Redis is frozen");
        at_ada
            .refused(json!({"action": "send", "room": room, "text": "Hello?", "id": "1"}), "unavailable")
            .await;
        assert_eq!(health(app).await, state("ok", "unavailable"));
        app.redis.thaw().expect("Redis goes on");
        works_again(&ada).await;
        // It may have been logged although nobody could say so: the repeat finds out, and it is there once.
        send_until_acked(&mut at_ada, &room, "Hello?", "1").await;
        let joined = at_bob.ask_until_available(json!({"action": "join", "room": room})).await;
        assert_eq!(texts_of(&joined), ["Before Redis hangs up", "Hello?"]);
    })
    .await;
}

#[tokio::test]
async fn without_postgres_the_conversation_goes_on_and_the_rest_is_unavailable() {
    TestApp::setup()
        .own_postgres()
        .run(async |app| {
            app.expect_failures();
            let (room, (ada, mut at_ada), (_, mut at_bob)) = app.two_in_a_room().await;
            app.postgres.server().kill().await.expect("Postgres ends");

            assert_eq!(health(app).await, state("unavailable", "ok"));
            for n in 0..3 {
                let words = format!("Postgres is away, number {n}");
                at_ada.send(&room, &words).await;
                assert_eq!(at_bob.push().await["text"], words);
            }
            at_bob.ping().await;
            at_bob.ask(json!({"action": "history", "room": room})).await["events"]
                .as_array()
                .expect("a list");
            at_bob.refused(json!({"action": "join", "room": room}), "unavailable").await;
            let log_in = json!({"email": ada.email, "password": ada.password});
            for _ in 0..2 {
                app.api.post("/login", log_in.clone()).await.refused(503, "unavailable");
                ada.get("/me").await.refused(503, "unavailable");
                ada.get("/rooms").await.refused(503, "unavailable");
                ada.post("/tickets", json!({})).await.refused(503, "unavailable");
            }
            let refused = ada.connect_with_token().await.err().expect("nobody can look up the session");
            assert!(500 <= refused.status.as_u16(), "{refused}");

            app.postgres.server().resume().await.expect("Postgres starts");
            works_again(&ada).await;
            assert_eq!(health(app).await, state("ok", "ok"));
            // `connect` may find out only now that its line is dead.
            let mut chat = eventually("one can connect", async || {
                ada.connect_with_token().await.map_err(|refused| refused.to_string())
            })
            .await;
            chat.join(&room).await;
            chat.send(&room, "Everything is back again").await;
            assert_eq!(at_bob.pushed_message().await["text"], "Everything is back again");
        })
        .await;
}

#[tokio::test]
async fn a_postgres_that_hangs_is_unavailable_and_not_waited_for() {
    TestApp::setup()
        .own_postgres()
        .run(async |app| {
            app.expect_failures();
            let ada = app.user("Ada").await;
            app.postgres.server().freeze().expect("Postgres is frozen");
            ada.get("/me").await.refused(503, "unavailable");
            assert_eq!(health(app).await, state("unavailable", "ok"));
            app.postgres.server().thaw().expect("Postgres goes on");
            works_again(&ada).await;
        })
        .await;
}

#[tokio::test]
async fn functions_that_start_while_everything_is_away_live_and_work_when_it_is_there() {
    TestApp::setup()
        .own_postgres()
        .run(async |app| {
            app.expect_failures();
            // Not one function has been called yet, so each of them starts into the outage.
            app.postgres.server().stop().await.expect("Postgres ends");
            app.redis.stop().await.expect("Redis ends");
            let sign_up = json!({
                "first_name": "Ada", "last_name": "Lovelace", "email": "ada@example.com",
                "password": "violet-kettle-orbit-42",
            });
            assert_eq!(health(app).await, state("unavailable", "unavailable"));
            app.api.post("/signup", sign_up.clone()).await.refused(503, "unavailable");
            let log_in = json!({"email": "ada@example.com", "password": "violet-kettle-orbit-42"});
            app.api.post("/login", log_in).await.refused(503, "unavailable");
            let call = app.api.call(http::Method::GET, "/rooms").token(&"x".repeat(43));
            call.send().await.refused(503, "unavailable");
            let refused = Chat::open(&app.aws.endpoints.websocket, Some(&"x".repeat(43)), app.ledger()).await;
            assert!(500 <= refused.err().expect("nobody can look up the session").status.as_u16());

            app.postgres.server().resume().await.expect("Postgres starts");
            app.redis.resume().await.expect("Redis starts");
            eventually("one can sign up", async || {
                let answer = app.api.post("/signup", sign_up.clone()).await;
                match answer.status.as_u16() {
                    201 => Ok(()),
                    _ => Err(answer.body),
                }
            })
            .await;
            assert_eq!(health(app).await, state("ok", "ok"));
        })
        .await;
}

#[tokio::test]
async fn a_log_out_that_failed_half_way_closes_the_sockets_when_it_is_repeated() {
    TestApp::run(async |app| {
        app.expect_failures();
        let (room, (ada, mut at_ada), (_, mut at_bob)) = app.two_in_a_room().await;
        let log_out = async || ada.call(http::Method::POST, "/logout").send().await;
        // Redis ends the session and then refuses the clean-up, and the gateway closes nothing.
        app.aws.faults(&json!({"management": {"status": 500}})).await.expect("faults are set");
        let allow = async |rule: &str| {
            let mut command = redis::cmd("ACL");
            command.arg(&["SETUSER", "default", rule]);
            command.query_async::<()>(&mut app.redis().await).await.expect("Redis answers");
        };
        allow("-smembers").await;
        for _ in 0..2 {
            log_out().await.refused(503, "unavailable");
        }
        allow("+smembers").await;
        app.aws.faults(&json!({})).await.expect("faults are cleared");
        ada.get("/me").await.refused(401, "unauthorized");

        log_out().await.expect(204);
        assert_eq!(at_ada.closed().await, 1000);
        log_out().await.refused(401, "unauthorized");
        assert_eq!(at_bob.join(&room).await["online"], 1);
    })
    .await;
}

#[tokio::test]
async fn a_join_that_comes_after_the_end_of_its_connection_leaves_nothing_behind() {
    TestApp::run(async |app| {
        let (room, (ada, _), (_, mut at_bob)) = app.two_in_a_room().await;
        let other = ada.make_public_room().await;
        let mut late = ada.connect().await;
        let faults = json!({"delay_invoke_ms": {"function": "message", "ms": 1_000}});
        app.aws.faults(&faults).await.expect("faults are set");
        late.post(&json!({"action": "join", "room": other, "ref": "late"})).await;
        late.close().await;
        eventually("the join was handled", async || {
            let log = app.aws.log();
            let of_join = |line: &Value| line["action"] == "join" && line["room"] == other.as_str();
            let mut lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
            if lines.any(|line| of_join(&line)) { Ok(()) } else { Err(log) }
        })
        .await;
        app.aws.faults(&json!({})).await.expect("faults are cleared");
        assert_eq!(at_bob.join(&room).await["online"], 1, "Ada's other line was cut");
        assert_eq!(at_bob.join(&other).await["online"], 1, "nobody is in there but Bob");
    })
    .await;
}
