//! What a client can ask for: one file for each action, with its parsing, its effect and its reply.

mod history;
mod join;
mod leave;
mod ping;
mod send;

use shared::{
    Error, Result,
    domain::rooms::RoomId,
    protocol::{Form, frames::Reply},
};

use crate::{App, Speaker};
use history::History;
use join::Join;
use leave::Leave;
use ping::Ping;
use send::Send;

/// What a frame asks for.
#[derive(Debug)]
pub(crate) enum Action {
    Join(Join),
    Leave(Leave),
    Send(Send),
    History(History),
    Ping(Ping),
}

impl Action {
    pub(crate) fn parse(name: &str, form: Form) -> Result<Self> {
        match name {
            "join" => Join::parse(form).map(Self::Join),
            "leave" => Leave::parse(form).map(Self::Leave),
            "send" => Send::parse(form).map(Self::Send),
            "history" => History::parse(form).map(Self::History),
            "ping" => Ping::parse(form).map(Self::Ping),
            _ => Err(Error::UnknownAction),
        }
    }

    /// As the client spelled it.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Join(_) => "join",
            Self::Leave(_) => "leave",
            Self::Send(_) => "send",
            Self::History(_) => "history",
            Self::Ping(_) => "ping",
        }
    }

    /// The room it is about.
    pub(crate) fn room(&self) -> Option<&RoomId> {
        match self {
            Self::Join(Join { room, .. })
            | Self::Leave(Leave { room })
            | Self::Send(Send { room, .. })
            | Self::History(History { room, .. }) => Some(room),
            Self::Ping(_) => None,
        }
    }

    pub(crate) async fn apply(self, app: &App, speaker: &Speaker) -> Result<Reply> {
        match self {
            Self::Join(join) => join.apply(app, speaker).await,
            Self::Leave(leave) => leave.apply(app, speaker).await,
            Self::Send(send) => send.apply(app, speaker).await,
            Self::History(history) => history.apply(app, speaker).await,
            Self::Ping(ping) => ping.apply(app, speaker).await,
        }
    }
}
