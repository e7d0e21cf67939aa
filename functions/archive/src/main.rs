//! Wiring of the Lambda function `archive`.

use std::process::ExitCode;

use archive::App;
use lambda::{Fatal, queue};
use shared::{configuration::Environment, telemetry};

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    lambda::exit(run().await)
}

async fn run() -> Result<(), Fatal> {
    let environment = Environment::of_process();
    telemetry::start(&environment)?;
    let app = App::from_env(&environment).await?;
    queue::run("archive", async |batch, access| archive::handle(&app, batch, access).await).await
}
