//! What becomes of a frame: its route, its function, and what goes back to the client.

use std::sync::Arc;
use std::time::Instant;

use tokio_tungstenite::tungstenite::Utf8Bytes;

use super::connections::Connection;
use super::{Called, Gateway, events};
use crate::access_log::{Access, Api};
use crate::ids::Id;

/// Handles one frame. Those of one connection are handled side by side, so that a later one may be answered
/// first.
pub(super) async fn handle(gateway: Arc<Gateway>, connection: Arc<Connection>, body: Utf8Bytes) {
    let started = Instant::now();
    let request_id = Id::new();
    let handled = route(&gateway, &connection, request_id, &body).await;
    let reply = match handled.reply {
        Reply::None => None,
        Reply::Body(body) => Some(body),
        Reply::Error(message) => Some(events::gateway_error(message, connection.id(), request_id)),
    };
    if let Some(reply) = reply {
        connection.reply(reply.into());
    }
    gateway.log.write(&Access {
        api: Api::Websocket,
        route: handled.route,
        status: handled.status,
        duration: started.elapsed(),
        request_id: request_id.as_str(),
        connection_id: Some(connection.id().as_str()),
        function: handled.function,
        source_ip: Some(connection.caller.source_ip),
        error: handled.error,
    });
}

struct Handled<'a> {
    route: &'a str,
    function: Option<&'a str>,
    status: u16,
    error: Option<&'static str>,
    reply: Reply,
}

enum Reply {
    None,
    Body(String),
    Error(&'static str),
}

async fn route<'a>(gateway: &'a Gateway, connection: &Connection, request_id: Id, body: &str) -> Handled<'a> {
    let Some((key, route)) = gateway.route_of(body) else {
        let reply = Reply::Error("Forbidden");
        return Handled {
            route: "",
            function: None,
            status: 403,
            error: Some("no route takes the frame"),
            reply,
        };
    };
    let authorizer = connection.authorizer.as_deref();
    let event = events::message(&gateway.names, &connection.caller, authorizer, key, request_id, body);
    let (status, error, reply) = match gateway.call(route, event).await {
        Called::Answered(answer) => {
            // An answer without a body has nothing to give back.
            let body = answer.body.filter(|body| route.route_response && !body.is_empty());
            match body {
                Some(body) if body.len() > gateway.limits.message_bytes => (
                    500,
                    Some("the answer is larger than a message may be"),
                    Reply::Error("Internal server error"),
                ),
                Some(body) => (answer.status.as_u16(), None, Reply::Body(body)),
                None => (answer.status.as_u16(), None, Reply::None),
            }
        }
        Called::Failed => (500, Some("the function failed"), Reply::Error("Internal server error")),
        Called::Malformed => (500, Some("no valid proxy object"), Reply::Error("Internal server error")),
        Called::NotInvoked => {
            (500, Some("the function cannot be invoked"), Reply::Error("Internal server error"))
        }
        Called::TimedOut => {
            (504, Some("the integration timed out"), Reply::Error("Endpoint request timed out"))
        }
    };
    Handled { route: key, function: Some(&route.function), status, error, reply }
}
