//! `history`: reads a page of a room's history.

use shared::{
    Error, Result, checked,
    domain::{Invalid, messages::Position, rooms::RoomId},
    history::{self, LogPart},
    protocol::{
        Form, LARGEST_PAGE, USUAL_PAGE,
        frames::{Keep, Reply, cut_to_size},
    },
    redis::Cursor,
};

use crate::{App, Speaker};

#[derive(Debug)]
pub(crate) struct History {
    pub(crate) room: RoomId,
    cursor: Cursor,
    limit: usize,
}

impl History {
    pub(super) fn parse(mut form: Form) -> Result<Self> {
        let room = form.required("room", RoomId::parse);
        let before = form.optional("before", Position::parse);
        let after = form.optional("after", Position::parse);
        let limit = form.optional_count("limit", LARGEST_PAGE).unwrap_or(USUAL_PAGE);
        let cursor = match (before, after) {
            (None, None) => Cursor::Newest,
            (Some(position), None) => Cursor::Before(position),
            (None, Some(position)) => Cursor::After(position),
            (Some(position), Some(_)) => {
                form.fail::<()>("after", Invalid::because("cannot be used together with before"));
                Cursor::Before(position)
            }
        };
        checked!(form, room);
        Ok(Self { room, cursor, limit })
    }

    pub(super) async fn apply(self, app: &App, speaker: &Speaker) -> Result<Reply> {
        let Self { room, cursor, limit } = self;
        let log = app.redis.page_for(&speaker.connection, &room, cursor, limit).await?;
        let head = log.head.ok_or(Error::NotJoined)?;
        let part = |more| LogPart { since: head.since, events: log.events, more };
        let (keep, page) = match cursor {
            Cursor::After(after) => {
                let page = history::events_after(&app.postgres, &room, after, limit, part(log.newer));
                (Keep::Oldest, page.await?)
            }
            Cursor::Newest | Cursor::Before(_) => {
                let page =
                    history::messages_before(&app.postgres, &room, cursor.before(), limit, part(log.older));
                (Keep::Newest, page.await?)
            }
        };
        let (events, cut) = cut_to_size(page.events, keep)
            .map_err(|cause| Error::internal("replying with history", cause))?;
        Ok(Reply::History { room, generation: head.generation, events, more: page.more || cut })
    }
}
