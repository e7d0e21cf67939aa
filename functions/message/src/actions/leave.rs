//! `leave`: ends the connection's subscription of a room.

use shared::{
    Result, checked,
    domain::rooms::RoomId,
    protocol::{Form, frames::Reply},
};

use crate::{App, Speaker};

#[derive(Debug)]
pub(crate) struct Leave {
    pub(crate) room: RoomId,
}

impl Leave {
    pub(super) fn parse(mut form: Form) -> Result<Self> {
        let room = form.required("room", RoomId::parse);
        checked!(form, room);
        Ok(Self { room })
    }

    /// Leaving what was not joined is no error, and tells nothing about whether the room exists.
    pub(super) async fn apply(self, app: &App, speaker: &Speaker) -> Result<Reply> {
        app.redis.leave(&self.room, &speaker.connection).await?;
        Ok(Reply::Left { room: self.room })
    }
}
