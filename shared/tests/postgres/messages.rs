//! What the archive stores, and what readers get of it.

use proptest::{prelude::*, sample::Index, strategy::ValueTree, test_runner::TestRunner};
use shared::{
    domain::{
        messages::{ClientId, EventId, Position, Text},
        rooms::{Kind, RoomId},
        users::UserId,
    },
    history::{self, LogPart, Page},
    postgres::{Arrival, Known, Postgres, Settlement, Stored, StoredRoom},
    protocol::{
        Author,
        frames::{Content, Event, EventBody, EventKind},
        queue::ArchiveRecord,
    },
};
use uuid::Uuid;

use super::{Database, room, sign_up, title};

const DAY_MS: u64 = 24 * 60 * 60 * 1_000;
/// Some moment; what is written "at" a number is so many milliseconds later.
const START_MS: u64 = 1_795_351_680_000;

fn at(milliseconds: u64) -> Position {
    Position::parse(&format!("{}-0", START_MS + milliseconds)).expect("is a position")
}

fn general() -> RoomId {
    room("general")
}

fn author(number: u128) -> Author {
    Author { id: UserId::new(Uuid::from_u128(number)), name: format!("Number {number}") }
}

fn event(id: &str) -> EventId {
    EventId::of_client(&general(), author(1).id, &ClientId::parse(id).expect("is an id"))
}

fn text(raw: &str) -> Text {
    Text::parse(raw).expect("is a text")
}

fn arrival(id: &str, milliseconds: u64, previous: Option<u64>, from: Author, content: Content) -> Arrival {
    let event = EventBody { event: event(id), from, content };
    let (position, previous) = (at(milliseconds), previous.map(at));
    Arrival { record: ArchiveRecord { room: general(), position, previous, event }, again: false }
}

/// A message whose text is its id, right after the one a millisecond before.
fn message(id: &str, milliseconds: u64) -> Arrival {
    let content = Content::Message { text: text(id), id: ClientId::parse(id).ok(), reply_to: None };
    arrival(id, milliseconds, milliseconds.checked_sub(1), author(1), content)
}

fn edit(id: &str, milliseconds: u64, target: &str, new: &str) -> Arrival {
    let content = Content::Edited { target: event(target), text: text(new) };
    arrival(id, milliseconds, milliseconds.checked_sub(1), author(1), content)
}

fn deletion(id: &str, milliseconds: u64, target: &str) -> Arrival {
    let content = Content::Deleted { target: event(target) };
    arrival(id, milliseconds, milliseconds.checked_sub(1), author(1), content)
}

fn reaction(id: &str, milliseconds: u64, target: &str, who: u128, emoji: &str, on: bool) -> Arrival {
    let content = Content::Reacted { target: event(target), emoji: emoji.to_owned(), on };
    arrival(id, milliseconds, milliseconds.checked_sub(1), author(who), content)
}

/// A database with a room.
async fn database() -> (Database, Postgres) {
    let database = Database::make().await;
    let store = database.store();
    let owner = sign_up(&store, "ada").await.user.id;
    store.create_room(&general(), &title("General"), Kind::Public, owner).await.expect("is made");
    (database, store)
}

async fn store(postgres: &Postgres, arrivals: &[Arrival]) -> StoredRoom {
    let Stored { mut rooms, homeless } = postgres.store(arrivals).await.expect("is stored");
    assert!(homeless.is_empty());
    rooms.remove(&general()).expect("the room is there")
}

async fn newest(postgres: &Postgres, limit: usize) -> Vec<Event> {
    let stretch = postgres.messages_before(&general(), Position::END, Position::END, limit).await;
    stretch.expect("is read").events
}

fn texts(events: &[Event]) -> Vec<&str> {
    events.iter().map(|event| event.text.as_ref().map_or("", Text::as_str)).collect()
}

