//! Lambda: gives calls to functions, and their answers back.
//!
//! [`Lambda::processes`] runs the functions' binaries itself, over the Runtime API: one process for each call in
//! flight, up to a limit, and idle ones again before new ones (`pool`, `instance`).
//! [`Lambda::endpoint`] gives the calls to somebody else's Invoke API, such as `cargo lambda watch`.

mod endpoint;
mod failure;
mod instance;
mod pool;
mod process;
mod runtime_api;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, ensure};
use bytes::Bytes;
use serde::Serialize;
use time::OffsetDateTime;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::endpoint::Endpoint;
use self::pool::{Job, Pool, Refused};
use self::process::Spawner;
use crate::console::Console;
use crate::faults::Faults;
use crate::ids::trace_id;
use crate::template::Function;

/// Lambda's limit for a synchronous call, in either direction: 6 MB, as its error message counts them.
pub const MAX_PAYLOAD_BYTES: usize = 6_291_556;

/// Invokes functions. Clones share them.
#[derive(Clone, Debug)]
pub struct Lambda(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    backend: Backend,
    faults: Faults,
    stop: CancellationToken,
    instances: TaskTracker,
}

#[derive(Debug)]
enum Backend {
    Processes(BTreeMap<String, Arc<Pool>>),
    Endpoint(Box<Endpoint>),
}

/// How to run the functions' binaries.
#[derive(Debug)]
pub struct Processes {
    /// The functions; the binary of each has its name.
    pub functions: Vec<Function>,
    /// The folder of the binaries.
    pub binaries: PathBuf,
    /// The most instances of one function.
    pub concurrency: usize,
    /// How long a process may take, and how long it is kept.
    pub clocks: Clocks,
    /// Where the functions' output goes.
    pub console: Console,
    /// Faults to do to the calls.
    pub faults: Faults,
}

/// Lambda's clocks for a process. They can be set shorter, so that tests can see them.
#[derive(Clone, Copy, Debug)]
pub struct Clocks {
    /// A process that has not asked for its first call by then is killed. Not counted in the function's timeout.
    pub init: Duration,
    /// A process that has had no call for so long is ended.
    pub idle: Duration,
}

impl Default for Clocks {
    fn default() -> Self {
        Self { init: Duration::from_secs(10), idle: Duration::from_secs(300) }
    }
}

/// What came of an invocation.
#[derive(Clone, Debug)]
pub struct Invocation {
    /// What the function answered; with `function_error`, `{"errorType", "errorMessage"}`.
    pub payload: Bytes,
    /// `Unhandled` when the function threw, timed out or exited.
    pub function_error: Option<String>,
    /// Lambda's id of the call.
    pub request_id: String,
    /// Whether it was the first call of a new instance.
    pub cold_start: bool,
}

impl Invocation {
    /// Why the call failed, in Lambda's words: for the log.
    pub fn error_message(&self) -> Option<String> {
        self.function_error.as_ref()?;
        failure::message(&self.payload)
    }
}

/// Why a function could not be invoked at all.
#[derive(Debug, thiserror::Error)]
pub enum InvokeError {
    /// There is no such function.
    #[error("there is no function `{0}`")]
    NotFound(String),
    /// More calls wait for the function than Lambda would take.
    #[error("too many calls wait for the function already")]
    Throttled,
    /// The event is larger than [`MAX_PAYLOAD_BYTES`].
    #[error("the event of {0} bytes is larger than Lambda's {MAX_PAYLOAD_BYTES}")]
    TooLarge(usize),
    /// Nobody takes the call.
    #[error("the call reaches nobody")]
    Unreachable(#[source] anyhow::Error),
}

/// What one process of a function is doing: an element of `GET /functions`.
#[derive(Clone, Debug, Serialize)]
pub struct InstanceStatus {
    /// The function's name.
    pub function: String,
    /// The process id; absent before it has started.
    pub pid: Option<u32>,
    /// What it is doing.
    pub state: InstanceState,
    /// Milliseconds from the start of the process to its first request for a call; absent before.
    pub init_ms: Option<f64>,
    /// How many calls it was given.
    pub invocations: u64,
}

/// What an instance is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum InstanceState {
    /// It has not asked for its first call.
    Starting,
    /// It waits for a call.
    Idle,
    /// It works on a call.
    Busy,
}

