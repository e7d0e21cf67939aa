//! The audit: writers and readers at work in several rooms, and the proof that nothing acknowledged was lost.
//!
//! Writers repeat each message until it is acknowledged; readers follow the protocol, drop their sockets and resume all
//! the time. Both note what they saw ([`notes`]). At the end [`proof`] compares every reader with every way to read a
//! room's history back ([`history`]): each acknowledged event exactly once, unchanged, in one order for all. Meanwhile
//! [`faults`] break things.
//!
//! All choices come from a seed ([`dice`]), so that the same seed makes the same choices; when functions and servers do
//! their part is not in its power.

pub mod dice;
pub mod faults;
pub mod history;
mod line;
pub mod notes;
pub mod proof;
mod queues;
mod reader;
pub mod room;
mod writer;

use std::{
    collections::BTreeMap,
    ops::Range,
    panic::resume_unwind,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{sync::watch, task::JoinSet, time::sleep};

use crate::{test_app::TestApp, user::User};

use dice::Dice;
use history::{Histories, Placed};
use notes::Notes;
use proof::{Evidence, Verdict};
use queues::Queues;
use reader::{Reader, Window};
use writer::Writer;

/// How often a condition is looked at that nothing tells us of.
const GLANCE: Duration = Duration::from_millis(100);
/// How long readers and writers may take to end once they are told to.
const FAREWELL: Duration = Duration::from_secs(60);

/// What is to happen, but for faults.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Repeats the choices.
    pub seed: u64,
    /// How many send.
    pub writers: usize,
    /// How many read.
    pub readers: usize,
    /// In how many rooms.
    pub rooms: usize,
    /// Milliseconds between an ack and the writer's next message.
    pub pause_ms: Range<u64>,
    /// When a reader reads back at a new generation, counted from when it learned of it.
    pub read_again: Vec<Duration>,
    /// How long everything may take to settle after the last fault.
    pub patience: Duration,
}

impl Plan {
    /// Small enough for two to run side by side on two cores.
    pub fn short(seed: u64) -> Self {
        Self {
            seed,
            writers: 4,
            readers: 4,
            rooms: 3,
            pause_ms: 100..500,
            read_again: vec![Duration::ZERO, Duration::from_secs(5)],
            patience: Duration::from_secs(180),
        }
    }

    /// For long runs, with everything that clients do.
    pub fn long(seed: u64) -> Self {
        let read_again = [0, 5, 60].map(Duration::from_secs).to_vec();
        let patience = Duration::from_secs(300);
        Self { writers: 6, readers: 6, pause_ms: 100..600, read_again, patience, ..Self::short(seed) }
    }
}

/// What all are to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Writers write, readers drop their sockets.
    Busy,
    /// Writers finish what they have begun, readers stay.
    Quiet,
    /// Everybody goes.
    Over,
}

/// Who takes part: an account, and where its sockets are opened.
#[derive(Clone)]
struct Person {
    user: User,
    websocket: String,
}

/// A workload that is running.
pub struct Audit {
    /// What is to happen.
    pub plan: Plan,
    /// What was noted so far.
    pub notes: Notes,
    rooms: Vec<String>,
    phase: watch::Sender<Phase>,
    readers: Vec<Watched>,
    judge: Person,
    queues: Queues,
    tasks: JoinSet<()>,
    began: Instant,
}

/// A reader, seen from outside.
struct Watched {
    window: Window,
    deaf: watch::Sender<bool>,
}

impl Audit {
    /// Makes people and rooms, and lets everybody begin. Readers are in their rooms before anything is written.
    pub async fn start(app: &TestApp, plan: Plan) -> Self {
        let websocket = app.aws.endpoints.websocket.clone();
        let person =
            async |name: String| Person { user: app.user(&name).await, websocket: websocket.clone() };
        let judge = person("Judge".to_owned()).await;
        let mut rooms = Vec::new();
        for _ in 0..plan.rooms {
            rooms.push(judge.user.make_public_room().await);
        }
        app.ledger().secret(writer::SECRET);
        let (phase, _) = watch::channel(Phase::Quiet);
        let notes = Notes::default();
        let mut tasks = JoinSet::new();
        let mut readers = Vec::new();
        for number in 0..plan.readers {
            let name = format!("reader{number}");
            let window = Window::of(&name, &rooms, &plan.read_again);
            let (deaf, is_deaf) = watch::channel(false);
            let reader = Reader {
                person: person(name.clone()).await,
                dice: Dice::new(plan.seed, &name),
                rooms: rooms.clone(),
                window: window.clone(),
                notes: notes.clone(),
                phase: phase.subscribe(),
                deaf: is_deaf,
            };
            tasks.spawn(reader.run());
            readers.push(Watched { window, deaf });
        }
        for number in 0..plan.writers {
            let name = format!("writer{number}");
            let writer = Writer::new(
                person(name.clone()).await,
                Dice::new(plan.seed, &name),
                name,
                rooms.clone(),
                plan.pause_ms.clone(),
                notes.clone(),
                phase.subscribe(),
            );
            tasks.spawn(writer.run());
        }
        let queues = Queues::new();
        let began = Instant::now();
        let mut audit = Self { plan, notes, rooms, phase, readers, judge, queues, tasks, began };
        let all_there = audit.wait(|_| {}, async |audit| audit.unsettled_readers()).await;
        assert!(all_there.is_ok(), "the readers do not get into their rooms: {all_there:?}");
        audit.go_on();
        audit
    }

    /// Lets everybody go on after [`settle`](Self::settle).
    pub fn go_on(&self) {
        self.phase.send_replace(Phase::Busy);
    }

