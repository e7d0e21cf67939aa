//! What Banter's functions share.
//!
//! - [`domain`]: users, rooms, messages, rates; parsing newtypes and pure decisions. Knows no store, no clock.
//! - [`protocol`]: every JSON body and frame.
//! - [`password`] hashes passwords.
//! - [`postgres`]: users, sessions, rooms, members, messages; all the SQL.
//! - [`redis`]: tickets, connections, the rooms' logs, throttles; all the keys and scripts.
//! - [`history`]: what was written in a room, from both stores without seam; [`resync`]: when one has forgotten.
//! - [`push`]: posting to connections, and forgetting those that are gone.
//! - [`queue`]: the queues in SQS; [`fanout`]: which pushes go through one.
//! - [`configuration`], [`telemetry`], [`error`]: what every function starts with and ends with.
//!
//! Nothing here knows an AWS Lambda event: that is the crate `lambda`.

pub mod configuration;
pub mod domain;
pub mod error;
pub mod fanout;
pub mod history;
pub mod identity;
pub mod password;
pub mod postgres;
pub mod protocol;
pub mod push;
pub mod queue;
pub mod redis;
pub mod resync;
mod retry;
pub mod telemetry;
pub mod token;

pub use error::{Error, Result};
