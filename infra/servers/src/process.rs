//! A server's process under a watchdog, so that it cannot outlive its owner.

use crate::{Error, error::During, log::Log, programs, user::User};
use nix::{
    errno::Errno,
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use std::{
    ffi::OsString,
    os::fd::OwnedFd,
    path::Path,
    process::{ExitStatus, Stdio},
    time::Duration,
};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
    time::timeout,
};

const WATCHDOG: &str = include_str!("watchdog.sh");

/// How long a server may take to end by itself before it is killed. A kept Postgres writes everything out first.
const STOP_LIMIT: Duration = Duration::from_secs(60);

/// How long the server of an owner that ended without a word may take to end before its watchdog kills it.
pub(crate) const FAREWELL_LIMIT: Duration = Duration::from_secs(10);

/// How often a condition is looked at while waiting for it.
pub(crate) const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// What to run.
pub(crate) struct Launch<'a> {
    pub(crate) program: &'a Path,
    pub(crate) arguments: Vec<OsString>,
    pub(crate) user: Option<User>,
    /// What ends the process when its owner has ended without a word.
    pub(crate) farewell: Signal,
}

/// A running process. Dropping it ends the process.
#[derive(Debug)]
pub(crate) struct Process {
    pid: Pid,
    watchdog: Child,
    /// The watchdog waits for the end of this pipe.
    _lifeline: OwnedFd,
}

impl Process {
    /// Starts the process; its output goes to the log.
    pub(crate) async fn start(launch: Launch<'_>, log: &Log) -> Result<Self, Error> {
        let operation = || format!("starting {}", launch.program.display());
        let mut watchdog = Command::new("sh")
            .args(["-c", WATCHDOG, "watchdog", signal_name(launch.farewell)])
            .arg((FAREWELL_LIMIT.as_secs() * 10).to_string())
            .args(programs::setpriv(launch.user)?)
            .arg(launch.program)
            .args(&launch.arguments)
            // Of the owner's environment nothing may change how a server works (PGPORT, LC_MESSAGES, …).
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_else(|| "/usr/bin:/bin".into()))
            .env("LC_ALL", "C")
            // Not in the owner's folder: the server's user may not be able to enter it.
            .current_dir("/")
            // A Ctrl-C in the terminal is the owner's to answer, not the server's.
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log.stdio()?)
            .spawn()
            .during(operation)?;
        // Taken out because waiting for a child closes its standard input first.
        let lifeline =
            watchdog.stdin.take().expect("standard input is piped").into_owned_fd().during(operation)?;
        let mut line = String::new();
        let stdout = watchdog.stdout.take().expect("standard output is piped");
        BufReader::new(stdout).read_line(&mut line).await.during(operation)?;
        let Ok(pid) = line.trim().parse() else {
            return Err(Error::Io {
                operation: operation(),
                source: std::io::Error::other("the watchdog ended"),
            });
        };
        Ok(Self { pid: Pid::from_raw(pid), watchdog, _lifeline: lifeline })
    }

    pub(crate) fn pid(&self) -> Pid {
        self.pid
    }

    /// The status of the process if it has ended.
    pub(crate) fn ended(&mut self) -> Result<Option<ExitStatus>, Error> {
        self.watchdog.try_wait().during(|| "looking after the server".to_owned())
    }

    /// Waits for the end of the process.
    pub(crate) async fn wait(&mut self) -> Result<ExitStatus, Error> {
        self.watchdog.wait().await.during(|| "waiting for the server's end".to_owned())
    }

    /// Asks the process to end, and kills it if it does not.
    pub(crate) async fn stop(mut self, signal: Signal) -> Result<(), Error> {
        self.send(signal)?;
        self.thaw()?;
        match timeout(STOP_LIMIT, self.wait()).await {
            Ok(ended) => ended.map(drop),
            Err(_) => self.kill().await,
        }
    }

    /// Kills the process and all its children, and waits until they are gone.
    pub(crate) async fn kill(mut self) -> Result<(), Error> {
        // Frozen first, so that none of them can start another meanwhile.
        let family = self.freeze()?;
        for pid in &family {
            send(*pid, Signal::SIGKILL)?;
        }
        self.wait().await?;
        while processes()?.iter().any(|process| family.contains(&process.pid)) {
            tokio::time::sleep(LOOK_AGAIN).await;
        }
        Ok(())
    }

    /// Stops the process and all its children where they are, and returns who they are.
    pub(crate) fn freeze(&mut self) -> Result<Vec<Pid>, Error> {
        self.send(Signal::SIGSTOP)?;
        let mut frozen = vec![self.pid];
        // What the process started in the last moment may not be seen at once.
        loop {
            let new: Vec<Pid> = children(self.pid)?.into_iter().filter(|pid| !frozen.contains(pid)).collect();
            if new.is_empty() {
                return Ok(frozen);
            }
            for pid in new {
                send(pid, Signal::SIGSTOP)?;
                frozen.push(pid);
            }
        }
    }

    /// Lets the process and all its children go on.
    pub(crate) fn thaw(&mut self) -> Result<(), Error> {
        for pid in children(self.pid)? {
            send(pid, Signal::SIGCONT)?;
        }
        self.send(Signal::SIGCONT)
    }

    fn send(&mut self, signal: Signal) -> Result<(), Error> {
        // Once it has ended, its process id may be another's.
        if self.ended()?.is_some() { Ok(()) } else { send(self.pid, signal) }
    }
}

