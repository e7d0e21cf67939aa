//! Posting to connections through the API Gateway management API, and forgetting those that are gone.

use std::time::Duration;

use aws_sdk_apigatewaymanagement::{
    Client,
    config::{retry::RetryConfig, timeout::TimeoutConfig},
    operation::{delete_connection::DeleteConnectionError, post_to_connection::PostToConnectionError},
    primitives::Blob,
};
use futures::{StreamExt, TryStreamExt, future::join, stream};
use tokio::time::{Instant, timeout};

use crate::{
    configuration::PushSection,
    domain::{messages::ConnectionId, rooms::RoomId, users::UserId},
    error::{Error, Result},
    redis::{Redis, Subscriber},
    retry::{Backoff, chain, passes},
    token::TokenHash,
};

/// How many posts are under way at once: enough to hide a round trip of some milliseconds, few enough for a small
/// function's memory and for the account's limit of requests.
const WIDTH: usize = 64;
/// Without a limit of our own a post can hang for minutes: the SDK has none.
const ATTEMPT_TIMEOUT: Duration = Duration::from_millis(1_000);
/// The first pause before a retry; each further one may be twice as long, up to the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_millis(320);
/// How long the forgetting of connections that are gone may take. It is for the next frame's sake, not for this one's.
const FORGET_BUDGET: Duration = Duration::from_secs(2);

/// The open connections, and how to reach them. One for the life of a function: it keeps its HTTP connections.
#[derive(Clone)]
pub struct Connections {
    client: Client,
    redis: Redis,
    budget: Duration,
}

/// What became of a frame that was posted to many.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Delivery<'a> {
    /// The gateway has taken it for so many connections.
    pub delivered: usize,
    /// So many connections are gone, and forgotten.
    pub gone: usize,
    /// These have kept the others waiting: they took more than half of the budget, reached or not.
    pub slow: Vec<&'a Subscriber>,
    /// These could not be reached in time, and may be later.
    pub unreached: Vec<&'a Subscriber>,
}

/// What became of one try.
enum Attempt<T> {
    Done(T),
    /// 429, 5xx, a time-out: with the reason, for the log.
    Again(String),
}

/// What became of one post.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Post {
    Delivered,
    Gone,
    Unreached,
}

impl Connections {
    /// Prepares the client; nothing is sent yet.
    pub async fn new(redis: Redis, section: &PushSection) -> Self {
        let config = aws_config::load_defaults(aws_config::BehaviorVersion::latest()).await;
        let timeouts = TimeoutConfig::builder()
            .connect_timeout(ATTEMPT_TIMEOUT)
            .operation_attempt_timeout(ATTEMPT_TIMEOUT)
            .build();
        let config = aws_sdk_apigatewaymanagement::config::Builder::from(&config)
            .endpoint_url(&section.connections_url)
            .timeout_config(timeouts)
            // Retries are ours: they stop with the budget, and what is gone is not tried again.
            .retry_config(RetryConfig::disabled())
            .build();
        Self { client: Client::from_conf(config), redis, budget: section.budget }
    }

    /// Until when pushes may delay the answer to an event that came now.
    pub fn deadline(&self) -> Instant {
        Instant::now() + self.budget
    }

