//! Keeping the logs short.

use std::time::Duration;

use shared::{
    Result,
    domain::{
        messages::{EventId, Position},
        rooms::RoomId,
    },
    postgres::{Arrival, Settlement},
    redis::Entry,
};
use time::OffsetDateTime;

use crate::{App, compare};

/// How many entries are looked at in one go: Redis serves others in between.
const AT_ONCE: usize = 100;
/// What is not in Postgres and younger is perhaps still in the queue, which keeps messages for 14 days. It is left there:
/// stored from here it would be missed in the log when its record comes. What is older was never queued, for its function
/// died before that and nobody repeated it.
const QUEUE_RETENTION: Duration = Duration::from_secs(14 * 24 * 60 * 60);

/// Takes the oldest entries out of a room's log, so many or somewhat less: only what Postgres has at just that place.
pub(crate) async fn trim(app: &App, room: &RoomId, surplus: usize) -> Result<()> {
    let mut left = surplus;
    while 0 < left {
        let oldest = app.redis.oldest(room, left.min(AT_ONCE)).await?;
        let removable = removable(app, room, oldest).await?;
        let trimmed = app.redis.trim(room, &removable).await?;
        // All that is left at the beginning is not in Postgres yet.
        if trimmed == 0 {
            break;
        }
        left = left.saturating_sub(trimmed);
    }
    Ok(())
}

async fn removable(app: &App, room: &RoomId, oldest: Vec<Entry>) -> Result<Vec<(Position, EventId)>> {
    let mut places = Vec::with_capacity(oldest.len());
    let mut abandoned = Vec::new();
    for entry in oldest {
        match entry {
            Entry::Event(record) => {
                places.push((record.position, record.event.event));
                if record.position.at() + QUEUE_RETENTION < OffsetDateTime::now_utc() {
                    abandoned.push(Arrival { record, again: false });
                }
            }
            // A newer release wrote it, which will trim it.
            Entry::Unreadable(position) => {
                tracing::warn!(room.id = %room, %position, "an entry cannot be read, and stays in the log");
            }
        }
    }
    if !abandoned.is_empty() {
        let stored = app.postgres.store(&abandoned).await?;
        for (room, stored) in &stored.rooms {
            if stored.events.iter().any(is_news) {
                compare(app, room, stored).await?;
            }
        }
    }
    app.postgres.stored_at(room, &places).await
}

/// Whether readers may have to be told.
fn is_news(event: &Settlement) -> bool {
    event.unsettled
        || event.stored != event.logged
        || event.places.iter().any(|place| *place != event.position)
}
