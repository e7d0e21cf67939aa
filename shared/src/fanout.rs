//! Which pushes a function makes by itself, and which go through the fan-out queue.
//!
//! A function posts to a small room itself. What it cannot deliver in time, and all of a big room, is taken over by the
//! function `fanout`, which tries until the connection is gone or can be no more.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use time::OffsetDateTime;
use tokio::{join, time::Instant};

use crate::{
    configuration::FanoutSection,
    domain::{messages::ConnectionId, rooms::RoomId},
    protocol::queue::{FanoutSlice, Receiver},
    push::{Connections, Delivery},
    queue::{FanoutQueue, LONGEST_DELAY, Refused, Sqs},
    redis::{CONNECTION_LIFETIME_SECONDS, Subscriber},
    retry,
};

/// For so long a receiver that was slow or could not be reached is not posted to directly.
const DETOUR: Duration = Duration::from_secs(60);
/// How many such receivers are remembered. With more the gateway itself is slow, and who is not remembered costs one more
/// wait within the budget.
const MOST_DETOURS: usize = 10_000;
/// For so long the function `fanout` tries to reach one receiver at a time. It has calls for a few slices at once only, and
/// those who can be reached must not wait for those who cannot.
const PATIENCE: Duration = Duration::from_millis(1_000);

/// With the delays between them, more attempts than a connection can live to see. Each is a new message, which SQS would
/// keep as long as the first one, should its age be wrong.
const MOST_ATTEMPTS: u32 = 50;

/// Tells a room: directly, or through the queue.
pub struct FanOut {
    connections: Connections,
    queue: FanoutQueue,
    direct: usize,
    detours: Detours,
}

/// What became of a frame that a room was told.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Told {
    /// The gateway has taken it for so many connections.
    pub delivered: usize,
    /// So many connections are gone, and forgotten.
    pub gone: usize,
    /// For so many it is in the queue.
    pub queued: usize,
    /// For so many the queue has refused it, too. Their clients notice the gap and read what they missed.
    pub lost: usize,
}

impl FanOut {
    /// Tells rooms over these connections.
    pub fn new(connections: Connections, sqs: &Sqs, section: &FanoutSection) -> Self {
        let queue = FanoutQueue::new(sqs, section);
        Self { connections, queue, direct: section.direct, detours: Detours::default() }
    }

    /// Until when pushes may delay the answer to an event that came now.
    pub fn deadline(&self) -> Instant {
        self.connections.deadline()
    }

    /// Tells these receivers. Returns when each has the frame, is gone, or is in the queue: nothing is left to be done after
    /// it. It never fails, for whoever tells is not to blame for those who cannot hear.
    pub async fn tell(
        &self,
        room: &RoomId,
        frame: &str,
        receivers: &[&Subscriber],
        deadline: Instant,
    ) -> Told {
        if self.direct < receivers.len() {
            return self.hand_over(room, frame, receivers, 0, Duration::ZERO).await;
        }
        let now = Instant::now();
        let (detoured, direct): (Vec<_>, Vec<_>) =
            receivers.iter().partition(|receiver| self.detours.has(&receiver.connection, now));
        let (delivery, told) = join!(
            self.connections.push(room, frame, &direct, deadline, deadline.saturating_duration_since(now)),
            self.hand_over(room, frame, &detoured, 0, Duration::ZERO),
        );
        let Delivery { delivered, gone, slow, unreached } = delivery;
        self.detours.note(slow.iter().map(|receiver| &receiver.connection), Instant::now());
        let rest = self.hand_over(room, frame, &unreached, 1, delay(0)).await;
        Told { delivered, gone, queued: told.queued + rest.queued, lost: told.lost + rest.lost }
    }

    async fn hand_over(
        &self,
        room: &RoomId,
        frame: &str,
        receivers: &[&Subscriber],
        attempt: u32,
        delay: Duration,
    ) -> Told {
        if receivers.is_empty() {
            return Told::default();
        }
        let slices = slices(room, frame, receivers, self.direct, attempt);
        let lost = match self.queue.put(&slices, delay).await {
            Ok(()) => 0,
            Err(Refused { receivers, cause }) => {
                tracing::warn!(room.id = %room, receivers, cause, "the fan-out queue refused: these have to read what they miss");
                receivers
            }
        };
        Told { queued: receivers.len() - lost, lost, ..Told::default() }
    }
}

