//! `@connections`: what functions use to reach a client, with AWS's statuses, so that its SDKs see typed
//! errors.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use serde::Serialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio_tungstenite::tungstenite::Utf8Bytes;

use crate::access_log::{Access, Api};
use crate::faults::hits;
use crate::ids::Id;
use crate::server::{BodyError, read_body};
use crate::websocket_api::Gateway;
use crate::websocket_api::connections::{Connection, PushError};

/// Answers `POST`, `GET` or `DELETE /{stage}/@connections/{id}`.
pub(crate) async fn answer(
    gateway: &Arc<Gateway>,
    peer: SocketAddr,
    right_stage: bool,
    id: &str,
    request: Request<Incoming>,
) -> Response<Full<Bytes>> {
    let started = Instant::now();
    let request_id = Id::new();
    let method = request.method().clone();
    let outcome = match checked(right_stage, id, &request) {
        Ok(id) => act(gateway, id, request).await,
        Err(refusal) => Err(refusal),
    };
    let mut response = outcome.unwrap_or_else(|refusal| refusal.response());
    let request_id_value = HeaderValue::from_str(request_id.as_str()).expect("ids are visible ASCII");
    response.headers_mut().insert("x-amzn-requestid", request_id_value);
    gateway.log.write(&Access {
        api: Api::Management,
        route: route(&method),
        status: response.status().as_u16(),
        duration: started.elapsed(),
        request_id: request_id.as_str(),
        connection_id: Id::parse(id).as_ref().map(Id::as_str),
        function: None,
        source_ip: Some(peer.ip()),
        error: None,
    });
    response
}

/// The route in the log. It is written for every push, so that it is not put together each time.
fn route(method: &Method) -> &'static str {
    match *method {
        Method::POST => "POST /@connections/{id}",
        Method::GET => "GET /@connections/{id}",
        Method::DELETE => "DELETE /@connections/{id}",
        _ => "/@connections/{id}",
    }
}

/// Why a call is refused, as the SDKs know it.
#[derive(Debug, PartialEq, Eq)]
enum Refusal {
    MissingSignature,
    MalformedSignature,
    WrongStage,
    UnknownMethod,
    InvalidId(String),
    Gone,
    TooLarge,
    /// The body did not come whole.
    Incomplete,
    LimitExceeded,
    /// A status that a fault asks for.
    Fault(StatusCode),
}

impl Refusal {
    fn response(self) -> Response<Full<Bytes>> {
        let (status, error_type, message) = match self {
            Self::MissingSignature => (
                StatusCode::FORBIDDEN,
                "MissingAuthenticationTokenException",
                "Missing Authentication Token".into(),
            ),
            Self::MalformedSignature => {
                let message =
                    "Authorization header requires 'Credential', 'SignedHeaders' and 'Signature' parameters.";
                (StatusCode::FORBIDDEN, "IncompleteSignatureException", message.into())
            }
            Self::WrongStage | Self::UnknownMethod => {
                (StatusCode::FORBIDDEN, "ForbiddenException", "Forbidden".into())
            }
            Self::InvalidId(id) => {
                (StatusCode::BAD_REQUEST, "BadRequestException", format!("Invalid connectionId: {id}"))
            }
            // The SDKs know it by the header alone: AWS sends no body.
            Self::Gone => (StatusCode::GONE, "GoneException", String::new()),
            Self::TooLarge => {
                (StatusCode::PAYLOAD_TOO_LARGE, "PayloadTooLargeException", "Message too long".into())
            }
            Self::Incomplete => {
                (StatusCode::REQUEST_TIMEOUT, "RequestTimeoutException", "Request timed out".into())
            }
            Self::LimitExceeded => {
                (StatusCode::TOO_MANY_REQUESTS, "LimitExceededException", "Too many requests".into())
            }
            Self::Fault(StatusCode::GONE) => return Self::Gone.response(),
            Self::Fault(StatusCode::PAYLOAD_TOO_LARGE) => return Self::TooLarge.response(),
            Self::Fault(StatusCode::TOO_MANY_REQUESTS) => return Self::LimitExceeded.response(),
            Self::Fault(StatusCode::FORBIDDEN) => return Self::WrongStage.response(),
            Self::Fault(status) => (status, "InternalServerErrorException", "Internal server error".into()),
        };
        let body = if message.is_empty() { Vec::new() } else { to_json(&Message { message }) };
        let mut response = Response::new(Full::from(body));
        *response.status_mut() = status;
        response.headers_mut().insert("x-amzn-errortype", HeaderValue::from_static(error_type));
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        response
    }
}

