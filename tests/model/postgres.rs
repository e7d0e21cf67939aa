//! One room in Postgres. A method that changes something is a transaction.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    redis::{Head, Settlement, is_of},
    rules::{Break, Rules},
    types::{DAY_MS, Event, EventId, Kind, Position, Record, State, set_slot},
};

#[derive(Clone, Default, Debug)]
pub(crate) struct Postgres {
    pub(crate) rows: BTreeMap<EventId, Row>,
    /// What came before its target.
    stubs: BTreeMap<EventId, Stub>,
    /// How many generations the room had.
    generations: u64,
}

#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Row {
    pub(crate) kind: Kind,
    pub(crate) position: Position,
    /// The text is deleted; the row stays so that no repeat brings it back.
    pub(crate) gone: bool,
    pub(crate) state: State,
}

#[derive(Clone, Default, Debug)]
struct Stub {
    state: State,
    deleted: bool,
}

/// What Postgres knows of a room's log.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Known {
    pub(crate) newest: Position,
    pub(crate) count: u64,
}

impl Known {
    /// Whether a Redis with this head has forgotten something, or nobody has asked Postgres yet.
    pub(crate) fn is_ahead_of(self, head: Head, rules: Rules) -> bool {
        head.since == Position::UNKNOWN
            || (self.newest > head.last && !rules.breaks(Break::DoesNotCompareTheNewest))
            || self.count > head.count
    }
}

/// What a batch did, for `settle`.
#[derive(Clone, Debug)]
pub(crate) struct Stored {
    pub(crate) settlements: Vec<Settlement>,
    /// The largest position that the log had lacked when a record's event was appended.
    pub(crate) lost: Option<Position>,
    pub(crate) known: Known,
}

impl Postgres {
    pub(crate) fn known(&self) -> Known {
        let newest = self.rows.values().map(|row| row.position).max().unwrap_or_default();
        Known { newest, count: self.generations }
    }

    /// That a generation has begun, for Redis may forget it again.
    pub(crate) fn remember(&mut self, count: u64) {
        self.generations = self.generations.max(count);
    }

    /// Stores a batch in whatever order.
    /// `again`: events whose records came before.
    pub(crate) fn store(&mut self, records: &[Record], again: &BTreeSet<EventId>, rules: Rules) -> Stored {
        let mut events = Vec::new();
        let mut changed = BTreeSet::new();
        for record in records {
            let (id, places, is_change) = self.upsert(*record, rules);
            if is_change {
                changed.insert(id);
            }
            events.push((record.event.id, id, places));
            if let Kind::Delete { target } = record.event.kind {
                let gone = self.rows.iter().filter(|(id, row)| is_of(row.event(**id), target));
                events.extend(gone.map(|(id, row)| (*id, *id, vec![row.position])));
            }
        }
        let trusts = rules.breaks(Break::LooksOnlyForWhatItChanged);
        let settlements = events.into_iter().map(|(logged, stored, places)| {
            let unsettled = changed.contains(&stored) || (again.contains(&logged) && !trusts);
            self.settlement(logged, stored, places, unsettled)
        });
        Stored { settlements: settlements.collect(), lost: self.lost(records, rules), known: self.known() }
    }

    fn settlement(
        &self,
        logged: EventId,
        stored: EventId,
        places: Vec<Position>,
        unsettled: bool,
    ) -> Settlement {
        let Row { kind, position, gone, .. } = self.rows[&stored];
        let message = Event { id: stored, kind }.message();
        let state = self.rows.get(&message).map(|row| row.state.clone()).unwrap_or_default();
        Settlement { logged, places, stored, position, gone, unsettled, kind, state }
    }

    /// The chain: no other event is after the one before a record's event and up to it, or the log had lost that event.
    fn lost(&self, records: &[Record], rules: Rules) -> Option<Position> {
        if rules.breaks(Break::DoesNotCompareTheChain) {
            return None;
        }
        let with_end = !rules.breaks(Break::ComparesTheChainWithoutItsEnd);
        let between = records.iter().flat_map(|record| {
            let others = self.rows.iter().filter(|(id, _)| id.name != record.event.id.name);
            let positions = others.map(|(_, row)| row.position).filter(|at| record.previous < *at);
            positions.filter(move |at| *at < record.position || (*at == record.position && with_end))
        });
        between.max()
    }

