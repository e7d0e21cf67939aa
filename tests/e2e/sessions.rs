//! Sessions end, and with them at once everything that was opened with them.

use http::Method;
use redis::AsyncCommands;
use serde_json::json;
use sqlx::Executor;
use tests::{
    api::Answer,
    chat::{Chat, check_error},
    test_app::TestApp,
    user::User,
};

/// The close code that API Gateway gives to a connection that was deleted.
const CLOSED_BY_US: u16 = 1000;

async fn log_out(user: &User) -> Answer {
    user.call(Method::POST, "/logout").send().await
}

#[tokio::test]
async fn every_call_but_the_open_ones_needs_a_living_session() {
    TestApp::run(async |app| {
        let ada = app.user("Ada").await;
        let dead = ada.log_in().await;
        log_out(&dead).await.expect(204);
        let someone = format!("/rooms/general/members/{}", ada.id);
        let calls = [
            (Method::POST, "/logout"),
            (Method::POST, "/logout?everywhere=true"),
            (Method::GET, "/me"),
            (Method::PATCH, "/me"),
            (Method::POST, "/me/password"),
            (Method::POST, "/tickets"),
            (Method::GET, "/rooms"),
            (Method::POST, "/rooms"),
            (Method::GET, "/rooms/general"),
            (Method::PATCH, "/rooms/general"),
            (Method::DELETE, "/rooms/general"),
            (Method::GET, "/rooms/general/members"),
            (Method::PUT, &someone),
            (Method::DELETE, &someone),
            (Method::GET, "/rooms/general/messages"),
            (Method::GET, "/rooms/general/online"),
        ];
        let credentials = [
            None,
            Some(String::new()),
            Some("Bearer".to_owned()),
            Some("Bearer ".to_owned()),
            Some("Bearer nonsense".to_owned()),
            Some(format!("Bearer {}", "x".repeat(4_000))),
            Some(format!("Bearer {}", dead.token)),
            Some(format!("Basic {}", ada.token)),
            Some(ada.token.clone()),
            Some(format!("Bearer {} {}", ada.token, ada.token)),
        ];
        for (method, path) in calls {
            for credential in &credentials {
                let call = app.api.call(method.clone(), path).json(&json!({}));
                let call = match credential {
                    Some(credential) => call.header("authorization", credential),
                    None => call,
                };
                let answer = call.send().await;
                assert_eq!(answer.status, 401, "{method} {path} with {credential:?}: {}", answer.body);
                answer.refused(401, "unauthorized");
            }
        }
        ada.get("/me").await.expect(200);
    })
    .await;
}

#[tokio::test]
async fn a_log_out_ends_one_session_and_closes_its_sockets_at_once() {
    TestApp::run(async |app| {
        let at_home = app.user("Ada").await;
        let at_work = at_home.log_in().await;
        let room = at_home.make_public_room().await;
        let mut home = [at_home.join(&room).await, at_home.join(&room).await];
        let mut work = at_work.join(&room).await;

        log_out(&at_home).await.expect(204);
        for socket in &mut home {
            assert_eq!(socket.closed().await, CLOSED_BY_US);
        }
        at_home.get("/me").await.refused(401, "unauthorized");
        log_out(&at_home).await.refused(401, "unauthorized");
        work.send(&room, "I am still here, at work").await;
        at_work.get("/me").await.expect(200);
    })
    .await;
}

#[tokio::test]
async fn a_log_out_everywhere_ends_all_sessions_and_nobody_elses() {
    TestApp::run(async |app| {
        let at_home = app.user("Ada").await;
        let at_work = at_home.log_in().await;
        let bob = app.user("Bob").await;
        let (mut home, mut work) = (at_home.connect().await, at_work.connect().await);
        let mut at_bob = bob.connect().await;

        at_home.call(Method::POST, "/logout?everywhere=true").send().await.expect(204);
        assert_eq!((home.closed().await, work.closed().await), (CLOSED_BY_US, CLOSED_BY_US));
        for session in [&at_home, &at_work] {
            session.get("/me").await.refused(401, "unauthorized");
        }
        at_bob.ping().await;
        at_home.log_in().await.get("/me").await.expect(200);
    })
    .await;
}

#[tokio::test]
async fn a_new_password_ends_the_other_sessions_and_keeps_the_one_that_set_it() {
    TestApp::run(async |app| {
        let at_home = app.user("Ada").await;
        let at_work = at_home.log_in().await;
        let (mut home, mut work) = (at_home.connect().await, at_work.connect().await);

        let new = "amber-lantern-drift-7719";
        app.ledger().secret(new);
        at_home.post("/me/password", json!({"current": at_home.password, "new": new})).await.expect(204);
        assert_eq!(work.closed().await, CLOSED_BY_US);
        at_work.get("/me").await.refused(401, "unauthorized");
        home.ping().await;
        at_home.get("/me").await.expect(200);
    })
    .await;
}

