//! The event that a function gets: payload format 2.0.

use std::collections::BTreeMap;
use std::net::IpAddr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, header};
use percent_encoding::percent_decode_str;
use serde::Serialize;
use time::OffsetDateTime;

use super::routes::Match;
use crate::ids::{ACCOUNT_ID, Id, clf_time, epoch_ms, trace_id};

/// What the gateway knows of a request that is not in the request.
#[derive(Debug)]
pub(super) struct Origin {
    pub(super) id: Id,
    pub(super) now: OffsetDateTime,
    pub(super) source_ip: IpAddr,
}

/// Headers between a client and the gateway only.
const NOT_PASSED_ON: [HeaderName; 7] = [
    header::CONNECTION,
    header::EXPECT,
    header::PROXY_AUTHORIZATION,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];

/// Media types that are text; all others are base64 in an event.
const TEXT_PREFIXES: [&str; 5] =
    ["text/", "application/json", "application/javascript", "application/xml", "application/yaml"];
const TEXT_SUFFIXES: [&str; 3] = ["+json", "+xml", "+yaml"];

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Event<'a> {
    version: &'static str,
    route_key: &'a str,
    raw_path: &'a str,
    raw_query_string: &'a str,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    cookies: Vec<String>,
    headers: BTreeMap<&'a str, String>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    query_string_parameters: BTreeMap<String, String>,
    request_context: Context<'a>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    path_parameters: &'a BTreeMap<&'a str, String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    body: Option<String>,
    is_base64_encoded: bool,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Context<'a> {
    account_id: &'static str,
    api_id: &'a str,
    domain_name: &'a str,
    domain_prefix: &'a str,
    http: HttpContext<'a>,
    request_id: Id,
    route_key: &'a str,
    stage: &'a str,
    time: String,
    time_epoch: i64,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct HttpContext<'a> {
    method: &'a str,
    path: &'a str,
    protocol: String,
    source_ip: IpAddr,
    user_agent: &'a str,
}

/// The event of a request that a route takes.
pub(super) fn build(
    parts: &Parts,
    body: &[u8],
    origin: &Origin,
    found: &Match<'_>,
    api_id: &str,
    stage: &str,
) -> Bytes {
    let path = raw_path(parts.uri.path());
    let query = parts.uri.query().unwrap_or_default();
    let text_header = |name: HeaderName| parts.headers.get(name).and_then(|value| value.to_str().ok());
    let host = text_header(header::HOST).unwrap_or_default();
    let domain_name = host.rsplit_once(':').map_or(host, |(name, _)| name);
    let is_text = text_header(header::CONTENT_TYPE).is_some_and(is_text);
    let text = is_text.then(|| std::str::from_utf8(body).ok()).flatten();
    let event = Event {
        version: "2.0",
        route_key: &found.route.key,
        raw_path: &path,
        raw_query_string: query,
        cookies: cookies(&parts.headers),
        headers: headers(parts, body, host, origin),
        query_string_parameters: query_parameters(query),
        request_context: Context {
            account_id: ACCOUNT_ID,
            api_id,
            domain_name,
            domain_prefix: domain_name.split('.').next().unwrap_or_default(),
            http: HttpContext {
                method: parts.method.as_str(),
                path: &path,
                protocol: format!("{:?}", parts.version),
                source_ip: origin.source_ip,
                user_agent: text_header(header::USER_AGENT).unwrap_or_default(),
            },
            request_id: origin.id,
            route_key: &found.route.key,
            stage,
            time: clf_time(origin.now),
            time_epoch: epoch_ms(origin.now),
        },
        path_parameters: &found.parameters,
        is_base64_encoded: text.is_none() && !body.is_empty(),
        body: match text {
            _ if body.is_empty() => None,
            Some(text) => Some(text.to_owned()),
            None => Some(STANDARD.encode(body)),
        },
    };
    serde_json::to_vec(&event).expect("an event of texts and numbers is JSON").into()
}

/// The path decoded: `rawPath` is not as raw as its name, and what follows a decoded `?` is lost. So it was captured
/// from HTTP APIs in AWS, unlike from function URLs and REST APIs (`hotsock/voker` pull request 8 on GitHub).
fn raw_path(path: &str) -> String {
    let decoded = percent_decode_str(path).decode_utf8_lossy();
    decoded.split('?').next().unwrap_or_default().to_owned()
}

