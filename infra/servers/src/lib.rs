//! Private servers of the installed programs: a Postgres or a Redis that belongs to one owner and lives no longer
//! than it. The local AWS keeps their data between runs, tests throw it away.
//!
//! What holds for every server here:
//! - Only its owner can reach it: Postgres listens on a socket in a folder closed to others, Redis on a loopback port
//!   behind a random password.
//! - It ends with its owner, also when the owner is killed: a watchdog (`watchdog.sh`) waits on a pipe whose other end
//!   only the owner holds. Nothing stays behind but kept data.
//! - It is ready when `start` returns. A server that does not start says why, in its own words.
//! - As root it runs as an unprivileged user, because Postgres refuses root.
//!
//! The binary of the same name runs a command with a server beside it: `servers with-postgres -- cargo nextest run`.

mod error;
mod folder;
mod log;
mod postgres;
mod process;
mod programs;
mod redis;
mod redis_cluster;
mod tls;
mod user;

pub use error::Error;
pub use postgres::{Postgres, PostgresOptions};
pub use redis::{Redis, RedisOptions, Snapshot};
pub use redis_cluster::{ClusterSnapshot, RedisCluster, RedisClusterOptions};
