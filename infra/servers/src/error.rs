use std::{io, path::PathBuf};

/// Why a server could not be started, stopped or reached. Its text is for the person at the terminal.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A program is missing; the text names the one command that installs it.
    #[error("{program} is not installed: run `{install}`")]
    NotInstalled {
        /// The missing program.
        program: &'static str,
        /// The command that installs it here.
        install: String,
    },
    /// A program is there, but too old.
    #[error("{program} {found} is too old: {needed} or later is needed; {remedy}")]
    TooOld {
        /// The program.
        program: &'static str,
        /// Its version.
        found: String,
        /// The oldest version that works.
        needed: u32,
        /// Where there is a later one.
        remedy: &'static str,
    },
    /// Kept data was written by a version of Postgres that is not installed.
    #[error(
        "{} was made by Postgres {version}, which is not installed: install that version, or remove the folder",
        data.display()
    )]
    OtherVersion {
        /// The data folder.
        data: PathBuf,
        /// The major version that made it.
        version: u32,
    },
    /// Another instance uses the data folder.
    #[error("{} is in use by {}", home.display(), said_of(*owner))]
    InUse {
        /// The folder in which everything of that instance is.
        home: PathBuf,
        /// The process that owns it. `None`: it is gone, and its server is about to end.
        owner: Option<u32>,
    },
    /// The server ended, or hung, before it was ready.
    #[error("{program} did not start: {reason}\n{log}")]
    NotStarted {
        /// The program.
        program: &'static str,
        /// What was seen of it.
        reason: String,
        /// The end of the server's own log.
        log: String,
    },
    /// The server ended though nobody asked it to.
    #[error("{program} ended: {reason}\n{log}")]
    Ended {
        /// The program.
        program: &'static str,
        /// How it ended.
        reason: String,
        /// The end of the server's own log.
        log: String,
    },
    /// A client program of the server failed.
    #[error("{program} failed: {message}")]
    Client {
        /// The program.
        program: &'static str,
        /// What it said.
        message: String,
    },
    /// The server did not do as it was told.
    #[error("{program} did not do {command}: {answer}")]
    Refused {
        /// The program.
        program: &'static str,
        /// What it was told.
        command: String,
        /// What it said instead.
        answer: String,
    },
    /// The server is not running.
    #[error("{0} is not running")]
    NotRunning(&'static str),
    /// Started as root, and there is no unprivileged user to become.
    #[error("{program} does not run as root, and this system has none of the users {users}")]
    NoUser {
        /// The program.
        program: &'static str,
        /// The users that would do.
        users: String,
    },
    /// The certificates for TLS could not be made.
    #[error("making the server's certificate")]
    Certificate(#[source] rcgen::Error),
    /// The operating system refused something.
    #[error("{operation}")]
    Io {
        /// What was tried.
        operation: String,
        /// The refusal.
        source: io::Error,
    },
}

/// What to do about an instance that is in the way.
fn said_of(owner: Option<u32>) -> String {
    owner.map_or_else(
        || "a server that is about to end: wait some seconds, then try again".to_owned(),
        |pid| format!("process {pid}: stop that one first, or wait for its end"),
    )
}

/// Names the operation that an [`io::Error`] came from.
pub(crate) trait During<T> {
    fn during(self, operation: impl FnOnce() -> String) -> Result<T, Error>;
}

impl<T, E: Into<io::Error>> During<T> for Result<T, E> {
    fn during(self, operation: impl FnOnce() -> String) -> Result<T, Error> {
        self.map_err(|source| Error::Io { operation: operation(), source: source.into() })
    }
}
