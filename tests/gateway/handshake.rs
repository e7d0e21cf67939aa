//! `$connect` and what a client sees of it.

use anyhow::{Context as _, Result};
use aws_sdk_apigatewaymanagement::primitives::Blob;
use serde_json::{Value, json};
use tests::fixture::Instruction;
use tests::websocket::WebSocket;

use crate::harness::{AUTH_LINE, CONNECT_LINE, Changes, Gateway, PASS, check_error_frame, ok};

/// What a handshake becomes when `$connect` does this.
async fn status_of(gateway: &mut Gateway, instruction: Instruction) -> Result<u16> {
    gateway.functions.script("connect", instruction);
    match gateway.connect().await {
        Ok(_) => Ok(101),
        Err(error) => Ok(error.downcast::<tests::websocket::Refused>()?.status.as_u16()),
    }
}

#[tokio::test]
async fn a_2xx_opens_the_connection_and_any_other_status_is_that_of_the_handshake() -> Result<()> {
    let mut gateway = Gateway::start().await?;
    for (status, expected) in [
        (200, 101),
        (201, 101),
        (299, 101),
        (302, 302),
        (400, 400),
        (401, 401),
        (403, 403),
        (404, 404),
        (418, 418),
        (503, 503),
    ] {
        let answer = Instruction::Return(json!({"statusCode": status, "body": "ignored"}));
        assert_eq!(status_of(&mut gateway, answer).await?, expected, "for {status}");
    }
    Ok(())
}

#[tokio::test]
async fn a_function_that_fails_makes_the_handshake_a_502() -> Result<()> {
    let mut gateway = Gateway::start().await?;
    for failure in
        [Instruction::Throw("boom".into()), Instruction::Panic("boom".into()), Instruction::Exit(1)]
    {
        let status = status_of(&mut gateway, failure.clone()).await?;
        assert_eq!(status, 502, "for {failure:?}");
    }
    assert_eq!(status_of(&mut gateway, Instruction::Return(ok())).await?, 101, "the next call works");
    Ok(())
}

#[tokio::test]
async fn a_malformed_answer_makes_the_handshake_a_502() -> Result<()> {
    let mut gateway = Gateway::start().await?;
    for answer in [
        Value::Null,
        json!("ok"),
        json!([]),
        json!({"statusCode": "200"}),
        json!({"statusCode": 200, "body": {"a": 1}}),
        json!({"statusCode": 200, "unknown": 1}),
    ] {
        assert_eq!(status_of(&mut gateway, Instruction::Return(answer.clone())).await?, 502, "for {answer}");
    }
    Ok(())
}

#[tokio::test]
async fn a_function_that_cannot_be_invoked_makes_the_handshake_a_500() -> Result<()> {
    // A port that was free a moment ago, and that nobody listens on.
    let port = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    let nobody = format!("http://127.0.0.1:{port}");
    let gateway =
        Changes::default().without(AUTH_LINE).argument("--invoke-endpoint").argument(&nobody).start().await?;
    let refused = gateway.refused().await?;
    assert_eq!(refused.status, 500);
    let body: Value = serde_json::from_str(&refused.body)?;
    check_error_frame(&body, "Internal server error", body["connectionId"].as_str().context("an id")?);
    Ok(())
}

#[tokio::test]
async fn only_the_subprotocol_of_the_answer_reaches_the_client() -> Result<()> {
    let mut gateway = Gateway::start().await?;
    for headers in [
        json!({"headers": {"Sec-WebSocket-Protocol": "chat", "X-Mine": "lost", "Set-Cookie": "a=b"}}),
        json!({"multiValueHeaders": {"sec-websocket-protocol": ["chat"], "X-Mine": ["lost"]}}),
    ] {
        let mut answer = json!({"statusCode": 200, "body": "lost"});
        answer.as_object_mut().expect("an object").extend(headers.as_object().expect("an object").clone());
        gateway.functions.script("connect", Instruction::Return(answer));
        let offered = [PASS, ("Sec-WebSocket-Protocol", "chat, other")];
        let mut socket = WebSocket::connect(gateway.url(), &offered).await?;
        assert_eq!(socket.headers["sec-websocket-protocol"], "chat");
        assert!(!socket.headers.contains_key("x-mine"));
        assert!(!socket.headers.contains_key("set-cookie"));
        gateway.check_nothing_waits(&mut socket).await?;
    }
    Ok(())
}

