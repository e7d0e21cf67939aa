//! The proof: what was acknowledged against what everybody was shown and what can be read back.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fmt::Write as _,
    time::{Duration, Instant},
};

use super::{
    history::{Histories, History, Place, Placed, words_of},
    notes::{Ack, Counts, Notes},
    room::{Doubt, DoubtKind},
};

/// How many offenders of a kind are told.
const MOST_TOLD: usize = 5;
/// So long before and after a new generation an event may come late: as long as clients read back, and some more for
/// the queue.
const UNREST: Duration = Duration::from_secs(90);

/// What a reader has before its eyes at the end.
pub struct Seen {
    /// Who.
    pub name: String,
    /// The rooms' events, in their order.
    pub rooms: BTreeMap<String, Vec<Placed>>,
    /// What was against the rules unless Redis has forgotten something.
    pub doubts: BTreeMap<String, Vec<Doubt>>,
}

/// Everything that there is to compare.
pub struct Evidence {
    /// Whether everything came to rest.
    pub settled: Result<(), String>,
    /// The rooms.
    pub rooms: Vec<String>,
    /// Messages that the queues gave up.
    pub dead_letters: usize,
    /// What each reader has.
    pub readers: Vec<Seen>,
    /// What was noted.
    pub notes: Notes,
    /// What can be read back.
    pub histories: Histories,
}

/// Something that must not be.
#[derive(Clone, Debug, Default)]
pub struct Offence {
    /// The event that it is about, if it is about one.
    pub event: Option<String>,
    /// What is wrong.
    pub words: String,
    /// Where everybody has the event; told of the first offences only.
    pub places: String,
}

impl Offence {
    fn of(event: &str, words: String) -> Self {
        Self { event: Some(event.to_owned()), words, places: String::new() }
    }
}

impl From<String> for Offence {
    fn from(words: String) -> Self {
        Self { event: None, words, places: String::new() }
    }
}

/// What came out.
#[derive(Debug, Default)]
pub struct Verdict {
    /// How often what happened.
    pub counts: Counts,
    /// Events that were acknowledged.
    pub acked: usize,
    /// Readers that were compared.
    pub readers: usize,
    /// Ways to read back that were compared.
    pub histories: usize,
    /// Acknowledged events that somebody does not have.
    pub lost: Vec<Offence>,
    /// Messages that somebody has twice.
    pub duplicated: Vec<Offence>,
    /// Events that somebody has in another order.
    pub out_of_order: Vec<Offence>,
    /// Events that are not what was written.
    pub altered: Vec<Offence>,
    /// Whatever else must not be.
    pub other: Vec<Offence>,
    /// Events, and places of events, that readers were shown before they were acknowledged, and that vanished with
    /// Redis. Nothing was promised about them.
    pub vanished: usize,
}

impl Evidence {
    /// Compares everything with everything.
    pub fn judge(self) -> Verdict {
        let acks = self.notes.acks();
        let mut verdict = Verdict {
            counts: self.notes.counts(),
            acked: acks.iter().map(|ack| (&ack.room, &ack.event)).collect::<BTreeSet<_>>().len(),
            readers: self.readers.len(),
            histories: self.histories.read.len() + 1,
            other: self.notes.offences().into_iter().map(Offence::from).collect(),
            ..Verdict::default()
        };
        if let Err(waited) = &self.settled {
            verdict.other.push(format!("it does not come to rest: {waited}").into());
        }
        if 0 < self.dead_letters {
            verdict.other.push(format!("{} messages are in a dead-letter queue", self.dead_letters).into());
        }
        for room in &self.rooms {
            self.judge_room(room, &acks, &mut verdict);
        }
        for offences in verdict.kinds_mut() {
            for offence in offences.iter_mut().take(MOST_TOLD) {
                offence.places =
                    offence.event.as_ref().map(|event| self.everywhere(event, &acks)).unwrap_or_default();
            }
        }
        verdict
    }

    /// Where everybody has an event.
    fn everywhere(&self, event: &str, acks: &[Ack]) -> String {
        let acked = acks.iter().filter(|ack| ack.event == event).map(|ack| words_of(ack.place));
        let mut text = format!("acknowledged at [{}]", acked.collect::<Vec<_>>().join(", "));
        let histories = self.histories.read.iter().chain([&self.histories.stored]);
        let histories = histories.map(|history| (&history.name, &history.rooms));
        let readers = self.readers.iter().map(|reader| (&reader.name, &reader.rooms));
        for (name, rooms) in histories.chain(readers) {
            let mut places = rooms.values().flatten().filter(|placed| placed.event == event);
            write!(text, "; {name}: {}", shown(places.next().map(|placed| placed.place)))
                .expect("a string takes all");
            for again in places {
                write!(text, " and {}", words_of(again.place)).expect("a string takes all");
            }
        }
        text
    }

