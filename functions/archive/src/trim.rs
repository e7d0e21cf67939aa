//! Keeping the logs short.

use std::time::Duration;

use shared::{
    Result,
    domain::{
        messages::{EventId, Position},
        rooms::RoomId,
    },
    postgres::{Arrival, SETTLED_AFTER, Settlement},
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

/// How many entries one call looks at. A log that is much too long is the next calls' work as well.
const MOST: usize = 2_000;

/// Takes the oldest entries out of a room's log, so many or fewer: only what Postgres has at just that place.
pub(crate) async fn trim(app: &App, room: &RoomId, surplus: usize) -> Result<()> {
    let (mut left, mut after) = (surplus.min(MOST), Position::BEGINNING);
    while 0 < left {
        let oldest = app.redis.oldest(room, after, left.min(AT_ONCE)).await?;
        let Some(last) = oldest.last() else { break };
        // What has to stay is passed over, and what comes behind one that is too young is younger.
        after = last.position();
        let is_last = OffsetDateTime::now_utc() - SETTLED_AFTER < after.at();
        left = if is_last { 0 } else { left.saturating_sub(oldest.len()) };
        let removable = removable(app, room, oldest).await?;
        app.redis.trim(room, &removable).await?;
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
                if record.position.at() < OffsetDateTime::now_utc() - QUEUE_RETENTION {
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
