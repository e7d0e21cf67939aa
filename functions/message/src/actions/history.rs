//! `history`: reads a page of a room's history.

use shared::{
    Error, Result, checked,
    domain::{Invalid, messages::Position, rooms::RoomId},
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
        let page = app.redis.page_for(&speaker.connection, &self.room, self.cursor, self.limit).await?;
        let (keep, beyond) = match self.cursor {
            Cursor::After(_) => (Keep::Oldest, page.newer),
            Cursor::Newest | Cursor::Before(_) => (Keep::Newest, page.older),
        };
        let (events, cut) = cut_to_size(page.events, keep)
            .map_err(|cause| Error::internal("replying with history", cause))?;
        Ok(Reply::History { room: self.room, generation: page.generation, events, more: beyond || cut })
    }
}
