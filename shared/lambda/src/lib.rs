//! What every function needs of the Lambda runtime: its events turned into ours, one access line for every call, and an
//! answer also after a panic. Only this crate and the functions know Lambda's event types.

pub mod access;
pub mod authorizer;
pub mod http;
pub mod queue;
pub mod websocket;

use std::process::ExitCode;

/// Why a function does not start, or has stopped.
pub type Fatal = lambda_runtime::Error;

/// Ends the process: with one line that says why, if it should have gone on.
pub fn exit(outcome: Result<(), Fatal>) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(cause) => {
            tracing::error!(%cause, "the function cannot start or go on");
            ExitCode::FAILURE
        }
    }
}