    fn judge_room(&self, room: &str, acks: &[Ack], verdict: &mut Verdict) {
        let acks: Vec<&Ack> = acks.iter().filter(|ack| ack.room == room).collect();
        let measure = &self.histories.read[0].rooms[room];
        let case = Case { room, measure: Index::of(measure), acks: &acks, notes: &self.notes };
        case.judge_acks(verdict);
        for history in &self.histories.read {
            case.judge_history(history, verdict);
        }
        case.judge_stored(&self.histories.stored, verdict);
        let stored = &self.histories.stored.rooms[room];
        let stored = stored.iter().map(|placed| (placed.event.as_str(), placed.place)).collect();
        for reader in &self.readers {
            case.judge_reader(reader, &stored, verdict);
        }
    }
}

/// One room.
struct Case<'a> {
    room: &'a str,
    measure: Index<'a>,
    acks: &'a [&'a Ack],
    notes: &'a Notes,
}

/// Events by name, with their rank in the order.
struct Index<'a>(HashMap<&'a str, (usize, &'a Placed)>);

impl<'a> Index<'a> {
    fn of(events: &'a [Placed]) -> Self {
        Self(
            events.iter().enumerate().map(|(rank, placed)| (placed.event.as_str(), (rank, placed))).collect(),
        )
    }

    fn place(&self, event: &str) -> Option<Place> {
        self.0.get(event).map(|(_, placed)| placed.place)
    }
}

impl Case<'_> {
    /// Each repeat is one message, and none stands later than its ack said.
    fn judge_acks(&self, verdict: &mut Verdict) {
        let mut events: HashMap<&str, &Ack> = HashMap::new();
        for ack in self.acks {
            let first = *events.entry(&ack.client_id).or_insert(ack);
            if first.event != ack.event {
                let words = format!("two acks of one message: {first} and {ack}");
                verdict.duplicated.push(Offence::of(&ack.event, words));
            }
            let place = self.measure.place(&ack.event);
            if place.is_some_and(|place| ack.place < place) {
                let words = format!("{ack}, but it stands at {}", shown(place));
                verdict.out_of_order.push(Offence::of(&ack.event, words));
            }
        }
    }

    /// Whoever can read has exactly what everybody has.
    fn judge_history(&self, history: &History, verdict: &mut Verdict) {
        let events = &history.rooms[self.room];
        self.judge_events(&history.name, events, verdict);
        for two in events.windows(2) {
            if two[1].place < two[0].place {
                let (name, room) = (&history.name, self.room);
                let words = format!("{name}, {room}: {} before {}", two[0], two[1]);
                verdict.out_of_order.push(Offence::of(&two[1].event, words));
            }
        }
        self.judge_order(&history.name, events.iter().collect(), verdict);
        let index = Index::of(events);
        for (event, (_, placed)) in &self.measure.0 {
            if index.place(event) != Some(placed.place) {
                let elsewhere = shown(index.place(event));
                let words = format!("{}: {placed} stands at {elsewhere}", self.at(&history.name));
                verdict.out_of_order.push(Offence::of(event, words));
            }
        }
        for placed in events.iter().filter(|placed| !self.measure.0.contains_key(placed.event.as_str())) {
            verdict
                .lost
                .push(Offence::of(&placed.event, format!("only {} has {placed}", self.at(&history.name))));
        }
    }

    /// Postgres has what was acknowledged, at the same place, and nothing that cannot be read.
    fn judge_stored(&self, stored: &History, verdict: &mut Verdict) {
        let events = &stored.rooms[self.room];
        self.judge_events(&stored.name, events, verdict);
        for placed in events {
            let read = self.measure.place(&placed.event);
            if read.is_none() {
                verdict
                    .lost
                    .push(Offence::of(&placed.event, format!("only {} has {placed}", self.at(&stored.name))));
            } else if read != Some(placed.place) {
                let words = format!("{}: {placed} is read at {}", self.at(&stored.name), shown(read));
                verdict.out_of_order.push(Offence::of(&placed.event, words));
            }
        }
    }

    fn judge_reader(&self, reader: &Seen, stored: &BTreeSet<(&str, Place)>, verdict: &mut Verdict) {
        let events = &reader.rooms[self.room];
        self.judge_events(&reader.name, events, verdict);
        let acked: BTreeSet<(&str, Place)> =
            self.acks.iter().map(|ack| (ack.event.as_str(), ack.place)).collect();
        // A first attempt that Redis lost before the queue had it: the repeat got a later place, and nobody but who was
        // shown the first can know of it. Of the two such a reader keeps the smaller.
        let vanished = |placed: &&Placed| {
            let at = (placed.event.as_str(), placed.place);
            let is_earlier = self.measure.place(&placed.event).is_none_or(|place| placed.place < place);
            is_earlier && !acked.contains(&at) && !stored.contains(&at)
        };
        verdict.vanished += events.iter().filter(vanished).count();
        let kept = events.iter().filter(|placed| !vanished(placed)).collect();
        self.judge_order(&reader.name, kept, verdict);

        let forgotten = self.notes.generations(self.room);
        for doubt in &reader.doubts[self.room] {
            let near = |at: &Instant| {
                at.checked_duration_since(doubt.at).or_else(|| doubt.at.checked_duration_since(*at))
                    < Some(UNREST)
            };
            let offence = Offence::of(&doubt.event, format!("{}: {}", reader.name, doubt.words));
            match doubt.kind {
                DoubtKind::Twice => verdict.duplicated.push(offence),
                DoubtKind::Altered => verdict.altered.push(offence),
                DoubtKind::Inverted if !forgotten.iter().any(near) => verdict.out_of_order.push(offence),
                DoubtKind::Moved if forgotten.is_empty() => verdict.duplicated.push(offence),
                DoubtKind::Inverted | DoubtKind::Moved => {}
            }
        }
    }

    /// Every acknowledged event is there, every message once, and as it was written.
    fn judge_events(&self, who: &str, events: &[Placed], verdict: &mut Verdict) {
        let (mut names, mut messages) = (HashMap::new(), HashMap::new());
        for placed in events {
            if let Some(other) = names.insert(&placed.event, placed) {
                verdict
                    .duplicated
                    .push(Offence::of(&placed.event, format!("{}: {other} and {placed}", self.at(who))));
            }
            let written = placed.client_id.as_ref().and_then(|id| self.notes.written(id));
            let Some(written) = written else {
                verdict
                    .altered
                    .push(Offence::of(&placed.event, format!("{}: nobody wrote {placed}", self.at(who))));
                continue;
            };
            if (&*written.text, &*written.author, &*written.room)
                != (&*placed.text, &*placed.author, self.room)
            {
                verdict
                    .altered
                    .push(Offence::of(&placed.event, format!("{}: {placed} was {written:?}", self.at(who))));
            }
            if let Some(other) = messages.insert(&placed.client_id, placed)
                && other.event != placed.event
            {
                verdict
                    .duplicated
                    .push(Offence::of(&placed.event, format!("{}: {other} and {placed}", self.at(who))));
            }
        }
        let mut told = BTreeSet::new();
        for ack in self.acks {
            if !names.contains_key(&ack.event) && told.insert(&ack.event) {
                verdict.lost.push(Offence::of(&ack.event, format!("{} does not have {ack}", self.at(who))));
            }
        }
    }

    /// What both have is in the same order.
    fn judge_order(&self, who: &str, events: Vec<&Placed>, verdict: &mut Verdict) {
        let mut newest: Option<(usize, &Placed, &Placed)> = None;
        for placed in events {
            let Some(&(rank, measure)) = self.measure.0.get(placed.event.as_str()) else { continue };
            match newest {
                Some((highest, before, before_measure)) if rank < highest => {
                    // Which of two at one place comes first is not told.
                    if before.place != placed.place && before_measure.place != measure.place {
                        let words = format!("{}: {before} before {placed}", self.at(who));
                        verdict.out_of_order.push(Offence::of(&placed.event, words));
                    }
                }
                _ => newest = Some((rank, placed, measure)),
            }
        }
    }

    fn at(&self, who: &str) -> String {
        format!("{who}, {}", self.room)
    }
}

