//! Starting a function's binary: its environment, its output, and its end together with this process.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::time::Duration;

use anyhow::{Context as _, Result};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::io::AsyncRead;
use tokio::process::{Child, Command};
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::task::JoinSet;

use crate::child;
use crate::console::Console;
use crate::ids::REGION;
use crate::local_values::CREDENTIALS;
use crate::template::Function;

/// How many of a process's last lines are told when it does not start.
const LAST_WORDS: usize = 8;

/// How long the output of an ended process is read on. It ends with the process, unless it left a child behind.
const OUTPUT_GRACE: Duration = Duration::from_millis(500);

/// Everything that the processes of one function have in common.
#[derive(Debug)]
pub(super) struct Setup {
    pub(super) function: String,
    pub(super) console: Console,
    program: PathBuf,
    environment: BTreeMap<String, String>,
    spawner: Arc<Spawner>,
}

impl Setup {
    pub(super) fn new(function: &Function, binaries: &Path, spawner: Arc<Spawner>, console: Console) -> Self {
        Self {
            program: binaries.join(&function.name),
            environment: environment(function),
            function: function.name.clone(),
            spawner,
            console,
        }
    }

    /// Starts a process that asks for its calls at `runtime_api`, `127.0.0.1:<port>`.
    pub(super) async fn start(&self, runtime_api: &str) -> Result<Process> {
        // What is in the middle of a call does not notice that nobody waits for its answer.
        let mut command = child::ending_with_us(&self.program, "KILL");
        command
            .env_clear()
            .envs(&self.environment)
            .env("AWS_LAMBDA_RUNTIME_API", runtime_api)
            .env("AWS_LAMBDA_LOG_STREAM_NAME", format!("local/[$LATEST]{}", uuid::Uuid::new_v4().simple()))
            // Ctrl-C in the terminal is for us: sockets are closed in order first, and functions still run then.
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        // Through `setpriv` a missing program would only be seen as an exit status.
        std::fs::metadata(&self.program)
            .with_context(|| format!("{} is not there", self.program.display()))?;
        let child = self
            .spawner
            .spawn(command)
            .await
            .with_context(|| format!("starting {}", self.program.display()))?;
        Ok(Process::new(child, self))
    }
}

/// What a real instance finds in its environment, and what the template adds. Of our own environment only `PATH`.
fn environment(function: &Function) -> BTreeMap<String, String> {
    let name = &function.name;
    let lambda = [
        ("_HANDLER", "bootstrap".to_owned()),
        ("AWS_DEFAULT_REGION", REGION.to_owned()),
        ("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", function.memory_mb.to_string()),
        ("AWS_LAMBDA_FUNCTION_NAME", name.clone()),
        ("AWS_LAMBDA_FUNCTION_VERSION", "$LATEST".to_owned()),
        ("AWS_LAMBDA_INITIALIZATION_TYPE", "on-demand".to_owned()),
        ("AWS_LAMBDA_LOG_GROUP_NAME", format!("/aws/lambda/{name}")),
        ("AWS_REGION", REGION.to_owned()),
        ("LAMBDA_RUNTIME_DIR", "/var/runtime".to_owned()),
        ("LAMBDA_TASK_ROOT", "/var/task".to_owned()),
        ("LANG", "en_US.UTF-8".to_owned()),
        ("PATH", search_path().unwrap_or_else(|| "/usr/local/bin:/usr/bin:/bin".to_owned())),
        ("TZ", ":UTC".to_owned()),
    ];
    let credentials = CREDENTIALS.map(|(name, value)| (name, value.to_owned()));
    let fixed = lambda.into_iter().chain(credentials).map(|(name, value)| (name.to_owned(), value));
    fixed.chain(function.environment.clone()).collect()
}

fn search_path() -> Option<String> {
    std::env::var_os("PATH")?.into_string().ok()
}

/// The one thread that starts processes. The system ends a child when the *thread* that started it ends, and the
/// threads of the async runtime come and go.
#[derive(Debug)]
pub(super) struct Spawner {
    commands: mpsc::Sender<(std::process::Command, oneshot::Sender<io::Result<Child>>)>,
}

impl Spawner {
    /// Starts the thread. It ends, and what it started with it, when this is dropped.
    pub(super) fn start() -> Result<Self> {
        let (commands, queue) =
            mpsc::channel::<(std::process::Command, oneshot::Sender<io::Result<Child>>)>();
        let runtime = Handle::current();
        let work = move || {
            let _runtime = runtime.enter();
            while let Ok((command, started)) = queue.recv() {
                let child = Command::from(command).kill_on_drop(true).spawn();
                drop(started.send(child));
            }
        };
        std::thread::Builder::new().name("spawner".into()).spawn(work).context("starting a thread")?;
        Ok(Self { commands })
    }

