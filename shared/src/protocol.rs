//! Every JSON body and every frame, in one place: what clients are written against.
//!
//! What comes in is read by a [`Form`], which names every bad field at once; what goes out is serialised from the
//! structs here, which are also the schemas of `/openapi.json`.

mod form;
pub mod frames;
pub mod http;
pub mod openapi;
pub mod queue;

use std::time::Duration;

use serde::Serialize;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use utoipa::ToSchema;

pub use form::Form;

use crate::{
    domain::users::UserId,
    error::{Error, Fields},
};

/// How many items a page has if nothing is said.
pub const USUAL_PAGE: usize = 50;
/// How many items a page has at most.
pub const LARGEST_PAGE: usize = 200;

/// A moment as clients see it: RFC 3339, UTC, milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ToSchema)]
#[schema(value_type = String, format = DateTime, example = "2026-11-22T16:00:00.123Z")]
pub struct Timestamp(pub OffsetDateTime);

impl Serialize for Timestamp {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let utc = self.0.to_offset(time::UtcOffset::UTC);
        let (date, clock, millisecond) = (utc.date(), utc.time(), utc.millisecond());
        serializer.collect_str(&format_args!(
            "{date}T{:02}:{:02}:{:02}.{millisecond:03}Z",
            clock.hour(),
            clock.minute(),
            clock.second()
        ))
    }
}

impl<'de> serde::Deserialize<'de> for Timestamp {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let raw = String::deserialize(deserializer)?;
        OffsetDateTime::parse(&raw, &Rfc3339).map(Self).map_err(serde::de::Error::custom)
    }
}

/// What went wrong, as clients see it: under `error` in an HTTP body, beside `"type": "error"` in a frame.
#[derive(Debug, Serialize, ToSchema)]
pub struct Failure {
    /// Stable, for programs: `validation_failed`, `throttled`, …
    #[schema(example = "validation_failed")]
    pub code: &'static str,
    /// For people; may change.
    pub message: String,
    /// With `validation_failed`: the reason by field.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<std::collections::BTreeMap<String, String>>)]
    pub fields: Option<Fields>,
    /// With `throttled`: milliseconds until the next try would pass.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry_after_ms: Option<u64>,
    /// The id under which the log holds the call.
    pub request_id: String,
}

impl Failure {
    /// Tells a client of an error.
    pub fn new(error: &Error, request_id: &str) -> Self {
        let (fields, retry_after) = match error {
            Error::ValidationFailed(fields) => (Some(fields.clone()), None),
            Error::Throttled { retry_after } => (None, Some(*retry_after)),
            _ => (None, None),
        };
        Self {
            code: error.code(),
            message: error.message(),
            fields,
            retry_after_ms: retry_after.map(round_up_to_ms),
            request_id: request_id.to_owned(),
        }
    }
}

/// A client that waits as long as it was told must not be refused again for a fraction of a millisecond.
fn round_up_to_ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros().div_ceil(1000)).unwrap_or(u64::MAX)
}

/// Somebody as others see them in a room.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, serde::Deserialize, ToSchema)]
pub struct Author {
    /// The user's id.
    #[schema(value_type = uuid::Uuid)]
    pub id: UserId,
    /// First and last name, as they were when the connection was made.
    #[schema(example = "Ada Lovelace")]
    pub name: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_utc_with_milliseconds() {
        let at = Timestamp(
            OffsetDateTime::from_unix_timestamp_nanos(1_795_351_680_007_900_000).expect("in range"),
        );
        assert_eq!(serde_json::to_string(&at).expect("serialises"), r#""2026-11-22T12:48:00.007Z""#);
    }

    #[test]
    fn a_throttled_client_is_told_to_wait_long_enough() {
        let error = Error::Throttled { retry_after: Duration::from_micros(1_001) };
        assert_eq!(Failure::new(&error, "r").retry_after_ms, Some(2));
    }

    #[test]
    fn the_cause_of_a_failure_is_not_told_to_clients() {
        let error = Error::internal("reading a session", "password=hunter2");
        let told = serde_json::to_string(&Failure::new(&error, "r")).expect("serialises");
        assert!(!told.contains("hunter2"), "{told}");
        assert_eq!(error.cause_chain().as_deref(), Some("reading a session failed: password=hunter2"));
    }
}
