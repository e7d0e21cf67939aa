//! Reads `template.yaml`: the functions, the HTTP API, the WebSocket API and the queues that run on this machine.
//!
//! What concerns none of them is ignored. What concerns them and cannot be done here, or has no value here, is an
//! error that names its place in the template.

mod document;
mod intrinsics;
mod queues;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::{Map, Value};

use self::intrinsics::Resolver;
pub use self::queues::{EventSource, Queue, Redrive};
use crate::local_values::{LocalValues, QUEUES_VARIABLE, Variable, function_of_arn};

const FUNCTION: &str = "AWS::Serverless::Function";
const HTTP_API: &str = "AWS::Serverless::HttpApi";
const WEBSOCKET_API: &str = "AWS::Serverless::WebSocketApi";
const ROUTE_RESPONSE: &str = "AWS::ApiGatewayV2::RouteResponse";

/// The API that SAM makes for `HttpApi` events that name none.
const IMPLICIT_HTTP_API: &str = "ServerlessHttpApi";

/// What Lambda gives a function that asks for nothing else.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(3);
const DEFAULT_MEMORY_MB: u32 = 128;

/// The gateways wait for a function no longer than this, and by default this long.
const HTTP_INTEGRATION_LIMIT: Duration = Duration::from_secs(30);
const WEBSOCKET_INTEGRATION_LIMIT: Duration = Duration::from_secs(29);

/// A template as it stands in its file, with nothing resolved.
#[derive(Debug)]
pub struct TemplateFile {
    document: Map<String, Value>,
}

