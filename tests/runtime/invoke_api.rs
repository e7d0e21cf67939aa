//! What a function sees of a call, and Lambda's Invoke API.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result};
use reqwest::StatusCode;
use serde_json::{Value, json};

use crate::harness::{Changes, Invoked, Runtime};

#[tokio::test]
async fn a_function_gets_the_event_and_its_answer_comes_back() -> Result<()> {
    let mut runtime = Runtime::start().await?;
    let call = runtime.invoking("main", &json!({"a": [1, "ü", null]}));
    let held = runtime.functions.next("main").await;
    assert_eq!(*held.event(), json!({"a": [1, "ü", null]}));
    held.answer_json(json!({"b": true})).await;
    call.await??.check_answered(&json!({"b": true}));
    Ok(())
}

#[tokio::test]
async fn a_function_is_told_the_context_of_its_call() -> Result<()> {
    let runtime = Runtime::start().await?;
    let before = SystemTime::now().duration_since(UNIX_EPOCH)?;
    let context = runtime.tell("main", json!("tell")).await?.payload["context"].clone();
    let after = SystemTime::now().duration_since(UNIX_EPOCH)?;
    let deadline = Duration::from_millis(context["deadline"].as_u64().context("a deadline")?);
    let timeout = Duration::from_secs(30);
    let rounding = Duration::from_millis(1);
    assert!(before + timeout <= deadline + rounding && deadline <= after + timeout, "{deadline:?}");
    let arn = context["invoked_function_arn"].as_str().context("an ARN")?;
    assert!(arn.starts_with("arn:aws:lambda:") && arn.ends_with(":function:main"), "{arn}");
    assert_eq!(context["request_id"].as_str().map(str::len), Some(36), "{context}");
    assert!(context["xray_trace_id"].as_str().is_some_and(|id| id.starts_with("Root=1-")), "{context}");
    assert_eq!(context["env_config"]["function_name"], "main");
    assert_eq!(context["env_config"]["memory"], 256);
    assert_eq!(context["env_config"]["log_group"], "/aws/lambda/main");
    Ok(())
}

#[tokio::test]
async fn a_function_has_the_templates_environment_and_nothing_of_the_shells() -> Result<()> {
    let changes =
        Changes::default().variable("SECRET_OF_THE_SHELL", "x").variable("DATABASE_URL", "postgres://x");
    let runtime = changes.variable("LOG_LEVEL", "debug").start().await?;
    let environment = runtime.tell("main", json!("tell")).await?.payload["environment"].clone();
    assert_eq!(environment["COLOUR"], "blue");
    assert_eq!(environment["LOG_LEVEL"], "debug", "a setting of the shell reaches every function");
    // Of the shell's own there is only the search path.
    for absent in ["SECRET_OF_THE_SHELL", "HOME", "USER", "DATABASE_URL"] {
        assert_eq!(environment.get(absent), None, "{absent}");
    }
    let address = environment["AWS_LAMBDA_RUNTIME_API"].as_str().context("an address")?;
    address.parse::<std::net::SocketAddr>().context("host and port, as in AWS")?;
    Ok(())
}

#[tokio::test]
async fn a_function_that_nobody_knows_is_not_found() -> Result<()> {
    let runtime = Runtime::start().await?;
    let invoked = runtime.invoke("nobody", &json!({})).await?;
    assert_eq!(invoked.status, StatusCode::NOT_FOUND);
    assert_eq!(invoked.error_type.as_deref(), Some("ResourceNotFoundException"));
    let message = invoked.payload["Message"].as_str().context("a message")?;
    assert!(message.starts_with("Function not found: arn:aws:lambda:"), "{message}");
    Ok(())
}

#[tokio::test]
async fn a_payload_that_is_no_json_is_refused() -> Result<()> {
    let runtime = Runtime::start().await?;
    let response = runtime.client.post(runtime.invoke_url("main")).body("{").send().await?;
    let invoked = Invoked::read(response).await?;
    assert_eq!(invoked.status, StatusCode::BAD_REQUEST);
    assert_eq!(invoked.error_type.as_deref(), Some("InvalidRequestContentException"));
    Ok(())
}

#[tokio::test]
async fn an_event_of_more_than_six_megabytes_is_refused() -> Result<()> {
    let runtime = Runtime::start().await?;
    let invoked = runtime.invoke("main", &Value::String("x".repeat(6_291_556))).await?;
    assert_eq!(invoked.status, StatusCode::PAYLOAD_TOO_LARGE);
    assert_eq!(invoked.error_type.as_deref(), Some("RequestTooLargeException"));
    // With its two quotes exactly as large as is allowed.
    let invoked =
        runtime.invoke("main", &json!({"fixture": "echo", "x": "x".repeat(6_291_556 - 27)})).await?;
    assert_eq!((invoked.status, invoked.function_error), (StatusCode::OK, None));
    Ok(())
}

#[tokio::test]
async fn an_answer_of_more_than_six_megabytes_is_an_error_and_the_process_lives_on() -> Result<()> {
    let runtime = Runtime::start().await?;
    let message =
        runtime.tell("main", json!({"fill": 6_291_556})).await?.check_failed("Function.ResponseSizeTooLarge");
    assert!(message.contains("6291556 bytes"), "{message}");
    let before = runtime.idle_instance().await.pid;
    runtime
        .tell("main", json!({"fill": 6_291_554}))
        .await?
        .check_answered(&Value::String("x".repeat(6_291_554)));
    assert_eq!(runtime.idle_instance().await.pid, before);
    Ok(())
}

#[tokio::test]
async fn an_event_call_is_accepted_at_once_and_a_dry_run_runs_nothing() -> Result<()> {
    let mut runtime = Runtime::start().await?;
    let ask =
        |kind: &str| runtime.client.post(runtime.invoke_url("main")).header("x-amz-invocation-type", kind);
    let status = ask("Event").json(&json!({"late": true})).send().await?.status();
    assert_eq!(status, StatusCode::ACCEPTED);
    let dry = ask("DryRun").json(&json!({})).send().await?.status();
    assert_eq!(dry, StatusCode::NO_CONTENT);
    let held = runtime.functions.next("main").await;
    assert_eq!(*held.event(), json!({"late": true}));
    assert_eq!(runtime.instances().await?.len(), 1);
    held.answer_json(json!(null)).await;
    Ok(())
}
