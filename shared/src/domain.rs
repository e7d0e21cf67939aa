//! The rules of the chat, without any store, clock or network.
//!
//! Everything that comes from outside is parsed once into a type of this module, and not checked again after that.
//! What a parser refuses it refuses with an [`Invalid`]: a sentence for the person who typed the value.

pub mod messages;
pub mod rates;
pub mod rooms;
pub mod text;
pub mod users;

use std::borrow::Cow;

/// Why a value was refused, as a sentence for the person who sent it. Never repeats the value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Invalid(pub Cow<'static, str>);

impl Invalid {
    /// A reason that is the same for every value.
    pub const fn because(reason: &'static str) -> Self {
        Self(Cow::Borrowed(reason))
    }
}
