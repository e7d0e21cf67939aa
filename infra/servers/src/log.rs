//! A server's own log, which is also the lock on its data.

use crate::{
    Error,
    error::During,
    process::{FAREWELL_LIMIT, LOOK_AGAIN},
};
use nix::{errno::Errno, sys::signal::kill, unistd::Pid};
use std::{
    fs::{self, File, OpenOptions, TryLockError},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, Instant},
};

/// How long the server of an owner that was just killed may take to end and leave its data to the next.
/// Longer than its watchdog waits before it kills it.
const TAKE_OVER_LIMIT: Duration = FAREWELL_LIMIT.saturating_add(Duration::from_secs(3));

/// How much of a log is shown in an error, in lines.
const TAIL_LINES: usize = 15;

/// The open log. The lock on it is shared with everything that writes to it, so it is free only when the server and its
/// watchdog are gone too.
#[derive(Debug)]
pub(crate) struct Log {
    file: File,
    path: PathBuf,
}

impl Log {
    /// Opens the log of the server whose data is in `home` and empties it; refuses if another server has it.
    pub(crate) async fn open(home: &Path) -> Result<Self, Error> {
        let path = home.join("log");
        let operation = || format!("opening {}", path.display());
        let file = OpenOptions::new().create(true).append(true).mode(0o600).open(&path).during(operation)?;
        let owner = home.join("owner");
        let begin = Instant::now();
        loop {
            match file.try_lock() {
                Ok(()) => break,
                Err(TryLockError::WouldBlock) if begin.elapsed() < TAKE_OVER_LIMIT => {
                    tokio::time::sleep(LOOK_AGAIN).await;
                }
                Err(TryLockError::WouldBlock) => {
                    return Err(Error::InUse { home: home.to_owned(), owner: running(&owner) });
                }
                Err(TryLockError::Error(refused)) => return Err(refused).during(operation),
            }
        }
        fs::write(&owner, std::process::id().to_string())
            .during(|| format!("writing {}", owner.display()))?;
        file.set_len(0).during(operation)?;
        Ok(Self { file, path })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Forgets what the server said so far.
    pub(crate) fn clear(&self) -> Result<(), Error> {
        self.file.set_len(0).during(|| format!("emptying {}", self.path.display()))
    }

    /// The log as a process's output.
    pub(crate) fn stdio(&self) -> Result<Stdio, Error> {
        Ok(self.file.try_clone().during(|| format!("sharing {}", self.path.display()))?.into())
    }

    /// The last lines.
    pub(crate) fn tail(&self) -> String {
        let text = fs::read(&self.path).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n")
    }
}

/// The process that a file names, if it runs.
fn running(owner: &Path) -> Option<u32> {
    let pid: i32 = fs::read_to_string(owner).ok()?.parse().ok()?;
    // Another user's process refuses the question, but is there.
    (kill(Pid::from_raw(pid), None) != Err(Errno::ESRCH)).then_some(pid.unsigned_abs())
}
