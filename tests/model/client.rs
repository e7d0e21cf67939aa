//! A client: it writes with client ids and repeats until it has an ack; it reads as the protocol says.

use std::{collections::BTreeMap, fmt};

use crate::{
    rules::{Break, Rules},
    types::{Connection, Event, EventId, Generation, Kind, Part, Position, Pushed, Shown, State},
};

#[derive(Default, Debug)]
pub(crate) struct Client {
    pub(crate) connection: Option<Connection>,
    pub(crate) joined: bool,
    pub(crate) generation: Option<Generation>,
    /// It has everything up to here: all after `from`, as far as this generation is concerned.
    pub(crate) last: Position,
    /// It keeps nothing up to here.
    pub(crate) from: Position,
    pub(crate) held: BTreeMap<EventId, Held>,
    /// It reads everything after `from` again; what it does not find is gone.
    pub(crate) reading_again: bool,
    /// One question at a time.
    pub(crate) pending: Option<Asked>,
    pub(crate) wants_to_join: bool,
    pub(crate) wants_history: bool,
    /// Sent, and not acked.
    pub(crate) outbox: Vec<Event>,
    /// Pushes that overtook the first `joined`.
    early: Vec<Pushed>,
    /// How often what it shows was shaken: something moved, went, or was read again.
    pub(crate) shaken: usize,
}

/// A question.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asked {
    pub(crate) reference: u64,
    pub(crate) after: Position,
    /// The largest position that it knew to be given.
    pub(crate) knew: Position,
}

#[derive(Clone, PartialEq)]
pub(crate) struct Held {
    pub(crate) kind: Kind,
    pub(crate) position: Position,
    pub(crate) state: State,
    /// Not confirmed since it began to read again.
    stale: bool,
}

impl fmt::Debug for Held {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let stale = if self.stale { " stale" } else { "" };
        write!(formatter, "{:?}@{:?} {:?}{stale}", self.kind, self.position, self.state)
    }
}

impl Client {
    /// What it knows counts for nothing until it was read again.
    fn read_again(&mut self, generation: Generation, rules: Rules) {
        self.shaken += 1;
        self.generation = Some(generation);
        self.wants_history = true;
        self.reading_again = true;
        // An answer under way may be older than what made it read again.
        self.pending = None;
        // `join` asks Postgres what Redis may not know; `history` does not.
        self.wants_to_join = true;
        if !rules.breaks(Break::KeepsItsPositionInANewGeneration) {
            self.last = self.from;
        }
        for held in self.held.values_mut() {
            held.stale = true;
        }
    }

    /// The question that this answers, if it still waits for it.
    pub(crate) fn answered(&mut self, reference: u64) -> Option<Asked> {
        self.pending.take_if(|asked| asked.reference == reference)
    }

    fn show(&mut self, events: &[Shown], rules: Rules) {
        for shown in events.iter().filter(|shown| shown.position > self.from) {
            let mut position = shown.position;
            if let Some(held) = self.held.get(&shown.event.id)
                && rules.breaks(Break::SmallerPositionWins)
            {
                position = position.min(held.position);
            }
            if self.held.get(&shown.event.id).is_some_and(|held| held.position != position) {
                self.shaken += 1;
            }
            let held = Held { kind: shown.event.kind, position, state: shown.state.clone(), stale: false };
            self.held.insert(shown.event.id, held);
        }
    }

    #[expect(clippy::too_many_arguments, reason = "it is the frame, field by field")]
    pub(crate) fn on_joined(
        &mut self,
        generation: Generation,
        position: Position,
        reset: bool,
        events: &[Shown],
        more: bool,
        asked: Asked,
        rules: Rules,
    ) {
        self.joined = true;
        self.wants_to_join = false;
        if self.generation.is_none() {
            self.generation = Some(generation);
            self.begin(position, events, more);
            self.show(events, rules);
            for pushed in std::mem::take(&mut self.early) {
                self.on_event(pushed, rules);
            }
        } else if reset {
            self.read_again(generation, rules);
            self.wants_to_join = false;
            if self.from > position {
                // Nothing that it keeps is left.
                self.begin(position, events, more);
            }
            self.show(events, rules);
            if rules.breaks(Break::ReadsAgainOnlyTheNewestPage) {
                self.last = position;
                self.finish(rules);
            }
        } else {
            self.on_events_after(generation, position, events, more, asked, rules);
        }
    }

    fn begin(&mut self, position: Position, events: &[Shown], more: bool) {
        let oldest = events.first().map_or(position, |oldest| oldest.position);
        self.from = if more { oldest } else { Position::ZERO };
        self.last = position;
    }