#[derive(Serialize)]
struct Message {
    message: String,
}

/// What can be refused without looking at the connection.
fn checked(right_stage: bool, id: &str, request: &Request<Incoming>) -> Result<Id, Refusal> {
    let authorization = request.headers().get(header::AUTHORIZATION).ok_or(Refusal::MissingSignature)?;
    if !authorization.to_str().is_ok_and(is_signature) {
        return Err(Refusal::MalformedSignature);
    }
    if !right_stage {
        return Err(Refusal::WrongStage);
    }
    if ![Method::POST, Method::GET, Method::DELETE].contains(request.method()) {
        return Err(Refusal::UnknownMethod);
    }
    Id::parse(id).ok_or_else(|| Refusal::InvalidId(id.to_owned()))
}

/// Whether a header has the form of a signature (SigV4) for `execute-api`. A client that forgot to sign, or
/// signs for another service, is found here and not first on AWS. The signature itself is not verified: there
/// are no keys on this machine that it could be verified with.
fn is_signature(authorization: &str) -> bool {
    let Some(parameters) = authorization.strip_prefix("AWS4-HMAC-SHA256 ") else { return false };
    let parameter = |name: &str| {
        parameters.split(',').find_map(|parameter| parameter.trim().strip_prefix(name)?.strip_prefix('='))
    };
    let scope = parameter("Credential").map(|credential| credential.split('/').rev().collect::<Vec<_>>());
    let scoped = matches!(
        scope.as_deref(),
        Some(["aws4_request", "execute-api", region, date, _, ..]) if !region.is_empty() && date.len() == 8
    );
    let signed_headers =
        parameter("SignedHeaders").is_some_and(|names| names.split(';').any(|name| name == "host"));
    let signature = parameter("Signature").is_some_and(|signature| {
        signature.len() == 64 && signature.bytes().all(|byte| byte.is_ascii_hexdigit())
    });
    scoped && signed_headers && signature
}

async fn act(
    gateway: &Gateway,
    id: Id,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Refusal> {
    let method = request.method().clone();
    // Read whatever comes of it: a body that is left unread ends the caller's connection.
    let body = read_body(request.into_body(), gateway.limits.message_bytes).await;
    let silent = fault(gateway).await?;
    let connection = gateway.connections.get(id).ok_or(Refusal::Gone)?;
    if method == Method::DELETE {
        gateway.connections.remove(id);
        connection.close.cancel();
        return Ok(empty(StatusCode::NO_CONTENT));
    }
    if method == Method::GET {
        return Ok(describe(&connection));
    }
    let text = body.map(text).map_err(|why| match why {
        BodyError::TooLarge => Refusal::TooLarge,
        BodyError::Broken => Refusal::Incomplete,
    })?;
    if silent {
        return Ok(empty(StatusCode::OK));
    }
    match connection.push(text) {
        Ok(()) => Ok(empty(StatusCode::OK)),
        Err(PushError::Full) => Err(Refusal::LimitExceeded),
        Err(PushError::Gone) => Err(Refusal::Gone),
    }
}

/// The faults that are on: waits, refuses, or tells that the client is to get nothing.
async fn fault(gateway: &Gateway) -> Result<bool, Refusal> {
    let faults = gateway.faults.current();
    let Some(fault) = faults.as_ref().and_then(|faults| faults.management.as_ref()) else { return Ok(false) };
    if fault.delay_ms > 0 {
        tokio::time::sleep(Duration::from_millis(fault.delay_ms)).await;
    }
    let status =
        fault.status.filter(|_| hits(fault.share)).and_then(|status| StatusCode::from_u16(status).ok());
    match status {
        Some(status) => Err(Refusal::Fault(status)),
        None => Ok(hits(fault.silent_share)),
    }
}

fn empty(status: StatusCode) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::default());
    *response.status_mut() = status;
    response
}

