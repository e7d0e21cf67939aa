//! A room as a client keeps it: the rules by which it puts together what it is shown.

use std::collections::BTreeMap;

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
    gaps: usize,
}

impl View {
    /// Joins the room and begins with everything that is there.
    pub async fn join(chat: &mut Chat, room: &str) -> Self {
        let mut view = Self {
            room: room.to_owned(),
            events: BTreeMap::new(),
            names: BTreeMap::new(),
            last: None,
            gaps: 0,
        };
        let joined = chat.join_after(room, "0-0").await;
        assert_eq!(joined["reset"], false, "{joined}");
        view.add_page(&joined);
        if joined["more"] == true {
            view.catch_up(chat).await;
        }
        view
    }

    /// Waits until the event of this name is in the picture.
    pub async fn wait_for(&mut self, chat: &mut Chat, event: &str) {
        loop {
            let pushes = chat.take_pushes();
            for push in pushes {
                if push["room"] == self.room.as_str() && push["type"] == "message" {
                    self.apply(chat, push).await;
                }
            }
            if self.names.contains_key(event) {
                return;
            }
            chat.receive().await;
        }
    }

    /// The names of the events, in the room's order.
    pub fn names(&self) -> Vec<&str> {
        self.events.values().map(|event| event["event"].as_str().expect("an event has a name")).collect()
    }

    /// How often something was missing and had to be read.
    pub fn gaps(&self) -> usize {
        self.gaps
    }

    async fn apply(&mut self, chat: &mut Chat, event: Value) {
        let previous = event["previous"].as_str().and_then(parse_position);
        let known = self.names.contains_key(event["event"].as_str().expect("an event has a name"));
        if known || previous <= self.last {
            self.add(event);
        } else {
            self.gaps += 1;
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
        let name = event["event"].as_str().expect("an event has a name").to_owned();
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
