//! The subscribers that a warm function holds, by room, so that Redis sends a list only when it has changed.

use std::{
    num::NonZeroUsize,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use lru::LruCache;
use shared::{
    domain::rooms::RoomId,
    redis::{Subscriber, SubscriberChange},
};

/// How many rooms are held at most.
const ROOMS: NonZeroUsize = NonZeroUsize::new(256).expect("not zero");
/// How many subscribers are held at most, over all rooms but the one that was used last. Each takes some 60 bytes.
const SUBSCRIBERS: usize = 20_000;

/// The lists, the least recently used ones giving way.
pub(crate) struct SubscriberCache {
    rooms: Mutex<LruCache<RoomId, Held>>,
}

/// The subscribers of a room as Redis told them last.
#[derive(Clone)]
pub(crate) struct Held {
    /// The version of the list; Redis changes it with every change of the list.
    pub(crate) version: String,
    /// The list.
    pub(crate) subscribers: Arc<[Subscriber]>,
}

impl Default for SubscriberCache {
    fn default() -> Self {
        Self { rooms: Mutex::new(LruCache::new(ROOMS)) }
    }
}

impl SubscriberCache {
    /// What is held of a room.
    pub(crate) fn get(&self, room: &RoomId) -> Option<Held> {
        self.rooms().get(room).cloned()
    }

    /// The current list: what was held, or what Redis has told instead, which is held from now on.
    pub(crate) fn update(
        &self,
        room: &RoomId,
        held: Option<Held>,
        version: String,
        change: SubscriberChange,
    ) -> Arc<[Subscriber]> {
        match (change, held) {
            (SubscriberChange::None, Some(held)) => held.subscribers,
            // Redis sends none only to one who holds the current list.
            (SubscriberChange::None, None) => Arc::from([]),
            (SubscriberChange::All(subscribers), _) => {
                let subscribers: Arc<[Subscriber]> = subscribers.into();
                self.hold(room.clone(), Held { version, subscribers: Arc::clone(&subscribers) });
                subscribers
            }
        }
    }

    fn hold(&self, room: RoomId, held: Held) {
        let mut rooms = self.rooms();
        rooms.put(room, held);
        let mut total: usize = rooms.iter().map(|(_, held)| held.subscribers.len()).sum();
        while SUBSCRIBERS < total && 1 < rooms.len() {
            total -= rooms.pop_lru().map_or(0, |(_, held)| held.subscribers.len());
        }
    }

    fn rooms(&self) -> MutexGuard<'_, LruCache<RoomId, Held>> {
        // A panic in between leaves lists that are whole: each is put in one step.
        self.rooms.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use shared::domain::{messages::ConnectionId, users::UserId};

    use super::*;

    fn room(number: usize) -> RoomId {
        RoomId::from_store(format!("room-{number}"))
    }

    fn list(length: usize) -> SubscriberChange {
        let user = UserId::parse("01a20434-c1ae-706b-b5b5-5bce41651c1e").expect("is an id");
        let subscriber =
            |number: usize| Subscriber { connection: ConnectionId::new(&number.to_string()), user };
        SubscriberChange::All((0..length).map(subscriber).collect())
    }

    #[test]
    fn a_list_is_held_until_redis_tells_another() {
        let cache = SubscriberCache::default();
        assert_eq!(cache.update(&room(1), None, "a".into(), list(3)).len(), 3);
        let held = cache.get(&room(1));
        assert_eq!(held.as_ref().map(|held| held.version.as_str()), Some("a"));
        assert_eq!(cache.update(&room(1), held.clone(), "a".into(), SubscriberChange::None).len(), 3);
        assert_eq!(cache.update(&room(1), held, "b".into(), list(2)).len(), 2);
        assert_eq!(
            cache.get(&room(1)).map(|held| (held.version, held.subscribers.len())),
            Some(("b".into(), 2))
        );
    }

    #[test]
    fn large_rooms_give_way_before_they_fill_the_memory() {
        let cache = SubscriberCache::default();
        for number in 0..5 {
            cache.update(&room(number), None, "a".into(), list(SUBSCRIBERS / 2));
        }
        let held: Vec<bool> = (0..5).map(|number| cache.get(&room(number)).is_some()).collect();
        assert_eq!(held, [false, false, false, true, true]);
    }
}