#[tokio::test]
async fn a_ticket_dies_with_the_session_that_asked_for_it() {
    TestApp::run(async |app| {
        let ada = app.user("Ada").await;
        let ticket = ada.ticket().await;
        log_out(&ada).await.expect(204);
        let refused = ada.connect_with_ticket(&ticket).await.err().expect("the session has ended");
        assert_eq!(refused.status, 401);
    })
    .await;
}

#[tokio::test]
async fn a_session_that_has_run_out_is_none() {
    TestApp::run(async |app| {
        let ada = app.user("Ada").await;
        app.database()
            .await
            .execute("update sessions set expires_at = now() - interval '1 second'")
            .await
            .expect("sessions expire");
        ada.get("/me").await.refused(401, "unauthorized");
        assert_eq!(ada.connect_with_token().await.err().map(|refused| refused.status.as_u16()), Some(401));
        ada.log_in().await.get("/me").await.expect(200);
    })
    .await;
}

#[tokio::test]
async fn a_session_lives_on_while_it_is_used() {
    TestApp::with([("SESSION_DAYS", "3")])
        .run(async |app| {
            let ada = app.user("Ada").await;
            let mut database = app.database().await;
            let days_left = "select extract(epoch from expires_at - now())::float8 / 86400 from sessions";
            database
                .execute("update sessions set expires_at = now() + interval '1 day'")
                .await
                .expect("a session gets older");
            ada.get("/me").await.expect(200);
            let left: f64 =
                sqlx::query_scalar(days_left).fetch_one(&mut database).await.expect("there is one session");
            assert!((2.99..=3.0).contains(&left), "{left} days left");
        })
        .await;
}

/// Forgets one connection as a lost Redis does.
async fn forget(app: &TestApp, user: &User) {
    let deleted: u64 =
        app.redis().await.del(format!("user:{{{}}}:connections", user.id)).await.expect("Redis answers");
    assert_eq!(deleted, 1, "the connection was recorded");
}

/// The frame is not done, and the socket is closed, perhaps before the refusal has reached it.
async fn refused_and_closed(app: &TestApp, mut socket: Chat, room: &str) {
    socket.post(&json!({"action": "send", "room": room, "text": "I should not be here any more"})).await;
    assert_eq!(socket.closed().await, CLOSED_BY_US);
    for reply in socket.take_replies() {
        check_error(&reply, "unauthorized");
    }
    let log: u64 = app.redis().await.xlen(format!("room:{{{room}}}:log")).await.expect("Redis answers");
    assert_eq!(log, 1, "only what Ada wrote while she was welcome");
}

#[tokio::test]
async fn a_socket_that_redis_has_forgotten_speaks_on_if_its_session_lives_and_is_closed_if_not() {
    TestApp::run(async |app| {
        let (room, (ada, mut at_ada), (bob, at_bob)) = app.two_in_a_room().await;
        forget(app, &ada).await;
        forget(app, &bob).await;
        // Nobody in Redis knows Bob's socket by now, so the log-out cannot close it.
        log_out(&bob).await.expect(204);
        at_ada.send(&room, "Is anybody listening to this?").await;
        refused_and_closed(app, at_bob, &room).await;
        at_ada.send(&room, "Once more, now that he has gone").await;
    })
    .await;
}

#[tokio::test]
async fn a_socket_whose_session_ran_out_goes_on_until_redis_forgets_it_and_ends_then() {
    TestApp::run(async |app| {
        let (room, (ada, mut at_ada), _) = app.two_in_a_room().await;
        at_ada.send(&room, "While Redis knows me, I speak").await;
        app.database()
            .await
            .execute("update sessions set expires_at = now() - interval '1 second'")
            .await
            .expect("sessions expire");
        forget(app, &ada).await;
        refused_and_closed(app, at_ada, &room).await;
    })
    .await;
}

#[tokio::test]
async fn a_log_out_reaches_a_socket_that_is_just_being_opened() {
    TestApp::run(async |app| {
        // Held back after the authorizer has said yes and before `connect` has recorded it.
        app.aws
            .faults(&json!({"delay_invoke_ms": {"function": "connect", "ms": 700}}))
            .await
            .expect("faults are set");
        let ada = app.user("Ada").await;
        let ticket = ada.ticket().await;
        let opening = tokio::spawn({
            let ada = ada.clone();
            async move { ada.connect_with_ticket(&ticket).await }
        });
        tests::test_app::eventually("the ticket is used up", async || {
            let tickets = app.redis_keys("ticket:*").await;
            if tickets.is_empty() { Ok(()) } else { Err(format!("{tickets:?}")) }
        })
        .await;
        log_out(&ada).await.expect(204);
        let opened = opening.await.expect("the handshake is answered");
        assert_eq!(opened.err().map(|refused| refused.status.as_u16()), Some(401));
    })
    .await;
}
