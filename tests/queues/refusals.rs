//! What SQS refuses, and that its SDK knows why.

use anyhow::Result;
use aws_sdk_sqs::types::{MessageAttributeValue, QueueAttributeName, SendMessageBatchRequestEntry};

use crate::harness::Queues;

fn entry(id: &str, body: &str) -> SendMessageBatchRequestEntry {
    SendMessageBatchRequestEntry::builder().id(id).message_body(body).build().expect("an id and a body")
}

#[tokio::test]
async fn a_queue_that_is_not_there_is_a_typed_error() -> Result<()> {
    let queues = Queues::start().await?;
    let client = &queues.client;
    let send = client.send_message().queue_url(queues.url("nowhere")).message_body("hello");
    let refused = send.send().await.expect_err("no queue").into_service_error();
    assert!(refused.is_queue_does_not_exist(), "{refused:?}");
    let refused = client.get_queue_url().queue_name("nowhere").send().await;
    let refused = refused.expect_err("no queue").into_service_error();
    assert!(refused.is_queue_does_not_exist(), "{refused:?}");
    Ok(())
}

#[tokio::test]
async fn a_message_that_cannot_be_is_refused() -> Result<()> {
    let queues = Queues::start().await?;
    let send =
        |body: &str| queues.client.send_message().queue_url(queues.url("plain")).message_body(body).send();
    for bad in ["\0", "bell\u{7}", "\u{1f}", "\u{fffe}", "\u{ffff}"] {
        let refused = send(bad).await.expect_err("no such characters").into_service_error();
        assert!(refused.is_invalid_message_contents(), "{bad:?}: {refused:?}");
    }
    let code = |body: String| {
        let sending = send(&body);
        async move { sending.await.expect_err("refused").into_service_error().meta().code().map(str::to_owned) }
    };
    assert_eq!(code("x".repeat(1_048_577)).await.as_deref(), Some("InvalidParameterValue"));
    assert_eq!(code(String::new()).await.as_deref(), Some("MissingParameter"));
    for delay in [-1, 901] {
        let send = queues.client.send_message().queue_url(queues.url("plain")).message_body("hello");
        let refused = send.delay_seconds(delay).send().await.expect_err("no such delay").into_service_error();
        assert_eq!(refused.meta().code(), Some("InvalidParameterValue"), "{delay}");
    }
    let attribute = MessageAttributeValue::builder().data_type("String").string_value("x").build()?;
    let send = queues.client.send_message().queue_url(queues.url("plain")).message_body("hello");
    let refused = send.message_attributes("name", attribute).send().await.expect_err("not known here");
    assert!(refused.into_service_error().is_unsupported_operation());
    assert_eq!(queues.receive_within("plain", 30, 0).await?, []);
    Ok(())
}

#[tokio::test]
async fn a_batch_that_cannot_be_is_refused_as_a_whole() -> Result<()> {
    let queues = Queues::start().await?;
    let refused = async |entries: Vec<SendMessageBatchRequestEntry>| {
        let send = queues.client.send_message_batch().queue_url(queues.url("plain"));
        send.set_entries(Some(entries)).send().await.expect_err("refused").into_service_error()
    };
    assert!(refused(vec![]).await.is_empty_batch_request());
    let eleven = (0..11).map(|n| entry(&n.to_string(), "hello")).collect();
    assert!(refused(eleven).await.is_too_many_entries_in_batch_request());
    assert!(refused(vec![entry("a", "1"), entry("a", "2")]).await.is_batch_entry_ids_not_distinct());
    assert!(refused(vec![entry("a b", "1")]).await.is_invalid_batch_entry_id());
    let half = "x".repeat(524_289);
    assert!(refused(vec![entry("a", &half), entry("b", &half)]).await.is_batch_request_too_long());
    assert_eq!(queues.receive_within("plain", 30, 0).await?, []);
    Ok(())
}

#[tokio::test]
async fn what_is_no_receipt_and_no_attribute_is_refused() -> Result<()> {
    let queues = Queues::start().await?;
    let url = queues.url("plain");
    let delete = queues.client.delete_message().queue_url(&url).receipt_handle("nonsense");
    let refused = delete.send().await.expect_err("no receipt").into_service_error();
    assert!(refused.is_receipt_handle_is_invalid(), "{refused:?}");
    let ask = queues.client.get_queue_attributes().queue_url(&url);
    let ask = ask.attribute_names(QueueAttributeName::from("Colour"));
    let refused = ask.send().await.expect_err("no attribute").into_service_error();
    assert!(refused.is_invalid_attribute_name(), "{refused:?}");
    let receive = queues.client.receive_message().queue_url(&url).max_number_of_messages(11);
    let refused = receive.send().await.expect_err("too many").into_service_error();
    assert_eq!(refused.meta().code(), Some("InvalidParameterValue"));
    Ok(())
}

#[tokio::test]
async fn what_is_no_request_of_an_sdk_is_refused() -> Result<()> {
    let queues = Queues::start().await?;
    let client = reqwest::Client::new();
    let refused = async |target: &str, body: &'static str| -> Result<(u16, serde_json::Value)> {
        let request = client.post(&queues.aws.endpoints.sqs).header("x-amz-target", target).body(body);
        let response = request.send().await?;
        Ok((response.status().as_u16(), response.json().await?))
    };
    let (status, body) = refused("AmazonSQS.CreateQueue", "{}").await?;
    assert_eq!((status, &body["__type"]), (400, &"com.amazonaws.sqs#UnknownOperationException".into()));
    let (status, body) = refused("AmazonSQS.SendMessage", "{").await?;
    assert_eq!((status, &body["__type"]), (400, &"com.amazonaws.sqs#SerializationException".into()));
    let (status, body) = refused("AmazonSQS.SendMessage", "{}").await?;
    assert_eq!((status, &body["__type"]), (400, &"com.amazonaws.sqs#MissingParameter".into()));
    assert_eq!(client.get(&queues.aws.endpoints.sqs).send().await?.status().as_u16(), 400);
    Ok(())
}