/// What the template says of this machine's business, with every reference resolved.
#[derive(Clone, Debug)]
pub struct Template {
    /// The functions.
    pub functions: Vec<Function>,
    /// The HTTP API, if a function has an `HttpApi` event.
    pub http_api: Option<HttpApi>,
    /// The WebSocket API.
    pub websocket_api: Option<WebSocketApi>,
    /// The queues.
    pub queues: Vec<Queue>,
    /// What calls functions for messages of these queues; without those that are not enabled.
    pub event_sources: Vec<EventSource>,
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

impl TemplateFile {
    /// Reads a template's file.
    ///
    /// # Errors
    /// When there is none, or it is no YAML.
    pub fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("reading the template {}", path.display()))?;
        Self::parse(&text).with_context(|| format!("reading the template {}", path.display()))
    }

    /// Reads a template's text.
    ///
    /// # Errors
    /// When it is no YAML, or no template.
    pub fn parse(text: &str) -> Result<Self> {
        let document = document::read(text)?;
        ensure!(document.get("Resources").is_some_and(Value::is_object), "it has no `Resources`");
        Ok(Self { document })
    }

    /// The names of all variables in the environments of the functions.
    ///
    /// # Errors
    /// When the functions cannot be read.
    pub fn environment_names(&self) -> Result<BTreeSet<String>> {
        let resolver = self.resolver()?;
        let mut names = BTreeSet::new();
        for (_, properties, path) in self.resources(&resolver, FUNCTION)? {
            names.extend(variables(&properties, &path)?.into_iter().flat_map(Map::keys).cloned());
        }
        Ok(names)
    }

    /// The stage of the WebSocket API, which is part of its URLs.
    ///
    /// # Errors
    /// When the stage has no value on this machine.
    pub fn websocket_stage(&self) -> Result<Option<String>> {
        let resolver = self.resolver()?;
        let apis = self.resources(&resolver, WEBSOCKET_API)?;
        apis.first().map(|(_, properties, path)| stage(&resolver, properties, path, "default")).transpose()
    }

    /// Resolves everything that runs on this machine.
    ///
    /// # Errors
    /// When something in it cannot be done here, or has no value here; the message names its place.
    pub fn resolve(&self, local: &LocalValues) -> Result<Template> {
        let resolver = self.resolver()?.with_queues_at(local.queues());
        let queues = self.queues(&resolver)?;
        let (mut functions, mut event_sources) = (Vec::new(), Vec::new());
        let mut routes: BTreeMap<String, Vec<HttpRoute>> = BTreeMap::new();
        for (logical_id, properties, path) in self.resources(&resolver, FUNCTION)? {
            // A few lines of another language, for CloudFormation's own use.
            if properties.get("InlineCode").is_some() {
                continue;
            }
            let function = function(&resolver, local, logical_id, &properties, &path)?;
            for (api, route) in http_routes(&resolver, &function.name, &properties, &path)? {
                routes.entry(api).or_default().push(route);
            }
            event_sources.extend(queues::event_sources(&resolver, &queues, &function, &properties, &path)?);
            functions.push(function);
        }
        let names: BTreeSet<&str> = functions.iter().map(|function| function.name.as_str()).collect();
        ensure!(names.len() == functions.len(), "two functions have the same folder, and so the same binary");
        Ok(Template {
            http_api: self.http_api(&resolver, routes)?,
            websocket_api: self.websocket_api(&resolver, &names)?,
            functions,
            queues,
            event_sources,
        })
    }

    fn resolver(&self) -> Result<Resolver<'_>> {
        let resources = self.document["Resources"].as_object().context("Resources: not a mapping")?;
        let functions = resources.iter().filter(|(_, resource)| resource["Type"] == FUNCTION);
        // One without a folder is refused where it is needed, not here.
        let names = functions.filter_map(|(logical_id, resource)| {
            let properties = self.globals("Function", &resource["Properties"]);
            Some((logical_id.as_str(), code_folder(&properties, logical_id).ok()?))
        });
        Ok(Resolver::new(&self.document, names.collect()))
    }

    /// The resources of one type that exist here: logical id, properties with the globals, path of the properties.
    fn resources<'t>(&'t self, resolver: &Resolver<'t>, kind: &str) -> Result<Vec<(&'t str, Value, String)>> {
        let mut found = Vec::new();
        for (logical_id, resource) in self.document["Resources"].as_object().into_iter().flatten() {
            let path = format!("Resources.{logical_id}");
            if resource["Type"] == kind && resolver.exists(resource, &path)? {
                let section = kind.rsplit("::").next().unwrap_or_default();
                let properties = self.globals(section, &resource["Properties"]);
                found.push((logical_id.as_str(), properties, format!("{path}.Properties")));
            }
        }
        Ok(found)
    }

    fn globals(&self, section: &str, properties: &Value) -> Value {
        let globals = self.document.get("Globals").and_then(|globals| globals.get(section));
        merge(globals.cloned().unwrap_or_default(), properties)
    }

    fn http_api(
        &self,
        resolver: &Resolver<'_>,
        mut routes: BTreeMap<String, Vec<HttpRoute>>,
    ) -> Result<Option<HttpApi>> {
        let mut apis = self.resources(resolver, HTTP_API)?;
        if routes.contains_key(IMPLICIT_HTTP_API) {
            apis.push((IMPLICIT_HTTP_API, self.globals("HttpApi", &Value::Null), "Globals.HttpApi".into()));
        }
        for api in routes.keys() {
            let known = apis.iter().any(|(logical_id, ..)| logical_id == api);
            ensure!(
                known,
                "Resources.{api}: a function's event names it, but it is no {HTTP_API} of this template"
            );
        }
        ensure!(apis.len() < 2, "Resources.{}: one HTTP API can run on this machine, not two", apis[1].0);
        let Some((logical_id, properties, path)) = apis.pop() else { return Ok(None) };
        for unsupported in ["DefinitionBody", "DefinitionUri", "Auth"] {
            let used = properties.get(unsupported).is_some();
            ensure!(
                !used,
                "{path}.{unsupported}: not supported here; use `HttpApi` events and let the functions check"
            );
        }
        let cors = properties.get("CorsConfiguration").map(|cors| {
            let path = format!("{path}.CorsConfiguration");
            resolver.resolve(cors, &path)?.map(|cors| read_cors(&cors, &path)).transpose()
        });
        Ok(Some(HttpApi {
            logical_id: logical_id.to_owned(),
            stage: stage(resolver, &properties, &path, "$default")?,
            routes: routes.remove(logical_id).unwrap_or_default(),
            cors: cors.transpose()?.flatten().flatten(),
        }))
    }

    fn websocket_api(
        &self,
        resolver: &Resolver<'_>,
        functions: &BTreeSet<&str>,
    ) -> Result<Option<WebSocketApi>> {
        let mut apis = self.resources(resolver, WEBSOCKET_API)?;
        ensure!(
            apis.len() < 2,
            "Resources.{}: one WebSocket API can run on this machine, not two",
            apis[1].0
        );
        let Some((logical_id, properties, path)) = apis.pop() else { return Ok(None) };
        let responding = self.responding_routes(resolver, logical_id)?;
        let mut routes = BTreeMap::new();
        for (key, route) in
            properties["Routes"].as_object().with_context(|| format!("{path}.Routes: missing"))?
        {
            let path = format!("{path}.Routes.{key}");
            let selection = text(resolver, route, &path, "RouteResponseSelectionExpression")?;
            let milliseconds = number(resolver, route, &path, "IntegrationTimeout")?;
            let timeout = milliseconds.map_or(WEBSOCKET_INTEGRATION_LIMIT, Duration::from_millis);
            ensure!(timeout <= WEBSOCKET_INTEGRATION_LIMIT, "{path}.IntegrationTimeout: at most 29,000 ms");
            let route = Route {
                function: known_function(resolver, functions, route, &path, "FunctionArn")?,
                integration_timeout: timeout,
                route_response: selection.is_some()
                    && responding.contains(&route_logical_id(logical_id, key)),
            };
            routes.insert(key.clone(), route);
        }
        let expression = text(resolver, &properties, &path, "RouteSelectionExpression")?;
        Ok(Some(WebSocketApi {
            logical_id: logical_id.to_owned(),
            stage: stage(resolver, &properties, &path, "default")?,
            route_selection_expression: expression
                .with_context(|| format!("{path}.RouteSelectionExpression: missing"))?,
            routes,
            authorizer: authorizer(resolver, functions, &properties["Auth"], &format!("{path}.Auth"))?,
        }))
    }

    /// The logical ids of the routes of an API that have a route response.
    fn responding_routes(&self, resolver: &Resolver<'_>, api: &str) -> Result<BTreeSet<String>> {
        let responses = self.resources(resolver, ROUTE_RESPONSE)?.into_iter();
        let of_api = responses.filter(|(_, properties, _)| properties["ApiId"]["Ref"] == api);
        let default = of_api.filter(|(_, properties, _)| properties["RouteResponseKey"] == "$default");
        let routes =
            default.filter_map(|(_, properties, _)| properties["RouteId"]["Ref"].as_str().map(str::to_owned));
        Ok(routes.collect())
    }
}

