//! Telling a room that Redis had forgotten a part of it.

use std::collections::BTreeSet;

use tokio::time::{Instant, timeout_at};

use crate::{
    domain::{
        messages::{ConnectionId, Generation},
        rooms::RoomId,
        users::UserId,
    },
    error::{Error, Result},
    fanout::FanOut,
    postgres::Postgres,
    protocol::frames::Resync,
    redis::{Redis, Subscriber},
};

/// Tells everybody in a room to read again, but for those who may not hear of it any more. Redis remembers that they have
/// to be told until everybody has been or is in the fan-out queue, so a failure costs no more than a delay: the next frame
/// in the room tries again.
pub async fn tell(
    redis: &Redis,
    postgres: &Postgres,
    fan_out: &FanOut,
    room: &RoomId,
    generation: &Generation,
    deadline: Instant,
) {
    tell_those(redis, postgres, fan_out, room, generation, |_| true, deadline).await;
}

/// Tells everybody but one who knows already.
pub async fn tell_others(
    redis: &Redis,
    postgres: &Postgres,
    fan_out: &FanOut,
    room: &RoomId,
    generation: &Generation,
    knows: &ConnectionId,
    deadline: Instant,
) {
    let others = |subscriber: &Subscriber| subscriber.connection != *knows;
    tell_those(redis, postgres, fan_out, room, generation, others, deadline).await;
}

async fn tell_those(
    redis: &Redis,
    postgres: &Postgres,
    fan_out: &FanOut,
    room: &RoomId,
    generation: &Generation,
    to_be_told: impl Fn(&Subscriber) -> bool,
    deadline: Instant,
) {
    tracing::warn!(room.id = %room, generation = generation.as_str(), "Redis has forgotten a part of the room's log");
    let told: Result<()> = async {
        let frame = Resync { room: room.clone(), generation: generation.clone() };
        let frame = serde_json::to_string(&frame).expect("two strings serialise");
        let subscribers = redis.subscribers(room).await?;
        // Chat does not wait for Postgres: should it be away, they are told by a later frame.
        let dismissed = timeout_at(deadline, dismiss_outsiders(redis, postgres, room, subscribers)).await;
        let subscribers = dismissed
            .unwrap_or_else(|elapsed| Err(Error::unavailable("looking who may hear of a room", elapsed)))?;
        let receivers: Vec<_> = subscribers.iter().filter(|subscriber| to_be_told(subscriber)).collect();
        let told = fan_out.tell(room, &frame, &receivers, deadline).await;
        if told.lost == 0 {
            redis.note_told(room, generation).await?;
        }
        Ok(())
    }
    .await;
    if let Err(error) = told {
        tracing::warn!(room.id = %room, cause = error.cause_chain(), "a room could not be told to read again");
    }
}

/// A Redis that went back has subscribers again who were removed since. Nobody else would find out: their connections are
/// known, and a subscription is the proof that they may read.
async fn dismiss_outsiders(
    redis: &Redis,
    postgres: &Postgres,
    room: &RoomId,
    mut subscribers: Vec<Subscriber>,
) -> Result<Vec<Subscriber>> {
    let users: BTreeSet<UserId> = subscribers.iter().map(|subscriber| subscriber.user).collect();
    let users: Vec<UserId> = users.into_iter().collect();
    for outsider in postgres.outsiders(room, &users).await? {
        redis.expel(room, outsider).await?;
        subscribers.retain(|subscriber| subscriber.user != outsider);
    }
    Ok(subscribers)
}
