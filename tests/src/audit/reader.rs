//! A reader that follows the protocol on a line that it drops all the time.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use tokio::{sync::watch, time::sleep};

use super::{
    Person, Phase,
    dice::Dice,
    history::{place_of, words_of},
    line::{Line, Refusal, Trouble},
    notes::Notes,
    proof::Seen,
    room::{Room, ToDo},
};
use crate::chat::check_event;

/// The largest page.
const PAGE: u64 = 200;
/// How long a reader keeps a line, in milliseconds.
const LINE_MS: std::ops::Range<u64> = 1_000..7_000;
/// How long it is away then.
const AWAY_MS: std::ops::Range<u64> = 0..1_500;
/// How long it waits before it asks again for what was refused.
const RETRY_MS: std::ops::Range<u64> = 50..500;
/// Milliseconds between pings: far more often than clients do, because runs are short.
const PING_MS: std::ops::Range<u64> = 500..1_500;
/// How often a reader does not look at its socket for a while, of all pings, and for how long.
const PAUSE: (f64, std::ops::Range<u64>) = (0.03, 500..2_500);
/// How soon it sees that it is told something else.
const GLANCE: Duration = Duration::from_millis(100);

/// Reads all rooms.
pub(super) struct Reader {
    pub(super) person: Person,
    pub(super) dice: Dice,
    pub(super) rooms: Vec<String>,
    pub(super) window: Window,
    pub(super) notes: Notes,
    pub(super) phase: watch::Receiver<Phase>,
    pub(super) deaf: watch::Receiver<bool>,
}

/// What a reader has before its eyes, for others to look at.
#[derive(Clone)]
pub(super) struct Window {
    name: String,
    inside: Arc<Mutex<Inside>>,
}

struct Inside {
    rooms: BTreeMap<String, Room>,
    pongs: u64,
    doing: String,
}

