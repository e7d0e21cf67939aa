//! `send`, `join`, `leave`, `ping`.

use serde_json::{Value, json};
use tests::{
    chat::{Chat, texts_of},
    test_app::TestApp,
    user::text,
};

#[tokio::test]
async fn a_message_reaches_every_other_socket_in_the_room_and_none_outside() {
    TestApp::run(async |app| {
        let (room, (ada, mut at_ada), (_, mut at_bob)) = app.two_in_a_room().await;
        let mut ada_elsewhere = ada.join(&room).await;
        let carol = app.user("Carol").await;
        let mut outside = carol.join(&carol.make_public_room().await).await;

        let ack = at_ada.send(&room, "Who is there tonight?").await;
        for socket in [&mut at_bob, &mut ada_elsewhere] {
            let push = socket.push().await;
            assert_eq!((&push["event"], &push["position"]), (&ack["event"], &ack["position"]));
        }
        assert!(at_ada.pushed_before_now().await.is_empty(), "the sender has the ack");
        assert!(outside.pushed_before_now().await.is_empty());
    })
    .await;
}

#[tokio::test]
async fn a_text_is_kept_as_it_was_meant() {
    TestApp::run(async |app| {
        let (room, (_, mut at_ada), (_, mut at_bob)) = app.two_in_a_room().await;
        let longest = "😀".repeat(4_000);
        for (sent, kept) in [
            ("  edges are trimmed \n", "edges are trimmed"),
            ("lines\r\nand\ttabs", "lines\nand\ttabs"),
            ("e\u{301} is composed", "é is composed"),
            ("👩‍👩‍👧 مرحبا \u{202e}שלום", "👩‍👩‍👧 مرحبا \u{202e}שלום"),
            (r#""quotes" and \backslashes\ and </script>"#, r#""quotes" and \backslashes\ and </script>"#),
            ("{\"action\":\"leave\"}", "{\"action\":\"leave\"}"),
            (&longest, &longest),
        ] {
            at_ada.send(&room, sent).await;
            assert_eq!(at_bob.push().await["text"], kept);
        }
    })
    .await;
}

#[tokio::test]
async fn a_send_with_the_same_id_gets_the_first_ack_whatever_its_text() {
    TestApp::run(async |app| {
        let (room, (ada, mut at_ada), (_, mut at_bob)) = app.two_in_a_room().await;
        let first = at_ada.send_with_id(&room, "The first text counts", "a").await;
        at_bob.push().await;
        at_bob.send(&room, "Something in between them").await;
        assert_eq!(at_ada.send_with_id(&room, "The second one does not", "a").await, first);
        let mut elsewhere = ada.log_in().await.join(&room).await;
        assert_eq!(elsewhere.send_with_id(&room, "Nor the third, elsewhere", "a").await, first);
        assert_eq!(at_bob.push().await["text"], "The first text counts", "a repeat is pushed again");

        let history = ada.get(&format!("/rooms/{room}/messages")).await.expect(200);
        let texts: Vec<_> =
            history["messages"].as_array().expect("a list").iter().map(|m| &m["text"]).collect();
        assert_eq!(texts, ["The first text counts", "Something in between them"]);
    })
    .await;
}

#[tokio::test]
async fn an_id_means_nothing_to_other_people_and_in_other_rooms() {
    TestApp::run(async |app| {
        let (room, (ada, mut at_ada), (_, mut at_bob)) = app.two_in_a_room().await;
        let other = ada.make_public_room().await;
        at_ada.join(&other).await;
        let acks = [
            at_ada.send_with_id(&room, "Ada's, in the first room", "a").await,
            at_bob.send_with_id(&room, "Bob's, in the first room", "a").await,
            at_ada.send_with_id(&other, "Ada's, in the second room", "a").await,
            at_ada.send_with_id(&room, "Ada's, with another case", "A").await,
        ];
        let mut events: Vec<_> = acks.iter().map(|ack| text(&ack["event"])).collect();
        events.sort();
        events.dedup();
        assert_eq!(events.len(), acks.len());
    })
    .await;
}

#[tokio::test]
async fn the_same_id_at_the_same_time_is_one_message() {
    TestApp::run(async |app| {
        let ada = app.user("Ada").await;
        let room = ada.make_public_room().await;
        let mut sockets = Vec::new();
        for _ in 0..8 {
            sockets.push(ada.join(&room).await);
        }
        let send = json!({"action": "send", "room": room, "text": "Only once, please", "id": "same"});
        for socket in &mut sockets {
            socket.post(&send).await;
        }
        let mut acks = Vec::new();
        for socket in &mut sockets {
            acks.push(socket.reply().await);
        }
        assert!(acks.iter().all(|ack| ack == &acks[0]), "{acks:?}");
        assert_eq!(texts_of(&sockets[0].join(&room).await), ["Only once, please"]);
    })
    .await;
}

async fn write(chat: &mut Chat, room: &str, count: usize) -> Vec<Value> {
    let mut acks = Vec::new();
    for n in 0..count {
        acks.push(chat.send(room, &n.to_string()).await);
    }
    acks
}

fn numbers(range: std::ops::Range<usize>) -> Vec<String> {
    range.map(|n| n.to_string()).collect()
}

#[tokio::test]
async fn a_join_without_a_position_gets_the_newest_fifty() {
    TestApp::run(async |app| {
        let (room, (_, mut at_ada), (_, mut at_bob)) = app.two_in_a_room().await;
        let acks = write(&mut at_ada, &room, 50).await;
        let joined = at_bob.join(&room).await;
        assert_eq!(texts_of(&joined), numbers(0..50));
        assert_eq!((&joined["more"], &joined["reset"]), (&json!(false), &json!(false)));
        assert_eq!(joined["position"], acks[49]["position"]);

        at_ada.send(&room, "50").await;
        let joined = at_bob.join(&room).await;
        assert_eq!(texts_of(&joined), numbers(1..51));
        assert_eq!(joined["more"], true, "it does not reach the oldest");
    })
    .await;
}

#[tokio::test]
async fn a_resume_gets_everything_since_or_says_that_it_does_not() {
    TestApp::run(async |app| {
        let (room, (_, mut at_ada), (bob, mut at_bob)) = app.two_in_a_room().await;
        let generation = at_bob.join(&room).await["generation"].take();
        let acks = write(&mut at_ada, &room, 7).await;
        let resume = async |after: &str, generation: &Value| {
            let frame = json!({"action": "join", "room": room, "after": after, "generation": generation});
            bob.connect().await.ask(frame).await
        };
        let fourth = text(&acks[3]["position"]);
        for generation in [&generation, &Value::Null] {
            let resumed = resume(&fourth, generation).await;
            assert_eq!(texts_of(&resumed), numbers(4..7), "exclusive, and whole");
            assert_eq!((&resumed["reset"], &resumed["more"]), (&json!(false), &json!(false)));
        }
        assert_eq!(texts_of(&resume("0-0", &Value::Null).await), numbers(0..7));
        assert!(texts_of(&resume(&text(&acks[6]["position"]), &generation).await).is_empty());

        for (after, of) in
            [("99999999999999-0", &generation), ("18446744073709551615-18446744073709551615", &generation)]
        {
            let reset = resume(after, of).await;
            assert_eq!(reset["reset"], true, "{after} is in the future");
            assert_eq!(texts_of(&reset), numbers(0..7));
        }
        assert_eq!(resume(&fourth, &json!("0123456789abcdef")).await["reset"], true, "another generation");
    })
    .await;
}

#[tokio::test]
async fn a_long_absence_is_caught_up_with_page_by_page() {
    TestApp::run(async |app| {
        let (room, (_, mut at_ada), (bob, _)) = app.two_in_a_room().await;
        let acks = write(&mut at_ada, &room, 230).await;
        let mut at_bob = bob.connect().await;
        let joined = at_bob.join_after(&room, "0-0").await;
        assert_eq!(texts_of(&joined), numbers(0..200));
        assert_eq!((&joined["more"], &joined["position"]), (&json!(true), &acks[229]["position"]));
        let rest = at_bob.history_after(&room, &text(&acks[199]["position"])).await;
        assert_eq!(texts_of(&rest), numbers(200..230));
        assert_eq!(rest["more"], false);
    })
    .await;
}

#[tokio::test]
async fn one_who_has_left_gets_nothing_more_and_may_leave_again() {
    TestApp::run(async |app| {
        let (room, (_, mut at_ada), (_, mut at_bob)) = app.two_in_a_room().await;
        for _ in 0..2 {
            assert_eq!(at_bob.leave(&room).await, json!({"type": "left", "room": room}));
        }
        at_ada.send(&room, "Bob does not hear this").await;
        assert!(at_bob.pushed_before_now().await.is_empty());
        for action in [json!({"action": "send", "text": "But I"}), json!({"action": "history"})] {
            let mut frame = action;
            frame["room"] = json!(room);
            at_bob.refused(frame, "not_joined").await;
        }
        assert_eq!(texts_of(&at_bob.join(&room).await), ["Bob does not hear this"]);
        at_ada.send(&room, "But this he hears again").await;
        assert_eq!(at_bob.push().await["text"], "But this he hears again");
    })
    .await;
}

#[tokio::test]
async fn joining_twice_is_joining_once() {
    TestApp::run(async |app| {
        let (room, (_, mut at_ada), (_, mut at_bob)) = app.two_in_a_room().await;
        for _ in 0..3 {
            assert_eq!(at_bob.join(&room).await["online"], 2);
        }
        at_ada.send(&room, "Once is enough for me").await;
        assert_eq!(at_bob.pushed_before_now().await.len(), 1);
        at_bob.leave(&room).await;
        assert_eq!(at_ada.join(&room).await["online"], 1);
    })
    .await;
}

#[tokio::test]
async fn a_ping_shows_what_was_missed_and_where_to_join_again() {
    TestApp::run(async |app| {
        let (room, (ada, mut at_ada), (_, mut at_bob)) = app.two_in_a_room().await;
        let (quiet, private) = (ada.make_public_room().await, ada.make_private_room().await);
        at_bob.join(&quiet).await;
        let acks = write(&mut at_ada, &room, 2).await;
        let ping = async |chat: &mut Chat, positions: Value| {
            chat.ask(json!({"action": "ping", "positions": positions})).await
        };
        let [first, second] = [text(&acks[0]["position"]), text(&acks[1]["position"])];

        let pong = ping(&mut at_bob, json!({room.clone(): first, quiet.clone(): "0-0"})).await;
        assert_eq!(pong, json!({"type": "pong", "behind": {room.clone(): second}, "rejoin": []}));
        let pong = ping(&mut at_bob, json!({room.clone(): second})).await;
        assert_eq!(pong, json!({"type": "pong", "behind": {}, "rejoin": []}));
        let pong = ping(&mut at_bob, json!({"no-such-room": "0-0", private.clone(): "0-0"})).await;
        let mut unknown = vec!["no-such-room".to_owned(), private.clone()];
        unknown.sort();
        assert_eq!(pong, json!({"type": "pong", "behind": {}, "rejoin": unknown}));
        at_bob.leave(&room).await;
        let pong = ping(&mut at_bob, json!({room.clone(): "0-0"})).await;
        assert_eq!(pong, json!({"type": "pong", "behind": {}, "rejoin": [room]}));
        assert_eq!(at_bob.ping().await, json!({"type": "pong", "behind": {}, "rejoin": []}));
    })
    .await;
}

#[tokio::test]
async fn a_reference_is_echoed_in_replies_and_in_errors() {
    TestApp::run(async |app| {
        let ada = app.user("Ada").await;
        let mut chat = ada.connect().await;
        for reference in ["1", "", "日本 \" \\ \u{1F980}", &"r".repeat(64)] {
            chat.post(&json!({"action": "ping", "ref": reference})).await;
            assert_eq!(chat.reply().await["ref"], reference);
            chat.post(&json!({"action": "fly", "ref": reference})).await;
            assert_eq!(chat.reply().await["ref"], reference);
        }
        chat.post(&json!({"action": "ping"})).await;
        assert!(chat.reply().await.get("ref").is_none());
    })
    .await;
}
