//! Lambda's Runtime API, `2018-06-01`: where a function's process asks for its calls and brings its answers.
//!
//! Every process has a port of its own, as every sandbox in AWS has an address of its own: `AWS_LAMBDA_RUNTIME_API`
//! is `host:port` without a path, and a path in it would be no address for the runtimes of Lambda.

use std::convert::Infallible;
use std::io;
use std::net::Ipv4Addr;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::json;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;

use super::MAX_PAYLOAD_BYTES;
use crate::server::{Acceptor, BodyError, read_body};

pub(super) type Reply = Response<Full<Bytes>>;

/// What a process wants.
#[derive(Debug)]
pub(super) enum Want {
    /// `GET /runtime/invocation/next`
    Next,
    /// `POST /runtime/invocation/{id}/response`
    Answer { request_id: String, payload: Result<Bytes, TooLarge> },
    /// `POST /runtime/invocation/{id}/error`
    Failure { request_id: String, payload: Bytes },
    /// `POST /runtime/init/error`
    InitFailure { payload: Bytes },
}

/// The answer is larger than Lambda takes.
#[derive(Debug)]
pub(super) struct TooLarge;

/// What a process wants, and where the reply goes. The reply to [`Want::Next`] may come much later.
#[derive(Debug)]
pub(super) struct Call {
    pub(super) want: Want,
    pub(super) reply: oneshot::Sender<Reply>,
}

/// The server for one process. Dropping it closes its port and its connections.
#[derive(Debug)]
pub(super) struct RuntimeApi {
    address: String,
    calls: mpsc::Receiver<Call>,
    _server: JoinSet<()>,
}

impl RuntimeApi {
    pub(super) async fn bind() -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?.to_string();
        // A process has one call at a time; a second place is for the answer that its exit overtakes.
        let (sender, calls) = mpsc::channel(2);
        let mut server = JoinSet::new();
        server.spawn(serve(listener, sender));
        Ok(Self { address, calls, _server: server })
    }

    /// The value of `AWS_LAMBDA_RUNTIME_API`.
    pub(super) fn address(&self) -> &str {
        &self.address
    }

    /// What the process wants next.
    pub(super) async fn call(&mut self) -> Call {
        match self.calls.recv().await {
            Some(call) => call,
            // The server ends only with this.
            None => std::future::pending().await,
        }
    }
}

async fn serve(listener: TcpListener, calls: mpsc::Sender<Call>) {
    let mut connections = JoinSet::new();
    let mut acceptor = Acceptor::new(listener);
    loop {
        let (stream, _) = acceptor.accept().await;
        drop(stream.set_nodelay(true));
        let calls = calls.clone();
        let service = service_fn(move |request| handle(request, calls.clone()));
        connections.spawn(async move {
            drop(http1::Builder::new().serve_connection(TokioIo::new(stream), service).await);
        });
        while connections.try_join_next().is_some() {}
    }
}

async fn handle(request: Request<Incoming>, calls: mpsc::Sender<Call>) -> Result<Reply, Infallible> {
    let (parts, body) = request.into_parts();
    let path = parts.uri.path().strip_prefix("/2018-06-01/runtime/").unwrap_or_default();
    let steps: Vec<&str> = path.split('/').collect();
    let want = match (&parts.method, steps.as_slice()) {
        (&Method::GET, ["invocation", "next"]) => Want::Next,
        (&Method::POST, ["invocation", request_id, "response"]) => {
            let payload = match read_body(body, MAX_PAYLOAD_BYTES).await {
                Ok(payload) => Ok(payload),
                Err(BodyError::TooLarge) => Err(TooLarge),
                Err(BodyError::Broken) => return Ok(broken_body()),
            };
            Want::Answer { request_id: (*request_id).to_owned(), payload }
        }
        (&Method::POST, ["invocation", request_id, "error"]) => {
            let Ok(payload) = read_body(body, MAX_PAYLOAD_BYTES).await else { return Ok(broken_body()) };
            Want::Failure { request_id: (*request_id).to_owned(), payload }
        }
        (&Method::POST, ["init", "error"]) => {
            let Ok(payload) = read_body(body, MAX_PAYLOAD_BYTES).await else { return Ok(broken_body()) };
            Want::InitFailure { payload }
        }
        _ => {
            return Ok(refused(
                StatusCode::NOT_FOUND,
                "NotFound",
                "there is no such call in the Runtime API",
            ));
        }
    };
    let (reply, wait) = oneshot::channel();
    let gone = |_| refused(StatusCode::INTERNAL_SERVER_ERROR, "ServiceError", "the local AWS is stopping");
    if calls.send(Call { want, reply }).await.is_err() {
        return Ok(gone(()));
    }
    Ok(wait.await.unwrap_or_else(|_| gone(())))
}

fn broken_body() -> Reply {
    refused(StatusCode::BAD_REQUEST, "InvalidRequest", "the body is too large, or ended too soon")
}

/// `202`, which ends a call.
pub(super) fn accepted() -> Reply {
    json_reply(StatusCode::ACCEPTED, &json!({"status": "OK"}))
}

/// An error of the Runtime API.
pub(super) fn refused(status: StatusCode, kind: &str, message: &str) -> Reply {
    json_reply(status, &json!({"errorType": kind, "errorMessage": message}))
}

fn json_reply(status: StatusCode, body: &serde_json::Value) -> Reply {
    Response::builder()
        .status(status)
        .header(header::CONTENT_TYPE, "application/json")
        .body(Full::from(body.to_string()))
        .expect("a status and a plain header make a response")
}
