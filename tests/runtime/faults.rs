//! Faults that tests switch on in the functions.

use std::time::{Duration, Instant};

use anyhow::Result;
use reqwest::StatusCode;
use serde_json::json;

use crate::harness::Runtime;

#[tokio::test]
async fn a_function_is_killed_in_mid_call_until_the_fault_is_cleared() -> Result<()> {
    let mut runtime = Runtime::start().await?;
    runtime.aws.faults(&json!({"kill": {"function": "main", "after_ms": 0}})).await?;
    let message = runtime.tell("main", json!("hang")).await?.check_failed("Runtime.ExitError");
    assert!(message.ends_with("signal: killed"), "{message}");
    // Another function is none of its business.
    let call = runtime.invoking("brief", &json!({}));
    runtime.functions.next("brief").await.answer_json(json!("well")).await;
    call.await??.check_answered(&json!("well"));
    runtime.aws.faults(&json!({})).await?;
    runtime.tell("main", json!({"return": "well"})).await?.check_answered(&json!("well"));
    Ok(())
}

#[tokio::test]
async fn a_call_can_be_made_to_start_late() -> Result<()> {
    let runtime = Runtime::start().await?;
    runtime.aws.faults(&json!({"delay_invoke_ms": {"function": "main", "ms": 300}})).await?;
    let begin = Instant::now();
    runtime.tell("main", json!("echo")).await?;
    assert!(begin.elapsed() >= Duration::from_millis(300), "{:?}", begin.elapsed());
    Ok(())
}

#[tokio::test]
async fn a_fault_that_nobody_knows_is_refused_and_changes_nothing() -> Result<()> {
    let runtime = Runtime::start().await?;
    runtime.aws.faults(&json!({"drop_disconnect": true})).await?;
    let url = format!("{}/faults", runtime.aws.endpoints.control);
    let refused = runtime.client.put(&url).json(&json!({"drop_disconect": false})).send().await?;
    assert_eq!(refused.status(), StatusCode::BAD_REQUEST);
    assert!(refused.text().await?.contains("drop_disconect"));
    let set: serde_json::Value = runtime.client.get(&url).send().await?.json().await?;
    assert_eq!(set, json!({"drop_disconnect": true}));
    Ok(())
}

#[tokio::test]
async fn a_web_page_cannot_reach_the_control_api() -> Result<()> {
    let runtime = Runtime::start().await?;
    let invoke = runtime.client.post(runtime.invoke_url("main")).header("origin", "https://evil.example");
    assert_eq!(invoke.body("{}").send().await?.status(), StatusCode::FORBIDDEN);
    Ok(())
}
