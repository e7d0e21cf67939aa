//! One order for every room: the audit of a whole conversation.

use std::collections::BTreeSet;

use serde_json::json;
use tests::{
    chat::Chat,
    test_app::{Setup, TestApp},
    user::{User, text},
    view::View,
};

const WRITERS: usize = 6;
const EACH: usize = 25;

/// One who writes as fast as the acks come, and follows the room meanwhile.
struct Writer {
    chat: Chat,
    view: View,
    /// In the order of the acks.
    acked: Vec<String>,
    /// Those of them that were sent twice. What is sent twice is pushed twice: the first time may have died before its
    /// pushes.
    repeated: BTreeSet<String>,
}

impl Writer {
    async fn write(user: User, room: String, number: usize) -> Self {
        let mut chat = user.connect().await;
        let view = View::join(&mut chat, &room).await;
        let mut writer = Self { chat, view, acked: Vec::new(), repeated: BTreeSet::new() };
        for n in 0..EACH {
            let (words, id) = (format!("Message {n} of writer {number}"), format!("{number}-{n}"));
            let ack = writer.chat.send_with_id(&room, &words, &id).await;
            writer.view.follow(&mut writer.chat, &ack).await;
            let event = text(&ack["event"]);
            if n % 3 == 0 {
                assert_eq!(writer.chat.send_with_id(&room, &words, &id).await, ack);
                writer.repeated.insert(event.clone());
            }
            writer.acked.push(event);
        }
        writer
    }
}

/// A Banter that gives up no push on a machine with much else to do.
fn patient() -> Setup {
    TestApp::with([("PUSH_BUDGET_MS", "10000")])
}

/// With no faults every event comes by push as often as it was sent: what a reading of a gap would fill in is there
/// already or on its way, and nothing comes twice by itself.
#[track_caller]
fn check_pushes<'a>(view: &View, expected: impl IntoIterator<Item = (&'a String, usize)>) {
    for (event, times) in expected {
        let pushed = view.times_pushed(event);
        if view.found().contains(event) {
            // Sent before the join, it may still be repeated after it.
            assert!(pushed < times, "{event} was there, and was pushed {pushed} times");
        } else {
            assert_eq!(pushed, times, "{event} was pushed {pushed} times");
        }
    }
}

#[tokio::test]
async fn everybody_sees_every_message_once_and_in_the_one_order_whoever_writes_meanwhile() {
    patient()
        .run(async |app| {
            let owner = app.user("Owner").await;
            let room = owner.make_public_room().await;
            let mut reader = owner.connect().await;
            let mut readers_view = View::join(&mut reader, &room).await;
            let mut writing = Vec::new();
            for number in 0..WRITERS {
                let user = app.user("Writer").await;
                writing.push(tokio::spawn(Writer::write(user, room.clone(), number)));
            }
            let mut writers = Vec::new();
            for writer in writing {
                writers.push(writer.await.expect("the writer is well"));
            }

            let acked: Vec<String> = writers.iter().flat_map(|writer| writer.acked.clone()).collect();
            let repeated: BTreeSet<String> =
                writers.iter().flat_map(|writer| writer.repeated.iter().cloned()).collect();
            let log = whole_log(&owner, &room).await;
            let mut sorted = (acked.clone(), log.clone());
            sorted.0.sort();
            sorted.1.sort();
            assert_eq!(sorted.0, sorted.1, "the log is what was acked, each once");
            for writer in &writers {
                let in_log: Vec<_> = log.iter().filter(|event| writer.acked.contains(event)).collect();
                assert_eq!(
                    in_log,
                    writer.acked.iter().collect::<Vec<_>>(),
                    "who waits for acks writes in that order"
                );
            }

            let times = |event: &String| if repeated.contains(event) { 2 } else { 1 };
            readers_view.settle(&mut reader).await;
            assert_eq!(readers_view.names(), log, "one who only reads");
            assert!(readers_view.found().is_empty(), "nobody had written yet");
            check_pushes(&readers_view, log.iter().map(|event| (event, times(event))));
            for Writer { chat, view, acked: own, .. } in &mut writers {
                view.settle(chat).await;
                assert_eq!(view.names(), log, "one who writes as well");
                let others = log.iter().filter(|event| !own.contains(event));
                check_pushes(view, others.map(|event| (event, times(event))));
                assert!(
                    own.iter().all(|event| view.times_pushed(event) == 0),
                    "the ack is enough for the sender"
                );
            }
        })
        .await;
}

async fn whole_log(user: &User, room: &str) -> Vec<String> {
    let log = user.read_forwards(room, 200).await;
    log.iter().map(|event| text(&event["event"])).collect()
}

#[tokio::test]
async fn positions_grow_and_each_names_the_one_before() {
    TestApp::run(async |app| {
        let (room, (_, mut at_ada), (_, mut at_bob)) = app.two_in_a_room().await;
        let mut previous = json!(null);
        for n in 0..20 {
            let chat = if n % 2 == 0 { &mut at_ada } else { &mut at_bob };
            let ack = chat.send(&room, &n.to_string()).await;
            assert_eq!(ack["previous"], previous);
            previous = ack["position"].clone();
        }
        let joined = at_ada.join_after(&room, "0-0").await;
        let events = joined["events"].as_array().expect("a list");
        assert_eq!(events[0]["previous"], json!(null));
        for pair in events.windows(2) {
            assert_eq!(pair[1]["previous"], pair[0]["position"]);
        }
    })
    .await;
}

#[tokio::test]
async fn one_who_comes_in_the_middle_of_it_misses_nothing() {
    /// A user has 20 connections at most.
    const VISITS: usize = 10;
    patient()
        .run(async |app| {
            let (room, (_, mut at_ada), (bob, _)) = app.two_in_a_room().await;
            let mut acked = vec![text(&at_ada.send(&room, "Before anybody comes").await["event"])];
            let (enough, mut told) = tokio::sync::oneshot::channel();
            let writing = tokio::spawn({
                let room = room.clone();
                async move {
                    let mut acked = Vec::new();
                    while told.try_recv().is_err() {
                        acked.push(text(&at_ada.send(&room, "In the middle of it").await["event"]));
                    }
                    acked.push(text(&at_ada.send(&room, "After the last has come").await["event"]));
                    acked
                }
            });
            // Each joins while Ada writes: a part of it is in the answer, the rest is pushed.
            let mut visits = Vec::new();
            for _ in 0..VISITS {
                let mut chat = bob.connect().await;
                let view = View::join(&mut chat, &room).await;
                visits.push((chat, view));
            }
            enough.send(()).expect("Ada still writes");
            acked.extend(writing.await.expect("the writer is well"));
            for (chat, view) in &mut visits {
                let found = view.found().len();
                assert!(0 < found && found < acked.len(), "{found} of {}", acked.len());
                view.settle(chat).await;
                assert_eq!(view.names(), acked);
                check_pushes(view, acked.iter().map(|event| (event, 1)));
            }
            let found = |visit: &(Chat, View)| visit.1.found().len();
            assert!(found(&visits[0]) < found(&visits[VISITS - 1]), "Ada has written between the visits");
        })
        .await;
}
