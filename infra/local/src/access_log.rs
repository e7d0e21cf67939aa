//! The access log: one line for every call that reaches the local AWS, also for those that no function sees.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::net::IpAddr;
use std::time::Duration;

use serde::Serialize;
use time::OffsetDateTime;
use time::format_description::BorrowedFormatItem;
use time::macros::format_description;

use crate::console::Console;

/// A route is cut after so many bytes: a path that no route takes may be as long as its sender likes.
const MAX_ROUTE_BYTES: usize = 512;

/// Which part of the local AWS a call came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Api {
    /// The HTTP API.
    Http,
    /// A handshake or a frame of the WebSocket API.
    Websocket,
    /// `@connections`.
    Management,
    /// Lambda's Invoke API.
    Lambda,
    /// SQS, and the calls of functions for what is in its queues.
    Sqs,
}

/// What the log says of one call. Never a query string, a body or a header: they hold tokens and passwords.
#[derive(Debug)]
pub struct Access<'a> {
    /// Where the call came to.
    pub api: Api,
    /// The route key; for a call that no route takes, its method and path.
    pub route: &'a str,
    /// The HTTP status, or what the gateway makes of a frame: 200, or its own error (403, 500, 504).
    pub status: u16,
    /// From the call's arrival to its answer.
    pub duration: Duration,
    /// The gateway's request id, which the function sees as well.
    pub request_id: &'a str,
    /// The WebSocket connection.
    pub connection_id: Option<&'a str>,
    /// The function that was invoked.
    pub function: Option<&'a str>,
    /// The caller's address.
    pub source_ip: Option<IpAddr>,
    /// Why the gateway gave an error of its own: a fixed text, or what Lambda said of the function.
    pub error: Option<&'a str>,
}

/// How a connection ended, for the line of its `$disconnect`. Without the reason, which is the client's text.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Close {
    /// The code of the close frame, or what stands for none.
    pub(crate) code: u16,
    /// Whether the gateway closed it.
    pub(crate) by_gateway: bool,
}

/// Writes the access lines. Never waits for the terminal.
#[derive(Clone, Debug)]
pub struct AccessLog {
    console: Console,
}

pub(crate) const TIMESTAMP: &[BorrowedFormatItem<'_>] =
    format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:3]Z");
pub(crate) const CLOCK: &[BorrowedFormatItem<'_>] =
    format_description!("[hour]:[minute]:[second].[subsecond digits:3]");

#[derive(Serialize)]
struct JsonLine<'a> {
    timestamp: &'a str,
    level: &'static str,
    message: &'static str,
    api: Api,
    route: &'a str,
    status: u16,
    duration_ms: f64,
    request_id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    connection_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    function: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    source_ip: Option<IpAddr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    close_code: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    closed_by_gateway: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'a str>,
}

impl AccessLog {
    /// A log on this console: JSON, or columns when a person is looking.
    pub fn new(console: Console) -> Self {
        Self { console }
    }

    /// Writes the line of one call.
    pub fn write(&self, access: &Access<'_>) {
        self.write_line(access, None);
    }

    /// Writes the line of a `$disconnect`.
    pub(crate) fn write_disconnect(&self, access: &Access<'_>, close: Close) {
        self.write_line(access, Some(close));
    }

    fn write_line(&self, access: &Access<'_>, close: Option<Close>) {
        let now = OffsetDateTime::now_utc();
        let form = if self.console.is_terminal() { columns } else { json };
        self.console.line(form(access, close, now));
    }
}

