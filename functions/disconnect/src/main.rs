//! Wiring of the Lambda function `disconnect`.

use std::process::ExitCode;

use disconnect::App;
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
    websocket::run("disconnect", async |event, access| disconnect::handle(&app, event, access).await).await
}
