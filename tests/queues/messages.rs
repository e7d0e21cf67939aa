//! Sending, receiving, hiding and deleting.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use aws_sdk_sqs::types::{
    DeleteMessageBatchRequestEntry, MessageSystemAttributeName, QueueAttributeName,
    SendMessageBatchRequestEntry,
};

use crate::harness::{Counts, Queues, attribute, receives};

/// Far less than a receiver would wait, far more than a message takes.
const SOON: Duration = Duration::from_secs(10);

#[tokio::test]
async fn a_message_is_received_as_it_was_sent_until_it_is_deleted() -> Result<()> {
    let queues = Queues::start().await?;
    let (client, url) = (&queues.client, queues.url("plain"));
    let sent = client.send_message().queue_url(&url).message_body("hello").send().await?;
    assert_eq!(sent.md5_of_message_body(), Some("5d41402abc4b2a76b9719d911017c592"));
    let message = queues.receive_one("plain", 30).await?;
    assert_eq!(message.body(), Some("hello"));
    assert_eq!(message.message_id(), sent.message_id());
    assert_eq!(message.md5_of_body(), Some("5d41402abc4b2a76b9719d911017c592"));
    assert_eq!(receives(&message), "1");
    let sent_ms: i64 = attribute(&message, MessageSystemAttributeName::SentTimestamp).parse()?;
    let first_ms: i64 =
        attribute(&message, MessageSystemAttributeName::ApproximateFirstReceiveTimestamp).parse()?;
    assert!(sent_ms > 1_700_000_000_000 && sent_ms <= first_ms, "{sent_ms} {first_ms}");
    assert_eq!(queues.counts("plain").await?, Counts { in_flight: 1, ..Counts::default() });
    assert_eq!(queues.receive_within("plain", 30, 0).await?, []);
    queues.delete("plain", &message).await?;
    assert_eq!(queues.counts("plain").await?, Counts::default());
    Ok(())
}

#[tokio::test]
async fn every_text_that_is_allowed_comes_back_unchanged_up_to_a_mebibyte() -> Result<()> {
    let queues = Queues::start().await?;
    for body in [
        "\t\r\n \"\\/\u{7f}\u{2028}\u{fffd}\u{1f600}\u{10ffff}",
        &"x".repeat(1_048_576),
        &"\"".repeat(1_048_576),
    ] {
        queues.send("plain", body).await?;
        let message = queues.receive_one("plain", 30).await?;
        assert!(message.body() == Some(body), "{body:.20}");
        queues.delete("plain", &message).await?;
    }
    Ok(())
}

#[tokio::test]
async fn what_is_not_deleted_is_received_again_when_its_visibility_timeout_ends() -> Result<()> {
    let queues = Queues::start().await?;
    queues.send("plain", "hello").await?;
    let first = queues.receive_one("plain", 1).await?;
    let begin = Instant::now();
    let second = queues.receive_one("plain", 30).await?;
    assert!(begin.elapsed() > Duration::from_millis(500), "{:?}", begin.elapsed());
    assert_eq!((second.message_id(), receives(&second)), (first.message_id(), "2"));
    // The receipt of the first receiver is good for nothing now.
    queues.delete("plain", &first).await?;
    assert_eq!(queues.counts("plain").await?.in_flight, 1);
    queues.delete("plain", &second).await?;
    queues.empty("plain").await;
    Ok(())
}

#[tokio::test]
async fn a_receiver_can_hide_a_message_longer_or_give_it_back_at_once() -> Result<()> {
    let queues = Queues::start().await?;
    queues.send("plain", "hello").await?;
    let message = queues.receive_one("plain", 1).await?;
    let handle = message.receipt_handle().context("received")?;
    let change = |seconds| {
        let change = queues.client.change_message_visibility().queue_url(queues.url("plain"));
        change.receipt_handle(handle).visibility_timeout(seconds).send()
    };
    change(600).await?;
    assert_eq!(queues.receive_within("plain", 30, 2).await?, [], "its first second is long over");
    change(0).await?;
    let refused = change(5).await.expect_err("it is visible").into_service_error();
    assert!(refused.is_message_not_inflight(), "{refused:?}");
    assert_eq!(receives(&queues.receive_one("plain", 30).await?), "2");
    let refused = change(5).await.expect_err("another has received it").into_service_error();
    assert_eq!(refused.meta().code(), Some("InvalidParameterValue"));
    Ok(())
}

#[tokio::test]
async fn a_receiver_that_waits_gets_a_message_as_soon_as_it_is_sent() -> Result<()> {
    let queues = Queues::start().await?;
    let begin = Instant::now();
    let (received, sent) = tokio::join!(queues.receive_one("plain", 30), queues.send("plain", "hello"));
    assert_eq!(received?.message_id(), Some(sent?.as_str()));
    assert!(begin.elapsed() < SOON, "{:?}", begin.elapsed());
    Ok(())
}