impl Lambda {
    /// Runs the functions' binaries here. None is started before it is called.
    ///
    /// # Errors
    /// When the limit is none, or the system cannot start a thread.
    pub fn processes(options: Processes) -> Result<Self> {
        ensure!(options.concurrency > 0, "a concurrency of 0 leaves every call waiting");
        let (stop, instances) = (CancellationToken::new(), TaskTracker::new());
        let spawner = Arc::new(Spawner::start()?);
        let pools = options.functions.into_iter().map(|function| {
            let setup = process::Setup::new(
                &function,
                &options.binaries,
                Arc::clone(&spawner),
                options.console.clone(),
            );
            let (limit, stop, tasks) = (options.concurrency, stop.clone(), instances.clone());
            let pool = Pool::new(setup, function.timeout, options.clocks, limit, stop, tasks);
            (function.name, Arc::new(pool))
        });
        let backend = Backend::Processes(pools.collect());
        Ok(Self(Arc::new(Shared { backend, faults: options.faults, stop, instances })))
    }

    /// Gives the calls to the Invoke API at `url`, `http://host:port`.
    ///
    /// # Errors
    /// When the URL is no such URL.
    pub fn endpoint(url: &str, functions: &[Function], faults: Faults) -> Result<Self> {
        let names = functions.iter().map(|function| function.name.clone());
        let backend = Backend::Endpoint(Box::new(Endpoint::new(url, names)?));
        let (stop, instances) = (CancellationToken::new(), TaskTracker::new());
        Ok(Self(Arc::new(Shared { backend, faults, stop, instances })))
    }

    /// Invokes a function by its name and waits for its answer, as Lambda's own synchronous call:
    /// `Ok` with `function_error` set when the function threw, timed out or exited.
    /// A caller that stops waiting does not stop the function.
    ///
    /// # Errors
    /// When the function could not be invoked at all.
    pub async fn invoke(&self, function: &str, payload: Bytes) -> Result<Invocation, InvokeError> {
        if payload.len() > MAX_PAYLOAD_BYTES {
            return Err(InvokeError::TooLarge(payload.len()));
        }
        let faults = self.0.faults.current();
        if let Some(delay) = faults.as_ref().and_then(|faults| faults.invoke_delay(function)) {
            tokio::time::sleep(delay).await;
        }
        let pools = match &self.0.backend {
            Backend::Endpoint(endpoint) => return endpoint.invoke(function, payload).await,
            Backend::Processes(pools) => pools,
        };
        let pool = pools.get(function).ok_or_else(|| InvokeError::NotFound(function.to_owned()))?;
        let request_id = uuid::Uuid::new_v4().to_string();
        let (answer, wait) = oneshot::channel();
        let job = Job {
            request_id: request_id.clone(),
            trace_id: trace_id(OffsetDateTime::now_utc()),
            payload,
            kill_after: faults.and_then(|faults| faults.kill_after(function)),
            answer,
        };
        let stopping = || InvokeError::Unreachable(anyhow::anyhow!("the local AWS is stopping"));
        pool.submit(job).map_err(|refused| match refused {
            Refused::TooMany => InvokeError::Throttled,
            Refused::Stopping => stopping(),
        })?;
        let answer = wait.await.map_err(|_| stopping())?;
        Ok(Invocation {
            payload: answer.payload,
            function_error: answer.failed.then(|| "Unhandled".to_owned()),
            request_id,
            cold_start: answer.cold_start,
        })
    }

    /// How long a gateway waits for this function: `limit`, but for as long as it takes while
    /// `cargo lambda watch` compiles it for the first time.
    pub fn patience(&self, function: &str, limit: Duration) -> Duration {
        match &self.0.backend {
            Backend::Processes(_) => limit,
            Backend::Endpoint(endpoint) => endpoint.patience(function, limit),
        }
    }

    /// What every process is doing. Empty when somebody else runs the functions.
    pub fn instances(&self) -> Vec<InstanceStatus> {
        match &self.0.backend {
            Backend::Processes(pools) => pools.values().flat_map(|pool| pool.statuses()).collect(),
            Backend::Endpoint(_) => Vec::new(),
        }
    }

    /// Ends every process, whatever it is doing, and waits until they are gone.
    pub async fn stop(&self) {
        self.0.stop.cancel();
        if let Backend::Processes(pools) = &self.0.backend {
            for pool in pools.values() {
                pool.close();
            }
        }
        self.0.instances.close();
        self.0.instances.wait().await;
    }
}
