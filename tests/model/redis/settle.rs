//! The comparison of the log with what Postgres has just stored.

use crate::{
    postgres::Stored,
    redis::{Redis, Settled, Settlement},
    rules::{Break, Rules},
    types::{EventId, Generation, Kind, Position, set_slot},
};

impl Redis {
    /// Takes out of the log what Postgres has elsewhere, as something else or no more; and if readers cannot have found
    /// an event, begins a new generation, and answers whom to tell.
    pub(crate) fn settle(&mut self, stored: &Stored, fresh: Generation, rules: Rules) -> Option<Settled> {
        let known = stored.known;
        if self.head.is_none() {
            // An older Redis may come back, whose readers must be told.
            let unseen = stored.settlements.iter().any(|event| event.unsettled && !event.gone);
            let counts = unseen && !rules.breaks(Break::DoesNotCountWithoutHead);
            return counts.then(|| Settled { count: known.count + 1, generation: fresh, tell: Vec::new() });
        }
        let mut lost = self.check_head(fresh, Position::UNKNOWN, rules).then_some(Position::ZERO);
        let head = self.head.expect("it was there");
        // Up to where it had lost something before, a repeat would not find any more.
        lost = lost.max(stored.lost.filter(|lost| head.since < *lost));
        // The newest may be ahead only because this batch has put it there.
        if known.count > head.count {
            lost = lost.max(Some(known.newest));
        }
        for event in &stored.settlements {
            lost = lost.max(self.take_out_all(event, head.since, rules));
            lost = lost.max(self.look_for(event, head.since, rules));
        }
        for event in stored.settlements.iter().filter(|event| !event.gone) {
            let message = self.shown_without_edits(event).filter(|message| *message > head.since);
            if !rules.breaks(Break::ForgetsEditsBeforeTheirMessage) {
                lost = lost.max(message);
            }
        }
        let lost = lost?;
        self.head.as_mut().expect("it was there").generation = fresh;
        Some(self.begin_generation(known, lost, rules))
    }

    /// Takes an event out of the log where Postgres does not have it. Answers up to where readers may have seen it at
    /// another place or as another event.
    fn take_out_all(&mut self, event: &Settlement, since: Position, rules: Rules) -> Option<Position> {
        // Readers may have seen it there, whatever the log has now.
        let shown = |place: &Position| event.unsettled || since < *place;
        let elsewhere =
            event.places.iter().copied().filter(|place| event.is_elsewhere(*place) && shown(place));
        let mut lost = elsewhere.max().filter(|_| !rules.breaks(Break::ForgetsWhatItFoundElsewhere));
        let sent = self.sent.get(&event.logged).map(|sent| sent.position);
        for place in event.places.iter().copied().chain(sent) {
            let moved = event.is_elsewhere(place);
            let superseded = moved && !rules.breaks(Break::LeavesSupersededEntries);
            let deleted = event.gone && !rules.breaks(Break::LeavesDeletedEntries);
            if !(superseded || deleted) || !self.take_out(event.logged, place) {
                continue;
            }
            if moved || event.kind == Kind::Message {
                lost = lost.max(Some(place));
            }
            if event.stored == event.logged
                && let Some(sent) = self.sent.get_mut(&event.logged)
            {
                sent.position = event.position;
            }
        }
        lost
    }

    /// An event that the log does not have, and that is not deleted, was forgotten. Where the log is not whole, only if it
    /// is unsettled: who read there before Postgres had the event has not seen it, and what was settled may be trimmed.
    fn look_for(&self, event: &Settlement, since: Position, rules: Rules) -> Option<Position> {
        let found = self.has(event.stored, event.position) || self.is_deleted(event.stored, event.kind);
        let looks_there = event.unsettled && !rules.breaks(Break::LooksOnlyAfterTheStart);
        let passed_over = event.position <= since && !looks_there;
        if event.gone || found || passed_over || rules.breaks(Break::DoesNotLookIntoTheLog) {
            return None;
        }
        let raises = !rules.breaks(Break::ForgetsToRaiseTheStart);
        Some(if raises { event.position } else { Position::ZERO })
    }

    /// A message that was lost and sent again can stand behind its edits, of which the log knows nothing then. Answers
    /// its position.
    fn shown_without_edits(&self, event: &Settlement) -> Option<Position> {
        let message = match event.kind {
            Kind::Message => event.stored,
            Kind::Edit { target, .. } => target,
            Kind::Delete { .. } => return None,
        };
        let entries = self.log.as_ref()?.entries.iter();
        let position =
            entries.filter(|(_, entry)| entry.event.id == message).map(|(position, _)| *position).max()?;
        let now = self.now.get(&message);
        let known = |slot, edit| now.and_then(|now| now.state.get(slot)).is_some_and(|known| known >= edit);
        event.state.iter().any(|(slot, edit)| !known(slot, edit)).then_some(position)
    }

    /// Takes an entry out of the log, if it is there.
    fn take_out(&mut self, event: EventId, position: Position) -> bool {
        if !self.has(event, position) {
            return false;
        }
        let Some(log) = self.log.as_mut() else { return false };
        let Some(entry) = log.entries.remove(&position) else { return false };
        if let Kind::Edit { target, slot } = entry.event.kind
            && let Some(now) = self.now.get_mut(&target)
            && now.deleted.is_none()
        {
            now.state.remove(&slot);
            for (position, other) in &log.entries {
                if other.event.kind == (Kind::Edit { target, slot }) {
                    set_slot(&mut now.state, slot, (*position, other.event.id));
                }
            }
        }
        true
    }
}
