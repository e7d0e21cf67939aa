//! A client of the HTTP API that shows everything of an answer.

use std::time::Duration;

use http::{HeaderMap, Method, StatusCode, header};
use serde_json::Value;

use crate::ledger::Ledger;

/// How long any answer may take before a test gives up: far over what the slowest honest one takes.
pub const PATIENCE: Duration = Duration::from_secs(40);

/// The HTTP API of one local AWS.
#[derive(Clone)]
pub struct Api {
    client: reqwest::Client,
    url: String,
    ledger: Ledger,
}

impl Api {
    /// The API at this address, such as `http://127.0.0.1:3000`.
    pub fn new(url: &str, ledger: Ledger) -> Self {
        let client = reqwest::Client::builder().timeout(PATIENCE).no_proxy().build();
        Self { client: client.expect("the options fit together"), url: url.to_owned(), ledger }
    }

    /// The notes of the test.
    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// A call to be filled in.
    pub fn call(&self, method: Method, path: &str) -> Call {
        Call(self.client.request(method, format!("{}{path}", self.url)))
    }

    /// A GET without credentials.
    pub async fn get(&self, path: &str) -> Answer {
        self.call(Method::GET, path).send().await
    }

    /// A POST without credentials.
    pub async fn post(&self, path: &str, body: Value) -> Answer {
        self.call(Method::POST, path).json(&body).send().await
    }
}

/// A call that was not made yet.
#[must_use]
pub struct Call(reqwest::RequestBuilder);

impl Call {
    /// With a session's token.
    pub fn token(self, token: &str) -> Self {
        self.header("authorization", &format!("Bearer {token}"))
    }

    /// With a header.
    pub fn header(self, name: &str, value: &str) -> Self {
        Self(self.0.header(name, value))
    }

    /// With a JSON body.
    pub fn json(self, body: &Value) -> Self {
        Self(self.0.json(body))
    }

    /// With any body.
    pub fn body(self, body: impl Into<reqwest::Body>) -> Self {
        Self(self.0.header("content-type", "application/json").body(body))
    }

    /// Makes the call.
    pub async fn send(self) -> Answer {
        self.try_send().await.expect("the gateway answers")
    }

    /// Makes the call to a gateway that may be away.
    ///
    /// # Errors
    /// No whole answer comes.
    pub async fn try_send(self) -> reqwest::Result<Answer> {
        let response = self.0.send().await?;
        let (status, headers) = (response.status(), response.headers().clone());
        let body = response.text().await?;
        Ok(Answer { status, headers, body })
    }
}

/// An answer of the HTTP API.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The status.
    pub status: StatusCode,
    /// The headers.
    pub headers: HeaderMap,
    /// The body.
    pub body: String,
}

impl Answer {
    /// The body as JSON; `null` if there is none.
    #[track_caller]
    pub fn json(&self) -> Value {
        if self.body.is_empty() {
            return Value::Null;
        }
        match serde_json::from_str(&self.body) {
            Ok(value) => value,
            Err(error) => panic!("{} is no JSON ({error}): {:?}", self.status, self.body),
        }
    }

    /// The body, if this is the status.
    #[track_caller]
    pub fn expect(&self, status: u16) -> Value {
        assert_eq!(self.status.as_u16(), status, "{}", self.body);
        if status == 204 {
            assert_eq!(self.body, "");
        } else {
            assert_eq!(self.content_type(), "application/json");
        }
        self.json()
    }

    /// The error, if the answer is this one in the envelope that all errors have.
    #[track_caller]
    pub fn refused(&self, status: u16, code: &str) -> Value {
        assert_eq!(self.status.as_u16(), status, "{}", self.body);
        assert_eq!(self.content_type(), "application/json");
        let mut body = self.json();
        assert_eq!(body.as_object().map(serde_json::Map::len), Some(1), "{body}");
        let error = body["error"].take();
        check_failure(&error, code, &["code", "message", "request_id"]);
        assert_eq!(self.headers.contains_key(header::RETRY_AFTER), code == "throttled", "{:?}", self.headers);
        error
    }

    /// The names of the fields that were refused, if that is why.
    #[track_caller]
    pub fn invalid(&self) -> Vec<String> {
        field_names(&self.refused(422, "validation_failed"))
    }

    /// All that a caller can tell this answer from another one by: everything but the request id and the date.
    #[track_caller]
    pub fn appearance(&self) -> (u16, Vec<(String, String)>, Value) {
        let mut body = self.json();
        if let Some(error) = body.get_mut("error").and_then(Value::as_object_mut) {
            error.remove("request_id");
        }
        let headers = self.headers.iter().filter(|(name, _)| {
            // The length of the request id is not of interest, its value is random.
            !["date", "apigw-requestid", "x-amzn-requestid", "x-request-id"].contains(&name.as_str())
        });
        let mut headers: Vec<_> = headers
            .map(|(name, value)| (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into_owned()))
            .collect();
        headers.sort();
        (self.status.as_u16(), headers, body)
    }

    fn content_type(&self) -> &str {
        self.headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }
}

/// Checks what every error has, in a body as in a frame.
#[track_caller]
pub fn check_failure(error: &Value, code: &str, always: &[&str]) {
    assert_eq!(error["code"], code, "{error}");
    let extra = match code {
        "validation_failed" => Some("fields"),
        "throttled" => Some("retry_after_ms"),
        _ => None,
    };
    let expected: Vec<&str> = always.iter().copied().chain(extra).collect();
    assert_keys(error, &expected, &[]);
    for text in ["message", "request_id"] {
        assert!(error[text].as_str().is_some_and(|text| !text.is_empty()), "{text} is empty: {error}");
    }
    if code == "validation_failed" {
        let fields = error["fields"].as_object();
        let named = fields.is_some_and(|fields| {
            !fields.is_empty() && fields.values().all(|reason| reason.as_str().is_some_and(|r| !r.is_empty()))
        });
        assert!(named, "no reasons: {error}");
    }
    if code == "throttled" {
        assert!(error["retry_after_ms"].is_u64(), "{error}");
    }
}

/// The names of the fields in a `validation_failed`.
#[track_caller]
pub fn field_names(error: &Value) -> Vec<String> {
    let fields = error["fields"].as_object();
    fields.unwrap_or_else(|| panic!("no fields: {error}")).keys().cloned().collect()
}

/// Checks that an object has all of these keys and no other but the optional ones.
#[track_caller]
pub fn assert_keys(object: &Value, always: &[&str], sometimes: &[&str]) {
    let Some(map) = object.as_object() else { panic!("no object: {object}") };
    for key in always {
        assert!(map.contains_key(*key), "{key} is missing: {object}");
    }
    for key in map.keys() {
        assert!(
            always.contains(&key.as_str()) || sometimes.contains(&key.as_str()),
            "{key} is new: {object}"
        );
    }
}
