//! Why SQS refuses something, in the words by which its SDKs know it.

use std::fmt;

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode};
use http_body_util::Full;
use serde_json::json;

use super::answer;
use super::journal::Broken;

/// Why a request, or an entry of a batch, is refused.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    UnknownAction,
    /// The body is not what the action takes.
    Unreadable(String),
    TooLarge,
    NoSuchQueue,
    MissingParameter(&'static str),
    /// A parameter, its value, and what it should be.
    InvalidParameter(&'static str, String, String),
    InvalidAttributeName(String),
    /// Characters that a message cannot have.
    InvalidContents,
    /// A message is larger than its queue takes.
    TooLong(usize),
    EmptyBatch,
    TooManyEntries(usize),
    InvalidEntryId,
    EntryIdsNotDistinct(String),
    BatchTooLong {
        limit: usize,
        length: usize,
    },
    InvalidReceipt(String),
    NotInFlight,
    /// What SQS can do and this cannot.
    Unsupported(&'static str),
    /// A fault that a test has switched on.
    Unavailable,
    /// The queue's file cannot be written.
    Broken,
}

impl From<Broken> for Refusal {
    fn from(_: Broken) -> Self {
        Self::Broken
    }
}

impl Refusal {
    /// Its name in the JSON protocol.
    fn shape(&self) -> &'static str {
        match self {
            Self::UnknownAction => "UnknownOperationException",
            Self::Unreadable(_) => "SerializationException",
            Self::TooLarge => "RequestEntityTooLargeException",
            Self::NoSuchQueue => "QueueDoesNotExist",
            Self::MissingParameter(_) => "MissingParameter",
            Self::InvalidParameter(..) | Self::TooLong(_) => "InvalidParameterValue",
            Self::InvalidAttributeName(_) => "InvalidAttributeName",
            Self::InvalidContents => "InvalidMessageContents",
            Self::EmptyBatch => "EmptyBatchRequest",
            Self::TooManyEntries(_) => "TooManyEntriesInBatchRequest",
            Self::InvalidEntryId => "InvalidBatchEntryId",
            Self::EntryIdsNotDistinct(_) => "BatchEntryIdsNotDistinct",
            Self::BatchTooLong { .. } => "BatchRequestTooLong",
            Self::InvalidReceipt(_) => "ReceiptHandleIsInvalid",
            Self::NotInFlight => "MessageNotInflight",
            Self::Unsupported(_) => "UnsupportedOperation",
            Self::Unavailable => "ServiceUnavailable",
            Self::Broken => "InternalError",
        }
    }

    /// Its name in the older query protocol, which the SDKs and the answers of batches go by.
    pub(super) fn code(&self) -> String {
        let shape = self.shape();
        match self {
            Self::NoSuchQueue => "AWS.SimpleQueueService.NonExistentQueue".to_owned(),
            Self::EmptyBatch
            | Self::TooManyEntries(_)
            | Self::InvalidEntryId
            | Self::EntryIdsNotDistinct(_)
            | Self::BatchTooLong { .. }
            | Self::NotInFlight
            | Self::Unsupported(_) => format!("AWS.SimpleQueueService.{shape}"),
            _ => shape.to_owned(),
        }
    }

    pub(super) fn status(&self) -> StatusCode {
        match self {
            Self::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
            Self::Broken => StatusCode::INTERNAL_SERVER_ERROR,
            _ => StatusCode::BAD_REQUEST,
        }
    }

    /// Whether it is the caller's own doing.
    pub(super) fn is_senders(&self) -> bool {
        self.status().is_client_error()
    }

    pub(super) fn response(&self) -> Response<Full<Bytes>> {
        let body =
            json!({"__type": format!("com.amazonaws.sqs#{}", self.shape()), "message": self.to_string()});
        let mut response = answer(self.status(), &body);
        let fault = if self.is_senders() { "Sender" } else { "Receiver" };
        if let Ok(value) = HeaderValue::try_from(format!("{};{fault}", self.code())) {
            response.headers_mut().insert("x-amzn-query-error", value);
        }
        response
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownAction => f.write_str("There is no such action here."),
            Self::Unreadable(why) => write!(f, "The body cannot be read: {why}"),
            Self::TooLarge => f.write_str("The request is too large."),
            Self::NoSuchQueue => f.write_str("The specified queue does not exist."),
            Self::MissingParameter(name) => write!(f, "The request must contain the parameter {name}."),
            Self::InvalidParameter(name, value, why) => {
                write!(f, "Value {value} for parameter {name} is invalid. Reason: {why}")
            }
            Self::InvalidAttributeName(name) => write!(f, "Unknown Attribute {name}."),
            Self::InvalidContents => f.write_str(
                "Invalid characters found. Valid unicode characters are #x9 | #xA | #xD | #x20 to #xD7FF | \
                 #xE000 to #xFFFD | #x10000 to #x10FFFF",
            ),
            Self::TooLong(limit) => write!(
                f,
                "One or more parameters are invalid. Reason: Message must be shorter than {limit} bytes."
            ),
            Self::EmptyBatch => f.write_str("There should be at least one entry in the request."),
            Self::TooManyEntries(count) => {
                write!(f, "Maximum number of entries per request are 10. You have sent {count}.")
            }
            Self::InvalidEntryId => f.write_str(
                "A batch entry id can only contain alphanumeric characters, hyphens and underscores. It can be at \
                 most 80 letters long.",
            ),
            Self::EntryIdsNotDistinct(id) => write!(f, "Id {id} repeated."),
            Self::BatchTooLong { limit, length } => {
                write!(f, "Batch requests cannot be longer than {limit} bytes. You have sent {length} bytes.")
            }
            Self::InvalidReceipt(handle) => write!(f, "The input receipt handle \"{handle}\" is not valid."),
            Self::NotInFlight => f.write_str("The specified message isn't in flight."),
            Self::Unsupported(what) => write!(f, "The local AWS has no {what}."),
            Self::Unavailable => f.write_str("The request has failed due to a temporary failure of the server."),
            Self::Broken => f.write_str("The queue's file cannot be written; its cause is in the log."),
        }
    }
}
