//! What clients do, and what reaches them.

use crate::{
    client::Asked,
    rules::Break,
    types::{Connection, DAY_MS, Event, EventId, Frame, Kind, Part, Position},
    world::{Verdict, World, functions::Work},
};

impl World {
    pub(super) fn act(&mut self, index: usize) {
        if self.clients[index].connection.is_none() {
            if self.rng.chance(70) {
                self.connect(index);
            }
            return;
        }
        match self.rng.below(10) {
            0..4 => self.write(index),
            4 => {
                let waiting = self.clients[index].outbox.len();
                if waiting > 0 {
                    let event = self.clients[index].outbox[self.rng.below(waiting)];
                    if self.weather.gives_up && self.rng.chance(30) {
                        self.clients[index].outbox.retain(|other| *other != event);
                        self.note(|| format!("client {index} gives up {:?}", event.id));
                    } else {
                        self.send(index, event);
                    }
                }
            }
            5 | 6 => self.ask(index),
            7 => self.ping(index),
            8 if self.weather.sockets_drop && self.rng.chance(40) => self.drop_socket(index),
            8 if self.weather.scrolls => self.scroll(index),
            _ if self.rng.chance(20) => self.clients[index].pending = None,
            _ => self.ask(index),
        }
    }

    pub(super) fn connect(&mut self, index: usize) {
        let connection = self.fresh() as Connection;
        self.clients[index].connection = Some(connection);
        self.clients[index].wants_to_join = true;
        self.note(|| format!("client {index} connects: {connection}"));
    }

    pub(super) fn drop_socket(&mut self, index: usize) {
        let Some(connection) = self.clients[index].connection else { return };
        self.clients[index].drop_socket();
        // `$disconnect` is best effort.
        if self.rng.chance(50) {
            self.redis.subscribers.remove(&connection);
        }
        self.wire.retain(|(to, _)| *to != connection);
        self.note(|| format!("client {index} loses its socket"));
    }

    pub(super) fn write(&mut self, index: usize) {
        if self.appended.len() + self.clients[index].outbox.len() >= self.weather.events {
            return;
        }
        let name = self.fresh() as u32;
        let mut event = Event { id: EventId::new(name), kind: Kind::Message };
        if self.weather.edits && self.rng.chance(45) {
            let messages = self.clients[index].held.iter().filter(|(_, held)| held.kind == Kind::Message);
            let messages: Vec<_> = messages.map(|(id, _)| *id).collect();
            if !messages.is_empty() && !self.weather.reuses_ids {
                let target = messages[self.rng.below(messages.len())];
                let slot = self.rng.below(2) as u8;
                let edits = self.rng.chance(65);
                event.kind = if edits { Kind::Edit { target, slot } } else { Kind::Delete { target } };
            }
        }
        if self.weather.reuses_ids && self.rng.chance(50) && !self.acked.is_empty() {
            let (id, position) = self.acked[self.rng.below(self.acked.len())];
            let all = self.acked.iter().filter(|(other, _)| *other == id);
            let newest = all.map(|(_, position)| *position).max().unwrap_or(position);
            let busy = self.clients.iter().any(|client| client.outbox.iter().any(|event| event.id == id));
            if self.redis_clock() > newest.milliseconds() + DAY_MS && !busy {
                event.id = id;
            }
        }
        self.clients[index].outbox.push(event);
        self.send(index, event);
    }

    pub(super) fn send(&mut self, index: usize, event: Event) {
        if let Some(connection) = self.clients[index].connection {
            let attempt = if self.rules.breaks(Break::NamesEventsByAttempt) {
                Event { id: EventId { again: Position::at(self.fresh()), ..event.id }, ..event }
            } else {
                event
            };
            self.call(Work::Send { connection, event: attempt });
        }
    }

    /// Asks for what it wants most.
    pub(super) fn ask(&mut self, index: usize) {
        let client = &self.clients[index];
        let Some(connection) = client.connection else { return };
        if client.pending.is_some() {
            return;
        }
        let (last, knows) = (client.last, client.knows());
        if !client.joined || client.wants_to_join {
            let after = client.generation.map(|generation| (last, generation));
            let reference = self.fresh();
            self.clients[index].pending = Some(Asked { reference, after: last, knew: knows });
            self.call(Work::Join { connection, reference, after, admitted: false });
        } else if client.wants_history {
            let part = client.next_part();
            let reference = self.fresh();
            self.clients[index].pending = Some(Asked { reference, after: last, knew: knows });
            self.call(Work::History { connection, reference, part, before: None });
        }
    }

