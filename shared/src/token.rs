//! Secrets that open something: session tokens and tickets. Banter keeps only their hashes.

use std::fmt;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use sha2::{Digest, Sha256};

use crate::error::{Error, Result};

/// 256 random bits, as URL-safe base64. Shown once, to the one it is made for.
pub struct Token(String);

impl Token {
    /// Makes a new one.
    ///
    /// # Errors
    /// [`Error::Internal`] if the operating system has no randomness to give.
    pub fn random() -> Result<Self> {
        let mut bits = [0; 32];
        getrandom::fill(&mut bits).map_err(|cause| Error::internal("making a token", cause))?;
        Ok(Self(URL_SAFE_NO_PAD.encode(bits)))
    }

    /// What the client is given.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The only form in which it is stored.
    pub fn hash(&self) -> TokenHash {
        TokenHash::of(&self.0)
    }
}

/// The SHA-256 of a [`Token`]. A fast hash is enough: 256 random bits cannot be guessed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TokenHash([u8; 32]);

impl TokenHash {
    /// The hash of whatever a client sent: what was never a token simply has a hash that nobody stored.
    pub fn of(raw: &str) -> Self {
        Self(Sha256::digest(raw.as_bytes()).into())
    }

    /// The hash of the token in an `Authorization` header: `Bearer <token>`, the scheme in any case (RFC 9110, 11.1).
    ///
    /// # Errors
    /// [`Error::Unauthorized`] if there is no header, or not of this form.
    pub fn of_authorization(header: Option<&str>) -> Result<Self> {
        let (scheme, token) =
            header.and_then(|header| header.trim().split_once(' ')).ok_or(Error::no_session())?;
        if !scheme.eq_ignore_ascii_case("bearer") {
            return Err(Error::no_session());
        }
        Ok(Self::of(token.trim_start()))
    }

    /// Takes the bytes that a store held. None if they are not 32.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }

    /// Reads the hexadecimal form.
    pub fn parse_hex(raw: &str) -> Option<Self> {
        let digits = raw.as_bytes();
        if digits.len() != 64 {
            return None;
        }
        let mut bytes = [0; 32];
        for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
            let digit = |c: u8| char::from(c).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
            *byte = digit(pair[0])? << 4 | digit(pair[1])?;
        }
        Some(Self(bytes))
    }

    /// The bytes as Postgres stores them.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

/// Hexadecimal, as Redis stores it.
impl fmt::Display for TokenHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_tokens_are_equal_and_each_has_256_bits() {
        let (one, other) =
            (Token::random().expect("there is randomness"), Token::random().expect("there is randomness"));
        assert_ne!(one.as_str(), other.as_str());
        assert_eq!(URL_SAFE_NO_PAD.decode(one.as_str()).map(|bits| bits.len()), Ok(32));
    }

    #[test]
    fn a_token_is_found_behind_bearer_in_any_case_and_nowhere_else() {
        for header in ["Bearer token", "bearer token", "BEARER   token", " Bearer token "] {
            assert_eq!(
                TokenHash::of_authorization(Some(header)).ok(),
                Some(TokenHash::of("token")),
                "{header:?}"
            );
        }
        for header in [None, Some(""), Some("Bearer"), Some("Bearer "), Some("token"), Some("Basic dG9rZW4=")]
        {
            assert!(TokenHash::of_authorization(header).is_err(), "{header:?} was taken");
        }
    }

    #[test]
    fn a_hash_is_read_as_it_was_written() {
        let hash = TokenHash::of("token");
        assert_eq!(TokenHash::parse_hex(&hash.to_string()), Some(hash));
        for raw in ["", "zz", &"g".repeat(64), &"é".repeat(32)] {
            assert_eq!(TokenHash::parse_hex(raw), None);
        }
    }
}
