//! The subscribers that a warm function holds, by room, so that Redis sends a list only when it has changed.

use std::{
    num::NonZeroUsize,
    sync::{Arc, Mutex, PoisonError},
};

use lru::LruCache;
use shared::{
    domain::rooms::RoomId,
    redis::{Subscriber, SubscriberChange},
};

/// How many rooms are held. The list of a room takes some 60 bytes a connection.
const ROOMS: NonZeroUsize = NonZeroUsize::new(256).expect("not zero");

/// The lists, the least recently used one giving way.
pub(crate) struct SubscriberCache {
    rooms: Mutex<LruCache<RoomId, Held>>,
}

struct Held {
    version: String,
    subscribers: Arc<[Subscriber]>,
}

impl Default for SubscriberCache {
    fn default() -> Self {
        Self { rooms: Mutex::new(LruCache::new(ROOMS)) }
    }
}

impl SubscriberCache {
    /// The version of the list that is held for a room.
    pub(crate) fn version(&self, room: &RoomId) -> Option<String> {
        self.rooms().get(room).map(|held| held.version.clone())
    }

    /// Takes over what Redis told, and answers the current list.
    pub(crate) fn update(
        &self,
        room: &RoomId,
        version: String,
        change: SubscriberChange,
    ) -> Arc<[Subscriber]> {
        let mut rooms = self.rooms();
        match change {
            SubscriberChange::None => {
                rooms.get(room).map_or_else(|| Arc::from([]), |held| Arc::clone(&held.subscribers))
            }
            SubscriberChange::All(subscribers) => {
                let subscribers: Arc<[Subscriber]> = subscribers.into();
                rooms.put(room.clone(), Held { version, subscribers: Arc::clone(&subscribers) });
                subscribers
            }
        }
    }

    fn rooms(&self) -> std::sync::MutexGuard<'_, LruCache<RoomId, Held>> {
        // A panic in between leaves a list that is whole: it is put in one step.
        self.rooms.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