fn level(access: &Access<'_>) -> &'static str {
    if access.status >= 500 { "ERROR" } else { "INFO" }
}

fn json(access: &Access<'_>, close: Option<Close>, now: OffsetDateTime) -> String {
    let line = JsonLine {
        timestamp: &now.format(TIMESTAMP).expect("a date of these centuries"),
        level: level(access),
        message: "access",
        api: access.api,
        route: &shortened(access.route),
        status: access.status,
        duration_ms: (access.duration.as_secs_f64() * 100_000.0).round() / 100.0,
        request_id: access.request_id,
        connection_id: access.connection_id,
        function: access.function,
        source_ip: access.source_ip,
        close_code: close.map(|close| close.code),
        closed_by_gateway: close.map(|close| close.by_gateway),
        error: access.error,
    };
    serde_json::to_string(&line).expect("a line of strings and numbers is JSON")
}

fn columns(access: &Access<'_>, close: Option<Close>, now: OffsetDateTime) -> String {
    let clock = now.format(CLOCK).expect("a date of these centuries");
    let colour = match access.status {
        0..400 => 32,
        400..500 => 33,
        _ => 31,
    };
    let api = match access.api {
        Api::Http => "http",
        Api::Websocket => "socket",
        Api::Management => "push",
        Api::Lambda => "invoke",
        Api::Sqs => "queue",
    };
    let milliseconds = access.duration.as_secs_f64() * 1_000.0;
    let mut line = format!(
        "\x1b[2m{clock}\x1b[0m {api:<8} \x1b[{colour}m{}\x1b[0m {milliseconds:>8.1} ms  {}",
        access.status,
        printable(&shortened(access.route))
    );
    if let Some(Close { code, by_gateway }) = close {
        let by = if by_gateway { " by the gateway" } else { "" };
        write!(line, " ({code}{by})").expect("a string takes all");
    }
    if let Some(connection_id) = access.connection_id {
        write!(line, "  \x1b[2m{connection_id}\x1b[0m").expect("a string takes all");
    }
    if let Some(error) = access.error {
        write!(line, "  \x1b[31m{}\x1b[0m", printable(error)).expect("a string takes all");
    }
    line
}

fn shortened(route: &str) -> Cow<'_, str> {
    if route.len() <= MAX_ROUTE_BYTES {
        return route.into();
    }
    format!("{}\u{2026}", &route[..route.floor_char_boundary(MAX_ROUTE_BYTES)]).into()
}

/// A path comes from outside: it must not be able to steer the terminal.
pub(crate) fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn access() -> Access<'static> {
        Access {
            api: Api::Http,
            route: "GET /rooms/{room}",
            status: 200,
            duration: Duration::from_micros(12_345),
            request_id: "JKJaXmPLvHcESHA=",
            connection_id: None,
            function: Some("rooms"),
            source_ip: Some(Ipv4Addr::LOCALHOST.into()),
            error: None,
        }
    }

    #[test]
    fn a_line_is_one_json_object_with_the_fields_that_the_call_has() {
        let line = json(&access(), None, OffsetDateTime::UNIX_EPOCH);
        assert_eq!(
            line,
            r#"{"timestamp":"1970-01-01T00:00:00.000Z","level":"INFO","message":"access","api":"http","route":"GET /rooms/{room}","status":200,"duration_ms":12.35,"request_id":"JKJaXmPLvHcESHA=","function":"rooms","source_ip":"127.0.0.1"}"#
        );
    }

    #[test]
    fn a_path_cannot_steer_the_terminal() {
        let line = columns(&Access { route: "GET /\x1b[2J", ..access() }, None, OffsetDateTime::UNIX_EPOCH);
        assert!(!line.contains("\x1b[2J"), "{line:?}");
    }

    #[test]
    fn a_long_path_is_cut_between_two_characters() {
        let route = format!("GET /{}", "\u{e4}".repeat(40_000));
        let line = json(&Access { route: &route, ..access() }, None, OffsetDateTime::UNIX_EPOCH);
        assert!(line.contains("\u{e4}\u{2026}\"") && line.len() < 2 * MAX_ROUTE_BYTES, "{line}");
    }

    #[test]
    fn the_end_of_a_connection_has_its_code_and_whether_the_gateway_closed_it() {
        let close = Some(Close { code: 1001, by_gateway: true });
        let line = json(&access(), close, OffsetDateTime::UNIX_EPOCH);
        assert!(line.contains(r#""close_code":1001,"closed_by_gateway":true"#), "{line}");
        let line = columns(&access(), close, OffsetDateTime::UNIX_EPOCH);
        assert!(line.contains("(1001 by the gateway)"), "{line}");
    }
}
