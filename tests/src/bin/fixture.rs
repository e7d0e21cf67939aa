//! A Lambda function for tests: it does what it is told, good or bad.
//!
//! It is told by its event (`{"fixture": {"throw": "boom"}}`), or else by the test that listens at
//! `FIXTURE_ADDRESS`, or else it answers its event.

use std::future::pending;
use std::time::Duration;

use lambda_runtime::{Diagnostic, Error, LambdaEvent, service_fn};
use serde::Deserialize as _;
use serde_json::Value;
use tests::fixture::{ADDRESS_VARIABLE, Instruction, Report, ask};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    #[expect(clippy::disallowed_methods, reason = "the fixture is no part of the application")]
    let address = std::env::var(ADDRESS_VARIABLE).ok();
    lambda_runtime::run(service_fn(|call| handle(address.as_deref(), call))).await
}

async fn handle(address: Option<&str>, call: LambdaEvent<Value>) -> Result<Value, Diagnostic> {
    let LambdaEvent { payload: event, context } = call;
    let told = Instruction::deserialize(&event["fixture"]).ok();
    let mut instruction = match (told, address) {
        (Some(instruction), _) => instruction,
        (None, Some(address)) => {
            let function = context.env_config.function_name.clone();
            let report = Report { function, request_id: context.request_id, event: event.clone() };
            ask(address, &report).await.map_err(|error| thrown(&format!("{error:#}")))?
        }
        (None, None) => Instruction::Echo,
    };
    loop {
        instruction = match instruction {
            Instruction::Return(answer) => return Ok(answer),
            Instruction::Echo => return Ok(event),
            Instruction::Throw(message) => return Err(thrown(&message)),
            Instruction::Panic(message) => panic!("{message}"),
            Instruction::Exit(code) => std::process::exit(code),
            Instruction::Hang => pending().await,
            Instruction::Sleep { ms, then } => {
                tokio::time::sleep(Duration::from_millis(ms)).await;
                *then
            }
        }
    }
}

fn thrown(message: &str) -> Diagnostic {
    Diagnostic { error_type: "Thrown".into(), error_message: message.into() }
}