/// A frame for many, in slices of at most `most` receivers.
fn slices(
    room: &RoomId,
    frame: &str,
    receivers: &[&Subscriber],
    most: usize,
    attempt: u32,
) -> Vec<FanoutSlice> {
    let made_at_ms = now_ms();
    let slice = |receivers: &[&Subscriber]| FanoutSlice {
        room: room.clone(),
        frame: frame.to_owned(),
        receivers: receivers.iter().map(|receiver| receiver_of(receiver)).collect(),
        attempt,
        made_at_ms,
    };
    receivers.chunks(most).map(slice).collect()
}

fn receiver_of(subscriber: &Subscriber) -> Receiver {
    Receiver(subscriber.connection.clone(), subscriber.user)
}

/// How long to wait before receivers that could not be reached are tried once more.
fn delay(attempt: u32) -> Duration {
    retry::delay(attempt, LONGEST_DELAY, retry::fraction())
}

fn now_ms() -> u64 {
    u64::try_from(OffsetDateTime::now_utc().unix_timestamp_nanos() / 1_000_000).unwrap_or_default()
}

/// Posts slices that were queued.
pub struct SlicePoster {
    connections: Connections,
    queue: FanoutQueue,
}

/// What became of a slice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Posted {
    /// Everybody has it, is gone, or is in a new message.
    Done,
    /// It is older than any connection of its receivers can be.
    Outdated,
    /// Some could not be reached, and the queue has not taken a new message: the slice has to come again as it is.
    Again,
}

impl SlicePoster {
    /// Posts over these connections.
    pub fn new(connections: Connections, sqs: &Sqs, section: &FanoutSection) -> Self {
        Self { connections, queue: FanoutQueue::new(sqs, section) }
    }

    /// Posts a frame to its receivers until the deadline. Whom it could not reach goes back into the queue, with a delay
    /// that grows with every attempt.
    pub async fn post(&self, slice: FanoutSlice, deadline: Instant) -> Posted {
        if is_outdated(&slice, now_ms()) {
            let (receivers, attempt) = (slice.receivers.len(), slice.attempt);
            tracing::warn!(room.id = %slice.room, receivers, attempt, "a frame is older than any connection: it is dropped");
            return Posted::Outdated;
        }
        let FanoutSlice { room, frame, receivers, attempt, made_at_ms } = slice;
        let receivers: Vec<_> =
            receivers.into_iter().map(|Receiver(connection, user)| Subscriber { connection, user }).collect();
        let receivers: Vec<_> = receivers.iter().collect();
        let delivery = self.connections.push(&room, &frame, &receivers, deadline, PATIENCE).await;
        let unreached = delivery.unreached;
        if unreached.is_empty() {
            return Posted::Done;
        }
        let receivers = unreached.into_iter().map(receiver_of).collect();
        let attempt = attempt.saturating_add(1);
        let left = FanoutSlice { room, frame, receivers, attempt, made_at_ms };
        match self.queue.put(std::slice::from_ref(&left), delay(attempt)).await {
            Ok(()) => Posted::Done,
            Err(Refused { receivers, cause }) => {
                tracing::warn!(room.id = %left.room, receivers, cause, "the fan-out queue refused: the slice comes again");
                Posted::Again
            }
        }
    }
}

fn is_outdated(slice: &FanoutSlice, now_ms: u64) -> bool {
    if MOST_ATTEMPTS <= slice.attempt {
        return true;
    }
    slice.made_at_ms.saturating_add(CONNECTION_LIFETIME_SECONDS * 1_000) < now_ms
}

/// The receivers that are not posted to directly for a while. It lives as long as the warm function.
#[derive(Default)]
struct Detours {
    /// Until when.
    until: Mutex<HashMap<ConnectionId, Instant>>,
}

impl Detours {
    fn has(&self, connection: &ConnectionId, now: Instant) -> bool {
        self.until().get(connection).is_some_and(|until| now < *until)
    }

