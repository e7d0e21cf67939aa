//! What the template's functions are told of its queues.

use anyhow::Result;
use serde_json::{Value, json};

use crate::harness::Queues;

#[tokio::test]
async fn a_function_is_told_where_the_queues_are() -> Result<()> {
    let queues = Queues::start().await?;
    let url = format!("{}/2015-03-31/functions/worker/invocations", queues.aws.endpoints.control);
    let told = reqwest::Client::new().post(url).json(&json!({"fixture": "tell"})).send().await?;
    let environment = told.json::<Value>().await?["environment"].take();
    assert_eq!(environment["AWS_ENDPOINT_URL_SQS"], queues.aws.endpoints.sqs);
    assert_eq!(environment["WORK_QUEUE_URL"], queues.url("work"));
    assert_eq!(environment["WORK_QUEUE_NAME"], "work");
    assert!(queues.aws.endpoints.sqs.starts_with("http://127.0.0.1:"), "{}", queues.aws.endpoints.sqs);
    Ok(())
}
