//! Rooms, and how users stand to them.

use sqlx::PgConnection;

use super::{Page, Postgres, link::Stopped, members};
use crate::{
    domain::{
        Invalid,
        rooms::{Kind, Role, Room, RoomId, Title},
        users::UserId,
    },
    error::{Error, Result},
};

/// A room, with the role of the one who asks.
pub type RoomWithRole = (Room, Option<Role>);

impl Postgres {
    /// Makes a room with its first owner. None if the id is taken, or was once.
    pub async fn create_room(
        &self,
        id: &RoomId,
        title: &Title,
        kind: Kind,
        owner: UserId,
    ) -> Result<Option<Room>> {
        self.link
            .run_whole("making a room", async |connection| {
                let created_at = sqlx::query_scalar!(
                    "insert into rooms (id, title, kind) values ($1, $2, $3)
                     on conflict (id) do nothing
                     returning created_at",
                    id.as_str(),
                    title.as_str(),
                    kind.as_str(),
                )
                .fetch_optional(&mut *connection)
                .await?;
                let Some(created_at) = created_at else { return Ok(None) };
                members::upsert(connection, id, owner, Role::Owner).await?;
                Ok(Some(Room { id: id.clone(), title: title.clone(), kind, created_at }))
            })
            .await
    }

    /// A room, and the user's role in it. None if there is no such room.
    pub async fn room(&self, id: &RoomId, user: UserId) -> Result<Option<RoomWithRole>> {
        self.link
            .run("looking up a room", async |connection| {
                let row = sqlx::query_as!(
                    RoomRow,
                    r#"select r.id, r.title, r.kind, r.created_at, m.role as "role?"
                       from rooms r
                       left join members m on m.room_id = r.id and m.user_id = $2 and m.removed_at is null
                       where r.id = $1 and r.deleted_at is null"#,
                    id.as_str(),
                    user.as_uuid(),
                )
                .fetch_optional(connection)
                .await?;
                Ok(row.map(RoomRow::read).transpose()?)
            })
            .await
    }

    /// How a user stands to a room: its kind, and their role if they are a member. None if there is no such room.
    pub async fn standing(&self, id: &RoomId, user: UserId) -> Result<Option<(Kind, Option<Role>)>> {
        Ok(self.room(id, user).await?.map(|(room, role)| (room.kind, role)))
    }

    /// The rooms of which a user is a member, by id, from the one behind `after`.
    pub async fn rooms_of(
        &self,
        user: UserId,
        after: Option<&RoomId>,
        limit: usize,
    ) -> Result<Page<RoomWithRole>> {
        self.link
            .run("listing the rooms of a user", async |connection| {
                let rows = sqlx::query_as!(
                    RoomRow,
                    r#"select r.id, r.title, r.kind, r.created_at, m.role as "role?"
                       from members m
                       join rooms r on r.id = m.room_id
                       where m.user_id = $1 and $2 < m.room_id and m.removed_at is null and r.deleted_at is null
                       order by m.room_id
                       limit $3"#,
                    user.as_uuid(),
                    after.map_or("", RoomId::as_str),
                    Page::<()>::rows(limit),
                )
                .fetch_all(connection)
                .await?;
                Ok(Page::of(limit, rows).try_map(RoomRow::read)?)
            })
            .await
    }

    /// All public rooms, by id, from the one behind `after`, with the user's role where they are a member.
    pub async fn public_rooms(
        &self,
        user: UserId,
        after: Option<&RoomId>,
        limit: usize,
    ) -> Result<Page<RoomWithRole>> {
        self.link
            .run("listing public rooms", async |connection| {
                let rows = sqlx::query_as!(
                    RoomRow,
                    r#"select r.id, r.title, r.kind, r.created_at, m.role as "role?"
                       from rooms r
                       left join members m on m.room_id = r.id and m.user_id = $1 and m.removed_at is null
                       where r.kind = 'public' and r.deleted_at is null and $2 < r.id
                       order by r.id
                       limit $3"#,
                    user.as_uuid(),
                    after.map_or("", RoomId::as_str),
                    Page::<()>::rows(limit),
                )
                .fetch_all(connection)
                .await?;
                Ok(Page::of(limit, rows).try_map(RoomRow::read)?)
            })
            .await
    }

