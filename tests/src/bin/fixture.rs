//! A Lambda function for tests: it does what it is told, good or bad.
//!
//! It is told by its event (`{"fixture": {"throw": "boom"}}`), or else by the test that listens at
//! `FIXTURE_ADDRESS`, or else it answers its event.

use std::collections::BTreeMap;
use std::future::pending;
use std::io::Write as _;
use std::time::Duration;

use lambda_runtime::{Diagnostic, Error, LambdaEvent, service_fn};
use serde::Deserialize as _;
use serde_json::{Value, json};
use tests::fixture::{ADDRESS_VARIABLE, INIT_VARIABLE, Instruction, Report, ask};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    #[expect(clippy::disallowed_methods, reason = "the fixture is no part of the application")]
    let (address, init) = (std::env::var(ADDRESS_VARIABLE).ok(), std::env::var(INIT_VARIABLE).ok());
    match init.and_then(|file| std::fs::read_to_string(file).ok()).as_deref() {
        Some("exit") => return Err("the configuration lacks REDIS_URL".into()),
        Some("hang") => pending().await,
        _ => {}
    }
    lambda_runtime::run(service_fn(|call| handle(address.as_deref(), call))).await
}

async fn handle(address: Option<&str>, call: LambdaEvent<Value>) -> Result<Value, Diagnostic> {
    let LambdaEvent { payload: event, context } = call;
    let context_as_json = serde_json::to_value(&context).expect("a context is JSON");
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
            Instruction::Tell => {
                let environment: BTreeMap<String, String> = std::env::vars_os()
                    .map(|(name, value)| (name.to_string_lossy().into(), value.to_string_lossy().into()))
                    .collect();
                return Ok(json!({"context": context_as_json, "environment": environment}));
            }
            Instruction::Fill(bytes) => return Ok("x".repeat(bytes).into()),
            Instruction::Print { lines, then } => {
                let mut out = std::io::stdout().lock();
                for n in 0..lines {
                    writeln!(out, "line {n}").map_err(|error| thrown(&error.to_string()))?;
                }
                *then
            }
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
