//! `ping`: keeps the connection alive, and shows a client what it has missed.

use std::collections::{BTreeMap, HashMap};

use shared::{
    Result,
    domain::{
        Invalid,
        messages::{Generation, Position},
        rooms::RoomId,
    },
    protocol::{Form, frames::Reply},
    redis::News,
};

use crate::{App, Speaker};

/// How many rooms a ping can ask about.
const MOST_ROOMS: usize = 50;

#[derive(Debug)]
pub(crate) struct Ping {
    positions: Vec<(RoomId, Position)>,
    generations: HashMap<RoomId, Generation>,
}

impl Ping {
    pub(super) fn parse(mut form: Form) -> Result<Self> {
        let positions = form.optional_map("positions", MOST_ROOMS, |room, position| {
            Ok::<_, Invalid>((RoomId::parse(room)?, Position::parse(position)?))
        });
        let generations = form.optional_map("generations", MOST_ROOMS, |room, generation| {
            Ok::<_, Invalid>((RoomId::parse(room)?, Generation::parse(generation)?))
        });
        form.check()?;
        let generations = generations.unwrap_or_default().into_iter().collect();
        Ok(Self { positions: positions.unwrap_or_default(), generations })
    }

    /// A room that the connection has not joined is in `rejoin`, whether it exists or not. So is one of which Redis has
    /// forgotten something: its newest position is before the client's, or its generation is another one than the client
    /// names. Joining again tells the client how to go on.
    pub(super) async fn apply(self, app: &App, speaker: &Speaker) -> Result<Reply> {
        let Self { positions, generations } = self;
        let (rooms, positions): (Vec<_>, Vec<_>) = positions.into_iter().unzip();
        let news = app.redis.peek(&speaker.connection, &rooms).await?;
        let (mut behind, mut rejoin) = (BTreeMap::new(), Vec::new());
        for ((room, position), news) in rooms.into_iter().zip(positions).zip(news) {
            let is_current = |news: &News| {
                let newest = news.last.unwrap_or(Position::BEGINNING);
                position <= newest && generations.get(&room).is_none_or(|known| *known == news.generation)
            };
            match news.filter(is_current) {
                None => rejoin.push(room),
                Some(News { last: Some(newest), .. }) if position < newest => _ = behind.insert(room, newest),
                Some(_) => {}
            }
        }
        Ok(Reply::Pong { behind, rejoin })
    }
}