#[tokio::test]
async fn without_a_connect_route_every_handshake_succeeds() -> Result<()> {
    let mut gateway = Changes::default().without(AUTH_LINE).without(CONNECT_LINE).start().await?;
    let mut socket = WebSocket::connect(gateway.url(), &[]).await?;
    gateway.check_nothing_waits(&mut socket).await
}

#[tokio::test]
async fn another_stage_or_path_is_forbidden() -> Result<()> {
    let gateway = Gateway::start().await?;
    for path in ["/other", "/", "/test/below", "/TEST"] {
        let refused = WebSocket::refused(&gateway.url_with_path(path), &[PASS]).await?;
        assert_eq!(refused.status, 403, "{path}");
        assert_eq!(serde_json::from_str::<Value>(&refused.body)?, json!({"message": "Forbidden"}), "{path}");
    }
    Ok(())
}

#[tokio::test]
async fn a_connection_is_gone_until_its_connect_has_returned() -> Result<()> {
    let mut gateway = Gateway::start().await?;
    gateway.functions.hold("connect");
    let handshake = gateway.connecting();
    let call = gateway.functions.next("connect").await;
    let id = call.connection_id().to_owned();

    let post =
        || gateway.management().post_to_connection().connection_id(&id).data(Blob::new("early")).send();
    let error = post().await.expect_err("the connection is not open yet").into_service_error();
    assert!(error.is_gone_exception(), "{error:?}");

    call.answer_json(ok()).await;
    let mut socket = handshake.await??;
    gateway.post(&id, "in time").await?;
    assert_eq!(socket.next().await?, "in time");
    Ok(())
}

#[tokio::test]
async fn a_client_that_leaves_during_connect_is_told_to_disconnect() -> Result<()> {
    let mut gateway = Gateway::start().await?;
    gateway.functions.hold("connect");
    let handshake = gateway.connecting();
    let call = gateway.functions.next("connect").await;
    let id = call.connection_id().to_owned();
    handshake.abort();
    assert!(handshake.await.is_err_and(|error| error.is_cancelled()), "the client has left");
    call.answer_json(ok()).await;

    let disconnect = gateway.functions.next("disconnect").await;
    assert_eq!(disconnect.connection_id(), id);
    let error = gateway.management().get_connection().connection_id(&id).send().await;
    assert!(error.expect_err("nobody is there").into_service_error().is_gone_exception());
    Ok(())
}

#[tokio::test]
async fn a_connection_that_was_refused_is_not_told_to_disconnect() -> Result<()> {
    let mut gateway = Gateway::start().await?;
    gateway.functions.hold("connect");

    let stays = gateway.connecting();
    gateway.functions.next("connect").await.answer_json(json!({"statusCode": 403})).await;
    stays.await?.expect_err("refused");

    let leaves = gateway.connecting();
    let call = gateway.functions.next("connect").await;
    leaves.abort();
    assert!(leaves.await.is_err_and(|error| error.is_cancelled()), "the client has left");
    call.answer_json(json!({"statusCode": 403})).await;

    gateway.functions.script("connect", Instruction::Return(ok()));
    let (socket, id) = gateway.connect_with_id().await?;
    socket.close(1000, "").await?;
    assert_eq!(gateway.functions.next("disconnect").await.connection_id(), id, "the first to be told");
    Ok(())
}

#[tokio::test]
async fn what_a_client_sends_right_after_its_handshake_is_not_lost() -> Result<()> {
    use tokio::io::AsyncWriteExt as _;

    let mut gateway = Gateway::start().await?;
    let mut socket = tokio::net::TcpStream::connect(gateway.host()).await?;
    let handshake = "GET /test HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nX-Pass: yes\r\n\
                     Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n";
    // A frame with the text `hi` under an all-zero mask, in the same packet as the handshake.
    let frame = [0x81, 0x82, 0, 0, 0, 0, b'h', b'i'];
    socket.write_all(&[handshake.as_bytes(), &frame].concat()).await?;
    let call = gateway.functions.next("default").await;
    assert_eq!(call.event()["body"], "hi");
    call.answer_json(ok()).await;
    Ok(())
}
