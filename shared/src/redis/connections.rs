//! Connections: who opened them, whether they may still speak, and which rooms they joined.

use futures::{StreamExt, TryStreamExt, stream};

use super::{CONNECTION_LIFETIME_SECONDS, Call, MOST_ARGUMENTS, Redis, WIDTH, keys, throttle};
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

/// For how long a connection that is gone is remembered as such: no frame is under way longer.
const GONE_SECONDS: u64 = 5 * 60;

/// Whether a frame may be handled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admission {
    /// It may.
    Admitted,
    /// The session of the connection has ended.
    Ended,
    /// Redis does not know the connection: it is gone, or Redis was lost.
    Unknown,
}

impl Redis {
    /// Records a connection that was just opened, or that Redis has forgotten.
    ///
    /// # Errors
    /// [`Error::TooManyConnections`] if the user has `most` already; [`Error::Unauthorized`] if the connection is gone;
    /// [`Error::Unavailable`] if Redis is away.
    pub async fn record_connection(
        &self,
        connection: &ConnectionId,
        identity: &Identity,
        most: usize,
    ) -> Result<()> {
        let call = Call::of(&self.scripts.record_connection, connection_keys(connection, identity.user))
            .arg(connection.as_str())
            .arg(identity.session.to_string())
            .arg(most)
            .arg(CONNECTION_LIFETIME_SECONDS);
        let outcome: String = self.run(call, "recording a connection").await?;
        match outcome.as_str() {
            "full" => Err(Error::TooManyConnections { most }),
            "gone" => Err(Error::Unauthorized("The connection was closed")),
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
        Ok(match outcome.as_str() {
            "unknown" => Admission::Unknown,
            "ended" => Admission::Ended,
            _ => Admission::Admitted,
        })
    }

    /// Whether the connection is known and its session has not ended.
    ///
    /// # Errors
    /// [`Error::Unavailable`] if Redis is away.
    pub async fn is_connected(&self, connection: &ConnectionId, user: UserId) -> Result<bool> {
        let mut command = redis::cmd("HGET");
        command.arg(keys::user_connections(user)).arg(connection.as_str());
        let record: Option<String> = self.link.query(&command, "looking for a connection").await?;
        Ok(record.is_some_and(|record| !record.starts_with('-')))
    }

    /// Marks the connections of sessions that have ended, and answers them: no frame of theirs is admitted any more.
    /// Safe to repeat: they are answered again until they are forgotten.
    ///
    /// # Errors
    /// [`Error::Unavailable`] if Redis is away.
    pub async fn end_sessions(&self, user: UserId, sessions: &[TokenHash]) -> Result<Vec<ConnectionId>> {
        let mut ended = Vec::new();
        for sessions in sessions.chunks(MOST_ARGUMENTS) {
            let sessions: Vec<_> = sessions.iter().map(ToString::to_string).collect();
            let call = Call::of(&self.scripts.end_sessions, [keys::user_connections(user)]).arg(sessions);
            let connections: Vec<String> = self.run(call, "ending sessions").await?;
            ended.extend(connections.iter().map(|connection| ConnectionId::new(connection)));
        }
        Ok(ended)
    }

    /// Notes that a connection is about to join a room. Written before the subscription, and never taken back while the
    /// connection lives, so that the clean-up finds every room.
    pub(super) async fn note_room(&self, connection: &ConnectionId, room: &RoomId) -> Result<()> {
        let key = keys::connection(connection);
        let mut pipeline = redis::pipe();
        pipeline.atomic().sadd(&key, room.as_str()).ignore();
        pipeline.expire(&key, CONNECTION_LIFETIME_SECONDS.cast_signed()).ignore();
        self.link.run_pipeline(&pipeline, "noting a room").await
    }

    /// Forgets a connection that is gone: its subscriptions, and its place in the user's limit. Safe to repeat.
    ///
    /// # Errors
    /// [`Error::Unavailable`] if Redis is away.
    pub async fn forget_connection(&self, connection: &ConnectionId, user: UserId) -> Result<()> {
        const OPERATION: &str = "forgetting a connection";
        // First, so that a join that is under way either is found here or finds out there.
        let call = Call::of(&self.scripts.mark_gone, connection_keys(connection, user));
        let _: u64 = self.run(call.arg(connection.as_str()).arg(GONE_SECONDS), OPERATION).await?;
        let key = keys::connection(connection);
        let rooms: Vec<String> = self.link.query(redis::cmd("SMEMBERS").arg(&key), OPERATION).await?;
        stream::iter(rooms.into_iter().map(RoomId::from_store))
            .map(|room| self.leave_owned(room, connection))
            .buffer_unordered(WIDTH)
            .try_collect::<()>()
            .await?;
        // Last, so that a repeat after a failure still finds the rooms, and the connections of an ended session.
        let _: u64 = self.link.query(redis::cmd("DEL").arg(&key), OPERATION).await?;
        let mut command = redis::cmd("HDEL");
        command.arg(keys::user_connections(user)).arg(connection.as_str());
        let _: u64 = self.link.query(&command, OPERATION).await?;
        Ok(())
    }
}

fn connection_keys(connection: &ConnectionId, user: UserId) -> [String; 2] {
    [keys::user_connections(user), keys::user_gone(user, connection)]
}
