//! What a test has seen and told, for the checks at its end.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// Notes shared by all clients of one test.
#[derive(Clone, Default)]
pub struct Ledger(Arc<Mutex<Notes>>);

#[derive(Default)]
struct Notes {
    acked: BTreeSet<Acked>,
    secrets: BTreeSet<String>,
}

/// An event that a sender has an ack for: it must be kept.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Acked {
    /// The room.
    pub room: String,
    /// Its place in the room.
    pub position: String,
    /// Its name.
    pub event: String,
}

impl Ledger {
    /// Notes an ack.
    pub fn acked(&self, acked: Acked) {
        self.notes().acked.insert(acked);
    }

    /// All that was acked so far.
    pub fn all_acked(&self) -> BTreeSet<Acked> {
        self.notes().acked.clone()
    }

    /// Notes what no log may ever hold: a token, a ticket, a password, an e-mail address, the text of a message.
    pub fn secret(&self, secret: &str) {
        self.notes().secrets.insert(secret.to_owned());
    }

    /// All secrets so far.
    pub fn all_secrets(&self) -> BTreeSet<String> {
        self.notes().secrets.clone()
    }

    fn notes(&self) -> MutexGuard<'_, Notes> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