#[tokio::test]
async fn a_delayed_message_is_received_only_after_its_delay() -> Result<()> {
    let queues = Queues::start().await?;
    let begin = Instant::now();
    let send = queues.client.send_message().queue_url(queues.url("plain")).message_body("later");
    send.delay_seconds(1).send().await?;
    assert_eq!(queues.counts("plain").await?, Counts { delayed: 1, ..Counts::default() });
    assert_eq!(queues.receive_one("plain", 30).await?.body(), Some("later"));
    assert!(begin.elapsed() >= Duration::from_secs(1), "{:?}", begin.elapsed());
    Ok(())
}

#[tokio::test]
async fn a_batch_is_taken_entry_by_entry() -> Result<()> {
    let queues = Queues::start().await?;
    let (client, url) = (&queues.client, queues.url("plain"));
    let entry = |id: &str, body: &str, delay: i32| {
        let entry = SendMessageBatchRequestEntry::builder().id(id).message_body(body);
        entry.delay_seconds(delay).build()
    };
    let entries = [entry("good", "hello", 0)?, entry("bad", "\u{fffe}", 0)?, entry("late", "hello", 901)?];
    let sent = client.send_message_batch().queue_url(&url).set_entries(Some(entries.into())).send().await?;
    let good = sent.successful();
    assert_eq!((good.len(), good[0].id()), (1, "good"));
    assert_eq!(good[0].md5_of_message_body(), "5d41402abc4b2a76b9719d911017c592");
    let failed: Vec<_> =
        sent.failed().iter().map(|entry| (entry.id(), entry.code(), entry.sender_fault())).collect();
    assert_eq!(failed, [("bad", "InvalidMessageContents", true), ("late", "InvalidParameterValue", true)]);

    let message = queues.receive_one("plain", 30).await?;
    assert_eq!(message.message_id(), Some(good[0].message_id()));
    let entry = |id: &str, handle: &str| {
        DeleteMessageBatchRequestEntry::builder().id(id).receipt_handle(handle).build()
    };
    let entries = [entry("it", message.receipt_handle().context("received")?)?, entry("no", "nonsense")?];
    let deleted =
        client.delete_message_batch().queue_url(&url).set_entries(Some(entries.into())).send().await?;
    assert_eq!((deleted.successful().len(), deleted.successful()[0].id()), (1, "it"));
    assert_eq!((deleted.failed()[0].id(), deleted.failed()[0].code()), ("no", "ReceiptHandleIsInvalid"));
    queues.empty("plain").await;
    Ok(())
}

#[tokio::test]
async fn a_message_that_is_received_too_often_goes_to_the_dead_letter_queue_and_keeps_its_age() -> Result<()>
{
    let queues = Queues::start().await?;
    queues.send("plain", "hello").await?;
    let mut sent = String::new();
    for count in ["1", "2", "3"] {
        let message = queues.receive_one("plain", 0).await?;
        assert_eq!(receives(&message), count);
        sent = attribute(&message, MessageSystemAttributeName::SentTimestamp).to_owned();
    }
    assert_eq!(queues.receive_within("plain", 0, 0).await?, []);
    let dead = queues.receive_one("dead", 30).await?;
    assert_eq!((dead.body(), receives(&dead)), (Some("hello"), "1"));
    assert_eq!(attribute(&dead, MessageSystemAttributeName::SentTimestamp), sent);
    let source = attribute(&dead, MessageSystemAttributeName::DeadLetterQueueSourceArn);
    assert_eq!(source, "arn:aws:sqs:us-east-1:000000000000:plain");
    queues.empty("plain").await;
    Ok(())
}

#[tokio::test]
async fn a_queue_can_be_purged() -> Result<()> {
    let queues = Queues::start().await?;
    for _ in 0..3 {
        queues.send("plain", "hello").await?;
    }
    queues.receive("plain", 30).await?;
    queues.client.purge_queue().queue_url(queues.url("plain")).send().await?;
    assert_eq!(queues.counts("plain").await?, Counts::default());
    Ok(())
}

#[tokio::test]
async fn a_queue_tells_its_url_and_what_the_template_says_of_it() -> Result<()> {
    let queues = Queues::start().await?;
    let found = queues.client.get_queue_url().queue_name("work").send().await?;
    assert_eq!(found.queue_url(), Some(queues.url("work").as_str()));
    let asked = queues.client.get_queue_attributes().queue_url(queues.url("work"));
    let told = asked.attribute_names(QueueAttributeName::All).send().await?.attributes.context("told")?;
    assert_eq!(told[&QueueAttributeName::VisibilityTimeout], "3");
    assert_eq!(told[&QueueAttributeName::QueueArn], "arn:aws:sqs:us-east-1:000000000000:work");
    let policy: serde_json::Value = serde_json::from_str(&told[&QueueAttributeName::RedrivePolicy])?;
    assert_eq!(policy["maxReceiveCount"], 2);
    assert_eq!(policy["deadLetterTargetArn"], "arn:aws:sqs:us-east-1:000000000000:dead");
    let asked = queues.client.get_queue_attributes().queue_url(queues.url("dead"));
    let some = asked.attribute_names(QueueAttributeName::MessageRetentionPeriod).send().await?;
    let some = some.attributes.context("told")?;
    assert_eq!((some.len(), some[&QueueAttributeName::MessageRetentionPeriod].as_str()), (1, "1209600"));
    Ok(())
}
