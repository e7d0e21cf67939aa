//! The bodies of the HTTP API.

use serde::Serialize;
use time::OffsetDateTime;
use utoipa::ToSchema;
use uuid::Uuid;

use super::{Author, Failure, LARGEST_PAGE, Timestamp, frames::Event};
use crate::{
    domain::{
        Invalid,
        rooms::{Kind, Member, Role, Room},
        users::User,
    },
    token::Token,
};

/// Parses the `limit` of a query.
///
/// # Errors
/// It is no whole number from 1 to [`LARGEST_PAGE`].
pub fn parse_limit(raw: &str) -> Result<usize, Invalid> {
    let limit = raw.parse().ok().filter(|limit| (1..=LARGEST_PAGE).contains(limit));
    limit.ok_or_else(|| Invalid(format!("must be a whole number from 1 to {LARGEST_PAGE}").into()))
}

/// The body of every failed call.
#[derive(Debug, Serialize, ToSchema)]
pub struct FailureBody {
    /// What went wrong.
    pub error: Failure,
}

/// An account, as its owner sees it.
#[derive(Debug, Serialize, ToSchema)]
pub struct UserBody {
    /// The user's id.
    pub id: Uuid,
    /// First name.
    pub first_name: String,
    /// Last name.
    pub last_name: String,
    /// The address to log in with; others never see it.
    pub email: String,
    /// When the account was made.
    pub created_at: Timestamp,
}

impl From<&User> for UserBody {
    fn from(user: &User) -> Self {
        Self {
            id: user.id.as_uuid(),
            first_name: user.first_name.as_str().to_owned(),
            last_name: user.last_name.as_str().to_owned(),
            email: user.email.as_str().to_owned(),
            created_at: Timestamp(user.created_at),
        }
    }
}

/// The answer to a sign-up or a log-in.
#[derive(Debug, Serialize, ToSchema)]
pub struct SessionBody {
    /// The account.
    pub user: UserBody,
    /// What `Authorization: Bearer …` takes. Banter keeps only its hash.
    pub token: String,
    /// When the session ends if it is not used; every use moves it.
    pub expires_at: Timestamp,
}

impl SessionBody {
    /// A session that was just opened, with the token that nobody will be told again.
    pub fn new(user: &User, token: &Token, expires_at: OffsetDateTime) -> Self {
        Self {
            user: UserBody::from(user),
            token: token.as_str().to_owned(),
            expires_at: Timestamp(expires_at),
        }
    }
}

/// A ticket: opens one WebSocket, once.
#[derive(Debug, Serialize, ToSchema)]
pub struct TicketBody {
    /// What `?ticket=…` takes.
    pub ticket: String,
    /// When it is worth nothing any more, 30 s after it was made.
    pub expires_at: Timestamp,
}

/// A room, as one who may know of it sees it.
#[derive(Debug, Serialize, ToSchema)]
pub struct RoomBody {
    /// The short readable name that people type.
    #[schema(example = "general")]
    pub id: String,
    /// What it is called.
    pub title: String,
    /// Who may know of it.
    pub kind: Kind,
    /// One's own role; absent if one is no member.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub role: Option<Role>,
    /// When it was made.
    pub created_at: Timestamp,
}

impl RoomBody {
    /// A room with the asker's role in it.
    pub fn new(room: &Room, role: Option<Role>) -> Self {
        Self {
            id: room.id.as_str().to_owned(),
            title: room.title.as_str().to_owned(),
            kind: room.kind,
            role,
            created_at: Timestamp(room.created_at),
        }
    }
}

/// A room in a list, with what goes on in it.
#[derive(Debug, Serialize, ToSchema)]
pub struct ListedRoom {
    /// The room.
    #[serde(flatten)]
    pub room: RoomBody,
    /// The newest message, if there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_message: Option<Event>,
    /// How many users are in the room now.
    pub online: u64,
}

