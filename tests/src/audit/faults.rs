//! What is broken while everybody is at work.

use std::{
    collections::BTreeMap,
    ops::Range,
    time::{Duration, Instant},
};

use clap::ValueEnum as _;
use serde_json::{Value, json};
use tokio::{sync::watch, time::sleep};

use super::{Audit, dice::Dice};
use crate::{redis_server::RedisSnapshot, test_app::TestApp};

/// How often the faults of the local AWS are set anew, with other numbers.
const THROW_AGAIN: Duration = Duration::from_millis(200);
/// When after the begin of a call its function is killed, in milliseconds: before the append, between append and queue,
/// and during the pushes.
const KILL_AFTER_MS: Range<u64> = 0..30;
/// Longer than a push may take.
const NO_ANSWER_MS: u64 = 3_000;

/// Something that breaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub enum Fault {
    /// `message` dies in mid-call, by SIGKILL.
    MessageKilled,
    /// `archive` dies in mid-call, by SIGKILL.
    ArchiveKilled,
    /// Redis dies and comes back with nothing.
    RedisEmpty,
    /// Redis dies and comes back with what it knew some seconds before.
    RedisGoesBack,
    /// The Redis Cluster loses the master of a room, for some seconds until a replica takes its place. Needs a cluster.
    MasterLost,
    /// Redis answers nothing for 5 s.
    RedisFrozen,
    /// Postgres is away for 20 s.
    PostgresAway,
    /// SQS refuses.
    QueueRefuses,
    /// SQS delivers twice.
    QueueDuplicates,
    /// The management API answers 429.
    PushesThrottled,
    /// The management API answers 500.
    PushesFail,
    /// The management API says that connections are gone which are not.
    PushesGone,
    /// The management API answers nothing in time.
    PushesUnanswered,
    /// The management API answers 200 and delivers nothing.
    PushesLost,
    /// `$disconnect` is never delivered.
    DisconnectDropped,
    /// The gateway dies with all sockets, functions and calls, and comes back with its queues.
    GatewayKilled,
    /// Readers stop reading their sockets.
    ReadersDeaf,
}

/// What cannot be broken in two ways at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The functions.
    Functions,
    /// Redis.
    Redis,
    /// Postgres.
    Postgres,
    /// SQS.
    Queues,
    /// The management API.
    Pushes,
    /// The gateway.
    Gateway,
    /// The clients.
    Readers,
}

impl Fault {
    /// All that can be, with a Redis Cluster or with one server.
    pub fn all(on_cluster: bool) -> Vec<Self> {
        let all = Self::value_variants().iter().copied();
        all.filter(|fault| on_cluster || *fault != Self::MasterLost).collect()
    }

