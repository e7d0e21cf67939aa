//! Connections: who opened them, whether they may still speak, and which rooms they joined.

use futures::future::try_join_all;

use super::{CONNECTION_LIFETIME_SECONDS, Call, Redis, keys, throttle};
use crate::{
    domain::{
        messages::{ConnectionId, EventId},
        rates::Rates,
        rooms::RoomId,
        users::UserId,
    },
    error::{Error, Result},
    identity::Identity,
    token::TokenHash,
};

/// A repeated send passes the throttle uncounted this often …
const UNCOUNTED_REPEATS: u32 = 5;
/// … within this time.
const UNCOUNTED_SECONDS: u32 = 2 * 60;

/// Whether a frame may be handled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admission {
    /// It may.
    Admitted,
    /// Redis does not know the connection: its session has ended, or Redis was lost.
    Unknown,
}

impl Redis {
    /// Records a connection that was just opened, or that Redis has forgotten.
    ///
    /// # Errors
    /// [`Error::Throttled`] if the user has `most` connections already; [`Error::Unavailable`] if Redis is away.
    pub async fn record_connection(
        &self,
        connection: &ConnectionId,
        identity: &Identity,
        most: usize,
    ) -> Result<()> {
        let call = Call::of(&self.scripts.record_connection, [keys::user_connections(identity.user)])
            .arg(connection.as_str())
            .arg(identity.session.to_string())
            .arg(most)
            .arg(CONNECTION_LIFETIME_SECONDS);
        match self.run(call, "recording a connection").await? {
            0_u64 => Err(Error::TooManyConnections { most }),
            _ => Ok(()),
        }
    }

    /// Asks whether a frame of this connection may be handled, and counts it. `repeatable` is the event that the frame
    /// would make, if the client can repeat it: repeats pass uncounted.
    ///
    /// # Errors
    /// [`Error::Throttled`] with the exact time to wait; [`Error::Unavailable`] if Redis is away.
    pub async fn admit(
        &self,
        connection: &ConnectionId,
        user: UserId,
        kind: &'static str,
        rates: &Rates,
        repeatable: Option<EventId>,
    ) -> Result<Admission> {
        let fixed = [keys::user_connections(user), keys::user_admitted(user, repeatable)];
        let windows = rates.iter().map(|rate| keys::user_throttle(user, kind, rate));
        let call = Call::of(&self.scripts.admit, fixed.into_iter().chain(windows))
            .arg(connection.as_str())
            .arg(u8::from(repeatable.is_some()))
            .arg(UNCOUNTED_REPEATS)
            .arg(UNCOUNTED_SECONDS);
        let (outcome, wait_us): (String, u64) =
            self.run(throttle::limits(call, rates), "admitting a frame").await?;
        throttle::refuse(wait_us)?;
        Ok(if outcome == "unknown" { Admission::Unknown } else { Admission::Admitted })
    }

    /// Forgets the connections of sessions that have ended, and answers them: no frame of theirs is admitted any more.
    ///
    /// # Errors
    /// [`Error::Unavailable`] if Redis is away.
    pub async fn end_sessions(&self, user: UserId, sessions: &[TokenHash]) -> Result<Vec<ConnectionId>> {
        let sessions: Vec<_> = sessions.iter().map(ToString::to_string).collect();
        let call = Call::of(&self.scripts.end_sessions, [keys::user_connections(user)]).arg(sessions);
        let connections: Vec<String> = self.run(call, "ending sessions").await?;
        Ok(connections.iter().map(|connection| ConnectionId::new(connection)).collect())
    }

    /// Notes that a connection is about to join a room. Written before the subscription, so that the clean-up never
    /// misses one.
    pub(super) async fn note_room(&self, connection: &ConnectionId, room: &RoomId) -> Result<()> {
        let key = keys::connection(connection);
        let mut pipeline = redis::pipe();
        pipeline.atomic().sadd(&key, room.as_str()).ignore();
        pipeline.expire(&key, CONNECTION_LIFETIME_SECONDS.cast_signed()).ignore();
        self.link.run_pipeline(&pipeline, "noting a room").await
    }

    pub(super) async fn forget_room(&self, connection: &ConnectionId, room: &RoomId) -> Result<()> {
        let mut command = redis::cmd("SREM");
        command.arg(keys::connection(connection)).arg(room.as_str());
        self.link.query(&command, "forgetting a room").await
    }

    /// Forgets a connection that is gone: its subscriptions, and its place in the user's limit. Safe to repeat.
    ///
    /// # Errors
    /// [`Error::Unavailable`] if Redis is away.
    pub async fn forget_connection(&self, connection: &ConnectionId, user: UserId) -> Result<()> {
        const OPERATION: &str = "forgetting a connection";
        let key = keys::connection(connection);
        let rooms: Vec<String> = self.link.query(redis::cmd("SMEMBERS").arg(&key), OPERATION).await?;
        let rooms: Vec<_> = rooms.into_iter().map(RoomId::from_store).collect();
        try_join_all(rooms.iter().map(|room| self.unsubscribe(room, std::slice::from_ref(connection))))
            .await?;
        // Last, so that a repeat after a failure still finds the rooms.
        let _: u64 = self.link.query(redis::cmd("DEL").arg(&key), OPERATION).await?;
        let mut command = redis::cmd("HDEL");
        command.arg(keys::user_connections(user)).arg(connection.as_str());
        let _: u64 = self.link.query(&command, OPERATION).await?;
        Ok(())
    }
}
