//! Users: ids, names, e-mail addresses, passwords.

use std::{fmt, iter};

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use uuid::Uuid;
use validator::ValidateEmail;

use super::{Invalid, text};

/// The id of a user, a UUIDv7: it tells when the account was made and nothing about the person.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct UserId(Uuid);

impl UserId {
    /// Takes over an id that a store or the caller's generator made.
    pub const fn new(id: Uuid) -> Self {
        Self(id)
    }

    /// Parses the id as it stands in a path or a frame.
    pub fn parse(raw: &str) -> Result<Self, Invalid> {
        Uuid::try_parse(raw).map(Self).map_err(|_| Invalid::because("must be a user's id"))
    }

    /// The id as Postgres stores it.
    pub const fn as_uuid(self) -> Uuid {
        self.0
    }
}

impl fmt::Display for UserId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A first or last name: 1–100 characters after trimming, no control characters.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Name(String);

impl Name {
    /// The longest name, in Unicode scalar values.
    pub const LONGEST: usize = 100;

    /// Parses a name as a person typed it.
    pub fn parse(raw: &str) -> Result<Self, Invalid> {
        text::parse_line(raw, Self::LONGEST).map(Self)
    }

    /// Takes a name that was parsed before it was stored.
    pub fn from_store(name: String) -> Self {
        Self(name)
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// An account.
#[derive(Debug, Clone)]
pub struct User {
    /// The user's id.
    pub id: UserId,
    /// First name.
    pub first_name: Name,
    /// Last name.
    pub last_name: Name,
    /// The address to log in with.
    pub email: Email,
    /// When the account was made.
    pub created_at: OffsetDateTime,
}

/// The name that others see: first and last name.
pub fn display_name(first: &Name, last: &Name) -> String {
    format!("{} {}", first.0, last.0)
}

/// An e-mail address: valid by the HTML standard's rule, at most 254 characters.
///
/// It is kept as it was typed; that two addresses differ only in case is noticed by the database.
#[derive(Clone, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Email(String);

impl Email {
    /// The longest address that SMTP can carry (RFC 5321 4.5.3.1.3, less the angle brackets).
    pub const LONGEST: usize = 254;

    /// Parses an address as a person typed it.
    pub fn parse(raw: &str) -> Result<Self, Invalid> {
        let address = raw.trim();
        if Self::LONGEST < address.len() {
            return Err(Invalid::because("must be at most 254 characters long"));
        }
        if !address.validate_email() || address.chars().any(char::is_control) {
            return Err(Invalid::because("must be an e-mail address, such as ada@example.com"));
        }
        Ok(Self(address.to_owned()))
    }

    /// Takes an address that was parsed before it was stored.
    pub fn from_store(address: String) -> Self {
        Self(address)
    }

    /// The address as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// What somebody may make a password of: the address, and what stands before and behind its `@`.
    fn words(&self) -> impl Iterator<Item = &str> {
        iter::once(self.as_str()).chain(self.0.rsplitn(2, '@'))
    }
}

/// An address never reaches a log, not even by a `{:?}`.
impl fmt::Debug for Email {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Email(…)")
    }
}

/// A password that somebody chose: 10–128 characters, hard to guess for one who knows the person.
pub struct NewPassword(String);

impl NewPassword {
    /// The shortest password, in Unicode scalar values.
    pub const SHORTEST: usize = 10;
    /// The longest password, in Unicode scalar values: argon2 takes any length, a server should not.
    pub const LONGEST: usize = 128;

    /// Parses a new password. Names and e-mail address are what an attacker tries first.
    ///
    /// The strength is `zxcvbn`'s: a score of 3 means more than 10^8 guesses.
    pub fn parse<'a>(
        raw: &str,
        names: impl IntoIterator<Item = &'a Name>,
        email: Option<&'a Email>,
    ) -> Result<Self, Invalid> {
        let length = raw.chars().count();
        if length < Self::SHORTEST {
            return Err(Invalid::because("must be at least 10 characters long"));
        }
        if Self::LONGEST < length {
            return Err(Invalid::because("must be at most 128 characters long"));
        }
        let known = names.into_iter().map(Name::as_str).chain(email.into_iter().flat_map(Email::words));
        let estimate = zxcvbn::zxcvbn(raw, &known.flat_map(pieces).collect::<Vec<_>>());
        if estimate.score() < zxcvbn::Score::Three {
            return Err(Invalid(refusal(raw, &estimate).into()));
        }
        Ok(Self(raw.to_owned()))
    }