/// As SAM merges `Globals` into a resource: mappings key by key, lists one after the other, the rest replaced.
fn merge(global: Value, own: &Value) -> Value {
    match (global, own) {
        (global, Value::Null) => global,
        (Value::Object(mut global), Value::Object(own)) if !is_intrinsic(&global) && !is_intrinsic(own) => {
            for (key, own) in own {
                let merged = merge(global.remove(key).unwrap_or_default(), own);
                global.insert(key.clone(), merged);
            }
            Value::Object(global)
        }
        (Value::Array(mut global), Value::Array(own)) => {
            global.extend(own.iter().cloned());
            Value::Array(global)
        }
        (_, own) => own.clone(),
    }
}

fn is_intrinsic(object: &Map<String, Value>) -> bool {
    object.len() == 1 && object.keys().any(|key| key == "Ref" || key.starts_with("Fn::"))
}

/// SAM's name for a route: `<Api>DefaultRoute` for `$default`.
fn route_logical_id(api: &str, key: &str) -> String {
    let mut letters = key.trim_start_matches('$').chars();
    let first = letters.next().into_iter().flat_map(char::to_uppercase);
    let rest = letters.flat_map(char::to_lowercase);
    format!("{api}{}Route", first.chain(rest).collect::<String>())
}

fn code_folder(properties: &Value, path: &str) -> Result<String> {
    let uri =
        properties["CodeUri"].as_str().with_context(|| format!("{path}: the folder of a crate is wanted"))?;
    let name = uri.trim_end_matches('/').rsplit('/').next().filter(|name| !matches!(*name, "" | "." | ".."));
    Ok(name.with_context(|| format!("{path}: `{uri}` is no folder of a crate"))?.to_owned())
}