    /// What it is called in tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::MessageKilled => "`message` killed in mid-call",
            Self::ArchiveKilled => "`archive` killed in mid-call",
            Self::RedisEmpty => "Redis killed, back empty",
            Self::RedisGoesBack => "Redis killed, back as it was seconds before",
            Self::MasterLost => "the master of a room lost",
            Self::RedisFrozen => "Redis frozen for 5 s",
            Self::PostgresAway => "Postgres away for 20 s",
            Self::QueueRefuses => "SQS refuses",
            Self::QueueDuplicates => "SQS delivers twice",
            Self::PushesThrottled => "pushes answered 429",
            Self::PushesFail => "pushes answered 500",
            Self::PushesGone => "pushes to live sockets answered 410",
            Self::PushesUnanswered => "pushes not answered",
            Self::PushesLost => "pushes answered 200 and lost",
            Self::DisconnectDropped => "`$disconnect` never delivered",
            Self::GatewayKilled => "the local AWS killed and restarted",
            Self::ReadersDeaf => "readers that stop reading",
        }
    }

    /// What it breaks.
    pub fn part(self) -> Part {
        match self {
            Self::MessageKilled | Self::ArchiveKilled => Part::Functions,
            Self::RedisEmpty | Self::RedisGoesBack | Self::MasterLost | Self::RedisFrozen => Part::Redis,
            Self::PostgresAway => Part::Postgres,
            Self::QueueRefuses | Self::QueueDuplicates => Part::Queues,
            Self::PushesThrottled
            | Self::PushesFail
            | Self::PushesGone
            | Self::PushesUnanswered
            | Self::PushesLost => Part::Pushes,
            Self::DisconnectDropped | Self::GatewayKilled => Part::Gateway,
            Self::ReadersDeaf => Part::Readers,
        }
    }

    /// Whether both can be at the same time. The local AWS does not start without Postgres.
    pub fn goes_with(self, other: Self) -> bool {
        let start = [Self::PostgresAway, Self::GatewayKilled];
        self.part() != other.part() && !(start.contains(&self) && start.contains(&other))
    }

    /// What the local AWS is told; nothing for what others break.
    fn in_local_aws(self, dice: &mut Dice) -> Option<(&'static str, Value)> {
        let killed = |function: &str, share: f64, dice: &mut Dice| {
            ("kill", json!({"function": function, "share": share, "after_ms": dice.within(KILL_AFTER_MS)}))
        };
        Some(match self {
            Self::MessageKilled => killed("message", 0.15, dice),
            // It is called far less often.
            Self::ArchiveKilled => killed("archive", 0.5, dice),
            // Now and then for everything: with luck alone a batch gets through.
            Self::QueueRefuses => ("sqs", json!({"refuse_share": if dice.chance(0.3) { 1.0 } else { 0.5 }})),
            Self::QueueDuplicates => ("sqs", json!({"duplicate_share": 0.5})),
            Self::PushesThrottled => ("management", json!({"status": 429, "share": 0.3})),
            Self::PushesFail => ("management", json!({"status": 500, "share": 0.3})),
            Self::PushesGone => ("management", json!({"status": 410, "share": 0.05})),
            Self::PushesUnanswered => {
                ("management", json!({"delay_ms": if dice.chance(0.5) { NO_ANSWER_MS } else { 0 }}))
            }
            Self::PushesLost => ("management", json!({"silent_share": 0.3})),
            Self::DisconnectDropped => ("drop_disconnect", json!(true)),
            Self::RedisEmpty
            | Self::RedisGoesBack
            | Self::MasterLost
            | Self::RedisFrozen
            | Self::PostgresAway
            | Self::GatewayKilled
            | Self::ReadersDeaf => return None,
        })
    }

    /// How long it is on, if not as long as all the others.
    fn lasts(self, dice: &mut Dice) -> Option<Duration> {
        match self {
            Self::RedisEmpty => Some(dice.pause(0..1_500)),
            // So much is forgotten.
            Self::RedisGoesBack => Some(dice.pause(500..6_000)),
            // So long there is no replica.
            Self::MasterLost => Some(dice.pause(1_000..6_000)),
            Self::RedisFrozen => Some(Duration::from_secs(5)),
            Self::GatewayKilled => Some(Duration::ZERO),
            Self::PostgresAway => Some(Duration::from_secs(20)),
            _ => None,
        }
    }
}

/// Switches faults on and off.
pub struct Driver {
    dice: Dice,
    stop: watch::Receiver<bool>,
    made: BTreeMap<&'static str, u64>,
    /// What Redis knew when it began to forget.
    snapshot: Option<RedisSnapshot>,
}

impl Driver {
    /// Makes the faults of a run, until it is told to stop.
    pub fn new(seed: u64, stop: watch::Receiver<bool>) -> Self {
        Self { dice: Dice::new(seed, "faults"), stop, made: BTreeMap::new(), snapshot: None }
    }