    /// Changes a room's title, if `decide` lets the user with this role do so.
    ///
    /// # Errors
    /// [`Error::NotFound`] if there is no such room; what `decide` refuses.
    pub async fn retitle_room(
        &self,
        id: &RoomId,
        title: &Title,
        user: UserId,
        decide: impl FnOnce(Kind, Option<Role>) -> Result<()> + Send,
    ) -> Result<RoomWithRole> {
        self.link
            .run_whole("changing a room's title", async |connection| {
                let Locked { room, .. } = lock_living(connection, id).await?;
                let role = members::role(connection, id, user).await?;
                decide(room.kind, role)?;
                sqlx::query!("update rooms set title = $2 where id = $1", id.as_str(), title.as_str())
                    .execute(connection)
                    .await?;
                Ok((Room { title: title.clone(), ..room }, role))
            })
            .await
    }

    /// Ends a room for good, if `decide` lets the user with this role do so. Its owners stay known until
    /// [`Postgres::forget_ended_room`], and until then this may be repeated.
    ///
    /// # Errors
    /// [`Error::NotFound`] if there is no such room; what `decide` refuses.
    pub async fn end_room(
        &self,
        id: &RoomId,
        user: UserId,
        decide: impl FnOnce(Kind, Option<Role>) -> Result<()> + Send,
    ) -> Result<()> {
        self.link
            .run_whole("ending a room", async |connection| {
                let Locked { room, ended } = lock(connection, id).await?;
                let role = members::role(connection, id, user).await?;
                let decided = decide(room.kind, role);
                if ended {
                    let repeats = decided.is_ok() && members::any(connection, id).await?;
                    return if repeats { Ok(()) } else { Err(Error::NotFound("room").into()) };
                }
                decided?;
                sqlx::query!("update rooms set deleted_at = now() where id = $1", id.as_str())
                    .execute(&mut *connection)
                    .await?;
                sqlx::query!(
                    "delete from members where room_id = $1 and (role <> 'owner' or removed_at is not null)",
                    id.as_str(),
                )
                .execute(connection)
                .await?;
                Ok(())
            })
            .await
    }

    /// Forgets the owners of a room that has ended, when nobody hears of it any more.
    pub async fn forget_ended_room(&self, id: &RoomId) -> Result<()> {
        self.link
            .run("forgetting the owners of an ended room", async |connection| {
                sqlx::query!(
                    "delete from members m
                     using rooms r
                     where m.room_id = $1 and r.id = m.room_id and r.deleted_at is not null",
                    id.as_str(),
                )
                .execute(connection)
                .await?;
                Ok(())
            })
            .await
    }
}

struct RoomRow {
    id: String,
    title: String,
    kind: String,
    created_at: time::OffsetDateTime,
    role: Option<String>,
}

impl RoomRow {
    fn read(self) -> Result<RoomWithRole> {
        let kind = Kind::parse(&self.kind).map_err(unreadable)?;
        let role = self.role.as_deref().map(Role::parse).transpose().map_err(unreadable)?;
        let (id, title) = (RoomId::from_store(self.id), Title::from_store(self.title));
        Ok((Room { id, title, kind, created_at: self.created_at }, role))
    }
}

/// The checks of the tables let nothing in that the domain does not know; a release to come may.
pub(super) fn unreadable(invalid: Invalid) -> Error {
    Error::internal("reading what a newer release has stored", invalid)
}

pub(super) struct Locked {
    pub(super) room: Room,
    ended: bool,
}

/// Locks a room until the end of the transaction: all decisions about its members are made one after the other.
async fn lock(connection: &mut PgConnection, id: &RoomId) -> Result<Locked, Stopped> {
    let row = sqlx::query!(
        "select title, kind, created_at, deleted_at from rooms where id = $1 for update",
        id.as_str()
    )
    .fetch_optional(connection)
    .await?
    .ok_or(Error::NotFound("room"))?;
    let kind = Kind::parse(&row.kind).map_err(unreadable)?;
    let title = Title::from_store(row.title);
    let room = Room { id: id.clone(), title, kind, created_at: row.created_at };
    Ok(Locked { room, ended: row.deleted_at.is_some() })
}

/// Like [`lock`], for rooms that have not ended.
pub(super) async fn lock_living(connection: &mut PgConnection, id: &RoomId) -> Result<Locked, Stopped> {
    let locked = lock(connection, id).await?;
    if locked.ended { Err(Error::NotFound("room").into()) } else { Ok(locked) }
}
