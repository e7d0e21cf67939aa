//! Runs a command with a private server beside it:
//!
//! ```text
//! servers with-postgres -- cargo nextest run     # the command finds the server at TEST_POSTGRES_URL
//! servers with-redis -- redis-cli                # TEST_REDIS_URL
//! ```

use anyhow::{Context, anyhow};
use clap::{Args, Parser, Subcommand};
use nix::{
    sys::signal::{Signal, kill},
    unistd::{Pid, getpgrp, tcgetpgrp},
};
use servers::{Postgres, PostgresOptions, Redis, RedisOptions};
use std::{
    env,
    ffi::OsString,
    fs::File,
    os::unix::process::ExitStatusExt,
    path::Path,
    process::{ExitCode, ExitStatus},
};
use tokio::signal::unix::{SignalKind, signal};

/// Runs a command with a private server beside it. The server's data is thrown away.
#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    with: With,
}

#[derive(Subcommand)]
enum With {
    /// Postgres: the command finds its superuser's URL in TEST_POSTGRES_URL and its programs in PATH.
    WithPostgres(Beside),
    /// Redis: the command finds its URL in TEST_REDIS_URL.
    WithRedis(Beside),
}

#[derive(Args)]
struct Beside {
    /// The command and its arguments.
    #[arg(last = true, required = true)]
    command: Vec<OsString>,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    match run(Arguments::parse()).await {
        Ok(code) => code,
        Err(error) => {
            #[expect(
                clippy::print_stderr,
                reason = "this is how a command-line program says what went wrong"
            )]
            {
                eprintln!("servers: {error:#}");
            }
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: Arguments) -> anyhow::Result<ExitCode> {
    let mut signals = Signals::listen()?;
    let status = match arguments.with {
        With::WithPostgres(beside) => {
            let mut postgres = tokio::select! {
                started = Postgres::start(PostgresOptions::default()) => started?,
                signal = signals.next() => return Ok(code_of_signal(signal)),
            };
            let variables = [
                ("TEST_POSTGRES_URL", postgres.url("postgres").into()),
                ("PATH", path_with(postgres.programs())?),
            ];
            let status = beside.run(variables, &mut signals).await;
            postgres.stop().await?;
            status?
        }
        With::WithRedis(beside) => {
            let mut redis = tokio::select! {
                started = Redis::start(RedisOptions::default()) => started?,
                signal = signals.next() => return Ok(code_of_signal(signal)),
            };
            let status = beside.run([("TEST_REDIS_URL", redis.url().into())], &mut signals).await;
            redis.stop().await?;
            status?
        }
    };
    Ok(match (status.code(), status.signal()) {
        (Some(code), _) => ExitCode::from(u8::try_from(code)?),
        (None, Some(number)) => code_of_signal(Signal::try_from(number)?),
        (None, None) => return Err(anyhow!("the command neither exited nor was killed: {status}")),
    })
}

impl Beside {
    async fn run(
        self,
        variables: impl IntoIterator<Item = (&str, OsString)>,
        signals: &mut Signals,
    ) -> anyhow::Result<ExitStatus> {
        let (program, arguments) = self.command.split_first().expect("clap requires one");
        let mut child = tokio::process::Command::new(program)
            .args(arguments)
            .envs(variables)
            .spawn()
            .with_context(|| format!("starting {}", program.display()))?;
        let pid = Pid::from_raw(child.id().expect("nobody waited for it yet").try_into()?);
        loop {
            tokio::select! {
                status = child.wait() => return Ok(status?),
                signal = signals.next() => {
                    if !(signal == Signal::SIGINT && in_foreground()) {
                        // It may have ended at this very moment.
                        let _ = kill(pid, signal);
                    }
                }
            }
        }
    }
}

/// The signals that are passed on.
struct Signals {
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
    hang_up: tokio::signal::unix::Signal,
}

impl Signals {
    fn listen() -> anyhow::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hang_up: signal(SignalKind::hangup())?,
        })
    }

    async fn next(&mut self) -> Signal {
        tokio::select! {
            _ = self.interrupt.recv() => Signal::SIGINT,
            _ = self.terminate.recv() => Signal::SIGTERM,
            _ = self.hang_up.recv() => Signal::SIGHUP,
        }
    }
}

/// Whether a Ctrl-C in the terminal reaches the command by itself, as it does the whole foreground group; a second one
/// would tell it to stop waiting for its own children.
fn in_foreground() -> bool {
    File::open("/dev/tty").is_ok_and(|terminal| tcgetpgrp(terminal) == Ok(getpgrp()))
}

fn code_of_signal(signal: Signal) -> ExitCode {
    ExitCode::from(128 + u8::try_from(signal as i32).expect("signals are small numbers"))
}

fn path_with(folder: &Path) -> anyhow::Result<OsString> {
    let path = env::var_os("PATH").unwrap_or_default();
    Ok(env::join_paths([folder.to_owned()].into_iter().chain(env::split_paths(&path)))?)
}
