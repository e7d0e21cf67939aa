//! Functions behind an HTTP API's routes: an axum router as a Lambda.

use std::{
    convert::Infallible,
    net::IpAddr,
    panic::AssertUnwindSafe,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use axum::{
    Router,
    body::{Body, Bytes},
    extract::{FromRequest, FromRequestParts, Query, RawPathParams, Request},
    response::{IntoResponse, Response},
};
use futures::FutureExt;
use http::{
    HeaderValue, StatusCode, Uri,
    header::{AUTHORIZATION, CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER},
    request::Parts,
};
use lambda_http::{RequestExt, request::RequestContext};
use lambda_runtime::service_fn;
use shared::{
    Error,
    domain::{rates::throttled_address, rooms::RoomId, users::UserId},
    postgres::{Postgres, Session},
    protocol::{Failure, Form, http::FailureBody},
    token::TokenHash,
};
use tower::ServiceExt;

use crate::{
    Fatal,
    access::{Access, panic_text},
};

/// The largest body of a call.
pub const LARGEST_BODY_BYTES: usize = 64 * 1024;

/// Serves the routes until the process ends.
///
/// # Errors
/// The Runtime API is gone.
pub async fn run(function: &'static str, router: Router) -> Result<(), Fatal> {
    let server = Server::new(function, router);
    lambda_http::run(service_fn(async |event| Ok::<_, Infallible>(server.serve(event).await))).await
}

struct Server {
    function: &'static str,
    router: Router,
    cold: AtomicBool,
}

/// What the gateway says of a call, and what the call turns out to be about.
#[derive(Clone, Default)]
struct Call {
    address: Arc<str>,
    subject: Arc<Mutex<Subject>>,
}

/// What the access line tells of a call once it is known.
#[derive(Default)]
struct Subject {
    user: Option<UserId>,
    room: Option<RoomId>,
}

impl Call {
    fn of(parts: &Parts) -> Self {
        parts.extensions.get().cloned().unwrap_or_default()
    }

    fn note(&self, note: impl FnOnce(&mut Subject)) {
        note(&mut self.subject.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

impl Server {
    fn new(function: &'static str, router: Router) -> Self {
        let unknown = async || Failed(Error::NotFound("path"));
        let router = router.fallback(unknown).method_not_allowed_fallback(unknown);
        Self { function, router, cold: AtomicBool::new(true) }
    }

    async fn serve(&self, event: lambda_http::Request) -> Response {
        let gateway = match event.request_context_ref() {
            Some(RequestContext::ApiGatewayV2(context)) => context.clone(),
            _ => Default::default(),
        };
        let request_id = gateway.request_id.unwrap_or_default();
        let route = gateway.route_key.unwrap_or_default();
        let cold_start = self.cold.swap(false, Ordering::Relaxed);
        let mut access = Access::begin(self.function, &request_id, &route, cold_start);

        let call = Call { address: gateway.http.source_ip.unwrap_or_default().into(), ..Call::default() };
        let response = self.route(event, gateway.stage.as_deref(), call.clone()).await;

        call.note(|subject| {
            access.user = subject.user.map(|user| user.to_string());
            access.room = subject.room.as_ref().map(RoomId::to_string);
        });
        let (response, failure) = finish(response, &request_id);
        if let Some(error) = &failure {
            access.log_cause(error);
        }
        access.end(Some(response.status().as_u16()), failure.as_deref().map(Error::code));
        response
    }

    async fn route(&self, event: lambda_http::Request, stage: Option<&str>, call: Call) -> Response {
        let (parts, body) = event.into_parts();
        let body = match body {
            lambda_http::Body::Text(text) => Bytes::from(text),
            lambda_http::Body::Binary(bytes) => Bytes::from(bytes),
            _ => Bytes::new(),
        };
        if LARGEST_BODY_BYTES < body.len() {
            return Failed(Error::TooLarge { limit: LARGEST_BODY_BYTES }).into_response();
        }
        let mut request = Request::new(Body::from(body));
        *request.uri_mut() = without_stage(&parts.uri, stage);
        *request.method_mut() = parts.method;
        *request.headers_mut() = parts.headers;
        request.extensions_mut().insert(call);

        let outcome = AssertUnwindSafe(self.router.clone().oneshot(request)).catch_unwind().await;
        match outcome {
            Ok(Ok(response)) => response,
            Ok(Err(never)) => match never {},
            Err(panic) => {
                let text = format!("panic: {}", panic_text(&*panic));
                Failed(Error::internal("handling a call", text)).into_response()
            }
        }
    }
}

/// The path and the query as the routes know them. The path begins with the stage, unless that is the default one.
fn without_stage(uri: &Uri, stage: Option<&str>) -> Uri {
    let path = uri.path();
    let stripped = stage
        .filter(|stage| *stage != "$default")
        .and_then(|stage| path.strip_prefix('/')?.strip_prefix(stage))
        .filter(|rest| rest.starts_with('/'))
        .unwrap_or(path);
    let stripped = match uri.query() {
        Some(query) => format!("{stripped}?{query}"),
        None => stripped.to_owned(),
    };
    // Part of what was a URI before.
    stripped.try_into().unwrap_or_default()
}

/// Puts what all answers have in common to an answer. Where it is a failure, this is the place that says so.
fn finish(mut response: Response, request_id: &str) -> (Response, Option<Arc<Error>>) {
    let failure = response.extensions_mut().remove::<Arc<Error>>();
    if let Some(error) = &failure {
        let body = FailureBody { error: Failure::new(error, request_id) };
        // Strings and numbers only: it always serialises.
        let body = serde_json::to_vec(&body).expect("a failure serialises");
        *response.body_mut() = Body::from(body);
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if let Error::Throttled { retry_after } = **error {
            response.headers_mut().insert(RETRY_AFTER, round_up_to_seconds(retry_after).into());
        }
    }
    // Tokens, names, messages: nothing of it is for a cache, unless a handler says otherwise.
    response.headers_mut().entry(CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    (response, failure)
}

/// A client that waits as long as it was told must not be refused again for a fraction of a second.
fn round_up_to_seconds(duration: Duration) -> u64 {
    duration.as_secs() + u64::from(0 < duration.subsec_nanos())
}

/// A call that was not done. It becomes an answer only at the edge, which knows the id of the call.
#[derive(Debug)]
pub struct Failed(Error);

impl<E: Into<Error>> From<E> for Failed {
    fn from(error: E) -> Self {
        Self(error.into())
    }
}

impl IntoResponse for Failed {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.0.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = status.into_response();
        response.extensions_mut().insert(Arc::new(self.0));
        response
    }
}

/// What a function must have, for its handlers to know who calls.
pub trait Sessions: Send + Sync + 'static {
    /// Where the sessions are.
    fn postgres(&self) -> &Postgres;

    /// How long a session lives after this use.
    fn session_lifetime(&self) -> Duration;
}

/// The session of the one who calls. Calls without one that is alive are refused before their body is looked at.
pub struct Authenticated(pub Session);

impl<A: Sessions> FromRequestParts<Arc<A>> for Authenticated {
    type Rejection = Failed;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<A>) -> Result<Self, Failed> {
        let BearerToken(token) = BearerToken::from_request_parts(parts, app).await?;
        let session = app.postgres().session(&token, app.session_lifetime()).await?;
        let session = session.ok_or(Error::session_ended())?;
        Call::of(parts).note(|subject| subject.user = Some(session.user.id));
        Ok(Self(session))
    }
}

/// The hash of the token that a call brings, whatever it is worth.
pub struct BearerToken(pub TokenHash);

impl<S: Sync> FromRequestParts<S> for BearerToken {
    type Rejection = Failed;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Failed> {
        let header = parts.headers.get(AUTHORIZATION).and_then(|header| header.to_str().ok());
        Ok(Self(TokenHash::of_authorization(header)?))
    }
}

/// Where a call comes from; and, for the access line, who turns out to be behind it.
pub struct Caller(Call);

impl Caller {
    /// The address, as throttles count it.
    pub fn throttled_address(&self) -> String {
        let address = &self.0.address;
        address.parse::<IpAddr>().map_or_else(|_| address.to_string(), throttled_address)
    }

    /// Lets the access line tell who it is, where no session does.
    pub fn is(&self, user: UserId) {
        self.0.note(|subject| subject.user = Some(user));
    }
}

impl<S: Sync> FromRequestParts<S> for Caller {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        Ok(Self(Call::of(parts)))
    }
}

/// A body that must be a JSON object, still to be read field by field.
pub struct JsonBody(pub Form);

impl<S: Send + Sync> FromRequest<S> for JsonBody {
    type Rejection = Failed;

    async fn from_request(request: Request, state: &S) -> Result<Self, Failed> {
        let body = Bytes::from_request(request, state).await;
        let body =
            body.map_err(|cause| Error::internal("reading a body that is in memory already", cause))?;
        Ok(Self(Form::parse(&body)?))
    }
}

/// The parameters of the query, still to be read one by one.
pub struct QueryForm(pub Form);

impl<S: Sync> FromRequestParts<S> for QueryForm {
    type Rejection = Failed;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Failed> {
        let parameters = Query::<Vec<(String, String)>>::try_from_uri(&parts.uri);
        let Query(parameters) = parameters.map_err(|_| Error::NotFound("path"))?;
        Ok(Self(Form::of_query(parameters)))
    }
}

/// The room that a call is about: `{room}` in its path. What cannot be the id of a room is the id of none.
pub struct RoomInPath(pub RoomId);

impl<S: Send + Sync> FromRequestParts<S> for RoomInPath {
    type Rejection = Failed;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Failed> {
        let raw = path_parameter(parts, state, "room").await;
        let room = raw.and_then(|raw| RoomId::parse(&raw).ok()).ok_or(Error::NotFound("room"))?;
        Call::of(parts).note(|subject| subject.room = Some(room.clone()));
        Ok(Self(room))
    }
}

/// The user that a call is about: `{user_id}` in its path. What cannot be the id of a user is the id of none.
pub struct UserInPath(pub UserId);

impl<S: Send + Sync> FromRequestParts<S> for UserInPath {
    type Rejection = Failed;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Failed> {
        let raw = path_parameter(parts, state, "user_id").await;
        let user = raw.and_then(|raw| UserId::parse(&raw).ok()).ok_or(Error::NotFound("user"))?;
        Ok(Self(user))
    }
}

async fn path_parameter<S: Send + Sync>(parts: &mut Parts, state: &S, name: &str) -> Option<String> {
    let parameters = RawPathParams::from_request_parts(parts, state).await.ok()?;
    parameters.iter().find(|(key, _)| *key == name).map(|(_, value)| value.to_owned())
}

#[cfg(test)]
mod tests {
    use std::sync::LazyLock;

    use axum::routing::{get, post};
    use http_body_util::BodyExt;
    use serde_json::{Value, json};

    use super::*;

    fn router() -> Router {
        Router::new()
            .route("/rooms/{room}", get(async |RoomInPath(room): RoomInPath| room.to_string()))
            .route("/fields", post(async |JsonBody(_): JsonBody| StatusCode::NO_CONTENT))
            .route("/address", get(async |caller: Caller| caller.throttled_address()))
            .route("/cached", get(async || [(CACHE_CONTROL, "public")]))
            .route(
                "/throttled",
                get(async || Failed(Error::Throttled { retry_after: Duration::from_millis(1_001) })),
            )
            .route("/broken", get(async || Failed(Error::internal("reading", "password=hunter2"))))
            .route("/panics", get(async || -> StatusCode { panic!("hunter2") }))
    }

    static SERVER: LazyLock<Server> = LazyLock::new(|| Server::new("test", router()));

    /// An event as the gateway makes it.
    fn event(route: &str, stage: &str, body: &str) -> lambda_http::Request {
        let (method, uri) = route.split_once(' ').expect("a method and a path");
        let (path, query) = uri.split_once('?').unwrap_or((uri, ""));
        let event = json!({
            "version": "2.0", "routeKey": route, "rawPath": path, "rawQueryString": query,
            "headers": {"host": "example.com"}, "body": body, "isBase64Encoded": false,
            "requestContext": {
                "requestId": "call-1", "routeKey": route, "stage": stage, "timeEpoch": 0,
                "http": {"method": method, "path": path, "sourceIp": "2001:db8:1:2:3::4"},
            },
        });
        lambda_http::request::from_str(&event.to_string()).expect("is an event")
    }

    async fn answer(route: &str, stage: &str, body: &str) -> (u16, http::HeaderMap, String) {
        let (head, body) = SERVER.serve(event(route, stage, body)).await.into_parts();
        let body = body.collect().await.expect("is in memory").to_bytes();
        (head.status.as_u16(), head.headers, String::from_utf8(body.into()).expect("is text"))
    }

    async fn refused(route: &str, body: &str) -> (u16, String) {
        let (status, headers, body) = answer(route, "$default", body).await;
        assert_eq!(headers[CONTENT_TYPE], "application/json");
        assert_eq!(headers[CACHE_CONTROL], "no-store");
        assert!(!body.contains("hunter2"), "{body}");
        let body: Value = serde_json::from_str(&body).expect("is JSON");
        assert_eq!(body["error"]["request_id"], "call-1");
        (status, body["error"]["code"].as_str().expect("has a code").to_owned())
    }

    #[tokio::test]
    async fn every_failure_has_the_envelope_with_the_gateways_id_of_the_call() {
        let large = format!("{{\"a\": \"{}\"}}", "x".repeat(LARGEST_BODY_BYTES));
        for (route, body, status, code) in [
            ("GET /nowhere", "", 404, "not_found"),
            ("DELETE /fields", "", 404, "not_found"),
            ("POST /fields", "{", 400, "bad_json"),
            ("POST /fields", "[]", 422, "validation_failed"),
            ("POST /fields", &large, 413, "too_large"),
            ("GET /rooms/No-Room", "", 404, "not_found"),
            ("GET /rooms/%FF", "", 404, "not_found"),
            ("GET /throttled", "", 429, "throttled"),
            ("GET /broken", "", 500, "internal"),
            ("GET /panics", "", 500, "internal"),
        ] {
            assert_eq!(refused(route, body).await, (status, code.to_owned()), "{route}");
        }
    }

    #[tokio::test]
    async fn the_process_answers_after_a_panic() {
        assert_eq!(refused("GET /panics", "").await.0, 500);
        assert_eq!(answer("GET /rooms/general", "$default", "").await.2, "general");
    }

    #[tokio::test]
    async fn a_throttled_client_is_told_whole_seconds_rounded_up() {
        let (_, headers, _) = answer("GET /throttled", "$default", "").await;
        assert_eq!(headers[RETRY_AFTER], "2");
    }

    #[tokio::test]
    async fn a_body_of_exactly_the_limit_is_read() {
        let body = format!("{{\"a\": \"{}\"}}", "x".repeat(LARGEST_BODY_BYTES - 9));
        assert_eq!(body.len(), LARGEST_BODY_BYTES);
        assert_eq!(answer("POST /fields", "$default", &body).await.0, 204);
    }

    #[tokio::test]
    async fn a_stage_in_the_path_is_no_part_of_the_route() {
        assert_eq!(answer("GET /live/rooms/general", "live", "").await.2, "general");
        assert_eq!(answer("GET /rooms/general", "live", "").await.2, "general");
    }

    #[tokio::test]
    async fn an_address_is_counted_by_its_network() {
        assert_eq!(answer("GET /address", "$default", "").await.2, "2001:db8:1:2::/64");
    }

    #[tokio::test]
    async fn a_handler_may_let_its_answer_be_cached() {
        assert_eq!(answer("GET /cached", "$default", "").await.1[CACHE_CONTROL], "public");
    }
}
