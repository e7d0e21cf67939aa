//! SQS: the queues of the template, and the functions that are called for what is in them.
//!
//! Standard queues: every message at least once, in no order that one could count on. A message that was acknowledged
//! is in the queue's file under `queues` in the state folder (`journal`), so that it outlives this process and the
//! machine's sudden end. `messages` decides who receives what, `queue` brings the two together, `api` is what the SDKs
//! call, `event_source` calls functions.

mod api;
mod attributes;
mod event_source;
mod journal;
mod messages;
mod queue;
mod refusal;

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use md5::{Digest as _, Md5};
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use self::api::Action;
use self::event_source::Poller;
use self::queue::Queue;
use self::refusal::Refusal;
use crate::access_log::{Access, AccessLog, Api};
use crate::faults::{Faults, hits};
use crate::lambda::Lambda;
use crate::server::{self, BodyError, read_body};
use crate::template::{self, EventSource};

/// The most that the messages of one request may have together, in bytes.
const MAX_BATCH_BYTES: usize = 1_048_576;

/// The largest request: a batch in which every byte is written as an escape, and what is around it.
const MAX_REQUEST_BYTES: usize = 6 * MAX_BATCH_BYTES + 256 * 1024;

/// The folder of the queues' files, in the state folder.
const FOLDER: &str = "queues";

type Queues = BTreeMap<String, Arc<Queue>>;

/// The queues. Clones share them.
#[derive(Clone, Debug)]
pub struct Sqs {
    queues: Arc<Queues>,
    /// `http://<host>:<port>`, which the URLs of the queues begin with.
    base: Arc<str>,
    faults: Faults,
    log: AccessLog,
}

/// SQS's API while it is served.
#[derive(Debug)]
pub struct Serving {
    stop: CancellationToken,
    server: JoinHandle<()>,
}

impl Sqs {
    /// Opens the queues with what they held when they were used last. Their URLs begin with `base`.
    ///
    /// # Errors
    /// When a queue's file cannot be read or written.
    pub fn open(
        queues: Vec<template::Queue>,
        state: &Path,
        base: &str,
        faults: Faults,
        log: AccessLog,
    ) -> Result<Self> {
        let folder = state.join(FOLDER);
        fs::create_dir_all(&folder).with_context(|| format!("preparing the folder {}", folder.display()))?;
        let opened = queues.into_iter().map(|settings| {
            let name = settings.name.clone();
            Ok((name, Arc::new(Queue::open(settings, &folder, faults.clone())?)))
        });
        let queues: Queues = opened.collect::<Result<_>>()?;
        for queue in queues.values() {
            let redrive = queue.settings.redrive.as_ref();
            if let Some(dead_letters) = redrive.and_then(|redrive| queues.get(&redrive.queue)) {
                queue.set_dead_letters(dead_letters);
            }
        }
        Ok(Self { queues: Arc::new(queues), base: base.into(), faults, log })
    }

    /// Serves the API until [`Serving::stop`].
    pub fn serve(&self, listener: TcpListener) -> Serving {
        let (stop, sqs) = (CancellationToken::new(), self.clone());
        let until = stop.clone();
        let server = tokio::spawn(server::serve(listener, stop.clone(), move |request, peer| {
            let (sqs, stop) = (sqs.clone(), until.clone());
            async move { Ok::<_, Infallible>(sqs.answer(request, peer, &stop).await) }
        }));
        Serving { stop, server }
    }

    /// Calls functions for what is in a queue, at most so many at a time, until `stop`; then waits for the calls in
    /// flight.
    ///
    /// # Errors
    /// When the queue's file cannot be written.
    pub async fn poll(
        self,
        source: EventSource,
        lambda: Lambda,
        concurrency: usize,
        stop: CancellationToken,
    ) -> Result<()> {
        let queue =
            self.queues.get(&source.queue).context("an event source is of a queue of the template")?;
        let concurrency = source.max_concurrency.map_or(concurrency, |most| most.min(concurrency));
        let poller = Poller { queue: Arc::clone(queue), source, lambda, log: self.log.clone(), concurrency };
        poller.run(stop).await
    }

