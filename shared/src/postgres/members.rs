//! Members of rooms.
//!
//! Who may do what is the domain's to decide. It decides under the lock of the room's row, on roles that were read after
//! the lock was taken: of two owners who step down at the same moment, one is told that they are the last.

use sqlx::PgConnection;
use uuid::Uuid;

use super::{Page, Postgres, link::Stopped, rooms};
use crate::{
    domain::{
        rooms::{Kind, Member, Role, RoomId},
        users::{Name, UserId},
    },
    error::{Error, Result},
};

/// What there is to know for a decision about a member.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Situation {
    /// The room's kind.
    pub kind: Kind,
    /// The role of the one who acts, if a member.
    pub actor: Option<Role>,
    /// The role of the one acted upon, if a member; the same as `actor` where they are one person.
    pub member: Option<Role>,
    /// The one acted upon was removed, but may still hear of the room: [`Postgres::forget_member`] was not reached.
    pub half_removed: bool,
}

impl Postgres {
    /// The members of a room, by user id, from the one behind `after`.
    pub async fn members(&self, room: &RoomId, after: Option<UserId>, limit: usize) -> Result<Page<Member>> {
        self.link
            .run("listing the members of a room", async |connection| {
                let rows = sqlx::query_as!(
                    MemberRow,
                    "select m.user_id, u.first_name, u.last_name, m.role
                     from members m
                     join users u on u.id = m.user_id
                     where m.room_id = $1 and $2 < m.user_id and m.removed_at is null
                     order by m.user_id
                     limit $3",
                    room.as_str(),
                    after.map_or(Uuid::nil(), UserId::as_uuid),
                    Page::<()>::rows(limit),
                )
                .fetch_all(connection)
                .await?;
                Ok(Page::of(limit, rows).try_map(MemberRow::read)?)
            })
            .await
    }

    /// Gives a user the role that `decide` answers, as a new member or instead of the role they had.
    ///
    /// # Errors
    /// [`Error::NotFound`] if there is no such room or no such user; [`Error::Conflict`] if the room would lose its last
    /// owner; what `decide` refuses.
    pub async fn give_role(
        &self,
        room: &RoomId,
        actor: UserId,
        member: UserId,
        decide: impl FnOnce(Situation) -> Result<Role> + Send,
    ) -> Result<Member> {
        self.link
            .run_whole("giving a role", async |connection| {
                let situation = lock(connection, room, actor, member).await?;
                let role = decide(situation)?;
                keep_an_owner(connection, room, situation.member, Some(role)).await?;
                upsert(connection, room, member, role).await
            })
            .await
    }

    /// Removes a member, if `decide` lets it happen. One who is no member is removed already. That there was one stays
    /// known until [`Postgres::forget_member`].
    ///
    /// # Errors
    /// [`Error::NotFound`] if there is no such room; [`Error::Conflict`] if the room would lose its last owner; what
    /// `decide` refuses.
    pub async fn remove_member(
        &self,
        room: &RoomId,
        actor: UserId,
        member: UserId,
        decide: impl FnOnce(Situation) -> Result<()> + Send,
    ) -> Result<()> {
        self.link
            .run_whole("removing a member", async |connection| {
                let situation = lock(connection, room, actor, member).await?;
                decide(situation)?;
                keep_an_owner(connection, room, situation.member, None).await?;
                sqlx::query!(
                    "update members set removed_at = now()
                     where room_id = $1 and user_id = $2 and removed_at is null",
                    room.as_str(),
                    member.as_uuid(),
                )
                .execute(connection)
                .await?;
                Ok(())
            })
            .await
    }

    /// Forgets that somebody was a member, when they hear of the room no more. Who is a member again stays one.
    pub async fn forget_member(&self, room: &RoomId, member: UserId) -> Result<()> {
        self.link
            .run("forgetting a member", async |connection| {
                sqlx::query!(
                    "delete from members where room_id = $1 and user_id = $2 and removed_at is not null",
                    room.as_str(),
                    member.as_uuid(),
                )
                .execute(connection)
                .await?;
                Ok(())
            })
            .await
    }
}

