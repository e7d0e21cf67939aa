//! Redis: tickets, connections, throttles, and the rooms' logs. All the keys and all the scripts.
//!
//! It must run on one plain Redis 7, on a Redis Cluster, and on ElastiCache Serverless: every script names its keys,
//! and all of them carry one hash tag. A script that may have run although its answer was lost is safe to run again.

mod archive;
mod connections;
mod keys;
mod link;
mod rooms;
mod throttle;
mod tickets;

use redis::FromRedisValue;

pub use archive::{Compared, Entry, Settled};
pub use connections::Admission;
pub use rooms::{
    Cursor, Head, JoinOutcome, Joined, LogPage, News, Posted, Resume, RoomSummary, Subscriber,
    SubscriberChange,
};

use crate::{
    configuration::{ConfigurationError, RedisSection},
    error::{Error, Result},
};
use link::Link;

/// How long API Gateway lets a connection live, two hours, with some minutes for clocks and retries.
pub(crate) const CONNECTION_LIFETIME_SECONDS: u64 = 2 * 60 * 60 + 10 * 60;

/// ElastiCache Serverless takes 3,999 arguments in one command; some of them are a script's own.
const MOST_ARGUMENTS: usize = 3_000;

/// How many commands of one call are under way at once.
const WIDTH: usize = 32;

/// The stores in Redis. Connects on first use, and again whenever Redis comes back.
#[derive(Clone)]
pub struct Redis {
    link: Link,
    scripts: &'static Scripts,
    room_lifetime_seconds: u64,
}

impl Redis {
    /// Prepares the connection; nothing is sent yet.
    ///
    /// # Errors
    /// The client cannot be set up with `REDIS_URL`.
    pub fn new(section: &RedisSection) -> Result<Self, ConfigurationError> {
        Ok(Self {
            link: Link::new(section)?,
            scripts: Scripts::get(),
            room_lifetime_seconds: section.room_lifetime.as_secs(),
        })
    }

    /// Whether Redis answers.
    ///
    /// # Errors
    /// [`Error::Unavailable`] if it does not.
    pub async fn ping(&self) -> Result<()> {
        // PING would ask any node of a cluster; this asks the one that holds a key.
        let mut command = redis::cmd("EXISTS");
        command.arg("health");
        self.link.query(&command, "asking Redis how it is").await
    }

    /// Runs a script by its digest, and by its text where Redis does not have it.
    async fn run<T: FromRedisValue>(&self, call: Call<'_>, operation: &'static str) -> Result<T> {
        let answer = self.link.run(&call.command("EVALSHA", call.script.get_hash())).await;
        let answer = match answer {
            Err(error) if error.code() == Some("NOSCRIPT") => {
                self.link.run(&call.command("EVAL", call.script.code())).await
            }
            answer => answer,
        };
        let value = answer.map_err(|cause| link::failed(operation, cause))?;
        T::from_redis_value(value).map_err(|cause| Error::internal(operation, cause))
    }
}

/// One call of a script.
struct Call<'a> {
    script: &'a Script,
    keys: Vec<String>,
    arguments: Vec<Vec<u8>>,
}

impl<'a> Call<'a> {
    fn of(script: &'a Script, keys: impl IntoIterator<Item = String>) -> Self {
        Self { script, keys: keys.into_iter().collect(), arguments: Vec::new() }
    }

    fn arg(mut self, argument: impl redis::ToRedisArgs) -> Self {
        self.arguments.extend(argument.to_redis_args());
        self
    }

    fn command(&self, name: &str, script: &str) -> redis::Cmd {
        let mut command = redis::cmd(name);
        command.arg(script).arg(self.keys.len()).arg(&self.keys).arg(&self.arguments);
        command
    }
}

/// A Lua script with its digest.
struct Script {
    script: redis::Script,
    code: String,
}

impl Script {
    fn new(parts: &[&str]) -> Self {
        let code = parts.join("\n");
        Self { script: redis::Script::new(&code), code }
    }

    fn get_hash(&self) -> &str {
        self.script.get_hash()
    }

    fn code(&self) -> &str {
        &self.code
    }
}

/// All the scripts, hashed once in the life of the process.
struct Scripts {
    admit: Script,
    compare: Script,
    end_room: Script,
    end_sessions: Script,
    expel: Script,
    mark_gone: Script,
    join: Script,
    leave: Script,
    online: Script,
    page: Script,
    peek: Script,
    post: Script,
    record_connection: Script,
    settle: Script,
    summary: Script,
    throttle: Script,
    told: Script,
    trim: Script,
}

impl Scripts {
    fn get() -> &'static Self {
        // Pure data derived from the program's text; a copy for each `Redis` would be the same again.
        static SCRIPTS: std::sync::LazyLock<Scripts> = std::sync::LazyLock::new(Scripts::load);
        &SCRIPTS
    }

    fn load() -> Self {
        const ROOM: &str = include_str!("redis/scripts/room.lua");
        const WINDOW: &str = include_str!("redis/scripts/window.lua");
        Self {
            admit: Script::new(&[WINDOW, include_str!("redis/scripts/admit.lua")]),
            compare: Script::new(&[ROOM, include_str!("redis/scripts/compare.lua")]),
            end_room: Script::new(&[include_str!("redis/scripts/end_room.lua")]),
            end_sessions: Script::new(&[include_str!("redis/scripts/end_sessions.lua")]),
            expel: Script::new(&[ROOM, include_str!("redis/scripts/expel.lua")]),
            mark_gone: Script::new(&[include_str!("redis/scripts/mark_gone.lua")]),
            join: Script::new(&[ROOM, include_str!("redis/scripts/join.lua")]),
            leave: Script::new(&[ROOM, include_str!("redis/scripts/leave.lua")]),
            online: Script::new(&[ROOM, include_str!("redis/scripts/online.lua")]),
            page: Script::new(&[ROOM, include_str!("redis/scripts/page.lua")]),
            peek: Script::new(&[include_str!("redis/scripts/peek.lua")]),
            post: Script::new(&[ROOM, include_str!("redis/scripts/post.lua")]),
            record_connection: Script::new(&[include_str!("redis/scripts/record_connection.lua")]),
            settle: Script::new(&[ROOM, include_str!("redis/scripts/settle.lua")]),
            summary: Script::new(&[include_str!("redis/scripts/summary.lua")]),
            throttle: Script::new(&[WINDOW, include_str!("redis/scripts/throttle.lua")]),
            told: Script::new(&[include_str!("redis/scripts/told.lua")]),
            trim: Script::new(&[ROOM, include_str!("redis/scripts/trim.lua")]),
        }
    }
}
