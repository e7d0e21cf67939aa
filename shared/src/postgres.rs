//! Postgres: users, sessions, rooms, members, messages. All the SQL.
//!
//! Uniqueness and references are the database's to enforce; what it refuses is recognised by the name of the constraint.
//! Nothing that a sender waits for is here.

mod link;
mod members;
mod messages;
mod rooms;
mod sessions;
mod users;

pub use link::is_refusal;
pub use members::Situation;
pub use messages::{Arrival, Known, SETTLED_AFTER, Settlement, Stored, StoredRoom, Stretch};
pub use rooms::RoomWithRole;
pub use sessions::{EndedSessions, Session};
pub use users::{Credentials, NewUser};

use crate::{configuration::PostgresSection, error::Result};
use link::Link;

/// The stores in Postgres. Keeps at most one connection: opens it on first use, and again when it was lost.
#[derive(Clone)]
pub struct Postgres {
    link: Link,
}

impl Postgres {
    /// Prepares the connection; nothing is sent yet.
    pub fn new(section: &PostgresSection) -> Self {
        Self { link: Link::new(&section.options) }
    }

    /// Whether Postgres answers.
    ///
    /// # Errors
    /// [`crate::Error::Unavailable`] if it does not.
    pub async fn ping(&self) -> Result<()> {
        self.link
            .run("asking Postgres how it is", async |connection| {
                sqlx::query!("select 1 as one").fetch_one(connection).await?;
                Ok(())
            })
            .await
    }
}

/// A page of a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page<T> {
    /// What is on it.
    pub items: Vec<T>,
    /// Whether there is another page behind it.
    pub more: bool,
}

impl<T> Page<T> {
    /// How many rows to ask for: one more than the page holds tells whether there is another one.
    fn rows(limit: usize) -> i64 {
        i64::try_from(limit).unwrap_or(i64::MAX).saturating_add(1)
    }

    fn of(limit: usize, mut rows: Vec<T>) -> Self {
        let more = limit < rows.len();
        rows.truncate(limit);
        Self { items: rows, more }
    }

    fn try_map<U>(self, read: impl FnMut(T) -> Result<U>) -> Result<Page<U>> {
        let items = self.items.into_iter().map(read).collect::<Result<_>>()?;
        Ok(Page { items, more: self.more })
    }
}
