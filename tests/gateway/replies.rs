//! What goes back to a client for its frame.

use anyhow::Result;
use serde_json::{Value, json};
use tests::fixture::Instruction;

use crate::harness::{Gateway, check_error_frame, ok};

#[tokio::test]
async fn the_body_goes_back_if_the_route_has_a_route_response() -> Result<()> {
    let mut gateway = Gateway::start().await?;
    let mut socket = gateway.connect().await?;
    for body in ["plain", r#"{"some":"json"}"#, "\u{1F600} \"quoted\" \\ \n"] {
        socket.send_json(&json!({"action": "reply"})).await?;
        let call = gateway.functions.next("reply").await;
        call.answer_json(json!({"statusCode": 200, "headers": {"X-A": "b"}, "body": body})).await;
        assert_eq!(socket.next().await?, body);
    }
    Ok(())
}

#[tokio::test]
async fn the_body_is_dropped_if_the_route_has_no_route_response() -> Result<()> {
    let mut gateway = Gateway::start().await?;
    let mut socket = gateway.connect().await?;
    // `halfway` has the selection expression but not the resource.
    for action in ["silent", "halfway"] {
        socket.send_json(&json!({"action": action})).await?;
        let call = gateway.functions.next("reply").await;
        assert_eq!(call.context("routeKey"), action);
        call.answer_json(json!({"statusCode": 200, "body": "dropped"})).await;
        gateway.check_nothing_waits(&mut socket).await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_function_that_fails_is_an_internal_server_error_and_the_next_call_works() -> Result<()> {
    let mut gateway = Gateway::start().await?;
    let (mut socket, id) = gateway.connect_with_id().await?;
    for action in ["reply", "silent"] {
        for failure in
            [Instruction::Throw("boom".into()), Instruction::Panic("boom".into()), Instruction::Exit(1)]
        {
            socket.send_json(&json!({"action": action})).await?;
            gateway.functions.next("reply").await.answer(failure).await;
            check_error_frame(&socket.next_json().await?, "Internal server error", &id);
        }
    }
    gateway.check_nothing_waits(&mut socket).await
}

#[tokio::test]
async fn the_error_names_the_request_that_the_function_saw() -> Result<()> {
    let mut gateway = Gateway::start().await?;
    let (mut socket, _) = gateway.connect_with_id().await?;
    socket.send_json(&json!({"action": "reply"})).await?;
    let call = gateway.functions.next("reply").await;
    let request_id = call.context("requestId").clone();
    call.answer(Instruction::Throw("boom".into())).await;
    assert_eq!(socket.next_json().await?["requestId"], request_id);
    Ok(())
}

#[tokio::test]
async fn a_function_that_outlives_its_timeout_is_an_internal_server_error() -> Result<()> {
    let mut gateway = Gateway::start().await?;
    let (mut socket, id) = gateway.connect_with_id().await?;
    socket.send_json(&json!({"action": "brief"})).await?;
    gateway.functions.next("brief").await.answer(Instruction::Hang).await;
    check_error_frame(&socket.next_json().await?, "Internal server error", &id);

    socket.send_json(&json!({"action": "brief"})).await?;
    gateway.functions.next("brief").await.answer_json(ok()).await;
    gateway.check_nothing_waits(&mut socket).await
}

#[tokio::test]
async fn an_answer_that_is_no_proxy_object_is_an_internal_server_error() -> Result<()> {
    let mut gateway = Gateway::start().await?;
    let (mut socket, id) = gateway.connect_with_id().await?;
    for answer in [
        Value::Null,
        json!(200),
        json!("ok"),
        json!([ok()]),
        json!({"statusCode": "ok"}),
        json!({"statusCode": 200, "body": 1}),
        json!({"statusCode": 200, "body": {"an": "object"}}),
        json!({"statusCode": 200, "headers": "none"}),
        json!({"statusCode": 200, "body": "", "connectionId": "unknown keys count"}),
    ] {
        for action in ["reply", "silent"] {
            socket.send_json(&json!({"action": action})).await?;
            gateway.functions.next("reply").await.answer_json(answer.clone()).await;
            check_error_frame(&socket.next_json().await?, "Internal server error", &id);
        }
    }
    gateway.check_nothing_waits(&mut socket).await
}

#[tokio::test]
async fn an_integration_that_outlives_its_limit_is_told_so_and_its_late_answer_is_dropped() -> Result<()> {
    let mut gateway = Gateway::start().await?;
    let (mut socket, id) = gateway.connect_with_id().await?;
    // The function runs already: its limit is shorter than a start may take.
    gateway.check_nothing_waits(&mut socket).await?;
    socket.send_json(&json!({"action": "hasty"})).await?;
    let call = gateway.functions.next("reply").await;
    check_error_frame(&socket.next_json().await?, "Endpoint request timed out", &id);

    // The function was not stopped by it: it answers, too late.
    call.answer_json(json!({"statusCode": 200, "body": "too late"})).await;
    gateway.check_nothing_waits(&mut socket).await
}

#[tokio::test]
async fn frames_of_one_connection_are_handled_side_by_side() -> Result<()> {
    let mut gateway = Gateway::start().await?;
    let mut socket = gateway.connect().await?;
    for n in 0..3 {
        socket.send_json(&json!({"action": "reply", "n": n})).await?;
    }
    // All three functions run at once; the last to begin is the first to answer.
    let mut calls = Vec::new();
    for _ in 0..3 {
        calls.push(gateway.functions.next("reply").await);
    }
    for call in calls.into_iter().rev() {
        let body = call.event()["body"].clone();
        call.answer_json(json!({"statusCode": 200, "body": body.clone()})).await;
        assert_eq!(socket.next().await?, body.as_str().expect("a string"));
    }
    Ok(())
}

#[tokio::test]
async fn one_connection_does_not_wait_for_the_frames_of_another() -> Result<()> {
    let mut gateway = Gateway::start().await?;
    let mut slow = gateway.connect().await?;
    slow.send_json(&json!({"action": "reply", "n": "slow"})).await?;
    let held = gateway.functions.next("reply").await;

    let mut quick = gateway.connect().await?;
    gateway.check_nothing_waits(&mut quick).await?;

    held.answer_json(json!({"statusCode": 200, "body": "at last"})).await;
    assert_eq!(slow.next().await?, "at last");
    Ok(())
}
