//! A room as a reader keeps it, through losses of Redis: the rules of the protocol, and what would break them.
//!
//! [`View`](crate::view::View) is the same for tests in which Redis forgets nothing. Nothing here waits or asks: the
//! reader does what a room says that is [to be done](Room::to_do).

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

use serde_json::Value;

use super::history::{Place, Placed, newest_of, place_of};

/// How far a client reads back at a new generation, counted from the newest that it knows.
const READ_BACK_MS: u64 = 10 * 60 * 1_000;
/// Enough doubts to show what is wrong.
const MOST_DOUBTS: usize = 50;

/// One reader's picture of one room.
pub struct Room {
    name: String,
    read_again: Arc<[Duration]>,
    events: HashMap<String, Placed>,
    /// Author and client id → the event that they made.
    made: HashMap<(String, String), String>,
    last: Option<Place>,
    generation: Option<String>,
    /// The newest place in this generation.
    newest: Option<Place>,
    must_join: bool,
    gap: bool,
    /// The newest position that a pong has told of, until everything up to it was read. It may be of an event that is no
    /// more, so that no answer leads to it.
    told: Option<Place>,
    /// Whether `last` is a position of this generation. What is pushed while it is not waits.
    measured: bool,
    waiting: VecDeque<Value>,
    /// When to read back, and how far: milliseconds of a position.
    read_backs: Vec<(Instant, u64)>,
    doubts: Vec<Doubt>,
}

/// What is against the rules unless Redis has forgotten something.
#[derive(Clone, Debug)]
pub struct Doubt {
    /// When it was seen.
    pub at: Instant,
    /// What kind it is.
    pub kind: DoubtKind,
    /// The event.
    pub event: String,
    /// What was seen.
    pub words: String,
}

/// What can be against the rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DoubtKind {
    /// An event came before one that was shown already.
    Inverted,
    /// An event was shown at two places.
    Moved,
    /// One message was shown as two events. Nothing excuses that.
    Twice,
    /// An event has changed. Nothing excuses that.
    Altered,
}

/// What a reader has to ask next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ToDo {
    /// `join`, with the position and the generation if they are a measure.
    Join {
        /// The last position.
        after: Option<Place>,
        /// The generation it belongs to.
        generation: Option<String>,
    },
    /// `history` after this position.
    ReadAfter(Place),
    /// `history` from the newest down to so many milliseconds.
    ReadBack(u64),
}

/// From which answer an event comes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    Forward,
    Back,
}

impl Room {
    /// A room that was not joined yet. Its reader reads back so long after it learned of a new generation.
    pub fn new(name: &str, read_again: &[Duration]) -> Self {
        Self {
            name: name.to_owned(),
            read_again: read_again.into(),
            events: HashMap::new(),
            made: HashMap::new(),
            last: None,
            generation: None,
            newest: None,
            must_join: true,
            gap: false,
            told: None,
            measured: false,
            waiting: VecDeque::new(),
            read_backs: Vec::new(),
            doubts: Vec::new(),
        }
    }

    /// What there is to ask now.
    pub fn to_do(&self, now: Instant) -> Option<ToDo> {
        if self.must_join {
            let generation = self.generation.clone();
            return Some(match (self.measured, self.last) {
                (true, last) => ToDo::Join { after: last.or(Some((0, 0))), generation },
                // Never joined: from the beginning.
                (false, None) if generation.is_none() => ToDo::Join { after: Some((0, 0)), generation },
                // Positions of another generation are no measure.
                (false, _) => ToDo::Join { after: None, generation: None },
            });
        }
        if let Some((_, floor_ms)) = self.read_backs.iter().find(|(at, _)| *at <= now) {
            return Some(ToDo::ReadBack(*floor_ms));
        }
        self.gap.then(|| ToDo::ReadAfter(self.last.unwrap_or_default()))
    }

    /// When there will be something to ask that is not to be asked now.
    pub fn next_read_back(&self) -> Option<Instant> {
        self.read_backs.iter().map(|(at, _)| *at).min()
    }

    /// Whether it has joined and knows of nothing that it has not read.
    pub fn is_settled(&self) -> bool {
        !self.must_join && !self.gap && self.measured && self.read_backs.is_empty()
    }

    /// The last position and its generation, for a ping; none while they are no measure.
    pub fn mark(&self) -> Option<(Place, &str)> {
        let measured = !self.must_join && self.measured;
        self.generation
            .as_deref()
            .filter(|_| measured)
            .map(|generation| (self.last.unwrap_or_default(), generation))
    }

