//! Wiring of the Lambda function `web`.

use std::process::ExitCode;

use lambda::Fatal;
use shared::{configuration::Environment, telemetry};
use web::App;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    lambda::exit(run().await)
}

async fn run() -> Result<(), Fatal> {
    let environment = Environment::of_process();
    telemetry::start(&environment)?;
    let app = App::from_env(&environment)?;
    lambda::http::run("web", web::router(app)).await
}
