//! Starts the real binary `local` for a test, on free ports and with a state of its own.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::Deserialize;
use serde_json::Value;
use tempfile::TempDir;
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep, timeout};

/// How long a start may take. Postgres and its migrations are part of it.
const START_PATIENCE: Duration = Duration::from_secs(60);

/// How long a clean stop may take.
const STOP_PATIENCE: Duration = Duration::from_secs(30);

/// How often a condition is looked at that nothing tells us of.
const GLANCE: Duration = Duration::from_millis(5);

/// What tells that everything is ready, and where.
const ENDPOINTS: &str = "endpoints.json";

/// Where the local AWS is: `endpoints.json`.
#[derive(Clone, Debug, Deserialize)]
pub struct Endpoints {
    /// The base URL of the HTTP API, if the template has one.
    #[serde(default)]
    pub http: String,
    /// Where clients connect: `ws://…/<stage>`.
    #[serde(default)]
    pub websocket: String,
    /// The base URL of `@connections`: `http://…/<stage>`.
    #[serde(default)]
    pub management: String,
    /// The base URL of SQS, if the template has queues.
    #[serde(default)]
    pub sqs: String,
    /// The base URL of the control API.
    pub control: String,
}

/// How to start a local AWS.
#[derive(Debug)]
pub struct Setup {
    template: PathBuf,
    functions: Option<PathBuf>,
    arguments: Vec<OsString>,
    environment: Vec<(OsString, OsString)>,
    state: Option<PathBuf>,
    own_process_group: bool,
    /// Of the HTTP API and of the WebSocket API; 0 for any.
    ports: [u16; 2],
}

/// A running local AWS. Dropped without [`LocalAws::stop`], it is killed.
#[derive(Debug)]
pub struct LocalAws {
    /// Where it is.
    pub endpoints: Endpoints,
    setup: Setup,
    child: Child,
    log: PathBuf,
    // Dropped last: the child has its files there.
    state: State,
}

#[derive(Debug)]
enum State {
    Own(TempDir),
    Given(PathBuf),
}

impl State {
    fn path(&self) -> &Path {
        match self {
            Self::Own(folder) => folder.path(),
            Self::Given(path) => path,
        }
    }
}

impl Setup {
    /// A local AWS that runs this template.
    pub fn new(template: impl Into<PathBuf>) -> Self {
        Self {
            template: template.into(),
            functions: None,
            arguments: Vec::new(),
            environment: Vec::new(),
            state: None,
            own_process_group: false,
            ports: [0, 0],
        }
    }

    /// Takes the function binaries from this folder instead of the one where `local` itself is.
    #[must_use]
    pub fn functions(mut self, folder: impl Into<PathBuf>) -> Self {
        self.functions = Some(folder.into());
        self
    }

    /// Adds an argument to `local up`.
    #[must_use]
    pub fn argument(mut self, argument: impl AsRef<OsStr>) -> Self {
        self.arguments.push(argument.as_ref().to_owned());
        self
    }

    /// Sets a variable in its environment. Of the test's own environment it gets what a shell needs, and no
    /// more: neither a developer's `DATABASE_URL` nor a setting of theirs may reach a test.
    #[must_use]
    pub fn variable(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.environment.push((name.as_ref().to_owned(), value.as_ref().to_owned()));
        self
    }

    /// Keeps its state in this folder, so that a second start finds it again.
    #[must_use]
    pub fn state(mut self, folder: impl Into<PathBuf>) -> Self {
        self.state = Some(folder.into());
        self
    }

    /// Puts it into a process group of its own, so that a Ctrl-C in the terminal is its owner's to answer.
    #[must_use]
    pub fn own_process_group(mut self) -> Self {
        self.own_process_group = true;
        self
    }

    /// Starts it and waits until it serves.
    pub async fn start(mut self) -> Result<LocalAws> {
        let state = match self.state.take() {
            Some(path) => State::Given(path),
            None => State::Own(tempfile::Builder::new().prefix("local-aws-").tempdir()?),
        };
        std::fs::create_dir_all(state.path())?;
        let log = state.path().join("test.log");
        std::fs::File::create(&log)?;
        let mut child = self.launch(state.path(), &log)?;
        let endpoints = ready(&mut child, state.path(), &log).await?;
        Ok(LocalAws { endpoints, setup: self, child, log, state })
    }

    fn launch(&self, state: &Path, log: &Path) -> Result<Child> {
        let folder = target_dir()?;
        let program = folder.join("local");
        ensure!(
            program.exists(),
            "{} is missing: `./dev test` builds it, or `cargo build --workspace --bins`",
            program.display()
        );
        // One that was killed has left its own.
        let _ = std::fs::remove_file(state.join(ENDPOINTS));
        let mut command = ending_with_us(&program);
        if self.own_process_group {
            command.process_group(0);
        }
        let [http, websocket] = self.ports.map(|port| port.to_string());
        command
            .arg("up")
            .arg("--template")
            .arg(&self.template)
            .args(["--http-port", &http, "--websocket-port", &websocket])
            .arg("--state")
            .arg(state)
            .arg("--functions")
            .arg(self.functions.as_deref().unwrap_or(&folder))
            .args(&self.arguments)
            .env_clear()
            .envs(
                ["PATH", "HOME", "TMPDIR", "USER", "LANG"]
                    .into_iter()
                    .filter_map(|name| Some((name, std::env::var_os(name)?))),
            )
            .envs(self.environment.iter().cloned())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(std::fs::File::options().append(true).open(log)?)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("{} cannot be started", program.display()))
    }
}

