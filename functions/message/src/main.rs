//! Wiring of the Lambda function `message`.

use std::process::ExitCode;

use lambda::{Fatal, websocket};
use message::App;
use shared::{configuration::Environment, telemetry};

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    lambda::exit(run().await)
}

async fn run() -> Result<(), Fatal> {
    let environment = Environment::of_process();
    telemetry::start(&environment)?;
    let app = App::from_env(&environment).await?;
    websocket::run("message", async |event, access| message::handle(&app, event, access).await).await
}