fn describe(connection: &Connection) -> Response<Full<Bytes>> {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Description<T> {
        connected_at: String,
        identity: T,
        last_active_at: String,
    }
    let body = to_json(&Description {
        connected_at: timestamp(connection.connected_at()),
        identity: connection.identity(),
        last_active_at: timestamp(connection.last_active_at()),
    });
    let mut response = Response::new(Full::from(body));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

fn timestamp(time: OffsetDateTime) -> String {
    let milliseconds = time.replace_millisecond(time.millisecond()).expect("a time has its own milliseconds");
    milliseconds.format(&Rfc3339).expect("a date of these centuries")
}

fn to_json(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).expect("strings are JSON")
}

/// A text frame must be UTF-8, so what is not is replaced.
fn text(bytes: Bytes) -> Utf8Bytes {
    match Utf8Bytes::try_from(bytes.clone()) {
        Ok(text) => text,
        Err(_) => String::from_utf8_lossy(&bytes).into_owned().into(),
    }
}

#[cfg(test)]
mod tests {
    use time::macros::datetime;

    use super::*;

    const SIGNATURE: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    #[track_caller]
    fn check(authorization: &str, expected: bool) {
        assert_eq!(
            is_signature(&authorization.replace("<signature>", SIGNATURE)),
            expected,
            "{authorization}"
        );
    }

    #[test]
    fn a_signature_is_known_by_its_form() {
        check(
            "AWS4-HMAC-SHA256 Credential=AKID/20260101/us-east-1/execute-api/aws4_request, \
             SignedHeaders=host;x-amz-date, Signature=<signature>",
            true,
        );
        check(
            "AWS4-HMAC-SHA256 Credential=with/slash/20260101/us-east-1/execute-api/aws4_request,\
             SignedHeaders=host,Signature=<signature>",
            true,
        );
    }

    #[test]
    fn what_has_not_the_form_of_a_signature_is_none() {
        for bad in [
            "",
            "Bearer abc",
            "AWS4-HMAC-SHA256",
            "AWS4-HMAC-SHA256 Credential=AKID/20260101/us-east-1/s3/aws4_request, SignedHeaders=host, Signature=<signature>",
            "AWS4-HMAC-SHA256 Credential=AKID/20260101//execute-api/aws4_request, SignedHeaders=host, Signature=<signature>",
            "AWS4-HMAC-SHA256 Credential=20260101/us-east-1/execute-api/aws4_request, SignedHeaders=host, Signature=<signature>",
            "AWS4-HMAC-SHA256 Credential=AKID/20260101/us-east-1/execute-api/aws4_request, SignedHeaders=x-amz-date, Signature=<signature>",
            "AWS4-HMAC-SHA256 Credential=AKID/20260101/us-east-1/execute-api/aws4_request, SignedHeaders=host, Signature=abc",
            "AWS4-HMAC-SHA256 SignedHeaders=host, Signature=<signature>",
        ] {
            check(bad, false);
        }
    }

    #[test]
    fn a_text_is_not_copied() {
        let body = Bytes::from(vec![b'a'; 10]);
        let address = body.as_ptr();
        assert_eq!(text(body).as_str().as_ptr(), address);
    }

    #[test]
    fn what_is_no_utf8_is_replaced() {
        assert_eq!(text(Bytes::from_static(b"a\xffb")).as_str(), "a\u{fffd}b");
    }

    #[test]
    fn times_are_rfc_3339_in_utc() {
        assert_eq!(timestamp(datetime!(2022-02-22 19:07:37.902_123 UTC)), "2022-02-22T19:07:37.902Z");
    }
}