/// How many events these offences are about; what is about none counts itself.
fn events(offences: &[Offence]) -> usize {
    let named: BTreeSet<&String> = offences.iter().filter_map(|offence| offence.event.as_ref()).collect();
    named.len() + offences.iter().filter(|offence| offence.event.is_none()).count()
}

fn shown(place: Option<Place>) -> String {
    place.map_or_else(|| "no place".to_owned(), words_of)
}

impl Verdict {
    /// Whether nothing is wrong.
    pub fn is_good(&self) -> bool {
        self.kinds().iter().all(|(_, offences)| offences.is_empty())
    }

    fn kinds(&self) -> [(&str, &Vec<Offence>); 5] {
        [
            ("lost", &self.lost),
            ("duplicated", &self.duplicated),
            ("out of order", &self.out_of_order),
            ("altered", &self.altered),
            ("otherwise wrong", &self.other),
        ]
    }

    fn kinds_mut(&mut self) -> [&mut Vec<Offence>; 5] {
        [&mut self.lost, &mut self.duplicated, &mut self.out_of_order, &mut self.altered, &mut self.other]
    }

    /// The first offenders of each kind.
    pub fn offenders(&self) -> String {
        let mut text = String::new();
        for (kind, offences) in self.kinds().iter().filter(|(_, offences)| !offences.is_empty()) {
            let (events, times) = (events(offences), offences.len());
            writeln!(text, "{kind}: {events} events, {times} times").expect("a string takes all");
            for Offence { words, places, .. } in offences.iter().take(MOST_TOLD) {
                // A text of 4,000 characters would hide the rest.
                let words: String = words.chars().take(1_000).collect();
                writeln!(text, "- {words}").expect("a string takes all");
                if !places.is_empty() {
                    writeln!(text, "  {places}").expect("a string takes all");
                }
            }
        }
        text
    }

