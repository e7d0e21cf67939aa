//! Posts what the other functions do not post by themselves: frames for rooms with many subscribers, in slices, and frames
//! for connections that could not be reached at once.

use std::time::Duration;

use futures::future::join_all;
use lambda::{
    Fatal,
    queue::{Batch, Failures, Record},
};
use shared::{
    configuration::{Environment, FanoutSection, PushSection, RedisSection},
    fanout::{Posted, SlicePoster},
    protocol::queue::FanoutSlice,
    push::Connections,
    queue::Sqs,
    redis::Redis,
};
use tokio::time::Instant;

/// How long posts may take. What is left of the function's 15 s is for putting back whom they did not reach, and for
/// forgetting who is gone.
const BUDGET: Duration = Duration::from_secs(8);

/// What the function needs, built once.
pub struct App {
    poster: SlicePoster,
}

impl App {
    /// Reads the configuration.
    ///
    /// # Errors
    /// A variable is absent or bad.
    pub async fn from_env(environment: &Environment) -> Result<Self, Fatal> {
        let redis = Redis::new(&environment.section::<RedisSection>()?)?;
        let connections = Connections::new(redis, &environment.section::<PushSection>()?).await;
        let section = environment.section::<FanoutSection>()?;
        Ok(Self { poster: SlicePoster::new(connections, &Sqs::new().await, &section) })
    }
}

/// Posts slices, side by side. One that cannot be read comes again until the queue puts it aside.
pub async fn handle(app: &App, batch: Batch) -> Failures {
    let deadline = Instant::now() + BUDGET;
    let posts = join_all(batch.iter().map(|record| post(app, record, deadline))).await;
    batch.iter().zip(posts).filter(|(_, posted)| *posted == Posted::Again).map(|(record, _)| record).collect()
}

async fn post(app: &App, record: &Record, deadline: Instant) -> Posted {
    match FanoutSlice::parse(&record.body) {
        Ok(slice) => app.poster.post(slice, deadline).await,
        Err(unreadable) => {
            tracing::error!(message.id = record.id, receives = record.receives, cause = %unreadable, "a slice cannot be posted");
            Posted::Again
        }
    }
}