async fn ready(child: &mut Child, state: &Path, log: &Path) -> Result<Endpoints> {
    let file = state.join(ENDPOINTS);
    let log = || std::fs::read_to_string(log).unwrap_or_default();
    let late = Instant::now() + START_PATIENCE;
    loop {
        // It is written atomically when everything is ready, so that it is whole once it is there.
        if let Ok(text) = std::fs::read_to_string(&file) {
            return serde_json::from_str(&text).with_context(|| format!("endpoints.json is `{text}`"));
        }
        if let Some(status) = child.try_wait()? {
            bail!("local ended while it started, {status}:\n{}", log());
        }
        if Instant::now() > late {
            bail!("local is not ready after {START_PATIENCE:?}:\n{}", log());
        }
        sleep(GLANCE).await;
    }
}

impl LocalAws {
    /// Everything that it has written to its log so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Its state folder.
    pub fn state(&self) -> &Path {
        self.state.path()
    }

    /// Its process id.
    pub fn pid(&self) -> Option<u32> {
        self.child.id()
    }

    /// Sends it SIGTERM without waiting for what comes of it.
    pub fn terminate(&self) -> Result<()> {
        let pid = self.child.id().context("it has ended already")?;
        kill(Pid::from_raw(i32::try_from(pid)?), Signal::SIGTERM)?;
        Ok(())
    }

    /// Ends it as a power cut does, as far as a test can.
    pub async fn kill(mut self) -> Result<()> {
        Ok(self.child.kill().await?)
    }

    /// Kills it and starts it again in the same place: the HTTP API and the WebSocket API have the same addresses, the
    /// queues what they had, and all connections are gone without a word.
    pub async fn kill_and_restart(&mut self) -> Result<()> {
        self.child.kill().await?;
        self.setup.ports = [port(&self.endpoints.http)?, port(&self.endpoints.websocket)?];
        self.child = self.setup.launch(self.state.path(), &self.log)?;
        self.endpoints = ready(&mut self.child, self.state.path(), &self.log).await?;
        Ok(())
    }

    /// Ends it as Ctrl-C does, and waits for its end.
    pub async fn stop(mut self) -> Result<ExitStatus> {
        self.terminate()?;
        self.ended().await
    }

    /// Waits for its end.
    pub async fn ended(&mut self) -> Result<ExitStatus> {
        match timeout(STOP_PATIENCE, self.child.wait()).await {
            Ok(status) => Ok(status?),
            Err(_) => bail!("local has not ended after {STOP_PATIENCE:?}:\n{}", self.log()),
        }
    }

    /// Switches faults: the body of `PUT /faults`. `{}` clears them.
    pub async fn faults(&self, faults: &Value) -> Result<()> {
        let url = format!("{}/faults", self.endpoints.control);
        let response = reqwest::Client::new().put(url).json(faults).send().await?;
        let status = response.status();
        ensure!(status.is_success(), "PUT /faults: {status} {}", response.text().await?);
        Ok(())
    }
}

/// The port of an address; 0 of none.
fn port(url: &str) -> Result<u16> {
    if url.is_empty() {
        return Ok(0);
    }
    let url: http::Uri = url.parse()?;
    url.port_u16().with_context(|| format!("{url} has no port"))
}

/// A command that the system ends when this process is killed, where the system can do that: what is dropped in order is
/// killed by its `Drop`, but nobody drops anything for a test that ran into its time limit.
fn ending_with_us(program: &Path) -> Command {
    let folders = std::env::var_os("PATH").unwrap_or_default();
    let setpriv =
        std::env::split_paths(&folders).map(|folder| folder.join("setpriv")).find(|path| path.is_file());
    match setpriv.filter(|_| cfg!(target_os = "linux")) {
        Some(setpriv) => {
            let mut command = Command::new(setpriv);
            command.args(["--pdeathsig", "TERM", "--"]).arg(program);
            command
        }
        None => Command::new(program),
    }
}

/// The folder where cargo put the binaries of this test's profile.
pub fn target_dir() -> Result<PathBuf> {
    // Tests are in `deps` below it, binaries directly in it.
    let here = std::env::current_exe()?;
    let folder = here.parent().context("a program is in a folder")?;
    let folder =
        if folder.ends_with("deps") { folder.parent().context("`deps` is in a folder")? } else { folder };
    Ok(folder.to_owned())
}

/// The root of the workspace, where `template.yaml` is.
pub fn workspace_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the crate is in the workspace").to_owned()
}
