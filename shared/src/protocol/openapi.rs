//! What the description of the HTTP API says of calls that fail.

use utoipa::IntoResponses;

use super::http::FailureBody;

/// How every call may fail.
#[derive(IntoResponses)]
pub enum OutageResponses {
    /// `internal`: a mistake of ours; the log has it under `request_id`.
    #[response(status = 500)]
    Internal(FailureBody),
    /// `unavailable`: Postgres or Redis is away.
    #[response(status = 503)]
    Unavailable(FailureBody),
}

/// How every call that needs a session may fail.
#[derive(IntoResponses)]
pub enum SessionResponses {
    /// `unauthorized`: no session, or one that has ended.
    #[response(status = 401)]
    Unauthorized(FailureBody),
}

/// How every call with a body may fail.
#[derive(IntoResponses)]
pub enum BodyResponses {
    /// `bad_json`: the body is not JSON.
    #[response(status = 400)]
    BadJson(FailureBody),
    /// `too_large`: the body has more than 64 KiB.
    #[response(status = 413)]
    TooLarge(FailureBody),
    /// `validation_failed`: `fields` says what is wrong with each.
    #[response(status = 422)]
    ValidationFailed(FailureBody),
}

/// How every call with query parameters may fail.
#[derive(IntoResponses)]
pub enum QueryResponses {
    /// `validation_failed`: `fields` says what is wrong with each parameter.
    #[response(status = 422)]
    ValidationFailed(FailureBody),
}

/// How every call that is throttled may fail.
#[derive(IntoResponses)]
pub enum ThrottleResponses {
    /// `throttled`: too many of these calls from the address or for the account.
    #[response(status = 429, headers(("retry-after" = u64, description = "Seconds until the next one would pass.")))]
    Throttled(FailureBody),
}

/// How every call about a room may fail.
#[derive(IntoResponses)]
pub enum RoomResponses {
    /// `not_found`: there is no such room, or none that you may know of.
    #[response(status = 404)]
    NotFound(FailureBody),
}

/// How every call that not everybody may make may fail.
#[derive(IntoResponses)]
pub enum PermissionResponses {
    /// `forbidden`: known, but not allowed.
    #[response(status = 403)]
    Forbidden(FailureBody),
}