    /// The table, as Markdown.
    pub fn table(&self, faults: &BTreeMap<&'static str, u64>) -> String {
        let counts = &self.counts;
        let mut rows: Vec<(String, String)> = vec![("faults made".into(), grouped(faults.values().sum()))];
        rows.extend(faults.iter().map(|(fault, times)| (format!("– {fault}"), grouped(*times))));
        rows.extend([
            ("messages acknowledged".into(), grouped(self.acked as u64)),
            ("– acks given, with those of repeats".into(), grouped(counts.acks)),
            ("– sends that were refused, failed or not answered".into(), grouped(counts.sends_failed)),
            ("events shown to readers".into(), grouped(counts.shown)),
            ("sockets opened, dropped by readers".into(), {
                format!("{}, {}", grouped(counts.connections), grouped(counts.drops))
            }),
            ("new generations that readers learned of".into(), grouped(counts.generations)),
            ("readers, ways to read back checked".into(), format!("{}, {}", self.readers, self.histories)),
            ("shown, never acknowledged, vanished with Redis".into(), grouped(self.vanished as u64)),
        ]);
        rows.extend(self.kinds()[..4].iter().map(|(kind, offences)| {
            (format!("**events {kind}**"), format!("**{}**", grouped(events(offences) as u64)))
        }));
        let mut text = "| | |\n|---|---:|\n".to_owned();
        for (name, value) in rows {
            writeln!(text, "| {name} | {value} |").expect("a string takes all");
        }
        text
    }
}