    /// How often which fault was made.
    pub fn made(&self) -> &BTreeMap<&'static str, u64> {
        &self.made
    }

    /// Its dice.
    pub fn dice(&mut self) -> &mut Dice {
        &mut self.dice
    }

    /// Whether it was told to stop.
    pub fn is_stopped(&self) -> bool {
        *self.stop.borrow()
    }

    /// Lets everything be for a while.
    pub async fn rest(&self, duration: Duration) {
        let end = Instant::now() + duration;
        while Instant::now() < end && !self.is_stopped() {
            sleep(THROW_AGAIN.min(end.saturating_duration_since(Instant::now()))).await;
        }
    }

    /// Makes these faults together, so long or as long as the longest of them lasts, and ends them all.
    pub async fn make(&mut self, app: &mut TestApp, audit: &Audit, faults: &[Fault], duration: Duration) {
        let begin = Instant::now();
        let mut on = Vec::new();
        for &fault in faults {
            *self.made.entry(fault.name()).or_default() += 1;
            self.switch_on(app, audit, fault).await;
            on.push((fault, fault.lasts(&mut self.dice).unwrap_or(duration)));
        }
        loop {
            let (over, still): (Vec<_>, Vec<_>) =
                on.into_iter().partition(|(_, lasts)| *lasts <= begin.elapsed() || self.is_stopped());
            on = still;
            for (fault, _) in over {
                self.switch_off(app, audit, fault).await;
            }
            let faults: Vec<Fault> = on.iter().map(|(fault, _)| *fault).collect();
            self.tell_local_aws(app, &faults).await;
            if on.is_empty() && (duration <= begin.elapsed() || self.is_stopped()) {
                return;
            }
            self.rest(THROW_AGAIN).await;
        }
    }

    async fn switch_on(&mut self, app: &mut TestApp, audit: &Audit, fault: Fault) {
        match fault {
            Fault::RedisEmpty => app.redis.kill().await.expect("Redis can be killed"),
            Fault::RedisGoesBack => {
                self.snapshot = Some(app.redis.snapshot().await.expect("Redis can be copied"));
            }
            Fault::MasterLost => {
                let room = self.dice.one_of(&audit.rooms);
                let log = format!("room:{{{room}}}:log");
                app.redis.lose_a_master(&log).await.expect("a replica takes its place");
            }
            Fault::RedisFrozen => app.redis.freeze().expect("Redis can be frozen"),
            Fault::PostgresAway => {
                let server = app.postgres.server();
                let ended = if self.dice.chance(0.5) { server.stop().await } else { server.kill().await };
                ended.expect("Postgres can be stopped");
            }
            Fault::GatewayKilled => app.aws.kill_and_restart().await.expect("the local AWS starts again"),
            Fault::ReadersDeaf => {
                // Half of them: the others have to be served all the same.
                (0..audit.plan.readers.div_ceil(2)).for_each(|reader| audit.deafen(reader, true));
            }
            _ => {}
        }
    }

    async fn tell_local_aws(&mut self, app: &TestApp, faults: &[Fault]) {
        let told = faults.iter().filter_map(|fault| fault.in_local_aws(&mut self.dice));
        let told: serde_json::Map<String, Value> = told.map(|(key, value)| (key.to_owned(), value)).collect();
        app.aws.faults(&Value::Object(told)).await.expect("the local AWS takes faults");
    }

    async fn switch_off(&mut self, app: &mut TestApp, audit: &Audit, fault: Fault) {
        match fault {
            Fault::RedisEmpty | Fault::MasterLost => app.redis.resume().await.expect("Redis starts again"),
            Fault::RedisGoesBack => {
                let snapshot = self.snapshot.take().expect("it was taken when the fault began");
                app.redis.restart_from(&snapshot).await.expect("Redis starts again");
            }
            Fault::RedisFrozen => app.redis.thaw().expect("Redis goes on"),
            Fault::PostgresAway => app.postgres.server().resume().await.expect("Postgres starts again"),
            Fault::ReadersDeaf => (0..audit.plan.readers).for_each(|reader| audit.deafen(reader, false)),
            _ => {}
        }
    }
}