struct MemberRow {
    user_id: Uuid,
    first_name: String,
    last_name: String,
    role: String,
}

impl MemberRow {
    fn read(self) -> Result<Member> {
        Ok(Member {
            user: UserId::new(self.user_id),
            first_name: Name::from_store(self.first_name),
            last_name: Name::from_store(self.last_name),
            role: Role::parse(&self.role).map_err(rooms::unreadable)?,
        })
    }
}

/// Roles are read by statements after the one that locks: its own snapshot may be older than the lock.
async fn lock(
    connection: &mut PgConnection,
    room: &RoomId,
    actor: UserId,
    member: UserId,
) -> Result<Situation, Stopped> {
    let kind = rooms::lock_living(connection, room).await?.room.kind;
    let half_removed = half_removed(connection, room, member).await?;
    let (actor, member) = (role(connection, room, actor).await?, role(connection, room, member).await?);
    Ok(Situation { kind, actor, member, half_removed })
}

async fn half_removed(connection: &mut PgConnection, room: &RoomId, user: UserId) -> sqlx::Result<bool> {
    sqlx::query_scalar!(
        r#"select exists (
               select from members where room_id = $1 and user_id = $2 and removed_at is not null
           ) as "half_removed!""#,
        room.as_str(),
        user.as_uuid(),
    )
    .fetch_one(connection)
    .await
}

pub(super) async fn any(connection: &mut PgConnection, room: &RoomId) -> sqlx::Result<bool> {
    sqlx::query_scalar!(r#"select exists (select from members where room_id = $1) as "any!""#, room.as_str())
        .fetch_one(connection)
        .await
}

pub(super) async fn role(
    connection: &mut PgConnection,
    room: &RoomId,
    user: UserId,
) -> Result<Option<Role>, Stopped> {
    let role = sqlx::query_scalar!(
        "select role from members where room_id = $1 and user_id = $2 and removed_at is null",
        room.as_str(),
        user.as_uuid(),
    )
    .fetch_optional(connection)
    .await?;
    Ok(role.as_deref().map(Role::parse).transpose().map_err(rooms::unreadable)?)
}

/// The room's row is locked: nobody else makes or unmakes an owner meanwhile.
async fn keep_an_owner(
    connection: &mut PgConnection,
    room: &RoomId,
    current: Option<Role>,
    next: Option<Role>,
) -> Result<(), Stopped> {
    if current != Some(Role::Owner) || next == Some(Role::Owner) {
        return Ok(());
    }
    let owners = sqlx::query_scalar!(
        r#"select count(*) as "owners!"
           from members
           where room_id = $1 and role = 'owner' and removed_at is null"#,
        room.as_str(),
    )
    .fetch_one(connection)
    .await?;
    if owners <= 1 {
        return Err(Error::Conflict("A room keeps at least one owner; name another one first").into());
    }
    Ok(())
}

pub(super) async fn upsert(
    connection: &mut PgConnection,
    room: &RoomId,
    user: UserId,
    role: Role,
) -> Result<Member, Stopped> {
    let row = sqlx::query_as!(
        MemberRow,
        r#"with changed as (
               insert into members (room_id, user_id, role) values ($1, $2, $3)
               on conflict (room_id, user_id) do update
               set role = excluded.role,
                   removed_at = null,
                   joined_at = case when members.removed_at is null then members.joined_at else now() end
               returning user_id, role
           )
           select c.user_id as "user_id!", u.first_name, u.last_name, c.role as "role!"
           from changed c
           join users u on u.id = c.user_id"#,
        room.as_str(),
        user.as_uuid(),
        role.as_str(),
    )
    .fetch_optional(connection)
    .await?
    // The foreign key says so at the end of the statement; this is for the type.
    .ok_or(Error::NotFound("user"))?;
    Ok(row.read()?)
}
