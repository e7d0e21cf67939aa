//! What must hold.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    pages::{needs_postgres, page},
    redis::{Entry, Head, Reading, is_of},
    types::{DAY_MS, EventId, Kind, Part, Position, Shown, State, set_slot},
    world::{Verdict, World},
};

/// What a message has become.
type View = BTreeMap<EventId, (Position, State)>;

impl World {
    /// What everybody must see at the end.
    pub(super) fn truth(&self) -> View {
        let messages = self.postgres.rows.iter().filter(|(_, row)| row.kind == Kind::Message && !row.gone);
        let mut truth: View = messages.map(|(id, row)| (*id, (row.position, State::new()))).collect();
        for (id, row) in self.postgres.rows.iter().filter(|(_, row)| !row.gone) {
            if let Kind::Edit { target, slot } = row.kind
                && let Some((_, state)) = truth.get_mut(&target)
            {
                set_slot(state, slot, (row.position, *id));
            }
        }
        truth
    }

    pub(super) fn check_end(&self) -> Verdict {
        for (id, position) in &self.acked {
            let of_this_name = self.postgres.rows.iter().filter(|(other, _)| other.name == id.name);
            let near = of_this_name
                .clone()
                .filter(|(_, row)| row.position.milliseconds().abs_diff(position.milliseconds()) <= DAY_MS);
            if near.count() != 1 {
                return Err(format!("{id:?}, acked at {position:?}, is not once in Postgres"));
            }
        }
        if !self.weather.reuses_ids {
            let mut names = BTreeSet::new();
            for id in self.postgres.rows.keys() {
                if !names.insert(id.name) {
                    return Err(format!("{id:?} is twice in Postgres"));
                }
            }
        }
        // A snapshot may bring a deleted text back; it is not shown, and goes when the log is trimmed.
        let since = self.redis.head.map_or(Position::ZERO, |head| head.since);
        let entries = self.redis.log.iter().flat_map(|log| &log.entries);
        let brought_back = |entry: &Entry| entry.event.kind != Kind::Message && self.weather.redis_goes_back;
        for (_, entry) in entries.filter(|(position, entry)| **position > since && !brought_back(entry)) {
            if self.postgres.rows.get(&entry.event.id).is_some_and(|row| row.gone) {
                return Err(format!("{:?} is deleted, and still in the log", entry.event));
            }
        }
        let truth = self.truth();
        let (forward, backward) = (self.walk_forward(), self.walk_back());
        if forward != Ok(truth.clone()) {
            return Err(format!("history forward is {forward:?}\nnot {truth:?}"));
        }
        if backward != Ok(truth.clone()) {
            return Err(format!("history back is {backward:?}\nnot {truth:?}"));
        }
        for index in 0..self.clients.len() {
            self.check_view(index, &truth)?;
        }
        Ok(())
    }

    /// Everything after what the client has dropped is shown, at its place, as it is now.
    pub(super) fn check_view(&self, index: usize, truth: &View) -> Verdict {
        let client = &self.clients[index];
        // Never acked, and vanished with Redis.
        let phantom = |id: &EventId| {
            !self.postgres.rows.keys().any(|other| other.name == id.name)
                && !self.acked.iter().any(|(acked, _)| acked == id)
        };
        let real = |id: &EventId| !phantom(id);
        let mut seen = View::new();
        let mut doubtful = BTreeSet::new();
        for (id, held) in client.held.iter().filter(|(id, held)| held.kind == Kind::Message && real(id)) {
            doubtful
                .extend(held.state.iter().filter(|(_, edit)| phantom(&edit.1)).map(|(slot, _)| (*id, *slot)));
            seen.insert(*id, (held.position, held.state.clone()));
        }
        for (id, held) in client.held.iter().filter(|(id, _)| real(id)) {
            match held.kind {
                Kind::Message => {}
                Kind::Edit { target, slot } => {
                    if let Some((_, state)) = seen.get_mut(&target) {
                        set_slot(state, slot, (held.position, *id));
                    }
                }
                Kind::Delete { target } => {
                    seen.remove(&target);
                }
            }
        }
        let mut wanted = truth.clone();
        for view in [&mut seen, &mut wanted] {
            view.retain(|_, (position, _)| *position > client.from);
            for (id, (_, state)) in view.iter_mut() {
                state.retain(|slot, _| !doubtful.contains(&(*id, *slot)));
            }
        }
        if seen != wanted {
            return Err(format!("client {index} sees {seen:?}\nnot {wanted:?}\n{client:?}"));
        }
        Ok(())
    }

    /// Redis has forgotten nothing: history is all that was appended, readers are never disturbed.
    pub(super) fn check_calm(&self) -> Verdict {
        if self.forgotten > 0 && self.weather.is_steady() {
            return Err("a new generation although nothing was forgotten".to_owned());
        }
        if let Some(index) = self.clients.iter().position(|client| client.shaken > 0)
            && self.weather.is_steady()
        {
            return Err(format!("client {index} was shaken although nothing was forgotten"));
        }
        if self.redis.head.is_none_or(|head| head.since == Position::UNKNOWN) {
            return Ok(());
        }
        let mut expected = View::new();
        let mut deleted = BTreeSet::new();
        for record in &self.appended {
            match record.event.kind {
                Kind::Message => {
                    expected.insert(record.event.id, (record.position, State::new()));
                }
                Kind::Edit { target, slot } => {
                    if let Some((_, state)) = expected.get_mut(&target) {
                        set_slot(state, slot, (record.position, record.event.id));
                    }
                }
                Kind::Delete { target } => {
                    deleted.insert(target);
                }
            }
        }
        expected.retain(|id, _| !deleted.contains(id));
        for (name, history) in [("forward", self.walk_forward()), ("back", self.walk_back())] {
            if history.as_ref() != Ok(&expected) {
                return Err(format!("history {name} is {history:?}\nnot {expected:?}"));
            }
        }
        Ok(())
    }

