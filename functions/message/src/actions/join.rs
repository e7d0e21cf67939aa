//! `join`: subscribes the connection to a room and brings it up to date.

use shared::{
    Error, Result, checked,
    domain::{
        messages::{Generation, Position},
        rooms::{Kind, RoomId, Standing},
    },
    protocol::{
        Form, LARGEST_PAGE, USUAL_PAGE,
        frames::{Keep, Reply, cut_to_size},
    },
    redis::{JoinOutcome, Joined, Resume},
};

use crate::{App, Speaker, resync::tell_if};

/// How often a join looks again because members are being removed at the same moment.
const TRIES: usize = 5;

#[derive(Debug)]
pub(crate) struct Join {
    pub(crate) room: RoomId,
    resume: Resume,
}

impl Join {
    pub(super) fn parse(mut form: Form) -> Result<Self> {
        let room = form.required("room", RoomId::parse);
        let position = form.optional("after", Position::parse);
        let generation = form.optional("generation", Generation::parse);
        checked!(form, room);
        let resume = match position {
            Some(position) => Resume::After { position, generation },
            None => Resume::Newest,
        };
        Ok(Self { room, resume })
    }

    pub(super) async fn apply(self, app: &App, speaker: &Speaker) -> Result<Reply> {
        let joined = self.subscribe(app, speaker).await?;
        // The connection may have been closed since the frame was admitted, and its clean-up not have seen this room.
        let Speaker { connection, identity, .. } = speaker;
        if !app.redis.is_connected(connection, identity.user).await? {
            app.redis.forget_connection(connection, identity.user).await?;
            return Err(Error::session_ended());
        }
        tell_if(joined.forgotten, app, &self.room, &joined.generation, app.connections.deadline()).await;
        self.reply(joined)
    }

    async fn subscribe(&self, app: &App, speaker: &Speaker) -> Result<Joined> {
        let limit = match self.resume {
            Resume::Newest => USUAL_PAGE,
            Resume::After { .. } => LARGEST_PAGE,
        };
        for _ in 0..TRIES {
            let access = self.check_access(app, speaker).await?;
            let Speaker { connection, identity, .. } = speaker;
            let outcome =
                app.redis.join(&self.room, connection, identity, access.as_deref(), &self.resume, limit);
            match outcome.await? {
                JoinOutcome::Joined(joined) => return Ok(joined),
                JoinOutcome::Again => {}
                JoinOutcome::Ended => return Err(Error::NotFound("room")),
            }
        }
        Err(Error::unavailable("joining a room", "its members change too quickly"))
    }

    /// Whether the speaker may take part. For a private room also the access version under which that is true: if a
    /// member is removed after Postgres was asked, the version has changed by then, and the join is not done.
    async fn check_access(&self, app: &App, speaker: &Speaker) -> Result<Option<String>> {
        let (kind, role) = self.standing(app, speaker).await?;
        if kind == Kind::Public {
            return Ok(None);
        }
        // An outsider costs no more than for a room that does not exist.
        Standing { kind, role, admin: false }.may_take_part()?;
        let access = app.redis.access_version(&self.room).await?;
        let (kind, role) = self.standing(app, speaker).await?;
        Standing { kind, role, admin: false }.may_take_part()?;
        Ok(Some(access))
    }

    async fn standing(
        &self,
        app: &App,
        speaker: &Speaker,
    ) -> Result<(Kind, Option<shared::domain::rooms::Role>)> {
        let standing = app.postgres.standing(&self.room, speaker.identity.user).await?;
        standing.ok_or(Error::NotFound("room"))
    }

    fn reply(self, joined: Joined) -> Result<Reply> {
        let resumed = matches!(self.resume, Resume::After { .. }) && !joined.reset;
        let keep = if resumed { Keep::Oldest } else { Keep::Newest };
        let (events, cut) =
            cut_to_size(joined.events, keep).map_err(|cause| Error::internal("replying to a join", cause))?;
        Ok(Reply::Joined {
            room: self.room,
            generation: joined.generation,
            position: joined.position,
            events,
            reset: joined.reset,
            more: joined.more || cut,
            online: joined.online,
        })
    }
}
