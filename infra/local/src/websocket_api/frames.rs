//! What becomes of a frame: its route, its function, and what goes back to the client.

use std::sync::Arc;
use std::time::Instant;

use tokio_tungstenite::tungstenite::Utf8Bytes;

use super::connections::Connection;
use super::routing::DEFAULT;
use super::{Called, Gateway, events};
use crate::access_log::{Access, Api};
use crate::ids::Id;
use crate::template::Route;

/// Handles one frame. Those of one connection are handled side by side, so that a later one may be answered
/// first.
pub(super) async fn handle(gateway: Arc<Gateway>, connection: Arc<Connection>, body: Utf8Bytes) {
    let frame =
        Frame { gateway: &gateway, connection: &connection, started: Instant::now(), request_id: Id::new() };
    match gateway.route_of(&body) {
        Some((key, route)) => frame.take(key, route, &body).await,
        None => frame.refuse(),
    }
}

struct Frame<'a> {
    gateway: &'a Gateway,
    connection: &'a Connection,
    started: Instant,
    request_id: Id,
}

impl Frame<'_> {
    async fn take(&self, key: &str, route: &Route, body: &str) {
        let Self { gateway, connection, request_id, .. } = *self;
        let authorizer = connection.authorizer.as_deref();
        let event = events::message(&gateway.names, &connection.caller, authorizer, key, request_id, body);
        let mut called = gateway.call(route, event).await.fit(gateway.limits.message_bytes);
        match &mut called {
            // An answer without a body has nothing to give back.
            Called::Answered(answer) => {
                let body = answer.body.take();
                if let Some(body) = body.filter(|body| route.route_response && !body.is_empty()) {
                    connection.reply(body.into());
                }
            }
            Called::TimedOut => self.reply_error("Endpoint request timed out"),
            Called::Failed(_) | Called::Malformed | Called::NotInvoked(_) => {
                self.reply_error("Internal server error")
            }
        }
        // The client does not wait for the log.
        self.log(key, Some(&route.function), called.status(), called.cause());
    }

    fn refuse(&self) {
        self.reply_error("Forbidden");
        self.log(DEFAULT, None, 403, Some("no route takes the frame"));
    }

    fn reply_error(&self, message: &str) {
        let error = events::gateway_error(message, self.connection.id(), self.request_id);
        self.connection.reply(error.into());
    }

    fn log(&self, route: &str, function: Option<&str>, status: u16, error: Option<&str>) {
        self.gateway.log.write(&Access {
            api: Api::Websocket,
            route,
            status,
            duration: self.started.elapsed(),
            request_id: self.request_id.as_str(),
            connection_id: Some(self.connection.id().as_str()),
            function,
            source_ip: Some(self.connection.caller.source_ip),
            error,
        });
    }
}

impl Called {
    /// An answer whose body is larger than a message may be cannot be sent.
    fn fit(self, message_bytes: usize) -> Self {
        match self {
            Self::Answered(answer) if answer.body.as_ref().is_some_and(|body| body.len() > message_bytes) => {
                Self::Malformed
            }
            other => other,
        }
    }
}
