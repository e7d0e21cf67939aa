//! A room's history, read back in every way there is.

use std::{
    collections::BTreeMap,
    fmt,
    time::{Duration, Instant},
};

use http::Method;
use serde_json::{Value, json};
use sqlx::{Connection as _, PgConnection, Row as _};
use tokio::time::sleep;
use uuid::Uuid;

use super::{
    Person,
    dice::Dice,
    line::{Line, Trouble},
    notes::Notes,
};
use crate::chat::{check_event, parse_position};

/// A position: by these two numbers events are ordered.
pub type Place = (u64, u64);

/// The largest page.
const LARGE: u64 = 200;
/// The smallest page that is asked for.
const SMALL: u64 = 7;
/// In how many small pages a room is read, at most.
const MOST_PAGES: u64 = 100;
/// How long an API may be away that has had faults: its processes hold dead lines to servers that were.
const PATIENCE: Duration = Duration::from_secs(60);
const AGAIN: Duration = Duration::from_millis(50);

/// All messages of some rooms, in the columns that tell where each belongs.
const ALL_MESSAGES: &str = "
    select room_id, event_id, position_ms, position_n, author_id, client_id, text
    from messages
    where room_id = any($1) and kind = 'message'
    order by room_id, position_ms, position_n, event_id";

/// An event at its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placed {
    /// Its name.
    pub event: String,
    /// Its place.
    pub place: Place,
    /// The id of the account that wrote it.
    pub author: String,
    /// The id that the writer gave it.
    pub client_id: Option<String>,
    /// What was written.
    pub text: String,
}

impl Placed {
    /// An event of a frame or a page.
    pub fn of(event: &Value) -> Self {
        let field = |value: &Value| value.as_str().unwrap_or_else(|| panic!("no event: {event}")).to_owned();
        Self {
            event: field(&event["event"]),
            place: place_of(&field(&event["position"])),
            author: field(&event["from"]["id"]),
            client_id: event["id"].as_str().map(str::to_owned),
            text: field(&event["text"]),
        }
    }
}

impl fmt::Display for Placed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let client_id = self.client_id.as_deref().unwrap_or("no id");
        write!(f, "{} ({client_id}) at {}: {:?}", self.event, words_of(self.place), self.text)
    }
}

/// One way to read, and what each room was by it.
pub struct History {
    /// What it is called.
    pub name: String,
    /// The rooms' events, in the order in which they were read, oldest first.
    pub rooms: BTreeMap<String, Vec<Placed>>,
}

/// All ways.
pub struct Histories {
    /// By the APIs. The first is the measure of the others.
    pub read: Vec<History>,
    /// What Postgres holds.
    pub stored: History,
}

impl Histories {
    /// Reads all rooms in every way.
    ///
    /// # Panics
    /// Something is refused for too long.
    pub(super) async fn read(judge: &Person, rooms: &[String], database: String, notes: &Notes) -> Self {
        let events = notes.acks().len() as u64 / rooms.len().max(1) as u64;
        let small = SMALL.max(events / MOST_PAGES);
        let mut read = Vec::new();
        for limit in [small, LARGE] {
            for forward in [true, false] {
                read.push(History::over_http(judge, rooms, limit, forward).await);
            }
        }
        let mut socket = Socket { judge, line: None };
        for forward in [true, false] {
            let name = format!("socket, {}", if forward { "join and forwards" } else { "backwards" });
            let mut history = History { name, rooms: BTreeMap::new() };
            for room in rooms {
                let events = if forward { socket.forwards(room).await } else { socket.backwards(room).await };
                history.rooms.insert(room.clone(), events);
            }
            read.push(history);
        }
        Self { read, stored: History::in_postgres(rooms, &database).await }
    }

    /// Reads all rooms in the quickest way, and Postgres.
    pub(super) async fn glance(judge: &Person, rooms: &[String], database: String) -> Self {
        let read = vec![History::over_http(judge, rooms, LARGE, true).await];
        Self { read, stored: History::in_postgres(rooms, &database).await }
    }
}

impl History {
    async fn over_http(judge: &Person, rooms: &[String], limit: u64, forward: bool) -> Self {
        let name = format!("HTTP, {} by {limit}", if forward { "forwards" } else { "backwards" });
        let mut history = Self { name, rooms: BTreeMap::new() };
        for room in rooms {
            history.rooms.insert(room.clone(), over_http(judge, room, limit, forward).await);
        }
        history
    }

    async fn in_postgres(rooms: &[String], database: &str) -> Self {
        let rooms = in_postgres(database, rooms).await.expect("Postgres answers");
        Self { name: "Postgres".to_owned(), rooms }
    }
}

/// What Postgres holds of some rooms, by room.
pub(super) async fn in_postgres(url: &str, rooms: &[String]) -> sqlx::Result<BTreeMap<String, Vec<Placed>>> {
    let mut connection = PgConnection::connect(url).await?;
    let mut stored: BTreeMap<String, Vec<Placed>> =
        rooms.iter().map(|room| (room.clone(), Vec::new())).collect();
    for row in sqlx::query(ALL_MESSAGES).bind(rooms).fetch_all(&mut connection).await? {
        let number = |column: &str| row.try_get::<i64, _>(column).map(i64::unsigned_abs);
        let placed = Placed {
            event: row.try_get::<Uuid, _>("event_id")?.to_string(),
            place: (number("position_ms")?, number("position_n")?),
            author: row.try_get::<Uuid, _>("author_id")?.to_string(),
            client_id: row.try_get("client_id")?,
            text: row.try_get::<Option<String>, _>("text")?.unwrap_or_default(),
        };
        let room: String = row.try_get("room_id")?;
        stored.entry(room).or_default().push(placed);
    }
    connection.close().await?;
    Ok(stored)
}

