//! Reads `template.yaml`.

use std::collections::BTreeMap;
use std::time::Duration;

/// What the template says of this machine's business, with every reference resolved.
#[derive(Clone, Debug)]
pub struct Template {
    /// The functions.
    pub functions: Vec<Function>,
    /// The HTTP API, if a function has an `HttpApi` event.
    pub http_api: Option<HttpApi>,
    /// The WebSocket API.
    pub websocket_api: Option<WebSocketApi>,
}

/// An `AWS::Serverless::Function`.
#[derive(Clone, Debug, PartialEq)]
pub struct Function {
    /// Its key under `Resources`.
    pub logical_id: String,
    /// The last part of `CodeUri`: the crate, the binary, and what it is invoked by.
    pub name: String,
    /// `MemorySize`, in MB.
    pub memory_mb: u32,
    /// `Timeout`.
    pub timeout: Duration,
    /// `Environment.Variables`, resolved.
    pub environment: BTreeMap<String, String>,
}

/// An `AWS::Serverless::HttpApi` and the events that point to it.
#[derive(Clone, Debug, PartialEq)]
pub struct HttpApi {
    /// Its key under `Resources`.
    pub logical_id: String,
    /// `StageName`; `$default` is no part of the path.
    pub stage: String,
    /// One for each `HttpApi` event.
    pub routes: Vec<HttpRoute>,
    /// `CorsConfiguration`.
    pub cors: Option<Cors>,
}

/// A route of the HTTP API.
#[derive(Clone, Debug, PartialEq)]
pub struct HttpRoute {
    /// `GET /rooms/{room}`, or `$default`.
    pub key: String,
    /// The function's name.
    pub function: String,
    /// How long the gateway waits for the function.
    pub integration_timeout: Duration,
}

/// Which pages of other origins may call the HTTP API.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Cors {
    /// `AllowOrigins`
    pub allow_origins: Vec<String>,
    /// `AllowMethods`
    pub allow_methods: Vec<String>,
    /// `AllowHeaders`
    pub allow_headers: Vec<String>,
    /// `ExposeHeaders`
    pub expose_headers: Vec<String>,
    /// `MaxAge`, in seconds
    pub max_age: Option<u32>,
    /// `AllowCredentials`
    pub allow_credentials: bool,
}

/// An `AWS::Serverless::WebSocketApi`.
#[derive(Clone, Debug, PartialEq)]
pub struct WebSocketApi {
    /// Its key under `Resources`.
    pub logical_id: String,
    /// `StageName`.
    pub stage: String,
    /// `RouteSelectionExpression`, such as `$request.body.action`.
    pub route_selection_expression: String,
    /// The routes by their key.
    pub routes: BTreeMap<String, Route>,
    /// The authorizer of `$connect`.
    pub authorizer: Option<Authorizer>,
}

/// A route of the WebSocket API.
#[derive(Clone, Debug, PartialEq)]
pub struct Route {
    /// The name of the function that takes its frames.
    pub function: String,
    /// `IntegrationTimeout`: how long the gateway waits for the function, at most and by default 29 s.
    pub integration_timeout: Duration,
    /// Whether the body of the function's answer goes back to the client: the route has a
    /// `RouteResponseSelectionExpression` and an `AWS::ApiGatewayV2::RouteResponse`.
    pub route_response: bool,
}

/// The REQUEST authorizer of `$connect`.
#[derive(Clone, Debug, PartialEq)]
pub struct Authorizer {
    /// The name of the function.
    pub function: String,
    /// What every handshake must bring: without one of them it is refused with 401.
    pub identity_sources: Vec<IdentitySource>,
}

/// Where a handshake's credentials are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum IdentitySource {
    /// `route.request.header.<name>`, without regard to case.
    Header(String),
    /// `route.request.querystring.<name>`.
    QueryString(String),
}
