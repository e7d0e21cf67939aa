//! One instance of a function: its process, from the start through its calls to its end.
//!
//! One task owns it and waits for whatever comes first: what the process wants, its end, a deadline, or ours.

use std::process::ExitStatus;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Response, StatusCode, header};
use http_body_util::Full;
use time::OffsetDateTime;
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, sleep_until};

use super::pool::{Answer, Job, Place, Work};
use super::process::Process;
use super::runtime_api::{Call, Reply, RuntimeApi, TooLarge, Want, accepted, refused};
use super::{InstanceState, failure};
use crate::ids::epoch_ms;
use crate::local_values::function_arn;

/// How long a process that has answered may take to ask for the next call, before calls that wait get another process.
const SETTLE_LIMIT: Duration = Duration::from_millis(50);

/// Runs an instance to its end.
pub(super) async fn run(mut place: Place) {
    let mut instance = match Instance::start(&place).await {
        Ok(started) => started,
        Err(why) => return tell_failed_start(&place, why),
    };
    instance.serve(&mut place).await;
    // Gone before the place is free, so that there are never more processes than the limit says.
    instance.process.end().await;
}

/// Why there is no instance.
enum NotStarted {
    /// There is no program that can be started.
    NoProgram(String),
    /// It said itself what went wrong.
    Reported {
        payload: Bytes,
        last_words: String,
    },
    Exited {
        status: Option<ExitStatus>,
        last_words: String,
    },
    TimedOut {
        last_words: String,
    },
    Stopping,
}

fn tell_failed_start(place: &Place, why: NotStarted) {
    let function = &place.pool.setup.function;
    let job = place.failed_start();
    let request_id = job.as_ref().map_or("-", |job| &job.request_id);
    let (payload, reason, last_words) = match why {
        NotStarted::NoProgram(why) => (failure::not_started(request_id, &why), why, String::new()),
        NotStarted::Reported { payload, last_words } => {
            let reason = failure::message(&payload).unwrap_or_else(|| "it reported an error".to_owned());
            (payload, reason, last_words)
        }
        NotStarted::Exited { status, last_words } => {
            (failure::exited(request_id, status), failure::how(status), last_words)
        }
        NotStarted::TimedOut { last_words } => {
            let limit = place.pool.clocks.init;
            let reason = format!("it asked for no call within {limit:?}");
            (failure::init_timed_out(request_id, limit), reason, last_words)
        }
        NotStarted::Stopping => return,
    };
    tracing::error!(function, reason, last_words, "function `{function}` did not start");
    if let Some(job) = job {
        drop(job.answer.send(Answer { payload, failed: true, cold_start: true }));
    }
}

struct Instance {
    process: Process,
    api: RuntimeApi,
    /// The process waits for a call at the other end.
    next: oneshot::Sender<Reply>,
    invocations: u64,
}

/// Why a call ended without the process asking for the next.
struct Ended;

impl Instance {
    async fn start(place: &Place) -> Result<Self, NotStarted> {
        let pool = &place.pool;
        let begin = Instant::now();
        let no_program = |error: anyhow::Error| NotStarted::NoProgram(format!("{error:#}"));
        let mut api = RuntimeApi::bind().await.map_err(|error| no_program(error.into()))?;
        let mut process = pool.setup.start(api.address()).await.map_err(no_program)?;
        place.status(|status| status.pid = process.pid());
        loop {
            let call = tokio::select! {
                biased;
                call = api.call() => call,
                status = process.ended() => {
                    return Err(NotStarted::Exited { status, last_words: process.end().await });
                }
                () = sleep_until(begin + pool.clocks.init) => {
                    return Err(NotStarted::TimedOut { last_words: process.end().await });
                }
                () = pool.stop.cancelled() => {
                    process.end().await;
                    return Err(NotStarted::Stopping);
                }
            };
            match call.want {
                Want::Next => {
                    process.has_started();
                    let init = begin.elapsed();
                    place.status(|status| status.init_ms = Some(milliseconds(init)));
                    return Ok(Self { process, api, next: call.reply, invocations: 0 });
                }
                Want::InitFailure { payload } => {
                    drop(call.reply.send(accepted()));
                    return Err(NotStarted::Reported { payload, last_words: process.end().await });
                }
                Want::Answer { .. } | Want::Failure { .. } => drop(call.reply.send(no_such_call())),
            }
        }
    }

    /// Takes calls until the process ends or is not needed any more.
    async fn serve(&mut self, place: &mut Place) {
        while let Some(job) = self.wait_for_job(place).await {
            if job.answer.is_closed() {
                continue;
            }
            place.status(|status| {
                status.state = InstanceState::Busy;
                status.invocations += 1;
            });
            if let Err(Ended) = self.work(place, job).await {
                return;
            }
        }
    }

    async fn wait_for_job(&mut self, place: &mut Place) -> Option<Job> {
        let mut job = match place.work() {
            Work::Now(job) => return Some(job),
            Work::Later(job) => job,
            Work::Stop => return None,
        };
        place.status(|status| status.state = InstanceState::Idle);
        let unused = sleep(place.pool.clocks.idle);
        tokio::pin!(unused);
        loop {
            tokio::select! {
                given = &mut job => return given.ok(),
                call = self.api.call() => self.out_of_turn(call),
                status = self.process.ended() => {
                    let function = &place.pool.setup.function;
                    tracing::warn!(function, "function `{function}` ended while idle: {}", failure::how(status));
                    // It never saw a call that was given to it just now: another instance takes it.
                    job.close();
                    if let Ok(job) = job.try_recv() {
                        place.pool.give_back(job);
                    }
                    return None;
                }
                () = &mut unused => {
                    job.close();
                    return job.try_recv().ok();
                }
                () = place.pool.stop.cancelled() => return None,
            }
        }
    }

