//! `ping`: keeps the connection alive, and shows a client what it has missed.

use shared::{
    Result,
    domain::{Invalid, messages::Position, rooms::RoomId},
    protocol::{Form, frames::Reply},
};

use crate::{App, Speaker};

/// How many rooms a ping can ask about.
const MOST_ROOMS: usize = 50;

#[derive(Debug)]
pub(crate) struct Ping {
    positions: Vec<(RoomId, Position)>,
}

impl Ping {
    pub(super) fn parse(mut form: Form) -> Result<Self> {
        let positions = form.optional_map("positions", MOST_ROOMS, |room, position| {
            Ok::<_, Invalid>((RoomId::parse(room)?, Position::parse(position)?))
        });
        form.check()?;
        Ok(Self { positions: positions.unwrap_or_default() })
    }

    /// A room that the connection has not joined is in `rejoin`, whether it exists or not. So is one whose newest
    /// position is before the client's: Redis has forgotten, and joining again tells the client how to go on.
    pub(super) async fn apply(self, app: &App, speaker: &Speaker) -> Result<Reply> {
        let (rooms, positions): (Vec<_>, Vec<_>) = self.positions.into_iter().unzip();
        let newest = app.redis.peek(&speaker.connection, &rooms).await?;
        let mut behind = std::collections::BTreeMap::new();
        let mut rejoin = Vec::new();
        for ((room, position), newest) in rooms.into_iter().zip(positions).zip(newest) {
            match newest {
                Some(newest) => match newest.unwrap_or(Position::BEGINNING) {
                    newest if newest < position => rejoin.push(room),
                    newest if position < newest => _ = behind.insert(room, newest),
                    _ => {}
                },
                None => rejoin.push(room),
            }
        }
        Ok(Reply::Pong { behind, rejoin })
    }
}