#[tokio::test]
async fn an_event_is_one_row_however_often_and_in_whatever_order_it_comes() {
    let (database, postgres) = database().await;
    let first = store(&postgres, &[message("3", 3), message("1", 1), message("3", 3)]).await;
    assert_eq!(first.events.len(), 3);
    assert!(first.events.iter().all(|event| event.unsettled && event.stored == event.logged));
    assert_eq!(first.known, Known { newest: at(3), generations: 0 });
    let second = store(&postgres, &[message("2", 2), message("1", 1)]).await;
    let unsettled: Vec<bool> = second.events.iter().map(|event| event.unsettled).collect();
    assert_eq!(unsettled, [false, true], "in the order of the room");
    assert_eq!(texts(&newest(&postgres, 50).await), ["3", "2", "1"]);
    assert_eq!(database.number("select count(*) from messages").await, 3);

    // Whether somebody else has looked whether readers find it, only the queue knows.
    let again = Arrival { again: true, ..message("1", 1) };
    assert!(store(&postgres, &[again]).await.events[0].unsettled);
}

#[tokio::test]
async fn two_calls_that_store_the_same_at_once_store_it_once() {
    let (database, postgres) = database().await;
    let batch: Vec<Arrival> = (1..50).map(|n| message(&n.to_string(), n)).collect();
    let reversed: Vec<Arrival> = batch.iter().rev().cloned().collect();
    let other = database.store();
    let (one, two) = tokio::join!(store(&postgres, &batch), store(&other, &reversed));
    let unsettled = |stored: &StoredRoom| stored.events.iter().filter(|event| event.unsettled).count();
    assert_eq!(unsettled(&one) + unsettled(&two), batch.len());
    assert_eq!(database.number("select count(*) from messages").await, 49);
}

#[tokio::test]
async fn of_the_same_event_at_two_places_the_smaller_stays() {
    for order in [[9, 5], [5, 9]] {
        let (_database, postgres) = database().await;
        store(&postgres, &[message("1", order[0])]).await;
        let second = store(&postgres, &[message("1", order[1])]).await;
        let Settlement { position, places, .. } = &second.events[0];
        assert_eq!(*position, at(5));
        // The log may have it where it came from, and where it was before.
        assert!(places.contains(&at(9)), "{places:?}");
        assert_eq!(newest(&postgres, 50).await[0].position, at(5));
    }
    let (_database, postgres) = database().await;
    let both = store(&postgres, &[message("1", 9), message("1", 5)]).await;
    assert!(both.events.iter().all(|event| event.position == at(5)));
}

#[tokio::test]
async fn an_id_that_is_used_again_after_a_day_is_another_message() {
    let (_database, postgres) = database().await;
    store(&postgres, &[message("1", 0)]).await;
    let same_day = store(&postgres, &[message("1", DAY_MS)]).await;
    assert_eq!(same_day.events[0].position, at(0));
    let next_day = message("1", DAY_MS + 1);
    let reused = store(&postgres, std::slice::from_ref(&next_day)).await.events.remove(0);
    assert_eq!((reused.logged, reused.position), (event("1"), at(DAY_MS + 1)));
    assert_ne!(reused.stored, event("1"));
    let repeated = store(&postgres, &[next_day]).await.events.remove(0);
    assert_eq!(repeated.stored, reused.stored);
    assert!(!repeated.unsettled);
    let positions: Vec<_> = newest(&postgres, 50).await.iter().map(|event| event.position).collect();
    assert_eq!(positions, [at(DAY_MS + 1), at(0)]);
    let found = postgres.stored_among(&general(), &[event("1"), event("2")]).await.expect("is read");
    assert_eq!(found.into_iter().collect::<Vec<_>>(), [event("1")]);
}

/// All that can happen to a message, in the order of the log.
fn a_life() -> Vec<Arrival> {
    vec![
        message("m", 1),
        edit("e1", 2, "m", "second"),
        reaction("r1", 3, "m", 2, "👍", true),
        reaction("r2", 4, "m", 3, "👍", true),
        edit("e2", 5, "m", "third"),
        reaction("r3", 6, "m", 2, "👍", false),
        reaction("r4", 7, "m", 2, "🎉", true),
    ]
}

