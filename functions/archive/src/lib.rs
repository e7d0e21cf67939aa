//! Writes acknowledged events to Postgres, and finds out whether Redis still has what it should.
//!
//! What is stored is then compared with the room's log: where readers cannot have found an event, Redis has forgotten
//! something, and they are told to read again. Records are done only after that, so whatever is cut off half-way is done
//! by a repeat. This function alone trims the logs.

mod trim;

use std::{collections::BTreeSet, time::Duration};

use futures::{StreamExt, stream};
use lambda::{
    Fatal,
    access::Access,
    queue::{Batch, Failures, Record},
};
use shared::{
    Error, Result,
    configuration::{
        ArchiveQueueSection, DeadLetterSection, Environment, FanoutSection, HistorySection, PostgresSection,
        PushSection, RedisSection,
    },
    domain::rooms::RoomId,
    fanout::FanOut,
    postgres::{Arrival, Postgres, Stored, StoredRoom, is_refusal},
    protocol::queue::ArchiveRecord,
    push::Connections,
    queue::{ArchiveQueue, DeadLetterQueue, Postponed, Sqs},
    redis::{Redis, Settled},
    resync,
};
use time::OffsetDateTime;
use tokio::time::Instant;

/// How many rooms of a batch are compared side by side.
const WIDTH: usize = 8;
/// For so long after the beginning of a call rooms are begun. The rest of the function's 30 s is for those that are under way
/// then while Redis or Postgres hangs: a call that is killed tells nobody what it has done, and all of it comes again.
const BUDGET: Duration = Duration::from_secs(8);
/// For so long subscribers are told directly to read again. Whoever is not reached is told through the fan-out queue.
const RESYNC_BUDGET: Duration = Duration::from_secs(2);

/// What the function needs, built once.
pub struct App {
    postgres: Postgres,
    redis: Redis,
    fan_out: FanOut,
    queue: ArchiveQueue,
    dead_letters: DeadLetterQueue,
    hot: usize,
}

impl App {
    /// Reads the configuration.
    ///
    /// # Errors
    /// A variable is absent or bad.
    pub async fn from_env(environment: &Environment) -> Result<Self, Fatal> {
        let redis = Redis::new(&environment.section::<RedisSection>()?)?;
        let connections = Connections::new(redis.clone(), &environment.section::<PushSection>()?).await;
        let sqs = Sqs::new().await;
        Ok(Self {
            postgres: Postgres::new(&environment.section::<PostgresSection>()?),
            redis,
            fan_out: FanOut::new(connections, &sqs, &environment.section::<FanoutSection>()?),
            queue: ArchiveQueue::new(&sqs, &environment.section::<ArchiveQueueSection>()?),
            dead_letters: DeadLetterQueue::new(&sqs, &environment.section::<DeadLetterSection>()?),
            hot: environment.section::<HistorySection>()?.hot,
        })
    }
}

/// A queue message that was read.
struct Arrived<'a> {
    message: &'a Record,
    arrival: Arrival,
}

/// Stores a batch. What could not be done now comes again, later with every time that it came; what can never be done is
/// put aside as a dead letter.
pub async fn handle(app: &App, batch: Batch, access: &mut Access) -> Failures {
    let deadline = Instant::now() + BUDGET;
    let (arrived, mut failed) = read(app, &batch, access).await;
    failed.extend(store(app, &arrived, deadline, access).await);
    let failed: Vec<&Record> = batch.iter().filter(|message| failed.contains(message.id.as_str())).collect();
    // A batch that is done well needs no request more.
    if !failed.is_empty() {
        let postponed =
            failed.iter().map(|message| Postponed { receipt: &message.receipt, receives: message.receives });
        app.queue.postpone(&postponed.collect::<Vec<_>>()).await;
    }
    failed.into_iter().collect()
}

/// The ids of messages that have to come again.
type Again<'a> = BTreeSet<&'a str>;

async fn read<'a>(app: &App, batch: &'a Batch, access: &Access) -> (Vec<Arrived<'a>>, Again<'a>) {
    let (mut arrived, mut again) = (Vec::new(), Again::new());
    let now = OffsetDateTime::now_utc();
    for message in batch {
        let record = ArchiveRecord::parse(&message.body).map_err(|unreadable| unreadable.to_string());
        let checked = record.and_then(|record| match record.check(now) {
            Ok(()) => Ok(record),
            Err(reason) => Err(reason.to_owned()),
        });
        match checked {
            Ok(record) => {
                arrived.push(Arrived { message, arrival: Arrival { record, again: 1 < message.receives } })
            }
            Err(reason) => again.extend(bury(app, message, &reason, access).await),
        }
    }
    (arrived, again)
}