/// Walks by the cursors of `GET /rooms/{room}/messages` until there is none.
async fn over_http(judge: &Person, room: &str, limit: u64, forward: bool) -> Vec<Placed> {
    let mut pages = Vec::new();
    let mut cursor = forward.then(|| "0-0".to_owned());
    let (direction, on) = if forward { ("after", "next") } else { ("before", "previous") };
    loop {
        let from = cursor.as_ref().map(|cursor| format!("&{direction}={cursor}")).unwrap_or_default();
        let page = get(judge, &format!("/rooms/{room}/messages?limit={limit}{from}")).await;
        let events = page["messages"].as_array().unwrap_or_else(|| panic!("no page: {page}"));
        events.iter().for_each(check_event);
        pages.push(events.iter().map(Placed::of).collect());
        let Some(next) = page[on].as_str() else { return in_one(pages, forward) };
        assert_ne!(cursor.as_deref(), Some(next), "the cursor of {room} leads nowhere: {page}");
        cursor = Some(next.to_owned());
    }
}

async fn get(judge: &Person, path: &str) -> Value {
    let late = Instant::now() + PATIENCE;
    loop {
        let answer = judge.user.call(Method::GET, path).send().await;
        if answer.status != 503 && answer.status != 500 || late < Instant::now() {
            return answer.expect(200);
        }
        sleep(AGAIN).await;
    }
}

/// The pages oldest first, in which order ever they were read.
fn in_one(mut pages: Vec<Vec<Placed>>, forward: bool) -> Vec<Placed> {
    if !forward {
        pages.reverse();
    }
    pages.concat()
}

/// A socket to read history on, reopened when it breaks.
struct Socket<'a> {
    judge: &'a Person,
    line: Option<Line>,
}

impl Socket<'_> {
    /// Joins from the beginning and reads on.
    async fn forwards(&mut self, room: &str) -> Vec<Placed> {
        let mut page = self.ask(json!({"action": "join", "room": room, "after": "0-0"})).await;
        assert_eq!(page["reset"], false, "the beginning is no position that was forgotten: {page}");
        let mut pages = vec![events_of(&page)];
        while page["more"] == true {
            let last = newest_of(page["events"].as_array().expect("was read"));
            let last = last.unwrap_or_else(|| panic!("a page without events is not the last one of {room}"));
            let frame = json!({"action": "history", "room": room, "after": words_of(last), "limit": LARGE});
            page = self.ask(frame).await;
            pages.push(events_of(&page));
        }
        in_one(pages, true)
    }

    /// Reads from the newest to the beginning.
    async fn backwards(&mut self, room: &str) -> Vec<Placed> {
        let mut page = self.ask(json!({"action": "history", "room": room, "limit": LARGE})).await;
        let mut pages = vec![events_of(&page)];
        while page["more"] == true {
            let oldest = pages.last().and_then(|events| events.first()).map(|placed| placed.place);
            let oldest =
                oldest.unwrap_or_else(|| panic!("a page without events is not the last one of {room}"));
            let frame =
                json!({"action": "history", "room": room, "before": words_of(oldest), "limit": LARGE});
            page = self.ask(frame).await;
            pages.push(events_of(&page));
        }
        in_one(pages, false)
    }

    async fn ask(&mut self, frame: Value) -> Value {
        let late = Instant::now() + PATIENCE;
        loop {
            let trouble = match self.try_ask(&frame).await {
                Ok(reply) => return reply,
                Err(trouble) => trouble,
            };
            assert!(Instant::now() < late, "{frame} is not answered: {trouble}");
            if !matches!(&trouble, Trouble::Refused(refusal) if refusal.will_pass()) {
                self.line = None;
            }
            sleep(AGAIN).await;
        }
    }

    async fn try_ask(&mut self, frame: &Value) -> Result<Value, Trouble> {
        let line = match &mut self.line {
            Some(line) => line,
            empty => {
                let mut line = Line::open(self.judge, &mut Dice::new(0, "judge")).await?;
                if frame["action"] != "join" {
                    line.ask(json!({"action": "join", "room": frame["room"]})).await?;
                }
                empty.insert(line)
            }
        };
        line.ask(frame.clone()).await
    }
}

fn events_of(page: &Value) -> Vec<Placed> {
    let events = page["events"].as_array().unwrap_or_else(|| panic!("no events: {page}"));
    events.iter().for_each(check_event);
    events.iter().map(Placed::of).collect()
}

/// The place that a text names.
pub(super) fn place_of(position: &str) -> Place {
    parse_position(position).unwrap_or_else(|| panic!("no position: {position}"))
}

/// The text that names a place.
pub(super) fn words_of(place: Place) -> String {
    format!("{}-{}", place.0, place.1)
}

/// The place of the last event of a page.
pub(super) fn newest_of(events: &[Value]) -> Option<Place> {
    events.last().and_then(|event| event["position"].as_str()).map(place_of)
}
