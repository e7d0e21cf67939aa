//! The messages of the queues: an event on its way to Postgres, and a frame on its way to a part of a big room.
//!
//! What a release writes the next one must read: a message may be 14 days old.

use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::DeserializeOwned, de::Error as _};

use time::OffsetDateTime;

use super::frames::{Content, EventBody};
use crate::domain::{
    messages::{ClientId, ConnectionId, Position, Text},
    rooms::RoomId,
    users::UserId,
};

/// An acknowledged event, on its way to Postgres.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ArchiveRecord {
    /// Where it was written.
    #[serde(deserialize_with = "room")]
    pub room: RoomId,
    /// Its place in the room's one order.
    pub position: Position,
    /// The place before it; null when the log was empty.
    pub previous: Option<Position>,
    /// The event, as the room's stream holds it.
    pub event: EventBody,
}

/// A frame, and some of those who are to get it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FanoutSlice {
    /// The room that the frame is about.
    #[serde(deserialize_with = "room")]
    pub room: RoomId,
    /// The frame, as clients get it.
    pub frame: String,
    /// Who is to get it.
    pub receivers: Vec<Receiver>,
    /// How often it was tried to post it to these receivers.
    pub attempt: u32,
    /// When the frame was made, in milliseconds since 1970: what is older than any connection can be is worth nothing.
    pub made_at_ms: u64,
}

/// A connection that is to get a frame, and whose it is: `[connection, user]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Receiver(
    /// The connection.
    #[serde(serialize_with = "write_connection", deserialize_with = "connection")]
    pub ConnectionId,
    /// Whose it is.
    pub UserId,
);

/// Why the body of a message cannot be read. Tells where and in which way, but nothing of what is in it: a log must not
/// hold what people write.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the message cannot be read: {what} at line {line}, column {column}")]
pub struct Unreadable {
    what: &'static str,
    line: usize,
    column: usize,
}

impl From<serde_json::Error> for Unreadable {
    fn from(error: serde_json::Error) -> Self {
        let what = match error.classify() {
            serde_json::error::Category::Data => "a member that is missing or is not as it must be,",
            serde_json::error::Category::Eof => "an early end",
            serde_json::error::Category::Syntax | serde_json::error::Category::Io => "no JSON",
        };
        Self { what, line: error.line(), column: error.column() }
    }
}

impl ArchiveRecord {
    /// The body of its message.
    ///
    /// # Errors
    /// Only if it cannot be serialised, which none can fail to.
    pub fn to_body(&self) -> serde_json::Result<String> {
        to_body(self)
    }

    /// Reads the body of a message.
    ///
    /// # Errors
    /// It is none of ours.
    pub fn parse(body: &str) -> Result<Self, Unreadable> {
        parse(body)
    }

    /// Whether this can be what a room's log has given, some time before `now`. Whoever can write to the queue, or moves
    /// old messages back into it, could otherwise set a room's clock on for good: no log goes back behind what is stored.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn check(&self, now: OffsetDateTime) -> Result<(), &'static str> {
        let Self { position, previous, event, .. } = self;
        if *position == Position::BEGINNING || previous.is_some_and(|previous| *position <= previous) {
            return Err("its position does not follow on");
        }
        if Position::of_time(now + CLOCKS_APART) < *position || !position.fits_store() {
            return Err("its position is in the future");
        }
        if LONGEST_NAME < event.from.name.chars().count() {
            return Err("its author's name is too long");
        }
        let fits = match &event.content {
            Content::Message { text, id, .. } => {
                let id = id.as_ref().is_none_or(|id| ClientId::parse(id.as_str()).is_ok());
                id && Text::parse(text.as_str()).is_ok()
            }
            Content::Edited { text, .. } => Text::parse(text.as_str()).is_ok(),
            Content::Deleted { .. } => true,
            Content::Reacted { emoji, .. } => emoji.len() <= LARGEST_EMOJI_BYTES,
        };
        if fits { Ok(()) } else { Err("it says more than an event can") }
    }
}

/// How far Redis' clock may be ahead of a function's.
const CLOCKS_APART: Duration = Duration::from_secs(24 * 60 * 60);
/// First and last name and the space between them, in Unicode scalar values.
const LONGEST_NAME: usize = 2 * 100 + 1;
/// The largest emoji, a family of four with skin tones or a flag of a part of a country, takes less than half of it.
const LARGEST_EMOJI_BYTES: usize = 128;