fn headers<'a>(parts: &'a Parts, body: &[u8], host: &str, origin: &Origin) -> BTreeMap<&'a str, String> {
    let mut headers = BTreeMap::new();
    for name in parts.headers.keys() {
        if NOT_PASSED_ON.contains(name) || name == header::COOKIE || name == "keep-alive" {
            continue;
        }
        let values = parts.headers.get_all(name).iter().map(text).collect::<Vec<_>>();
        headers.insert(name.as_str(), values.join(","));
    }
    // Also for a body that came in chunks.
    headers.insert("content-length", body.len().to_string());
    headers.entry("x-amzn-trace-id").or_insert_with(|| trace_id(origin.now));
    let forwarded_for = headers.entry("x-forwarded-for").or_default();
    let separator = if forwarded_for.is_empty() { "" } else { ", " };
    *forwarded_for = format!("{forwarded_for}{separator}{}", origin.source_ip);
    let port = host.rsplit_once(':').map_or("80", |(_, port)| port);
    headers.insert("x-forwarded-port", port.to_owned());
    headers.insert("x-forwarded-proto", "http".to_owned());
    headers
}

fn cookies(headers: &HeaderMap) -> Vec<String> {
    let lines = headers.get_all(header::COOKIE).iter().map(text);
    let cookies =
        lines.flat_map(|line| line.split(';').map(|cookie| cookie.trim().to_owned()).collect::<Vec<_>>());
    cookies.filter(|cookie| !cookie.is_empty()).collect()
}

fn text(value: &HeaderValue) -> String {
    String::from_utf8_lossy(value.as_bytes()).into_owned()
}

fn query_parameters(query: &str) -> BTreeMap<String, String> {
    let mut parameters: BTreeMap<String, String> = BTreeMap::new();
    for (name, value) in form_urlencoded::parse(query.as_bytes()) {
        let values = parameters.entry(name.into_owned());
        values
            .and_modify(|values| *values = format!("{values},{value}"))
            .or_insert_with(|| value.into_owned());
    }
    parameters
}

