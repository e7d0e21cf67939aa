//! Who speaks on a connection.

use serde::{Deserialize, Serialize};

use crate::{domain::users::UserId, protocol::Author, token::TokenHash};

/// Who opened a connection, and by which session. The gateway repeats it on every event of the connection, so the
/// message path needs no look-up to know who speaks; whether they still may is asked in Redis on every frame.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// The user.
    pub user: UserId,
    /// First and last name, as they were when the connection was made.
    pub name: String,
    /// The session that the connection lives and dies with.
    #[serde(with = "hexadecimal")]
    pub session: TokenHash,
}

impl Identity {
    /// As others see them.
    pub fn author(&self) -> Author {
        Author { id: self.user, name: self.name.clone() }
    }
}

mod hexadecimal {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    use crate::token::TokenHash;

    pub(super) fn serialize<S: Serializer>(hash: &TokenHash, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(hash)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<TokenHash, D::Error> {
        let raw = String::deserialize(deserializer)?;
        TokenHash::parse_hex(&raw).ok_or_else(|| D::Error::custom("no hash of a token"))
    }
}
