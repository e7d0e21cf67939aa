//! Rooms: ids, titles, kinds, roles, and who may do what.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, de::Error as _};
use time::OffsetDateTime;
use utoipa::ToSchema;

use super::{
    Invalid, text,
    users::{Name, UserId},
};

/// The short readable name of a room that people type: `[a-z0-9][a-z0-9-]{0,63}`. Never changed, never given again.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct RoomId(String);

impl<'de> Deserialize<'de> for RoomId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::parse(&String::deserialize(deserializer)?).map_err(D::Error::custom)
    }
}

impl RoomId {
    /// The longest id, in characters.
    pub const LONGEST: usize = 64;

    /// Parses an id as it stands in a path or a frame.
    pub fn parse(raw: &str) -> Result<Self, Invalid> {
        let allowed = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-';
        if raw.is_empty() || Self::LONGEST < raw.len() || raw.starts_with('-') || !raw.bytes().all(allowed) {
            return Err(Invalid::because("must be 1 to 64 of a-z, 0-9 and -, and not begin with -"));
        }
        Ok(Self(raw.to_owned()))
    }

    /// Parses an id that somebody chose for a room of theirs. One of the form that private rooms get is refused: the
    /// answer that it is taken would tell that there is such a room.
    pub fn parse_chosen(raw: &str) -> Result<Self, Invalid> {
        let id = Self::parse(raw)?;
        if id.looks_random() {
            return Err(Invalid::because(
                "must not be 25 letters and digits without a -: private rooms have such ids",
            ));
        }
        Ok(id)
    }

    /// The id that people would expect for a title: `"Team Chat!"` becomes `team-chat`. None if nothing of it can stand
    /// in an id, or only what nobody may choose.
    pub fn from_title(title: &Title) -> Option<Self> {
        let mut id = String::with_capacity(title.0.len());
        for c in title.0.chars().flat_map(char::to_lowercase) {
            if c.is_ascii_alphanumeric() {
                id.push(c);
            } else if !id.is_empty() && !id.ends_with('-') {
                id.push('-');
            }
        }
        // Room for a suffix, should the id be taken.
        id.truncate(Self::LONGEST - 1 - SUFFIX);
        Self::parse_chosen(id.trim_end_matches('-')).ok()
    }

    /// The same id with `-` and the first letters of a random id behind it, for when the plain one is taken.
    pub fn with_suffix(&self, random: &Self) -> Self {
        let longest = Self::LONGEST - 1 - SUFFIX;
        Self(format!("{}-{}", &self.0[..self.0.len().min(longest)], &random.0[..SUFFIX.min(random.0.len())]))
    }

    /// An id that nobody can guess: 25 characters of base 36 hold the 128 random bits.
    pub fn from_random(bits: u128) -> Self {
        const DIGITS: &[u8; 36] = b"0123456789abcdefghijklmnopqrstuvwxyz";
        let mut rest = bits;
        let id = (0..RANDOM)
            .map(|_| {
                let digit = DIGITS[(rest % 36) as usize];
                rest /= 36;
                char::from(digit)
            })
            .collect();
        Self(id)
    }

    fn looks_random(&self) -> bool {
        self.0.len() == RANDOM && !self.0.contains('-')
    }

    /// Takes an id that was parsed before it was stored.
    pub fn from_store(id: String) -> Self {
        Self(id)
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Letters of a random id: 36^25 are a little more than 2^128.
const RANDOM: usize = 25;
/// Letters of a random id that make a taken id unique: 36^6 are two thousand million.
const SUFFIX: usize = 6;

impl fmt::Display for RoomId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What a room is called: 1–100 characters after trimming, no control characters.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Title(String);

impl Title {
    /// The longest title, in Unicode scalar values.
    pub const LONGEST: usize = 100;

    /// Parses a title as a person typed it.
    pub fn parse(raw: &str) -> Result<Self, Invalid> {
        text::parse_line(raw, Self::LONGEST).map(Self)
    }

    /// Takes a title that was parsed before it was stored.
    pub fn from_store(title: String) -> Self {
        Self(title)
    }

    /// The title as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Who may know of a room.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Any signed-in user may read it, join it and write; being a member only puts it into one's own list.
    Public,
    /// Members only, by invitation; to others it does not exist.
    Private,
}

impl Kind {
    /// Parses what a person asked for.
    pub fn parse(raw: &str) -> Result<Self, Invalid> {
        match raw {
            "public" => Ok(Self::Public),
            "private" => Ok(Self::Private),
            _ => Err(Invalid::because("must be public or private")),
        }
    }

    /// The kind as Postgres and JSON spell it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Public => "public",
            Self::Private => "private",
        }
    }
}

