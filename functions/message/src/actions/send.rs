//! `send`: appends a message to a room's log and pushes it to everybody in the room.

use shared::{
    Error, Result, checked,
    domain::{
        messages::{ClientId, EventId, Text},
        rooms::RoomId,
        users::UserId,
    },
    protocol::{
        Form, Timestamp,
        frames::{Content, Event, EventBody, Reply},
    },
    redis::{Posted, Subscriber},
};

use crate::{App, Speaker, resync::tell_if};

#[derive(Debug)]
pub(crate) struct Send {
    pub(crate) room: RoomId,
    text: Text,
    id: Option<ClientId>,
}

impl Send {
    pub(super) fn parse(mut form: Form) -> Result<Self> {
        let room = form.required("room", RoomId::parse);
        let text = form.required("text", Text::parse);
        let id = form.optional("id", ClientId::parse);
        checked!(form, room, text);
        Ok(Self { room, text, id })
    }

    /// The event that a repeat of this frame would make again; none if the client gave no id to repeat it with.
    pub(crate) fn repeatable(&self, author: UserId) -> Option<EventId> {
        self.id.as_ref().map(|id| EventId::of_client(&self.room, author, id))
    }

    pub(super) async fn apply(self, app: &App, speaker: &Speaker) -> Result<Reply> {
        let author = speaker.identity.author();
        let event = self
            .repeatable(author.id)
            .unwrap_or_else(|| EventId::of_request(&self.room, author.id, &speaker.request_id));
        let Self { room, text, id } = self;
        let content = Content::Message { text, id: id.clone(), reply_to: None };
        let body = EventBody { event, from: author, content };

        let held = app.subscribers.get(&room);
        let known = held.as_ref().map(|held| held.version.as_str());
        let posted = app.redis.post(&room, &speaker.connection, &body, known).await?;
        let Posted { position, previous, repeated, version, subscribers, generation, forgotten } = posted;
        let subscribers = app.subscribers.update(&room, held, version, subscribers);

        let deadline = app.connections.deadline();
        tell_if(forgotten, app, &room, &generation, deadline).await;
        // A repeat is pushed again: the first time may have died before its pushes. Clients drop what they have.
        if let Some(body) = repeated.unwrap_or(Some(body)) {
            let logged = Event::new(room.clone(), position, previous, body);
            let frame = serde_json::to_string(&logged)
                .map_err(|cause| Error::internal("pushing a message", cause))?;
            let receivers: Vec<&Subscriber> =
                subscribers.iter().filter(|subscriber| subscriber.connection != speaker.connection).collect();
            app.connections.push(&room, &frame, &receivers, deadline).await;
        }
        Ok(Reply::Ack { room, id, event, position, previous, at: Timestamp(position.at()) })
    }
}