impl Window {
    pub(super) fn of(name: &str, rooms: &[String], read_again: &[Duration]) -> Self {
        let rooms = rooms.iter().map(|room| (room.clone(), Room::new(room, read_again))).collect();
        let inside = Inside { rooms, pongs: 0, doing: "it has not begun".to_owned() };
        Self { name: name.to_owned(), inside: Arc::new(Mutex::new(inside)) }
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// How many pings were answered that found nothing to do.
    pub(super) fn pongs(&self) -> u64 {
        self.inside().pongs
    }

    /// What the reader still has to do, or which of these events it does not have.
    pub(super) fn unsettled(&self, acked: &BTreeMap<String, BTreeSet<String>>) -> Option<String> {
        let inside = self.inside();
        let (name, doing) = (&self.name, &inside.doing);
        inside.rooms.iter().find_map(|(id, room)| {
            if !room.is_settled() {
                return Some(format!("{name} to be done with {id}: {doing}"));
            }
            let missing = acked.get(id)?.iter().filter(|event| !room.knows(event)).count();
            (0 < missing).then(|| format!("{name} to be shown {missing} events of {id}: {doing}"))
        })
    }

    /// Everything that the reader has before its eyes.
    pub(super) fn seen(&self) -> Seen {
        let inside = self.inside();
        let rooms = inside.rooms.iter().map(|(id, room)| (id.clone(), room.in_order())).collect();
        let doubts = inside.rooms.iter().map(|(id, room)| (id.clone(), room.doubts().to_vec())).collect();
        Seen { name: self.name.clone(), rooms, doubts }
    }

    fn inside(&self) -> MutexGuard<'_, Inside> {
        self.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Why a line is at its end.
enum End {
    Trouble(Trouble),
    Dropped,
    Over,
}

impl From<Trouble> for End {
    fn from(trouble: Trouble) -> Self {
        Self::Trouble(trouble)
    }
}

impl Reader {
    pub(super) async fn run(mut self) {
        loop {
            let away = match self.live().await {
                End::Over => return,
                End::Dropped => AWAY_MS,
                End::Trouble(trouble) => {
                    self.doing(trouble.to_string());
                    RETRY_MS
                }
            };
            let away = self.dice.pause(away);
            sleep(away).await;
        }
    }

    /// One line, from its beginning to its end.
    async fn live(&mut self) -> End {
        if self.is_over() {
            return End::Over;
        }
        self.with_rooms(|rooms| rooms.values_mut().for_each(Room::lost));
        let mut line = match Line::open(&self.person, &mut self.dice).await {
            Ok(line) => line,
            Err(trouble) => return trouble.into(),
        };
        self.notes.count(|counts| counts.connections += 1);
        let end = self.follow(&mut line).await;
        if matches!(end, End::Over) || self.dice.chance(0.3) {
            line.close().await;
        }
        end
    }

    async fn follow(&mut self, line: &mut Line) -> End {
        let drop_at = Instant::now() + self.dice.pause(LINE_MS);
        let mut ping_at = Instant::now() + self.dice.pause(PING_MS);
        let mut busy_until = Instant::now();
        loop {
            while *self.deaf.borrow() && !self.is_over() {
                sleep(GLANCE).await;
            }
            if self.is_over() {
                return End::Over;
            }
            if drop_at < Instant::now() && *self.phase.borrow() == Phase::Busy {
                self.notes.count(|counts| counts.drops += 1);
                return End::Dropped;
            }
            if busy_until <= Instant::now() {
                match self.do_what_is_to_do(line).await {
                    Ok(()) => {}
                    Err(Trouble::Refused(refusal)) => {
                        self.refused(&refusal);
                        busy_until = Instant::now() + refusal.retry_after + self.dice.pause(RETRY_MS);
                    }
                    Err(Trouble::Failed) => busy_until = Instant::now() + self.dice.pause(RETRY_MS),
                    Err(trouble) => return trouble.into(),
                }
            }
            self.take_pushes(line);
            if ping_at <= Instant::now() {
                ping_at = Instant::now() + self.dice.pause(PING_MS);
                if let Err(end) = self.ping(line).await {
                    return end;
                }
            }
            let next = ping_at.min(Instant::now() + GLANCE);
            if let Err(trouble) = line.listen(next).await {
                return trouble.into();
            }
        }
    }

    async fn do_what_is_to_do(&mut self, line: &mut Line) -> Result<(), Trouble> {
        for id in self.rooms.clone() {
            while let Some(to_do) = self.with_room(&id, |room| room.to_do(Instant::now())) {
                let done = self.do_one(line, &id, &to_do).await;
                if let Err(Trouble::Refused(refusal)) = &done
                    && refusal.code == "not_joined"
                {
                    self.with_room(&id, Room::lost);
                }
                done?;
                self.take_pushes(line);
            }
        }
        Ok(())
    }

    async fn do_one(&mut self, line: &mut Line, id: &str, to_do: &ToDo) -> Result<(), Trouble> {
        self.doing(format!("{to_do:?} in {id}"));
        let is_new = match to_do {
            ToDo::Join { after, generation } => {
                let mut frame = json!({"action": "join", "room": id});
                if let Some(after) = after {
                    frame["after"] = json!(words_of(*after));
                }
                if let Some(generation) = generation {
                    frame["generation"] = json!(generation);
                }
                let reply = self.ask(line, frame, "joined").await?;
                self.with_room(id, |room| room.joined(to_do, &reply, Instant::now()))
            }
            ToDo::ReadAfter(after) => {
                let frame =
                    json!({"action": "history", "room": id, "after": words_of(*after), "limit": PAGE});
                let reply = self.ask(line, frame, "history").await?;
                self.with_room(id, |room| room.read_after(*after, &reply, Instant::now()))
            }
            ToDo::ReadBack(floor_ms) => self.read_back(line, id, *floor_ms).await?,
        };
        if is_new {
            self.notes.new_generation(id);
        }
        Ok(())
    }

    /// Reads from the newest backwards. A new generation meanwhile has it done again.
    async fn read_back(&mut self, line: &mut Line, id: &str, floor_ms: u64) -> Result<bool, Trouble> {
        let begun = Instant::now();
        let mut before = None;
        loop {
            let mut frame = json!({"action": "history", "room": id, "limit": PAGE});
            if let Some(before) = before {
                frame["before"] = json!(words_of(before));
            }
            let reply = self.ask(line, frame, "history").await?;
            // What becomes due while it reads is not done by it.
            let (next, is_new) = self.with_room(id, |room| room.read_back(before, floor_ms, &reply, begun));
            if next.is_none() {
                return Ok(is_new);
            }
            before = next;
        }
    }

    async fn ask(&mut self, line: &mut Line, frame: Value, kind: &str) -> Result<Value, Trouble> {
        let reply = line.ask(frame).await?;
        assert_eq!(reply["type"], kind, "{reply}");
        let events = reply["events"].as_array().unwrap_or_else(|| panic!("no events: {reply}"));
        events.iter().for_each(check_event);
        self.notes.count(|counts| counts.shown += events.len() as u64);
        Ok(reply)
    }

    fn take_pushes(&mut self, line: &mut Line) {
        for push in std::mem::take(&mut line.pushes) {
            let Some(id) = push["room"].as_str().map(str::to_owned) else { continue };
            let is_new = match push["type"].as_str() {
                Some("message") => {
                    check_event(&push);
                    self.notes.count(|counts| counts.shown += 1);
                    self.with_room(&id, |room| room.pushed(push, Instant::now()));
                    false
                }
                Some("resync") => self.with_room(&id, |room| room.resync(&push, Instant::now())),
                // Who comes and goes is of no interest here.
                _ => false,
            };
            if is_new {
                self.notes.new_generation(&id);
            }
        }
    }

    async fn ping(&mut self, line: &mut Line) -> Result<(), End> {
        let (mut positions, mut generations) = (json!({}), json!({}));
        self.with_rooms(|rooms| {
            for (id, room) in rooms {
                if let Some((last, generation)) = room.mark() {
                    positions[id.as_str()] = json!(words_of(last));
                    generations[id.as_str()] = json!(generation);
                }
            }
        });
        let frame = json!({"action": "ping", "positions": positions, "generations": generations});
        let pong = match line.ask(frame).await {
            Ok(pong) => pong,
            Err(Trouble::Refused(refusal)) => {
                self.refused(&refusal);
                return Ok(());
            }
            Err(Trouble::Failed) => return Ok(()),
            Err(trouble) => return Err(trouble.into()),
        };
        let asked = positions.as_object().map_or(0, serde_json::Map::len);
        self.take_pong(&pong, asked);
        // A reader may do other things for a while.
        if *self.phase.borrow() == Phase::Busy && self.dice.chance(PAUSE.0) {
            let pause = self.dice.pause(PAUSE.1);
            sleep(pause).await;
        }
        Ok(())
    }

    fn take_pong(&self, pong: &Value, asked: usize) {
        let behind = pong["behind"].as_object().unwrap_or_else(|| panic!("not a pong: {pong}"));
        let rejoin = pong["rejoin"].as_array().unwrap_or_else(|| panic!("not a pong: {pong}"));
        let mut inside = self.window.inside();
        for (id, newest) in behind {
            let newest = place_of(newest.as_str().expect("a position"));
            inside.rooms.get_mut(id).expect("a room that was asked for").behind(newest);
        }
        for id in rejoin {
            let id = id.as_str().expect("a room");
            inside.rooms.get_mut(id).expect("a room that was asked for").lost();
        }
        if behind.is_empty() && rejoin.is_empty() && asked == self.rooms.len() {
            inside.pongs += 1;
        }
    }

    /// What may be refused for a while is asked for again; what may not is an offence.
    fn refused(&mut self, refusal: &Refusal) {
        self.doing(format!("{}", refusal.frame));
        if !refusal.will_pass() && refusal.code != "not_joined" {
            self.notes.offence(format!("{} was refused something: {}", self.window.name, refusal.frame));
        }
    }

    fn is_over(&self) -> bool {
        *self.phase.borrow() == Phase::Over
    }

    fn doing(&self, what: String) {
        self.window.inside().doing = what;
    }

    fn with_room<T>(&self, id: &str, act: impl FnOnce(&mut Room) -> T) -> T {
        act(self.window.inside().rooms.get_mut(id).expect("a room of this reader"))
    }

    fn with_rooms(&self, act: impl FnOnce(&mut BTreeMap<String, Room>)) {
        act(&mut self.window.inside().rooms);
    }
}
