//! Wiring of the Lambda function `rooms`.

use std::process::ExitCode;

use lambda::Fatal;
use rooms::App;
use shared::{configuration::Environment, telemetry};

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    lambda::exit(run().await)
}

async fn run() -> Result<(), Fatal> {
    let environment = Environment::of_process();
    telemetry::start(&environment)?;
    let app = App::from_env(&environment)?;
    lambda::http::run("rooms", rooms::router(app)).await
}
