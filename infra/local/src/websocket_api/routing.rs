//! Which route takes a frame: the route selection expression.

use anyhow::{Context, bail};
use serde_json::Value;

use crate::template::WebSocketApi;

pub(super) const CONNECT: &str = "$connect";
pub(super) const DISCONNECT: &str = "$disconnect";
pub(super) const DEFAULT: &str = "$default";

/// A route selection expression: `$request.body.action`, or text around any number of
/// `${request.body.action}`.
#[derive(Debug, PartialEq)]
pub(super) struct RouteSelection {
    parts: Vec<Part>,
    /// Without a route of its own to choose, every frame is for `$default`, and none needs to be parsed.
    has_custom_routes: bool,
}

#[derive(Debug, PartialEq)]
enum Part {
    Text(String),
    Body(Vec<Step>),
}

/// A step of the JSONPath after `request.body`.
#[derive(Debug, PartialEq)]
enum Step {
    Key(String),
    Index(usize),
}

impl RouteSelection {
    /// Reads the expression of an API.
    pub(super) fn of(api: &WebSocketApi) -> anyhow::Result<Self> {
        let expression = &api.route_selection_expression;
        let parts = parse(expression).with_context(|| format!("RouteSelectionExpression `{expression}`"))?;
        Ok(Self { parts, has_custom_routes: api.routes.keys().any(|key| !key.starts_with('$')) })
    }

    /// The key of the route that takes this frame.
    pub(super) fn route_key<'a>(&self, api: &'a WebSocketApi, body: &str) -> Option<&'a str> {
        self.custom_route_key(api, body).or_else(|| known_key(api, DEFAULT))
    }

    fn custom_route_key<'a>(&self, api: &'a WebSocketApi, body: &str) -> Option<&'a str> {
        if !self.has_custom_routes {
            return None;
        }
        let body: Value = serde_json::from_str(body).ok()?;
        let key: String = self.parts.iter().map(|part| part.of(&body)).collect();
        // A client must not reach the functions of `$connect` and `$disconnect` by naming them.
        if key.starts_with('$') { None } else { known_key(api, &key) }
    }
}

fn known_key<'a>(api: &'a WebSocketApi, key: &str) -> Option<&'a str> {
    api.routes.get_key_value(key).map(|(key, _)| key.as_str())
}

impl Part {
    fn of(&self, body: &Value) -> String {
        let path = match self {
            Self::Text(text) => return text.clone(),
            Self::Body(path) => path,
        };
        let found = path.iter().try_fold(body, |value, step| match step {
            Step::Key(key) => value.get(key),
            Step::Index(index) => value.get(index),
        });
        match found {
            Some(Value::String(text)) => text.clone(),
            Some(value @ (Value::Number(_) | Value::Bool(_))) => value.to_string(),
            Some(Value::Null | Value::Array(_) | Value::Object(_)) | None => String::new(),
        }
    }
}

fn parse(expression: &str) -> anyhow::Result<Vec<Part>> {
    if let Some(path) = expression.strip_prefix("$request") {
        return Ok(vec![Part::Body(parse_path(path)?)]);
    }
    let mut parts = Vec::new();
    let mut rest = expression;
    while let Some((text, after)) = rest.split_once("${") {
        let (variable, after) = after.split_once('}').context("a `${` is never closed")?;
        let path = variable.strip_prefix("request").context("only `request.body` can be selected by")?;
        if !text.is_empty() {
            parts.push(Part::Text(text.to_owned()));
        }
        parts.push(Part::Body(parse_path(path)?));
        rest = after;
    }
    if !rest.is_empty() {
        parts.push(Part::Text(rest.to_owned()));
    }
    if !parts.iter().any(|part| matches!(part, Part::Body(_))) {
        bail!("selects by nothing: it names no `request.body`");
    }
    Ok(parts)
}