/// What a member may do in a room. The order is the order of power.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Reads and writes.
    Member,
    /// Invites and removes members as well.
    Moderator,
    /// Everything: roles, title, the end of the room. Every room keeps at least one.
    Owner,
}

impl Role {
    /// Parses what a person asked for.
    pub fn parse(raw: &str) -> Result<Self, Invalid> {
        match raw {
            "member" => Ok(Self::Member),
            "moderator" => Ok(Self::Moderator),
            "owner" => Ok(Self::Owner),
            _ => Err(Invalid::because("must be member, moderator or owner")),
        }
    }

    /// The role as Postgres and JSON spell it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Member => "member",
            Self::Moderator => "moderator",
            Self::Owner => "owner",
        }
    }
}

/// A room.
#[derive(Debug, Clone)]
pub struct Room {
    /// The short readable name that people type.
    pub id: RoomId,
    /// What it is called.
    pub title: Title,
    /// Who may know of it.
    pub kind: Kind,
    /// When it was made.
    pub created_at: OffsetDateTime,
}

/// A member of a room.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Who it is.
    pub user: UserId,
    /// First name.
    pub first_name: Name,
    /// Last name.
    pub last_name: Name,
    /// What they may do.
    pub role: Role,
}

/// How somebody stands to a room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    /// The room's kind.
    pub kind: Kind,
    /// The person's role, if a member.
    pub role: Option<Role>,
    /// Whether the person is an administrator of this installation.
    pub admin: bool,
}

/// Why somebody may not do something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// The room must look as if it did not exist.
    Unknown,
    /// The person may know of the room, but not do this.
    Forbidden,
}

impl Standing {
    /// Reading, joining by socket, writing.
    pub fn may_take_part(self) -> Result<(), Refusal> {
        match self.kind {
            Kind::Public => Ok(()),
            Kind::Private if self.role.is_some() => Ok(()),
            Kind::Private => Err(Refusal::Unknown),
        }
    }

    /// Changing the title, ending the room.
    pub fn may_manage(self) -> Result<(), Refusal> {
        if self.admin || self.role == Some(Role::Owner) {
            return Ok(());
        }
        self.may_take_part()?;
        Err(Refusal::Forbidden)
    }

    /// Giving `role` to oneself: joining a public room, or stepping down.
    pub fn may_take(self, role: Role) -> Result<(), Refusal> {
        self.may_take_part()?;
        if role <= self.role.unwrap_or(Role::Member) { Ok(()) } else { Err(Refusal::Forbidden) }
    }

    /// Giving `role` to somebody who has `current` now: inviting, raising, lowering.
    pub fn may_give(self, role: Role, current: Option<Role>) -> Result<(), Refusal> {
        self.may_take_part()?;
        match self.role {
            Some(Role::Owner) => Ok(()),
            Some(Role::Moderator)
                if role == Role::Member && current.is_none_or(|role| role == Role::Member) =>
            {
                Ok(())
            }
            _ => Err(Refusal::Forbidden),
        }
    }

