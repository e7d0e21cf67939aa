//! `--watch`: `cargo lambda watch` builds and runs the functions, and restarts them when their code changes.
//!
//! It takes no environment from a template, so all functions get what the template gives to any of them.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, ErrorKind, Write as _};
use std::net::Ipv4Addr;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::io::AsyncRead;
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, Command};
use tokio::time::{sleep, timeout};

use crate::child;
use crate::console::Console;
use crate::ids::REGION;
use crate::local_values::CREDENTIALS;
use crate::progress::Progress;
use crate::template::Function;

/// The file of the functions' environment, in the state folder.
pub(crate) const ENVIRONMENT: &str = "functions.env";

/// How often to look whether it listens already.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// How long it may take to listen; it compiles nothing before.
const START_LIMIT: Duration = Duration::from_secs(60);

/// How long it may take to end by itself.
const STOP_LIMIT: Duration = Duration::from_secs(5);

/// A running `cargo lambda watch`. Dropping it ends it.
#[derive(Debug)]
pub struct Watch {
    child: Child,
    url: String,
}

impl Watch {
    /// Builds the functions, so that the first calls need not wait for the compiler, and starts watching.
    ///
    /// # Errors
    /// When cargo-lambda is missing, the functions do not build, or it does not start.
    pub async fn start(
        functions: &[Function],
        state: &Path,
        concurrency: usize,
        console: &Console,
        progress: &Progress,
    ) -> Result<Self> {
        require_cargo_lambda().await?;
        build(functions, progress).await?;
        let step = progress.step("cargo lambda watch");
        let environment = write_environment(functions, state)?;
        let port = free_port().await?;
        let mut command = Command::from(child::ending_with_us("cargo", "TERM"));
        command
            .args(["lambda", "watch", "--wait", "--invoke-address", "127.0.0.1"])
            .args(["--invoke-port", &port.to_string(), "--concurrency", &concurrency.to_string()])
            .arg("--env-file")
            .arg(environment)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true);
        let mut child = command.spawn().context("starting cargo lambda watch")?;
        if let Some(stdout) = child.stdout.take() {
            tokio::spawn(print(console.clone(), stdout));
        }
        if let Some(stderr) = child.stderr.take() {
            tokio::spawn(print(console.clone(), stderr));
        }
        let mut watch = Self { child, url: format!("http://127.0.0.1:{port}") };
        match timeout(START_LIMIT, watch.listens(port)).await {
            Ok(listens) => listens?,
            Err(_) => bail!("cargo lambda watch does not listen on port {port}"),
        }
        step.done();
        Ok(watch)
    }

    /// Where it takes calls.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Waits until it ends by itself, which it should not.
    pub async fn ended(&mut self) -> anyhow::Error {
        match self.child.wait().await {
            Ok(status) => anyhow::anyhow!("cargo lambda watch has ended ({status})"),
            Err(why) => anyhow::Error::new(why).context("waiting for cargo lambda watch"),
        }
    }

    /// Ends it and the functions that it runs.
    pub async fn stop(mut self) {
        self.signal(Signal::SIGTERM);
        if timeout(STOP_LIMIT, self.child.wait()).await.is_err() {
            self.signal(Signal::SIGKILL);
            let _ = self.child.wait().await;
        }
    }

    async fn listens(&mut self, port: u16) -> Result<()> {
        while TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.is_err() {
            if let Some(status) = self.child.try_wait()? {
                bail!("cargo lambda watch did not start ({status})");
            }
            sleep(LOOK_AGAIN).await;
        }
        Ok(())
    }

    /// To its whole process group: the functions are grandchildren.
    fn signal(&mut self, signal: Signal) {
        if let Some(pid) = self.child.id().and_then(|pid| i32::try_from(pid).ok()) {
            let _ = killpg(Pid::from_raw(pid), signal);
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.signal(Signal::SIGKILL);
    }
}

