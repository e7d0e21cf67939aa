//! `@connections`: through AWS's own SDK, and by hand where the SDK hides what goes over the wire.

use anyhow::{Context as _, Result};
use aws_sdk_apigatewaymanagement::primitives::Blob;
use reqwest::Method;
use serde_json::{Value, json};
use tests::websocket::Closed;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::harness::{Gateway, check_keys};

const KB: usize = 1024;

/// The form of a signature. The local gateway has no key to verify one with.
const SIGNATURE: &str = "AWS4-HMAC-SHA256 Credential=AKIATEST/20260101/us-east-1/execute-api/aws4_request, \
                         SignedHeaders=host;x-amz-date, \
                         Signature=0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

/// What goes over the wire.
#[derive(Debug)]
struct Wire {
    status: u16,
    error_type: Option<String>,
    body: String,
}

impl Gateway {
    async fn call(&self, method: Method, path: &str) -> Result<Wire> {
        self.call_with(method, path, Some(SIGNATURE), "hello").await
    }

    async fn call_with(
        &self,
        method: Method,
        path: &str,
        signature: Option<&str>,
        body: &str,
    ) -> Result<Wire> {
        let url = format!("http://{}{path}", self.host());
        let mut request = reqwest::Client::new().request(method.clone(), url);
        if let Some(signature) = signature {
            request = request.header("Authorization", signature);
        }
        if method == Method::POST {
            request = request.body(body.to_owned());
        }
        let response = request.send().await?;
        let error_type =
            response.headers().get("x-amzn-ErrorType").map(|value| value.to_str().map(str::to_owned));
        Ok(Wire {
            status: response.status().as_u16(),
            error_type: error_type.transpose()?,
            body: response.text().await?,
        })
    }
}

/// Runs a call of the SDK that must fail, and gives its typed error.
macro_rules! error_of {
    ($call:expr) => {
        $call.send().await.expect_err("the call must fail").into_service_error()
    };
}

#[tokio::test]
async fn a_post_reaches_the_client_as_one_text_message() -> Result<()> {
    let mut gateway = Gateway::start().await?;
    let (mut socket, id) = gateway.connect_with_id().await?;
    for text in ["hello", r#"{"type":"message"}"#, "\u{1F600}\n", ""] {
        gateway.post(&id, text).await?;
        assert_eq!(socket.next().await?, text);
    }
    let wire = gateway.call(Method::POST, &format!("/test/@connections/{id}")).await?;
    assert_eq!((wire.status, wire.error_type, wire.body.as_str()), (200, None, ""));
    assert_eq!(socket.next().await?, "hello");
    Ok(())
}

#[tokio::test]
async fn posts_to_one_connection_arrive_in_their_order() -> Result<()> {
    let mut gateway = Gateway::start().await?;
    let (mut socket, id) = gateway.connect_with_id().await?;
    for n in 0..50 {
        gateway.post(&id, n.to_string()).await?;
    }
    for n in 0..50 {
        assert_eq!(socket.next().await?, n.to_string());
    }
    Ok(())
}

#[tokio::test]
async fn a_post_reaches_its_own_connection_only() -> Result<()> {
    let mut gateway = Gateway::start().await?;
    let (mut one, one_id) = gateway.connect_with_id().await?;
    let (mut other, other_id) = gateway.connect_with_id().await?;
    gateway.post(&one_id, "for one").await?;
    gateway.post(&other_id, "for the other").await?;
    assert_eq!(one.next().await?, "for one");
    assert_eq!(other.next().await?, "for the other");
    Ok(())
}