    /// The same password, as if it had been typed to prove who one is.
    pub fn retyped(&self) -> TypedPassword {
        TypedPassword(self.0.clone())
    }

    /// The bytes to hash.
    pub fn as_bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

/// A text and the words that it is made of.
fn pieces(text: &str) -> impl Iterator<Item = &str> {
    iter::once(text).chain(text.split(|c: char| !c.is_alphanumeric()).filter(|piece| !piece.is_empty()))
}

fn refusal(raw: &str, estimate: &zxcvbn::Entropy) -> String {
    let feedback = estimate.feedback();
    let reason = feedback.and_then(zxcvbn::feedback::Feedback::warning).map(|warning| warning.to_string());
    let advice = feedback.and_then(|feedback| feedback.suggestions().first()).map(ToString::to_string);
    let mut sentence = "is too easy to guess".to_owned();
    if raw.chars().all(|c| c.is_ascii_digit()) {
        sentence.push_str(": it is all digits");
    } else if let Some(reason) = reason {
        sentence.push_str(": ");
        sentence.push_str(reason.trim_end_matches('.'));
    }
    if let Some(advice) = advice {
        sentence.push_str(". ");
        sentence.push_str(advice.trim_end_matches('.'));
    }
    sentence
}

/// A password as somebody typed it to prove who they are. It may have been chosen under older rules, so the only rule
/// is that nobody makes the server hash a book.
pub struct TypedPassword(String);

impl TypedPassword {
    /// Parses a typed password: 1–128 characters.
    pub fn parse(raw: &str) -> Result<Self, Invalid> {
        if raw.is_empty() {
            return Err(Invalid::because("must not be empty"));
        }
        if NewPassword::LONGEST < raw.chars().count() {
            return Err(Invalid::because("must be at most 128 characters long"));
        }
        Ok(Self(raw.to_owned()))
    }

    /// The bytes to compare with a hash.
    pub fn as_bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_trimmed_and_normalised() {
        let cases = [
            ("  Ada ", Ok("Ada")),
            ("e\u{301}", Ok("é")),
            ("名", Ok("名")),
            (&"x".repeat(100), Ok(&*"x".repeat(100))),
        ];
        for (raw, expected) in cases {
            assert_eq!(
                Name::parse(raw).as_ref().map(Name::as_str),
                expected.as_ref().map(|s| *s).map_err(|e: &Invalid| e)
            );
        }
    }

    #[test]
    fn a_name_that_is_empty_long_or_has_control_characters_is_refused() {
        for raw in ["", "   ", "a\nb", "a\0b", "a\u{7f}b", "a\u{FFFE}b", "\u{FDD0}", &"x".repeat(101)] {
            assert!(Name::parse(raw).is_err(), "{raw:?} was taken");
        }
    }

    #[test]
    fn an_email_address_is_checked_and_never_shown() {
        for raw in ["ada@example.com", " ada@example.com ", "a+b@sub.example.co"] {
            assert_eq!(Email::parse(raw).map(|email| email.0), Ok(raw.trim().to_owned()));
        }
        for raw in [
            "",
            "ada",
            "ada@",
            "@example.com",
            "a b@example.com",
            "ada@exa\0mple.com",
            &format!("{}@example.com", "a".repeat(250)),
        ] {
            assert!(Email::parse(raw).is_err(), "{raw:?} was taken");
        }
        assert_eq!(format!("{:?}", Email("ada@example.com".into())), "Email(…)");
    }

    #[test]
    fn a_weak_password_is_refused_with_a_reason() {
        let names = ["Ada", "Lovelace"].map(|name| Name::parse(name).expect("is a name"));
        let email = Email::parse("violet.kettle-1815@analytical-engine.example").expect("is an address");
        let reason = |raw: &str| match NewPassword::parse(raw, &names, Some(&email)) {
            Ok(_) => "taken".to_owned(),
            Err(invalid) => invalid.to_string(),
        };
        assert!(reason("short").contains("at least 10"));
        assert!(reason(&"x".repeat(129)).contains("at most 128"));
        assert!(reason("password123").contains("too easy to guess"));
        assert!(reason("3141592653").contains("all digits"));
        for known in [
            "AdaLovelace",
            "violet.kettle-1815@analytical-engine.example",
            "Violet.Kettle-1815",
            "kettle1815",
            "analytical-engine.example",
        ] {
            assert!(reason(known).contains("too easy to guess"), "{known}: {}", reason(known));
        }
        assert_eq!(reason("violet-kettle-orbit-42"), "taken");
    }
}
