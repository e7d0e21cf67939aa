//! The handshake: authorizer, `$connect`, and then the answer that the two of them make.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, Version, header};
use http_body_util::Full;
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use serde_json::value::RawValue;
use time::OffsetDateTime;
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::time::timeout;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};

use super::authorizer::{self, Refusal};
use super::connections::Connection;
use super::events::{self, Caller, Request};
use super::request_head::{HeadRecorder, Spellings};
use super::routing::CONNECT;
use super::socket::{self, End};
use super::{Called, Gateway};
use crate::access_log::{Access, Api};
use crate::ids::Id;
use crate::template::{Authorizer, Route};

/// What is read from a socket at once, and what is kept for every open connection.
const READ_BUFFER_BYTES: usize = 8 * 1024;

/// Answers a handshake. If the client leaves meanwhile, authorizer and `$connect` run to their end all the
/// same, and a connection that they opened is told to `$disconnect`.
pub(super) async fn respond(
    gateway: &Arc<Gateway>,
    peer: SocketAddr,
    spellings: &Spellings,
    request: &mut http::Request<hyper::body::Incoming>,
) -> Response<Full<Bytes>> {
    let accept = match accept_key(request) {
        Ok(accept) => accept,
        Err(status) => return refuse_request(gateway, request, peer, status),
    };
    let caller = caller(request.headers(), peer, gateway.port);
    let query = request.uri().query();
    let opening = Opening {
        request: Request::new(request.headers(), query, spellings, &caller, gateway.port),
        caller,
        request_id: Id::new(),
        started: Instant::now(),
        gateway: Arc::clone(gateway),
    };
    let (answer, answered) = oneshot::channel();
    gateway.tasks.spawn(opening.run(accept, hyper::upgrade::on(request), answer));
    answered
        .await
        .unwrap_or_else(|_| json(StatusCode::INTERNAL_SERVER_ERROR, r#"{"message":"Internal server error"}"#))
}

/// The value of `Sec-WebSocket-Accept`, if this is a handshake by RFC 6455, section 4.2.1.
fn accept_key(request: &http::Request<hyper::body::Incoming>) -> Result<HeaderValue, StatusCode> {
    let headers = request.headers();
    let has = |name, token: &str| {
        let values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
        values.flat_map(|value| value.split(',')).any(|value| value.trim().eq_ignore_ascii_case(token))
    };
    if !has(header::UPGRADE, "websocket") || !has(header::CONNECTION, "upgrade") {
        return Err(StatusCode::UPGRADE_REQUIRED);
    }
    let key = headers.get(header::SEC_WEBSOCKET_KEY).ok_or(StatusCode::BAD_REQUEST)?;
    let version = has(header::SEC_WEBSOCKET_VERSION, "13") && request.version() == Version::HTTP_11;
    if !version || request.method() != Method::GET {
        return Err(StatusCode::BAD_REQUEST);
    }
    HeaderValue::from_str(&derive_accept_key(key.as_bytes())).map_err(|_| StatusCode::BAD_REQUEST)
}

fn refuse_request(
    gateway: &Gateway,
    request: &http::Request<hyper::body::Incoming>,
    peer: SocketAddr,
    status: StatusCode,
) -> Response<Full<Bytes>> {
    gateway.log.write(&Access {
        api: Api::Websocket,
        route: &format!("{} {}", request.method(), request.uri().path()),
        status: status.as_u16(),
        duration: Duration::ZERO,
        request_id: Id::new().as_str(),
        connection_id: None,
        function: None,
        source_ip: Some(peer.ip()),
        error: Some("no WebSocket handshake"),
    });
    let message = status.canonical_reason().unwrap_or_default();
    json(status, &format!(r#"{{"message":"{message}"}}"#))
}

fn caller(headers: &HeaderMap, peer: SocketAddr, port: u16) -> Caller {
    let text = |name| headers.get(name).map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
    Caller {
        connection_id: Id::new(),
        connected_at: OffsetDateTime::now_utc(),
        source_ip: peer.ip(),
        user_agent: text(header::USER_AGENT),
        domain_name: text(header::HOST).unwrap_or_else(|| format!("127.0.0.1:{port}")),
    }
}

/// A handshake under way.
struct Opening {
    gateway: Arc<Gateway>,
    caller: Caller,
    request: Request,
    request_id: Id,
    started: Instant,
}

/// Who had the last word on a handshake.
enum Judge {
    Gateway,
    Authorizer,
    Connect,
}

/// What authorizer and `$connect` make of a handshake.
enum Verdict {
    Open {
        authorizer: Option<Box<RawValue>>,
        protocol: Option<HeaderValue>,
    },
    /// `$connect` said no: its status alone.
    Status(StatusCode),
    /// The gateway says no.
    Error {
        status: StatusCode,
        message: &'static str,
        cause: Option<String>,
    },
}

impl Opening {
    async fn run(
        self,
        accept: HeaderValue,
        upgrade: OnUpgrade,
        answer: oneshot::Sender<Response<Full<Bytes>>>,
    ) {
        let (judge, verdict) = self.judge().await;
        let mut response = self.response(&verdict, accept);
        self.log(&judge, &verdict);
        let Verdict::Open { authorizer, protocol } = verdict else {
            // If the client has left, nobody is there to be refused.
            let _ = answer.send(response);
            return;
        };
        if let Some(protocol) = protocol {
            response.headers_mut().insert(header::SEC_WEBSOCKET_PROTOCOL, protocol);
        }
        let gateway = self.gateway;
        let (connection, outbound) = Connection::new(self.caller, authorizer, gateway.closing.child_token());
        // Known before the 101 is on its way: whoever hears of the connection by then may post to it.
        gateway.connections.insert(Arc::clone(&connection));
        let _ = answer.send(response);
        match upgrade.await {
            Ok(upgraded) => {
                let stream = websocket(upgraded, &gateway).await;
                socket::run(gateway, connection, outbound, stream).await;
            }
            // The client left while `$connect` was running.
            Err(_) => gateway.ended(&connection, &End::Lost),
        }
    }

    async fn judge(&self) -> (Judge, Verdict) {
        let gateway = &self.gateway;
        if gateway.closing.is_cancelled() {
            return (
                Judge::Gateway,
                error(StatusCode::SERVICE_UNAVAILABLE, "Service Unavailable", "shutting down"),
            );
        }
        let authorizer = match &gateway.api.authorizer {
            Some(authorizer) if !authorizer::has_identity(authorizer, &self.request) => {
                return (Judge::Gateway, refusal(Refusal::Unauthorized));
            }
            Some(authorizer) => match self.authorize(authorizer).await {
                Ok(identity) => Some(identity),
                Err(why) => return (Judge::Authorizer, refusal(why)),
            },
            None => None,
        };
        match gateway.api.routes.get(CONNECT) {
            Some(route) => (Judge::Connect, self.connect(route, authorizer).await),
            None => (Judge::Gateway, Verdict::Open { authorizer, protocol: None }),
        }
    }

    async fn authorize(&self, authorizer: &Authorizer) -> Result<Box<RawValue>, Refusal> {
        let names = &self.gateway.names;
        let event = events::authorize(names, &self.caller, &self.request, self.request_id);
        let asked_at = Instant::now();
        let lambda = &self.gateway.lambda;
        let patience = lambda.patience(&authorizer.function, self.gateway.limits.authorizer);
        let Ok(invoked) = timeout(patience, lambda.invoke(&authorizer.function, event)).await else {
            return Err(Refusal::Failed("the authorizer timed out"));
        };
        match invoked {
            Err(_) => Err(Refusal::Failed("the authorizer cannot be invoked")),
            Ok(thrown) if thrown.function_error.is_some() => {
                Err(authorizer::refusal_of_error(&thrown.payload))
            }
            Ok(answered) => authorizer::identity(&answered.payload, &events::method_arn(names), asked_at),
        }
    }

    async fn connect(&self, route: &Route, authorizer: Option<Box<RawValue>>) -> Verdict {
        let names = &self.gateway.names;
        let event =
            events::connect(names, &self.caller, authorizer.as_deref(), &self.request, self.request_id);
        let called = self.gateway.call(route, event).await;
        let cause = called.cause().map(str::to_owned);
        let (status, message) = match called {
            Called::Answered(answer) if answer.status.is_success() => {
                return Verdict::Open { authorizer, protocol: answer.protocol };
            }
            Called::Answered(answer) => return Verdict::Status(answer.status),
            Called::Failed(_) | Called::Malformed => (StatusCode::BAD_GATEWAY, "Internal server error"),
            Called::NotInvoked(_) => (StatusCode::INTERNAL_SERVER_ERROR, "Internal server error"),
            Called::TimedOut => (StatusCode::GATEWAY_TIMEOUT, "Endpoint request timed out"),
        };
        Verdict::Error { status, message, cause }
    }

    fn response(&self, verdict: &Verdict, accept: HeaderValue) -> Response<Full<Bytes>> {
        match verdict {
            Verdict::Open { .. } => {
                let mut response = Response::new(Full::default());
                *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
                let headers = response.headers_mut();
                headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
                headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
                headers.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
                response
            }
            Verdict::Status(status) => {
                let mut response = Response::new(Full::default());
                *response.status_mut() = *status;
                response
            }
            Verdict::Error { status, message, .. } => {
                json(*status, &events::gateway_error(message, self.caller.connection_id, self.request_id))
            }
        }
    }

    fn log(&self, judge: &Judge, verdict: &Verdict) {
        let (status, error) = match verdict {
            Verdict::Open { .. } => (StatusCode::SWITCHING_PROTOCOLS, None),
            Verdict::Status(status) => (*status, None),
            Verdict::Error { status, cause, .. } => (*status, cause.as_deref()),
        };
        let api = &self.gateway.api;
        let function = match judge {
            Judge::Gateway => None,
            Judge::Authorizer => api.authorizer.as_ref().map(|authorizer| &authorizer.function),
            Judge::Connect => api.routes.get(CONNECT).map(|route| &route.function),
        };
        self.gateway.log.write(&Access {
            api: Api::Websocket,
            route: CONNECT,
            status: status.as_u16(),
            duration: self.started.elapsed(),
            request_id: self.request_id.as_str(),
            connection_id: Some(self.caller.connection_id.as_str()),
            function: function.map(String::as_str),
            source_ip: Some(self.caller.source_ip),
            error,
        });
    }
}

fn refusal(why: Refusal) -> Verdict {
    match why {
        Refusal::Unauthorized => {
            Verdict::Error { status: StatusCode::UNAUTHORIZED, message: "Unauthorized", cause: None }
        }
        Refusal::Denied => {
            Verdict::Error { status: StatusCode::FORBIDDEN, message: "Forbidden", cause: None }
        }
        Refusal::Failed(cause) => error(StatusCode::INTERNAL_SERVER_ERROR, "Internal server error", cause),
    }
}

fn error(status: StatusCode, message: &'static str, cause: &'static str) -> Verdict {
    Verdict::Error { status, message, cause: Some(cause.to_owned()) }
}

pub(super) fn json(status: StatusCode, body: &str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(body.to_owned()));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// The socket under an upgraded request, without the layers that HTTP put around it.
async fn websocket(upgraded: Upgraded, gateway: &Gateway) -> WebSocketStream<TcpStream> {
    let parts = upgraded
        .downcast::<TokioIo<HeadRecorder<TcpStream>>>()
        .expect("the gateway serves recorded TCP streams and nothing else");
    let config = WebSocketConfig::default()
        .read_buffer_size(READ_BUFFER_BYTES)
        .max_frame_size(Some(gateway.limits.frame_bytes))
        .max_message_size(Some(gateway.limits.message_bytes));
    let stream = parts.io.into_inner().into_inner();
    WebSocketStream::from_partially_read(stream, parts.read_buf.to_vec(), Role::Server, Some(config)).await
}