fn variables<'p>(properties: &'p Value, path: &str) -> Result<Option<&'p Map<String, Value>>> {
    match &properties["Environment"]["Variables"] {
        Value::Null => Ok(None),
        Value::Object(variables) => Ok(Some(variables)),
        _ => bail!("{path}.Environment.Variables: not a mapping"),
    }
}

fn function(
    resolver: &Resolver<'_>,
    local: &LocalValues,
    logical_id: &str,
    properties: &Value,
    path: &str,
) -> Result<Function> {
    let mut environment = BTreeMap::new();
    for (name, value) in variables(properties, path)?.into_iter().flatten() {
        let value = match local.variable(name) {
            Variable::Is(value) => Some(value),
            Variable::Absent => None,
            Variable::AsInTemplate => {
                resolver.text(value, &format!("{path}.Environment.Variables.{name}"))?
            }
        };
        environment.extend(value.map(|value| (name.clone(), value)));
    }
    // The SDKs go to AWS otherwise. A template without queues has none here.
    environment.extend(local.queues().map(|url| (QUEUES_VARIABLE.to_owned(), url.to_owned())));
    environment.extend(local.settings().map(|(name, value)| (name.to_owned(), value.to_owned())));
    let timeout = number(resolver, properties, path, "Timeout")?.map_or(DEFAULT_TIMEOUT, Duration::from_secs);
    let memory = number(resolver, properties, path, "MemorySize")?;
    Ok(Function {
        logical_id: logical_id.to_owned(),
        name: code_folder(properties, &format!("{path}.CodeUri"))?,
        memory_mb: memory.map_or(Ok(DEFAULT_MEMORY_MB), u32::try_from)?,
        timeout,
        environment,
    })
}

/// The routes that a function's events make, each with the logical id of its API.
fn http_routes(
    resolver: &Resolver<'_>,
    function: &str,
    properties: &Value,
    path: &str,
) -> Result<Vec<(String, HttpRoute)>> {
    let mut routes = Vec::new();
    for (name, event) in properties["Events"].as_object().into_iter().flatten() {
        if event["Type"] != "HttpApi" {
            continue;
        }
        let (event, path) = (&event["Properties"], format!("{path}.Events.{name}.Properties"));
        ensure!(event.get("Auth").is_none(), "{path}.Auth: not supported here; let the function check");
        let version = text(resolver, event, &path, "PayloadFormatVersion")?;
        ensure!(
            version.is_none_or(|version| version == "2.0"),
            "{path}.PayloadFormatVersion: only 2.0 is known here"
        );
        let api = match event.get("ApiId") {
            None => IMPLICIT_HTTP_API,
            Some(api) => {
                api["Ref"].as_str().or(api.as_str()).with_context(|| format!("{path}.ApiId: no `!Ref`"))?
            }
        };
        let key = match text(resolver, event, &path, "Path")?.as_deref() {
            None | Some("$default") => "$default".to_owned(),
            Some(route) => {
                ensure!(route.starts_with('/'), "{path}.Path: `{route}` does not begin with `/`");
                let method = text(resolver, event, &path, "Method")?.unwrap_or_else(|| "ANY".into());
                let any = method == "*" || method.eq_ignore_ascii_case("x-amazon-apigateway-any-method");
                format!("{} {route}", if any { "ANY".to_owned() } else { method.to_ascii_uppercase() })
            }
        };
        let milliseconds = number(resolver, event, &path, "TimeoutInMillis")?;
        let integration_timeout = milliseconds.map_or(HTTP_INTEGRATION_LIMIT, Duration::from_millis);
        ensure!(integration_timeout <= HTTP_INTEGRATION_LIMIT, "{path}.TimeoutInMillis: at most 30,000 ms");
        routes.push((api.to_owned(), HttpRoute { key, function: function.to_owned(), integration_timeout }));
    }
    Ok(routes)
}

