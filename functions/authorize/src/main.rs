//! Wiring of the Lambda function `authorize`.

use std::process::ExitCode;

use authorize::App;
use lambda::{Fatal, authorizer};
use shared::{configuration::Environment, telemetry};

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    lambda::exit(run().await)
}

async fn run() -> Result<(), Fatal> {
    let environment = Environment::of_process();
    telemetry::start(&environment)?;
    let app = App::from_env(&environment)?;
    authorizer::run("authorize", async |request, access| authorize::handle(&app, request, access).await).await
}
