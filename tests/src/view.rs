//! A room as a client keeps it: the rules by which it puts together what it is shown.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::chat::{Chat, parse_position};

type Place = (u64, u64);

/// One reader's picture of one room.
///
/// The rules are the protocol's: an event that is known changes nothing but the last position; one whose `previous` is
/// not larger than the last position is next; anything else shows a gap, and everything after the last position is read.
pub struct View {
    room: String,
    events: BTreeMap<Place, Value>,
    names: BTreeMap<String, Place>,
    last: Option<Place>,
    found: BTreeSet<String>,
    pushed: BTreeMap<String, usize>,
}

impl View {
    /// Joins the room and begins with everything that is there.
    pub async fn join(chat: &mut Chat, room: &str) -> Self {
        let mut view = Self {
            room: room.to_owned(),
            events: BTreeMap::new(),
            names: BTreeMap::new(),
            last: None,
            found: BTreeSet::new(),
            pushed: BTreeMap::new(),
        };
        let joined = chat.join_after(room, "0-0").await;
        assert_eq!(joined["reset"], false, "{joined}");
        view.add_page(&joined);
        if joined["more"] == true {
            view.catch_up(chat).await;
        }
        let position = joined["position"].as_str().and_then(parse_position);
        let was_there = view.names.iter().filter(|(_, place)| Some(**place) <= position);
        view.found = was_there.map(|(name, _)| name.clone()).collect();
        view
    }

    /// Takes in what was pushed up to now, and an event of one's own by its ack.
    pub async fn follow(&mut self, chat: &mut Chat, ack: &Value) {
        let pushes = chat.take_pushes();
        self.apply_pushes(chat, pushes).await;
        self.apply(chat, ack.clone()).await;
    }

    /// Takes in everything that the gateway was given for this connection before now.
    pub async fn settle(&mut self, chat: &mut Chat) {
        let pushes = chat.pushed_before_now().await;
        self.apply_pushes(chat, pushes).await;
    }

    /// Takes in pushes as they come, until every one of these events was pushed.
    pub async fn wait_for_pushes(&mut self, chat: &mut Chat, events: &[String]) {
        while events.iter().any(|event| self.times_pushed(event) == 0) {
            let push = chat.push().await;
            self.apply_pushes(chat, [push]).await;
        }
    }

    /// The names of the events, in the room's order.
    pub fn names(&self) -> Vec<&str> {
        self.events.values().map(name_of).collect()
    }

    /// The events that were there when the room was joined. Later ones have to be pushed.
    pub fn found(&self) -> &BTreeSet<String> {
        &self.found
    }

    /// How often an event was pushed. Reading fills gaps, and what is known already changes nothing: only this shows
    /// what was never pushed, and what was pushed twice.
    pub fn times_pushed(&self, event: &str) -> usize {
        self.pushed.get(event).copied().unwrap_or_default()
    }

    async fn apply_pushes(&mut self, chat: &mut Chat, pushes: impl IntoIterator<Item = Value>) {
        for push in pushes {
            if push["room"] == self.room.as_str() && push["type"] == "message" {
                *self.pushed.entry(name_of(&push).to_owned()).or_default() += 1;
                self.apply(chat, push).await;
            }
        }
    }

    async fn apply(&mut self, chat: &mut Chat, event: Value) {
        let previous = event["previous"].as_str().and_then(parse_position);
        if self.names.contains_key(name_of(&event)) || previous <= self.last {
            self.add(event);
        } else {
            self.catch_up(chat).await;
        }
    }

    async fn catch_up(&mut self, chat: &mut Chat) {
        loop {
            let last = self.last.unwrap_or_default();
            let page = chat.history_after(&self.room, &format!("{}-{}", last.0, last.1)).await;
            self.add_page(&page);
            if page["more"] == false {
                return;
            }
        }
    }

    fn add_page(&mut self, page: &Value) {
        for event in page["events"].as_array().expect("a page has events") {
            self.add(event.clone());
        }
    }

    fn add(&mut self, event: Value) {
        let place = event["position"].as_str().and_then(parse_position).expect("an event has a position");
        let name = name_of(&event).to_owned();
        self.last = self.last.max(Some(place));
        if let Some(&before) = self.names.get(&name) {
            if before <= place {
                return;
            }
            self.events.remove(&before);
        }
        self.names.insert(name, place);
        let other = self.events.insert(place, event);
        assert!(other.is_none(), "two events have the same position: {other:?}");
    }
}

fn name_of(event: &Value) -> &str {
    event["event"].as_str().expect("an event has a name")
}
