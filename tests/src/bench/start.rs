//! The time from process start to first answer of every function.

use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde::Serialize;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use time::OffsetDateTime;
use uuid::Uuid;

use super::{Plan, Stack, median};
use crate::user::User;

/// How often each function is started in a round.
const STARTS: usize = 5;

/// What was measured of one function: medians over all starts.
#[derive(Debug, Serialize)]
pub struct StartFigures {
    /// The function.
    pub function: &'static str,
    /// Milliseconds from the start of the process to its first request for a call.
    pub init_ms: f64,
    /// Milliseconds from the start of the process to its first answer, its connections to Redis and Postgres included.
    pub first_answer_ms: f64,
    /// Milliseconds that the same call takes when everything is warm.
    pub warm_ms: f64,
}

/// Measures all functions. `progress` is told of every finished round of a function.
///
/// # Errors
/// The stack does not start, or a function fails.
pub async fn measure(plan: &Plan, progress: impl Fn()) -> Result<Vec<StartFigures>> {
    let stack = Stack::start(&plan.functions).await?;
    let user = stack.sign_up("Ada").await;
    let room = user.make_public_room().await;
    let mut figures = Vec::new();
    for (function, event) in events(&user, &room) {
        let (mut inits, mut firsts, mut warms) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..plan.rounds {
            for _ in 0..STARTS {
                end_all(&stack, function).await?;
                firsts.push(invoke(&stack, function, &event).await?);
                inits.push(init_ms(&stack, function).await?);
                warms.push(invoke(&stack, function, &event).await?);
            }
            progress();
        }
        figures.push(StartFigures {
            function,
            init_ms: median(&inits).unwrap_or_default(),
            first_answer_ms: median(&firsts).unwrap_or_default(),
            warm_ms: median(&warms).unwrap_or_default(),
        });
    }
    stack.aws.stop().await?;
    Ok(figures)
}

/// How many functions are measured.
pub const FUNCTIONS: usize = 10;

/// An event for each function that makes it do its usual work with Redis and Postgres.
fn events(user: &User, room: &str) -> [(&'static str, Value); FUNCTIONS] {
    let session: String =
        Sha256::digest(user.token.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect();
    let now_ms = OffsetDateTime::now_utc().unix_timestamp() * 1_000;
    let authorizer = json!({"principalId": user.id, "user": user.id, "name": user.name, "session": session});
    let websocket = |route: &str, event_type: &str, body: Option<&str>| {
        let context = json!({
            "routeKey": route, "eventType": event_type, "connectionId": "bench-start-1=", "requestId": "bench-request=",
            "connectedAt": 0, "requestTimeEpoch": 0, "messageId": "bench-message=", "stage": "live", "apiId": "local",
            "domainName": "localhost", "authorizer": authorizer, "identity": {"sourceIp": "127.0.0.1"},
        });
        json!({"requestContext": context, "body": body, "isBase64Encoded": false})
    };
    let bearer = format!("Bearer {}", user.token);
    let http = |method: &str, path: &str, body: Option<&str>| {
        let context = json!({
            "accountId": "123456789012", "apiId": "local", "domainName": "localhost", "domainPrefix": "localhost",
            "http": {"method": method, "path": path, "protocol": "HTTP/1.1", "sourceIp": "127.0.0.1", "userAgent": "bench"},
            "requestId": "bench-request=", "routeKey": format!("{method} {path}"), "stage": "$default",
            "time": "22/Nov/2026:16:00:00 +0000", "timeEpoch": 0,
        });
        json!({
            "version": "2.0", "routeKey": format!("{method} {path}"), "rawPath": path, "rawQueryString": "",
            "headers": {"authorization": bearer, "content-type": "application/json", "host": "localhost"},
            "requestContext": context, "body": body, "isBase64Encoded": false,
        })
    };
    let handshake = json!({
        "type": "REQUEST", "methodArn": "arn:aws:execute-api:eu-central-1:123456789012:local/live/$connect",
        "headers": {"Authorization": bearer}, "multiValueHeaders": {"Authorization": [bearer]},
        "requestContext": websocket("$connect", "CONNECT", None)["requestContext"],
    });
    let queued = |queue: &str, body: Value| {
        let attributes = json!({"ApproximateReceiveCount": "1", "SentTimestamp": now_ms.to_string()});
        json!({"Records": [{
            "messageId": Uuid::from_u128(1), "receiptHandle": "bench", "body": body.to_string(),
            "attributes": attributes, "messageAttributes": {}, "md5OfBody": "", "eventSource": "aws:sqs",
            "eventSourceARN": format!("arn:aws:sqs:us-east-1:000000000000:local-{queue}"), "awsRegion": "us-east-1",
        }]})
    };
    let event = json!({
        "type": "message", "event": Uuid::from_u128(1), "from": {"id": user.id, "name": user.name}, "text": "hi",
    });
    let record = json!({"room": room, "position": format!("{now_ms}-0"), "previous": null, "event": event});
    // To a connection that is gone.
    let slice = json!({
        "room": room, "frame": "{}", "receivers": [["bench-start-1=", user.id]], "attempt": 0, "made_at_ms": now_ms,
    });
    [
        // The hash of a password would be most of the time, and says nothing about the start: this one stops before it.
        ("signup", http("POST", "/signup", Some("{}"))),
        ("login", http("POST", "/tickets", None)),
        ("rooms", http("GET", "/rooms", None)),
        ("web", http("GET", "/health", None)),
        ("authorize", handshake),
        ("connect", websocket("$connect", "CONNECT", None)),
        ("message", websocket("$default", "MESSAGE", Some(r#"{"action":"ping"}"#))),
        ("disconnect", websocket("$disconnect", "DISCONNECT", None)),
        ("archive", queued("ArchiveQueue", record)),
        ("fanout", queued("FanoutQueue", slice)),
    ]
}

/// Invokes a function and answers how many milliseconds that took.
async fn invoke(stack: &Stack, function: &str, event: &Value) -> Result<f64> {
    let url = format!("{}/2015-03-31/functions/{function}/invocations", stack.aws.endpoints.control);
    let call = reqwest::Client::new().post(url).body(event.to_string());
    let start = Instant::now();
    let answer = call.send().await?;
    let milliseconds = start.elapsed().as_secs_f64() * 1_000.0;
    ensure!(answer.status().is_success(), "{function} cannot be invoked: {}", answer.status());
    ensure!(
        !answer.headers().contains_key("x-amz-function-error"),
        "{function} failed: {}",
        answer.text().await?
    );
    Ok(milliseconds)
}

async fn instances(stack: &Stack, function: &str) -> Result<Vec<Value>> {
    let url = format!("{}/functions", stack.aws.endpoints.control);
    let mut instances: Vec<Value> = reqwest::get(url).await?.json().await?;
    instances.retain(|instance| instance["function"] == function);
    Ok(instances)
}

async fn init_ms(stack: &Stack, function: &str) -> Result<f64> {
    let instances = instances(stack, function).await?;
    instances.first().and_then(|instance| instance["init_ms"].as_f64()).context("the function is not running")
}

/// Ends the processes of a function, and waits until the local AWS has noticed.
async fn end_all(stack: &Stack, function: &str) -> Result<()> {
    for instance in instances(stack, function).await? {
        let pid = instance["pid"].as_i64().context("an instance has a process")?;
        kill(Pid::from_raw(i32::try_from(pid)?), Signal::SIGKILL)?;
    }
    while !instances(stack, function).await?.is_empty() {
        tokio::task::yield_now().await;
    }
    Ok(())
}