fn send(pid: Pid, signal: Signal) -> Result<(), Error> {
    match kill(pid, signal) {
        Ok(()) | Err(Errno::ESRCH) => Ok(()),
        refused => refused.during(|| format!("sending {signal} to process {pid}")),
    }
}

/// The name of a signal as `kill -s` takes it everywhere.
fn signal_name(signal: Signal) -> &'static str {
    signal.as_str().trim_start_matches("SIG")
}

/// The children of a process.
fn children(parent: Pid) -> Result<Vec<Pid>, Error> {
    Ok(processes()?
        .into_iter()
        .filter(|process| process.parent == parent)
        .map(|process| process.pid)
        .collect())
}

struct Running {
    pid: Pid,
    parent: Pid,
}

/// All processes that are not just waiting for their parent to notice their end: in a container without a proper first
/// process they wait for ever.
#[cfg(target_os = "linux")]
fn processes() -> Result<Vec<Running>, Error> {
    let running = |pid: i32| {
        // "pid (name) state parent …"; the name may have spaces and brackets of its own.
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let mut fields = stat.rsplit_once(") ")?.1.split(' ');
        let state = fields.next()?;
        let parent = Pid::from_raw(fields.next()?.parse().ok()?);
        (state != "Z").then_some(Running { pid: Pid::from_raw(pid), parent })
    };
    let entries = std::fs::read_dir("/proc").during(|| "reading /proc".to_owned())?;
    Ok(entries.flatten().filter_map(|entry| running(entry.file_name().to_str()?.parse().ok()?)).collect())
}

/// All processes that are not just waiting for their parent to notice their end.
#[cfg(not(target_os = "linux"))]
fn processes() -> Result<Vec<Running>, Error> {
    let output = std::process::Command::new("ps").args(["-A", "-o", "pid=,ppid=,state="]).output();
    let output = output.during(|| "running ps".to_owned())?;
    let running = |line: &str| {
        let mut fields = line.split_whitespace();
        let pid = Pid::from_raw(fields.next()?.parse().ok()?);
        let parent = Pid::from_raw(fields.next()?.parse().ok()?);
        (!fields.next()?.starts_with('Z')).then_some(Running { pid, parent })
    };
    Ok(String::from_utf8_lossy(&output.stdout).lines().filter_map(running).collect())
}
