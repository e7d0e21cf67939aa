//! What an operator sees: one line for every call, whatever became of it.
//!
//! That no secret is in any log is checked at the end of every test.

use serde_json::{Value, json};
use tests::{
    api::assert_keys,
    chat::check_time,
    test_app::{TestApp, eventually},
};

/// The lines that functions have written for calls which this is true of.
fn calls(app: &TestApp, wanted: impl Fn(&Value) -> bool) -> Vec<Value> {
    let log = app.aws.log();
    let lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    lines.filter(|line| line["message"] == "call" && wanted(line)).collect()
}

/// Waits for the line: it comes before the answer, but through a pipe.
async fn call(app: &TestApp, wanted: impl Fn(&Value) -> bool + Copy) -> Value {
    let mut found = eventually("the line is there", async || {
        let found = calls(app, wanted);
        if found.is_empty() { Err(app.aws.log()) } else { Ok(found) }
    })
    .await;
    assert_eq!(found.len(), 1, "one line for one call: {found:?}");
    found.remove(0)
}

const ALWAYS: [&str; 8] =
    ["timestamp", "level", "message", "request_id", "function", "route", "duration_ms", "cold_start"];
const SOMETIMES: [&str; 6] = ["action", "status", "code", "user_id", "connection_id", "room"];

#[tokio::test]
async fn every_http_call_leaves_one_line() {
    TestApp::run(async |app| {
        let ada = app.user("Ada").await;
        let room = ada.make_public_room().await;
        let line = call(app, |line| line["route"] == "POST /signup").await;
        assert_keys(&line, &ALWAYS, &SOMETIMES);
        assert_eq!((&line["function"], &line["status"]), (&json!("signup"), &json!(201)));
        assert_eq!((&line["cold_start"], &line["level"]), (&json!(true), &json!("INFO")));
        assert!(line["duration_ms"].is_number(), "{line}");

        ada.get(&format!("/rooms/{room}")).await.expect(200);
        let line = call(app, |line| line["route"] == "GET /rooms/{room}").await;
        assert_keys(&line, &ALWAYS, &SOMETIMES);
        assert_eq!((&line["function"], &line["status"]), (&json!("rooms"), &json!(200)));
        assert_eq!((&line["user_id"], &line["room"]), (&json!(ada.id), &json!(room)));

        let refused = app.api.get("/me").await.refused(401, "unauthorized");
        let line = call(app, |line| line["request_id"] == refused["request_id"]).await;
        assert_eq!((&line["status"], &line["code"]), (&json!(401), &json!("unauthorized")));
        assert_eq!((&line["route"], &line["level"]), (&json!("GET /me"), &json!("INFO")));
    })
    .await;
}

#[tokio::test]
async fn every_frame_and_every_handshake_leaves_one_line() {
    TestApp::run(async |app| {
        let ada = app.user("Ada").await;
        let room = ada.make_public_room().await;
        let mut chat = ada.connect().await;
        chat.join(&room).await;
        chat.send(&room, "This is not in the log").await;
        let refused = chat.refused(json!({"action": "fly"}), "unknown_action").await;
        chat.close().await;

        let sent = call(app, |line| line["action"] == "send").await;
        assert_keys(&sent, &ALWAYS, &SOMETIMES);
        assert_eq!((&sent["function"], &sent["route"]), (&json!("message"), &json!("$default")));
        assert_eq!((&sent["user_id"], &sent["room"]), (&json!(ada.id), &json!(room)));
        assert!(sent["connection_id"].is_string() && sent["duration_ms"].is_number(), "{sent}");
        let flown = call(app, |line| line["request_id"] == refused["request_id"]).await;
        assert_eq!(flown["code"], "unknown_action");
        for (function, route) in
            [("authorize", "authorizer"), ("connect", "$connect"), ("disconnect", "$disconnect")]
        {
            let line = call(app, |line| line["function"] == function).await;
            assert_keys(&line, &ALWAYS, &SOMETIMES);
            assert_eq!((&line["route"], &line["user_id"]), (&json!(route), &json!(ada.id)), "{line}");
        }
    })
    .await;
}

#[tokio::test]
async fn what_only_the_gateway_sees_leaves_a_line_too() {
    TestApp::run(async |app| {
        app.api.get("/nowhere").await;
        let line = eventually("the line is there", async || {
            let log = app.aws.log();
            let mut lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
            lines.find(|line| line["message"] == "access" && line["route"] == "GET /nowhere").ok_or(log)
        })
        .await;
        check_time(&line["timestamp"]);
        assert_eq!((&line["api"], &line["status"]), (&json!("http"), &json!(404)));
    })
    .await;
}
