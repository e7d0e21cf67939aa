//! A function's answer → the HTTP response.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, header};
use http_body_util::Full;
use serde_json::{Map, Value};

/// Headers that are the gateway's business, whatever a function says.
const NOT_TAKEN: [HeaderName; 6] = [
    header::CONNECTION,
    header::CONTENT_LENGTH,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];

/// Reads what a function answered. With `own_cors` the gateway answers for CORS and the function's headers for it are
/// dropped. The error is for the log.
pub(super) fn read(payload: &[u8], own_cors: bool) -> Result<Response<Full<Bytes>>, &'static str> {
    let value: Value = serde_json::from_slice(payload).map_err(|_| "it is no JSON")?;
    let answer = match value {
        Value::Object(answer) if answer.contains_key("statusCode") => answer,
        // A plain value is the body of a 200; a text without its quotes.
        Value::String(text) => return Ok(plain(text.into())),
        _ => return Ok(plain(Bytes::copy_from_slice(payload))),
    };
    let status = answer["statusCode"].as_u64().and_then(|status| u16::try_from(status).ok());
    let status = status
        .filter(|status| (200..600).contains(status))
        .and_then(|status| StatusCode::from_u16(status).ok());
    let status = status.ok_or("`statusCode` is no status")?;
    let body = if status == StatusCode::NO_CONTENT || status == StatusCode::NOT_MODIFIED {
        Bytes::new()
    } else {
        read_body(&answer)?
    };
    let mut headers = read_headers(&answer)?;
    if !body.is_empty() && !headers.contains_key(header::CONTENT_TYPE) {
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain;charset=UTF-8"));
    }
    let mut response = Response::new(Full::from(body));
    *response.status_mut() = status;
    for (name, value) in &headers {
        let cors = own_cors && name.as_str().starts_with("access-control-");
        if !cors && !NOT_TAKEN.contains(name) {
            response.headers_mut().append(name, value.clone());
        }
    }
    Ok(response)
}

fn plain(body: Bytes) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(body));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

fn read_body(answer: &Map<String, Value>) -> Result<Bytes, &'static str> {
    let encoded = match answer.get("isBase64Encoded") {
        None | Some(Value::Null) => false,
        Some(Value::Bool(encoded)) => *encoded,
        Some(_) => return Err("`isBase64Encoded` is neither true nor false"),
    };
    match answer.get("body") {
        None | Some(Value::Null) => Ok(Bytes::new()),
        Some(Value::String(body)) if encoded => {
            STANDARD.decode(body).map(Bytes::from).map_err(|_| "`body` is no base64")
        }
        Some(Value::String(body)) => Ok(Bytes::copy_from_slice(body.as_bytes())),
        Some(_) => Err("`body` is no text"),
    }
}