    /// How long it has been running.
    pub fn age(&self) -> Duration {
        self.began.elapsed()
    }

    /// Lets a reader stop reading its socket, or go on.
    fn deafen(&self, reader: usize, deaf: bool) {
        self.readers[reader].deaf.send_replace(deaf);
    }

    /// Waits until nothing happens any more: every message is acknowledged, the queues are empty, every reader and
    /// Postgres have every acknowledged event. Tells what it waits for; at the end of its patience that is the error.
    ///
    /// # Errors
    /// What it waited for in vain.
    pub async fn settle(&mut self, app: &TestApp, tell: impl Fn(&str)) -> Result<(), String> {
        self.phase.send_replace(Phase::Quiet);
        let (database, sqs) = (app.postgres.url(), app.aws.endpoints.sqs.as_str());
        self.wait(&tell, async |audit| match audit.notes.unfinished() {
            0 => None,
            unfinished => Some(format!("{unfinished} messages to be acknowledged")),
        })
        .await?;
        // Twice: what the queue brought last may have made readers begin to read again.
        for _ in 0..2 {
            self.wait(&tell, async |audit| audit.queues.unfinished(sqs).await).await?;
            self.wait(&tell, async |audit| audit.missing_in_postgres(&database).await).await?;
            let pongs: Vec<u64> = self.readers.iter().map(|reader| reader.window.pongs()).collect();
            self.wait(&tell, async |audit| audit.unsettled_since(&pongs)).await?;
        }
        Ok(())
    }

    /// Reads everything back in every way, and compares.
    pub async fn prove(&self, app: &TestApp, settled: Result<(), String>) -> Verdict {
        let histories = Histories::read(&self.judge, &self.rooms, app.postgres.url(), &self.notes).await;
        self.compare(app, settled, histories).await
    }

    /// Reads everything back in one way, and compares: for a look in between.
    pub async fn glance(&self, app: &TestApp, settled: Result<(), String>) -> Verdict {
        let histories = Histories::glance(&self.judge, &self.rooms, app.postgres.url()).await;
        self.compare(app, settled, histories).await
    }

    async fn compare(&self, app: &TestApp, settled: Result<(), String>, histories: Histories) -> Verdict {
        let evidence = Evidence {
            settled,
            rooms: self.rooms.clone(),
            dead_letters: self.queues.dead_letters(&app.aws.endpoints.sqs).await,
            readers: self.readers.iter().map(|reader| reader.window.seen()).collect(),
            notes: self.notes.clone(),
            histories,
        };
        evidence.judge()
    }

    /// Sends everybody home and waits until all sockets are closed.
    pub async fn end(mut self) {
        self.phase.send_replace(Phase::Over);
        let everybody = async {
            while let Some(ended) = self.tasks.join_next().await {
                ended.unwrap_or_else(|error| resume_unwind(error.into_panic()));
            }
        };
        tokio::time::timeout(FAREWELL, everybody)
            .await
            .expect("readers and writers end when they are told to");
    }

    /// Settles, proves, ends.
    pub async fn finish(mut self, app: &TestApp, tell: impl Fn(&str)) -> Verdict {
        let settled = self.settle(app, tell).await;
        let verdict = self.prove(app, settled).await;
        self.end().await;
        verdict
    }

    /// Panics if a reader or a writer has: nobody would wait for it otherwise.
    fn check_tasks(&mut self) {
        match self.tasks.try_join_next() {
            None => {}
            Some(Err(error)) => resume_unwind(error.into_panic()),
            Some(Ok(())) => panic!("somebody has gone whom nobody has told to"),
        }
    }

    /// Waits until there is nothing left to wait for.
    async fn wait(
        &mut self,
        tell: impl Fn(&str),
        left: impl AsyncFn(&Self) -> Option<String>,
    ) -> Result<(), String> {
        let late = Instant::now() + self.plan.patience;
        loop {
            self.check_tasks();
            let Some(left) = left(self).await else { return Ok(()) };
            if late < Instant::now() {
                return Err(format!("after {:?} there is still to wait for {left}", self.plan.patience));
            }
            tell(&left);
            sleep(GLANCE).await;
        }
    }

    fn unsettled_readers(&self) -> Option<String> {
        let acked = self.notes.acked_by_room();
        self.readers.iter().find_map(|reader| reader.window.unsettled(&acked))
    }

    /// What readers still have to do, if each has to have had a pong since these.
    fn unsettled_since(&self, pongs: &[u64]) -> Option<String> {
        let silent =
            self.readers.iter().zip(pongs).find(|(reader, before)| reader.window.pongs() <= **before);
        match silent {
            Some((reader, _)) => Some(format!("a pong for {}", reader.window.name())),
            None => self.unsettled_readers(),
        }
    }

    async fn missing_in_postgres(&self, database: &str) -> Option<String> {
        let stored = match history::in_postgres(database, &self.rooms).await {
            Ok(stored) => stored,
            Err(error) => return Some(format!("Postgres: {error}")),
        };
        let stored: BTreeMap<&str, &Placed> =
            stored.values().flatten().map(|placed| (placed.event.as_str(), placed)).collect();
        let acked = self.notes.acks();
        let missing = acked.iter().filter(|ack| !stored.contains_key(ack.event.as_str())).count();
        (0 < missing).then(|| format!("{missing} of {} acknowledged events to be in Postgres", acked.len()))
    }
}

/// Shared words are kept once.
type Words = Arc<str>;

/// A seed that nobody has chosen.
pub fn any_seed() -> u64 {
    // Short enough to be typed.
    uuid::Uuid::new_v4().as_u128() as u64 % 1_000_000
}