#[tokio::test]
async fn the_largest_position_wins_in_whatever_order_edits_and_reactions_come() {
    let (database, postgres) = database().await;
    let mut runner = TestRunner::deterministic();
    for _ in 0..20 {
        database.execute("delete from messages").await;
        let order = Just(a_life()).prop_shuffle().new_tree(&mut runner).expect("is made").current();
        let cut = any::<Index>().new_tree(&mut runner).expect("is made").current().index(order.len());
        let (first, second) = order.split_at(cut);
        for batch in [second, first].into_iter().filter(|batch| !batch.is_empty()) {
            store(&postgres, batch).await;
        }
        let all = newest(&postgres, 50).await;
        assert_eq!(all.len(), 1);
        assert_eq!(texts(&all), ["third"]);
        let now = &all[0].now;
        assert_eq!(now.edited_at.map(|edited| edited.0), Some(at(5).at()));
        let reactions: Vec<_> =
            now.reactions.iter().map(|(emoji, who)| (emoji.as_str(), who.clone())).collect();
        assert_eq!(reactions, [("🎉", vec![author(2).id]), ("👍", vec![author(3).id])]);
    }
}

#[tokio::test]
async fn a_deletion_that_reaches_postgres_before_its_message_deletes_it_all_the_same() {
    let (database, postgres) = database().await;
    let mut life = a_life();
    life.push(deletion("d", 8, "m"));
    life.push(edit("e3", 9, "m", "too late"));
    let mut runner = TestRunner::deterministic();
    for _ in 0..20 {
        database.execute("delete from messages").await;
        let order = Just(life.clone()).prop_shuffle().new_tree(&mut runner).expect("is made").current();
        for arrival in &order {
            store(&postgres, std::slice::from_ref(arrival)).await;
        }
        const TEXTS: &str = "select count(*) from messages where text is not null";
        assert_eq!(database.number(TEXTS).await, 0, "a deleted text is gone");
        let all = newest(&postgres, 50).await;
        assert!(all[0].now.deleted && all[0].text.is_none() && all[0].now.reactions.is_empty());
        let resumed = postgres.events_after(&general(), Position::BEGINNING, Position::END, 50).await;
        let kinds: Vec<_> = resumed.expect("is read").events.iter().map(|event| event.kind).collect();
        assert!(kinds.contains(&EventKind::Deleted));
        assert!(!kinds.contains(&EventKind::Message) && !kinds.contains(&EventKind::Edited));
    }
}

#[tokio::test]
async fn who_deletes_is_told_what_the_log_may_still_have() {
    let (_database, postgres) = database().await;
    store(&postgres, &[message("m", 1), edit("e", 2, "m", "second"), message("n", 3)]).await;
    let stored = store(&postgres, &[deletion("d", 4, "m")]).await;
    let mut gone: Vec<_> = stored.events.iter().filter(|event| event.gone).collect();
    gone.sort_by_key(|event| event.position);
    let gone: Vec<_> = gone.into_iter().map(|event| (event.logged, event.places.clone())).collect();
    assert_eq!(gone, [(event("m"), vec![at(1)]), (event("e"), vec![at(2)])]);
    assert_eq!(texts(&newest(&postgres, 50).await), ["n", ""]);
}

#[tokio::test]
async fn a_log_that_has_skipped_what_postgres_knows_had_lost_it() {
    let (_database, postgres) = database().await;
    let in_order = store(&postgres, &[message("3", 3), message("1", 1), message("2", 2)]).await;
    assert_eq!(in_order.lost, None);
    // This log goes on after the first, as if there had been no others.
    let content = Content::Message { text: text("4"), id: None, reply_to: None };
    let skipping = arrival("4", 4, Some(1), author(1), content);
    assert_eq!(store(&postgres, std::slice::from_ref(&skipping)).await.lost, Some(at(3)));
    assert_eq!(store(&postgres, &[skipping]).await.lost, Some(at(3)), "a repeat tells the same");
    // One that has given the same place to two events.
    let content = Content::Message { text: text("x"), id: None, reply_to: None };
    let doubled = arrival("x", 4, Some(3), author(1), content);
    assert_eq!(store(&postgres, &[doubled]).await.lost, Some(at(4)));
}

