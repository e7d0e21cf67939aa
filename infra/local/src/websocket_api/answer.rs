//! What a function answered: the proxy object `{statusCode, headers, body, …}`.

use std::collections::HashMap;

use http::{HeaderValue, StatusCode};
use serde::Deserialize;
use serde_json::Value;

/// A valid answer of a function to a WebSocket event.
#[derive(Debug)]
pub(super) struct Answer {
    /// On `$connect`, the handshake's status.
    pub(super) status: StatusCode,
    /// Goes back to the client if the route has a route response.
    pub(super) body: Option<String>,
    /// `Sec-WebSocket-Protocol`, the only header that reaches a client.
    pub(super) protocol: Option<HeaderValue>,
}

/// The proxy object. API Gateway refuses one with any other key.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct ProxyObject {
    status_code: u16,
    #[serde(default)]
    headers: Option<HashMap<String, Value>>,
    #[serde(default)]
    multi_value_headers: Option<HashMap<String, Vec<Value>>>,
    #[serde(default)]
    body: Option<String>,
    #[serde(default, rename = "isBase64Encoded")]
    _is_base64_encoded: Option<bool>,
}

impl Answer {
    /// Reads what the function returned. `None`: it is no valid proxy object.
    pub(super) fn parse(payload: &[u8]) -> Option<Self> {
        let object: ProxyObject = serde_json::from_slice(payload).ok()?;
        let protocol = match object.protocol() {
            Some(value) => Some(HeaderValue::from_str(value).ok()?),
            None => None,
        };
        let status = StatusCode::from_u16(object.status_code).ok()?;
        // A 1xx would not end the handshake, and HTTP has no more than five classes.
        let status = (200..600).contains(&object.status_code).then_some(status)?;
        Some(Self { status, body: object.body, protocol })
    }
}

impl ProxyObject {
    fn protocol(&self) -> Option<&str> {
        let single = self.headers.iter().flatten();
        let multiple = self.multi_value_headers.iter().flatten();
        let mut all = single.chain(multiple.filter_map(|(name, values)| Some((name, values.first()?))));
        all.find(|(name, _)| name.eq_ignore_ascii_case("sec-websocket-protocol"))?.1.as_str()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proxy_object_is_read() {
        let answer = Answer::parse(
            br#"{"statusCode":201,"headers":{"sec-websocket-protocol":"chat","a":1},"multiValueHeaders":null,
                 "body":"{\"a\":\"b\"}","isBase64Encoded":false}"#,
        )
        .expect("valid");
        assert_eq!(answer.status, StatusCode::CREATED);
        assert_eq!(answer.body.as_deref(), Some(r#"{"a":"b"}"#));
        assert_eq!(answer.protocol.expect("given"), "chat");
    }

    #[test]
    fn nulls_and_absent_parts_are_fine() {
        for payload in [r#"{"statusCode":200}"#, r#"{"statusCode":200,"headers":null,"body":null}"#] {
            let answer = Answer::parse(payload.as_bytes()).expect(payload);
            assert_eq!((answer.body, answer.protocol), (None, None));
        }
    }

    #[test]
    fn the_protocol_may_be_a_multi_value_header() {
        let payload = br#"{"statusCode":200,"multiValueHeaders":{"Sec-WebSocket-Protocol":["a","b"]}}"#;
        assert_eq!(Answer::parse(payload).expect("valid").protocol.expect("given"), "a");
    }

    #[test]
    fn what_is_no_proxy_object_is_refused() {
        for payload in [
            "",
            "null",
            "200",
            "\"ok\"",
            "[]",
            "{}",
            r#"{"body":"no status"}"#,
            r#"{"statusCode":"200"}"#,
            r#"{"statusCode":101}"#,
            r#"{"statusCode":600}"#,
            r#"{"statusCode":200,"connectionId":"x"}"#,
            r#"{"statusCode":200,"cookies":[]}"#,
            r#"{"statusCode":200,"body":{"a":1}}"#,
            r#"{"statusCode":200,"headers":{"Sec-WebSocket-Protocol":"a\nb"}}"#,
        ] {
            assert!(Answer::parse(payload.as_bytes()).is_none(), "{payload}");
        }
    }
}