fn authorizer(
    resolver: &Resolver<'_>,
    functions: &BTreeSet<&str>,
    auth: &Value,
    path: &str,
) -> Result<Option<Authorizer>> {
    match text(resolver, auth, path, "AuthType")?.as_deref() {
        None | Some("NONE") => return Ok(None),
        Some("CUSTOM") => {}
        Some(other) => bail!("{path}.AuthType: {other} is not supported here"),
    }
    let function = known_function(resolver, functions, auth, path, "AuthArn")?;
    let path = format!("{path}.IdentitySource");
    let sources = resolver.resolve(&auth["IdentitySource"], &path)?.unwrap_or_default();
    let sources = sources.as_array().map(Vec::as_slice).unwrap_or_default().iter();
    let identity_sources = sources.map(|source| {
        let source = source.as_str().unwrap_or_default();
        let header =
            source.strip_prefix("route.request.header.").map(str::to_owned).map(IdentitySource::Header);
        let query = source.strip_prefix("route.request.querystring.").map(str::to_owned);
        let known = header.or_else(|| query.map(IdentitySource::QueryString));
        known.with_context(|| format!("{path}: `{source}` is neither a header nor a query parameter"))
    });
    Ok(Some(Authorizer { function, identity_sources: identity_sources.collect::<Result<_>>()? }))
}

fn read_cors(cors: &Value, path: &str) -> Result<Option<Cors>> {
    let list = |name: &str| -> Result<Vec<String>> {
        let items =
            cors.get(name).map(|items| items.as_array().with_context(|| format!("{path}.{name}: no list")));
        let items = items.transpose()?.into_iter().flatten();
        let items = items
            .map(|item| Ok(item.as_str().with_context(|| format!("{path}.{name}: no text"))?.to_owned()));
        items.collect()
    };
    match cors {
        Value::Bool(false) => Ok(None),
        Value::Bool(true) => Ok(Some(Cors { allow_origins: vec!["*".into()], ..Cors::default() })),
        Value::String(origin) => Ok(Some(Cors { allow_origins: vec![origin.clone()], ..Cors::default() })),
        Value::Object(_) => Ok(Some(Cors {
            allow_origins: list("AllowOrigins")?,
            allow_methods: list("AllowMethods")?,
            allow_headers: list("AllowHeaders")?,
            expose_headers: list("ExposeHeaders")?,
            max_age: cors["MaxAge"].as_u64().and_then(|seconds| seconds.try_into().ok()),
            allow_credentials: cors["AllowCredentials"] == true,
        })),
        _ => bail!("{path}: not a CORS configuration"),
    }
}

fn known_function(
    resolver: &Resolver<'_>,
    functions: &BTreeSet<&str>,
    object: &Value,
    path: &str,
    key: &str,
) -> Result<String> {
    let arn = text(resolver, object, path, key)?.with_context(|| format!("{path}.{key}: missing"))?;
    let name = function_of_arn(&arn).filter(|name| functions.contains(name));
    Ok(name.with_context(|| format!("{path}.{key}: {arn} is no function of this template"))?.to_owned())
}

fn stage(resolver: &Resolver<'_>, properties: &Value, path: &str, default: &str) -> Result<String> {
    Ok(text(resolver, properties, path, "StageName")?.unwrap_or_else(|| default.to_owned()))
}

fn text(resolver: &Resolver<'_>, object: &Value, path: &str, key: &str) -> Result<Option<String>> {
    object.get(key).map_or(Ok(None), |value| resolver.text(value, &format!("{path}.{key}")))
}

fn number(resolver: &Resolver<'_>, object: &Value, path: &str, key: &str) -> Result<Option<u64>> {
    let text = text(resolver, object, path, key)?;
    text.map(|text| text.parse().with_context(|| format!("{path}.{key}: `{text}` is no number"))).transpose()
}

#[cfg(test)]
mod tests;
