//! The attributes that SQS gives to messages.

use serde_json::{Map, Value};

use super::messages::Message;
use crate::local_values::CREDENTIALS;

/// The system attributes of a message that was received.
pub(super) fn attributes(message: &Message) -> Map<String, Value> {
    let delivery = &message.delivery;
    let mut attributes = Map::new();
    let mut insert = |name: &str, value: String| attributes.insert(name.to_owned(), value.into());
    insert("ApproximateReceiveCount", delivery.receives.to_string());
    insert("SentTimestamp", message.sent_ms.to_string());
    // Who has sent it: everybody here has the same credentials.
    insert("SenderId", CREDENTIALS[0].1.to_owned());
    insert("ApproximateFirstReceiveTimestamp", delivery.first_received_ms.unwrap_or_default().to_string());
    if let Some(source) = &message.source {
        insert("DeadLetterQueueSourceArn", source.clone());
    }
    attributes
}
