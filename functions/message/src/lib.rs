//! `$default`: every frame that a client sends.
//!
//! A frame is parsed, admitted (is this connection still known, is there room in its throttle), done, and replied to.
//! A send costs two round trips to Redis, whatever the room's size: `admit` and `post`; then the queue on the way to
//! Postgres takes the event while it is pushed. Postgres itself is asked by `join` only, and for connections that Redis
//! has forgotten.

mod actions;
mod frame;
mod subscribers;

use std::{num::NonZeroU32, time::Duration};

use lambda::{
    Fatal,
    access::Access,
    websocket::{Answer, Event},
};
use shared::{
    Error, Result,
    configuration::{
        ArchiveQueueSection, Environment, FanoutSection, PostgresSection, PushSection, RedisSection,
        SessionSection, WebsocketThrottleSection,
    },
    domain::{messages::ConnectionId, rates::Rates},
    fanout::FanOut,
    identity::Identity,
    postgres::Postgres,
    protocol::{
        Failure,
        frames::{Referenced, Reply},
    },
    push::Connections,
    queue::{ArchiveQueue, Sqs},
    redis::{Admission, Redis},
};

use tokio::time::timeout;

use actions::Action;
use frame::Frame;
use subscribers::SubscriberCache;

/// How much wider the window is of the actions that are neither logged nor pushed.
const OTHERS_FACTOR: NonZeroU32 = NonZeroU32::new(10).expect("ten is not zero");

/// So long a frame is worked on. The function would be killed after 25 s, and the gateway's error says less than ours.
const LONGEST: Duration = Duration::from_secs(20);

/// More connections than one user can have.
const NO_LIMIT: usize = 1_000_000;

/// What the function needs, built once.
pub struct App {
    postgres: Postgres,
    redis: Redis,
    connections: Connections,
    fan_out: FanOut,
    archive: ArchiveQueue,
    subscribers: SubscriberCache,
    session_lifetime: Duration,
    logged_rates: Rates,
    other_rates: Rates,
}

impl App {
    /// Reads the configuration.
    ///
    /// # Errors
    /// A variable is absent or bad.
    pub async fn from_env(environment: &Environment) -> Result<Self, Fatal> {
        let redis = Redis::new(&environment.section::<RedisSection>()?)?;
        let rates = environment.section::<WebsocketThrottleSection>()?.rates;
        let postgres = Postgres::new(&environment.section::<PostgresSection>()?);
        let connections = Connections::new(redis.clone(), &environment.section::<PushSection>()?).await;
        let session_lifetime = environment.section::<SessionSection>()?.lifetime;
        let sqs = Sqs::new().await;
        Ok(Self {
            postgres,
            redis,
            fan_out: FanOut::new(connections.clone(), &sqs, &environment.section::<FanoutSection>()?),
            connections,
            archive: ArchiveQueue::new(&sqs, &environment.section::<ArchiveQueueSection>()?),
            subscribers: SubscriberCache::default(),
            session_lifetime,
            other_rates: rates.widened(OTHERS_FACTOR),
            logged_rates: rates,
        })
    }
}

/// Who sent a frame, from where, and under which id the log holds it.
struct Speaker {
    identity: Identity,
    connection: ConnectionId,
    request_id: String,
}

/// Handles one frame and replies to it. A bad frame is replied to like any other: it never closes the connection.
pub async fn handle(app: &App, event: Event, access: &mut Access) -> Answer {
    let Frame { reference, action } = Frame::parse(event.body.as_bytes());
    if let Ok(action) = &action {
        access.action = Some(action.name());
        access.room = action.room().map(ToString::to_string);
    }
    let Some(identity) = event.identity else {
        // The template has an authorizer on $connect; without one nobody may speak.
        let failure = Failure::new(&Error::no_session(), &event.request_id);
        return Answer::reply(Referenced { reply: Reply::Error(failure), reference });
    };
    let speaker = Speaker { identity, connection: event.connection, request_id: event.request_id };
    let replied = timeout(LONGEST, reply(app, &speaker, action)).await;
    match replied.unwrap_or_else(|elapsed| Err(Error::unavailable("handling a frame", elapsed))) {
        Ok(reply) => Answer::reply(Referenced { reply, reference }),
        Err(error) => {
            access.log_cause(&error);
            let failure = Reply::Error(Failure::new(&error, &speaker.request_id));
            let answer = Referenced { reply: failure, reference };
            if matches!(error, Error::Unauthorized(_)) {
                dismiss(app, &speaker, &answer, &error).await
            } else {
                Answer::reply(answer)
            }
        }
    }
}

async fn reply(app: &App, speaker: &Speaker, action: Result<Action>) -> Result<Reply> {
    // What cannot be parsed is counted too: nonsense is no way around the throttle.
    admit(app, speaker, action.as_ref().ok()).await?;
    action?.apply(app, speaker).await
}

/// Closes the connection of a session that has ended, and tells the client why.
async fn dismiss(app: &App, speaker: &Speaker, farewell: &Referenced, error: &Error) -> Answer {
    let frame = serde_json::to_string(farewell).expect("a reply serialises");
    if let Err(error) = app.connections.dismiss(&speaker.connection, speaker.identity.user, &frame).await {
        tracing::warn!(connection.id = %speaker.connection, cause = error.cause_chain(), "a connection could not be forgotten");
    }
    Answer::closed(error)
}

async fn admit(app: &App, speaker: &Speaker, action: Option<&Action>) -> Result<()> {
    let mut admission = count(app, speaker, action).await?;
    if admission == Admission::Unknown {
        recall(app, speaker).await?;
        admission = count(app, speaker, action).await?;
    }
    match admission {
        Admission::Admitted => Ok(()),
        // Unknown again: the connection was forgotten at this very moment.
        Admission::Ended | Admission::Unknown => Err(Error::session_ended()),
    }
}

async fn count(app: &App, speaker: &Speaker, action: Option<&Action>) -> Result<Admission> {
    let Speaker { identity, connection, .. } = speaker;
    match action {
        Some(Action::Send(send)) => {
            let repeatable = send.repeatable(identity.user);
            app.redis.admit(connection, identity.user, "logged", &app.logged_rates, repeatable).await
        }
        _ => app.redis.admit(connection, identity.user, "other", &app.other_rates, None).await,
    }
}

/// Redis does not know the connection: either its session has ended, or Redis was lost. Postgres knows which.
///
/// It is asked before the connection is recorded, so that no other frame gets in for a session that has ended, and once
/// more after it: whoever ends the session meanwhile either sees the record or has ended it in Postgres already. A
/// connection that was closed is not recorded again: this may be the last of its frames.
async fn recall(app: &App, speaker: &Speaker) -> Result<()> {
    let Speaker { identity, connection, .. } = speaker;
    check_session(app, speaker).await?;
    // The limit was kept when the connection was opened; Redis losing its data is no reason to close anybody's.
    app.redis.record_connection(connection, identity, NO_LIMIT).await?;
    if let Err(error) = check_session(app, speaker).await {
        app.redis.forget_connection(connection, identity.user).await?;
        return Err(error);
    }
    Ok(())
}

async fn check_session(app: &App, speaker: &Speaker) -> Result<()> {
    let session = app.postgres.session(&speaker.identity.session, app.session_lifetime).await?;
    session.map(|_| ()).ok_or(Error::session_ended())
}
