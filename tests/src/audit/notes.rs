//! What writers and readers note while they are at work.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use super::{
    Words,
    history::{Place, words_of},
};

/// Notes that all share.
#[derive(Clone, Default)]
pub struct Notes(Arc<Mutex<Inner>>);

#[derive(Default)]
struct Inner {
    written: HashMap<String, Written>,
    acks: Vec<Ack>,
    generations: Vec<(Instant, String)>,
    offences: Vec<String>,
    counts: Counts,
}

/// What somebody wrote, whether it was acknowledged or not.
#[derive(Clone, Debug)]
pub struct Written {
    /// Where.
    pub room: String,
    /// By whom: the account's id.
    pub author: String,
    /// What.
    pub text: Words,
    acked: bool,
}

/// An ack as the writer got it.
#[derive(Clone, Debug)]
pub struct Ack {
    /// The room.
    pub room: String,
    /// The writer's own id of the message; no other writer has the same.
    pub client_id: String,
    /// The event's name.
    pub event: String,
    /// Its place.
    pub place: Place,
    /// When it came.
    pub at: Instant,
}

impl fmt::Display for Ack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { room, client_id, event, place, .. } = self;
        write!(f, "{event} ({client_id}), acknowledged at {} in {room}", words_of(*place))
    }
}

/// How often what happened.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    /// Sends, with all repeats.
    pub sends: u64,
    /// Acks, with those of repeats.
    pub acks: u64,
    /// Acks of messages that had been acknowledged before.
    pub acks_again: u64,
    /// Sends that were refused, failed, or were never answered.
    pub sends_failed: u64,
    /// Sockets that were opened.
    pub connections: u64,
    /// Sockets that readers dropped on purpose.
    pub drops: u64,
    /// Frames with an event that readers were shown, pushed or read.
    pub shown: u64,
    /// New generations that readers learned of.
    pub generations: u64,
}

impl Notes {
    /// Notes a message before it is sent for the first time.
    pub(super) fn writes(&self, client_id: &str, room: &str, author: &str, text: &Words) {
        let (room, author, text) = (room.to_owned(), author.to_owned(), Arc::clone(text));
        self.inner().written.insert(client_id.to_owned(), Written { room, author, text, acked: false });
    }

    /// Notes an ack.
    pub(super) fn acked(&self, ack: Ack) {
        let mut inner = self.inner();
        inner.counts.acks += 1;
        let before =
            inner.written.get_mut(&ack.client_id).map(|written| std::mem::replace(&mut written.acked, true));
        match before {
            Some(false) => {}
            Some(true) => inner.counts.acks_again += 1,
            None => inner.offences.push(format!("an ack of what nobody sent: {ack}")),
        }
        inner.acks.push(ack);
    }

    /// Notes that a room has a new generation, as a reader learned.
    pub(super) fn new_generation(&self, room: &str) {
        let mut inner = self.inner();
        inner.counts.generations += 1;
        inner.generations.push((Instant::now(), room.to_owned()));
    }

    /// Notes what must never happen.
    pub(super) fn offence(&self, words: String) {
        self.inner().offences.push(words);
    }

    /// Counts.
    pub(super) fn count(&self, count: impl FnOnce(&mut Counts)) {
        count(&mut self.inner().counts);
    }

    /// How many messages wait for their ack.
    pub fn unfinished(&self) -> usize {
        self.inner().written.values().filter(|written| !written.acked).count()
    }

    /// How often what happened so far.
    pub fn counts(&self) -> Counts {
        self.inner().counts
    }

    /// All acks, in the order in which they came.
    pub fn acks(&self) -> Vec<Ack> {
        self.inner().acks.clone()
    }

    /// The names of all acknowledged events, by room.
    pub(super) fn acked_by_room(&self) -> BTreeMap<String, BTreeSet<String>> {
        let mut rooms: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for ack in &self.inner().acks {
            rooms.entry(ack.room.clone()).or_default().insert(ack.event.clone());
        }
        rooms
    }

    /// What was written under this id.
    pub fn written(&self, client_id: &str) -> Option<Written> {
        self.inner().written.get(client_id).cloned()
    }

    /// When readers learned of new generations of a room.
    pub fn generations(&self, room: &str) -> Vec<Instant> {
        self.inner().generations.iter().filter(|(_, of)| of == room).map(|(at, _)| *at).collect()
    }

    /// What must never happen and did.
    pub fn offences(&self) -> Vec<String> {
        self.inner().offences.clone()
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