#[tokio::test]
async fn a_post_may_have_128_kb_and_no_more() -> Result<()> {
    let mut gateway = Gateway::start().await?;
    let (mut socket, id) = gateway.connect_with_id().await?;
    let largest = "x".repeat(128 * KB);
    gateway.post(&id, largest.clone()).await?;
    assert_eq!(socket.next().await?, largest);

    let client = gateway.management();
    for size in [128 * KB + 1, 2 * KB * KB] {
        let data = Blob::new("x".repeat(size));
        let error = error_of!(client.post_to_connection().connection_id(&id).data(data));
        assert!(error.is_payload_too_large_exception(), "{error:?}");
    }
    let wire = gateway
        .call_with(
            Method::POST,
            &format!("/test/@connections/{id}"),
            Some(SIGNATURE),
            &"x".repeat(128 * KB + 1),
        )
        .await?;
    assert_eq!((wire.status, wire.error_type.as_deref()), (413, Some("PayloadTooLargeException")));
    // None of them reached the client.
    gateway.post(&id, "next").await?;
    assert_eq!(socket.next().await?, "next");
    Ok(())
}

#[tokio::test]
async fn a_get_describes_the_connection() -> Result<()> {
    let mut gateway = Gateway::start().await?;
    let headers = [crate::harness::PASS, ("User-Agent", "a test")];
    let mut socket = tests::websocket::WebSocket::connect(gateway.url(), &headers).await?;
    let call = gateway.functions.next("connect").await;
    let (id, connected_at) =
        (call.connection_id().to_owned(), call.context("connectedAt").as_i64().context("a time")?);

    let wire = gateway.call(Method::GET, &format!("/test/@connections/{id}")).await?;
    assert_eq!(wire.status, 200);
    let body: Value = serde_json::from_str(&wire.body)?;
    check_keys(&body, &["connectedAt", "identity", "lastActiveAt"]);
    assert_eq!(body["identity"], json!({"sourceIp": "127.0.0.1", "userAgent": "a test"}));
    let written = body["connectedAt"].as_str().context("a string")?;
    assert!(written.ends_with('Z'), "{written}");
    let read = OffsetDateTime::parse(written, &Rfc3339)?;
    assert_eq!(read.unix_timestamp_nanos() / 1_000_000, i128::from(connected_at));

    let described = gateway.management().get_connection().connection_id(&id).send().await?;
    assert_eq!(described.connected_at().context("there")?.to_millis()?, connected_at);
    let identity = described.identity().context("there")?;
    assert_eq!(identity.source_ip(), Some("127.0.0.1"));
    assert_eq!(identity.user_agent(), Some("a test"));
    let before = described.last_active_at().context("there")?.to_millis()?;
    assert!(before >= connected_at);

    // What is sent to it is activity of the connection.
    let mut after = before;
    while after == before {
        gateway.post(&id, "are you there?").await?;
        socket.next().await?;
        let described = gateway.management().get_connection().connection_id(&id).send().await?;
        after = described.last_active_at().context("there")?.to_millis()?;
    }
    assert!(after > before);
    Ok(())
}

#[tokio::test]
async fn a_delete_ends_the_connection_for_everybody() -> Result<()> {
    let mut gateway = Gateway::start().await?;
    let (mut socket, id) = gateway.connect_with_id().await?;
    let path = format!("/test/@connections/{id}");
    gateway.post(&id, "a last word").await?;
    let wire = gateway.call(Method::DELETE, &path).await?;
    assert_eq!((wire.status, wire.body.as_str()), (204, ""));

    // From here on it is gone, whether the client has noticed or not.
    let client = gateway.management();
    let error = error_of!(client.post_to_connection().connection_id(&id).data(Blob::new("late")));
    assert!(error.is_gone_exception(), "{error:?}");
    assert!(error_of!(client.get_connection().connection_id(&id)).is_gone_exception());
    assert!(error_of!(client.delete_connection().connection_id(&id)).is_gone_exception());

    assert_eq!(socket.next().await?, "a last word");
    let closed = socket.closed().await?;
    assert!(matches!(closed, Closed::With(1000, _)), "{closed:?}");
    Ok(())
}

