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
        queue::ArchiveRecord,
    },
    redis::{Posted, Subscriber},
    resync,
};
use tokio::join;

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
        let content = Content::Message { text, id: id.clone(), reply_to: None };
        let body = EventBody { event, from: author, content };

        let held = app.subscribers.get(&room);
        let known = held.as_ref().map(|held| held.version.as_str());
        let posted = app.redis.post(&room, &speaker.connection, &body, known).await?;
        let Posted { position, previous, repeated, version, subscribers, generation, forgotten } = posted;
        let subscribers = app.subscribers.update(&room, held, version, subscribers);

        // What the log has of the first time is what everybody has seen. If it has it no more, Postgres may not yet have it
        // either; but nobody is shown again what may have been taken out of the log.
        let (archived, pushed) = match repeated {
            None => (body.clone(), Some(body)),
            Some(Some(first)) => (first.clone(), Some(first)),
            Some(None) => (body, None),
        };
        let record = ArchiveRecord { room: room.clone(), position, previous, event: archived };
        let deadline = app.fan_out.deadline();
        let push = async {
            if forgotten {
                resync::tell(&app.redis, &app.postgres, &app.fan_out, &room, &generation, deadline).await;
            }
            // A repeat is pushed again: the first time may have died before its pushes. Clients drop what they have.
            let Some(body) = pushed else { return Ok(()) };
            let logged = Event::new(room.clone(), position, previous, body);
            let frame = serde_json::to_string(&logged)
                .map_err(|cause| Error::internal("pushing a message", cause))?;
            let receivers: Vec<&Subscriber> =
                subscribers.iter().filter(|subscriber| subscriber.connection != speaker.connection).collect();
            app.fan_out.tell(&room, &frame, &receivers, deadline).await;
            Ok(())
        };
        // Side by side, and both to their end: the function is frozen after its answer. Acknowledged means kept, so there is
        // no ack without the queue.
        let (queued, told) = join!(app.archive.put(&record), push);
        queued.and(told)?;
        Ok(Reply::Ack { room, id, event, position, previous, at: Timestamp(position.at()) })
    }
}