    /// Posts one frame to many connections, side by side. Returns when each has it, is gone, has used up the patience that
    /// there is for one, or the deadline has come for all; those that are gone are forgotten by then.
    pub async fn push<'a>(
        &self,
        room: &RoomId,
        frame: &str,
        receivers: &[&'a Subscriber],
        deadline: Instant,
        patience: Duration,
    ) -> Delivery<'a> {
        let slow_from = self.budget / 2;
        let posts = stream::iter(receivers).map(async |receiver: &&'a Subscriber| {
            let begin = Instant::now();
            let post = self.post(&receiver.connection, frame, deadline.min(begin + patience)).await;
            // Whose turn did not come before the deadline has kept nobody waiting.
            (*receiver, post, slow_from < begin.elapsed())
        });
        let mut delivery = Delivery::default();
        let mut gone = Vec::new();
        let mut posts = posts.buffer_unordered(WIDTH);
        while let Some((receiver, post, slow)) = posts.next().await {
            match post {
                Post::Delivered => delivery.delivered += 1,
                Post::Gone => gone.push(receiver),
                Post::Unreached => delivery.unreached.push(receiver),
            }
            if slow && post != Post::Gone {
                delivery.slow.push(receiver);
            }
        }
        delivery.gone = gone.len();
        self.forget_gone(room, &gone).await;
        delivery
    }

    /// Forgets and closes the connections of sessions that have ended in Postgres. Safe to repeat: what an earlier try did
    /// not get to is found again. A connection that cannot be closed now is mute and deaf all the same.
    ///
    /// # Errors
    /// [`crate::Error::Unavailable`] if Redis is away: then the connections may go on, and the call must be repeated.
    pub async fn end_sessions(&self, user: UserId, sessions: &[TokenHash]) -> Result<()> {
        let connections = self.redis.end_sessions(user, sessions).await?;
        stream::iter(connections)
            .map(|connection| self.forget_and_close(connection, user))
            .buffer_unordered(WIDTH)
            .try_collect()
            .await
    }

    /// Closes a connection whose session has ended, with a last frame that says why. The frame cannot be the reply to
    /// what the client sent: that is delivered after the function's answer, when the connection is closed.
    ///
    /// # Errors
    /// [`crate::Error::Unavailable`] if Redis is away.
    pub async fn dismiss(&self, connection: &ConnectionId, user: UserId, frame: &str) -> Result<()> {
        self.post(connection, frame, self.deadline()).await;
        self.forget_and_close(connection.clone(), user).await
    }

    async fn forget_and_close(&self, connection: ConnectionId, user: UserId) -> Result<()> {
        let (forgotten, ()) =
            join(self.redis.forget_connection(&connection, user), self.close(&connection)).await;
        forgotten
    }

    async fn post(&self, connection: &ConnectionId, frame: &str, deadline: Instant) -> Post {
        let attempt = || async {
            let post = self.client.post_to_connection().connection_id(connection.as_str());
            let posted = post.data(Blob::new(frame.as_bytes())).send().await;
            let Err(error) = posted else { return Attempt::Done(Post::Delivered) };
            if error.as_service_error().is_some_and(PostToConnectionError::is_gone_exception) {
                return Attempt::Done(Post::Gone);
            }
            if passes(error.raw_response()) {
                return Attempt::Again(chain(&error));
            }
            tracing::error!(connection.id = %connection, cause = chain(&error), "a post was refused, and not as what passes");
            Attempt::Done(Post::Unreached)
        };
        repeat_until(deadline, connection, attempt).await.unwrap_or(Post::Unreached)
    }

    async fn close(&self, connection: &ConnectionId) {
        let attempt = || async {
            let close = self.client.delete_connection().connection_id(connection.as_str()).send().await;
            match close {
                Ok(_) => Attempt::Done(()),
                Err(error)
                    if error.as_service_error().is_some_and(DeleteConnectionError::is_gone_exception) =>
                {
                    Attempt::Done(())
                }
                Err(error) if passes(error.raw_response()) => Attempt::Again(chain(&error)),
                Err(error) => {
                    tracing::error!(connection.id = %connection, cause = chain(&error), "a close was refused for good");
                    Attempt::Done(())
                }
            }
        };
        if repeat_until(self.deadline(), connection, attempt).await.is_none() {
            tracing::warn!(connection.id = %connection, "a connection could not be closed in time");
        }
    }

    /// What is gone costs every message of the room a post until it is forgotten.
    async fn forget_gone(&self, room: &RoomId, gone: &[&Subscriber]) {
        if gone.is_empty() {
            return;
        }
        let connections: Vec<_> = gone.iter().map(|subscriber| subscriber.connection.clone()).collect();
        let forget = async {
            self.redis.unsubscribe(room, &connections).await?;
            stream::iter(gone)
                .map(|subscriber| self.redis.forget_connection(&subscriber.connection, subscriber.user))
                .buffer_unordered(WIDTH)
                .try_collect::<()>()
                .await
        };
        let forgotten = timeout(FORGET_BUDGET, forget).await;
        let forgotten =
            forgotten.unwrap_or_else(|elapsed| Err(Error::unavailable("forgetting connections", elapsed)));
        if let Err(error) = forgotten {
            // The next message of the room finds them again.
            tracing::warn!(room.id = %room, cause = error.cause_chain(), "connections that are gone could not be forgotten");
        }
    }
}

/// Tries until it is done; none when the deadline comes first. No try is begun after it.
async fn repeat_until<T, F: Future<Output = Attempt<T>>>(
    deadline: Instant,
    connection: &ConnectionId,
    attempt: impl Fn() -> F,
) -> Option<T> {
    let mut backoff = Backoff::until(deadline, FIRST_PAUSE, LONGEST_PAUSE);
    if deadline <= Instant::now() {
        return None;
    }
    loop {
        match tokio::time::timeout_at(deadline, attempt()).await.ok()? {
            Attempt::Done(outcome) => return Some(outcome),
            Attempt::Again(cause) => {
                tracing::debug!(connection.id = %connection, cause, "the management API refused")
            }
        }
        if !backoff.pause().await {
            return None;
        }
    }
}
