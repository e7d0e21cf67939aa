//! Faults that tests switch on in the queues.

use std::time::{Duration, Instant};

use anyhow::Result;
use serde_json::{Value, json};
use tests::fixture::Instruction;

use crate::harness::{Queues, records};

#[tokio::test]
async fn a_queue_can_refuse_and_keeps_nothing_of_what_it_refused() -> Result<()> {
    let queues = Queues::start().await?;
    queues.aws.faults(&json!({"sqs": {"refuse_share": 1.0}})).await?;
    let send = queues.client.send_message().queue_url(queues.url("plain")).message_body("hello").send();
    let refused = send.await.expect_err("refused");
    assert_eq!(refused.raw_response().map(|response| response.status().as_u16()), Some(503));
    queues.aws.faults(&json!({})).await?;
    assert_eq!(queues.receive_within("plain", 30, 0).await?, []);
    queues.send("plain", "hello").await?;
    assert_eq!(queues.receive_one("plain", 30).await?.body(), Some("hello"));
    Ok(())
}

#[tokio::test]
async fn a_message_can_be_delivered_twice() -> Result<()> {
    let mut queues = Queues::start().await?;
    queues.functions.script("worker", Instruction::Return(Value::Null));
    queues.aws.faults(&json!({"sqs": {"duplicate_share": 1.0}})).await?;
    let id = queues.send("work", "hello").await?;
    for _ in 0..2 {
        let call = queues.functions.next("worker").await;
        assert_eq!(records(&call)[0]["messageId"], id);
    }
    queues.empty("work").await;
    Ok(())
}

#[tokio::test]
async fn a_queue_can_be_slow() -> Result<()> {
    let queues = Queues::start().await?;
    queues.aws.faults(&json!({"sqs": {"delay_ms": 300}})).await?;
    let begin = Instant::now();
    queues.send("plain", "hello").await?;
    assert!(begin.elapsed() >= Duration::from_millis(300), "{:?}", begin.elapsed());
    Ok(())
}

#[tokio::test]
async fn while_a_queue_is_at_fault_everything_goes_on_around_it() -> Result<()> {
    /// So often, for it is by chance what stands still when a receiver keeps its thread for itself.
    const MESSAGES: usize = 20;
    let mut queues = Queues::start().await?;
    queues.functions.script("worker", Instruction::Return(Value::Null));
    queues.aws.faults(&json!({"sqs": {"delay_ms": 20}})).await?;
    for n in 0..MESSAGES {
        queues.send("work", &n.to_string()).await?;
        assert_eq!(records(&queues.functions.next("worker").await)[0]["body"], n.to_string());
    }
    queues.empty("work").await;
    Ok(())
}
