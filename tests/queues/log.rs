//! The log: one line for every request and for every batch, and no message in any of them.

use anyhow::Result;
use serde_json::{Value, json};

use crate::harness::{Queues, failed};

/// Stands for what people write to each other.
const SECRET: &str = "3e9f0a-secret";

#[tokio::test]
async fn every_request_and_every_batch_has_a_line_and_none_tells_what_is_in_a_message() -> Result<()> {
    let mut queues = Queues::start().await?;
    let id = queues.send("work", SECRET).await?;
    let call = queues.functions.next("worker").await;
    let request_id = call.report.request_id.clone();
    call.answer_json(failed(&[&id])).await;
    queues.functions.next("worker").await.answer_json(Value::Null).await;
    let nowhere = queues.client.send_message().queue_url(queues.url("nowhere")).message_body(SECRET);
    nowhere.send().await.expect_err("no queue");
    queues.aws.terminate()?;
    queues.aws.ended().await?;

    let mut lines = queues.log_lines();
    lines.sort_by_key(|line| line["function"].is_string());
    let told = |key: &str| lines.iter().map(|line| line[key].clone()).collect::<Value>();
    assert_eq!(told("route"), json!(["SendMessage work", "SendMessage", "work → worker", "work → worker"]));
    assert_eq!(told("status"), json!([200, 400, 200, 200]));
    assert_eq!(told("function"), json!([null, null, "worker", "worker"]));
    let refused = "AWS.SimpleQueueService.NonExistentQueue";
    assert_eq!(told("error"), json!([null, refused, "1 of 1 messages come back", null]));
    assert_eq!(lines[2]["request_id"], request_id);
    assert!(!queues.aws.log().contains(SECRET), "{}", queues.aws.log());
    Ok(())
}