impl FanoutSlice {
    /// The body of its message.
    ///
    /// # Errors
    /// Only if it cannot be serialised, which none can fail to.
    pub fn to_body(&self) -> serde_json::Result<String> {
        to_body(self)
    }

    /// Reads the body of a message.
    ///
    /// # Errors
    /// It is none of ours.
    pub fn parse(body: &str) -> Result<Self, Unreadable> {
        parse(body)
    }
}

/// SQS takes the characters of XML 1.0 only. JSON escapes the control characters; of the others, these two are not allowed.
/// No text of ours has them, but a message that the queue refuses could never be acknowledged.
fn to_body(message: &impl Serialize) -> serde_json::Result<String> {
    let body = serde_json::to_string(message)?;
    if body.contains(['\u{fffe}', '\u{ffff}']) {
        // What is not ASCII is inside a string, where an escape means the same.
        return Ok(body.replace('\u{fffe}', "\\ufffe").replace('\u{ffff}', "\\uffff"));
    }
    Ok(body)
}

fn parse<T: DeserializeOwned>(body: &str) -> Result<T, Unreadable> {
    Ok(serde_json::from_str(body)?)
}

fn room<'de, D: Deserializer<'de>>(deserializer: D) -> Result<RoomId, D::Error> {
    RoomId::parse(&String::deserialize(deserializer)?).map_err(D::Error::custom)
}

fn connection<'de, D: Deserializer<'de>>(deserializer: D) -> Result<ConnectionId, D::Error> {
    Ok(ConnectionId::new(&String::deserialize(deserializer)?))
}

