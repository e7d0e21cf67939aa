//! The faults that tests can switch on.

use std::time::{Duration, Instant};

use anyhow::Result;
use aws_sdk_apigatewaymanagement::primitives::Blob;
use serde_json::json;
use tests::fixture::Instruction;

use crate::harness::{Gateway, check_error_frame};

#[tokio::test]
async fn a_dropped_disconnect_is_never_told() -> Result<()> {
    let mut gateway = Gateway::start().await?;
    gateway.aws.faults(&json!({"drop_disconnect": true})).await?;
    let (forgotten, forgotten_id) = gateway.connect_with_id().await?;
    forgotten.close(1000, "").await?;
    // It is gone all the same.
    let error = gateway.management().get_connection().connection_id(&forgotten_id).send().await;
    assert!(error.expect_err("it has ended").into_service_error().is_gone_exception());

    gateway.aws.faults(&json!({})).await?;
    let (told, told_id) = gateway.connect_with_id().await?;
    told.close(1000, "").await?;
    assert_eq!(gateway.functions.next("disconnect").await.connection_id(), told_id, "the first to be told");
    Ok(())
}

#[tokio::test]
async fn connections_answers_with_the_status_that_it_is_told_and_does_nothing() -> Result<()> {
    let mut gateway = Gateway::start().await?;
    let (mut socket, id) = gateway.connect_with_id().await?;
    let client = gateway.management();
    for status in [410, 413, 429, 403, 500] {
        gateway.aws.faults(&json!({"management": {"status": status}})).await?;
        let post = client.post_to_connection().connection_id(&id).data(Blob::new("lost")).send().await;
        let error = post.expect_err("a fault is on");
        assert_eq!(error.raw_response().map(|response| response.status().as_u16()), Some(status));
        let error = error.into_service_error();
        let typed = match status {
            410 => error.is_gone_exception(),
            413 => error.is_payload_too_large_exception(),
            429 => error.is_limit_exceeded_exception(),
            403 => error.is_forbidden_exception(),
            _ => true,
        };
        assert!(typed, "{status} {error:?}");
    }
    gateway.aws.faults(&json!({})).await?;
    gateway.post(&id, "not lost").await?;
    assert_eq!(socket.next().await?, "not lost");
    Ok(())
}

#[tokio::test]
async fn a_share_of_the_calls_fails_and_the_others_work() -> Result<()> {
    let mut gateway = Gateway::start().await?;
    let (mut socket, id) = gateway.connect_with_id().await?;
    gateway.aws.faults(&json!({"management": {"status": 500, "share": 0.5}})).await?;
    let mut delivered = 0;
    for _ in 0..200 {
        if gateway.post(&id, "x").await.is_ok() {
            assert_eq!(socket.next().await?, "x");
            delivered += 1;
        }
    }
    // Outside of this once in some 10^12 runs.
    assert!((50..=150).contains(&delivered), "{delivered} of 200");
    Ok(())
}

#[tokio::test]
async fn a_silent_post_is_answered_and_never_delivered() -> Result<()> {
    let mut gateway = Gateway::start().await?;
    let (mut socket, id) = gateway.connect_with_id().await?;
    gateway.aws.faults(&json!({"management": {"silent_share": 1.0}})).await?;
    gateway.post(&id, "lost").await?;
    gateway.aws.faults(&json!({})).await?;
    gateway.post(&id, "not lost").await?;
    assert_eq!(socket.next().await?, "not lost");
    Ok(())
}

#[tokio::test]
async fn a_delayed_post_is_answered_late_and_delays_nobody_else() -> Result<()> {
    let mut gateway = Gateway::start().await?;
    let (mut socket, id) = gateway.connect_with_id().await?;
    gateway.aws.faults(&json!({"management": {"delay_ms": 300}})).await?;
    let started = Instant::now();
    let posts = (0..5).map(|_| gateway.post(&id, "x"));
    for posted in futures::future::join_all(posts).await {
        posted?;
    }
    let took = started.elapsed();
    assert!(took >= Duration::from_millis(300), "{took:?}");
    assert!(took < Duration::from_millis(1_500), "one after the other they take this long: {took:?}");
    for _ in 0..5 {
        assert_eq!(socket.next().await?, "x");
    }
    Ok(())
}

#[tokio::test]
async fn a_function_that_is_killed_in_the_middle_of_a_call_is_an_internal_server_error() -> Result<()> {
    let mut gateway = Gateway::start().await?;
    let (mut socket, id) = gateway.connect_with_id().await?;
    gateway.aws.faults(&json!({"kill": {"function": "reply", "after_ms": 20}})).await?;
    gateway.functions.script("reply", Instruction::Hang);
    socket.send_json(&json!({"action": "reply"})).await?;
    check_error_frame(&socket.next_json().await?, "Internal server error", &id);

    gateway.aws.faults(&json!({})).await?;
    gateway.functions.hold("reply");
    gateway.check_nothing_waits(&mut socket).await
}
