//! `join`: subscribes the connection to a room and brings it up to date.

use shared::{
    Error, Result, checked,
    domain::{
        messages::{Generation, Position},
        rooms::{Kind, RoomId, Standing},
    },
    history::{self, LogPart},
    protocol::{
        Form, LARGEST_PAGE, USUAL_PAGE,
        frames::{Keep, Reply, cut_to_size},
    },
    redis::{Compared, JoinOutcome, Joined, Resume},
    resync,
};

use crate::{App, Speaker};

/// How often a join looks again because members are being removed, or generations begin, at the same moment. A room that is
/// new in Redis takes two.
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
        if joined.forgotten {
            // Whoever joins learns of the generation by the answer.
            let (generation, deadline) = (&joined.head.generation, app.fan_out.deadline());
            let App { redis, postgres, fan_out, .. } = app;
            resync::tell_others(redis, postgres, fan_out, &self.room, generation, connection, deadline).await;
        }
        self.reply(app, joined).await
    }

    /// Joins until Redis and Postgres agree about what there is.
    async fn subscribe(&self, app: &App, speaker: &Speaker) -> Result<Joined> {
        for _ in 0..TRIES {
            let access = self.check_access(app, speaker).await?;
            let Speaker { connection, identity, .. } = speaker;
            let outcome = app.redis.join(
                &self.room,
                connection,
                identity,
                access.as_deref(),
                &self.resume,
                self.limit(),
            );
            match outcome.await? {
                JoinOutcome::Joined(joined) if self.agrees(app, speaker, &joined).await? => {
                    return Ok(joined);
                }
                JoinOutcome::Joined(_) | JoinOutcome::Again => {}
                JoinOutcome::Ended => return Err(Error::NotFound("room")),
            }
        }
        Err(Error::unavailable("joining a room", "it changes too quickly"))
    }

    fn limit(&self) -> usize {
        match self.resume {
            Resume::Newest => USUAL_PAGE,
            Resume::After { .. } => LARGEST_PAGE,
        }
    }

    /// Whether Redis has all that Postgres knows of. It is asked after the log was read: what is stored later is the
    /// archive's to compare. If not, a generation has begun.
    async fn agrees(&self, app: &App, speaker: &Speaker, joined: &Joined) -> Result<bool> {
        let known = app.postgres.known(&self.room).await?;
        if !joined.head.disagrees_with(&known) {
            return Ok(true);
        }
        let compared = app.redis.compare(&self.room, &joined.head, &known, &speaker.connection).await?;
        if let Compared::Begun { generations } = compared {
            // Redis may forget it again.
            app.postgres.remember(&self.room, generations).await?;
        }
        Ok(false)
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

    async fn reply(self, app: &App, joined: Joined) -> Result<Reply> {
        let limit = self.limit();
        let Joined { head, reset, events, more, online, .. } = joined;
        let log = LogPart { since: head.since, events, more };
        let (keep, page) = match self.resume {
            Resume::After { position, .. } if !reset => {
                let page = history::events_after(&app.postgres, &self.room, position, limit, log);
                (Keep::Oldest, page.await?)
            }
            _ => {
                let page =
                    history::messages_before(&app.postgres, &self.room, Position::END, USUAL_PAGE, log);
                (Keep::Newest, page.await?)
            }
        };
        let (events, cut) =
            cut_to_size(page.events, keep).map_err(|cause| Error::internal("replying to a join", cause))?;
        Ok(Reply::Joined {
            room: self.room,
            generation: head.generation,
            position: head.last,
            events,
            reset,
            more: page.more || cut,
            online,
        })
    }
}