#[tokio::test]
async fn generations_are_never_counted_down() {
    let (_database, postgres) = database().await;
    for (begun, expected) in [(3, 3), (4, 4), (2, 4), (0, 4)] {
        postgres.remember(&general(), begun).await.expect("is remembered");
        assert_eq!(postgres.known(&general()).await.expect("is read").generations, expected);
    }
}

#[tokio::test]
async fn an_event_of_a_room_that_never_was_harms_no_other_of_its_batch() {
    let (_database, postgres) = database().await;
    let mut stray = message("1", 1);
    stray.record.room = room("nowhere");
    let stored = postgres.store(&[message("1", 1), stray, message("2", 2)]).await.expect("is stored");
    assert_eq!(stored.homeless, [1]);
    assert_eq!(texts(&newest(&postgres, 50).await), ["2", "1"]);
}

#[tokio::test]
async fn only_what_postgres_has_at_just_that_place_for_a_while_may_be_trimmed() {
    let (database, postgres) = database().await;
    store(&postgres, &[message("1", 1), message("2", 2), message("3", 3), deletion("d", 4, "3")]).await;
    let places = [
        (at(1), event("1")),
        (at(3), event("2")),
        (at(3), event("3")),
        (at(4), event("d")),
        (at(5), event("5")),
    ];
    let now = postgres.stored_at(&general(), &places).await.expect("is read");
    assert_eq!(now, [], "somebody may be about to look for them in the log");
    database.execute("update messages set stored_at = stored_at - interval '2 minutes'").await;
    let mut stored = postgres.stored_at(&general(), &places).await.expect("is read");
    stored.sort();
    assert_eq!(stored, [(at(1), event("1")), (at(4), event("d"))]);
}

#[tokio::test]
async fn a_page_never_ends_between_two_events_at_the_same_place() {
    let (_database, postgres) = database().await;
    let same_place: Vec<Arrival> = [("a", 1), ("b", 2), ("c", 2), ("d", 2), ("e", 3), ("f", 4)]
        .map(|(id, milliseconds)| message(id, milliseconds))
        .into();
    store(&postgres, &same_place).await;
    for limit in 1..8 {
        let (mut forwards, mut after) = (Vec::new(), Position::BEGINNING);
        loop {
            let page = postgres.events_after(&general(), after, Position::END, limit).await.expect("is read");
            let Some(last) = page.events.last() else { break };
            after = last.position;
            forwards.extend(page.events.iter().map(|event| event.event));
            if !page.more {
                break;
            }
        }
        let (mut backwards, mut before) = (Vec::new(), Position::END);
        loop {
            let page =
                postgres.messages_before(&general(), before, Position::END, limit).await.expect("is read");
            let Some(last) = page.events.last() else { break };
            before = last.position;
            backwards.extend(page.events.iter().map(|event| event.event));
            if !page.more {
                break;
            }
        }
        for mut all in [forwards, backwards] {
            assert_eq!(all.len(), 6, "{limit}");
            all.sort();
            all.dedup();
            assert_eq!(all.len(), 6, "{limit}");
        }
    }
}

/// What the log has of a page, if it has these events.
fn log(events: &[&Arrival], since: Position, more: bool) -> LogPart {
    let events = events.iter().map(|Arrival { record, .. }| {
        Event::new(general(), record.position, record.previous, record.event.clone())
    });
    LogPart { since, events: events.collect(), more }
}

