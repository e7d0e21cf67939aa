//! Wiring of the Lambda function `connect`.

use std::process::ExitCode;

use connect::App;
use lambda::{Fatal, websocket};
use shared::{configuration::Environment, telemetry};

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    lambda::exit(run().await)
}

async fn run() -> Result<(), Fatal> {
    let environment = Environment::of_process();
    telemetry::start(&environment)?;
    let app = App::from_env(&environment)?;
    websocket::run("connect", async |event, access| connect::handle(&app, event, access).await).await
}
