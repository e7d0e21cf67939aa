//! The control API, for tests and for people who look under the hood: faults, instances, and Lambda's Invoke API.
//!
//! It listens on the loopback only and refuses what a browser sends, so that no web page can reach it.
//!
//! | call | does |
//! |---|---|
//! | `PUT /faults` | replaces the faults by the body, see [`FaultSet`]; `{}` clears them |
//! | `GET /faults` | the faults that are on |
//! | `GET /functions` | every process: function, pid, state, init time, number of calls |
//! | `POST /2015-03-31/functions/{name}/invocations` | Lambda's Invoke API; `X-Amz-Invocation-Type: Event` answers at once |

use std::convert::Infallible;
use std::net::SocketAddr;
use std::time::Instant;

use bytes::Bytes;
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use percent_encoding::percent_decode_str;
use serde::Serialize;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::access_log::{Access, AccessLog, Api};
use crate::faults::{FaultSet, Faults};
use crate::lambda::{Invocation, InvokeError, Lambda, MAX_PAYLOAD_BYTES};
use crate::local_values::{function_arn, function_of_arn};
use crate::server::{self, BodyError, read_body};

/// Serves the control API.
#[derive(Clone, Debug)]
pub struct Control {
    lambda: Lambda,
    faults: Faults,
    log: AccessLog,
}

type Answer = Response<Full<Bytes>>;

impl Control {
    /// A control API over these functions and faults.
    pub fn new(lambda: Lambda, faults: Faults, log: AccessLog) -> Self {
        Self { lambda, faults, log }
    }

    /// Takes connections until `shutdown`.
    pub async fn serve(self, listener: TcpListener, shutdown: CancellationToken) {
        server::serve(listener, shutdown, move |request, peer| {
            let control = self.clone();
            async move { Ok::<_, Infallible>(control.answer(request, peer).await) }
        })
        .await;
    }

    async fn answer(&self, request: Request<Incoming>, peer: SocketAddr) -> Answer {
        if !is_from_a_program(request.headers()) {
            return error(
                StatusCode::FORBIDDEN,
                "this API is for programs on this machine, not for web pages",
            );
        }
        let (parts, body) = request.into_parts();
        let body = match read_body(body, MAX_PAYLOAD_BYTES).await {
            Ok(body) => body,
            Err(BodyError::TooLarge) => {
                let message = format!(
                    "Request must be smaller than {MAX_PAYLOAD_BYTES} bytes for the InvokeFunction operation"
                );
                return exception(StatusCode::PAYLOAD_TOO_LARGE, "RequestTooLargeException", &message);
            }
            Err(BodyError::Broken) => {
                return error(StatusCode::REQUEST_TIMEOUT, "the body did not come whole");
            }
        };
        let steps: Vec<&str> = parts.uri.path().split('/').skip(1).collect();
        match (&parts.method, steps.as_slice()) {
            (&Method::GET, ["functions"]) => json(StatusCode::OK, &self.lambda.instances()),
            (&Method::GET, ["faults"]) => json(
                StatusCode::OK,
                &self.faults.current().map(|faults| (*faults).clone()).unwrap_or_default(),
            ),
            (&Method::PUT, ["faults"]) => match serde_json::from_slice::<FaultSet>(&body) {
                Ok(faults) => {
                    self.faults.set(faults.clone());
                    json(StatusCode::OK, &faults)
                }
                Err(why) => error(StatusCode::BAD_REQUEST, &why.to_string()),
            },
            (&Method::POST, ["2015-03-31", "functions", function, "invocations"]) => {
                let begin = Instant::now();
                let function = function_name(function);
                let (answer, request_id) = self.invoke(&function, &parts, body).await;
                self.log.write(&Access {
                    api: Api::Lambda,
                    route: "POST /2015-03-31/functions/{function}/invocations",
                    status: answer.status().as_u16(),
                    duration: begin.elapsed(),
                    request_id: &request_id,
                    connection_id: None,
                    function: Some(&function),
                    source_ip: Some(peer.ip()),
                    error: answer.headers().get("x-amz-function-error").and_then(|value| value.to_str().ok()),
                });
                answer
            }
            _ => error(StatusCode::NOT_FOUND, "there is no such call"),
        }
    }

