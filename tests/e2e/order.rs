//! One order for every room: the audit of a whole conversation.

use serde_json::json;
use tests::{
    chat::Chat,
    test_app::TestApp,
    user::{User, text},
    view::View,
};

const WRITERS: usize = 6;
const EACH: usize = 25;

/// Writes as fast as the acks come, repeats every third send, and follows the room meanwhile.
async fn write_and_follow(user: User, room: String, writer: usize) -> (Chat, View, Vec<String>) {
    let mut chat = user.connect().await;
    let view = View::join(&mut chat, &room).await;
    let mut acked = Vec::new();
    for n in 0..EACH {
        let (words, id) = (format!("Message {n} of writer {writer}"), format!("{writer}-{n}"));
        let ack = chat.send_with_id(&room, &words, &id).await;
        if n % 3 == 0 {
            assert_eq!(chat.send_with_id(&room, &words, &id).await, ack);
        }
        acked.push(text(&ack["event"]));
    }
    (chat, view, acked)
}

#[tokio::test]
async fn everybody_sees_every_message_once_and_in_the_one_order_whoever_writes_meanwhile() {
    TestApp::run(async |app| {
        let owner = app.user("Owner").await;
        let room = owner.make_public_room().await;
        let mut reader = owner.connect().await;
        let mut readers_view = View::join(&mut reader, &room).await;
        let mut writing = Vec::new();
        for writer in 0..WRITERS {
            let user = app.user("Writer").await;
            writing.push(tokio::spawn(write_and_follow(user, room.clone(), writer)));
        }
        let mut followers = Vec::new();
        for writer in writing {
            followers.push(writer.await.expect("the writer is well"));
        }

        let acked: Vec<String> = followers.iter().flat_map(|(_, _, acked)| acked.clone()).collect();
        let log = whole_log(&owner, &room).await;
        let mut sorted = (acked.clone(), log.clone());
        sorted.0.sort();
        sorted.1.sort();
        assert_eq!(sorted.0, sorted.1, "the log is what was acked, each once");
        for (_, _, own) in &followers {
            let in_log: Vec<_> = log.iter().filter(|event| own.contains(event)).collect();
            assert_eq!(in_log, own.iter().collect::<Vec<_>>(), "who waits for acks writes in that order");
        }

        for event in &acked {
            readers_view.wait_for(&mut reader, event).await;
        }
        assert_eq!(readers_view.names(), log, "one who only reads");
        for (chat, view, _) in &mut followers {
            for event in &acked {
                view.wait_for(chat, event).await;
            }
            assert_eq!(view.names(), log, "one who writes as well");
        }
    })
    .await;
}

async fn whole_log(user: &User, room: &str) -> Vec<String> {
    let (mut events, mut after) = (Vec::new(), "0-0".to_owned());
    loop {
        let page = user.get(&format!("/rooms/{room}/messages?after={after}&limit=200")).await.expect(200);
        events.extend(page["messages"].as_array().expect("a list").iter().map(|event| text(&event["event"])));
        match page.get("next") {
            Some(next) => after = text(next),
            None => return events,
        }
    }
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
    TestApp::run(async |app| {
        let (room, (_, mut at_ada), (bob, _)) = app.two_in_a_room().await;
        let writing = tokio::spawn({
            let room = room.clone();
            async move {
                let mut acked = Vec::new();
                for n in 0..40 {
                    acked.push(text(&at_ada.send(&room, &n.to_string()).await["event"]));
                }
                acked
            }
        });
        // Joins again and again while Ada writes; each time all of it must come together.
        let mut visits = Vec::new();
        // A user has 20 connections at most.
        while !writing.is_finished() && visits.len() < 15 {
            let mut chat = bob.connect().await;
            let view = View::join(&mut chat, &room).await;
            visits.push((chat, view));
        }
        let acked = writing.await.expect("the writer is well");
        assert!(!visits.is_empty());
        for (chat, view) in &mut visits {
            for event in &acked {
                view.wait_for(chat, event).await;
            }
            assert_eq!(view.names(), acked);
        }
    })
    .await;
}
