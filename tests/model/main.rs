//! The delivery protocol as a small model: clients, functions, Redis, the queue, the archive and Postgres, each step of
//! each in an order that chance decides, with everything that can go wrong between two steps. Thousands of schedules
//! check the promises; and each rule of the protocol is broken on purpose, to see that this is noticed.
//!
//! # The protocol
//!
//! **Names.** A position is what Redis gives to an entry of a room's log. An event's id is made of room, author and
//! client id, so that a repeat has the same one. `sent` knows for 24 hours the position that an event was given.
//!
//! **Redis** keeps for a room `head` = {generation, count, last, since}, the log, its subscribers and what edits made of
//! messages (`now`). `last` is the position given last. The log is whole after `since`; up to there, history is the log
//! and Postgres together, by event id, and Postgres' place wins. `since` is unknown while nobody has asked Postgres.
//! `count` is how many generations the room had. An idle room's keys expire together, and nothing is compared.
//!
//! **Postgres** keeps one row for an event, and for a room its `count`. `known` is the newest position and the count.
//!
//! **post** needs a subscriber and a head, else the answer is `not_joined`. If head and log disagree, Redis has
//! forgotten: a new generation begins, and `since` is the newer of the two. An event that `sent` has keeps its position
//! and is not appended again; a change of what is neither in the log nor in Postgres is refused. Then side by side: queue
//! and pushes. The ack goes out when the queue has the event. A repeat is queued again, and pushed again if the log still
//! has it.
//!
//! **join** subscribes and reads in one script, which makes a head with unknown `since` if there is none. Then it asks
//! for `known`. If `since` is unknown, the newest is larger than `last`, or the count larger than the head's, then
//! **compare** begins a new generation: `since` rises to the newest, and `last` too, so that no position is given
//! twice; Postgres remembers the count, the subscribers are told `resync`, and the join starts again. A resume from
//! another generation, or from after `last`, is answered with `reset` and the newest page.
//!
//! **A page** after `since` comes from the log alone. Below, Redis is read first, then Postgres, and both are merged. No
//! page ends between equal positions. Over the socket a room without a sound head answers `not_joined`; over HTTP its
//! history is the union of log and Postgres. Nothing is compared.
//!
//! **The archive** stores a batch in one transaction, in whatever order: the smaller position stays, the largest edit
//! wins, what is deleted stays deleted, and the same id more than a day apart is another event. The same transaction
//! looks whether another row lies after a record's `previous`, up to its position: the log had lacked it (`lost`).
//! Then **settle** compares the batch with the log. It takes out what Postgres has elsewhere or as deleted. Lost is what
//! Postgres has elsewhere; an event that the log does not have at its place and that is not deleted, if it is after
//! `since` or **unsettled**: this call has stored or moved it, or its record came before, and whoever took it then may
//! have died; a message whose edits `now` does not have; everything, if Postgres' count is larger than the head's. If
//! something was lost, a new generation begins, `since` rises to it, Postgres remembers the count, the subscribers are
//! told, and only then the records leave the queue. Without a head, the count alone rises: an older Redis may come back.
//!
//! **trim** takes the oldest entries out of a long log that Postgres has at just that place, for longer than a call of the
//! archive lives; `since` rises to them. What is not stored is left to the queue, and stored from here when the queue
//! cannot have it any more.
//!
//! **A client** has everything up to its last position. A push whose `previous` is that position is next; a larger one
//! shows a gap, a smaller one or an event at two places that Redis went back. In a new generation it joins and reads
//! everything again, and drops what it does not find. `ping` tells it of a lost last push and of a new generation.
//!
//! # Searching
//!
//! `MODEL_SEED` runs one schedule, with `MODEL_SCHEDULES` so many from there on, with `MODEL_STEPS` all of that length.
//! A failure prints its seed and its story. `MODEL_SEARCH` names a rule for which a schedule is wanted that notices it.

mod client;
mod mutants;
mod pages;
mod postgres;
mod redis;
mod rng;
mod rules;
mod types;
mod weather;
mod world;

use mutants::{Focus, focus, recorded};
use rules::{Break, Rules};
use world::World;

/// How many schedules a test run can afford, unoptimised.
const SCHEDULES: u64 = 4000;

/// How far a search for a schedule that notices a missing rule goes.
const SEARCHED: u64 = 100_000;

#[test]
fn the_promises_hold_in_thousands_of_schedules() {
    let chosen = number("MODEL_SEED");
    let first = chosen.unwrap_or(0);
    let schedules = number("MODEL_SCHEDULES").unwrap_or(if chosen.is_some() { 1 } else { SCHEDULES });
    for seed in first..first + schedules {
        assert!(holds(seed, Rules::default(), |_| ()), "{}", story(seed));
    }
}

#[test]
fn each_rule_is_missed_where_it_is_broken() {
    if let Some(name) = variable("MODEL_SEARCH") {
        let rule = Break::ALL.iter().find(|rule| format!("{rule:?}") == name);
        let rule = *rule.unwrap_or_else(|| panic!("{name} is no rule: {:?}", Break::ALL));
        panic!("{rule:?} is noticed by the schedule {:?}", (0..SEARCHED).find(|seed| notices(rule, *seed)));
    }
    let blind: Vec<_> = Break::ALL.iter().filter(|rule| !notices(**rule, recorded(**rule))).collect();
    assert!(
        blind.is_empty(),
        "the recorded schedules do not notice {blind:?}: search with MODEL_SEARCH=<rule>, and record what is found"
    );
}

/// Whether a schedule fails without a rule, and not with it.
fn notices(rule: Break, seed: u64) -> bool {
    let focus = focus(rule);
    !holds(seed, Rules::without(rule), focus) && holds(seed, Rules::default(), focus)
}

/// Steps of a schedule: short ones tell a failure best, long ones find more.
fn steps(seed: u64) -> usize {
    const STEPS: [usize; 5] = [40, 80, 120, 200, 320];
    number("MODEL_STEPS").map_or(STEPS[(seed % 5) as usize], |steps| steps as usize)
}

fn holds(seed: u64, rules: Rules, focus: Focus) -> bool {
    World::new(seed, steps(seed), rules, focus, false).run().is_ok()
}

/// What happened in a schedule, and what was wrong with it.
fn story(seed: u64) -> String {
    let mut world = World::new(seed, steps(seed), Rules::default(), |_| (), true);
    let verdict = world.run();
    format!("{}\nMODEL_SEED={seed}: {}", world.story(), verdict.err().unwrap_or_default())
}

fn number(name: &str) -> Option<u64> {
    variable(name)?.parse().ok()
}

#[expect(clippy::disallowed_methods, reason = "a search is asked for in the shell")]
fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok()
}