/// A page of rooms.
#[derive(Debug, Serialize, ToSchema)]
pub struct RoomList {
    /// The rooms, by id.
    pub rooms: Vec<ListedRoom>,
    /// What `after` takes for the next page; absent on the last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

/// Somebody as the other members see them.
#[derive(Debug, Serialize, ToSchema)]
pub struct PersonBody {
    /// The user's id.
    pub id: Uuid,
    /// First name.
    pub first_name: String,
    /// Last name.
    pub last_name: String,
}

/// A member of a room.
#[derive(Debug, Serialize, ToSchema)]
pub struct MemberBody {
    /// Who it is.
    pub user: PersonBody,
    /// What they may do.
    pub role: Role,
}

impl From<&Member> for MemberBody {
    fn from(member: &Member) -> Self {
        let Member { user, first_name, last_name, role } = member;
        let (first_name, last_name) = (first_name.as_str().to_owned(), last_name.as_str().to_owned());
        Self { user: PersonBody { id: user.as_uuid(), first_name, last_name }, role: *role }
    }
}

/// A page of members.
#[derive(Debug, Serialize, ToSchema)]
pub struct MemberList {
    /// The members, by user id.
    pub members: Vec<MemberBody>,
    /// What `after` takes for the next page; absent on the last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next: Option<Uuid>,
}

/// A page of a room's history, oldest first.
#[derive(Debug, Serialize, ToSchema)]
pub struct MessageList {
    /// The messages, as they are now.
    pub messages: Vec<Event>,
    /// What `after` takes for the page of newer ones; absent when there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
    /// What `before` takes for the page of older ones; absent when there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub previous: Option<String>,
}

/// Who is in a room now.
#[derive(Debug, Serialize, ToSchema)]
pub struct OnlineList {
    /// The users, by name; at most 200 of them.
    pub users: Vec<Author>,
    /// How many there are in all.
    pub count: u64,
}

/// What a sign-up takes.
#[derive(Debug, Serialize, ToSchema)]
pub struct SignupRequest {
    /// 1–100 characters.
    #[schema(min_length = 1, max_length = 100, example = "Ada")]
    pub first_name: String,
    /// 1–100 characters.
    #[schema(min_length = 1, max_length = 100, example = "Lovelace")]
    pub last_name: String,
    /// At most 254 characters; unique without regard to case.
    #[schema(format = Email, max_length = 254, example = "ada@example.com")]
    pub email: String,
    /// 10–128 characters, hard to guess.
    #[schema(min_length = 10, max_length = 128, example = "violet-kettle-orbit-42")]
    pub password: String,
}

/// What a log-in takes.
#[derive(Debug, Serialize, ToSchema)]
pub struct LoginRequest {
    /// The address of the sign-up, in any case.
    #[schema(format = Email, max_length = 254, example = "ada@example.com")]
    pub email: String,
    /// The password.
    #[schema(min_length = 1, max_length = 128, example = "violet-kettle-orbit-42")]
    pub password: String,
}

/// What a change of name takes; what is absent stays.
#[derive(Debug, Serialize, ToSchema)]
pub struct ProfileRequest {
    /// 1–100 characters.
    #[schema(min_length = 1, max_length = 100)]
    pub first_name: Option<String>,
    /// 1–100 characters.
    #[schema(min_length = 1, max_length = 100)]
    pub last_name: Option<String>,
}

/// What a change of password takes.
#[derive(Debug, Serialize, ToSchema)]
pub struct PasswordRequest {
    /// The password until now.
    #[schema(min_length = 1, max_length = 128)]
    pub current: String,
    /// The new one: 10–128 characters, hard to guess.
    #[schema(min_length = 10, max_length = 128)]
    pub new: String,
}

/// What a new room takes.
#[derive(Debug, Serialize, ToSchema)]
pub struct RoomRequest {
    /// Public rooms only, and not 25 letters and digits without a `-`, as private rooms have; made from the title if
    /// absent.
    #[schema(pattern = "^[a-z0-9][a-z0-9-]{0,63}$", example = "general")]
    pub id: Option<String>,
    /// 1–100 characters.
    #[schema(min_length = 1, max_length = 100, example = "General")]
    pub title: String,
    /// `public` or `private`.
    pub kind: Kind,
}

/// What a change of title takes.
#[derive(Debug, Serialize, ToSchema)]
pub struct TitleRequest {
    /// 1–100 characters.
    #[schema(min_length = 1, max_length = 100)]
    pub title: String,
}

/// What a membership takes.
#[derive(Debug, Serialize, ToSchema)]
pub struct MemberRequest {
    /// The role to give.
    pub role: Role,
}

/// Whether the parts that Banter needs answer.
#[derive(Debug, Serialize, ToSchema)]
pub struct HealthBody {
    /// `ok` or `unavailable`.
    #[schema(example = "ok")]
    pub postgres: &'static str,
    /// `ok` or `unavailable`.
    #[schema(example = "ok")]
    pub redis: &'static str,
}
