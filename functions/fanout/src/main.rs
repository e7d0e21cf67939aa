//! Wiring of the Lambda function `fanout`.

use std::process::ExitCode;

use fanout::App;
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
    queue::run("fanout", async |batch, _| fanout::handle(&app, batch).await).await
}