    /// The Invoke API's answer, and Lambda's id of the call.
    async fn invoke(&self, function: &str, parts: &Parts, body: Bytes) -> (Answer, String) {
        let no_id = |answer| (answer, "-".to_owned());
        // A call without a payload gives the function an empty object.
        let payload = if body.is_empty() { Bytes::from_static(b"{}") } else { body };
        if serde_json::from_slice::<serde::de::IgnoredAny>(&payload).is_err() {
            let message = "Could not parse request body into json";
            return no_id(exception(StatusCode::BAD_REQUEST, "InvalidRequestContentException", message));
        }
        let kind =
            parts.headers.get("x-amz-invocation-type").map_or(&b"RequestResponse"[..], HeaderValue::as_bytes);
        match kind {
            b"RequestResponse" => {}
            b"DryRun" => return no_id(empty(StatusCode::NO_CONTENT)),
            // Once, where Lambda would try a failed call again twice in the next minutes.
            b"Event" => {
                let (lambda, function) = (self.lambda.clone(), function.to_owned());
                tokio::spawn(async move {
                    if let Err(why) = lambda.invoke(&function, payload).await {
                        tracing::warn!(function, "an event was lost: {why}");
                    }
                });
                return no_id(empty(StatusCode::ACCEPTED));
            }
            _ => {
                let message = "X-Amz-Invocation-Type is none of RequestResponse, Event, DryRun";
                return no_id(exception(StatusCode::BAD_REQUEST, "InvalidParameterValueException", message));
            }
        }
        match self.lambda.invoke(function, payload).await {
            Ok(invocation) => {
                let request_id = invocation.request_id.clone();
                (answered(invocation), request_id)
            }
            Err(why) => no_id(refused(function, &why)),
        }
    }
}

/// Whether this is no request of a web page, be it by script or by a host name that leads here.
fn is_from_a_program(headers: &HeaderMap) -> bool {
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    let name = host.rsplit_once(':').map_or(host, |(name, _)| name);
    !headers.contains_key(header::ORIGIN) && matches!(name, "127.0.0.1" | "localhost" | "[::1]")
}

/// The function in an Invoke URL: its name or its ARN, with or without a qualifier.
fn function_name(step: &str) -> String {
    let decoded = percent_decode_str(step).decode_utf8_lossy();
    let name = function_of_arn(&decoded).or_else(|| decoded.split(':').next());
    name.unwrap_or_default().to_owned()
}

fn answered(invocation: Invocation) -> Answer {
    let mut answer = Response::new(Full::from(invocation.payload));
    let headers = answer.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert("x-amz-executed-version", HeaderValue::from_static("$LATEST"));
    let mut insert = |name: &'static str, value: &str| {
        if let Ok(value) = HeaderValue::from_str(value) {
            headers.insert(name, value);
        }
    };
    insert("x-amzn-requestid", &invocation.request_id);
    if let Some(error) = &invocation.function_error {
        insert("x-amz-function-error", error);
    }
    answer
}

fn refused(function: &str, why: &InvokeError) -> Answer {
    let (status, kind, message) = match why {
        InvokeError::NotFound(_) => {
            let message = format!("Function not found: {}", function_arn(function));
            (StatusCode::NOT_FOUND, "ResourceNotFoundException", message)
        }
        InvokeError::Throttled => {
            (StatusCode::TOO_MANY_REQUESTS, "TooManyRequestsException", "Rate Exceeded.".to_owned())
        }
        InvokeError::TooLarge(_) => {
            (StatusCode::PAYLOAD_TOO_LARGE, "RequestTooLargeException", why.to_string())
        }
        InvokeError::Unreachable(cause) => {
            (StatusCode::BAD_GATEWAY, "ServiceException", format!("{why}: {cause:#}"))
        }
    };
    exception(status, kind, &message)
}

fn exception(status: StatusCode, kind: &'static str, message: &str) -> Answer {
    let mut answer = json(status, &json!({ "Type": "User", "Message": message }));
    answer.headers_mut().insert("x-amzn-errortype", HeaderValue::from_static(kind));
    answer
}

fn error(status: StatusCode, message: &str) -> Answer {
    json(status, &Value::from_iter([("message", message)]))
}

fn empty(status: StatusCode) -> Answer {
    let mut answer = Response::new(Full::default());
    *answer.status_mut() = status;
    answer
}

fn json(status: StatusCode, body: &impl Serialize) -> Answer {
    Response::builder()
        .status(status)
        .header(header::CONTENT_TYPE, "application/json")
        .body(Full::from(serde_json::to_vec(body).expect("what this API says is JSON")))
        .expect("a status and a plain header make a response")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(headers: &[(&'static str, &'static str)]) -> HeaderMap {
        headers
            .iter()
            .map(|(name, value)| (name.parse().expect("a name"), HeaderValue::from_static(value)))
            .collect()
    }

    #[test]
    fn a_web_page_reaches_nothing() {
        assert!(is_from_a_program(&headers(&[("host", "127.0.0.1:4000")])));
        assert!(is_from_a_program(&headers(&[("host", "localhost")])));
        assert!(!is_from_a_program(&headers(&[
            ("host", "127.0.0.1:4000"),
            ("origin", "https://evil.example")
        ])));
        assert!(!is_from_a_program(&headers(&[("host", "rebound.evil.example:4000")])));
        assert!(!is_from_a_program(&HeaderMap::new()));
    }

    #[test]
    fn a_function_is_named_as_lambda_lets_it_be_named() {
        for step in [
            "rooms",
            "rooms:$LATEST",
            "arn:aws:lambda:us-east-1:1:function:rooms",
            "arn%3Aaws%3Alambda%3Aus-east-1%3A1%3Afunction%3Arooms",
        ] {
            assert_eq!(function_name(step), "rooms", "{step}");
        }
    }
}