    /// The answer to `history` with `after`, or to `join` with `after`.
    pub(crate) fn on_events_after(
        &mut self,
        generation: Generation,
        position: Position,
        events: &[Shown],
        more: bool,
        asked: Asked,
        rules: Rules,
    ) {
        if self.generation != Some(generation) {
            if rules.breaks(Break::NobodyComparesGenerations) {
                self.generation = Some(generation);
            } else {
                self.read_again(generation, rules);
                self.show(events, rules);
                return;
            }
        }
        // The first event after a position follows it, unless Redis gave that position and forgot it.
        let previous = events.first().and_then(|first| first.previous);
        let went_back = previous.is_some_and(|previous| previous < asked.after);
        if went_back && !self.reading_again {
            self.read_again(generation, rules);
            return;
        }
        self.show(events, rules);
        self.wants_history = more;
        if let Some(end) = events.last().filter(|_| more) {
            self.last = self.last.max(end.position);
        } else if position < asked.knew && !rules.breaks(Break::NobodyNoticesAPositionAhead) {
            self.read_again(generation, rules);
        } else {
            self.last = self.last.max(position);
            self.finish(rules);
        }
    }

    fn finish(&mut self, rules: Rules) {
        if self.reading_again {
            self.reading_again = false;
            self.held.retain(|_, held| !held.stale || rules.breaks(Break::NeverDropsWhatIsGone));
            self.held.values_mut().for_each(|held| held.stale = false);
        }
        // A push that came while the answer was under way may have shown another gap.
        self.wants_history = self.knows() > self.last;
    }

    /// The answer to `history` with `before`.
    pub(crate) fn on_messages_before(
        &mut self,
        generation: Generation,
        events: &[Shown],
        more: bool,
        rules: Rules,
    ) {
        if self.generation != Some(generation) {
            self.read_again(generation, rules);
        } else if !self.reading_again {
            let oldest = events.first().map_or(self.from, |oldest| oldest.position);
            self.from = if more { oldest } else { Position::ZERO };
            self.show(events, rules);
        }
    }

    /// A logged event, or the ack of an own one.
    pub(crate) fn on_event(&mut self, pushed: Pushed, rules: Rules) {
        let Some(mine) = self.generation else {
            self.early.push(pushed);
            return;
        };
        if pushed.generation != mine && !rules.breaks(Break::PushesCarryNoGeneration) {
            self.wants_to_join = true;
            return;
        }
        let Event { id, kind } = pushed.record.event;
        let (position, previous) = (pushed.record.position, pushed.record.previous);
        if position <= self.from && !self.held.contains_key(&id) {
            return;
        }
        match self.held.get_mut(&id) {
            Some(held) if held.position == position => held.stale = false,
            Some(held) if held.stale => {
                *held = Held { kind, position, state: State::new(), stale: false };
            }
            Some(held) if rules.breaks(Break::SmallerPositionWins) => {
                held.position = held.position.min(position);
            }
            Some(_) if rules.breaks(Break::IgnoresAnEventWithTwoPositions) => {}
            Some(_) => return self.read_again(mine, rules),
            // It has everything up to there: what it does not have is deleted.
            None if position <= self.last => {}
            None => {
                self.held.insert(id, Held { kind, position, state: State::new(), stale: false });
            }
        }
        if self.reading_again {
            return;
        }
        if position <= self.last {
            return;
        }
        if previous == self.last || rules.breaks(Break::IgnoresPrevious) {
            self.last = position;
        } else if previous > self.last {
            self.wants_history = true;
        } else {
            self.read_again(mine, rules);
        }
    }

    pub(crate) fn on_resync(&mut self, generation: Generation, rules: Rules) {
        if self.generation.is_some_and(|mine| mine != generation) {
            self.read_again(generation, rules);
        }
    }

    pub(crate) fn on_pong(&mut self, behind: bool, rejoin: bool) {
        self.wants_history |= behind;
        self.wants_to_join |= rejoin;
    }

    /// The largest position that it knows to be given.
    pub(crate) fn knows(&self) -> Position {
        let held = self.held.values().filter(|held| !held.stale).map(|held| held.position);
        held.max().unwrap_or_default().max(self.last)
    }

    /// The next page that it wants.
    pub(crate) fn next_part(&self) -> Part {
        Part::After(self.last)
    }

    pub(crate) fn drop_socket(&mut self) {
        self.connection = None;
        self.joined = false;
        self.pending = None;
        self.wants_to_join = true;
    }
}
