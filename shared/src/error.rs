//! The one error type: what a client can act on carries data and a stable code, the rest carries its cause.

use std::{collections::BTreeMap, error::Error as StdError, time::Duration};

use crate::domain::{Invalid, rooms::Refusal};

/// What can go wrong in a call or a frame.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// The reasons by field name, each a sentence for the person who typed the value.
pub type Fields = BTreeMap<&'static str, String>;

type Cause = Box<dyn StdError + Send + Sync>;

/// Why a call or a frame was not done. [`Error::code`] is stable; the texts are for people.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The body is not JSON at all.
    #[error("The body is not valid JSON")]
    BadJson,
    /// The body is JSON, but some fields are missing or not as they must be.
    #[error("Some fields are missing or not valid")]
    ValidationFailed(Fields),
    /// No session, or one that has ended.
    #[error("{0}")]
    Unauthorized(&'static str),
    /// Known, but not allowed.
    #[error("You may not do this")]
    Forbidden,
    /// Not there, or not for you to know of.
    #[error("There is no such {0}")]
    NotFound(&'static str),
    /// It would break something that must stay true.
    #[error("{0}")]
    Conflict(&'static str),
    /// The body is over the limit, in bytes.
    #[error("The body is larger than {limit} bytes")]
    TooLarge {
        /// The limit, in bytes.
        limit: usize,
    },
    /// Too many calls or frames in the window.
    #[error("Too many requests; try again later")]
    Throttled {
        /// When the next one would pass. Exact, if nobody else uses the same window.
        retry_after: Duration,
    },
    /// The user has as many connections as one may have.
    #[error("You have {most} connections already; close one first")]
    TooManyConnections {
        /// The limit.
        most: usize,
    },
    /// A frame's `action` is none that exists.
    #[error("There is no such action")]
    UnknownAction,
    /// The connection has not joined the room, or Redis has forgotten that it had.
    #[error("Join the room first")]
    NotJoined,
    /// Postgres, Redis or the management API is away.
    #[error("{operation} is not possible right now; try again soon")]
    Unavailable {
        /// What was tried, for the log and the person.
        operation: &'static str,
        /// Why it failed, for the log only.
        #[source]
        cause: Cause,
    },
    /// A mistake of ours.
    #[error("{operation} failed")]
    Internal {
        /// What was tried, for the log only.
        operation: &'static str,
        /// Why it failed, for the log only.
        #[source]
        cause: Cause,
    },
}

impl Error {
    /// Something that Banter needs is away.
    pub fn unavailable(operation: &'static str, cause: impl Into<Cause>) -> Self {
        Self::Unavailable { operation, cause: cause.into() }
    }

    /// A mistake of ours, with what was tried.
    pub fn internal(operation: &'static str, cause: impl Into<Cause>) -> Self {
        Self::Internal { operation, cause: cause.into() }
    }

    /// One field is not as it must be.
    pub fn invalid(field: &'static str, invalid: &Invalid) -> Self {
        Self::ValidationFailed(Fields::from([(field, invalid.to_string())]))
    }

    /// No `Authorization` header, or none that can be read.
    pub const fn no_session() -> Self {
        Self::Unauthorized("Log in first: send the header Authorization: Bearer <token>")
    }

    /// The session was ended, has run out, or never was.
    pub const fn session_ended() -> Self {
        Self::Unauthorized("The session has ended; log in again")
    }

    /// A log-in that failed. The same whether there is such an account or not.
    pub const fn wrong_credentials() -> Self {
        Self::Unauthorized("The e-mail address or the password is wrong")
    }

    /// The stable code that clients switch on.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::BadJson => "bad_json",
            Self::ValidationFailed(_) => "validation_failed",
            Self::Unauthorized(_) => "unauthorized",
            Self::Forbidden => "forbidden",
            Self::NotFound(_) => "not_found",
            Self::Conflict(_) => "conflict",
            Self::TooLarge { .. } => "too_large",
            Self::Throttled { .. } | Self::TooManyConnections { .. } => "throttled",
            Self::UnknownAction => "unknown_action",
            Self::NotJoined => "not_joined",
            Self::Unavailable { .. } => "unavailable",
            Self::Internal { .. } => "internal",
        }
    }

    /// The HTTP status of the code.
    pub const fn status(&self) -> u16 {
        match self {
            Self::BadJson | Self::UnknownAction => 400,
            Self::Unauthorized(_) => 401,
            Self::Forbidden => 403,
            Self::NotFound(_) => 404,
            Self::Conflict(_) | Self::NotJoined => 409,
            Self::TooLarge { .. } => 413,
            Self::ValidationFailed(_) => 422,
            Self::Throttled { .. } | Self::TooManyConnections { .. } => 429,
            Self::Internal { .. } => 500,
            Self::Unavailable { .. } => 503,
        }
    }

    /// What a person may read. The causes of `unavailable` and `internal` stay in the log.
    pub fn message(&self) -> String {
        match self {
            Self::Internal { .. } => "Something went wrong on our side; it is in the log".to_owned(),
            Self::Unavailable { .. } => "A part of the service is away; try again in a moment".to_owned(),
            other => format!("{other}."),
        }
    }

    /// The cause with everything behind it, for the log; none where the client is to blame.
    pub fn cause_chain(&self) -> Option<String> {
        let mut cause = self.source()?;
        let mut chain = format!("{self}: {cause}");
        while let Some(next) = cause.source() {
            chain.push_str(": ");
            chain.push_str(&next.to_string());
            cause = next;
        }
        Some(chain)
    }
}

impl From<Refusal> for Error {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Unknown => Self::NotFound("room"),
            Refusal::Forbidden => Self::Forbidden,
        }
    }
}
