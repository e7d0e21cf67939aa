//! What Lambda answers when a function gave no answer of its own.

use std::os::unix::process::ExitStatusExt as _;
use std::process::ExitStatus;
use std::time::Duration;

use bytes::Bytes;
use nix::sys::signal::Signal;
use serde_json::{Value, json};

fn payload(kind: &str, message: &str) -> Bytes {
    json!({"errorType": kind, "errorMessage": message}).to_string().into()
}

/// The process ended in the middle of a call, or before its first.
pub(super) fn exited(request_id: &str, status: Option<ExitStatus>) -> Bytes {
    payload("Runtime.ExitError", &format!("RequestId: {request_id} Error: {}", how(status)))
}

/// How a process ended, in Lambda's words.
pub(super) fn how(status: Option<ExitStatus>) -> String {
    match status.map(|status| (status.code(), status.signal())) {
        Some((Some(0), _)) | None => "Runtime exited without providing a reason".to_owned(),
        Some((Some(code), _)) => format!("Runtime exited with error: exit status {code}"),
        Some((None, signal)) => {
            let signal = signal.and_then(|number| Signal::try_from(number).ok());
            let name = signal.map_or("unknown", |signal| match signal {
                Signal::SIGKILL => "killed",
                Signal::SIGABRT => "aborted",
                Signal::SIGSEGV => "segmentation fault",
                Signal::SIGTERM => "terminated",
                other => other.as_str(),
            });
            format!("Runtime exited with error: signal: {name}")
        }
    }
}

/// The call took longer than the function's timeout.
pub(super) fn timed_out(request_id: &str, timeout: Duration) -> Bytes {
    let seconds = timeout.as_secs_f64();
    let message = format!("RequestId: {request_id} Error: Task timed out after {seconds:.2} seconds");
    payload("Sandbox.Timedout", &message)
}

/// The process did not ask for its first call in time.
pub(super) fn init_timed_out(request_id: &str, limit: Duration) -> Bytes {
    let seconds = limit.as_secs_f64();
    let message = format!("RequestId: {request_id} Error: Init timed out after {seconds:.2} seconds");
    payload("Sandbox.Timedout", &message)
}

/// There is no program to start.
pub(super) fn not_started(request_id: &str, why: &str) -> Bytes {
    payload("Runtime.InvalidEntrypoint", &format!("RequestId: {request_id} Error: {why}"))
}

/// The answer is larger than Lambda takes.
pub(super) fn answer_too_large() -> Bytes {
    let limit = super::MAX_PAYLOAD_BYTES;
    let message = format!("Response payload size exceeded maximum allowed payload size ({limit} bytes).");
    payload("Function.ResponseSizeTooLarge", &message)
}

/// `<errorType>: <errorMessage>` of a failure's payload.
pub(super) fn message(payload: &[u8]) -> Option<String> {
    let failure: Value = serde_json::from_slice(payload).ok()?;
    let (kind, message) =
        (failure["errorType"].as_str()?, failure["errorMessage"].as_str().unwrap_or_default());
    Some(format!("{kind}: {message}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timeout_is_told_in_lambdas_words() {
        let payload = timed_out("id", Duration::from_millis(3_000));
        let expected = r#"{"errorMessage":"RequestId: id Error: Task timed out after 3.00 seconds","errorType":"Sandbox.Timedout"}"#;
        assert_eq!(payload, expected);
    }

    #[test]
    fn an_end_is_told_by_code_or_signal() {
        assert_eq!(how(Some(ExitStatus::from_raw(0))), "Runtime exited without providing a reason");
        assert_eq!(how(Some(ExitStatus::from_raw(3 << 8))), "Runtime exited with error: exit status 3");
        assert_eq!(how(Some(ExitStatus::from_raw(9))), "Runtime exited with error: signal: killed");
    }
}