    pub(super) fn scroll(&mut self, index: usize) {
        let client = &self.clients[index];
        let Some(connection) = client.connection else { return };
        let idle = client.pending.is_none() && client.joined && client.generation.is_some();
        if idle && !client.reading_again && client.from > Position::ZERO {
            // Its own oldest position is not among what it has for sure: an equal one may be.
            let part = Part::Before(client.from.next());
            let reference = self.fresh();
            self.clients[index].pending =
                Some(Asked { reference, after: Position::ZERO, knew: Position::ZERO });
            self.call(Work::History { connection, reference, part, before: None });
        }
    }

    pub(super) fn ping(&mut self, index: usize) {
        let client = &self.clients[index];
        if let (Some(connection), Some(generation), true) =
            (client.connection, client.generation, client.joined)
        {
            let position = client.knows();
            self.call(Work::Ping { connection, position, generation });
        }
    }

    /// Some frame reaches its client: the wire keeps no order.
    pub(super) fn deliver_a_frame(&mut self) -> Verdict {
        if self.wire.is_empty() {
            return Ok(());
        }
        let (connection, frame) = self.wire.swap_remove(self.rng.below(self.wire.len()));
        let Some(index) = self.clients.iter().position(|client| client.connection == Some(connection)) else {
            return Ok(());
        };
        self.note(|| format!("client {index} gets {frame:?}"));
        let whole_up_to = self.receive(index, frame)?;
        if self.trace.is_some() {
            let line = format!("  {:?}", self.clients[index]);
            self.note(|| line);
        }
        match whole_up_to {
            Some(position) if self.weather.is_calm() => self.check_resume(index, position),
            _ => Ok(()),
        }
    }

    /// Answers up to where the client must have everything now.
    fn receive(&mut self, index: usize, frame: Frame) -> Result<Option<Position>, String> {
        let rules = self.rules;
        let client = &mut self.clients[index];
        match frame {
            Frame::Joined { reference, generation, position, reset, events, more } => {
                let Some(asked) = client.answered(reference) else { return Ok(None) };
                if reset && self.weather.is_steady() {
                    return Err("a reset although nothing was forgotten".to_owned());
                }
                client.on_joined(generation, position, reset, &events, more, asked, rules);
                return Ok(Some(position));
            }
            Frame::Page { reference, part, generation, position, events, more } => {
                let Some(asked) = client.answered(reference) else { return Ok(None) };
                if let Part::Before(_) = part {
                    client.on_messages_before(generation, &events, more, rules);
                } else {
                    client.on_events_after(generation, position, &events, more, asked, rules);
                    return Ok(Some(position));
                }
            }
            Frame::Failed { reference } => _ = client.answered(reference),
            Frame::NotJoined => {
                client.joined = false;
                client.wants_to_join = true;
                client.pending = None;
            }
            Frame::Event(pushed) => client.on_event(pushed, rules),
            Frame::Ack(pushed) => {
                let name = pushed.record.event.id.name;
                if client.outbox.iter().any(|event| event.id.name == name) {
                    client.outbox.retain(|event| event.id.name != name);
                    self.acked.push((EventId::new(name), pushed.record.position));
                }
                client.on_event(pushed, rules);
            }
            Frame::Refused { event } => client.outbox.retain(|other| other.id != event),
            Frame::Resync { generation } => client.on_resync(generation, rules),
            Frame::Pong { behind, rejoin } => client.on_pong(behind, rejoin),
        }
        Ok(None)
    }

    pub(super) fn reply(&mut self, connection: Connection, frame: Frame) {
        if self.clients.iter().any(|client| client.connection == Some(connection)) {
            self.wire.push((connection, frame));
        }
    }

    pub(super) fn push(&mut self, connection: Connection, frame: Frame) {
        if !self.clients.iter().any(|client| client.connection == Some(connection)) {
            self.redis.subscribers.remove(&connection);
            return;
        }
        if self.troubles && self.weather.pushes_get_lost && self.rng.chance(25) {
            self.note(|| format!("  LOST for {connection}: {frame:?}"));
            return;
        }
        if self.rng.chance(10) {
            self.wire.push((connection, frame.clone()));
        }
        self.wire.push((connection, frame));
    }
}
