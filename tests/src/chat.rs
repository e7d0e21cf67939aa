//! A client of the WebSocket API that looks at every frame it gets.

use std::collections::VecDeque;

use serde_json::{Value, json};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use tokio_tungstenite::tungstenite::{Message, Utf8Bytes};

use crate::{
    api::{assert_keys, check_failure, field_names},
    ledger::{Acked, Ledger},
    websocket::{Refused, WebSocket},
};

/// An open WebSocket. Dropping it cuts the line without a word, as a dead phone does.
pub struct Chat {
    socket: WebSocket,
    replies: VecDeque<Value>,
    pushes: VecDeque<Value>,
    asked: u64,
    ledger: Ledger,
}

/// Which line a frame came on.
enum Line {
    Reply,
    Push,
}

impl Chat {
    /// Shakes hands with `ws://host:port/stage?…`, with a session's token if there is one.
    pub async fn open(url: &str, token: Option<&str>, ledger: &Ledger) -> Result<Self, Refused> {
        let bearer = token.map(|token| format!("Bearer {token}"));
        let headers: Vec<_> = bearer.iter().map(|bearer| ("authorization", bearer.as_str())).collect();
        match WebSocket::connect(url, &headers).await {
            Ok(socket) => Ok(Self {
                socket,
                replies: VecDeque::new(),
                pushes: VecDeque::new(),
                asked: 0,
                ledger: ledger.clone(),
            }),
            Err(error) => {
                Err(error.downcast().unwrap_or_else(|error| panic!("the handshake broke: {error}")))
            }
        }
    }

    /// Sends a frame as it stands, and waits for nothing.
    pub async fn post_raw(&mut self, text: impl Into<Utf8Bytes>) {
        self.socket.send(text).await.expect("the line is open");
    }

    /// Sends a binary frame.
    pub async fn post_binary(&mut self, bytes: &[u8]) {
        self.socket.send_message(Message::binary(bytes.to_vec())).await.expect("the line is open");
    }

    /// Sends a frame and waits for nothing.
    pub async fn post(&mut self, frame: &Value) {
        for secret in [&frame["text"]].into_iter().filter_map(Value::as_str) {
            // Shorter ones are found in any log by chance.
            if 12 < secret.len() {
                self.ledger.secret(secret);
            }
        }
        self.post_raw(frame.to_string()).await;
    }

    /// Sends a frame and waits for the reply to it.
    pub async fn ask(&mut self, mut frame: Value) -> Value {
        self.asked += 1;
        let reference = format!("r{}", self.asked);
        frame["ref"] = json!(reference);
        self.post(&frame).await;
        let mut reply = self.reply().await;
        assert_eq!(reply["ref"], reference, "a reply to something else: {reply}");
        reply.as_object_mut().expect("a reply is an object").remove("ref");
        reply
    }

    /// Sends a frame again and again until it is done. A warm function may hold a dead line to a server that was away: its
    /// first answer may be `unavailable`.
    pub async fn ask_until_available(&mut self, frame: Value) -> Value {
        const TRIES: usize = 1_000;
        for _ in 0..TRIES {
            let reply = self.ask(frame.clone()).await;
            if reply["code"] != "unavailable" {
                return reply;
            }
        }
        panic!("it stays unavailable: {frame}");
    }

    /// Sends a frame and waits for an error; its fields' names, if it has some.
    pub async fn refused(&mut self, frame: Value, code: &str) -> Value {
        let reply = self.ask(frame).await;
        check_error(&reply, code);
        reply
    }

    /// Sends a frame that is refused for these fields.
    pub async fn invalid(&mut self, frame: Value) -> Vec<String> {
        field_names(&self.refused(frame, "validation_failed").await)
    }

    /// Sends a frame to a function that may be killed meanwhile: whether it was acknowledged.
    pub async fn ask_unreliably(&mut self, frame: &Value) -> bool {
        self.post(frame).await;
        loop {
            let text = self.socket.next().await.expect("a frame comes");
            let frame: Value = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"));
            if frame.get("type").is_none() {
                // The gateway's own word for a function that failed.
                assert_eq!(frame["message"], "Internal server error", "{frame}");
                return false;
            }
            self.take(&text);
            if let Some(reply) = self.replies.pop_front() {
                assert_eq!(reply["type"], "ack", "{reply}");
                return true;
            }
        }
    }

    /// Joins a room: the reply.
    pub async fn join(&mut self, room: &str) -> Value {
        expect_type(self.ask(json!({"action": "join", "room": room})).await, "joined")
    }

    /// Joins a room and wants everything after a position.
    pub async fn join_after(&mut self, room: &str, after: &str) -> Value {
        expect_type(self.ask(json!({"action": "join", "room": room, "after": after})).await, "joined")
    }

    /// Joins a room and wants everything after a position, of a generation.
    pub async fn resume(&mut self, room: &str, after: &str, generation: &str) -> Value {
        let frame = json!({"action": "join", "room": room, "after": after, "generation": generation});
        expect_type(self.ask_until_available(frame).await, "joined")
    }