/// Reads `.body.a.b[0]['c']`.
fn parse_path(path: &str) -> anyhow::Result<Vec<Step>> {
    let mut rest = path.strip_prefix(".body").context("only `request.body` can be selected by")?;
    let mut steps = Vec::new();
    while !rest.is_empty() {
        if let Some(after) = rest.strip_prefix('.') {
            let end = after.find(['.', '[']).unwrap_or(after.len());
            let (key, after) = after.split_at(end);
            if key.is_empty() {
                bail!("an empty name in the path `{path}`");
            }
            steps.push(Step::Key(key.to_owned()));
            rest = after;
        } else if let Some(after) = rest.strip_prefix('[') {
            let (inside, after) = after.split_once(']').context("a `[` is never closed")?;
            steps.push(match inside.strip_prefix('\'').and_then(|key| key.strip_suffix('\'')) {
                Some(key) => Step::Key(key.to_owned()),
                None => Step::Index(inside.parse().with_context(|| format!("`{inside}` is no index"))?),
            });
            rest = after;
        } else {
            bail!("`{rest}` is no JSONPath");
        }
    }
    if steps.is_empty() {
        bail!("the path of `request.body` is missing");
    }
    Ok(steps)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::template::Route;

    fn api(expression: &str, keys: &[&str]) -> WebSocketApi {
        let route = || Route {
            function: "f".into(),
            integration_timeout: Duration::from_secs(29),
            route_response: false,
        };
        WebSocketApi {
            logical_id: "Api".into(),
            stage: "default".into(),
            route_selection_expression: expression.into(),
            routes: keys.iter().map(|&key| (key.to_owned(), route())).collect(),
            authorizer: None,
        }
    }

    #[track_caller]
    fn check(expression: &str, keys: &[&str], body: &str, expected: Option<&str>) {
        let api = api(expression, keys);
        let selection = RouteSelection::of(&api).expect("the expression is valid");
        assert_eq!(selection.route_key(&api, body), expected, "{expression} of {body}");
    }

    #[test]
    fn a_name_in_the_body_selects_the_route() {
        let keys = ["$default", "send", "1", "true"];
        check("$request.body.action", &keys, r#"{"action":"send"}"#, Some("send"));
        check("${request.body.action}", &keys, r#"{"action":"send"}"#, Some("send"));
        check("$request.body.action", &keys, r#"{"action":1}"#, Some("1"));
        check("$request.body.action", &keys, r#"{"action":true}"#, Some("true"));
    }

    #[test]
    fn only_the_whole_key_matches() {
        for action in ["sen", "sending", "Send", " send", ""] {
            check(
                "$request.body.action",
                &["$default", "send"],
                &format!(r#"{{"action":"{action}"}}"#),
                Some("$default"),
            );
        }
    }

    #[test]
    fn several_values_and_text_make_one_key() {
        let expression = "${request.body.service}/${request.body.action}";
        let keys = ["$default", "room/join", "/join", "room/"];
        check(expression, &keys, r#"{"service":"room","action":"join"}"#, Some("room/join"));
        check(expression, &keys, r#"{"action":"join"}"#, Some("/join"));
        check(expression, &keys, r#"{"service":"room"}"#, Some("room/"));
        check(expression, &keys, r#"{"service":"room","action":"leave"}"#, Some("$default"));
    }

    #[test]
    fn paths_reach_into_the_body() {
        let keys = ["$default", "send"];
        check("$request.body.a.b", &keys, r#"{"a":{"b":"send"}}"#, Some("send"));
        check("$request.body.a[1].b", &keys, r#"{"a":[0,{"b":"send"}]}"#, Some("send"));
        check("$request.body['a'].b", &keys, r#"{"a":{"b":"send"}}"#, Some("send"));
        check("$request.body.a.b", &keys, r#"{"a":"send"}"#, Some("$default"));
        check("$request.body.a.b", &keys, r#"{"a":{"b":["send"]}}"#, Some("$default"));
    }

    #[test]
    fn what_is_no_json_goes_to_default() {
        for body in ["", "send", "{", "[]", "\"send\"", "null"] {
            check("$request.body.action", &["$default", "send"], body, Some("$default"));
            check("$request.body.action", &["send"], body, None);
        }
    }

    #[test]
    fn a_client_cannot_name_the_gateways_own_routes() {
        let keys = ["$connect", "$disconnect", "send"];
        for key in keys.iter().take(2) {
            check("$request.body.action", &keys, &format!(r#"{{"action":"{key}"}}"#), None);
        }
    }

    #[test]
    fn an_expression_that_cannot_work_is_named() {
        for bad in [
            "",
            "action",
            "$request.body",
            "$request.body.",
            "$request.body.a..b",
            "$request.header.x",
            "$context.stage",
            "${request.body.a",
            "${context.stage}",
            "$request.body.a[x]",
            "$request.bodyaction",
        ] {
            let error = RouteSelection::of(&api(bad, &["send"])).expect_err(bad);
            assert!(error.to_string().contains("RouteSelectionExpression"), "{error}");
        }
    }
}