    async fn spawn(&self, command: std::process::Command) -> io::Result<Child> {
        let (started, wait) = oneshot::channel();
        let gone = || io::Error::other("the thread that starts processes is gone");
        self.commands.send((command, started)).map_err(|_| gone())?;
        wait.await.map_err(|_| gone())?
    }
}

/// A running process. Dropping it kills it.
#[derive(Debug)]
pub(super) struct Process {
    child: Child,
    pid: Option<u32>,
    output: JoinSet<()>,
    last_words: Arc<LastWords>,
}

impl Process {
    fn new(mut child: Child, setup: &Setup) -> Self {
        let last_words = Arc::new(LastWords(Mutex::new(Some(VecDeque::new()))));
        let mut output = JoinSet::new();
        if let Some(stdout) = child.stdout.take() {
            let (console, function) = (setup.console.clone(), setup.function.clone());
            output.spawn(print(console, function, stdout, Arc::clone(&last_words)));
        }
        if let Some(stderr) = child.stderr.take() {
            let (console, function) = (setup.console.clone(), setup.function.clone());
            output.spawn(print(console, function, stderr, Arc::clone(&last_words)));
        }
        Self { pid: child.id(), child, output, last_words }
    }

    pub(super) fn pid(&self) -> Option<u32> {
        self.pid
    }

    /// It asks for calls: its last words explain no failed start any more.
    pub(super) fn has_started(&self) {
        *self.last_words.lock() = None;
    }

    /// Waits for the end of the process. Can be given up and asked again.
    pub(super) async fn ended(&mut self) -> Option<ExitStatus> {
        self.child.wait().await.ok()
    }

    /// Sends SIGKILL to the process and to what it has started.
    pub(super) fn kill(&mut self) {
        let ended = self.child.try_wait().ok().flatten().is_some();
        // Once it is waited for, its id may be another's.
        if let Some(pid) = self.pid.filter(|_| !ended).and_then(|pid| i32::try_from(pid).ok()) {
            let _ = killpg(Pid::from_raw(pid), Signal::SIGKILL);
        }
    }

    /// Kills the process and waits until it is gone, and returns the last lines that it wrote while it started.
    pub(super) async fn end(mut self) -> String {
        self.kill();
        self.ended().await;
        let all = async { while self.output.join_next().await.is_some() {} };
        let _ = tokio::time::timeout(OUTPUT_GRACE, all).await;
        let last_words = self.last_words.lock().take().unwrap_or_default();
        Vec::from(last_words).join("\n")
    }
}

async fn print(
    console: Console,
    function: String,
    output: impl AsyncRead + Unpin,
    last_words: Arc<LastWords>,
) {
    console.print_output(&function, output, |line| last_words.keep(line)).await;
}

/// What a process wrote last while it started: when it does not start, it is told why. `None` once it has started.
#[derive(Debug)]
struct LastWords(Mutex<Option<VecDeque<String>>>);

impl LastWords {
    fn lock(&self) -> MutexGuard<'_, Option<VecDeque<String>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn keep(&self, line: &str) {
        if let Some(lines) = self.lock().as_mut() {
            if lines.len() == LAST_WORDS {
                lines.pop_front();
            }
            lines.push_back(line.to_owned());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_function_sees_what_lambda_gives_and_what_the_template_says_and_nothing_of_ours() {
        let function = Function {
            logical_id: "Rooms".into(),
            name: "rooms".into(),
            memory_mb: 256,
            timeout: Duration::from_secs(3),
            environment: BTreeMap::from([("DATABASE_URL".to_owned(), "postgres://local".to_owned())]),
        };
        let environment = environment(&function);
        let names: Vec<_> = environment.keys().map(String::as_str).collect();
        let expected = [
            "AWS_ACCESS_KEY_ID",
            "AWS_DEFAULT_REGION",
            "AWS_LAMBDA_FUNCTION_MEMORY_SIZE",
            "AWS_LAMBDA_FUNCTION_NAME",
            "AWS_LAMBDA_FUNCTION_VERSION",
            "AWS_LAMBDA_INITIALIZATION_TYPE",
            "AWS_LAMBDA_LOG_GROUP_NAME",
            "AWS_REGION",
            "AWS_SECRET_ACCESS_KEY",
            "AWS_SESSION_TOKEN",
            "DATABASE_URL",
            "LAMBDA_RUNTIME_DIR",
            "LAMBDA_TASK_ROOT",
            "LANG",
            "PATH",
            "TZ",
            "_HANDLER",
        ];
        assert_eq!(names, expected);
        assert_eq!(environment["AWS_LAMBDA_FUNCTION_MEMORY_SIZE"], "256");
        assert_eq!(environment["DATABASE_URL"], "postgres://local");
    }
}