    /// Gives one call to the process and the answer to the caller, until the process asks for the next.
    async fn work(&mut self, place: &mut Place, job: Job) -> Result<(), Ended> {
        let (pool, begin) = (Arc::clone(&place.pool), Instant::now());
        let function = &pool.setup.function;
        let deadline = begin + pool.timeout;
        let kill_at = job.kill_after.map(|after| begin + after);
        let event = event(function, &job, pool.timeout);
        let mut call =
            InFlight { answer: Some(job.answer), request_id: job.request_id, cold: self.invocations == 0 };
        self.invocations += 1;
        let mut settled = deadline;
        // Only to have something in the place of the question that is answered now.
        let (answered, _) = oneshot::channel();
        let mut undelivered = std::mem::replace(&mut self.next, answered).send(event).err();
        loop {
            let Call { want, reply } = tokio::select! {
                biased;
                call = self.api.call() => call,
                status = self.process.ended() => {
                    if call.tell(failure::exited(&call.request_id, status), true) {
                        let (request_id, how) = (&call.request_id, failure::how(status));
                        tracing::error!(function, request_id, "function `{function}` ended in a call: {how}");
                    }
                    return Err(Ended);
                }
                () = sleep_until(deadline) => {
                    if call.tell(failure::timed_out(&call.request_id, pool.timeout), true) {
                        let (request_id, seconds) = (&call.request_id, pool.timeout.as_secs_f64());
                        tracing::error!(function, request_id, "function `{function}` timed out after {seconds:.2} s");
                    }
                    return Err(Ended);
                }
                () = sleep_until(kill_at.unwrap_or(deadline)), if kill_at.is_some() => {
                    self.process.kill();
                    let status = self.process.ended().await;
                    call.tell(failure::exited(&call.request_id, status), true);
                    return Err(Ended);
                }
                () = sleep_until(settled), if settled < deadline => {
                    settled = deadline;
                    place.expect_no_longer();
                    continue;
                }
                () = pool.stop.cancelled() => return Err(Ended),
            };
            if matches!(want, Want::Answer { .. } | Want::Failure { .. }) && call.answer.is_some() {
                place.expect();
                settled = Instant::now() + SETTLE_LIMIT;
            }
            let answer = match want {
                Want::Next => match (undelivered.take(), call.answer.is_none()) {
                    // It had given up the question that the event was the answer to.
                    (Some(event), _) => {
                        undelivered = reply.send(event).err();
                        continue;
                    }
                    (None, true) => {
                        self.next = reply;
                        return Ok(());
                    }
                    (None, false) => {
                        let message = "the call before has no answer yet";
                        refused(StatusCode::FORBIDDEN, "InvalidStateTransition", message)
                    }
                },
                Want::Answer { request_id, payload: Ok(payload) } => call.end(&request_id, payload, false),
                Want::Failure { request_id, payload } => call.end(&request_id, payload, true),
                Want::Answer { request_id, payload: Err(TooLarge) } => {
                    drop(call.end(&request_id, failure::answer_too_large(), true));
                    refused(StatusCode::PAYLOAD_TOO_LARGE, "RequestEntityTooLarge", "the answer is too large")
                }
                Want::InitFailure { .. } => no_such_call(),
            };
            drop(reply.send(answer));
        }
    }

    /// Something other than an answer to a call, while there is no call.
    fn out_of_turn(&mut self, call: Call) {
        match call.want {
            // It gave up its question, and asks again.
            Want::Next => self.next = call.reply,
            _ => drop(call.reply.send(no_such_call())),
        }
    }
}

/// The call that the process works on.
struct InFlight {
    request_id: String,
    /// Where the answer goes, until it is given.
    answer: Option<oneshot::Sender<Answer>>,
    cold: bool,
}

impl InFlight {
    /// Gives the caller its answer, unless it has one.
    fn tell(&mut self, payload: Bytes, failed: bool) -> bool {
        let answer = self.answer.take();
        // A caller that has stopped waiting misses nothing.
        answer.map(|answer| answer.send(Answer { payload, failed, cold_start: self.cold })).is_some()
    }

    /// What the process says of the call of this id, and the reply to it.
    fn end(&mut self, request_id: &str, payload: Bytes, failed: bool) -> Reply {
        if request_id == self.request_id && self.tell(payload, failed) { accepted() } else { no_such_call() }
    }
}

/// The reply to "next": the event with its context in the headers.
fn event(function: &str, job: &Job, timeout: Duration) -> Reply {
    let deadline = OffsetDateTime::now_utc() + timeout;
    Response::builder()
        .header(header::CONTENT_TYPE, "application/json")
        .header("lambda-runtime-aws-request-id", &job.request_id)
        .header("lambda-runtime-deadline-ms", epoch_ms(deadline))
        .header("lambda-runtime-invoked-function-arn", function_arn(function))
        .header("lambda-runtime-trace-id", &job.trace_id)
        .body(Full::from(job.payload.clone()))
        .expect("ids and numbers make headers")
}

fn no_such_call() -> Reply {
    refused(StatusCode::BAD_REQUEST, "InvalidRequestID", "there is no such call, or it has its answer")
}

fn milliseconds(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 100_000.0).round() / 100.0
}
