//! Functions behind a WebSocket API's routes.

use std::{cell::Cell, collections::HashMap, panic::AssertUnwindSafe};

use aws_lambda_events::{
    apigw::{ApiGatewayProxyResponse, ApiGatewayWebsocketProxyRequest},
    encodings::Body,
};
use futures::FutureExt;
use lambda_runtime::{LambdaEvent, service_fn};
use serde_json::Value;
use shared::{
    Error,
    domain::{messages::ConnectionId, users::UserId},
    identity::Identity,
    protocol::{
        Failure,
        frames::{Referenced, Reply},
    },
    token::TokenHash,
};

use crate::{
    Fatal,
    access::{Access, log_failure, panic_text},
};

/// The keys under which the authorizer hands an identity to the gateway, which repeats it on every event.
pub mod context {
    /// The user's id.
    pub const USER: &str = "user";
    /// First and last name.
    pub const NAME: &str = "name";
    /// The hash of the session's token, in hexadecimal.
    pub const SESSION: &str = "session";
}

/// Something that happened on a connection.
#[derive(Debug)]
pub struct Event {
    /// Which connection.
    pub connection: ConnectionId,
    /// The gateway's id of this event.
    pub request_id: String,
    /// Who the authorizer found to be speaking.
    pub identity: Option<Identity>,
    /// What the client sent; empty but for `$default`.
    pub body: String,
}

/// What a function answers to the gateway.
#[derive(Debug)]
pub struct Answer {
    status: u16,
    body: Option<String>,
    code: Option<&'static str>,
}

impl Answer {
    /// All is well, nothing to say.
    pub fn ok() -> Self {
        Self { status: 200, body: None, code: None }
    }

    /// Refuses a handshake: the status is what the client sees.
    pub fn refused(error: &Error) -> Self {
        Self { status: error.status(), body: None, code: Some(error.code()) }
    }

    /// No reply: the connection is closed already.
    pub fn closed(error: &Error) -> Self {
        Self { status: 200, body: None, code: Some(error.code()) }
    }

    /// A reply to the frame. Errors are replies too: what the gateway makes of another status than 200 is not known.
    pub fn reply(reply: Referenced) -> Self {
        let code = match &reply.reply {
            Reply::Error(failure) => Some(failure.code),
            _ => None,
        };
        // Maps with string keys and no failing parts: a reply always serialises.
        let body = serde_json::to_string(&reply).expect("a reply serialises");
        Self { status: 200, body: Some(body), code }
    }
}

/// Serves a route until the process ends. `handle` may add to the access line what it learns of the call.
///
/// # Errors
/// The Runtime API is gone.
pub async fn run(
    function: &'static str,
    handle: impl AsyncFn(Event, &mut Access) -> Answer,
) -> Result<(), Fatal> {
    let cold_start = Cell::new(true);
    lambda_runtime::run(service_fn(async |event: LambdaEvent<ApiGatewayWebsocketProxyRequest>| {
        let answer = serve(function, &handle, event.payload, cold_start.replace(false)).await;
        Ok::<_, Fatal>(answer)
    }))
    .await
}

async fn serve(
    function: &'static str,
    handle: &impl AsyncFn(Event, &mut Access) -> Answer,
    request: ApiGatewayWebsocketProxyRequest,
    cold_start: bool,
) -> ApiGatewayProxyResponse {
    let context = request.request_context;
    let request_id = context.request_id.unwrap_or_default();
    let mut access =
        Access::begin(function, &request_id, context.route_key.as_deref().unwrap_or_default(), cold_start);
    let event = Event {
        connection: ConnectionId::new(context.connection_id.as_deref().unwrap_or_default()),
        request_id: request_id.clone(),
        identity: identity(&context.authorizer.fields),
        body: request.body.unwrap_or_default(),
    };
    let replies = context.route_key.as_deref() == Some("$default");
    access.connection = Some(event.connection.to_string());
    access.user = event.identity.as_ref().map(|identity| identity.user.to_string());

    // In a box: the types of futures nest deeply, and the compiler gives up on laying them out in one piece.
    let outcome = AssertUnwindSafe(handle(event, &mut access).boxed_local()).catch_unwind().await;
    let answer = outcome.unwrap_or_else(|panic| {
        let error = Error::internal("handling an event", "the function panicked");
        log_failure(&request_id, function, error.code(), &format_args!("panic: {}", panic_text(&*panic)));
        let failure = Reply::Error(Failure::new(&error, &request_id));
        let answer = Answer::reply(Referenced { reply: failure, reference: None });
        // $default has a reply; on the other routes the status tells.
        Answer { status: if replies { 200 } else { error.status() }, ..answer }
    });
    access.end(Some(answer.status), answer.code);

    let mut response = ApiGatewayProxyResponse::default();
    response.status_code = answer.status.into();
    response.body = answer.body.map(Body::Text);
    response
}

/// Reads the identity that `authorize` has put into the context; none if a part is missing or unreadable.
fn identity(context: &HashMap<String, Value>) -> Option<Identity> {
    let text = |key| context.get(key).and_then(Value::as_str);
    Some(Identity {
        user: UserId::parse(text(context::USER)?).ok()?,
        name: text(context::NAME)?.to_owned(),
        session: TokenHash::parse_hex(text(context::SESSION)?)?,
    })
}
