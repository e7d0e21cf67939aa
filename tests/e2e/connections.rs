//! Opening WebSockets: tickets, tokens, limits, and what is left of a connection.

use redis::AsyncCommands;
use serde_json::json;
use tests::{
    api::assert_keys,
    chat::{Chat, check_time},
    test_app::{TestApp, eventually},
    user::text,
};

async fn status_of(opening: Result<Chat, tests::websocket::Refused>) -> u16 {
    match opening {
        Ok(chat) => {
            chat.close().await;
            101
        }
        Err(refused) => refused.status.as_u16(),
    }
}

#[tokio::test]
async fn a_ticket_opens_one_socket_once() {
    TestApp::run(async |app| {
        let ada = app.user("Ada").await;
        let ticket = ada.ticket().await;
        assert_eq!(status_of(ada.connect_with_ticket(&ticket).await).await, 101);
        assert_eq!(status_of(ada.connect_with_ticket(&ticket).await).await, 401);

        let ticket = ada.ticket().await;
        let (one, two) = tokio::join!(ada.connect_with_ticket(&ticket), ada.connect_with_ticket(&ticket));
        let mut statuses = [status_of(one).await, status_of(two).await];
        statuses.sort_unstable();
        assert_eq!(statuses, [101, 401]);
    })
    .await;
}

#[tokio::test]
async fn a_ticket_lives_for_thirty_seconds() {
    TestApp::run(async |app| {
        let ada = app.user("Ada").await;
        let answer = ada.post("/tickets", json!({})).await.expect(201);
        assert_keys(&answer, &["ticket", "expires_at"], &[]);
        check_time(&answer["expires_at"]);
        app.ledger().secret(&text(&answer["ticket"]));

        let keys = app.redis_keys("ticket:*").await;
        let [key] = keys.as_slice() else { panic!("not one ticket: {keys:?}") };
        assert!(!key.contains(&text(&answer["ticket"])), "the ticket itself is stored: {key}");
        let mut redis = app.redis().await;
        let left: i64 = redis.pttl(key).await.expect("Redis answers");
        assert!((1..=30_000).contains(&left), "{left} ms");

        // What its end does, 30 s early.
        let _: bool = redis.pexpire(key, 1).await.expect("Redis answers");
        eventually("the ticket has run out", async || {
            let left = app.redis_keys("ticket:*").await;
            if left.is_empty() { Ok(()) } else { Err(format!("{left:?}")) }
        })
        .await;
        assert_eq!(status_of(ada.connect_with_ticket(&text(&answer["ticket"])).await).await, 401);
    })
    .await;
}

#[tokio::test]
async fn a_handshake_without_good_credentials_fails() {
    TestApp::run(async |app| {
        let ada = app.user("Ada").await;
        for ticket in ["", "nonsense", &ada.token, "%00", "a&ticket=b", &"x".repeat(2_000)] {
            assert_eq!(status_of(ada.connect_with_ticket(ticket).await).await, 401, "{ticket}");
        }
        for token in ["", "nonsense", &ada.ticket().await, &"x".repeat(2_000)] {
            let opening = ada.with_token(token).connect_with_token().await;
            assert_eq!(status_of(opening).await, 401, "{token}");
        }
        let url = &app.aws.endpoints.websocket;
        assert_eq!(status_of(Chat::open(url, None, app.ledger()).await).await, 401);
    })
    .await;
}

#[tokio::test]
async fn a_user_has_so_many_connections_and_no_more() {
    TestApp::with([("MAX_CONNECTIONS_PER_USER", "2")])
        .run(async |app| {
            let (ada, bob) = (app.user("Ada").await, app.user("Bob").await);
            let first = ada.connect().await;
            let mut second = ada.log_in().await.connect().await;
            assert_eq!(status_of(ada.connect_with_token().await).await, 429);
            second.ping().await;
            assert_eq!(status_of(bob.connect_with_token().await).await, 101);

            first.close().await;
            eventually("there is a place again", async || {
                match status_of(ada.connect_with_token().await).await {
                    101 => Ok(()),
                    status => Err(status.to_string()),
                }
            })
            .await;
        })
        .await;
}

#[tokio::test]
async fn nothing_is_left_of_connections_however_they_end() {
    TestApp::run(async |app| {
        let ada = app.user("Ada").await;
        let room = ada.make_public_room().await;
        let closed = ada.join(&room).await;
        let cut = ada.join(&room).await;
        let mut online = ada.join(&room).await;
        let other = ada.make_public_room().await;
        online.join(&other).await;
        assert_eq!(online.join(&room).await["online"], 1, "one person, whatever the number of sockets");
        closed.close().await;
        drop(cut);
        // That nothing is left is checked at the end of every test.
    })
    .await;
}