fn read_headers(answer: &Map<String, Value>) -> Result<HeaderMap, &'static str> {
    let mut headers = HeaderMap::new();
    let given = match answer.get("headers") {
        None | Some(Value::Null) => None,
        Some(Value::Object(given)) => Some(given),
        Some(_) => return Err("`headers` is no object"),
    };
    for (name, value) in given.into_iter().flatten() {
        let name = HeaderName::from_bytes(name.as_bytes()).map_err(|_| "a header's name is none")?;
        let value = match value {
            Value::String(text) => text.clone(),
            Value::Number(_) | Value::Bool(_) => value.to_string(),
            _ => return Err("a header's value is no text"),
        };
        headers.append(name, value.try_into().map_err(|_| "a header's value is none")?);
    }
    let cookies = match answer.get("cookies") {
        None | Some(Value::Null) => &[],
        Some(Value::Array(cookies)) => cookies.as_slice(),
        Some(_) => return Err("`cookies` is no list"),
    };
    for cookie in cookies {
        let cookie = cookie.as_str().ok_or("a cookie is no text")?;
        headers.append(header::SET_COOKIE, cookie.try_into().map_err(|_| "a cookie is no header's value")?);
    }
    Ok(headers)
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;
    use http_body_util::BodyExt;
    use serde_json::json;

    use super::*;

    fn read_json(answer: Value) -> Result<Response<Full<Bytes>>, &'static str> {
        read(answer.to_string().as_bytes(), false)
    }

    /// `expected`: status, content type, body.
    fn check(answer: Value, expected: (u16, Option<&str>, &str)) {
        let response = read_json(answer.clone()).unwrap_or_else(|why| panic!("{answer}: {why}"));
        let content_type =
            response.headers().get(header::CONTENT_TYPE).map(|value| value.to_str().expect("text"));
        assert_eq!((response.status().as_u16(), content_type), (expected.0, expected.1), "{answer}");
        let body = BodyExt::collect(response.into_body()).now_or_never().expect("all there");
        assert_eq!(body.expect("whole").to_bytes(), expected.2, "{answer}");
    }

    #[test]
    fn an_answer_is_status_headers_and_body() {
        check(
            json!({"statusCode": 201, "headers": {"Content-Type": "application/json"}, "body": "{}"}),
            (201, Some("application/json"), "{}"),
        );
        check(json!({"statusCode": 200, "body": "hi"}), (200, Some("text/plain;charset=UTF-8"), "hi"));
        check(json!({"statusCode": 204, "headers": null, "body": null, "cookies": null}), (204, None, ""));
        check(
            json!({"statusCode": 200, "body": "aGk=", "isBase64Encoded": true, "headers": {"content-type": "a/b"}}),
            (200, Some("a/b"), "hi"),
        );
    }

    #[test]
    fn an_answer_without_a_status_is_the_body_of_a_200() {
        check(json!({"message": "hi"}), (200, Some("application/json"), r#"{"message":"hi"}"#));
        check(json!([1]), (200, Some("application/json"), "[1]"));
        check(json!("hi"), (200, Some("application/json"), "hi"));
    }

    #[test]
    fn cookies_become_set_cookie_one_by_one() {
        let response =
            read_json(json!({"statusCode": 200, "cookies": ["a=1; Path=/", "b=2"]})).expect("good");
        let cookies: Vec<_> = response.headers().get_all(header::SET_COOKIE).iter().collect();
        assert_eq!(cookies, ["a=1; Path=/", "b=2"]);
    }

    #[test]
    fn a_function_does_not_speak_for_the_gateway() {
        let answer = json!({"statusCode": 200, "body": "hi", "headers": {
            "content-length": 99, "transfer-encoding": "chunked", "access-control-allow-origin": "*", "x-own": 1,
        }});
        let response = read(answer.to_string().as_bytes(), true).expect("good");
        let names: Vec<_> = response.headers().keys().map(HeaderName::as_str).collect();
        assert_eq!(names, ["x-own", "content-type"]);
        let response = read(answer.to_string().as_bytes(), false).expect("good");
        assert_eq!(response.headers()["access-control-allow-origin"], "*");
    }

    #[test]
    fn what_is_no_answer_is_refused() {
        assert!(read(b"not json", false).is_err());
        for answer in [
            json!({"statusCode": "200"}),
            json!({"statusCode": 99}),
            json!({"statusCode": 101}),
            json!({"statusCode": 200.5}),
            json!({"statusCode": null}),
            json!({"statusCode": 200, "body": {"a": 1}}),
            json!({"statusCode": 200, "body": "?", "isBase64Encoded": true}),
            json!({"statusCode": 200, "isBase64Encoded": "yes"}),
            json!({"statusCode": 200, "headers": []}),
            json!({"statusCode": 200, "headers": {"a b": "c"}}),
            json!({"statusCode": 200, "headers": {"a": "b\r\nc: d"}}),
            json!({"statusCode": 200, "headers": {"a": ["b"]}}),
            json!({"statusCode": 200, "cookies": "a=1"}),
        ] {
            assert!(read_json(answer.clone()).is_err(), "{answer}");
        }
    }
}
