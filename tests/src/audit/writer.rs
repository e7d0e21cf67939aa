//! A writer that repeats each message until it is acknowledged.

use std::{
    ops::Range,
    sync::Arc,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use tokio::{sync::watch, time::sleep};

use super::{
    Person, Phase, Words,
    dice::Dice,
    history::place_of,
    line::{Line, Refusal, Trouble},
    notes::{Ack, Notes},
};

/// Part of every text, so that a look for it in the log finds any of them.
pub(super) const SECRET: &str = "strictly between us";
/// How long a writer waits before it repeats.
const RETRY_MS: Range<u64> = 20..400;
/// The share of the messages that are sent again although they were acknowledged, and of how many last ones.
const AGAIN: (f64, u64) = (0.1, 20);
/// The share of the messages that are as long as a message can be.
const LONG: f64 = 0.01;
/// The longest text, in characters.
const LONGEST: usize = 4_000;
/// How soon it sees that it is told something else.
const GLANCE: Duration = Duration::from_millis(100);

/// What texts are made of: what people write, and what is a trap for those who copy text. All of it is NFC.
const PIECES: [&str; 16] = [
    "hello",
    "good morning, everybody",
    "¿qué tal?",
    "Größe",
    "naïve café",
    "日本語のテキスト",
    "привет",
    "שלום",
    "👩‍👩‍👧‍👦 family",
    "🏳️‍🌈",
    "line\nbreak",
    "tab\there",
    "\"quotes\" and \\backslashes\\",
    "<b>not bold</b> & so on",
    "{\"action\":\"leave\"}",
    "'; drop table messages; --",
];

/// Writes in all rooms.
pub(super) struct Writer {
    person: Person,
    dice: Dice,
    name: String,
    rooms: Vec<String>,
    pause_ms: Range<u64>,
    notes: Notes,
    phase: watch::Receiver<Phase>,
    line: Option<Line>,
    written: Vec<Message>,
}

#[derive(Clone)]
struct Message {
    room: String,
    id: String,
    text: Words,
}

impl Writer {
    pub(super) fn new(
        person: Person,
        dice: Dice,
        name: String,
        rooms: Vec<String>,
        pause_ms: Range<u64>,
        notes: Notes,
        phase: watch::Receiver<Phase>,
    ) -> Self {
        Self { person, dice, name, rooms, pause_ms, notes, phase, line: None, written: Vec::new() }
    }

    pub(super) async fn run(mut self) {
        while !self.is(Phase::Over) {
            if self.is(Phase::Busy) {
                let message = self.write();
                self.send_until_acked(&message).await;
                if self.dice.chance(AGAIN.0) {
                    self.send_again().await;
                }
            }
            let pause = self.dice.pause(self.pause_ms.clone());
            self.rest(pause).await;
        }
        if let Some(line) = self.line.take() {
            line.close().await;
        }
    }

    fn write(&mut self) -> Message {
        let number = self.written.len();
        let pieces = if self.dice.chance(LONG) { LONGEST } else { self.dice.within(1..8) as usize };
        let mut text = format!("{} {SECRET} {number}", self.name);
        for _ in 0..pieces {
            text.push(' ');
            text.push_str(self.dice.one_of::<&str>(&PIECES));
        }
        // Never within the last piece: half a piece may end in a space, which is trimmed, or be no NFC.
        if LONGEST < text.chars().count() {
            text = text.chars().take(LONGEST - 1).chain(['.']).collect();
        }
        let room = self.dice.one_of(&self.rooms).clone();
        let message = Message { room, id: format!("{}-{number}", self.name), text: Arc::from(text) };
        self.notes.writes(&message.id, &message.room, &self.person.user.id, &message.text);
        self.written.push(message.clone());
        message
    }

    async fn send_until_acked(&mut self, message: &Message) {
        while !self.is(Phase::Over) {
            if self.send(message).await {
                return;
            }
            let pause = self.dice.pause(RETRY_MS);
            sleep(pause).await;
        }
    }

    /// Repeats a message that was acknowledged. Once: nobody waits for it.
    async fn send_again(&mut self) {
        let last = self.written.len() as u64;
        let first = last.saturating_sub(AGAIN.1);
        let message = self.written[self.dice.within(first..last) as usize].clone();
        self.send(&message).await;
    }

    /// Sends once: whether it was acknowledged.
    async fn send(&mut self, message: &Message) -> bool {
        let Message { room, id, text } = message;
        let frame = json!({"action": "send", "room": room, "text": text, "id": id});
        self.notes.count(|counts| counts.sends += 1);
        let sent = self.try_send(frame).await;
        self.take_late_acks();
        match sent {
            Ok(ack) => {
                assert_eq!((&ack["room"], &ack["id"]), (&json!(room), &json!(id)), "{ack}");
                self.take_ack(&ack);
                return true;
            }
            Err(Trouble::Refused(refusal)) => self.refused(room, &refusal).await,
            Err(Trouble::Failed) => {}
            // The line may be dead, or slow: a client cannot know.
            Err(Trouble::Late) if self.dice.chance(0.5) => {}
            Err(Trouble::Late | Trouble::Closed(_)) => self.line = None,
        }
        self.notes.count(|counts| counts.sends_failed += 1);
        false
    }

    async fn try_send(&mut self, frame: Value) -> Result<Value, Trouble> {
        let line = match &mut self.line {
            Some(line) => line,
            empty => {
                let mut line = Line::open(&self.person, &mut self.dice).await?;
                self.notes.count(|counts| counts.connections += 1);
                for room in &self.rooms {
                    line.ask(json!({"action": "join", "room": room})).await?;
                }
                empty.insert(line)
            }
        };
        let answer = line.ask(frame).await;
        line.pushes.clear();
        answer
    }

    async fn refused(&mut self, room: &str, refusal: &Refusal) {
        if refusal.code == "not_joined" {
            // Redis was lost. If this is refused too, so will be the next send.
            if let Some(line) = &mut self.line
                && let Err(Trouble::Closed(_)) = line.ask(json!({"action": "join", "room": room})).await
            {
                self.line = None;
            }
        } else if refusal.will_pass() {
            sleep(refusal.retry_after).await;
        } else {
            self.notes.offence(format!("{} was refused something: {}", self.name, refusal.frame));
        }
    }

    /// Acks of sends that nobody waited for any more are acks all the same.
    fn take_late_acks(&mut self) {
        let late = self.line.as_mut().map(|line| std::mem::take(&mut line.late)).unwrap_or_default();
        for ack in late.iter().filter(|answer| answer["type"] == "ack") {
            self.take_ack(ack);
        }
    }

    fn take_ack(&self, ack: &Value) {
        let field = |name: &str| ack[name].as_str().unwrap_or_else(|| panic!("no {name}: {ack}")).to_owned();
        self.notes.acked(Ack {
            room: field("room"),
            client_id: field("id"),
            event: field("event"),
            place: place_of(&field("position")),
            at: Instant::now(),
        });
    }

    /// Reads what comes, which is of no interest here, for a while.
    async fn rest(&mut self, pause: Duration) {
        let until = Instant::now() + pause;
        while Instant::now() < until {
            let Some(line) = &mut self.line else {
                sleep(GLANCE.min(until.saturating_duration_since(Instant::now()))).await;
                continue;
            };
            if line.listen(until).await.is_err() {
                self.line = None;
                continue;
            }
            line.pushes.clear();
            self.take_late_acks();
        }
    }

    fn is(&self, phase: Phase) -> bool {
        *self.phase.borrow() == phase
    }
}
