//! `send`: appends a message to a room's log and pushes it to everybody in the room.

use shared::{
    Error, Result, checked,
    domain::{
        messages::{ClientId, EventId, Generation, Text},
        rooms::RoomId,
        users::UserId,
    },
    protocol::{
        Form, Timestamp,
        frames::{Event, EventBody, EventKind, Reply, Resync},
    },
    redis::{Posted, Subscriber},
};

use crate::{App, Speaker};

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
        let body = EventBody { kind: EventKind::Message, event, from: author, text, id: id.clone() };

        let known = app.subscribers.version(&room);
        let posted = app.redis.post(&room, &speaker.connection, &body, known.as_deref()).await?;
        let Posted { position, previous, repeated, version, subscribers, generation, forgotten } = posted;
        let subscribers = app.subscribers.update(&room, version, subscribers);

        if forgotten {
            resync(app, &room, &generation).await?;
        }
        // A repeat is pushed again: the first time may have died before its pushes. Clients drop what they have.
        if let Some(body) = repeated.unwrap_or(Some(body)) {
            let logged = Event::new(room.clone(), position, previous, body);
            let frame = serde_json::to_string(&logged)
                .map_err(|cause| Error::internal("pushing a message", cause))?;
            let receivers: Vec<&Subscriber> =
                subscribers.iter().filter(|subscriber| subscriber.connection != speaker.connection).collect();
            app.connections.push(&room, &frame, &receivers).await;
        }
        Ok(Reply::Ack { room, id, event, position, previous, at: Timestamp(position.at()) })
    }
}

/// Tells everybody in a room that Redis had forgotten something of it, and to read again.
pub(super) async fn resync(app: &App, room: &RoomId, generation: &Generation) -> Result<()> {
    tracing::warn!(room.id = %room, generation = generation.as_str(), "Redis has forgotten a part of the room's log");
    let frame = Resync { room: room.clone(), generation: generation.clone() };
    let frame = serde_json::to_string(&frame).map_err(|cause| Error::internal("pushing a resync", cause))?;
    let subscribers = app.redis.subscribers(room).await?;
    app.connections.push(room, &frame, &subscribers.iter().collect::<Vec<_>>()).await;
    Ok(())
}