#[tokio::test]
async fn history_is_the_log_and_postgres_together_without_seam() {
    let (_database, postgres) = database().await;
    let all: Vec<Arrival> = (1..=12).map(|n| message(&format!("{n:02}"), n)).collect();
    let expected: Vec<String> = (1..=12).map(|n| format!("{n:02}")).collect();
    // The archive has stored these, the log has lost these, and what is in neither was never acknowledged.
    let stored: Vec<Arrival> = [1, 2, 3, 4, 6, 7].iter().map(|n| all[n - 1].clone()).collect();
    store(&postgres, &stored).await;
    let logged: Vec<&Arrival> = [3, 5, 6, 8, 9, 10, 11, 12].iter().map(|n| &all[n - 1]).collect();
    let since = at(8);
    for limit in 1..15 {
        let (mut back, mut before) = (Vec::new(), Position::END);
        loop {
            let older: Vec<&Arrival> =
                logged.iter().copied().filter(|a| a.record.position < before).collect();
            let part = log(&older[older.len().saturating_sub(limit)..], since, limit < older.len());
            let page =
                history::messages_before(&postgres, &general(), before, limit, part).await.expect("is read");
            let Page { events, more } = page;
            let Some(first) = events.first() else { break };
            before = first.position;
            back.splice(0..0, texts(&events).into_iter().map(str::to_owned));
            if !more {
                break;
            }
        }
        assert_eq!(back, expected, "backwards by {limit}");
        for as_logged in [true, false] {
            let (mut forth, mut after) = (Vec::new(), Position::BEGINNING);
            loop {
                let newer: Vec<&Arrival> =
                    logged.iter().copied().filter(|a| after < a.record.position).collect();
                let part = log(&newer[..limit.min(newer.len())], since, limit < newer.len());
                let page = if as_logged {
                    history::events_after(&postgres, &general(), after, limit, part).await
                } else {
                    history::messages_after(&postgres, &general(), after, limit, part).await
                };
                let Page { events, more } = page.expect("is read");
                let Some(last) = events.last() else { break };
                after = last.position;
                forth.extend(texts(&events).into_iter().map(str::to_owned));
                if !more {
                    break;
                }
            }
            assert_eq!(forth, expected, "forwards by {limit}");
        }
    }
}

#[tokio::test]
async fn a_page_has_no_more_than_it_was_asked_for_also_if_more_of_the_log_was_read() {
    let (_database, postgres) = database().await;
    let all: Vec<Arrival> = (1..=20).map(|n| message(&format!("{n:02}"), n)).collect();
    store(&postgres, &[all[9].clone()]).await;
    // The tenth is lost, and up to there Postgres is read as well.
    let logged: Vec<&Arrival> = all.iter().filter(|arrival| arrival.record.position != at(10)).collect();
    for (since, limit, more) in [(0, 5, true), (10, 5, true), (10, 12, true), (10, 20, false)] {
        let since = if since == 0 { Position::BEGINNING } else { at(since) };
        let page =
            history::messages_before(&postgres, &general(), Position::END, limit, log(&logged, since, false))
                .await;
        let Page { events, more: found } = page.expect("is read");
        let newest = all.iter().rev().filter(|a| since != Position::BEGINNING || a.record.position != at(10));
        let mut expected: Vec<_> = newest.take(limit).map(|arrival| arrival.record.position).collect();
        expected.reverse();
        assert_eq!(events.iter().map(|event| event.position).collect::<Vec<_>>(), expected);
        assert_eq!(found, more, "since {since}, limit {limit}");
    }
}

#[tokio::test]
async fn what_the_log_has_whole_is_read_while_postgres_is_away() {
    let mut database = Database::make_on_own_server().await;
    let postgres = database.store();
    database.server.as_mut().expect("it is its own").kill().await.expect("Postgres is killed");
    let logged: Vec<Arrival> = (1..=5).map(|n| message(&n.to_string(), n)).collect();
    let part = || log(&logged.iter().collect::<Vec<_>>(), at(0), false);
    let resumed = history::events_after(&postgres, &general(), at(0), 50, part()).await.expect("is read");
    assert_eq!(texts(&resumed.events), ["1", "2", "3", "4", "5"]);
    let newest =
        history::messages_before(&postgres, &general(), Position::END, 5, part()).await.expect("is read");
    assert_eq!(newest.events.len(), 5);
    let more = history::messages_before(&postgres, &general(), Position::END, 6, part()).await;
    assert_eq!(super::code(more), "unavailable");
}

#[tokio::test]
async fn the_last_message_of_a_room_is_as_it_is_now() {
    let (_database, postgres) = database().await;
    assert!(postgres.last_messages(&[general()]).await.expect("is read").is_empty());
    store(&postgres, &[message("m", 1), message("n", 2), edit("e", 3, "n", "new")]).await;
    let last = postgres.last_messages(&[general(), room("nowhere")]).await.expect("is read");
    assert_eq!(last.len(), 1);
    assert_eq!(texts(&[last[&general()].clone()]), ["new"]);
}
