//! What a queue holds outlives the local AWS, however that ends.

use anyhow::{Context as _, Result};
use aws_sdk_sqs::types::{Message, MessageSystemAttributeName};
use serde_json::Value;
use tests::fixture::Instruction;
use tests::test_app::eventually;

use crate::harness::{Counts, Queues, attribute, bodies, receives};

/// One message that was deleted, one in flight, one delayed, and two that wait.
async fn filled() -> Result<(Queues, Message)> {
    let queues = Queues::start().await?;
    queues.send("plain", "done").await?;
    let done = queues.receive_one("plain", 30).await?;
    queues.delete("plain", &done).await?;
    queues.send("plain", "in flight").await?;
    let in_flight = queues.receive_one("plain", 600).await?;
    let later = queues.client.send_message().queue_url(queues.url("plain")).message_body("delayed");
    later.delay_seconds(900).send().await?;
    queues.send_batch("plain", &["one", "two \u{1f600}"]).await?;
    Ok((queues, in_flight))
}

async fn check(queues: &Queues, in_flight: &Message) -> Result<()> {
    assert_eq!(queues.counts("plain").await?, Counts { visible: 2, in_flight: 1, delayed: 1 });
    let waiting = queues.receive("plain", 600).await?;
    let mut bodies: Vec<_> = waiting.iter().filter_map(Message::body).collect();
    bodies.sort_unstable();
    assert_eq!(bodies, ["one", "two \u{1f600}"]);
    // Its receiver can still say that it is done.
    queues.delete("plain", in_flight).await?;
    assert_eq!(queues.counts("plain").await?, Counts { visible: 0, in_flight: 2, delayed: 1 });
    Ok(())
}

#[tokio::test]
async fn a_clean_restart_keeps_every_message_where_it_is() -> Result<()> {
    let (queues, in_flight) = filled().await?;
    let queues = queues.restart().await?;
    check(&queues, &in_flight).await
}

#[tokio::test]
async fn a_kill_loses_nothing_that_was_acknowledged() -> Result<()> {
    let (queues, in_flight) = filled().await?;
    let queues = queues.kill_and_restart().await?;
    check(&queues, &in_flight).await
}

#[tokio::test]
async fn how_often_a_message_was_received_and_its_age_are_kept() -> Result<()> {
    let queues = Queues::start().await?;
    queues.send("plain", "hello").await?;
    let first = queues.receive_one("plain", 0).await?;
    let queues = queues.kill_and_restart().await?;
    let second = queues.receive_one("plain", 0).await?;
    assert_eq!(receives(&second), "2");
    for name in [
        MessageSystemAttributeName::SentTimestamp,
        MessageSystemAttributeName::ApproximateFirstReceiveTimestamp,
    ] {
        assert_eq!(attribute(&first, name.clone()), attribute(&second, name));
    }
    Ok(())
}

#[tokio::test]
async fn a_message_whose_call_was_killed_comes_again_after_the_restart() -> Result<()> {
    let mut queues = Queues::start().await?;
    queues.send("work", "hello").await?;
    let call = queues.functions.next("worker").await;
    let mut queues = queues.kill_and_restart().await?;
    drop(call);
    let call = queues.functions.next("worker").await;
    assert_eq!(bodies(&call), ["hello"]);
    call.answer_json(Value::Null).await;
    queues.empty("work").await;
    Ok(())
}

#[tokio::test]
async fn a_clean_end_waits_for_the_calls_in_flight_and_delivers_nothing_more() -> Result<()> {
    let mut queues = Queues::start().await?;
    queues.send("narrow", "in flight").await?;
    let call = queues.functions.next("single").await;
    queues.aws.terminate()?;
    let control = queues.aws.endpoints.control.clone();
    eventually("no call comes from outside", async || match reqwest::get(&control).await {
        Ok(answer) => Err(format!("{answer:?}")),
        Err(_) => Ok(()),
    })
    .await;
    // A function still reaches the queues while the local AWS stops.
    queues.send("narrow", "too late").await?;
    call.answer_json(Value::Null).await;
    let status = queues.aws.ended().await?;
    assert!(status.success(), "{status}");
    let lines = queues.log_lines();
    let delivered = lines.iter().filter(|line| line["function"] == "single");
    assert_eq!(delivered.map(|line| &line["status"]).collect::<Vec<_>>(), [200]);

    queues.functions.script("single", Instruction::Return(Value::Null));
    let Queues { aws, functions, folder, .. } = queues;
    drop(aws);
    let mut queues = Queues::start_in(folder, functions).await?;
    let call = queues.functions.next("single").await;
    assert_eq!(bodies(&call), ["too late"]);
    queues.empty("narrow").await;
    Ok(())
}

#[tokio::test]
async fn what_is_gathered_when_the_local_aws_ends_was_not_received() -> Result<()> {
    let queues = Queues::start().await?;
    queues.send("gathered", "hello").await?;
    queues.counted("gathered", Counts { in_flight: 1, ..Counts::default() }).await;
    let mut queues = queues.restart().await?;
    let call = queues.functions.next("gatherer").await;
    let record = call.event()["Records"].get(0).context("a message")?;
    assert_eq!(record["attributes"]["ApproximateReceiveCount"], "1");
    call.answer_json(Value::Null).await;
    queues.empty("gathered").await;
    Ok(())
}
