//! Lambda: starts the function binaries and gives them their calls over the Runtime API.

use std::time::Duration;

use bytes::Bytes;

/// Invokes functions. Clones share them.
#[derive(Clone, Debug)]
pub struct Lambda {}

/// What came of an invocation.
#[derive(Clone, Debug)]
pub struct Invocation {
    /// What the function answered; with `function_error`, `{"errorType", "errorMessage"}`.
    pub payload: Bytes,
    /// `Unhandled` when the function threw, timed out or exited.
    pub function_error: Option<String>,
    /// Lambda's id of the call.
    pub request_id: String,
    /// Whether a new instance had to be started for it.
    pub cold_start: bool,
}

/// Why a function could not be invoked at all.
#[derive(Debug, thiserror::Error)]
pub enum InvokeError {
    /// There is no such function.
    #[error("there is no function `{0}`")]
    NotFound(String),
    /// Too many calls wait for it already.
    #[error("too many calls wait for the function already")]
    Throttled,
    /// Nobody answers at the invoke endpoint.
    #[error("the invoke endpoint cannot be reached")]
    Unreachable(#[source] anyhow::Error),
}

impl Lambda {
    /// Invokes a function by its name and waits for its answer, as Lambda's own synchronous call:
    /// `Ok` with `function_error` set when the function threw, timed out or exited.
    pub async fn invoke(&self, function: &str, payload: Bytes) -> Result<Invocation, InvokeError> {
        let _ = payload;
        Err(InvokeError::NotFound(function.to_owned()))
    }

    /// How long a gateway waits for this function: `limit`, but for as long as it takes while
    /// `cargo lambda watch` compiles it for the first time.
    pub fn patience(&self, function: &str, limit: Duration) -> Duration {
        let _ = function;
        limit
    }
}
