//! The WebSocket API: one listener for handshakes and frames on `/{stage}` and for `@connections` below it.
//!
//! No frame waits for another connection's: each connection has a task of its own, and the open connections are
//! in a sharded map. What all of them share, the functions' pools and the log's queue, is locked only for moments.

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use percent_encoding::percent_decode_str;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::access_log::{Access, AccessLog, Api};
use crate::faults::Faults;
use crate::ids::{self, Id};
use crate::lambda::Lambda;
use crate::management;
use crate::server::Acceptor;
use crate::template::{Route, WebSocketApi};
use answer::Answer;
use connections::{Connection, Connections};
use events::ApiNames;
use request_head::{HeadRecorder, Spellings};
use routing::{DISCONNECT, RouteSelection};
use socket::End;

mod answer;
mod authorizer;
pub(crate) mod connections;
mod events;
mod frames;
mod handshake;
mod request_head;
mod routing;
mod socket;

/// How long frames and `$disconnect`s may take for all connections that end with the gateway.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(10);

/// API Gateway's limits for WebSocket APIs. The clocks can be set shorter, so that tests can see them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// A connection that neither sends nor is sent anything for so long is closed with 1001.
    pub idle: Duration,
    /// A connection is closed with 1001 after so long, whatever happens on it.
    pub connection: Duration,
    /// A handshake whose authorizer takes longer fails. No template can change it.
    pub authorizer: Duration,
    /// The largest frame from a client, in bytes. A larger one is closed with 1009.
    pub frame_bytes: usize,
    /// The largest message in either direction, in bytes.
    pub message_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            idle: Duration::from_secs(10 * 60),
            connection: Duration::from_secs(2 * 60 * 60),
            authorizer: Duration::from_secs(29),
            frame_bytes: 32 * 1024,
            message_bytes: 128 * 1024,
        }
    }
}

/// A WebSocket API that can be served.
#[derive(Debug)]
pub struct WebSocketGateway {
    api: WebSocketApi,
    selection: RouteSelection,
    lambda: Lambda,
    faults: Faults,
    log: AccessLog,
    limits: Limits,
}

/// What all tasks of the gateway share.
#[derive(Debug)]
pub(crate) struct Gateway {
    api: WebSocketApi,
    names: ApiNames,
    selection: RouteSelection,
    lambda: Lambda,
    pub(crate) faults: Faults,
    pub(crate) log: AccessLog,
    pub(crate) limits: Limits,
    pub(crate) connections: Connections,
    port: u16,
    /// Handshakes, sockets, frames and `$disconnect`s under way.
    tasks: TaskTracker,
    /// Ends every socket with 1001.
    closing: CancellationToken,
}

/// What came of calling the function of a route.
enum Called {
    Answered(Answer),
    /// It threw, timed out by its own limit, or exited.
    Failed(String),
    /// It answered what is no proxy object.
    Malformed,
    /// The integration's limit came first.
    TimedOut,
    NotInvoked(String),
}

impl Called {
    /// Why the gateway gives an error of its own, for the log.
    fn cause(&self) -> Option<&str> {
        match self {
            Self::Answered(_) => None,
            Self::Failed(cause) | Self::NotInvoked(cause) => Some(cause),
            Self::Malformed => Some("the answer is no valid proxy object"),
            Self::TimedOut => Some("the integration timed out"),
        }
    }

    /// The status of a frame or of `$disconnect` in the log.
    fn status(&self) -> u16 {
        match self {
            Self::Answered(answer) => answer.status.as_u16(),
            Self::Failed(_) | Self::NotInvoked(_) | Self::Malformed => 500,
            Self::TimedOut => 504,
        }
    }
}

impl WebSocketGateway {
    /// Prepares an API.
    ///
    /// # Errors
    /// If its route selection expression cannot be read.
    pub fn new(
        api: WebSocketApi,
        lambda: Lambda,
        faults: Faults,
        log: AccessLog,
        limits: Limits,
    ) -> anyhow::Result<Self> {
        let selection = RouteSelection::of(&api)?;
        Ok(Self { api, selection, lambda, faults, log, limits })
    }

    /// Serves until `shutdown`; then closes every connection with 1001, and returns when the frames in work are
    /// done and `$disconnect` has run for each. `@connections` works to the end, because functions may still need it.
    ///
    /// # Errors
    /// If the listener fails.
    pub async fn serve(self, listener: TcpListener, shutdown: CancellationToken) -> anyhow::Result<()> {
        let gateway = Arc::new(Gateway {
            names: ApiNames { api_id: ids::api_id(&self.api.logical_id), stage: self.api.stage.clone() },
            api: self.api,
            selection: self.selection,
            lambda: self.lambda,
            faults: self.faults,
            log: self.log,
            limits: self.limits,
            connections: Connections::default(),
            port: listener.local_addr()?.port(),
            tasks: TaskTracker::new(),
            closing: shutdown.clone(),
        });
        let all_closed = async {
            shutdown.cancelled().await;
            gateway.tasks.close();
            // Later than this, whoever still runs is ended by the end of the process.
            let _ = timeout(SHUTDOWN_GRACE, gateway.tasks.wait()).await;
        };
        tokio::pin!(all_closed);
        let mut clients = JoinSet::new();
        let mut acceptor = Acceptor::new(listener);
        loop {
            tokio::select! {
                (stream, peer) = acceptor.accept() => {
                    clients.spawn(serve_client(Arc::clone(&gateway), stream, peer));
                }
                Some(_) = clients.join_next() => {}
                () = &mut all_closed => return Ok(()),
            }
        }
    }
}