async fn require_cargo_lambda() -> Result<()> {
    const HINT: &str = "cargo-lambda is not installed: run `./dev up --watch`, which installs it";
    let version = Command::new("cargo").args(["lambda", "--version"]).output().await;
    let version = version.map_err(|why| match why.kind() {
        ErrorKind::NotFound => anyhow::anyhow!("cargo is not in PATH"),
        _ => anyhow::Error::new(why).context("running cargo"),
    })?;
    ensure!(version.status.success(), HINT);
    Ok(())
}

async fn build(functions: &[Function], progress: &Progress) -> Result<()> {
    let step = progress.step("building the functions");
    let packages = functions.iter().flat_map(|function| ["--package", &function.name]);
    let built = Command::from(child::ending_with_us("cargo", "TERM"))
        .arg("build")
        .arg("--quiet")
        .args(packages)
        .stdin(Stdio::null())
        // Whoever stops us meanwhile does not want the functions any more.
        .kill_on_drop(true)
        .output()
        .await?;
    ensure!(
        built.status.success(),
        "the functions do not build:\n{}",
        String::from_utf8_lossy(&built.stderr).trim_end()
    );
    step.done();
    Ok(())
}

/// Writes the environment of all functions as one file in the form that `cargo lambda watch --env-file` reads. It holds
/// passwords, and is for nobody else.
pub(crate) fn write_environment(functions: &[Function], state: &Path) -> Result<PathBuf> {
    let mut environment: BTreeMap<&str, &str> = CREDENTIALS.into_iter().collect();
    environment.extend([("AWS_REGION", REGION), ("AWS_DEFAULT_REGION", REGION)]);
    for function in functions {
        for (name, value) in &function.environment {
            let before = environment.insert(name, value);
            if before.is_some_and(|before| before != value) {
                tracing::warn!(
                    "functions differ in {name}; with cargo lambda watch all of them get the last value"
                );
            }
        }
    }
    let lines = environment.iter().map(|(name, value)| line(name, value)).collect::<Result<String>>()?;
    let path = state.join(ENVIRONMENT);
    write_private(&path, &lines).with_context(|| format!("writing {}", path.display()))?;
    Ok(path)
}

fn write_private(path: &Path, text: &str) -> io::Result<()> {
    // A file that is there already would keep its mode.
    match fs::remove_file(path) {
        Err(why) if why.kind() != ErrorKind::NotFound => return Err(why),
        _ => {}
    }
    File::options().write(true).create_new(true).mode(0o600).open(path)?.write_all(text.as_bytes())
}

/// A value in quotes, because without them it can neither be empty nor have a `=`. There is no way to escape a quote.
fn line(name: &str, value: &str) -> Result<String> {
    let quote = ['\'', '`'].into_iter().find(|quote| !value.contains(*quote));
    let quote = quote
        .with_context(|| format!("the value of {name} has both kinds of quotes, which no line can hold"))?;
    Ok(format!("{name}={quote}{value}{quote}\n"))
}

async fn free_port() -> Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?.local_addr()?.port())
}

async fn print(console: Console, output: impl AsyncRead + Unpin) {
    console.print_output("watch", output, |_| ()).await;
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn the_environment_is_for_nobody_else_also_when_its_file_was() {
        let folder = tempfile::tempdir().expect("a folder");
        let before = folder.path().join(ENVIRONMENT);
        fs::write(&before, "").expect("written");
        fs::set_permissions(&before, fs::Permissions::from_mode(0o644)).expect("its mode");
        let path = write_environment(&[], folder.path()).expect("written");
        assert_eq!(fs::metadata(&path).expect("there").permissions().mode() & 0o777, 0o600);
        assert!(fs::read_to_string(&path).expect("text").contains("AWS_REGION='"));
    }

    #[test]
    fn a_value_is_quoted_with_a_quote_that_it_does_not_have() {
        assert_eq!(line("A", "").expect("a line"), "A=''\n");
        assert_eq!(
            line("A", "postgres://a@b/c?host=/tmp").expect("a line"),
            "A='postgres://a@b/c?host=/tmp'\n"
        );
        assert_eq!(line("A", "it's").expect("a line"), "A=`it's`\n");
        line("A", "`it's`").expect_err("no line");
    }
}