fn is_text(content_type: &str) -> bool {
    let media_type = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    TEXT_PREFIXES.iter().any(|prefix| media_type.starts_with(prefix))
        || TEXT_SUFFIXES.iter().any(|suffix| media_type.ends_with(suffix))
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;
    use std::time::Duration;

    use aws_lambda_events::apigw::ApiGatewayV2httpRequest;
    use http::Request;
    use serde_json::{Value, json};
    use time::macros::datetime;

    use super::*;
    use crate::template::HttpRoute;

    fn event(request: http::request::Builder, body: &[u8]) -> Value {
        let route = HttpRoute {
            key: "POST /rooms/{room}".into(),
            function: "rooms".into(),
            integration_timeout: Duration::from_secs(30),
        };
        let found = Match { route: &route, parameters: BTreeMap::from([("room", "general".to_owned())]) };
        let origin = Origin {
            id: Id::parse("JKJaXmPLvHcESHA=").expect("an id"),
            now: datetime!(2020-03-12 19:03:58.39 UTC),
            source_ip: Ipv4Addr::LOCALHOST.into(),
        };
        let (parts, ()) = request.body(()).expect("a request").into_parts();
        let bytes = build(&parts, body, &origin, &found, "http000000", "$default");
        serde_json::from_slice(&bytes).expect("JSON")
    }

    fn request(uri: &str) -> http::request::Builder {
        Request::post(uri).header("host", "127.0.0.1:3000")
    }

    /// The paths of all values: `requestContext.http.method`.
    fn keys(value: &Value, path: &str, found: &mut Vec<String>) {
        match value.as_object() {
            Some(object) => {
                object.iter().for_each(|(key, value)| keys(value, &format!("{path}.{key}"), found))
            }
            None => found.push(path.trim_start_matches('.').to_owned()),
        }
    }

    #[test]
    fn an_event_has_exactly_the_keys_of_the_developer_guide() {
        let request =
            request("/rooms/general?a=1").header("content-type", "application/json").header("cookie", "c=1");
        let mut event = event(request, b"{}");
        event["headers"] = json!("…");
        let mut found = Vec::new();
        keys(&event, "", &mut found);
        let expected = [
            "body",
            "cookies",
            "headers",
            "isBase64Encoded",
            "pathParameters.room",
            "queryStringParameters.a",
            "rawPath",
            "rawQueryString",
            "requestContext.accountId",
            "requestContext.apiId",
            "requestContext.domainName",
            "requestContext.domainPrefix",
            "requestContext.http.method",
            "requestContext.http.path",
            "requestContext.http.protocol",
            "requestContext.http.sourceIp",
            "requestContext.http.userAgent",
            "requestContext.requestId",
            "requestContext.routeKey",
            "requestContext.stage",
            "requestContext.time",
            "requestContext.timeEpoch",
            "routeKey",
            "version",
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn the_events_crate_reads_what_was_sent() {
        let request = request("/rooms/general?a=1&b=x%20y&a=2")
            .header("content-type", "application/json")
            .header("user-agent", "curl/8")
            .header("x-twice", "1")
            .header("x-twice", "2");
        let read: ApiGatewayV2httpRequest =
            serde_json::from_value(event(request, b"{\"a\":1}")).expect("readable");
        assert_eq!(read.raw_path.as_deref(), Some("/rooms/general"));
        assert_eq!(read.raw_query_string.as_deref(), Some("a=1&b=x%20y&a=2"));
        assert_eq!(read.query_string_parameters.first("b"), Some("x y"));
        assert_eq!(read.headers["x-twice"], "1,2");
        assert_eq!(read.path_parameters["room"], "general");
        assert_eq!(read.body.as_deref(), Some("{\"a\":1}"));
        assert!(!read.is_base64_encoded);
        let context = read.request_context;
        assert_eq!(context.http.method, "POST");
        assert_eq!(context.http.source_ip.as_deref(), Some("127.0.0.1"));
        assert_eq!(context.http.user_agent.as_deref(), Some("curl/8"));
        assert_eq!(context.time.as_deref(), Some("12/Mar/2020:19:03:58 +0000"));
        assert_eq!(context.time_epoch, 1_584_039_838_390);
        assert_eq!(context.stage.as_deref(), Some("$default"));
    }

    #[test]
    fn empty_parts_are_absent_and_not_null() {
        let event = event(request("/rooms/general"), b"");
        for absent in ["cookies", "queryStringParameters", "body", "stageVariables"] {
            assert!(event.get(absent).is_none(), "{absent}");
        }
        assert_eq!((&event["rawQueryString"], &event["isBase64Encoded"]), (&json!(""), &json!(false)));
    }

    #[test]
    fn repeated_query_parameters_are_joined_with_commas() {
        let event = event(request("/rooms/general?a=1&a=2&b&%C3%A9=x+y"), b"");
        assert_eq!(event["queryStringParameters"], json!({"a": "1,2", "b": "", "é": "x y"}));
    }

    #[test]
    fn cookies_leave_the_headers_for_a_list_of_their_own() {
        let event = event(request("/").header("cookie", "a=1; b=2").header("cookie", "c=3"), b"");
        assert_eq!(event["cookies"], json!(["a=1", "b=2", "c=3"]));
        assert_eq!(event["headers"].get("cookie"), None);
    }

    #[test]
    fn the_gateway_adds_its_own_headers_and_keeps_the_connections_from_the_function() {
        let request = request("/").header("connection", "keep-alive").header("x-forwarded-for", "10.0.0.1");
        let headers = event(request, b"")["headers"].clone();
        let names: Vec<_> = headers.as_object().expect("an object").keys().map(String::as_str).collect();
        let expected = [
            "content-length",
            "host",
            "x-amzn-trace-id",
            "x-forwarded-for",
            "x-forwarded-port",
            "x-forwarded-proto",
        ];
        assert_eq!(names, expected);
        assert_eq!(headers["x-forwarded-for"], "10.0.0.1, 127.0.0.1");
        assert_eq!(headers["x-forwarded-port"], "3000");
    }

    #[test]
    fn a_body_is_text_only_when_its_type_says_so_and_it_is() {
        let check = |content_type: &str, body: &[u8], expected: Value| {
            let event = event(request("/").header("content-type", content_type), body);
            assert_eq!(json!([event["body"], event["isBase64Encoded"]]), expected, "{content_type}");
        };
        check("application/json", b"{}", json!(["{}", false]));
        check("Application/JSON; charset=utf-8", b"{}", json!(["{}", false]));
        check("application/problem+json", b"{}", json!(["{}", false]));
        check("text/plain", b"\xff\xfe", json!(["//4=", true]));
        check("image/png", b"ab", json!(["YWI=", true]));
        check("application/x-www-form-urlencoded", b"a=b", json!(["YT1i", true]));
    }

    #[test]
    fn the_raw_path_is_decoded_and_ends_at_a_decoded_question_mark() {
        let event = event(request("/rooms/caf%C3%A9%20x%2Fy%3Fz"), b"");
        assert_eq!(event["rawPath"], "/rooms/café x/y");
        assert_eq!(event["requestContext"]["http"]["path"], "/rooms/café x/y");
    }
}
