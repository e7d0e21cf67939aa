//! A private room looks to an outsider as if it did not exist, whatever they try.

use http::Method;
use serde_json::{Value, json};
use tests::{chat, test_app::TestApp, user::User};

/// A room id that was never given to a room, of the kind that private rooms have.
const ABSENT: &str = "0000000000000000000000000";

/// Everything that an outsider can try, with and without sense.
async fn assert_looks_absent(private: &str, owner: &User, outsider: &User) {
    let calls = [
        (Method::GET, String::new(), Value::Null),
        (Method::PATCH, String::new(), json!({"title": "Mine"})),
        (Method::PATCH, String::new(), json!({"title": ""})),
        (Method::PATCH, String::new(), json!("nonsense")),
        (Method::DELETE, String::new(), Value::Null),
        (Method::GET, "/members".to_owned(), Value::Null),
        (Method::GET, "/members?limit=0".to_owned(), Value::Null),
        (Method::PUT, format!("/members/{}", outsider.id), json!({"role": "member"})),
        (Method::PUT, format!("/members/{}", outsider.id), json!({"role": "owner"})),
        (Method::PUT, format!("/members/{}", owner.id), json!({"role": "member"})),
        (Method::PUT, format!("/members/{}", owner.id), json!({"role": "king"})),
        (Method::PUT, format!("/members/{ABSENT}"), json!({"role": "member"})),
        (Method::DELETE, format!("/members/{}", outsider.id), Value::Null),
        (Method::DELETE, format!("/members/{}", owner.id), Value::Null),
        (Method::GET, "/messages".to_owned(), Value::Null),
        (Method::GET, "/messages?before=1-0".to_owned(), Value::Null),
        (Method::GET, "/messages?before=soon".to_owned(), Value::Null),
        (Method::GET, "/online".to_owned(), Value::Null),
    ];
    for (method, path, body) in calls {
        let ask = async |room: &str| {
            let call = outsider.call(method.clone(), &format!("/rooms/{room}{path}"));
            let call = if body.is_null() { call } else { call.json(&body) };
            call.send().await
        };
        let (there, not_there) = (ask(private).await, ask(ABSENT).await);
        assert!(there.status.is_client_error(), "{method} {path}: {}", there.body);
        assert_eq!(there.appearance(), not_there.appearance(), "{method} {path} {body}");
    }
}

#[tokio::test]
async fn no_call_tells_a_private_room_from_an_absent_one() {
    TestApp::run(async |app| {
        let (ada, eve) = (app.user("Ada").await, app.user("Eve").await);
        let private = ada.make_private_room().await;
        ada.join(&private).await.send(&private, "Nobody else may know this").await;
        assert_looks_absent(&private, &ada, &eve).await;
        let listed = eve.get("/rooms?scope=public").await.expect(200);
        assert_eq!(listed, json!({"rooms": []}));
        assert_eq!(
            ada.get(&format!("/rooms/{private}/members")).await.expect(200)["members"][1],
            Value::Null
        );
        // To ask for a room by the id of a private one must not tell that it is taken.
        for id in [&*private, ABSENT] {
            let room = json!({"id": id, "title": "Is it there?", "kind": "public"});
            assert_eq!(eve.post("/rooms", room).await.invalid(), ["id"]);
            let made = eve.post("/rooms", json!({"title": id, "kind": "public"})).await.expect(201);
            assert!(!made["id"].as_str().expect("is text").starts_with(id), "{made}");
        }
    })
    .await;
}

#[tokio::test]
async fn without_redis_a_private_room_looks_absent_as_well() {
    TestApp::run(async |app| {
        let (ada, eve) = (app.user("Ada").await, app.user("Eve").await);
        let private = ada.make_private_room().await;
        app.redis.kill().await.expect("Redis ends");
        assert_looks_absent(&private, &ada, &eve).await;
        app.redis.resume().await.expect("Redis starts");
    })
    .await;
}

#[tokio::test]
async fn no_frame_tells_a_private_room_from_an_absent_one() {
    TestApp::run(async |app| {
        let (ada, eve) = (app.user("Ada").await, app.user("Eve").await);
        let private = ada.make_private_room().await;
        let mut at_ada = ada.join(&private).await;
        let position = at_ada.send(&private, "Nobody else may know this").await["position"].take();
        let mut at_eve = eve.connect().await;
        for frame in [
            json!({"action": "join"}),
            json!({"action": "join", "after": "0-0"}),
            json!({"action": "join", "after": position, "generation": "0123456789abcdef"}),
            json!({"action": "send", "text": "Let me in, I am a friend"}),
            json!({"action": "send", "text": "Let me in, I am a friend", "id": "1"}),
            json!({"action": "send", "text": ""}),
            json!({"action": "history"}),
            json!({"action": "history", "after": "0-0"}),
            json!({"action": "history", "before": position, "limit": 1}),
            json!({"action": "leave"}),
        ] {
            let mut ask = async |room: &str| {
                let mut frame = frame.clone();
                frame["room"] = json!(room);
                let reply = chat::appearance(at_eve.ask(frame).await).to_string();
                serde_json::from_str::<Value>(&reply.replace(room, "the room")).expect("it was JSON")
            };
            let (there, not_there) = (ask(&private).await, ask(ABSENT).await);
            assert_eq!(there, not_there, "{frame}");
        }
        for room in [&*private, ABSENT] {
            let pong = at_eve.ask(json!({"action": "ping", "positions": {room: "0-0"}})).await;
            assert_eq!(pong, json!({"type": "pong", "behind": {}, "rejoin": [room]}));
        }
        at_ada.send(&private, "Is somebody at the door?").await;
        assert!(at_eve.pushed_before_now().await.is_empty());
    })
    .await;
}

#[tokio::test]
async fn others_never_see_an_address() {
    TestApp::run(async |app| {
        let (room, (ada, mut at_ada), (bob, mut at_bob)) = app.two_in_a_room().await;
        ada.invite(&room, &bob, "member").await;
        at_ada.send(&room, "What do you see of me?").await;
        let mut seen = at_bob.push().await.to_string();
        for path in ["", "/members", "/messages", "/online"] {
            seen.push_str(&bob.get(&format!("/rooms/{room}{path}")).await.body);
        }
        seen.push_str(&bob.get("/rooms?scope=public").await.body);
        assert!(seen.contains(&ada.id) && !seen.contains(&ada.email), "{seen}");
    })
    .await;
}