/// 1234567 → 1,234,567
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if 0 < index && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    /// Three messages of Ada, acknowledged in a room, that everybody has as they should.
    struct Scene {
        notes: Notes,
        reader: Vec<Placed>,
        read: Vec<Placed>,
        stored: Vec<Placed>,
        doubts: Vec<Doubt>,
    }

    impl Scene {
        fn new() -> Self {
            let notes = Notes::default();
            let mut events = Vec::new();
            for number in 1..=3 {
                let (event, client_id, text) =
                    (format!("e{number}"), format!("c{number}"), format!("t{number}"));
                notes.writes(&client_id, "r", "ada", &Arc::from(text.as_str()));
                let place = (number * 10, 0);
                notes.acked(Ack {
                    room: "r".into(),
                    client_id: client_id.clone(),
                    event: event.clone(),
                    place,
                    at: Instant::now(),
                });
                events.push(Placed { event, place, author: "ada".into(), client_id: Some(client_id), text });
            }
            Self { notes, reader: events.clone(), read: events.clone(), stored: events, doubts: Vec::new() }
        }

        fn judge(self) -> Verdict {
            let rooms = |events: Vec<Placed>| BTreeMap::from([("r".to_owned(), events)]);
            let history = |events| History { name: "history".into(), rooms: rooms(events) };
            let seen = Seen {
                name: "reader".into(),
                rooms: rooms(self.reader),
                doubts: BTreeMap::from([("r".to_owned(), self.doubts)]),
            };
            let histories = Histories { read: vec![history(self.read)], stored: history(self.stored) };
            let evidence = Evidence {
                settled: Ok(()),
                rooms: vec!["r".into()],
                dead_letters: 0,
                readers: vec![seen],
                notes: self.notes,
                histories,
            };
            evidence.judge()
        }
    }

    /// The numbers of what is lost, duplicated, out of order, altered, otherwise wrong.
    fn check(change: impl FnOnce(&mut Scene), expected: [usize; 5]) {
        let mut scene = Scene::new();
        change(&mut scene);
        let verdict = scene.judge();
        let found: Vec<usize> = verdict.kinds().iter().map(|(_, offences)| offences.len()).collect();
        assert_eq!(found, expected, "{}", verdict.offenders());
        assert_eq!(verdict.is_good(), expected == [0; 5]);
    }

    fn ack_again(scene: &Scene, event: &str, place: Place) {
        let (room, client_id, event) = ("r".into(), "c2".into(), event.into());
        scene.notes.acked(Ack { room, client_id, event, place, at: Instant::now() });
    }

    #[test]
    fn nothing_is_found_where_nothing_is_wrong() {
        check(|_| (), [0, 0, 0, 0, 0]);
        check(|scene| ack_again(scene, "e2", (20, 0)), [0, 0, 0, 0, 0]);
        // Acknowledged again after Redis was lost, when the first was on its way to Postgres.
        check(|scene| ack_again(scene, "e2", (25, 0)), [0, 0, 0, 0, 0]);
    }

    #[test]
    fn what_somebody_does_not_have_is_lost() {
        check(|scene| drop(scene.reader.remove(1)), [1, 0, 0, 0, 0]);
        check(|scene| drop(scene.stored.remove(1)), [1, 0, 0, 0, 0]);
        // And the other two have what cannot be read.
        check(|scene| drop(scene.read.remove(1)), [2, 0, 0, 0, 0]);
    }

    #[test]
    fn what_somebody_has_twice_is_duplicated() {
        check(|scene| scene.stored.push(scene.stored[2].clone()), [0, 1, 0, 0, 0]);
        let twin = |events: &mut Vec<Placed>| {
            let event = "twin".to_owned();
            events.push(Placed { event, place: (40, 0), ..events[2].clone() });
        };
        check(|scene| [&mut scene.read, &mut scene.stored].into_iter().for_each(twin), [0, 2, 0, 0, 0]);
        check(|scene| ack_again(scene, "another", (20, 0)), [3, 1, 0, 0, 0]);
    }

    #[test]
    fn another_order_is_found_with_everybody() {
        // Acknowledged there, so it is not a place that vanished.
        let late = |scene: &mut Scene| {
            ack_again(scene, "e2", (35, 0));
            scene.reader[1].place = (35, 0);
            scene.reader.swap(1, 2);
        };
        check(late, [0, 0, 1, 0, 0]);
        check(|scene| scene.stored[1].place = (35, 0), [0, 0, 1, 0, 0]);
        // It stands later than it was acknowledged, and Postgres has it elsewhere.
        check(|scene| scene.read[1].place = (21, 0), [0, 0, 2, 0, 0]);
    }

    #[test]
    fn another_text_is_altered() {
        check(|scene| scene.reader[1].text = "T2".into(), [0, 0, 0, 1, 0]);
        check(|scene| scene.stored[1].author = "bob".into(), [0, 0, 0, 1, 0]);
    }

    #[test]
    fn doubts_are_offences_unless_redis_has_forgotten() {
        let doubt = |kind| Doubt { at: Instant::now(), kind, event: "e1".into(), words: "…".into() };
        for (kind, expected) in [
            (DoubtKind::Inverted, [0, 0, 1, 0, 0]),
            (DoubtKind::Moved, [0, 1, 0, 0, 0]),
            (DoubtKind::Twice, [0, 1, 0, 0, 0]),
            (DoubtKind::Altered, [0, 0, 0, 1, 0]),
        ] {
            check(|scene| scene.doubts.push(doubt(kind)), expected);
            let excused = matches!(kind, DoubtKind::Inverted | DoubtKind::Moved);
            let forgotten = |scene: &mut Scene| {
                scene.notes.new_generation("r");
                scene.doubts.push(doubt(kind));
            };
            check(forgotten, if excused { [0; 5] } else { expected });
        }
    }

    #[test]
    fn a_place_that_nobody_acknowledged_and_nobody_stored_may_vanish() {
        let mut scene = Scene::new();
        scene.reader[2].place = (5, 0);
        scene.reader.rotate_right(1);
        let verdict = scene.judge();
        assert!(verdict.is_good(), "{}", verdict.offenders());
        assert_eq!(verdict.vanished, 1);
    }

    #[test]
    fn who_was_never_shown_an_earlier_place_has_another_order() {
        let late = |scene: &mut Scene| {
            scene.reader[1].place = (35, 0);
            scene.reader.swap(1, 2);
        };
        check(late, [0, 0, 1, 0, 0]);
    }

    #[test]
    fn numbers_are_grouped() {
        assert_eq!([0, 999, 1_000, 1_234_567].map(grouped), ["0", "999", "1,000", "1,234,567"]);
    }
}
