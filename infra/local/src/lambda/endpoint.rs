//! Calls to functions that somebody else runs: the Invoke API of `cargo lambda watch`, or any other.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, ensure};
use bytes::Bytes;
use http::{Request, Response, StatusCode, Uri, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;

use super::{Invocation, InvokeError, MAX_PAYLOAD_BYTES, failure};

/// How long a gateway waits for a function that has never answered: it may have to be compiled first.
const FIRST_ANSWER_LIMIT: Duration = Duration::from_secs(30 * 60);

#[derive(Debug)]
pub(super) struct Endpoint {
    base: String,
    client: Client<HttpConnector, Full<Bytes>>,
    /// Function name → whether it has answered yet.
    answered: BTreeMap<String, AtomicBool>,
}

impl Endpoint {
    pub(super) fn new(url: &str, functions: impl Iterator<Item = String>) -> Result<Self> {
        let uri: Uri = url.parse().with_context(|| format!("`{url}` is no URL"))?;
        ensure!(
            uri.scheme_str() == Some("http") && uri.host().is_some(),
            "`{url}`: http://<host>:<port> is wanted"
        );
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        Ok(Self {
            base: format!("{}/2015-03-31/functions", url.trim_end_matches('/')),
            client: Client::builder(TokioExecutor::new()).build(connector),
            answered: functions.map(|name| (name, AtomicBool::new(false))).collect(),
        })
    }

    pub(super) fn patience(&self, function: &str, limit: Duration) -> Duration {
        let answered = self.answered.get(function).is_none_or(|answered| answered.load(Ordering::Relaxed));
        if answered { limit } else { FIRST_ANSWER_LIMIT }
    }

    pub(super) async fn invoke(&self, function: &str, payload: Bytes) -> Result<Invocation, InvokeError> {
        let answered =
            self.answered.get(function).ok_or_else(|| InvokeError::NotFound(function.to_owned()))?;
        let unreachable = |error: anyhow::Error| InvokeError::Unreachable(error);
        let request = Request::post(format!("{}/{function}/invocations", self.base))
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::from(payload))
            .map_err(|error| unreachable(error.into()))?;
        let response = self.client.request(request).await.map_err(|error| unreachable(error.into()))?;
        let invocation = read(function, response).await?;
        answered.store(true, Ordering::Relaxed);
        Ok(invocation)
    }
}

async fn read(function: &str, response: Response<Incoming>) -> Result<Invocation, InvokeError> {
    let (parts, body) = response.into_parts();
    let header = |name: &str| Some(parts.headers.get(name)?.to_str().ok()?.to_owned());
    let body = Limited::new(body, MAX_PAYLOAD_BYTES).collect().await;
    let payload = match body {
        Ok(body) => body.to_bytes(),
        Err(error) if error.is::<http_body_util::LengthLimitError>() => {
            return Ok(Invocation {
                payload: failure::answer_too_large(),
                function_error: Some("Unhandled".to_owned()),
                request_id: String::new(),
                cold_start: false,
            });
        }
        Err(error) => return Err(InvokeError::Unreachable(anyhow!(error))),
    };
    let function_error = match parts.status {
        StatusCode::NOT_FOUND => return Err(InvokeError::NotFound(function.to_owned())),
        StatusCode::TOO_MANY_REQUESTS => return Err(InvokeError::Throttled),
        status if status.is_success() => header("x-amz-function-error"),
        // `cargo lambda watch` says with it what Lambda says with `X-Amz-Function-Error`.
        StatusCode::INTERNAL_SERVER_ERROR => Some("Unhandled".to_owned()),
        status => return Err(InvokeError::Unreachable(anyhow!("the invoke endpoint answered {status}"))),
    };
    let request_id = header("x-amzn-requestid").or_else(|| header("lambda-runtime-aws-request-id"));
    Ok(Invocation { payload, function_error, request_id: request_id.unwrap_or_default(), cold_start: false })
}
