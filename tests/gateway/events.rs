//! What functions are told: the events of `$connect`, of frames and of `$disconnect`.

use anyhow::Result;
use aws_lambda_events::apigw::ApiGatewayWebsocketProxyRequest;
use serde_json::json;
use tests::websocket::WebSocket;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::harness::{AUTH_LINE, Changes, Gateway, PASS, check_id, check_keys, ok, typed};

const CONTEXT: [&str; 14] = [
    "routeKey",
    "authorizer",
    "eventType",
    "extendedRequestId",
    "requestTime",
    "messageDirection",
    "stage",
    "connectedAt",
    "requestTimeEpoch",
    "identity",
    "requestId",
    "domainName",
    "connectionId",
    "apiId",
];

fn context_and(more: &[&'static str]) -> Vec<&'static str> {
    CONTEXT.iter().chain(more).copied().collect()
}

#[tokio::test]
async fn connect_is_told_all_of_the_handshake() -> Result<()> {
    let mut gateway = Gateway::start().await?;
    let url = format!("{}?room=a%20b&tag=1&tag=2+3&empty=", gateway.url());
    let headers = [PASS, ("User-Agent", "a test"), ("X-Twice", "one"), ("X-Twice", "two")];
    let _socket = WebSocket::connect(&url, &headers).await?;
    let call = gateway.functions.next("connect").await;

    let event = call.event();
    check_keys(
        event,
        &[
            "headers",
            "multiValueHeaders",
            "queryStringParameters",
            "multiValueQueryStringParameters",
            "requestContext",
            "isBase64Encoded",
        ],
    );
    assert_eq!(event["isBase64Encoded"], false);
    assert_eq!(event["queryStringParameters"], json!({"room": "a b", "tag": "2 3", "empty": ""}));
    let multi = json!({"room": ["a b"], "tag": ["1", "2 3"], "empty": [""]});
    assert_eq!(event["multiValueQueryStringParameters"], multi);

    check_keys(&event["requestContext"], &CONTEXT);
    assert_eq!(call.context("routeKey"), "$connect");
    assert_eq!(call.context("eventType"), "CONNECT");
    assert_eq!(call.context("messageDirection"), "IN");
    assert_eq!(call.context("stage"), "test");
    assert_eq!(call.context("identity"), &json!({"sourceIp": "127.0.0.1", "userAgent": "a test"}));
    assert_eq!(call.context("domainName"), gateway.host());
    check_id(call.context("connectionId"));
    check_id(call.context("requestId"));
    assert_eq!(call.context("requestId"), call.context("extendedRequestId"));

    let typed: ApiGatewayWebsocketProxyRequest = typed(&call)?;
    assert_eq!(typed.request_context.event_type.as_deref(), Some("CONNECT"));
    assert_eq!(typed.query_string_parameters.first("room"), Some("a b"));
    assert_eq!(typed.headers["x-pass"], PASS.1);
    let values: Vec<_> = typed.multi_value_headers.get_all("x-twice").iter().collect();
    assert_eq!(values, ["one", "two"]);
    assert_eq!(typed.headers["x-twice"], "two", "of several values, `headers` has the last");
    Ok(())
}

#[tokio::test]
async fn times_are_now_and_written_as_aws_does() -> Result<()> {
    let mut gateway = Gateway::start().await?;
    let now_ms = || i64::try_from(time::OffsetDateTime::now_utc().unix_timestamp_nanos() / 1_000_000);
    let before = now_ms()?;
    let _socket = gateway.connect().await?;
    let after = now_ms()?;
    let call = gateway.functions.next("connect").await;
    let typed: ApiGatewayWebsocketProxyRequest = typed(&call)?;
    let context = typed.request_context;
    assert!((before..=after).contains(&context.connected_at), "{}", context.connected_at);
    assert!((before..=after).contains(&context.request_time_epoch), "{}", context.request_time_epoch);

    let format = time::macros::format_description!(
        "[day]/[month repr:short]/[year]:[hour]:[minute]:[second] [offset_hour sign:mandatory][offset_minute]"
    );
    let written = context.request_time.expect("there");
    let read = time::OffsetDateTime::parse(&written, format)?;
    assert_eq!(read.unix_timestamp(), context.request_time_epoch / 1_000, "{written}");
    assert!(written.ends_with(" +0000"), "{written}");
    Ok(())
}

#[tokio::test]
async fn without_a_query_the_keys_of_the_query_are_absent() -> Result<()> {
    let mut gateway = Gateway::start().await?;
    for url in [gateway.url().to_owned(), format!("{}?", gateway.url())] {
        let _socket = WebSocket::connect(&url, &[PASS]).await?;
        let call = gateway.functions.next("connect").await;
        check_keys(call.event(), &["headers", "multiValueHeaders", "requestContext", "isBase64Encoded"]);
        let typed: ApiGatewayWebsocketProxyRequest = typed(&call)?;
        assert!(typed.query_string_parameters.is_empty());
    }
    Ok(())
}

#[tokio::test]
async fn without_an_authorizer_or_a_user_agent_their_keys_are_absent() -> Result<()> {
    let mut gateway = Changes::default().without(AUTH_LINE).start().await?;
    let mut socket = WebSocket::connect(gateway.url(), &[]).await?;
    let connect = gateway.functions.next("connect").await;
    let bare: Vec<_> = CONTEXT.into_iter().filter(|&key| key != "authorizer").collect();
    check_keys(&connect.event()["requestContext"], &bare);
    assert_eq!(connect.context("identity"), &json!({"sourceIp": "127.0.0.1"}));

    socket.send("x").await?;
    let message = gateway.functions.next("default").await;
    check_keys(&message.event()["requestContext"], &[&bare[..], &["messageId"]].concat());
    message.answer_json(ok()).await;
    drop(socket);
    let disconnect = gateway.functions.next("disconnect").await;
    check_keys(
        &disconnect.event()["requestContext"],
        &[&bare[..], &["disconnectStatusCode", "disconnectReason"]].concat(),
    );
    Ok(())
}

#[tokio::test]
async fn header_names_arrive_as_the_client_wrote_them_with_those_of_the_gateway() -> Result<()> {
    let mut gateway = Gateway::start().await?;
    let mut socket = TcpStream::connect(gateway.host()).await?;
    let handshake = format!(
        "GET /test HTTP/1.1\r\nHost: {}\r\nConnection: Upgrade\r\nUPGRADE: websocket\r\nx-pass: yes\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\nx-MIXED-Case: 1\r\n\
         X-Forwarded-For: 198.51.100.7\r\nOrigin: http://here\r\n\r\n",
        gateway.host()
    );
    socket.write_all(handshake.as_bytes()).await?;
    let call = gateway.functions.next("connect").await;

    let headers = &call.event()["headers"];
    check_keys(
        headers,
        &[
            "Host",
            "x-pass",
            "Sec-WebSocket-Key",
            "Sec-WebSocket-Version",
            "x-MIXED-Case",
            "Origin",
            "X-Amzn-Trace-Id",
            "X-Forwarded-For",
            "X-Forwarded-Port",
            "X-Forwarded-Proto",
        ],
    );
    let names: Vec<_> = headers.as_object().expect("an object").keys().map(String::as_str).collect();
    check_keys(&call.event()["multiValueHeaders"], &names);
    assert_eq!(headers["Host"], gateway.host());
    assert_eq!(headers["X-Forwarded-For"], "198.51.100.7, 127.0.0.1");
    assert_eq!(headers["X-Forwarded-Port"], gateway.host().split(':').next_back().expect("a port"));
    assert_eq!(headers["X-Forwarded-Proto"], "http");
    let trace = headers["X-Amzn-Trace-Id"].as_str().expect("a string");
    assert!(
        trace.starts_with("Root=1-") && trace.len() == "Root=1-62153479-0123456789abcdef01234567".len(),
        "{trace}"
    );

    let mut answer = vec![0; 1024];
    let length = socket.read(&mut answer).await?;
    let answer = String::from_utf8_lossy(&answer[..length]);
    assert!(answer.starts_with("HTTP/1.1 101 "), "{answer}");
    // The value that RFC 6455 gives for this key.
    assert!(answer.contains("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="), "{answer}");
    Ok(())
}

#[tokio::test]
async fn a_frame_has_a_body_and_neither_headers_nor_query() -> Result<()> {
    let mut gateway = Gateway::start().await?;
    let url = format!("{}?room=a", gateway.url());
    let mut socket = WebSocket::connect(&url, &[PASS]).await?;
    let connect = gateway.functions.next("connect").await;
    let body = "not JSON: \"quotes\", \\ and \u{1F600} \u{0} \n";
    socket.send(body).await?;
    let call = gateway.functions.next("default").await;

    check_keys(call.event(), &["requestContext", "body", "isBase64Encoded"]);
    assert_eq!(call.event()["body"], body);
    assert_eq!(call.event()["isBase64Encoded"], false);
    check_keys(&call.event()["requestContext"], &context_and(&["messageId"]));
    assert_eq!(call.context("routeKey"), "$default");
    assert_eq!(call.context("eventType"), "MESSAGE");
    assert_eq!(call.context("messageDirection"), "IN");
    assert_eq!(call.context("requestId"), call.context("extendedRequestId"));
    check_id(call.context("requestId"));
    check_id(call.context("messageId"));
    for same in ["connectionId", "connectedAt", "identity", "domainName", "stage", "apiId", "authorizer"] {
        assert_eq!(call.context(same), connect.context(same), "{same}");
    }
    assert_ne!(call.context("requestId"), connect.context("requestId"));

    let typed: ApiGatewayWebsocketProxyRequest = typed(&call)?;
    assert_eq!(typed.body.as_deref(), Some(body));
    assert!(typed.request_context.message_id.is_some());
    assert!(typed.headers.is_empty());
    call.answer_json(ok()).await;
    Ok(())
}

#[tokio::test]
async fn every_frame_has_ids_of_its_own() -> Result<()> {
    let mut gateway = Gateway::start().await?;
    let mut socket = gateway.connect().await?;
    let mut ids = std::collections::HashSet::new();
    for _ in 0..3 {
        socket.send("x").await?;
        let call = gateway.functions.next("default").await;
        assert!(ids.insert(call.context("requestId").to_string()), "a request id twice");
        assert!(ids.insert(call.context("messageId").to_string()), "a message id twice");
        call.answer_json(ok()).await;
    }
    Ok(())
}

#[tokio::test]
async fn disconnect_is_told_the_bare_headers_the_code_and_the_reason() -> Result<()> {
    let mut gateway = Gateway::start().await?;
    let url = format!("{}?room=a", gateway.url());
    let socket = WebSocket::connect(&url, &[PASS, ("User-Agent", "a test")]).await?;
    let connect = gateway.functions.next("connect").await;
    socket.close(1000, "bye").await?;
    let call = gateway.functions.next("disconnect").await;

    check_keys(call.event(), &["headers", "multiValueHeaders", "requestContext", "isBase64Encoded"]);
    let host = gateway.host();
    let headers = json!({"Host": host, "x-api-key": "", "X-Forwarded-For": "", "x-restapi": ""});
    assert_eq!(call.event()["headers"], headers);
    let multi = json!({"Host": [host], "x-api-key": [""], "X-Forwarded-For": [""], "x-restapi": [""]});
    assert_eq!(call.event()["multiValueHeaders"], multi);
    check_keys(&call.event()["requestContext"], &context_and(&["disconnectStatusCode", "disconnectReason"]));
    assert_eq!(call.context("routeKey"), "$disconnect");
    assert_eq!(call.context("eventType"), "DISCONNECT");
    assert_eq!(call.context("messageDirection"), "IN");
    for same in ["connectionId", "connectedAt", "identity", "domainName", "stage", "apiId", "authorizer"] {
        assert_eq!(call.context(same), connect.context(same), "{same}");
    }

    let typed: ApiGatewayWebsocketProxyRequest = typed(&call)?;
    assert_eq!(typed.request_context.disconnect_status_code, Some(1000));
    assert_eq!(typed.request_context.disconnect_reason.as_deref(), Some("bye"));
    Ok(())
}
