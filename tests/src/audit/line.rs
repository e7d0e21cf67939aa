//! A client's line that may break, fall silent or be refused at any time.

use std::{
    collections::VecDeque,
    fmt,
    time::{Duration, Instant},
};

use http::Method;
use serde_json::{Value, json};
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message;

use super::{Person, dice::Dice};
use crate::websocket::WebSocket;

/// How long a client waits for an answer before it takes its line for dead.
const PATIENCE: Duration = Duration::from_secs(8);

/// Why something was not done.
#[derive(Debug)]
pub(super) enum Trouble {
    /// There is no line, or none any more.
    Closed(String),
    /// No answer came.
    Late,
    /// The function refused it.
    Refused(Refusal),
    /// The function failed; only the gateway had a word for it.
    Failed,
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Closed(why) => write!(f, "there is no line: {why}"),
            Self::Late => write!(f, "no answer came"),
            Self::Refused(refusal) => write!(f, "{}", refusal.frame),
            Self::Failed => write!(f, "the function failed"),
        }
    }
}

/// An error frame.
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) code: String,
    pub(super) retry_after: Duration,
    pub(super) frame: Value,
}

impl Refusal {
    /// Whether the same frame can be answered otherwise a moment later.
    pub(super) fn will_pass(&self) -> bool {
        matches!(self.code.as_str(), "unavailable" | "throttled" | "internal")
    }
}

/// An open socket. Dropping it cuts the line without a word.
pub(super) struct Line {
    socket: WebSocket,
    asked: u64,
    /// What was pushed and not looked at yet.
    pub(super) pushes: VecDeque<Value>,
    /// Answers that came so late that nobody waited for them.
    pub(super) late: Vec<Value>,
}

impl Line {
    /// Opens a line, with a ticket as browsers do or with a header as programs do.
    pub(super) async fn open(person: &Person, dice: &mut Dice) -> Result<Self, Trouble> {
        let closed = |error: anyhow::Error| Trouble::Closed(format!("{error:#}"));
        let shaken = if dice.chance(0.5) {
            let url = format!("{}?ticket={}", person.websocket, ticket(person).await?);
            timeout(PATIENCE, WebSocket::connect(&url, &[])).await
        } else {
            let bearer = format!("Bearer {}", person.user.token);
            timeout(PATIENCE, WebSocket::connect(&person.websocket, &[("authorization", &bearer)])).await
        };
        let socket = shaken.map_err(|_| Trouble::Late)?.map_err(closed)?;
        Ok(Self { socket, asked: 0, pushes: VecDeque::new(), late: Vec::new() })
    }

    /// Sends a frame and waits for its answer. Pushes are collected meanwhile.
    pub(super) async fn ask(&mut self, mut frame: Value) -> Result<Value, Trouble> {
        self.asked += 1;
        let reference = format!("r{}", self.asked);
        frame["ref"] = json!(reference);
        let late = Instant::now() + PATIENCE;
        match timeout(PATIENCE, self.socket.send_json(&frame)).await {
            Err(_) => return Err(Trouble::Late),
            Ok(Err(error)) => return Err(Trouble::Closed(format!("{error:#}"))),
            Ok(Ok(())) => {}
        }
        loop {
            let Some(answer) = self.next(late).await? else { return Err(Trouble::Late) };
            if answer.get("type").is_none() {
                return Err(Trouble::Failed);
            }
            if answer.get("ref") != Some(&frame["ref"]) {
                self.take(answer);
            } else if answer["type"] == "error" {
                let code = answer["code"].as_str().unwrap_or_default().to_owned();
                if code == "unauthorized" {
                    // The last word on a line that was taken for gone.
                    return Err(Trouble::Closed(answer.to_string()));
                }
                let retry_after =
                    Duration::from_millis(answer["retry_after_ms"].as_u64().unwrap_or_default());
                return Err(Trouble::Refused(Refusal { code, retry_after, frame: answer }));
            } else {
                return Ok(answer);
            }
        }
    }

    /// Waits for one frame that nobody has asked for, until some time.
    pub(super) async fn listen(&mut self, until: Instant) -> Result<(), Trouble> {
        if let Some(frame) = self.next(until).await? {
            self.take(frame);
        }
        Ok(())
    }

    /// Closes in good order.
    pub(super) async fn close(self) {
        // Whether the other side agrees is its own affair.
        let _ = timeout(PATIENCE, self.socket.close(1000, "")).await;
    }

    fn take(&mut self, frame: Value) {
        if frame.get("ref").is_some() {
            self.late.push(frame);
        } else if frame.get("type").is_some() {
            self.pushes.push_back(frame);
        }
    }

    async fn next(&mut self, until: Instant) -> Result<Option<Value>, Trouble> {
        loop {
            let Ok(message) = tokio::time::timeout_at(until.into(), self.socket.next_message()).await else {
                return Ok(None);
            };
            match message {
                Ok(Message::Text(text)) => {
                    return Ok(Some(serde_json::from_str(&text).expect("every frame is JSON")));
                }
                Ok(Message::Close(frame)) => return Err(Trouble::Closed(format!("{frame:?}"))),
                Ok(_) => {}
                // The socket has a patience of its own, which is nobody's fault.
                Err(error) if error.is::<tokio::time::error::Elapsed>() => return Ok(None),
                Err(error) => return Err(Trouble::Closed(format!("{error:#}"))),
            }
        }
    }
}

async fn ticket(person: &Person) -> Result<String, Trouble> {
    let call = person.user.call(Method::POST, "/tickets").json(&json!({})).try_send();
    let answer = timeout(PATIENCE, call).await.map_err(|_| Trouble::Late)?;
    let answer = answer.map_err(|error| Trouble::Closed(error.to_string()))?;
    if answer.status != 201 {
        return Err(Trouble::Closed(format!("no ticket: {} {}", answer.status, answer.body)));
    }
    let ticket = crate::user::text(&answer.json()["ticket"]);
    person.user.api().ledger().secret(&ticket);
    Ok(ticket)
}