async fn serve_client(gateway: Arc<Gateway>, stream: TcpStream, peer: SocketAddr) {
    // Frames are small and wanted at once. It fails only on a socket that is gone, which reading will tell.
    let _ = stream.set_nodelay(true);
    let (stream, spellings) = HeadRecorder::new(stream);
    let service = service_fn(move |request| {
        let (gateway, spellings) = (Arc::clone(&gateway), Arc::clone(&spellings));
        async move { Ok::<_, std::convert::Infallible>(gateway.answer(request, peer, &spellings).await) }
    });
    let mut server = hyper::server::conn::http1::Builder::new();
    // An error means that the client is gone or speaks no HTTP: it has no use for an answer.
    let _ =
        server.timer(TokioTimer::new()).serve_connection(TokioIo::new(stream), service).with_upgrades().await;
}

impl Gateway {
    async fn answer(
        self: &Arc<Self>,
        mut request: Request<Incoming>,
        peer: SocketAddr,
        spellings: &OnceLock<Spellings>,
    ) -> Response<Full<Bytes>> {
        let path = request.uri().path().to_owned();
        let segments: Vec<_> =
            path.split('/').skip(1).map(|segment| percent_decode_str(segment).decode_utf8_lossy()).collect();
        match segments.iter().map(AsRef::as_ref).collect::<Vec<_>>()[..] {
            [stage] if stage == self.names.stage => {
                let spellings = spellings.get_or_init(Spellings::default);
                handshake::respond(self, peer, spellings, &mut request).await
            }
            [stage, "@connections", id] => {
                let right_stage = stage == self.names.stage;
                management::answer(self, peer, right_stage, id, request).await
            }
            _ => self.forbidden(&request, peer),
        }
    }

    /// There is no such stage, or nothing below it by that name.
    fn forbidden(&self, request: &Request<Incoming>, peer: SocketAddr) -> Response<Full<Bytes>> {
        self.log.write(&Access {
            api: Api::Websocket,
            route: &format!("{} {}", request.method(), request.uri().path()),
            status: 403,
            duration: Duration::ZERO,
            request_id: Id::new().as_str(),
            connection_id: None,
            function: None,
            source_ip: Some(peer.ip()),
            error: Some("no such stage or path"),
        });
        handshake::json(StatusCode::FORBIDDEN, r#"{"message":"Forbidden"}"#)
    }

    fn route_of(&self, body: &str) -> Option<(&str, &Route)> {
        let key = self.selection.route_key(&self.api, body)?;
        Some((key, self.api.routes.get(key)?))
    }

    /// Calls a route's function. When the integration's time is up, the function runs on: Lambda does not
    /// know that nobody waits any more.
    async fn call(&self, route: &Route, event: Bytes) -> Called {
        let patience = self.lambda.patience(&route.function, route.integration_timeout);
        match timeout(patience, self.lambda.invoke(&route.function, event)).await {
            Ok(Ok(invocation)) if invocation.function_error.is_some() => {
                Called::Failed(invocation.error_message().unwrap_or_else(|| "the function failed".to_owned()))
            }
            Ok(Ok(invocation)) => {
                Answer::parse(&invocation.payload).map_or(Called::Malformed, Called::Answered)
            }
            Ok(Err(error)) => Called::NotInvoked(format!("the function cannot be invoked: {error}")),
            Err(_) => Called::TimedOut,
        }
    }

    /// A connection has ended: it is gone for everybody who posts, and `$disconnect` is told.
    fn ended(self: &Arc<Self>, connection: &Arc<Connection>, end: &End) {
        self.connections.remove(connection.id());
        if self.faults.current().is_some_and(|faults| faults.drop_disconnect) {
            return;
        }
        let Some(route) = self.api.routes.get(DISCONNECT).cloned() else { return };
        let request_id = Id::new();
        let authorizer = connection.authorizer.as_deref();
        let event = events::disconnect(&self.names, &connection.caller, authorizer, request_id, end.status());
        let close = end.close();
        let (gateway, connection) = (Arc::clone(self), Arc::clone(connection));
        self.tasks.spawn(async move {
            let started = Instant::now();
            let called = gateway.call(&route, event).await;
            let connection_id = connection.id();
            let access = Access {
                api: Api::Websocket,
                route: DISCONNECT,
                status: called.status(),
                duration: started.elapsed(),
                request_id: request_id.as_str(),
                connection_id: Some(connection_id.as_str()),
                function: Some(&route.function),
                source_ip: Some(connection.caller.source_ip),
                error: called.cause(),
            };
            gateway.log.write_disconnect(&access, close);
        });
    }
}