    /// Leaves a room.
    pub async fn leave(&mut self, room: &str) -> Value {
        expect_type(self.ask(json!({"action": "leave", "room": room})).await, "left")
    }

    /// Sends a message: the ack.
    pub async fn send(&mut self, room: &str, text: &str) -> Value {
        expect_type(self.ask(json!({"action": "send", "room": room, "text": text})).await, "ack")
    }

    /// Sends a message with the client's own id: the ack.
    pub async fn send_with_id(&mut self, room: &str, text: &str, id: &str) -> Value {
        expect_type(self.ask(json!({"action": "send", "room": room, "text": text, "id": id})).await, "ack")
    }

    /// Reads events after a position.
    pub async fn history_after(&mut self, room: &str, after: &str) -> Value {
        expect_type(self.ask(json!({"action": "history", "room": room, "after": after})).await, "history")
    }

    /// Pings.
    pub async fn ping(&mut self) -> Value {
        expect_type(self.ask(json!({"action": "ping"})).await, "pong")
    }

    /// The next push.
    pub async fn push(&mut self) -> Value {
        loop {
            if let Some(push) = self.pushes.pop_front() {
                return push;
            }
            self.receive().await;
        }
    }

    /// The next message that is pushed. Other pushes before it are dropped: where Redis was lost, one may be told to read
    /// again at any time.
    pub async fn pushed_message(&mut self) -> Value {
        loop {
            let push = self.push().await;
            if push["type"] == "message" {
                return push;
            }
        }
    }

    /// The next `resync` that is pushed: its generation. Other pushes before it are dropped.
    pub async fn pushed_resync(&mut self) -> String {
        loop {
            let push = self.push().await;
            if push["type"] == "resync" {
                return push["generation"].as_str().expect("was checked").to_owned();
            }
        }
    }

    /// The next reply.
    pub async fn reply(&mut self) -> Value {
        loop {
            if let Some(reply) = self.replies.pop_front() {
                return reply;
            }
            self.receive().await;
        }
    }

    /// The next push, if one has come before the answer to a ping that is sent now.
    ///
    /// What the gateway was given to push before the ping came in has been written to the line before the pong.
    pub async fn pushed_before_now(&mut self) -> Vec<Value> {
        self.ping().await;
        self.pushes.drain(..).collect()
    }

    /// Waits until the other side has closed: its code, 1005 if it gave none, 1006 if it went without a word.
    pub async fn closed(&mut self) -> u16 {
        loop {
            match self.socket.next_message().await {
                Ok(Message::Close(frame)) => return frame.map_or(1005, |frame| u16::from(frame.code)),
                Ok(Message::Text(text)) => self.take(&text),
                Ok(_) => (),
                Err(error) => {
                    assert!(!error.is::<tokio::time::error::Elapsed>(), "the line stays open");
                    return 1006;
                }
            }
        }
    }

    /// Closes in good order and waits for the other side to do so.
    pub async fn close(self) {
        self.socket.close(1000, "").await.expect("the line is open");
    }

    /// Every reply that has come and was not read yet.
    pub fn take_replies(&mut self) -> VecDeque<Value> {
        std::mem::take(&mut self.replies)
    }

    /// Everything that was pushed and not read yet, in the order in which it came.
    pub fn take_pushes(&mut self) -> VecDeque<Value> {
        std::mem::take(&mut self.pushes)
    }

    /// Waits for one more frame, of whatever kind.
    pub async fn receive(&mut self) {
        let text = self.socket.next().await.expect("a frame comes");
        self.take(&text);
    }

    fn take(&mut self, text: &str) {
        let frame: Value = serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"));
        match check_frame(&frame) {
            Line::Push => self.pushes.push_back(frame),
            Line::Reply => {
                if frame["type"] == "ack" {
                    let field = |name: &str| frame[name].as_str().expect("was checked").to_owned();
                    let (room, position, event) = (field("room"), field("position"), field("event"));
                    self.ledger.acked(Acked { room, position, event });
                }
                self.replies.push_back(frame);
            }
        }
    }
}

/// The reply, if it has this type.
#[track_caller]
pub fn expect_type(reply: Value, kind: &str) -> Value {
    assert_eq!(reply["type"], kind, "{reply}");
    reply
}

/// Checks an error frame.
#[track_caller]
pub fn check_error(reply: &Value, code: &str) {
    assert_eq!(reply["type"], "error", "{reply}");
    let mut error = reply.clone();
    error.as_object_mut().expect("it has a type").remove("ref");
    check_failure(&error, code, &["type", "code", "message", "request_id"]);
}

/// All that a client can tell an error frame from another one by.
pub fn appearance(mut error: Value) -> Value {
    if let Some(error) = error.as_object_mut() {
        error.remove("request_id");
    }
    error
}

