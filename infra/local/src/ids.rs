//! The ids and times that API Gateway puts into its events, made the way it makes them.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE;
use serde::{Serialize, Serializer};
use time::OffsetDateTime;

/// The account in every ARN. Zeros, so that nobody takes it for a real one.
pub const ACCOUNT_ID: &str = "000000000000";

/// The region in every ARN, and the one that the functions are told.
pub const REGION: &str = "us-east-1";

/// An id as API Gateway writes them for connections, requests and messages: the URL-safe base64 of 11
/// bytes, which is 16 characters and ends in `=` (`%3D` in a URL).
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Id([u8; Id::LENGTH]);

impl Id {
    const LENGTH: usize = 16;
    const BYTES: usize = 11;

    /// A new random id.
    #[must_use]
    pub fn new() -> Self {
        let mut text = [0; Self::LENGTH];
        URL_SAFE
            .encode_slice(random::<{ Self::BYTES }>(), &mut text)
            .expect("11 bytes make 16 characters of padded base64");
        Self(text)
    }

    /// Reads an id back. `None` if no id can be written like that.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let bytes: [u8; Self::LENGTH] = text.as_bytes().try_into().ok()?;
        let (digits, padding) = text.split_at(Self::LENGTH - 1);
        // Real ids carry two bits that no byte needs, so that a strict decoder would refuse some of them.
        let digit = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        (padding == "=" && digits.bytes().all(digit)).then_some(Self(bytes))
    }

    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).expect("base64 is ASCII")
    }
}

impl Default for Id {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Serialize for Id {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

/// The value of `X-Amzn-Trace-Id` for a request that came at `now`.
#[must_use]
pub fn trace_id(now: OffsetDateTime) -> String {
    format!("Root=1-{:08x}-{}", now.unix_timestamp(), hex(&random::<12>()))
}

/// An API's id as it stands in ARNs, events and host names: 10 characters `[a-z0-9]`. Made from the logical
/// id, so that it is the same in every run.
#[must_use]
pub fn api_id(logical_id: &str) -> String {
    let letters = logical_id.chars().filter(char::is_ascii_alphanumeric).map(|c| c.to_ascii_lowercase());
    letters.chain(std::iter::repeat('0')).take(10).collect()
}

/// The Common Log Format's time, `22/Feb/2022:19:07:37 +0000`: `requestTime` in the events of API Gateway.
#[must_use]
pub fn clf_time(time: OffsetDateTime) -> String {
    let time = time.to_offset(time::UtcOffset::UTC);
    let month = &time.month().to_string()[..3];
    let (day, year) = (time.day(), time.year());
    let (hour, minute, second) = time.to_hms();
    format!("{day:02}/{month}/{year}:{hour:02}:{minute:02}:{second:02} +0000")
}

/// Milliseconds since 1970: `requestTimeEpoch`, `connectedAt`.
#[must_use]
pub fn epoch_ms(time: OffsetDateTime) -> i64 {
    time.unix_timestamp() * 1_000 + i64::from(time.millisecond())
}

fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).expect("the system has random bytes");
    bytes
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use time::macros::datetime;

    #[test]
    fn an_id_is_sixteen_characters_and_reads_back() {
        for _ in 0..1_000 {
            let id = Id::new();
            assert_eq!(id.as_str().len(), 16);
            assert!(id.as_str().ends_with('='), "{id}");
            assert_eq!(Id::parse(id.as_str()), Some(id));
        }
    }

    #[test]
    fn ids_seen_in_the_wild_are_read() {
        for seen in ["TWegAcC4EowCHnA=", "RYG0LEicPHcFo_A=", "Jx-TaE0_GjQFvSw="] {
            assert!(Id::parse(seen).is_some(), "{seen}");
        }
    }

    #[test]
    fn what_is_no_id_is_refused() {
        for bad in
            ["", "nope", "TWegAcC4EowCHnAA", "TWegAcC4EowCHn==", "TWegAcC4EowC/nA=", "TWegAcC4EowCHnA=="]
        {
            assert_eq!(Id::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn times_are_written_as_in_captured_events() {
        assert_eq!(clf_time(datetime!(2022-02-22 19:07:37 UTC)), "22/Feb/2022:19:07:37 +0000");
        assert_eq!(clf_time(datetime!(2022-05-01 01:00:00 +2)), "30/Apr/2022:23:00:00 +0000");
        assert_eq!(epoch_ms(datetime!(2022-02-22 19:07:37.902 UTC)), 1_645_556_857_902);
    }

    #[test]
    fn a_trace_id_begins_with_the_time() {
        let id = trace_id(datetime!(2022-02-22 19:07:37 UTC));
        assert!(id.starts_with("Root=1-62153479-"), "{id}");
        assert_eq!(id.len(), "Root=1-62153479-".len() + 24);
    }

    #[test]
    fn an_api_id_is_ten_lower_case_characters() {
        assert_eq!(api_id("WebSocketApi"), "websocketa");
        assert_eq!(api_id("Chat"), "chat000000");
    }
}