    /// Whether an event is known.
    pub fn knows(&self, event: &str) -> bool {
        self.events.contains_key(event)
    }

    /// All events, in their order.
    pub fn in_order(&self) -> Vec<Placed> {
        let mut events: Vec<Placed> = self.events.values().cloned().collect();
        events.sort_by(|a, b| (a.place, &a.event).cmp(&(b.place, &b.event)));
        events
    }

    /// What was against the rules.
    pub fn doubts(&self) -> &[Doubt] {
        &self.doubts
    }

    /// The connection is not subscribed (any more).
    pub fn lost(&mut self) {
        self.must_join = true;
    }

    /// A pong tells of a newer position than the last one.
    pub fn behind(&mut self, newest: Place) {
        self.gap = true;
        self.told = Some(newest);
    }

    /// Takes in a pushed event.
    pub fn pushed(&mut self, event: Value, now: Instant) {
        if !self.measured {
            self.waiting.push_back(event);
            return;
        }
        let previous = event["previous"].as_str().map(place_of);
        if self.knows(name_of(&event)) || previous <= self.last {
            self.last = self.last.max(Some(place_of_event(&event)));
            self.add(&event, Way::Forward, now);
        } else {
            self.gap = true;
        }
    }

    /// Takes in `resync`: whether the generation is new.
    pub fn resync(&mut self, push: &Value, now: Instant) -> bool {
        let is_new = self.meet(push, now);
        if is_new {
            self.measured = false;
        }
        is_new
    }

    /// Takes in `joined`: whether the generation is new.
    pub fn joined(&mut self, asked: &ToDo, reply: &Value, now: Instant) -> bool {
        let is_new = self.meet(reply, now);
        let resumed = matches!(asked, ToDo::Join { after: Some(_), .. }) && reply["reset"] == false;
        self.must_join = false;
        self.gap = false;
        let events = events_of(reply);
        if resumed && !is_new {
            let ToDo::Join { after: Some(after), .. } = asked else { unreachable!("it was resumed") };
            self.add_after(*after, events, now);
            if reply["more"] == true {
                self.gap = true;
            } else {
                self.last = self.last.max(reply["position"].as_str().map(place_of));
            }
        } else {
            events.iter().for_each(|event| self.add(event, Way::Back, now));
            self.last = reply["position"].as_str().map(place_of);
            if self.read_backs.is_empty() {
                // What was missed is not in the answer.
                self.read_backs.push((now, self.floor_ms()));
            }
        }
        self.measure(now);
        is_new
    }

    /// Takes in `history` after a position: whether the generation is new.
    pub fn read_after(&mut self, after: Place, reply: &Value, now: Instant) -> bool {
        let is_new = self.meet(reply, now);
        let events = events_of(reply);
        if is_new {
            events.iter().for_each(|event| self.add(event, Way::Back, now));
            self.measured = false;
            self.gap = false;
        } else {
            self.add_after(after, events, now);
            self.gap = reply["more"] == true;
            if !self.gap {
                self.last = self.last.max(self.told.take());
            }
        }
        is_new
    }

    /// Takes in a page of `history` from the newest backwards, and tells before which position to go on.
    pub fn read_back(
        &mut self,
        before: Option<Place>,
        floor_ms: u64,
        reply: &Value,
        now: Instant,
    ) -> (Option<Place>, bool) {
        let is_new = self.meet(reply, now);
        let events = events_of(reply);
        events.iter().for_each(|event| self.add(event, Way::Back, now));
        if is_new {
            self.measured = false;
            return (None, true);
        }
        if before.is_none() && !self.measured {
            self.last = newest_of(events);
            self.measure(now);
        }
        let oldest = events.first().map(place_of_event);
        let next = oldest.filter(|oldest| reply["more"] == true && floor_ms < oldest.0);
        if next.is_none() {
            self.read_backs.retain(|(at, _)| now < *at);
        }
        (next, false)
    }

    /// Looks at the generation of an answer: whether it is a new one.
    fn meet(&mut self, reply: &Value, now: Instant) -> bool {
        let generation = reply["generation"].as_str().expect("the answer has a generation");
        match &self.generation {
            Some(known) if known == generation => false,
            None => {
                self.generation = Some(generation.to_owned());
                false
            }
            Some(_) => {
                self.generation = Some(generation.to_owned());
                self.newest = None;
                self.told = None;
                let floor_ms = self.floor_ms();
                self.read_backs = self.read_again.iter().map(|later| (now + *later, floor_ms)).collect();
                true
            }
        }
    }

