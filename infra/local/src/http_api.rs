//! The HTTP API: takes a request, finds its route, invokes the function with payload 2.0, and answers.

mod answer;
mod cors;
mod event;
mod routes;

use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use serde_json::json;
use time::OffsetDateTime;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use self::event::Origin;
use self::routes::{Match, Routes};
use crate::access_log::{Access, AccessLog, Api};
use crate::ids::{Id, api_id};
use crate::lambda::{InvokeError, Lambda};
use crate::server::{self, BodyError, read_body};
use crate::template::{Cors, HttpApi};

/// API Gateway's limit of a body.
const MAX_BODY_BYTES: usize = 10 * 1024 * 1024;

/// API Gateway's limit of the request line and all headers together.
const MAX_HEADER_BYTES: usize = 10_240;

/// Serves one HTTP API.
#[derive(Debug)]
pub struct HttpGateway {
    api_id: String,
    stage: String,
    routes: Routes,
    cors: Option<Cors>,
    lambda: Lambda,
    log: AccessLog,
}

type Answer = Response<Full<Bytes>>;

/// An answer, and what the log says of it.
struct Outcome {
    answer: Answer,
    /// The route key, if a route takes the request.
    route: Option<String>,
    function: Option<String>,
    error: Option<String>,
}

impl HttpGateway {
    /// A gateway for this API, whose functions `lambda` runs.
    ///
    /// # Errors
    /// When two routes take the same requests.
    pub fn new(api: HttpApi, lambda: Lambda, log: AccessLog) -> anyhow::Result<Self> {
        let routes = Routes::new(api.routes)?;
        Ok(Self { api_id: api_id(&api.logical_id), stage: api.stage, routes, cors: api.cors, lambda, log })
    }

    /// Takes connections until `shutdown`, then ends those that are open when their request is answered.
    pub async fn serve(self, listener: TcpListener, shutdown: CancellationToken) {
        let gateway = Arc::new(self);
        server::serve(listener, shutdown, move |request, peer| {
            let gateway = Arc::clone(&gateway);
            async move { gateway.take(request, peer).await }
        })
        .await;
    }

    async fn take(
        self: Arc<Self>,
        request: Request<Incoming>,
        peer: SocketAddr,
    ) -> Result<Answer, Infallible> {
        // In a task of its own, because a client that hangs up ends neither the function nor the line in the log.
        let answered = tokio::spawn(async move { self.answer(request, peer.ip()).await });
        Ok(answered
            .await
            .unwrap_or_else(|_| message(StatusCode::INTERNAL_SERVER_ERROR, "Internal Server Error")))
    }

    async fn answer(&self, request: Request<Incoming>, source_ip: IpAddr) -> Answer {
        let (begin, now, id) = (Instant::now(), OffsetDateTime::now_utc(), Id::new());
        let (parts, body) = request.into_parts();
        let Outcome { mut answer, route, function, error } =
            self.outcome(&parts, body, Origin { id, now, source_ip }).await;
        if let Some(cors) = &self.cors {
            cors::apply(cors, &parts.headers, answer.headers_mut());
        }
        let id_header = HeaderValue::from_str(id.as_str()).expect("an id is base64");
        answer.headers_mut().insert("apigw-requestid", id_header);
        let route = route.unwrap_or_else(|| format!("{} {}", parts.method, parts.uri.path()));
        self.log.write(&Access {
            api: Api::Http,
            route: &route,
            status: answer.status().as_u16(),
            duration: begin.elapsed(),
            request_id: id.as_str(),
            connection_id: None,
            function: function.as_deref(),
            source_ip: Some(source_ip),
            error: error.as_deref(),
        });
        answer
    }

    async fn outcome(&self, parts: &Parts, body: Incoming, origin: Origin) -> Outcome {
        if header_bytes(parts) > MAX_HEADER_BYTES {
            return Outcome::refused(
                StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
                "Request Header Fields Too Large",
            );
        }
        if !has_one_good_host(&parts.headers) {
            return Outcome::refused(StatusCode::BAD_REQUEST, "Bad Request");
        }
        if let Some(preflight) = self.cors.as_ref().and_then(|cors| cors::preflight(cors, parts)) {
            return Outcome { answer: preflight, route: None, function: None, error: None };
        }
        let path = self.path_in_stage(parts.uri.path());
        let Some(found) = path.and_then(|path| self.routes.find(&parts.method, path)) else {
            return Outcome::refused(StatusCode::NOT_FOUND, "Not Found");
        };
        let (route, function) = (found.route.key.clone(), found.route.function.clone());
        let (answer, error) = match self.call(&found, parts, body, origin).await {
            Ok(answer) => (answer, None),
            Err(failure) => (message(failure.status, failure.message), failure.why),
        };
        Outcome { answer, route: Some(route), function: Some(function), error }
    }