    fn note<'a>(&self, connections: impl IntoIterator<Item = &'a ConnectionId>, now: Instant) {
        let mut detours = self.until();
        for connection in connections {
            if MOST_DETOURS <= detours.len() && !detours.contains_key(connection) {
                detours.retain(|_, until| now < *until);
                if MOST_DETOURS <= detours.len() {
                    return;
                }
            }
            detours.insert(connection.clone(), now + DETOUR);
        }
    }

    fn until(&self) -> MutexGuard<'_, HashMap<ConnectionId, Instant>> {
        // A panic in between leaves a map that is whole: each is put in one step.
        self.until.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::domain::users::UserId;

    fn room() -> RoomId {
        RoomId::parse("general").expect("is a room id")
    }

    fn connection(number: usize) -> ConnectionId {
        ConnectionId::new(&number.to_string())
    }

    #[test]
    fn slices_have_no_more_than_the_most_and_everybody_is_in_one_once() {
        let subscriber =
            |number| Subscriber { connection: connection(number), user: UserId::new(Uuid::from_u128(1)) };
        for (count, most, sizes) in [
            (0, 5, vec![]),
            (1, 5, vec![1]),
            (5, 5, vec![5]),
            (6, 5, vec![5, 1]),
            (12, 5, vec![5, 5, 2]),
            (3, 1, vec![1, 1, 1]),
        ] {
            let all: Vec<Subscriber> = (0..count).map(subscriber).collect();
            let slices = slices(&room(), "frame", &all.iter().collect::<Vec<_>>(), most, 0);
            assert_eq!(slices.iter().map(|slice| slice.receivers.len()).collect::<Vec<_>>(), sizes);
            let sliced: Vec<_> = slices.into_iter().flat_map(|slice| slice.receivers).collect();
            assert_eq!(sliced, all.iter().map(receiver_of).collect::<Vec<_>>());
        }
    }

    #[test]
    fn a_frame_is_worth_posting_as_long_as_a_connection_can_live() {
        let slice = FanoutSlice {
            room: room(),
            frame: String::new(),
            receivers: Vec::new(),
            attempt: 0,
            made_at_ms: 1_795_351_680_000,
        };
        let two_hours_and_ten_minutes_ms = 130 * 60 * 1_000;
        assert!(!is_outdated(&slice, slice.made_at_ms - 1));
        assert!(!is_outdated(&slice, slice.made_at_ms + two_hours_and_ten_minutes_ms));
        assert!(is_outdated(&slice, slice.made_at_ms + two_hours_and_ten_minutes_ms + 1));
    }

    #[test]
    fn who_was_slow_is_posted_to_again_after_a_minute() {
        let (detours, begin) = (Detours::default(), Instant::now());
        detours.note([&connection(1)], begin);
        assert!(!detours.has(&connection(2), begin));
        assert!(detours.has(&connection(1), begin + DETOUR - Duration::from_millis(1)));
        assert!(!detours.has(&connection(1), begin + DETOUR));
    }

    #[test]
    fn no_more_slow_receivers_are_remembered_than_there_is_place_for_and_old_ones_give_way() {
        let (detours, begin) = (Detours::default(), Instant::now());
        let all: Vec<_> = (0..MOST_DETOURS).map(connection).collect();
        detours.note(&all, begin);
        let late = connection(MOST_DETOURS);
        detours.note([&late], begin);
        assert!(!detours.has(&late, begin) && detours.has(&all[0], begin));
        detours.note([&late], begin + DETOUR);
        assert!(detours.has(&late, begin + DETOUR));
        assert_eq!(detours.until().len(), 1, "the old ones are gone");
    }

    #[test]
    fn who_cannot_be_reached_is_tried_after_longer_and_longer_pauses_that_sqs_knows() {
        for attempt in [0, 1, 5, 10, 1_000] {
            let delay = delay(attempt);
            assert!(Duration::from_secs(1) <= delay && delay <= LONGEST_DELAY, "{attempt}: {delay:?}");
        }
        assert!(LONGEST_DELAY / 2 <= delay(20));
    }
}