    fn floor_ms(&self) -> u64 {
        let newest = self.events.values().map(|held| held.place.0).max();
        newest.unwrap_or_default().saturating_sub(READ_BACK_MS)
    }

    /// The last position is one of this generation (again): what was pushed meanwhile can be put in its place.
    fn measure(&mut self, now: Instant) {
        self.measured = true;
        for event in std::mem::take(&mut self.waiting) {
            self.pushed(event, now);
        }
    }

    fn add_after(&mut self, after: Place, events: &[Value], now: Instant) {
        for event in events {
            let place = place_of_event(event);
            if place <= after {
                self.doubt(
                    DoubtKind::Inverted,
                    now,
                    name_of(event),
                    format!("asked for what came after {after:?}: {event}"),
                );
            }
            self.last = self.last.max(Some(place));
            self.add(event, Way::Forward, now);
        }
    }

    fn add(&mut self, event: &Value, way: Way, now: Instant) {
        let new = Placed::of(event);
        if let Some(held) = self.events.get_mut(&new.event) {
            let before = held.clone();
            held.place = held.place.min(new.place);
            if (&before.text, &before.author, &before.client_id) != (&new.text, &new.author, &new.client_id) {
                self.doubt(DoubtKind::Altered, now, &new.event, format!("{before} was shown before {new}"));
            } else if before.place != new.place {
                self.doubt(DoubtKind::Moved, now, &new.event, format!("{before} was shown before {new}"));
            }
            return;
        }
        if let Some(client_id) = &new.client_id {
            let made = self.made.insert((new.author.clone(), client_id.clone()), new.event.clone());
            if let Some(other) = made {
                self.doubt(DoubtKind::Twice, now, &new.event, format!("{new} was shown before as {other}"));
            }
        }
        if way == Way::Forward && Some(new.place) <= self.newest {
            let newest = self.newest;
            self.doubt(DoubtKind::Inverted, now, &new.event, format!("{new} was shown after {newest:?}"));
        }
        self.newest = self.newest.max(Some(new.place));
        self.events.insert(new.event.clone(), new);
    }

    fn doubt(&mut self, kind: DoubtKind, at: Instant, event: &str, words: String) {
        if self.doubts.len() < MOST_DOUBTS {
            let words = format!("in {}: {words}", self.name);
            self.doubts.push(Doubt { at, kind, event: event.to_owned(), words });
        }
    }
}

fn events_of(reply: &Value) -> &[Value] {
    reply["events"].as_array().map_or_else(|| panic!("no events: {reply}"), Vec::as_slice)
}

fn name_of(event: &Value) -> &str {
    event["event"].as_str().expect("an event has a name")
}

