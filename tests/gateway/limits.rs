//! How large, how idle and how old: what the gateway closes, and with which code.

use anyhow::{Result, bail};
use serde_json::json;
use tests::fixture::{Call, Instruction};
use tests::websocket::{Closed, WebSocket};
use tokio_tungstenite::tungstenite::Message;

use crate::harness::{Changes, Gateway, ok};

const KB: usize = 1024;

fn with(code: u16) -> impl Fn(&Closed) -> bool {
    move |closed| matches!(closed, Closed::With(closed, _) if *closed == code)
}

/// Checks that the client sees this close code, and that `$disconnect` is told the same.
async fn check_closed(gateway: &mut Gateway, mut socket: WebSocket, code: u16) -> Result<()> {
    let closed = socket.closed().await?;
    assert!(with(code)(&closed), "{closed:?}");
    let told: Call = gateway.functions.next("disconnect").await;
    assert_eq!(told.context("disconnectStatusCode"), code);
    Ok(())
}

#[tokio::test]
async fn a_frame_of_32_kb_passes() -> Result<()> {
    let mut gateway = Gateway::start().await?;
    let mut socket = gateway.connect().await?;
    let body = "x".repeat(32 * KB);
    socket.send(body.clone()).await?;
    let call = gateway.functions.next("default").await;
    assert_eq!(call.event()["body"], body);
    call.answer_json(ok()).await;
    Ok(())
}

#[tokio::test]
async fn a_frame_over_32_kb_closes_with_1009() -> Result<()> {
    let mut gateway = Gateway::start().await?;
    for size in [32 * KB + 1, 128 * KB, 4 * KB * KB] {
        let mut socket = gateway.connect().await?;
        // The gateway may close before it has all of it.
        let _ = socket.send("x".repeat(size)).await;
        check_closed(&mut gateway, socket, 1009).await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_message_of_128_kb_in_frames_of_32_kb_passes() -> Result<()> {
    let mut gateway = Gateway::start().await?;
    let mut socket = gateway.connect().await?;
    let fragment = "x".repeat(32 * KB);
    socket.send_fragments(&[fragment.as_str(); 4]).await?;
    let call = gateway.functions.next("default").await;
    assert_eq!(call.event()["body"], fragment.repeat(4));
    call.answer_json(ok()).await;
    Ok(())
}

#[tokio::test]
async fn a_message_over_128_kb_closes_with_1009() -> Result<()> {
    let mut gateway = Gateway::start().await?;
    let mut socket = gateway.connect().await?;
    let fragment = "x".repeat(32 * KB);
    // The gateway may close before it has all of it.
    let _ = socket.send_fragments(&[&fragment, &fragment, &fragment, &fragment, "x"]).await;
    check_closed(&mut gateway, socket, 1009).await
}

#[tokio::test]
async fn a_binary_frame_closes_with_1003() -> Result<()> {
    let mut gateway = Gateway::start().await?;
    let mut socket = gateway.connect().await?;
    socket.send_message(Message::binary(b"text all the same".to_vec())).await?;
    check_closed(&mut gateway, socket, 1003).await
}

#[tokio::test]
async fn a_ping_is_answered_with_its_own_payload() -> Result<()> {
    let gateway = Gateway::start().await?;
    let mut socket = gateway.connect().await?;
    socket.send_message(Message::Ping("are you there?".into())).await?;
    assert_eq!(socket.next_message().await?, Message::Pong("are you there?".into()));
    Ok(())
}

#[tokio::test]
async fn an_idle_connection_is_closed_with_1001_and_an_active_one_is_not() -> Result<()> {
    let mut gateway = Changes::default().argument("--idle-timeout-seconds=1").start().await?;
    gateway.functions.script("reply", Instruction::Return(json!({"statusCode": 200, "body": "pong"})));
    let (mut active, _) = gateway.connect_with_id().await?;
    // A second in which a function has to start is no idle one, but may be a long one.
    chat(&mut active).await?;
    let (mut idle, idle_id) = gateway.connect_with_id().await?;
    let closed = tokio::select! {
        closed = idle.closed() => closed?,
        stopped = chat_for_ever(&mut active) => bail!("the active connection ended: {stopped:?}"),
    };
    assert_eq!(closed, Closed::With(1001, "Going away".into()));
    let told = gateway.functions.next("disconnect").await;
    assert_eq!(told.connection_id(), idle_id);
    assert_eq!(told.context("disconnectStatusCode"), 1001);
    assert_eq!(told.context("disconnectReason"), "Going away");
    Ok(())
}

#[tokio::test]
async fn an_old_connection_is_closed_with_1001_however_active_it_is() -> Result<()> {
    let mut gateway = Changes::default().argument("--connection-limit-seconds=0.5").start().await?;
    gateway.functions.script("reply", Instruction::Return(json!({"statusCode": 200, "body": "pong"})));
    let mut socket = gateway.connect().await?;
    // It ends by the close frame, which is no text message.
    let error = chat_for_ever(&mut socket).await.expect_err("it ends");
    assert!(error.to_string().contains("Going away"), "{error}");
    let told = gateway.functions.next("disconnect").await;
    assert_eq!(told.context("disconnectStatusCode"), 1001);
    Ok(())
}

async fn chat_for_ever(socket: &mut WebSocket) -> Result<std::convert::Infallible> {
    loop {
        chat(socket).await?;
    }
}

async fn chat(socket: &mut WebSocket) -> Result<()> {
    socket.send_json(&json!({"action": "reply"})).await?;
    assert_eq!(socket.next().await?, "pong");
    Ok(())
}

#[tokio::test]
async fn a_client_that_does_not_read_is_429_until_it_does_and_loses_nothing() -> Result<()> {
    let mut gateway = Gateway::start().await?;
    let (mut slow, id) = gateway.connect_with_id().await?;
    let client = gateway.management();
    let filling = "x".repeat(100 * KB);
    let mut accepted = 0;
    // What fits into the buffers of the operating system and of the gateway, and not much more than that.
    let error = loop {
        let data = aws_sdk_apigatewaymanagement::primitives::Blob::new(format!("{accepted} {filling}"));
        match client.post_to_connection().connection_id(&id).data(data).send().await {
            Ok(_) => accepted += 1,
            Err(error) => break error.into_service_error(),
        }
        assert!(accepted < 1_000, "100 MB wait for one slow client");
    };
    assert!(error.is_limit_exceeded_exception(), "{error:?}");

    for n in 0..accepted {
        let message = slow.next().await?;
        assert!(message.starts_with(&format!("{n} ")), "after {n}: {}", &message[..10]);
    }
    gateway.post(&id, "again").await?;
    assert_eq!(slow.next().await?, "again");
    Ok(())
}

#[tokio::test]
async fn a_client_that_does_not_read_is_still_read_from() -> Result<()> {
    let mut gateway = Gateway::start().await?;
    let (mut slow, id) = gateway.connect_with_id().await?;
    let filling = "x".repeat(100 * KB);
    while gateway.post(&id, filling.clone()).await.is_ok() {}
    slow.send("heard").await?;
    let call = gateway.functions.next("default").await;
    assert_eq!(call.event()["body"], "heard");
    call.answer_json(ok()).await;
    Ok(())
}
