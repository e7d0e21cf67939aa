//! Which route takes a frame.

use anyhow::Result;
use serde_json::{Value, json};

use crate::harness::{Changes, DEFAULT_LINE, Gateway, check_error_frame, ok};

/// Sends a body and tells which function was called, and by which route key.
#[track_caller]
fn check(
    gateway: &mut Gateway,
    body: &str,
    expected: (&'static str, &'static str),
) -> impl Future<Output = Result<()>> {
    let caller = std::panic::Location::caller();
    let body = body.to_owned();
    async move {
        let mut socket = gateway.connect().await?;
        socket.send(body.clone()).await?;
        let call = gateway.functions.next(expected.0).await;
        assert_eq!(call.context("routeKey"), expected.1, "{body} at {caller}");
        assert_eq!(call.event()["body"], body);
        call.answer_json(ok()).await;
        Ok(())
    }
}

const TO_DEFAULT: (&str, &str) = ("default", "$default");
const TO_REPLY: (&str, &str) = ("reply", "reply");

#[tokio::test]
async fn the_action_of_the_body_selects_the_route() -> Result<()> {
    let mut gateway = Gateway::start().await?;
    check(&mut gateway, r#"{"action":"reply"}"#, TO_REPLY).await?;
    check(&mut gateway, r#" { "x": 1, "action" : "silent" } "#, ("reply", "silent")).await
}

#[tokio::test]
async fn what_no_route_matches_exactly_goes_to_default() -> Result<()> {
    let mut gateway = Gateway::start().await?;
    for body in [
        r#"{"action":"Reply"}"#,
        r#"{"action":"reply "}"#,
        r#"{"action":"other"}"#,
        r#"{"action":""}"#,
        r#"{"action":null}"#,
        r#"{"action":{"reply":1}}"#,
        r#"{"other":"reply"}"#,
        "{}",
    ] {
        check(&mut gateway, body, TO_DEFAULT).await?;
    }
    Ok(())
}

#[tokio::test]
async fn what_is_no_json_goes_to_default() -> Result<()> {
    let mut gateway = Gateway::start().await?;
    for body in ["", "reply", "{", r#"{"action":"reply"} and more"#, "[]", "\"reply\""] {
        check(&mut gateway, body, TO_DEFAULT).await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_path_may_reach_deep_into_the_body() -> Result<()> {
    let mut gateway =
        Changes::default().replace("$request.body.action", "$request.body.meta.route.name").start().await?;
    check(&mut gateway, r#"{"meta":{"route":{"name":"reply"}}}"#, TO_REPLY).await?;
    check(&mut gateway, r#"{"meta":{"route":"reply"}}"#, TO_DEFAULT).await?;
    check(&mut gateway, r#"{"action":"reply"}"#, TO_DEFAULT).await
}

#[tokio::test]
async fn several_values_may_make_one_key_and_a_missing_one_is_empty() -> Result<()> {
    let mut gateway = Changes::default()
        .replace("$request.body.action", "${request.body.first}${request.body.second}")
        .start()
        .await?;
    check(&mut gateway, r#"{"first":"re","second":"ply"}"#, TO_REPLY).await?;
    check(&mut gateway, r#"{"second":"reply"}"#, TO_REPLY).await?;
    check(&mut gateway, r#"{"first":"reply"}"#, TO_REPLY).await?;
    check(&mut gateway, r#"{"first":"ply","second":"re"}"#, TO_DEFAULT).await
}

#[tokio::test]
async fn without_a_default_route_the_client_is_told_forbidden() -> Result<()> {
    let mut gateway = Changes::default().without(DEFAULT_LINE).start().await?;
    let (mut socket, id) = gateway.connect_with_id().await?;
    for body in ["", "no JSON", r#"{"action":"unknown"}"#] {
        socket.send(body).await?;
        check_error_frame(&socket.next_json().await?, "Forbidden", &id);
    }
    // The connection lives on.
    gateway.check_nothing_waits(&mut socket).await
}

#[tokio::test]
async fn an_expression_that_cannot_work_is_named_at_the_start() -> Result<()> {
    let started = Changes::default().replace("$request.body.action", "$request.header.x").start().await;
    let error = format!("{:#}", started.err().expect("it cannot start"));
    assert!(error.contains("RouteSelectionExpression"), "{error}");
    assert!(error.contains("$request.header.x"), "{error}");
    Ok(())
}

/// A frame of a client that names a route of the gateway's own.
#[tokio::test]
async fn a_client_cannot_call_connect_or_disconnect() -> Result<()> {
    let mut gateway = Gateway::start().await?;
    for key in ["$connect", "$disconnect"] {
        let body: Value = json!({"action": key});
        check(&mut gateway, &body.to_string(), TO_DEFAULT).await?;
    }
    Ok(())
}
