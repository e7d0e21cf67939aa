//! How connections end, and what `$disconnect` is told of it.

use anyhow::Result;
use serde_json::{Value, json};
use tests::{test_app::eventually, websocket::Closed};

use crate::harness::{Changes, DISCONNECT_LINE, Gateway};

#[tokio::test]
async fn a_close_of_the_client_is_told_with_its_code_and_reason() -> Result<()> {
    let mut gateway = Gateway::start().await?;
    for (code, reason) in [(1000, ""), (1001, ""), (1000, "done"), (4321, "an own code \u{1F600}")] {
        let (socket, id) = gateway.connect_with_id().await?;
        socket.close(code, reason).await?;
        let told = gateway.functions.next("disconnect").await;
        assert_eq!(told.connection_id(), id);
        assert_eq!(told.context("disconnectStatusCode"), code);
        assert_eq!(told.context("disconnectReason"), reason);
    }
    Ok(())
}

#[tokio::test]
async fn a_close_without_a_code_is_told_as_1005() -> Result<()> {
    let mut gateway = Gateway::start().await?;
    let socket = gateway.connect().await?;
    socket.close_without_code().await?;
    let told = gateway.functions.next("disconnect").await;
    assert_eq!(told.context("disconnectStatusCode"), 1005);
    assert_eq!(told.context("disconnectReason"), "Client-side close frame status not set");
    Ok(())
}

#[tokio::test]
async fn a_client_that_vanishes_is_told_and_gone() -> Result<()> {
    let mut gateway = Gateway::start().await?;
    let (socket, id) = gateway.connect_with_id().await?;
    drop(socket);
    let told = gateway.functions.next("disconnect").await;
    assert_eq!(told.connection_id(), id);
    let error = gateway.management().get_connection().connection_id(&id).send().await;
    assert!(error.expect_err("it is gone").into_service_error().is_gone_exception());
    Ok(())
}

#[tokio::test]
async fn a_delete_closes_with_1000_and_is_told() -> Result<()> {
    let mut gateway = Gateway::start().await?;
    gateway.authorize_as(&json!({"user": "u-1"}));
    let (mut socket, id) = gateway.connect_with_id().await?;
    gateway.management().delete_connection().connection_id(&id).send().await?;
    let closed = socket.closed().await?;
    assert!(matches!(closed, Closed::With(1000, _)), "{closed:?}");
    let told = gateway.functions.next("disconnect").await;
    assert_eq!(told.connection_id(), id);
    assert_eq!(told.context("disconnectStatusCode"), 1000);
    assert_eq!(told.context("disconnectReason"), "Connection Closed Normally");
    assert_eq!(told.context("authorizer")["user"], "u-1");
    Ok(())
}

#[tokio::test]
async fn it_is_told_once() -> Result<()> {
    let mut gateway = Gateway::start().await?;
    let (mut first, first_id) = gateway.connect_with_id().await?;
    gateway.management().delete_connection().connection_id(&first_id).send().await?;
    first.closed().await?;
    drop(first);
    assert_eq!(gateway.functions.next("disconnect").await.connection_id(), first_id);
    let (second, second_id) = gateway.connect_with_id().await?;
    drop(second);
    assert_eq!(gateway.functions.next("disconnect").await.connection_id(), second_id);
    Ok(())
}

#[tokio::test]
async fn a_function_may_still_be_at_work_when_its_client_leaves() -> Result<()> {
    let mut gateway = Gateway::start().await?;
    let mut socket = gateway.connect().await?;
    socket.send_json(&json!({"action": "reply"})).await?;
    let call = gateway.functions.next("reply").await;
    drop(socket);
    gateway.functions.next("disconnect").await;
    call.answer_json(json!({"statusCode": 200, "body": "to nobody"})).await;
    let mut other = gateway.connect().await?;
    gateway.check_nothing_waits(&mut other).await
}

#[tokio::test]
async fn without_a_disconnect_route_connections_end_all_the_same() -> Result<()> {
    let mut gateway = Changes::default().without(DISCONNECT_LINE).start().await?;
    let (socket, id) = gateway.connect_with_id().await?;
    assert_eq!(socket.close(1000, "bye").await?, Closed::With(1000, "bye".into()));
    let error = gateway.management().get_connection().connection_id(&id).send().await;
    assert!(error.expect_err("it is gone").into_service_error().is_gone_exception());
    Ok(())
}

#[tokio::test]
async fn a_gateway_that_is_stopped_closes_with_1001_and_tells_it() -> Result<()> {
    let mut gateway = Gateway::start().await?;
    let mut sockets = vec![gateway.connect_with_id().await?, gateway.connect_with_id().await?];
    gateway.functions.hold("disconnect");
    gateway.aws.terminate()?;
    for (socket, _) in &mut sockets {
        assert_eq!(socket.closed().await?, Closed::With(1001, "Going away".into()));
    }
    // Functions still run, and may still need @connections.
    for _ in &sockets {
        let told = gateway.functions.next("disconnect").await;
        assert_eq!(told.context("disconnectStatusCode"), 1001);
        let gone = gateway.management().get_connection().connection_id(told.connection_id()).send().await;
        assert!(gone.expect_err("it has ended").into_service_error().is_gone_exception());
        told.answer_json(json!({"statusCode": 200})).await;
    }
    assert!(gateway.aws.ended().await?.success(), "{}", gateway.aws.log());
    Ok(())
}

#[tokio::test]
async fn a_gateway_that_is_stopped_waits_for_the_frames_in_work() -> Result<()> {
    let mut gateway = Gateway::start().await?;
    let mut socket = gateway.connect().await?;
    gateway.functions.hold("reply");
    socket.send_json(&json!({"action": "reply"})).await?;
    let call = gateway.functions.next("reply").await;
    gateway.aws.terminate()?;
    assert_eq!(socket.closed().await?, Closed::With(1001, "Going away".into()));
    drop(socket);
    // The connection is gone and told; the frame alone is what the gateway waits for.
    let id = call.connection_id().to_owned();
    let ended = eventually("the end of the connection is in the log", async || {
        line(&gateway, "$disconnect").ok_or_else(|| gateway.aws.log())
    })
    .await;
    assert_eq!((&ended["close_code"], &ended["closed_by_gateway"]), (&json!(1001), &json!(true)));
    let gone = gateway.management().get_connection().connection_id(&id).send().await;
    assert!(gone.expect_err("it has ended").into_service_error().is_gone_exception());
    call.answer_json(json!({"statusCode": 200, "body": "too late for its client"})).await;
    assert!(gateway.aws.ended().await?.success(), "{}", gateway.aws.log());
    let frame = line(&gateway, "reply").expect("a frame in work has its line, too");
    assert_eq!((&frame["status"], &frame["function"]), (&json!(200), &json!("reply")), "{frame}");
    Ok(())
}

/// The access line of this route.
fn line(gateway: &Gateway, route: &str) -> Option<Value> {
    let log = gateway.aws.log();
    let mut lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    lines.find(|line| line["message"] == "access" && line["route"] == route)
}
