//! Messages: texts, positions, generations, and the names of events.

use std::{fmt, sync::Arc, time::Duration};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};
use time::OffsetDateTime;
use uuid::Uuid;

use super::{Invalid, rooms::RoomId, text, users::UserId};

/// The text of a message: 1–4,000 characters after trimming, NFC, no control characters but newline and tab.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Text(String);

impl Text {
    /// The longest text, in Unicode scalar values.
    pub const LONGEST: usize = 4_000;

    /// Parses a text as a person typed it.
    pub fn parse(raw: &str) -> Result<Self, Invalid> {
        text::parse_lines(raw, Self::LONGEST).map(Self)
    }

    /// Takes a text that Postgres held.
    pub fn from_store(text: String) -> Self {
        Self(text)
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// For how long a client's repeat of a send is known: within it, one client id is one message.
pub const REPEAT_WINDOW: Duration = Duration::from_secs(24 * 60 * 60);

/// The id that a client gave to a send, so that it can repeat it: 1–64 characters, no control characters, no
/// noncharacters.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ClientId(String);

impl ClientId {
    /// The longest id, in Unicode scalar values.
    pub const LONGEST: usize = 64;

    /// Parses an id. Unlike a text it is kept exactly as it came: two ids that differ must stay different.
    pub fn parse(raw: &str) -> Result<Self, Invalid> {
        let refused = |c: char| c.is_control() || text::is_noncharacter(c);
        if raw.is_empty() || Self::LONGEST < raw.chars().count() || raw.chars().any(refused) {
            return Err(Invalid::because(
                "must be 1 to 64 characters, none of them a control character or a Unicode noncharacter",
            ));
        }
        Ok(Self(raw.to_owned()))
    }

    /// Takes an id that Postgres held.
    pub fn from_store(id: String) -> Self {
        Self(id)
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The name of an event for good: UUIDv5 of room, author, and the client's id or the request's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct EventId(Uuid);

/// The namespace of all event ids (RFC 9562, 5.5): random, made once, never changed.
const EVENTS: Uuid = Uuid::from_u128(0x1f0d_5c6e_9b2a_4c37_8f51_7e0a_b3d4_62c9);

impl EventId {
    /// The event that this author made in this room with this client id: a repeat has the same.
    pub fn of_client(room: &RoomId, author: UserId, id: &ClientId) -> Self {
        Self::derive(room, author, "client", id.as_str())
    }

    /// The event that one request made, for clients that give no id.
    pub fn of_request(room: &RoomId, author: UserId, request_id: &str) -> Self {
        Self::derive(room, author, "request", request_id)
    }

    /// The name of another message of the same author with the same client id, written when the id was free again.
    /// Repeats of that message have its position, and so its name.
    pub fn reused_at(self, position: Position) -> Self {
        Self(Uuid::new_v5(&EVENTS, format!("{self} {position}").as_bytes()))
    }

    /// Takes the id that Postgres held.
    pub fn from_store(id: Uuid) -> Self {
        Self(id)
    }

    /// The id as Postgres keeps it.
    pub fn as_uuid(self) -> Uuid {
        self.0
    }

    // A room id has no space and a UUID a fixed length, so no two different inputs make the same name.
    fn derive(room: &RoomId, author: UserId, source: &str, id: &str) -> Self {
        Self(Uuid::new_v5(&EVENTS, format!("{room} {author} {source} {id}").as_bytes()))
    }
}

impl fmt::Display for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A place in a room's history: the id that Redis gave to the entry of the room's stream, `<milliseconds>-<n>`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Position {
    milliseconds: u64,
    sequence: u64,
}

impl Position {
    /// Before everything.
    pub const BEGINNING: Self = Self { milliseconds: 0, sequence: 0 };

    /// Parses a position as a client repeats it or Redis gives it.
    pub fn parse(raw: &str) -> Result<Self, Invalid> {
        let number =
            |digits: &str| digits.bytes().all(|c| c.is_ascii_digit()).then(|| digits.parse().ok()).flatten();
        raw.split_once('-')
            .and_then(|(milliseconds, sequence)| {
                Some(Self { milliseconds: number(milliseconds)?, sequence: number(sequence)? })
            })
            .ok_or(Invalid::because("must be a position, such as 1795351680123-0"))
    }

    /// Larger than every position that Redis gives.
    pub const END: Self = Self { milliseconds: u64::MAX, sequence: u64::MAX };

    /// Milliseconds and sequence number as Postgres keeps them. What is beyond its range is beyond every position that
    /// a clock will give for the next 292 million years, and stays so.
    pub fn to_store(self) -> (i64, i64) {
        let part = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
        (part(self.milliseconds), part(self.sequence))
    }

    /// Whether Postgres can keep it as it is.
    pub fn fits_store(self) -> bool {
        let (milliseconds, sequence) = self.to_store();
        Self::from_store(milliseconds, sequence) == self
    }

    /// Takes a position that Postgres held.
    pub fn from_store(milliseconds: i64, sequence: i64) -> Self {
        Self { milliseconds: milliseconds.unsigned_abs(), sequence: sequence.unsigned_abs() }
    }

    /// The smallest position after this one.
    pub fn following(self) -> Self {
        match self.sequence.checked_add(1) {
            Some(sequence) => Self { sequence, ..self },
            None => Self { milliseconds: self.milliseconds.saturating_add(1), sequence: 0 },
        }
    }

    /// How far apart two positions are in time.
    pub fn distance(self, other: Self) -> Duration {
        Duration::from_millis(self.milliseconds.abs_diff(other.milliseconds))
    }

    /// The first position of a moment.
    pub fn of_time(time: OffsetDateTime) -> Self {
        let milliseconds = time.unix_timestamp_nanos() / 1_000_000;
        Self { milliseconds: u64::try_from(milliseconds).unwrap_or_default(), sequence: 0 }
    }

    /// When the event was logged, by Redis' clock: the position's own milliseconds, so it never goes back within a room.
    pub fn at(self) -> OffsetDateTime {
        let nanoseconds = i128::from(self.milliseconds) * 1_000_000;
        OffsetDateTime::from_unix_timestamp_nanos(nanoseconds).unwrap_or(OffsetDateTime::UNIX_EPOCH)
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.milliseconds, self.sequence)
    }
}

impl Serialize for Position {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Position {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::parse(&String::deserialize(deserializer)?).map_err(D::Error::custom)
    }
}

/// The life of a room's log in Redis: a new one is made whenever Redis is found to have forgotten.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Generation(String);

impl Generation {
    /// Longer values are no generation of ours.
    pub const LONGEST: usize = 32;

    /// A new generation from 64 random bits.
    pub fn from_random(bits: u64) -> Self {
        Self(format!("{bits:016x}"))
    }

    /// Parses a generation as a client repeats it. One that never was is no error: it is simply not the room's.
    pub fn parse(raw: &str) -> Result<Self, Invalid> {
        if raw.is_empty() || Self::LONGEST < raw.len() || !raw.bytes().all(|c| c.is_ascii_alphanumeric()) {
            return Err(Invalid::because("must be a generation, as joined gave it"));
        }
        Ok(Self(raw.to_owned()))
    }

    /// Takes a generation that Redis held.
    pub fn from_store(generation: String) -> Self {
        Self(generation)
    }

    /// The generation as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The id that API Gateway gave to a WebSocket connection.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnectionId(Arc<str>);

impl ConnectionId {
    /// Takes an id that the gateway made.
    pub fn new(id: &str) -> Self {
        Self(id.into())
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ConnectionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_text_keeps_its_lines_and_loses_its_edges() {
        for (raw, expected) in [("  hi ", "hi"), ("a\r\nb\tc", "a\nb\tc"), ("e\u{301}", "é"), ("👩‍👩‍👧", "👩‍👩‍👧")]
        {
            assert_eq!(Text::parse(raw).map(|text| text.0), Ok(expected.to_owned()));
        }
        assert!(Text::parse(&"😀".repeat(4_000)).is_ok());
    }

    #[test]
    fn a_text_that_cannot_be_stored_everywhere_is_refused() {
        for raw in [
            "",
            " \n ",
            "a\0b",
            "a\rb",
            "a\u{1b}[31m",
            "a\u{85}b",
            "\u{FFFF}x",
            "\u{1FFFE}x",
            &"x".repeat(4_001),
        ] {
            assert!(Text::parse(raw).is_err(), "{raw:?} was taken");
        }
    }

    #[test]
    fn a_client_id_is_kept_as_it_came() {
        for raw in ["1", " e\u{301} ", &"😀".repeat(64)] {
            assert_eq!(ClientId::parse(raw).map(|id| id.0), Ok(raw.to_owned()));
        }
        for raw in ["", "a\0b", "\u{85}", "a\u{FFFE}", "\u{FFFF}", "\u{FDD0}", &"x".repeat(65)] {
            assert!(ClientId::parse(raw).is_err(), "{raw:?} was taken");
        }
    }

    #[test]
    fn a_position_that_is_none_is_refused() {
        for raw in [
            "",
            "-",
            "1",
            "1-",
            "-1",
            "1-1-1",
            "+1-0",
            "1-+0",
            "a-0",
            "1 -0",
            "18446744073709551616-0",
            "０-0",
        ] {
            assert!(Position::parse(raw).is_err(), "{raw:?} was taken");
        }
    }

    #[test]
    fn an_event_is_named_by_room_author_and_client_id() {
        let room = |id: &str| RoomId::from_store(id.into());
        let client = |id: &str| ClientId(id.into());
        let (ada, bob) = (UserId::new(Uuid::from_u128(1)), UserId::new(Uuid::from_u128(2)));
        let first = EventId::of_client(&room("general"), ada, &client("1"));
        assert_eq!(first, EventId::of_client(&room("general"), ada, &client("1")));
        for other in [
            EventId::of_client(&room("general"), bob, &client("1")),
            EventId::of_client(&room("general"), ada, &client("2")),
            EventId::of_client(&room("other"), ada, &client("1")),
            EventId::of_request(&room("general"), ada, "1"),
        ] {
            assert_ne!(first, other);
        }
    }

    proptest! {
        #[test]
        fn positions_are_ordered_as_redis_orders_them(a: (u64, u64), b: (u64, u64)) {
            let position = |(milliseconds, sequence)| Position { milliseconds, sequence };
            prop_assert_eq!(position(a).cmp(&position(b)), a.cmp(&b));
            prop_assert_eq!(Position::parse(&position(a).to_string()), Ok(position(a)));
        }

        #[test]
        fn no_text_makes_a_parser_panic(raw in ".*") {
            let _ = Position::parse(&raw);
            let _ = RoomId::parse(&raw);
            if let Ok(text) = Text::parse(&raw) {
                prop_assert_eq!(Text::parse(text.as_str()), Ok(text));
            }
        }
    }
}
