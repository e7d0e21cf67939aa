//! Pages of history, out of the log and Postgres.

use std::collections::BTreeMap;

use crate::{
    postgres::{Postgres, Row},
    redis::{Now, Reading},
    rules::{Break, Rules},
    types::{EventId, Kind, Part, Position, Shown, State, set_slot},
};

/// Whether the log alone can answer. What is after `since` is never asked of Postgres, so chat goes on without it.
pub(crate) fn needs_postgres(reading: &Reading, limit: usize, rules: Rules) -> bool {
    if rules.breaks(Break::TrustsTheLogBelowItsStart) {
        return false;
    }
    let since = reading.head.since;
    let whole = reading.entries.keys().filter(|position| **position > since);
    match reading.part {
        Part::After(position) => position < since,
        Part::Newest => since > Position::ZERO && whole.count() < limit,
        Part::Before(_) => {
            let messages = reading
                .entries
                .iter()
                .filter(|(at, entry)| **at > since && entry.event.kind == Kind::Message);
            since > Position::ZERO && messages.count() < limit
        }
    }
}

/// Events by position.
type Found = BTreeMap<(Position, EventId), Shown>;

/// Makes a page: events, oldest first, and whether there are more.
pub(crate) fn page(
    reading: &Reading,
    limit: usize,
    postgres: Option<&Postgres>,
    now: &BTreeMap<EventId, Now>,
    rules: Rules,
) -> (Vec<Shown>, bool) {
    let mut found = Found::new();
    add_from_log(&mut found, reading, postgres, rules);
    if let Some(postgres) = postgres {
        add_from_postgres(&mut found, reading, postgres);
    }
    show_as_now(&mut found, now, rules);
    if matches!(reading.part, Part::Before(_)) {
        found.retain(|_, shown| shown.event.kind == Kind::Message);
    }
    let found = found.into_values().collect();
    let ties = !rules.breaks(Break::CutsPagesBetweenEqualPositions);
    if let Part::After(_) = reading.part {
        return cut_the_end(found, limit, ties);
    }
    let (events, more) = cut_the_beginning(found, limit, ties);
    // Whether there is more below `since` is not known when Postgres was not asked.
    let is_whole = reading.head.since == Position::ZERO || rules.breaks(Break::TrustsTheLogBelowItsStart);
    (events, more || (postgres.is_none() && !is_whole))
}

/// What the log has, and Postgres does not have elsewhere.
fn add_from_log(found: &mut Found, reading: &Reading, postgres: Option<&Postgres>, rules: Rules) {
    for (position, entry) in &reading.entries {
        let event = entry.event;
        let below = *position <= reading.head.since && !rules.breaks(Break::TrustsTheLogBelowItsStart);
        if below && (postgres.is_none() || rules.breaks(Break::ReadsOnlyPostgresBelowTheStart)) {
            continue;
        }
        let stored = postgres.filter(|_| below).is_some_and(|postgres| {
            let mut same_name = postgres.rows.iter().filter(|(id, _)| id.name == event.id.name);
            same_name.any(|(id, row)| *id == event.id || row.position == *position)
        });
        if !stored {
            let previous = Some(entry.previous);
            let shown = Shown { event, position: *position, previous, state: State::new() };
            found.insert((*position, event.id), shown);
        }
    }
}

/// What Postgres has, up to where the log is whole.
fn add_from_postgres(found: &mut Found, reading: &Reading, postgres: &Postgres) {
    for (id, row) in &postgres.rows {
        let asked = match reading.part {
            Part::Newest => true,
            Part::After(after) => row.position > after,
            Part::Before(before) => row.position < before,
        };
        if asked && row.position <= reading.head.since && !row.gone {
            let Row { position, ref state, .. } = *row;
            let shown = Shown { event: row.event(*id), position, previous: None, state: state.clone() };
            found.insert((position, *id), shown);
        }
    }
}

/// Redis may know of edits and deletions that have not reached Postgres.
fn show_as_now(found: &mut Found, now: &BTreeMap<EventId, Now>, rules: Rules) {
    let ignores = rules.breaks(Break::IgnoresWhatIsNewerThanPostgres);
    if !ignores {
        found.retain(|(_, id), _| now.get(id).is_none_or(|now| now.deleted.is_none()));
    }
    for shown in found.values_mut() {
        let in_postgres = shown.previous.is_none();
        if in_postgres && ignores {
            continue;
        }
        for (slot, edit) in now.get(&shown.event.id).iter().flat_map(|now| &now.state) {
            set_slot(&mut shown.state, *slot, *edit);
        }
    }
}

fn cut_the_end(mut found: Vec<Shown>, limit: usize, ties: bool) -> (Vec<Shown>, bool) {
    let mut end = limit.min(found.len());
    while ties && end > 0 && end < found.len() && found[end].position == found[end - 1].position {
        end += 1;
    }
    let more = end < found.len();
    found.truncate(end);
    (found, more)
}

fn cut_the_beginning(mut found: Vec<Shown>, limit: usize, ties: bool) -> (Vec<Shown>, bool) {
    let mut start = found.len().saturating_sub(limit);
    while ties && start > 0 && found[start - 1].position == found[start].position {
        start -= 1;
    }
    (found.split_off(start), start > 0)
}
