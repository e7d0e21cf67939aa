//! The command line of the local AWS.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use local::console::Console;
use local::up;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

/// Runs a SAM template on this machine: Lambda, the HTTP API, the WebSocket API with `@connections`, Postgres and
/// Redis. For development and tests, not for production.
#[derive(Debug, Parser)]
#[command(name = "local", version, args_override_self = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Start everything, and stop it with Ctrl-C.
    #[command(args_override_self = true)]
    Up(up::Options),
}

#[tokio::main]
async fn main() -> ExitCode {
    let Cli { command: Command::Up(options) } = Cli::parse();
    let console = Console::stderr();
    log_to(&console);
    let ended = up::run(options, console.clone()).await;
    if let Err(why) = &ended {
        console.line(format!("error: {why:#}"));
    }
    console.flush();
    if ended.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Sends what the local AWS itself has to say to the console: JSON, unless a person is looking.
fn log_to(console: &Console) {
    let filter = EnvFilter::new("info,sqlx=warn");
    let format = tracing_subscriber::fmt::layer().with_target(false).with_writer(console.clone());
    let registry = tracing_subscriber::registry().with(filter);
    if console.is_terminal() {
        registry.with(format.compact().without_time()).init();
    } else {
        registry.with(format.json().flatten_event(true)).init();
    }
}
