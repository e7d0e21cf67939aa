//! The access line: one for every call, whatever became of it.

use std::{fmt::Display, time::Instant};

use shared::Error;

/// What one line of the log tells of one call. Never a body, a token, a password, an e-mail address, a query.
#[derive(Debug)]
pub struct Access {
    function: &'static str,
    request_id: String,
    route: String,
    started: Instant,
    cold_start: bool,
    /// The action of a frame.
    pub action: Option<&'static str>,
    /// Who called.
    pub user: Option<String>,
    /// On which connection.
    pub connection: Option<String>,
    /// About which room.
    pub room: Option<String>,
    /// How many messages of a queue the call was made for.
    pub records: Option<usize>,
    /// How many of them come again.
    pub failed: Option<usize>,
}

impl Access {
    /// Begins a call.
    pub fn begin(function: &'static str, request_id: &str, route: &str, cold_start: bool) -> Self {
        Self {
            function,
            request_id: request_id.to_owned(),
            route: route.to_owned(),
            started: Instant::now(),
            cold_start,
            action: None,
            user: None,
            connection: None,
            room: None,
            records: None,
            failed: None,
        }
    }

    /// Ends the call, with an HTTP status or with the code of a frame's answer.
    pub fn end(self, status: Option<u16>, code: Option<&str>) {
        let duration_ms = self.started.elapsed().as_secs_f64() * 1_000.0;
        tracing::info!(
            request_id = self.request_id,
            function = self.function,
            route = self.route,
            action = self.action,
            status,
            code,
            // A tenth of a millisecond is as much as anybody reads.
            duration_ms = (duration_ms * 10.0).round() / 10.0,
            cold_start = self.cold_start,
            user_id = self.user,
            connection_id = self.connection,
            room = self.room,
            records = self.records,
            failed = self.failed,
            "call"
        );
    }

    /// Logs the cause of an error that the client is not to blame for, once, under the request's id.
    pub fn log_cause(&self, error: &Error) {
        if let Some(cause) = error.cause_chain() {
            log_failure(&self.request_id, self.function, error.code(), &cause);
        }
    }
}

pub(crate) fn log_failure(request_id: &str, function: &str, code: &str, cause: &dyn Display) {
    tracing::error!(request_id, function, code, %cause, "a call has failed");
}

/// What a panic said.
pub(crate) fn panic_text(panic: &(dyn std::any::Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("something that is no text")
}
