//! A local AWS whose functions are in the test's hands.

use std::path::Path;
use std::time::Duration;

use anyhow::{Result, ensure};
use reqwest::{Client, Method, RequestBuilder, Response, StatusCode};
use serde::Deserialize;
use serde_json::{Value, json};
use tempfile::TempDir;
use tests::fixture::{self, Functions};
use tests::local_aws::{LocalAws, Setup};
use tests::test_app::eventually;

/// The functions of the template.
pub(crate) const FUNCTIONS: [&str; 2] = ["main", "brief"];

pub(crate) struct Runtime {
    pub(crate) aws: LocalAws,
    pub(crate) functions: Functions,
    pub(crate) client: Client,
    _folder: TempDir,
}

/// How a test's local AWS differs from the usual.
#[derive(Default)]
pub(crate) struct Changes {
    template: Vec<(String, String)>,
    arguments: Vec<String>,
    variables: Vec<(String, String)>,
    state: Option<std::path::PathBuf>,
}

/// An element of `GET /functions`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub(crate) struct Instance {
    pub(crate) function: String,
    pub(crate) pid: i32,
    pub(crate) state: String,
    pub(crate) init_ms: Option<f64>,
    pub(crate) invocations: u64,
}

/// What the Invoke API said.
#[derive(Debug)]
pub(crate) struct Invoked {
    pub(crate) status: StatusCode,
    pub(crate) function_error: Option<String>,
    pub(crate) error_type: Option<String>,
    pub(crate) payload: Value,
}

impl Changes {
    pub(crate) fn replace(mut self, from: &str, to: &str) -> Self {
        self.template.push((from.to_owned(), to.to_owned()));
        self
    }

    pub(crate) fn argument(mut self, argument: impl Into<String>) -> Self {
        self.arguments.push(argument.into());
        self
    }

    pub(crate) fn variable(mut self, name: &str, value: &str) -> Self {
        self.variables.push((name.to_owned(), value.to_owned()));
        self
    }

    pub(crate) fn state(mut self, folder: &Path) -> Self {
        self.state = Some(folder.to_owned());
        self
    }

    pub(crate) async fn start(self) -> Result<Runtime> {
        let folder = tempfile::Builder::new().prefix("runtime-test-").tempdir()?;
        let functions = Functions::listen().await?;
        let binaries = folder.path().join("functions");
        fixture::binaries(&binaries, &FUNCTIONS)?;
        let template = folder.path().join("template.yaml");
        std::fs::write(&template, self.template(functions.address())?)?;
        let setup = Setup::new(&template).functions(&binaries);
        let setup = self.arguments.iter().fold(setup, Setup::argument);
        let setup = self.variables.iter().fold(setup, |setup, (name, value)| setup.variable(name, value));
        let setup = self.state.iter().fold(setup, Setup::state);
        Ok(Runtime { aws: setup.start().await?, functions, client: Client::new(), _folder: folder })
    }

    fn template(&self, address: &str) -> Result<String> {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("runtime/template.yaml");
        let mut text = std::fs::read_to_string(path)?;
        let address = ("Default: nobody".to_owned(), format!("Default: {address}"));
        for (from, to) in self.template.iter().chain([&address]) {
            ensure!(text.matches(from).count() == 1, "the template must have this once: {from}");
            text = text.replace(from, to);
        }
        Ok(text)
    }
}

impl Runtime {
    pub(crate) async fn start() -> Result<Self> {
        Changes::default().start().await
    }

    /// A request to the HTTP API.
    pub(crate) fn http(&self, method: Method, path: &str) -> RequestBuilder {
        self.client.request(method, format!("{}{path}", self.aws.endpoints.http))
    }

    /// Invokes a function over the Invoke API.
    pub(crate) async fn invoke(&self, function: &str, event: &Value) -> Result<Invoked> {
        self.invoking(function, event).await?
    }

    /// Makes the fixture do this.
    pub(crate) async fn tell(&self, function: &str, instruction: Value) -> Result<Invoked> {
        self.invoke(function, &json!({ "fixture": instruction })).await
    }

    /// Starts an invocation that a test is going to hold.
    pub(crate) fn invoking(&self, function: &str, event: &Value) -> tokio::task::JoinHandle<Result<Invoked>> {
        let request = self.client.post(self.invoke_url(function)).json(event);
        tokio::spawn(async move { Invoked::read(request.send().await?).await })
    }

    pub(crate) fn invoke_url(&self, function: &str) -> String {
        format!("{}/2015-03-31/functions/{function}/invocations", self.aws.endpoints.control)
    }

    pub(crate) async fn instances(&self) -> Result<Vec<Instance>> {
        let url = format!("{}/functions", self.aws.endpoints.control);
        Ok(self.client.get(url).send().await?.json().await?)
    }

    /// The one instance that there is, once it is idle: a caller has its answer before the process asks for more.
    pub(crate) async fn idle_instance(&self) -> Instance {
        eventually("there is one idle instance", async || {
            match self.instances().await.map_err(|why| why.to_string())?.as_slice() {
                [one] if one.state == "idle" => Ok(one.clone()),
                other => Err(format!("{other:?}")),
            }
        })
        .await
    }

    /// The lines of the log that are JSON objects with this key and value.
    pub(crate) fn log_lines(&self, key: &str, value: &str) -> Vec<Value> {
        let log = self.aws.log();
        let lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        lines.filter(|line| line[key] == value).collect()
    }

    /// A line of the log, which may be written a moment after what it tells of.
    pub(crate) async fn log_line(&self, key: &str, value: &str) -> Value {
        eventually("the line is in the log", async || {
            self.log_lines(key, value).into_iter().next().ok_or_else(|| self.aws.log())
        })
        .await
    }
}

impl Invoked {
    pub(crate) async fn read(response: Response) -> Result<Self> {
        let header = |name: &str| Some(response.headers().get(name)?.to_str().ok()?.to_owned());
        let (function_error, error_type) = (header("x-amz-function-error"), header("x-amzn-errortype"));
        let status = response.status();
        let text = response.text().await?;
        let payload = serde_json::from_str(&text).unwrap_or(Value::String(text));
        Ok(Self { status, function_error, error_type, payload })
    }

    /// Checks that the function failed with this `errorType`, and gives its `errorMessage`.
    #[track_caller]
    pub(crate) fn check_failed(&self, error_type: &str) -> String {
        assert_eq!(self.status, StatusCode::OK, "{self:?}");
        assert_eq!(self.function_error.as_deref(), Some("Unhandled"), "{self:?}");
        assert_eq!(self.payload["errorType"], error_type, "{self:?}");
        self.payload["errorMessage"].as_str().expect("a message").to_owned()
    }

    /// Checks that the function answered this.
    #[track_caller]
    pub(crate) fn check_answered(&self, payload: &Value) {
        assert_eq!((self.status, &self.function_error), (StatusCode::OK, &None), "{self:?}");
        assert_eq!(self.payload, *payload);
    }
}

/// Waits until no process has this id.
pub(crate) async fn gone(pid: i32) {
    eventually("the process is gone", async || match is_alive(pid) {
        true => Err(format!("{pid} lives")),
        false => Ok(()),
    })
    .await;
}

/// Whether a process with this id runs. One that has ended and that nobody has waited for does not.
pub(crate) fn is_alive(pid: i32) -> bool {
    let pid = nix::unistd::Pid::from_raw(pid);
    let exists = nix::sys::signal::kill(pid, None).is_ok();
    let state = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let zombie = state.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('Z'));
    exists && !zombie
}

/// Longer than anything here takes that is not to be waited for.
pub(crate) const SOON: Duration = Duration::from_secs(10);