    /// Removing somebody else who has `current` now. Everybody may leave.
    pub fn may_remove(self, current: Option<Role>) -> Result<(), Refusal> {
        self.may_take_part()?;
        match self.role {
            Some(Role::Owner) => Ok(()),
            Some(Role::Moderator) if current.is_none_or(|role| role == Role::Member) => Ok(()),
            _ => Err(Refusal::Forbidden),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_room_id_is_what_people_can_type() {
        for raw in ["general", "a", "0", "team-7", "a-", &"a".repeat(64)] {
            assert_eq!(RoomId::parse(raw).map(|id| id.0), Ok(raw.to_owned()));
        }
        for raw in ["", "-a", "General", "a b", "a_b", "a\0", "é", "a/b", "{a}", &"a".repeat(65)] {
            assert!(RoomId::parse(raw).is_err(), "{raw:?} was taken");
        }
    }

    #[test]
    fn an_id_made_from_a_title_can_be_parsed_again() {
        let made = |title: &str| {
            Title::parse(title).ok().and_then(|title| RoomId::from_title(&title)).map(|id| id.0)
        };
        assert_eq!(made("Team Chat!").as_deref(), Some("team-chat"));
        assert_eq!(made("  --Ünder-- 7 ").as_deref(), Some("nder-7"));
        assert_eq!(made("名前"), None);
        assert_eq!(made("Incomprehensibilities4you"), None, "it would look like a private room's");
        let long = made(&"word ".repeat(20)).expect("letters are there");
        let random = RoomId::from_random(u128::MAX);
        for id in [RoomId(long.clone()).with_suffix(&random).0, random.0, long] {
            assert!(RoomId::parse(&id).is_ok(), "{id}");
        }
    }

    #[test]
    fn nobody_chooses_an_id_of_the_form_that_private_rooms_get() {
        let random = RoomId::from_random(0x0123_4567_89ab_cdef_0123_4567_89ab_cdef);
        let (shorter, longer) = (&random.0[1..], format!("a{}", random.0));
        for (id, expected) in
            [(&*random.0, false), (shorter, true), (&longer, true), ("general-abcdefghijklmnopq", true)]
        {
            assert_eq!(RoomId::parse_chosen(id).is_ok(), expected, "{id}");
            assert!(RoomId::parse(id).is_ok(), "{id} can be asked for");
        }
    }

    fn standing(kind: Kind, role: Option<Role>) -> Standing {
        Standing { kind, role, admin: false }
    }

    #[test]
    fn a_private_room_looks_absent_to_everybody_outside_whatever_they_try() {
        let outside = standing(Kind::Private, None);
        assert_eq!(outside.may_take_part(), Err(Refusal::Unknown));
        assert_eq!(outside.may_manage(), Err(Refusal::Unknown));
        assert_eq!(outside.may_take(Role::Member), Err(Refusal::Unknown));
        assert_eq!(outside.may_give(Role::Member, None), Err(Refusal::Unknown));
        assert_eq!(outside.may_remove(Some(Role::Member)), Err(Refusal::Unknown));
    }

    #[test]
    fn nobody_raises_themselves() {
        for role in [None, Some(Role::Member), Some(Role::Moderator)] {
            assert_eq!(standing(Kind::Public, role).may_take(Role::Owner), Err(Refusal::Forbidden));
        }
        assert_eq!(standing(Kind::Public, None).may_take(Role::Member), Ok(()));
        assert_eq!(standing(Kind::Private, Some(Role::Owner)).may_take(Role::Moderator), Ok(()));
    }

    #[test]
    fn a_moderator_handles_members_and_nobody_above() {
        let moderator = standing(Kind::Private, Some(Role::Moderator));
        assert_eq!(moderator.may_give(Role::Member, None), Ok(()));
        assert_eq!(moderator.may_give(Role::Moderator, None), Err(Refusal::Forbidden));
        assert_eq!(moderator.may_give(Role::Member, Some(Role::Owner)), Err(Refusal::Forbidden));
        assert_eq!(moderator.may_remove(Some(Role::Member)), Ok(()));
        assert_eq!(moderator.may_remove(Some(Role::Moderator)), Err(Refusal::Forbidden));
        assert_eq!(moderator.may_manage(), Err(Refusal::Forbidden));
    }

    #[test]
    fn an_administrator_manages_rooms_without_being_a_member() {
        let admin = Standing { kind: Kind::Private, role: None, admin: true };
        assert_eq!(admin.may_manage(), Ok(()));
        assert_eq!(admin.may_take_part(), Err(Refusal::Unknown));
    }
}