#[tokio::test]
async fn a_connection_that_is_not_there_is_gone_by_header_and_without_a_body() -> Result<()> {
    let mut gateway = Gateway::start().await?;
    let (socket, ended) = gateway.connect_with_id().await?;
    socket.close(1000, "").await?;
    gateway.functions.next("disconnect").await;
    for id in [ended.as_str(), "TWegAcC4EowCHnA=", "Jx-TaE0_GjQFvSw="] {
        for method in [Method::POST, Method::GET, Method::DELETE] {
            let wire = gateway.call(method.clone(), &format!("/test/@connections/{id}")).await?;
            let seen = (wire.status, wire.error_type.as_deref(), wire.body.as_str());
            assert_eq!(seen, (410, Some("GoneException"), ""), "{method} {id}");
        }
        let client = gateway.management();
        let error = error_of!(client.post_to_connection().connection_id(id).data(Blob::new("x")));
        assert!(error.is_gone_exception(), "{error:?}");
    }
    Ok(())
}

#[tokio::test]
async fn the_path_may_be_written_with_percent_signs() -> Result<()> {
    let mut gateway = Gateway::start().await?;
    let (mut socket, id) = gateway.connect_with_id().await?;
    let encoded = id.replace('=', "%3D");
    for path in [
        format!("/test/@connections/{id}"),
        format!("/test/@connections/{encoded}"),
        format!("/test/%40connections/{id}"),
        format!("/test/%40connections/{encoded}"),
        format!("/test/%40connections/{}", id.replace('=', "%3d")),
    ] {
        let wire = gateway.call(Method::POST, &path).await?;
        assert_eq!(wire.status, 200, "{path}");
        assert_eq!(socket.next().await?, "hello", "{path}");
    }
    Ok(())
}

#[tokio::test]
async fn a_malformed_id_is_a_400_that_names_it() -> Result<()> {
    let gateway = Gateway::start().await?;
    for id in ["nope", "TWegAcC4EowCHnA", "TWegAcC4EowCHnA==", "TWegAcC4EowC%2BnA="] {
        for method in [Method::POST, Method::GET, Method::DELETE] {
            let wire = gateway.call(method, &format!("/test/@connections/{id}")).await?;
            assert_eq!(wire.status, 400, "{id}");
            let body: Value = serde_json::from_str(&wire.body)?;
            assert_eq!(body["message"], format!("Invalid connectionId: {}", id.replace("%2B", "+")));
        }
    }
    Ok(())
}

#[tokio::test]
async fn another_stage_is_forbidden() -> Result<()> {
    let mut gateway = Gateway::start().await?;
    let (_socket, id) = gateway.connect_with_id().await?;
    let wire = gateway.call(Method::POST, &format!("/other/@connections/{id}")).await?;
    assert_eq!((wire.status, wire.error_type.as_deref()), (403, Some("ForbiddenException")));
    assert_eq!(serde_json::from_str::<Value>(&wire.body)?, json!({"message": "Forbidden"}));

    let client = gateway.management_at(&format!("http://{}/other", gateway.host()));
    let error = error_of!(client.post_to_connection().connection_id(&id).data(Blob::new("x")));
    assert!(error.is_forbidden_exception(), "{error:?}");
    assert!(error_of!(client.get_connection().connection_id(&id)).is_forbidden_exception());
    assert!(error_of!(client.delete_connection().connection_id(&id)).is_forbidden_exception());
    Ok(())
}

#[tokio::test]
async fn a_call_that_is_not_signed_is_refused() -> Result<()> {
    let mut gateway = Gateway::start().await?;
    let (mut socket, id) = gateway.connect_with_id().await?;
    let path = format!("/test/@connections/{id}");
    for method in [Method::POST, Method::GET, Method::DELETE] {
        let wire = gateway.call_with(method.clone(), &path, None, "").await?;
        assert_eq!(wire.status, 403, "{method}");
        let body: Value = serde_json::from_str(&wire.body)?;
        assert_eq!(body, json!({"message": "Missing Authentication Token"}), "{method}");
        for other in ["Bearer token", &SIGNATURE.replace("execute-api", "s3")] {
            let wire = gateway.call_with(method.clone(), &path, Some(other), "").await?;
            assert_eq!(wire.status, 403, "{method} {other}");
        }
    }
    gateway.post(&id, "still here").await?;
    assert_eq!(socket.next().await?, "still here");
    Ok(())
}