    async fn call(
        &self,
        found: &Match<'_>,
        parts: &Parts,
        body: Incoming,
        origin: Origin,
    ) -> Result<Answer, Failure> {
        let body = read_body(body, MAX_BODY_BYTES).await.map_err(|error| match error {
            BodyError::TooLarge => Failure::TOO_LARGE,
            BodyError::Broken => {
                Failure::new(StatusCode::BAD_REQUEST, "Bad Request", "the body did not come whole")
            }
        })?;
        let event = event::build(parts, &body, &origin, found, &self.api_id, &self.stage);
        let (function, limit) = (&found.route.function, found.route.integration_timeout);
        let invoke = self.lambda.invoke(function, event);
        let Ok(invoked) = tokio::time::timeout(self.lambda.patience(function, limit), invoke).await else {
            let why = "the function took longer than the gateway waits";
            return Err(Failure::new(StatusCode::SERVICE_UNAVAILABLE, "Service Unavailable", why));
        };
        let invocation = invoked.map_err(|error| match error {
            InvokeError::TooLarge(_) => Failure::TOO_LARGE,
            other => Failure::internal(format!("{:#}", anyhow::Error::new(other))),
        })?;
        if let Some(error) = invocation.error_message() {
            return Err(Failure::internal(error));
        }
        if invocation.function_error.is_some() {
            return Err(Failure::internal("the function failed".to_owned()));
        }
        answer::read(&invocation.payload, self.cors.is_some())
            .map_err(|why| Failure::internal(format!("malformed answer: {why}")))
    }

    /// The path that the routes are about: without the stage, unless that is `$default`.
    fn path_in_stage<'p>(&self, path: &'p str) -> Option<&'p str> {
        if self.stage == "$default" {
            return Some(path);
        }
        let rest = path.strip_prefix('/')?.strip_prefix(&self.stage)?;
        match rest {
            "" => Some("/"),
            rest => Some(rest).filter(|rest| rest.starts_with('/')),
        }
    }
}

impl Outcome {
    fn refused(status: StatusCode, text: &str) -> Self {
        Self { answer: message(status, text), route: None, function: None, error: None }
    }
}

/// The gateway's own error.
struct Failure {
    status: StatusCode,
    message: &'static str,
    /// For the log.
    why: Option<String>,
}

impl Failure {
    const TOO_LARGE: Self =
        Self { status: StatusCode::PAYLOAD_TOO_LARGE, message: "Request Entity Too Large", why: None };

    fn new(status: StatusCode, message: &'static str, why: &str) -> Self {
        Self { status, message, why: Some(why.to_owned()) }
    }

    fn internal(why: String) -> Self {
        Self { status: StatusCode::INTERNAL_SERVER_ERROR, message: "Internal Server Error", why: Some(why) }
    }
}

/// An error as API Gateway writes it.
fn message(status: StatusCode, text: &str) -> Answer {
    Response::builder()
        .status(status)
        .header(header::CONTENT_TYPE, "application/json")
        .body(Full::from(json!({ "message": text }).to_string()))
        .expect("a status and a plain header make a response")
}

/// The request line and the headers as they were sent.
fn header_bytes(parts: &Parts) -> usize {
    let target = parts.uri.path_and_query().map_or(1, |target| target.as_str().len());
    let line = parts.method.as_str().len() + target + " HTTP/1.1\r\n ".len();
    let headers =
        parts.headers.iter().map(|(name, value)| name.as_str().len() + value.len() + ": \r\n".len());
    line + headers.sum::<usize>()
}

/// In AWS a request without a good host does not find its API. Functions build URLs from it.
fn has_one_good_host(headers: &HeaderMap) -> bool {
    let mut hosts = headers.get_all(header::HOST).iter();
    match (hosts.next(), hosts.next()) {
        (Some(host), None) => host.to_str().is_ok_and(|host| {
            let authority = host.parse::<http::uri::Authority>();
            authority.is_ok_and(|authority| !authority.host().is_empty() && !host.contains('@'))
        }),
        _ => false,
    }
}
