//! Whatever comes in, the answer is the envelope, and everything stays as it was.

use http::Method;
use serde_json::json;
use tests::{
    chat::{check_error, texts_of},
    test_app::TestApp,
};

#[tokio::test]
async fn a_body_that_is_no_json_object_is_refused_by_every_call_that_takes_one() {
    TestApp::run(async |app| {
        let ada = app.user("Ada").await;
        let room = ada.make_public_room().await;
        let calls = [
            (Method::POST, "/signup".to_owned()),
            (Method::POST, "/login".to_owned()),
            (Method::PATCH, "/me".to_owned()),
            (Method::POST, "/me/password".to_owned()),
            (Method::POST, "/rooms".to_owned()),
            (Method::PATCH, format!("/rooms/{room}")),
            (Method::PUT, format!("/rooms/{room}/members/{}", ada.id)),
        ];
        let deep = "[".repeat(30_000);
        let deep_object = format!("{}1{}", r#"{"a":"#.repeat(5_000), "}".repeat(5_000));
        let bodies: [(&[u8], u16, &str); 11] = [
            (b"", 400, "bad_json"),
            (b"{", 400, "bad_json"),
            (b"nonsense", 400, "bad_json"),
            (b"{\"first_name\": \"\xff\xfe\"}", 400, "bad_json"),
            (b"{\"title\": \"\\ud800\"}", 400, "bad_json"),
            (b"\0", 400, "bad_json"),
            (deep.as_bytes(), 400, "bad_json"),
            (deep_object.as_bytes(), 400, "bad_json"),
            (b"[]", 422, "validation_failed"),
            (b"\"text\"", 422, "validation_failed"),
            (b"17", 422, "validation_failed"),
        ];
        for (method, path) in &calls {
            for (body, status, code) in bodies {
                let answer = ada.call(method.clone(), path).body(body.to_vec()).send().await;
                assert_eq!(
                    answer.status,
                    status,
                    "{method} {path} {:?}: {}",
                    String::from_utf8_lossy(&body[..body.len().min(40)]),
                    answer.body
                );
                answer.refused(status, code);
            }
        }
        assert_eq!(ada.get("/me").await.expect(200)["first_name"], "Ada");
    })
    .await;
}

#[tokio::test]
async fn a_body_over_64_kib_is_refused_and_one_of_64_kib_is_not() {
    TestApp::run(async |app| {
        let ada = app.user("Ada").await;
        let padded = |size: usize| {
            let body = r#"{"last_name": "King", "padding": ""}"#;
            body.replace(r#""""#, &format!(r#""{}""#, "x".repeat(size - body.len())))
        };
        let largest = padded(64 * 1024);
        assert_eq!(largest.len(), 64 * 1024);
        for (method, path) in [(Method::PATCH, "/me"), (Method::POST, "/rooms"), (Method::POST, "/signup")] {
            let answer = ada.call(method, path).body(padded(64 * 1024 + 1)).send().await;
            answer.refused(413, "too_large");
        }
        assert_eq!(ada.get("/me").await.expect(200)["last_name"], "Tester");
        ada.call(Method::PATCH, "/me").body(largest).send().await.expect(200);
        assert_eq!(ada.get("/me").await.expect(200)["last_name"], "King");
    })
    .await;
}

#[tokio::test]
async fn a_path_that_leads_nowhere_is_answered() {
    TestApp::run(async |app| {
        let ada = app.user("Ada").await;
        const PATHS: [&str; 4] = ["", "/messages", "/members", "/online"];
        for room in ["General", "%00", "a%2Fb", "-a", "%F0%9F%A6%80", &"a".repeat(65), &"a".repeat(5_000)] {
            for path in PATHS {
                ada.get(&format!("/rooms/{room}{path}")).await.refused(404, "not_found");
            }
        }
        // What no route takes is the gateway's own to answer.
        let gateways_own = (404, json!({"message": "Not Found"}));
        let nowhere = async |method: Method, path: &str| {
            let answer = ada.call(method, path).send().await;
            (answer.status.as_u16(), answer.json())
        };
        for path in ["/nowhere", "/rooms/general/nowhere", "/messages", "//rooms", "/rooms/../nowhere"] {
            assert_eq!(nowhere(Method::GET, path).await, gateways_own, "{path}");
        }
        assert_eq!(nowhere(Method::DELETE, "/me/password").await, gateways_own);
    })
    .await;
}

#[tokio::test]
async fn unknown_fields_are_ignored() {
    TestApp::run(async |app| {
        let ada = app.user("Ada").await;
        let body = json!({"id": "general", "title": "A", "kind": "public", "role": "admin", "created_at": 1});
        ada.post("/rooms", body).await.expect(201);
        let mut chat = ada.join("general").await;
        let frame = json!({
            "action": "send", "room": "general", "text": "Who am I?", "from": {"id": "somebody else"},
            "position": "0-1", "event": "mine", "extra": {"deep": [[[]]]},
        });
        let ack = chat.ask(frame).await;
        assert_eq!(ack["type"], "ack");
        assert_eq!(chat.join("general").await["events"][0]["from"]["id"], ada.id);
    })
    .await;
}

#[tokio::test]
async fn a_bad_frame_gets_an_error_and_the_conversation_goes_on() {
    TestApp::run(async |app| {
        let (room, (_, mut at_ada), (_, mut at_bob)) = app.two_in_a_room().await;
        let deep = format!(r#"{{"action":{}"#, "[".repeat(20_000));
        for (frame, code) in [
            ("", "bad_json"),
            (" ", "bad_json"),
            ("{", "bad_json"),
            ("nonsense", "bad_json"),
            ("{\"action\":\"send\" \"room\"}", "bad_json"),
            ("{\"action\": \"\u{0}\"}", "bad_json"),
            ("\u{feff}{}", "bad_json"),
            (&deep, "bad_json"),
            ("[]", "validation_failed"),
            ("null", "validation_failed"),
            ("7", "validation_failed"),
            ("{}", "validation_failed"),
            (r#"{"action": null}"#, "validation_failed"),
            (r#"{"action": {"action": "ping"}}"#, "validation_failed"),
            (r#"{"$serde_json::private::RawValue": "{\"action\": \"ping\"}"}"#, "validation_failed"),
            (r#"{"action": ""}"#, "unknown_action"),
            (r#"{"action": "fly"}"#, "unknown_action"),
            (r#"{"action": "PING"}"#, "unknown_action"),
            (r#"{"action": "$connect"}"#, "unknown_action"),
            (r#"{"action": "$disconnect"}"#, "unknown_action"),
            (r#"{"action": "$default"}"#, "unknown_action"),
        ] {
            at_ada.post_raw(frame).await;
            let reply = at_ada.reply().await;
            assert_eq!(reply["code"], code, "{:?}: {reply}", &frame.chars().take(40).collect::<String>());
            check_error(&reply, code);
        }
        at_ada.send(&room, "After all that, still here").await;
        assert_eq!(at_bob.push().await["text"], "After all that, still here");
    })
    .await;
}

#[tokio::test]
async fn a_frame_with_bad_fields_names_them_all() {
    TestApp::run(async |app| {
        let (room, (_, mut at_ada), (_, mut at_bob)) = app.two_in_a_room().await;
        let long = "x".repeat(4_001);
        let (long_id, long_room) = ("i".repeat(65), "r".repeat(65));
        let many: serde_json::Map<_, _> = (0..51).map(|n| (format!("room-{n}"), json!("0-0"))).collect();
        for (frame, fields) in [
            (json!({"action": "send"}), vec!["room", "text"]),
            (json!({"action": "send", "room": 1, "text": 1, "id": 1}), vec!["id", "room", "text"]),
            (json!({"action": "send", "room": room, "text": ""}), vec!["text"]),
            (json!({"action": "send", "room": room, "text": " \n\t "}), vec!["text"]),
            (json!({"action": "send", "room": room, "text": "a\u{0}b"}), vec!["text"]),
            (json!({"action": "send", "room": room, "text": "a\u{1b}[2J"}), vec!["text"]),
            (json!({"action": "send", "room": room, "text": "a\u{85}b"}), vec!["text"]),
            (json!({"action": "send", "room": room, "text": "a\u{ffff}b"}), vec!["text"]),
            (json!({"action": "send", "room": room, "text": "a\u{fffe}b"}), vec!["text"]),
            (json!({"action": "send", "room": room, "text": long}), vec!["text"]),
            (json!({"action": "send", "room": room, "text": "Hi", "id": ""}), vec!["id"]),
            (json!({"action": "send", "room": room, "text": "Hi", "id": "a\u{0}"}), vec!["id"]),
            (json!({"action": "send", "room": room, "text": "Hi", "id": long_id}), vec!["id"]),
            (json!({"action": "join"}), vec!["room"]),
            (json!({"action": "join", "room": ""}), vec!["room"]),
            (json!({"action": "join", "room": "No Such Room"}), vec!["room"]),
            (json!({"action": "join", "room": "a}b{"}), vec!["room"]),
            (json!({"action": "join", "room": long_room}), vec!["room"]),
            (json!({"action": "join", "room": room, "after": 7}), vec!["after"]),
            (json!({"action": "join", "room": room, "after": "soon"}), vec!["after"]),
            (
                json!({"action": "join", "room": room, "after": "1-0", "generation": "\u{0}"}),
                vec!["generation"],
            ),
            (json!({"action": "leave", "room": ["general"]}), vec!["room"]),
            (json!({"action": "history", "room": room, "limit": 0}), vec!["limit"]),
            (json!({"action": "history", "room": room, "limit": 201}), vec!["limit"]),
            (json!({"action": "history", "room": room, "limit": "7"}), vec!["limit"]),
            (json!({"action": "ping", "positions": []}), vec!["positions"]),
            (json!({"action": "ping", "positions": {"No Room": "0-0"}}), vec!["positions"]),
            (json!({"action": "ping", "positions": {"general": 7}}), vec!["positions"]),
            (json!({"action": "ping", "positions": many}), vec!["positions"]),
        ] {
            assert_eq!(at_ada.invalid(frame.clone()).await, fields, "{frame}");
        }
        for reference in [json!(7), json!({}), json!("r".repeat(65))] {
            at_ada.post(&json!({"action": "ping", "ref": reference})).await;
            let reply = at_ada.reply().await;
            check_error(&reply, "validation_failed");
            assert!(reply.get("ref").is_none(), "{reply}");
        }
        assert!(at_bob.pushed_before_now().await.is_empty());
        assert!(texts_of(&at_bob.join(&room).await).is_empty(), "nothing was written");
    })
    .await;
}

#[tokio::test]
async fn a_room_that_is_not_there_is_not_found_and_one_not_joined_is_not_written_to() {
    TestApp::run(async |app| {
        let ada = app.user("Ada").await;
        let mut chat = ada.connect().await;
        let room = ada.make_public_room().await;
        chat.refused(json!({"action": "join", "room": "no-such-room"}), "not_found").await;
        for room in ["no-such-room", room.as_str()] {
            chat.refused(json!({"action": "send", "room": room, "text": "Hello?"}), "not_joined").await;
            chat.refused(json!({"action": "history", "room": room}), "not_joined").await;
            chat.leave(room).await;
        }
        assert!(app.redis_keys("room:{no-such-room}:*").await.is_empty(), "nothing is kept for it");
    })
    .await;
}

#[tokio::test]
async fn a_binary_frame_and_one_that_is_too_large_are_closed_by_the_gateway() {
    TestApp::run(async |app| {
        let (room, (ada, mut at_ada), (_, mut at_bob)) = app.two_in_a_room().await;
        at_ada.post_binary(br#"{"action":"ping"}"#).await;
        assert_eq!(at_ada.closed().await, 1003);
        let mut at_ada = ada.join(&room).await;
        at_ada.post_raw("x".repeat(32 * 1024 + 1)).await;
        assert_eq!(at_ada.closed().await, 1009);
        at_bob.ping().await;
    })
    .await;
}
