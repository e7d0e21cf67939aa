//! The log: one line for every call that reaches the gateway, and no secret in any of them.

use anyhow::Result;
use serde_json::{Value, json};
use tests::fixture::Instruction;
use tests::websocket::WebSocket;

use crate::harness::Gateway;

/// Stands for every token, password and text of a person.
const SECRET: &str = "3e9f0a-secret";

#[tokio::test]
async fn every_call_has_a_line_also_those_that_no_function_sees_and_none_tells_a_secret() -> Result<()> {
    let mut gateway = Gateway::start().await?;
    gateway.functions.script("reply", Instruction::Return(json!({"statusCode": 200, "body": SECRET})));
    let pass = [("X-Pass", SECRET), ("User-Agent", SECRET)];
    let with_secret = |url: &str| format!("{url}?ticket={SECRET}");

    WebSocket::refused(&with_secret(&gateway.url_with_path("/other")), &pass).await?;
    WebSocket::refused(&with_secret(gateway.url()), &[]).await?;
    let mut socket = WebSocket::connect(&with_secret(gateway.url()), &pass).await?;
    let id = gateway.functions.next("connect").await.connection_id().to_owned();
    socket.send_json(&json!({"action": "reply", "text": SECRET})).await?;
    socket.next().await?;
    gateway.functions.script("reply", Instruction::Throw("boom".into()));
    socket.send_json(&json!({"action": "silent", "text": SECRET})).await?;
    socket.next().await?;
    gateway.post(&id, SECRET).await?;
    let url = format!("{}/@connections/{id}?token={SECRET}", gateway.aws.endpoints.management);
    reqwest::Client::new().post(url).body(SECRET).send().await?;
    socket.close(1000, SECRET).await?;
    gateway.functions.next("disconnect").await;

    gateway.aws.terminate()?;
    gateway.aws.ended().await?;
    let log = gateway.aws.log();
    let lines: Vec<Value> = log
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .filter(|line| line["message"] == "access" && line["api"] != "lambda")
        .collect();
    // A frame's answer goes out before its line, which may therefore come after the line of the next call.
    let mut told: Vec<_> = lines
        .iter()
        .map(|line| (line["route"].as_str(), line["status"].as_u64(), line["function"].as_str()))
        .collect();
    told.sort_unstable();
    let expected = [
        ("$connect", 101, Some("connect")),
        ("$connect", 401, None),
        ("$disconnect", 200, Some("disconnect")),
        ("GET /other", 403, None),
        ("POST /@connections/{id}", 200, None),
        ("POST /@connections/{id}", 403, None),
        ("reply", 200, Some("reply")),
        ("silent", 500, Some("reply")),
    ];
    assert_eq!(told, expected.map(|(route, status, function)| (Some(route), Some(status), function)));
    for line in &lines {
        assert_eq!(line["source_ip"], "127.0.0.1", "{line}");
        assert!(line["duration_ms"].is_number() && line["request_id"].is_string(), "{line}");
        let of_connection = line["route"] != "GET /other" && line["status"] != 401;
        assert!(!of_connection || line["connection_id"] == id.as_str(), "{line}");
    }
    assert!(!log.contains(SECRET), "{log}");
    Ok(())
}