/// Every frame is one that the protocol knows, with all its fields and no others.
#[track_caller]
fn check_frame(frame: &Value) -> Line {
    let events = |frame: &Value| {
        let events = frame["events"].as_array().unwrap_or_else(|| panic!("no events: {frame}"));
        for event in events {
            assert_eq!(event["room"], frame["room"], "an event of another room: {frame}");
            check_event(event);
        }
    };
    match frame["type"].as_str() {
        Some("message") => {
            check_event(frame);
            return Line::Push;
        }
        Some("resync") => {
            assert_keys(frame, &["type", "room", "generation"], &[]);
            return Line::Push;
        }
        Some("presence") => {
            assert_keys(frame, &["type", "room", "user", "online", "count"], &[]);
            return Line::Push;
        }
        Some("joined") => {
            let always = ["type", "room", "generation", "position", "events", "reset", "more", "online"];
            assert_keys(frame, &always, &["ref"]);
            check_position_or_null(&frame["position"]);
            assert!(frame["reset"].is_boolean() && frame["more"].is_boolean(), "{frame}");
            assert!(frame["online"].is_u64(), "{frame}");
            events(frame);
        }
        Some("left") => assert_keys(frame, &["type", "room"], &["ref"]),
        Some("ack") => {
            let always = ["type", "room", "event", "position", "previous", "at"];
            assert_keys(frame, &always, &["id", "ref"]);
            check_place(frame);
        }
        Some("history") => {
            assert_keys(frame, &["type", "room", "generation", "events", "more"], &["ref"]);
            assert!(frame["more"].is_boolean(), "{frame}");
            events(frame);
        }
        Some("pong") => {
            assert_keys(frame, &["type", "behind", "rejoin"], &["ref"]);
            assert!(frame["behind"].is_object() && frame["rejoin"].is_array(), "{frame}");
        }
        Some("error") => {
            let code = frame["code"].as_str().unwrap_or_else(|| panic!("no code: {frame}"));
            check_error(frame, code);
        }
        _ => panic!("not a frame of the protocol: {frame}"),
    }
    Line::Reply
}

/// A logged event has all its fields and no others.
#[track_caller]
pub fn check_event(event: &Value) {
    let mut always = vec!["type", "room", "position", "previous", "event", "from", "at"];
    let (members, sometimes): (&[&str], &[&str]) = match event["type"].as_str() {
        // What was deleted has no text any more.
        Some("message") if event["deleted"] == true => (&["deleted"], &["id", "reply_to"]),
        Some("message") => (&["text"], &["id", "reply_to", "edited_at", "reactions"]),
        Some("edited") => (&["target", "text"], &[]),
        Some("deleted") => (&["target"], &[]),
        Some("reacted") => (&["target", "emoji", "on"], &[]),
        _ => panic!("no event: {event}"),
    };
    always.extend(members);
    assert_keys(event, &always, sometimes);
    assert_keys(&event["from"], &["id", "name"], &[]);
    check_place(event);
}

/// Position, the one before, and the time, which is the position's own.
#[track_caller]
fn check_place(event: &Value) {
    check_position(&event["position"]);
    check_position_or_null(&event["previous"]);
    check_time(&event["at"]);
    let at = event["at"].as_str().and_then(|at| OffsetDateTime::parse(at, &Rfc3339).ok());
    let at_ms = at.map(|at| at.unix_timestamp_nanos() / 1_000_000);
    let position_ms = event["position"].as_str().and_then(parse_position).map(|(ms, _)| i128::from(ms));
    assert_eq!(at_ms, position_ms, "{event}");
}

#[track_caller]
fn check_position(position: &Value) {
    let parsed = position.as_str().and_then(parse_position);
    assert!(parsed.is_some(), "no position: {position}");
}

#[track_caller]
fn check_position_or_null(position: &Value) {
    if !position.is_null() {
        check_position(position);
    }
}

/// The two numbers of a position, by which positions are ordered.
pub fn parse_position(position: &str) -> Option<(u64, u64)> {
    let (milliseconds, sequence) = position.split_once('-')?;
    Some((milliseconds.parse().ok()?, sequence.parse().ok()?))
}

/// RFC 3339, UTC, exactly milliseconds.
#[track_caller]
pub fn check_time(time: &Value) {
    let shape =
        |text: &str| -> String { text.chars().map(|c| if c.is_ascii_digit() { '0' } else { c }).collect() };
    assert_eq!(time.as_str().map(shape).as_deref(), Some("0000-00-00T00:00:00.000Z"), "{time}");
}

/// The texts of events, in their order.
pub fn texts<'a>(events: impl IntoIterator<Item = &'a Value>) -> Vec<&'a str> {
    events.into_iter().map(|event| event["text"].as_str().expect("an event has a text")).collect()
}

/// The texts of the events in a reply.
#[track_caller]
pub fn texts_of(reply: &Value) -> Vec<&str> {
    texts(reply["events"].as_array().unwrap_or_else(|| panic!("no events: {reply}")))
}