fn place_of_event(event: &Value) -> Place {
    place_of(event["position"].as_str().expect("an event has a position"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn event(name: &str, at: u64, previous: u64) -> Value {
        json!({
            "type": "message", "room": "r", "event": name, "position": format!("{at}-0"),
            "previous": if previous == 0 { Value::Null } else { json!(format!("{previous}-0")) },
            "from": {"id": "ada", "name": "Ada"}, "text": name, "id": format!("id of {name}"),
        })
    }

    fn joined(generation: &str, events: &[Value], reset: bool) -> Value {
        let position = events.last().map_or(Value::Null, |event| event["position"].clone());
        json!({"generation": generation, "events": events, "reset": reset, "more": false, "position": position})
    }

    fn history(generation: &str, events: &[Value], more: bool) -> Value {
        json!({"generation": generation, "events": events, "more": more})
    }

    fn names(room: &Room) -> Vec<String> {
        room.in_order().into_iter().map(|placed| placed.event).collect()
    }

    fn in_a_room(now: Instant) -> Room {
        let mut room = Room::new("r", &[Duration::ZERO, Duration::from_secs(5)]);
        let join = room.to_do(now).expect("to join");
        assert_eq!(join, ToDo::Join { after: Some((0, 0)), generation: None });
        room.joined(&join, &joined("g", &[event("a", 1, 0)], false), now);
        assert!(room.is_settled());
        room
    }

    #[test]
    fn what_follows_is_taken_and_a_gap_is_read() {
        let now = Instant::now();
        let mut room = in_a_room(now);
        room.pushed(event("b", 2, 1), now);
        assert_eq!((names(&room).len(), room.to_do(now)), (2, None));
        room.pushed(event("d", 4, 3), now);
        assert_eq!(room.to_do(now), Some(ToDo::ReadAfter((2, 0))));
        room.read_after((2, 0), &history("g", &[event("c", 3, 2), event("d", 4, 3)], false), now);
        // It was overtaken.
        room.pushed(event("c", 3, 2), now);
        assert_eq!(names(&room), ["a", "b", "c", "d"]);
        assert!(room.is_settled() && room.doubts().is_empty(), "{:?}", room.doubts());
    }

    #[test]
    fn at_a_new_generation_everything_is_read_back_and_pushes_wait_for_it() {
        let now = Instant::now();
        let mut room = in_a_room(now);
        assert!(room.resync(&json!({"generation": "h"}), now));
        assert!(!room.resync(&json!({"generation": "h"}), now), "told twice");
        room.pushed(event("c", 12, 11), now);
        assert_eq!(names(&room), ["a"]);
        assert_eq!(room.to_do(now), Some(ToDo::ReadBack(0)));
        let newest = history("h", &[event("b", 11, 10)], true);
        assert_eq!(room.read_back(None, 0, &newest, now), (Some((11, 0)), false));
        let rest = history("h", &[event("a", 1, 0), event("x", 10, 1)], false);
        assert_eq!(room.read_back(Some((11, 0)), 0, &rest, now), (None, false));
        assert_eq!(names(&room), ["a", "x", "b", "c"]);
        assert_eq!((room.to_do(now), room.is_settled()), (None, false));
        let later = now + Duration::from_secs(5);
        assert_eq!(room.to_do(later), Some(ToDo::ReadBack(0)));
        room.read_back(None, 0, &history("h", &[], false), later);
        assert!(room.is_settled() && room.doubts().is_empty(), "{:?}", room.doubts());
    }

    #[test]
    fn a_reset_begins_at_the_rooms_newest_and_reads_back() {
        let now = Instant::now();
        let mut room = in_a_room(now);
        room.lost();
        let join = room.to_do(now).expect("to join");
        assert_eq!(join, ToDo::Join { after: Some((1, 0)), generation: Some("g".to_owned()) });
        assert!(room.joined(&join, &joined("h", &[event("c", 12, 11)], true), now));
        assert_eq!(room.mark(), Some(((12, 0), "h")));
        assert_eq!(room.to_do(now), Some(ToDo::ReadBack(0)));
    }

    #[test]
    fn the_newest_position_may_be_of_an_event_that_is_no_more() {
        let now = Instant::now();
        let mut room = in_a_room(now);
        room.behind((9, 0));
        assert_eq!(room.to_do(now), Some(ToDo::ReadAfter((1, 0))));
        room.read_after((1, 0), &history("g", &[event("b", 2, 1)], true), now);
        assert_eq!(room.to_do(now), Some(ToDo::ReadAfter((2, 0))));
        room.read_after((2, 0), &history("g", &[], false), now);
        assert_eq!(room.mark(), Some(((9, 0), "g")));
    }

    #[test]
    fn the_smaller_place_wins() {
        let now = Instant::now();
        let mut room = in_a_room(now);
        room.pushed(event("b", 7, 1), now);
        room.pushed(event("b", 5, 1), now);
        room.pushed(event("b", 9, 7), now);
        assert_eq!(room.in_order()[1].place, (5, 0));
        assert_eq!(room.doubts().iter().map(|doubt| doubt.kind).collect::<Vec<_>>(), [DoubtKind::Moved; 2]);
    }

    #[test]
    fn what_breaks_the_rules_is_doubted() {
        let now = Instant::now();
        let mut room = in_a_room(now);
        room.pushed(event("c", 3, 1), now);
        room.pushed(event("b", 2, 1), now);
        let mut altered = event("c", 3, 1);
        altered["text"] = json!("another");
        room.pushed(altered, now);
        let mut again = event("again", 4, 3);
        again["id"] = json!("id of c");
        room.pushed(again, now);
        let kinds: Vec<_> = room.doubts().iter().map(|doubt| doubt.kind).collect();
        assert_eq!(kinds, [DoubtKind::Inverted, DoubtKind::Altered, DoubtKind::Twice]);
    }
}