    /// A resume is whole: everything up to the position of the answer is there.
    pub(super) fn check_resume(&self, index: usize, position: Position) -> Verdict {
        let client = &self.clients[index];
        let gone: BTreeSet<_> = self
            .appended
            .iter()
            .filter_map(|record| match record.event.kind {
                Kind::Delete { target } => Some(target),
                _ => None,
            })
            .collect();
        let whole = if client.wants_history { client.last } else { position };
        for record in &self.appended {
            // Before where it first began it has scrolled back at most, and knows messages only, as they are.
            let begun = record.event.kind == Kind::Message || !self.weather.scrolls;
            let due = begun && record.position > client.from && record.position <= whole;
            let alive = !gone.iter().any(|target| is_of(record.event, *target));
            if due
                && alive
                && client.held.get(&record.event.id).is_none_or(|held| held.position != record.position)
            {
                return Err(format!("client {index} resumed up to {whole:?} without {record:?}"));
            }
        }
        Ok(())
    }

    /// If Redis at most loses all that it has, then an answer to `join` has everything that it should.
    pub(super) fn check_join(&mut self, reading: &Reading, events: &[Shown], more: bool) {
        if self.weather.redis_goes_back || self.weather.redis_evicts || self.weather.clock_goes_back {
            return;
        }
        let (from, to) = match reading.part {
            Part::After(after) => (after, events.last().filter(|_| more).map(|shown| shown.position)),
            _ if more => (events.first().map_or(reading.head.last, |shown| shown.position), None),
            _ => (Position::ZERO, None),
        };
        let to = to.unwrap_or(Position::UNKNOWN);
        let mut under_way = self.in_hand();
        under_way.extend(self.queue.iter().map(|(_, record)| record.event.id));
        for (id, row) in &self.postgres.rows {
            let due = !row.gone
                && from < row.position
                && row.position <= to
                && !under_way.contains(&EventId::new(id.name));
            let target = match row.kind {
                Kind::Edit { target, .. } => target,
                _ => *id,
            };
            let deletes =
                |entry: &Entry| matches!(entry.event.kind, Kind::Delete { target: of } if of == target);
            let deleted = reading.entries.values().any(deletes) || self.redis.is_deleted(*id, row.kind);
            if due && !deleted && !events.iter().any(|shown| shown.event.id == *id) {
                self.partial_join =
                    Some(format!("an answer to join lacks {id:?}@{:?}: {reading:?}", row.position));
            }
        }
    }

    /// The whole history by pages of `after`, read in one moment.
    pub(super) fn walk_forward(&self) -> Result<View, String> {
        let mut view = View::new();
        let mut edits = Vec::new();
        let mut deleted = BTreeSet::new();
        let mut after = Position::ZERO;
        for _ in 0..1000 {
            let (events, more) = self.read_now(Part::After(after));
            for shown in events {
                after = shown.position;
                match shown.event.kind {
                    Kind::Message => add(&mut view, shown)?,
                    Kind::Edit { target, slot } => {
                        edits.push((target, slot, (shown.position, shown.event.id)))
                    }
                    Kind::Delete { target } => {
                        deleted.insert(target);
                    }
                }
            }
            if !more {
                break;
            }
        }
        for (target, slot, edit) in edits {
            if let Some((_, state)) = view.get_mut(&target) {
                set_slot(state, slot, edit);
            }
        }
        view.retain(|id, _| !deleted.contains(id));
        Ok(view)
    }

    /// The whole history by pages of `before`, read in one moment.
    pub(super) fn walk_back(&self) -> Result<View, String> {
        let mut view = View::new();
        let mut part = Part::Before(Position::UNKNOWN);
        for _ in 0..1000 {
            let (events, more) = self.read_now(part);
            if let Some(oldest) = events.first() {
                part = Part::Before(oldest.position);
            }
            for shown in events {
                add(&mut view, shown)?;
            }
            if !more {
                return Ok(view);
            }
        }
        Err("it has no beginning".to_owned())
    }

    pub(super) fn read_now(&self, part: Part) -> (Vec<Shown>, bool) {
        let none = Head { generation: 0, count: 0, last: Position::ZERO, since: Position::UNKNOWN };
        let head = self.redis.sound_head().unwrap_or(none);
        let reading = self.redis.read(head, part);
        let postgres = needs_postgres(&reading, self.weather.limit, self.rules).then_some(&self.postgres);
        page(&reading, self.weather.limit, postgres, &self.redis.now, self.rules)
    }
}

fn add(view: &mut View, shown: Shown) -> Result<(), String> {
    let id = shown.event.id;
    if view.insert(id, (shown.position, shown.state)).is_some() {
        return Err(format!("{id:?} twice"));
    }
    Ok(())
}