    // A web page cannot reach this: its browser would have to ask first whether it may send `X-Amz-Target`, and is
    // given no such answer.
    async fn answer(
        &self,
        request: Request<Incoming>,
        peer: SocketAddr,
        stop: &CancellationToken,
    ) -> Response<Full<Bytes>> {
        let begin = Instant::now();
        let request_id = Uuid::new_v4().to_string();
        let mut route = format!("{} {}", request.method(), request.uri().path());
        let outcome = self.act(request, &mut route, stop).await;
        let refused = outcome.as_ref().err().map(Refusal::code);
        let mut response = match outcome {
            Ok(body) => answer(StatusCode::OK, &body),
            Err(refusal) => refusal.response(),
        };
        let id = HeaderValue::from_str(&request_id).expect("a UUID is visible ASCII");
        response.headers_mut().insert("x-amzn-requestid", id);
        self.log.write(&Access {
            api: Api::Sqs,
            route: &route,
            status: response.status().as_u16(),
            duration: begin.elapsed(),
            request_id: &request_id,
            connection_id: None,
            function: None,
            source_ip: Some(peer.ip()),
            error: refused.as_deref(),
        });
        response
    }

    async fn act(
        &self,
        request: Request<Incoming>,
        route: &mut String,
        stop: &CancellationToken,
    ) -> Result<Value, Refusal> {
        let (parts, body) = request.into_parts();
        // Read whatever comes of it: a body that is left unread ends the caller's connection.
        let body = read_body(body, MAX_REQUEST_BYTES).await.map_err(|why| match why {
            BodyError::TooLarge => Refusal::TooLarge,
            BodyError::Broken => Refusal::Unreadable("it ended too soon".into()),
        })?;
        let target = parts.headers.get("x-amz-target").and_then(|target| target.to_str().ok());
        let (name, action) = target
            .filter(|_| parts.method == Method::POST)
            .and_then(Action::of)
            .ok_or(Refusal::UnknownAction)?;
        route.clear();
        route.push_str(name);
        let queue = api::queue_of(&self.queues, action, &body)?;
        route.push(' ');
        route.push_str(&queue.settings.name);
        self.fault().await?;
        api::act(&queue, action, &body, &self.base, stop).await
    }

    /// The faults that are on: waits, or refuses.
    async fn fault(&self) -> Result<(), Refusal> {
        let faults = self.faults.current();
        let Some(fault) = faults.as_ref().and_then(|faults| faults.sqs.as_ref()) else { return Ok(()) };
        if fault.delay_ms > 0 {
            tokio::time::sleep(Duration::from_millis(fault.delay_ms)).await;
        }
        if hits(fault.refuse_share) { Err(Refusal::Unavailable) } else { Ok(()) }
    }
}

impl Serving {
    /// Ends the API after the requests in flight. Receivers that wait for messages get none.
    pub async fn stop(self) {
        self.stop.cancel();
        // It ends by itself, and was never given up.
        let _ = self.server.await;
    }
}

fn answer(status: StatusCode, body: &Value) -> Response<Full<Bytes>> {
    Response::builder()
        .status(status)
        .header(header::CONTENT_TYPE, "application/x-amz-json-1.0")
        .body(Full::from(body.to_string()))
        .expect("a status and a plain header make a response")
}

/// The MD5 of a message, which a receiver can check it by.
fn md5_of(body: &str) -> String {
    Md5::digest(body).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_md5_of_a_message_is_that_of_its_utf_8() {
        assert_eq!(md5_of("hello"), "5d41402abc4b2a76b9719d911017c592");
        assert_eq!(md5_of("\u{e9}"), "66ddcd97cfdeabb2f6fb8a999b4bc76f");
    }
}
