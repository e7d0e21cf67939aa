//! The instances of one function: who takes the next call.
//!
//! A call goes to the idle instance that was busy last, because its caches are warmest and the others may then be
//! ended. When none is idle the call waits, and an instance is started for it unless the limit is reached; whichever
//! instance is free first takes it, so that a short call need not wait for a start. An instance that has just answered
//! counts as free in a moment: a caller whose calls follow each other finds the same process, as in AWS.
//! The lock is held for a few instructions and never while waiting.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::instance;
use super::process::Setup;
use super::{Clocks, InstanceState, InstanceStatus};

/// Calls that wait for one function before more are refused. Lambda would refuse earlier, at the account's limit of
/// calls in flight; here it only bounds the memory.
const MAX_WAITING: usize = 10_000;

/// A call on its way to an instance.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) request_id: String,
    pub(super) trace_id: String,
    pub(super) payload: Bytes,
    /// A fault: kill the process this long after it was given the call.
    pub(super) kill_after: Option<Duration>,
    pub(super) answer: oneshot::Sender<Answer>,
}

/// What comes back.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) payload: Bytes,
    pub(super) failed: bool,
    pub(super) cold_start: bool,
}

/// Why a call is not taken.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Refused {
    TooMany,
    Stopping,
}

/// What an instance does next.
#[derive(Debug)]
pub(super) enum Work {
    Now(Job),
    Later(oneshot::Receiver<Job>),
    Stop,
}

#[derive(Debug)]
pub(super) struct Pool {
    pub(super) setup: Setup,
    pub(super) timeout: Duration,
    pub(super) clocks: Clocks,
    pub(super) stop: CancellationToken,
    limit: usize,
    tasks: TaskTracker,
    state: Mutex<State>,
    statuses: Mutex<BTreeMap<u64, InstanceStatus>>,
    next_instance: AtomicU64,
}

#[derive(Debug, Default)]
struct State {
    /// The last one became idle last.
    idle: Vec<oneshot::Sender<Job>>,
    waiting: VecDeque<Job>,
    /// Instances that have not asked for their first call, or have just answered one: each will take a waiting call.
    expected: usize,
    /// All instances, those that start included.
    alive: usize,
    closed: bool,
}

impl Pool {
    pub(super) fn new(
        setup: Setup,
        timeout: Duration,
        clocks: Clocks,
        limit: usize,
        stop: CancellationToken,
        tasks: TaskTracker,
    ) -> Self {
        let (state, statuses, next_instance) = Default::default();
        Self { setup, timeout, clocks, stop, limit, tasks, state, statuses, next_instance }
    }

    /// Gives the call to an idle instance, or lets it wait for one.
    pub(super) fn submit(self: &Arc<Self>, mut job: Job) -> Result<(), Refused> {
        let mut state = self.lock();
        if state.closed {
            return Err(Refused::Stopping);
        }
        while let Some(idle) = state.idle.pop() {
            // One that has just ended gives the call back.
            match idle.send(job) {
                Ok(()) => return Ok(()),
                Err(back) => job = back,
            }
        }
        if state.waiting.len() >= MAX_WAITING {
            return Err(Refused::TooMany);
        }
        state.waiting.push_back(job);
        self.start_missing(state);
        Ok(())
    }

    /// Takes back a call that an instance was given and did not begin.
    pub(super) fn give_back(self: &Arc<Self>, job: Job) {
        let mut state = self.lock();
        state.waiting.push_front(job);
        self.start_missing(state);
    }

    /// Refuses new calls and forgets those that wait.
    pub(super) fn close(&self) {
        let mut state = self.lock();
        state.closed = true;
        state.waiting.clear();
        state.idle.clear();
    }

    /// Starts an instance for every waiting call that none will take that is there in a moment.
    fn start_missing(self: &Arc<Self>, mut state: MutexGuard<'_, State>) {
        while !state.closed && state.expected < state.waiting.len() && state.alive < self.limit {
            state.expected += 1;
            state.alive += 1;
            let id = self.next_instance.fetch_add(1, Ordering::Relaxed);
            let place = Place { pool: Arc::clone(self), id, expected: true };
            place.status(|_| {});
            self.tasks.spawn(instance::run(place));
        }
    }

    pub(super) fn statuses(&self) -> Vec<InstanceStatus> {
        self.statuses.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An instance's place in its pool, which it leaves when this is dropped, however it ends.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) pool: Arc<Pool>,
    id: u64,
    /// Counted in [`State::expected`].
    expected: bool,
}

impl Place {
    /// The instance can take a call, now or later.
    pub(super) fn work(&mut self) -> Work {
        let mut state = self.pool.lock();
        if std::mem::take(&mut self.expected) {
            state.expected -= 1;
        }
        if state.closed {
            return Work::Stop;
        }
        while let Some(job) = state.waiting.pop_front() {
            // Nobody waits any more for a call that has waited too long.
            if !job.answer.is_closed() {
                return Work::Now(job);
            }
        }
        let (idle, job) = oneshot::channel();
        state.idle.retain(|idle| !idle.is_closed());
        state.idle.push(idle);
        Work::Later(job)
    }

    /// The instance is about to answer its call, and will ask for the next in a moment.
    pub(super) fn expect(&mut self) {
        if !std::mem::replace(&mut self.expected, true) {
            self.pool.lock().expected += 1;
        }
    }

    /// The instance takes its time, whatever it does: calls that wait for it get another.
    pub(super) fn expect_no_longer(&mut self) {
        if std::mem::take(&mut self.expected) {
            let mut state = self.pool.lock();
            state.expected -= 1;
            self.pool.start_missing(state);
        }
    }

    /// The instance could not start: the call that it was started for, to be told so.
    pub(super) fn failed_start(&self) -> Option<Job> {
        let mut state = self.pool.lock();
        std::iter::from_fn(|| state.waiting.pop_front()).find(|job| !job.answer.is_closed())
    }

    /// Changes what `GET /functions` says of the instance.
    pub(super) fn status(&self, change: impl FnOnce(&mut InstanceStatus)) {
        let mut statuses = self.pool.statuses.lock().unwrap_or_else(PoisonError::into_inner);
        change(statuses.entry(self.id).or_insert_with(|| InstanceStatus {
            function: self.pool.setup.function.clone(),
            pid: None,
            state: InstanceState::Starting,
            init_ms: None,
            invocations: 0,
        }));
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.pool.statuses.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.id);
        let mut state = self.pool.lock();
        state.alive -= 1;
        if self.expected {
            state.expected -= 1;
        }
        // Calls may wait for what this one was to do.
        self.pool.start_missing(state);
    }
}