fn write_connection<S: Serializer>(connection: &ConnectionId, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(connection.as_str())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};
    use uuid::Uuid;

    use super::*;
    use crate::configuration::FanoutSection;

    /// What a queue takes at most: so many bytes with the smallest `MaximumMessageSize` that anybody would set. AWS takes 1
    /// MiB since 2025, and took 256 KiB before.
    const LARGEST_MESSAGE_BYTES: usize = 256 * 1024;

    /// The longest text is the one that takes most bytes when it is escaped, once or twice: by a quote, a line end or a
    /// character of four bytes.
    const WIDEST: [char; 4] = ['"', '\\', '\n', '\u{1f980}'];

    fn record(text: &str, id: &str, name: &str) -> Value {
        json!({
            "room": "general",
            "position": "18446744073709551615-18446744073709551615",
            "previous": "18446744073709551615-18446744073709551614",
            "event": {
                "type": "message",
                "event": Uuid::from_u128(u128::MAX),
                "from": {"id": Uuid::from_u128(u128::MAX), "name": name},
                "text": text,
                "id": id,
            },
        })
    }

    fn slice(receivers: usize, frame: String) -> FanoutSlice {
        let receiver = |number: usize| {
            // Seen on AWS: 16 characters.
            let connection = ConnectionId::new(&format!("{number:015}="));
            Receiver(connection, UserId::new(Uuid::from_u128(u128::MAX)))
        };
        FanoutSlice {
            room: RoomId::parse(&"r".repeat(64)).expect("is a room id"),
            frame,
            receivers: (0..receivers).map(receiver).collect(),
            attempt: u32::MAX,
            made_at_ms: u64::MAX,
        }
    }

    /// A text of the greatest length that is made of one character, but for its ends, which are never trimmed.
    fn longest_text(c: char) -> String {
        let text = format!("a{}z", c.to_string().repeat(Text::LONGEST - 2));
        Text::parse(&text).expect("is a text").as_str().to_owned()
    }

    #[test]
    fn a_record_is_read_as_it_was_written() {
        let mut json = record("hi\n\"there\"", "1", "Ada Lovelace");
        for previous in [json!("1795351680123-0"), Value::Null] {
            json["previous"] = previous;
            let record = ArchiveRecord::parse(&json.to_string()).expect("is a record");
            let body = record.to_body().expect("serialises");
            assert_eq!(serde_json::from_str::<Value>(&body).expect("is JSON"), json);
            assert_eq!(ArchiveRecord::parse(&body), Ok(record));
        }
    }

    #[test]
    fn a_record_that_no_log_can_have_given_is_refused() {
        let now = OffsetDateTime::from_unix_timestamp(1_795_351_680).expect("is a time");
        let mut sound = record("hi", "1", "Ada Lovelace");
        sound["position"] = json!("1795351680123-0");
        sound["previous"] = json!("1795351680122-7");
        let check = |path: &str, value: Value| {
            let mut record = sound.clone();
            *record.pointer_mut(path).expect("is there") = value;
            ArchiveRecord::parse(&record.to_string()).expect("is a record").check(now)
        };
        assert_eq!(check("/event/text", json!("hello")), Ok(()));
        assert_eq!(check("/position", json!("1795438070000-0")), Ok(()), "clocks may be a day apart");
        for (path, value) in [
            ("/position", json!("1795438090000-0")),
            ("/position", json!("9223372036854775807-0")),
            ("/position", json!("18446744073709551615-18446744073709551615")),
            ("/position", json!("1795351680123-18446744073709551615")),
            ("/position", json!("1795351680122-7")),
            ("/position", json!("1-0")),
            ("/event/text", json!("x".repeat(4_001))),
            ("/event/text", json!("")),
            ("/event/id", json!("x".repeat(65))),
            ("/event/from/name", json!("x".repeat(202))),
        ] {
            assert!(check(path, value.clone()).is_err(), "{path}: {value}");
        }
        sound["previous"] = Value::Null;
        sound["position"] = json!("0-0");
        let beginning = ArchiveRecord::parse(&sound.to_string()).expect("is a record");
        assert!(beginning.check(now).is_err());
    }

    #[test]
    fn a_slice_is_read_as_it_was_written_and_names_its_receivers_in_pairs() {
        let slice = slice(2, r#"{"type":"message","text":"hi"}"#.to_owned());
        let body = slice.to_body().expect("serialises");
        let json: Value = serde_json::from_str(&body).expect("is JSON");
        assert_eq!(json["receivers"][1], json!(["000000000000001=", Uuid::from_u128(u128::MAX)]));
        assert_eq!(FanoutSlice::parse(&body), Ok(slice));
    }

    #[test]
    fn a_body_that_is_not_ours_is_told_of_without_what_it_holds() {
        for (body, told) in [
            ("hunter2", "no JSON"),
            ("", "an early end"),
            (r#"{"room":"general","position":"hunter2"}"#, "a member that is missing"),
            (r#"{"room":"general"}"#, "a member that is missing"),
            (r#"{"room":"No room: hunter2","position":"1-0","previous":null}"#, "a member that is missing"),
            (r#"["hunter2"]"#, "a member that is missing"),
        ] {
            let archive = ArchiveRecord::parse(body).expect_err("is no record").to_string();
            let fanout = FanoutSlice::parse(body).expect_err("is no slice").to_string();
            for unreadable in [archive, fanout] {
                assert!(unreadable.contains(told), "{body}: {unreadable}");
                assert!(!unreadable.contains("hunter2"), "{unreadable}");
            }
        }
    }

    #[test]
    fn what_sqs_would_refuse_is_escaped() {
        let odd = slice(1, "\u{0}\u{1f}\u{fffe}\u{ffff}\u{fffd}\u{1ffff}".to_owned());
        let body = odd.to_body().expect("serialises");
        let allowed = |c: char| matches!(c, ' '..='\u{d7ff}' | '\u{e000}'..='\u{fffd}' | '\u{10000}'..);
        assert!(body.chars().all(allowed), "{body}");
        assert_eq!(FanoutSlice::parse(&body), Ok(odd));
    }

    #[test]
    fn the_largest_legal_event_fits_into_a_message() {
        for c in WIDEST {
            // First and last name have 100 characters each, and an id 64.
            let name = "\u{1f980}".repeat(201);
            let json = record(&longest_text(c), &"\"".repeat(64), &name);
            let record = ArchiveRecord::parse(&json.to_string()).expect("is a record");
            let bytes = record.to_body().expect("serialises").len();
            assert!(bytes * 2 < LARGEST_MESSAGE_BYTES, "{c:?}: {bytes} bytes");
        }
    }

    #[test]
    fn the_largest_slice_of_the_largest_frame_fits_into_a_message() {
        for c in WIDEST {
            let frame = record(&longest_text(c), &"\"".repeat(64), &"\u{1f980}".repeat(201)).to_string();
            let bytes = slice(FanoutSection::MOST_DIRECT, frame).to_body().expect("serialises").len();
            assert!(bytes < LARGEST_MESSAGE_BYTES, "{c:?}: {bytes} bytes");
        }
    }
}
