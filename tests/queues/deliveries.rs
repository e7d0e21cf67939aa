//! Functions that are called for what is in a queue.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use serde_json::{Value, json};
use tests::fixture::Instruction;

use crate::harness::{Counts, Queues, bodies, failed, receives, records};

#[tokio::test]
async fn a_function_is_called_with_a_message_that_is_deleted_once_it_is_done() -> Result<()> {
    let mut queues = Queues::start().await?;
    let id = queues.send("work", "hello").await?;
    let call = queues.functions.next("worker").await;
    let [record] = records(&call) else { panic!("{:?}", call.event()) };
    assert_eq!(record["messageId"], id);
    assert_eq!(record["body"], "hello");
    assert_eq!(record["md5OfBody"], "5d41402abc4b2a76b9719d911017c592");
    assert_eq!(record["eventSource"], "aws:sqs");
    assert_eq!(record["eventSourceARN"], "arn:aws:sqs:us-east-1:000000000000:work");
    assert_eq!(record["awsRegion"], "us-east-1");
    assert_eq!(record["messageAttributes"], json!({}));
    let attributes = &record["attributes"];
    assert_eq!(attributes["ApproximateReceiveCount"], "1");
    for time in ["SentTimestamp", "ApproximateFirstReceiveTimestamp"] {
        let time: i64 = attributes[time].as_str().context(time)?.parse()?;
        assert!(time > 1_700_000_000_000, "{attributes}");
    }
    call.answer_json(Value::Null).await;
    queues.empty("work").await;
    queues.empty("dead").await;
    Ok(())
}

#[tokio::test]
async fn only_the_messages_that_the_function_names_come_back() -> Result<()> {
    let mut queues = Queues::start().await?;
    // One call for all three, whenever they are looked for.
    let ids = queues.send_batch("work", &["a", "b", "c"]).await?;
    let call = queues.functions.next("worker").await;
    assert_eq!(bodies(&call), ["a", "b", "c"]);
    call.answer_json(failed(&[&ids[1]])).await;
    let call = queues.functions.next("worker").await;
    assert_eq!(bodies(&call), ["b"]);
    assert_eq!(records(&call)[0]["attributes"]["ApproximateReceiveCount"], "2");
    call.answer_json(failed(&[])).await;
    queues.empty("work").await;
    Ok(())
}

#[tokio::test]
async fn an_answer_that_names_no_message_counts_as_if_all_had_failed() -> Result<()> {
    let mut queues = Queues::start().await?;
    queues.send_batch("work", &["a", "b"]).await?;
    queues.functions.next("worker").await.answer_json(failed(&[""])).await;
    let call = queues.functions.next("worker").await;
    assert_eq!(bodies(&call), ["a", "b"]);
    call.answer_json(json!({})).await;
    queues.empty("work").await;
    Ok(())
}

#[tokio::test]
async fn a_function_that_may_not_name_messages_has_done_all_of_them() -> Result<()> {
    let mut queues = Queues::start().await?;
    let id = queues.send("narrow", "hello").await?;
    queues.functions.next("single").await.answer_json(failed(&[&id])).await;
    queues.empty("narrow").await;
    Ok(())
}

#[tokio::test]
async fn a_message_whose_function_fails_again_and_again_becomes_a_dead_letter() -> Result<()> {
    let mut queues = Queues::start().await?;
    queues.functions.script("worker", Instruction::Throw("boom".into()));
    let id = queues.send("work", "hello").await?;
    for count in ["1", "2"] {
        let call = queues.functions.next("worker").await;
        assert_eq!(records(&call)[0]["attributes"]["ApproximateReceiveCount"], count);
    }
    let dead = queues.receive_one("dead", 30).await?;
    assert_eq!((dead.message_id(), dead.body(), receives(&dead)), (Some(id.as_str()), Some("hello"), "1"));
    queues.empty("work").await;
    Ok(())
}

#[tokio::test]
async fn a_message_whose_function_exits_or_takes_too_long_comes_back() -> Result<()> {
    let mut queues = Queues::start().await?;
    queues.send("hasty", "hello").await?;
    queues.functions.next("brief").await.answer(Instruction::Exit(1)).await;
    queues.functions.next("brief").await.answer(Instruction::Hang).await;
    let call = queues.functions.next("brief").await;
    assert_eq!(records(&call)[0]["attributes"]["ApproximateReceiveCount"], "3");
    queues.functions.script("brief", Instruction::Return(Value::Null));
    call.answer_json(Value::Null).await;
    queues.empty("hasty").await;
    Ok(())
}

#[tokio::test]
async fn a_function_can_hide_a_message_for_longer_before_it_gives_up() -> Result<()> {
    let mut queues = Queues::start().await?;
    let id = queues.send("work", "hello").await?;
    let call = queues.functions.next("worker").await;
    let handle = records(&call)[0]["receiptHandle"].as_str().context("a message has a receipt")?;
    let change = queues.client.change_message_visibility().queue_url(queues.url("work"));
    change.receipt_handle(handle).visibility_timeout(0).send().await?;
    let begin = Instant::now();
    let again = queues.functions.next("worker").await;
    assert_eq!(records(&again)[0]["messageId"], id);
    assert!(begin.elapsed() < Duration::from_secs(3), "it was given back at once");
    // The first call no longer has it.
    call.answer_json(Value::Null).await;
    again.answer_json(Value::Null).await;
    queues.empty("work").await;
    Ok(())
}

#[tokio::test]
async fn a_batch_waits_for_its_window_unless_it_is_full_before() -> Result<()> {
    let mut queues = Queues::start().await?;
    let begin = Instant::now();
    queues.send("gathered", "a").await?;
    queues.send("gathered", "b").await?;
    let call = queues.functions.next("gatherer").await;
    assert_eq!(bodies(&call), ["a", "b"]);
    assert!(begin.elapsed() >= Duration::from_secs(2), "{:?}", begin.elapsed());
    call.answer_json(Value::Null).await;

    for body in ["c", "d", "e", "f"] {
        queues.send("gathered", body).await?;
    }
    let (full, rest) = (queues.functions.next("gatherer").await, queues.functions.next("gatherer").await);
    assert_eq!((records(&full).len(), records(&rest).len()), (3, 1));
    full.answer_json(Value::Null).await;
    rest.answer_json(Value::Null).await;
    queues.empty("gathered").await;
    Ok(())
}

#[tokio::test]
async fn no_more_calls_are_made_at_a_time_than_the_template_says() -> Result<()> {
    let mut queues = Queues::start().await?;
    queues.send_batch("narrow", &["a", "b", "c"]).await?;
    let (first, second) = (queues.functions.next("single").await, queues.functions.next("single").await);
    // The third is not even received: it would be hidden in vain.
    assert_eq!(queues.counts("narrow").await?, Counts { visible: 1, in_flight: 2, delayed: 0 });
    first.answer_json(Value::Null).await;
    let third = queues.functions.next("single").await;
    second.answer_json(Value::Null).await;
    third.answer_json(Value::Null).await;
    queues.empty("narrow").await;
    Ok(())
}

#[tokio::test]
async fn an_event_source_that_is_not_enabled_leaves_the_queue_alone() -> Result<()> {
    let queues = Queues::start().await?;
    let id = queues.send("plain", "hello").await?;
    let message = queues.receive_one("plain", 30).await?;
    assert_eq!((message.message_id(), receives(&message)), (Some(id.as_str()), "1"));
    Ok(())
}