    /// Whether the log need not keep this any more.
    pub(crate) fn has(&self, event: EventId, position: Position) -> bool {
        self.rows.get(&event).is_some_and(|row| row.position == position && !row.gone)
    }

    /// The row's id, the positions at which the log may have the event, whether the row is new or moved.
    fn upsert(&mut self, record: Record, rules: Rules) -> (EventId, Vec<Position>, bool) {
        let Record { event, position, .. } = record;
        let mut places = vec![position];
        let same_name = self.rows.iter().filter(|(id, _)| id.name == event.id.name);
        let within_a_day =
            |row: &Row| row.position.milliseconds().abs_diff(position.milliseconds()) <= DAY_MS;
        let reuse_is_repeat = rules.breaks(Break::ReusedIdIsTheOldMessage);
        let (mut known, mut found) = (false, None);
        for (id, row) in same_name {
            known = true;
            if found.is_none() && (within_a_day(row) || reuse_is_repeat) {
                found = Some(*id);
            }
        }
        if let Some(id) = found {
            let row = self.rows.get_mut(&id).expect("it was found");
            let moves = position < row.position;
            if moves {
                places.push(row.position);
                row.position = position;
                if !rules.breaks(Break::DoesNotRecomputeMovedEdits) {
                    self.recompute(event.kind);
                }
            }
            return (id, places, moves);
        }
        let id = if known { EventId { again: position, ..event.id } } else { event.id };
        self.insert(id, event.kind, position, rules);
        (id, places, true)
    }

    fn insert(&mut self, id: EventId, kind: Kind, position: Position, rules: Rules) {
        let mut row = Row { kind, position, gone: false, state: State::new() };
        match kind {
            Kind::Message => {
                let stub = self.stubs.remove(&id).unwrap_or_default();
                row.gone = stub.deleted && !rules.breaks(Break::ForgetsDeletionsBeforeTheirMessage);
                row.state = stub.state;
            }
            Kind::Edit { target, slot } => {
                row.gone = match self.rows.get(&target) {
                    Some(target) => target.gone,
                    None => self.stubs.get(&target).is_some_and(|stub| stub.deleted),
                };
                if !row.gone {
                    let state = self.state(target);
                    if rules.breaks(Break::LastEditToArriveWins) {
                        state.remove(&slot);
                    }
                    set_slot(state, slot, (position, id));
                }
            }
            Kind::Delete { target } => self.delete(target),
        }
        self.rows.insert(id, row);
    }

    /// Deletes a message, which may not have come yet, with its edits.
    fn delete(&mut self, target: EventId) {
        self.state(target).clear();
        match self.rows.get_mut(&target) {
            Some(target) => target.gone = true,
            None => self.stubs.entry(target).or_default().deleted = true,
        }
        for row in self.rows.values_mut() {
            row.gone |= matches!(row.kind, Kind::Edit { target: of, .. } if of == target);
        }
    }

    fn state(&mut self, target: EventId) -> &mut State {
        match self.rows.get_mut(&target) {
            Some(row) => &mut row.state,
            None => &mut self.stubs.entry(target).or_default().state,
        }
    }

    /// An edit has moved to a smaller position: another may win now.
    fn recompute(&mut self, kind: Kind) {
        let Kind::Edit { target, slot } = kind else { return };
        let edits = self.rows.iter().filter(|(_, row)| !row.gone && row.kind == kind);
        let winner = edits.map(|(id, row)| (row.position, *id)).max();
        let state = self.state(target);
        state.remove(&slot);
        if let Some(winner) = winner {
            state.insert(slot, winner);
        }
    }
}

impl Row {
    pub(crate) fn event(&self, id: EventId) -> Event {
        Event { id, kind: self.kind }
    }
}