/// Puts a message aside that can never be stored. Answers it if it cannot be put aside now.
async fn bury<'a>(app: &App, message: &'a Record, reason: &str, access: &Access) -> Option<&'a str> {
    let buried = app.dead_letters.put(&message.id, &message.body, reason).await;
    buried.inspect_err(|error| access.log_cause(error)).is_err().then_some(&message.id)
}

async fn store<'a>(app: &App, arrived: &[Arrived<'a>], deadline: Instant, access: &Access) -> Again<'a> {
    if arrived.is_empty() {
        return Again::new();
    }
    let arrivals: Vec<Arrival> = arrived.iter().map(|arrived| arrived.arrival.clone()).collect();
    match app.postgres.store(&arrivals).await {
        Ok(stored) => settle(app, arrived, stored, deadline, access).await,
        // Something in the batch is not to Postgres' liking: one half has it, or both.
        Err(error) if is_refusal(&error) && 1 < arrived.len() => {
            let (first, second) = arrived.split_at(arrived.len() / 2);
            let mut again = Box::pin(store(app, first, deadline, access)).await;
            again.extend(Box::pin(store(app, second, deadline, access)).await);
            again
        }
        Err(error) if is_refusal(&error) => {
            access.log_cause(&error);
            // More than one was split above.
            let one = arrived[0].message;
            bury(app, one, "Postgres refused it", access).await.into_iter().collect()
        }
        // Whatever else it is, it is nothing that the records can be blamed for: it may pass, or be mended.
        Err(error) => {
            access.log_cause(&error);
            arrived.iter().map(|arrived| arrived.message.id.as_str()).collect()
        }
    }
}

/// Looks into the logs of the rooms.
async fn settle<'a>(
    app: &App,
    arrived: &[Arrived<'a>],
    stored: Stored,
    deadline: Instant,
    access: &Access,
) -> Again<'a> {
    let mut again = Again::new();
    for index in stored.homeless {
        again.extend(bury(app, arrived[index].message, "there is no such room", access).await);
    }
    let rooms = stream::iter(stored.rooms).map(|(room, stored)| async move {
        let settled = match Instant::now() < deadline {
            true => settle_room(app, &room, &stored).await,
            false => Err(Error::unavailable("comparing a room", "others have taken too long")),
        };
        (room, settled)
    });
    for (room, settled) in rooms.buffer_unordered(WIDTH).collect::<Vec<_>>().await {
        let waits = settled.inspect_err(|error| access.log_cause(error)).unwrap_or(true);
        let of_room = arrived.iter().filter(|arrived| waits && arrived.arrival.record.room == room);
        again.extend(of_room.map(|arrived| arrived.message.id.as_str()));
    }
    again
}

/// Answers whether the room's events have to come again.
async fn settle_room(app: &App, room: &RoomId, stored: &StoredRoom) -> Result<bool> {
    let Compared { length, waits } = compare(app, room, stored).await?;
    // A tenth more than hot is soon said to be about as much, and not every batch has to trim.
    if app.hot + app.hot.div_ceil(10) < length
        && let Err(error) = trim::trim(app, room, length - app.hot).await
    {
        // The records are done all the same, and the next batch trims.
        tracing::warn!(room.id = %room, cause = error.cause_chain(), "a log could not be trimmed");
    }
    Ok(waits)
}

/// What is to be done after a comparison.
struct Compared {
    /// How many entries the log has.
    length: usize,
    /// Some events have to come again.
    waits: bool,
}

/// Compares what was stored with the log, and tells its readers what came of it.
async fn compare(app: &App, room: &RoomId, stored: &StoredRoom) -> Result<Compared> {
    match app.redis.settle(room, stored).await? {
        Settled::Agrees { length, waits } => Ok(Compared { length, waits }),
        Settled::Absent { generations } => {
            if stored.known.generations < generations {
                app.postgres.remember(room, generations).await?;
            }
            Ok(Compared { length: 0, waits: false })
        }
        Settled::Begun { length, waits, generation, generations } => {
            // First, for Redis may forget it again.
            app.postgres.remember(room, generations).await?;
            resync::tell(
                &app.redis,
                &app.postgres,
                &app.fan_out,
                room,
                &generation,
                Instant::now() + RESYNC_BUDGET,
            )
            .await;
            Ok(Compared { length, waits })
        }
    }
}
