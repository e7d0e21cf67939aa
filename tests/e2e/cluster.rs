//! Redis as a cluster: keys on real slots of several masters, each with a replica, over TLS.

use std::{
    cell::Cell,
    time::{Duration, Instant},
};

use http::Method;
use serde_json::json;
use tests::{
    chat::{Chat, check_error, texts_of},
    test_app::{TestApp, eventually},
    user::{User, text},
    view::View,
};

#[tokio::test]
async fn people_sign_up_talk_and_log_out_on_a_cluster_as_on_one_server() {
    // Whoever counts calls needs keys of his own for it.
    TestApp::with([("HTTP_THROTTLE", "1000/minute"), ("WEBSOCKET_THROTTLE", "1000/second")])
        .redis_cluster()
        .run(async |app| {
            let (ada, bob) = (app.user("Ada").await, app.user("Bob").await);
            let (mut at_ada, mut at_bob) = (ada.connect().await, bob.connect().await);
            // The slots of so many rooms are spread over all the masters.
            let mut rooms = Vec::new();
            for _ in 0..6 {
                let room = ada.make_public_room().await;
                at_ada.join(&room).await;
                assert_eq!(at_bob.join(&room).await["online"], 2);
                let first = at_ada.send_with_id(&room, "Good morning, everybody", "1").await;
                assert_eq!(at_bob.push().await["event"], first["event"]);
                let again = at_ada.send_with_id(&room, "Good morning, everybody", "1").await;
                assert_eq!(again, first);
                at_bob.push().await;
                let second = at_bob.send(&room, "Good morning, Ada").await;
                assert_eq!(second["previous"], first["position"]);
                assert_eq!(at_ada.push().await["event"], second["event"]);

                let resumed = at_ada.history_after(&room, &text(&first["position"])).await;
                assert_eq!(texts_of(&resumed), ["Good morning, Ada"]);
                let read = ada.get(&format!("/rooms/{room}/messages")).await.expect(200);
                assert_eq!(read["messages"].as_array().map(Vec::len), Some(2));
                assert_eq!(ada.get(&format!("/rooms/{room}/online")).await.expect(200)["count"], 2);
                rooms.push((room, second["position"].clone()));
            }
            let listed = ada.get("/rooms?scope=mine").await.expect(200);
            for room in listed["rooms"].as_array().expect("a list") {
                assert_eq!(room["last_message"]["text"], "Good morning, Ada", "{room}");
            }
            let positions: serde_json::Map<_, _> =
                rooms.iter().map(|(room, _)| (room.clone(), json!("0-0"))).collect();
            let pong = at_bob.ask(json!({"action": "ping", "positions": positions})).await;
            for (room, newest) in &rooms {
                assert_eq!(&pong["behind"][room], newest);
            }

            at_bob.leave(&rooms[0].0).await;
            ada.delete(&format!("/rooms/{}", rooms[1].0)).await.expect(204);
            ada.call(Method::POST, "/logout").send().await.expect(204);
            at_ada.closed().await;
            eventually("Ada is in no room any more", async || {
                match bob.get(&format!("/rooms/{}/online", rooms[2].0)).await.expect(200)["count"].as_u64() {
                    Some(1) => Ok(()),
                    other => Err(format!("{other:?}")),
                }
            })
            .await;
        })
        .await;
}

/// One who says one thing after the other, each until it is acknowledged.
struct Writer {
    chat: Chat,
    room: String,
    /// The events in the order of their acks.
    acked: Vec<String>,
    /// How long the longest of them took, with all its repeats.
    longest: Duration,
}

impl Writer {
    /// Sends the next message, with the same id until there is an ack.
    async fn write_one(&mut self) {
        const PATIENCE: Duration = Duration::from_secs(30);
        let n = self.acked.len();
        let frame = json!({
            "action": "send", "room": self.room, "id": n.to_string(), "text": format!("Message {n} of the conversation"),
        });
        let begin = Instant::now();
        loop {
            let reply = self.chat.ask(frame.clone()).await;
            if reply["type"] == "ack" {
                self.acked.push(text(&reply["event"]));
                self.longest = self.longest.max(begin.elapsed());
                return;
            }
            check_error(&reply, "unavailable");
            assert!(begin.elapsed() < PATIENCE, "message {n} is not acknowledged");
        }
    }

    async fn write(&mut self, messages: usize) {
        for _ in 0..messages {
            self.write_one().await;
        }
    }

    /// Writes while something happens, which is over when it returns.
    async fn write_during(&mut self, happens: impl Future<Output = ()>) {
        let is_over = Cell::new(false);
        let happens = async {
            happens.await;
            is_over.set(true);
        };
        let writing = async {
            while !is_over.get() {
                self.write_one().await;
            }
        };
        tokio::join!(happens, writing);
    }
}

/// The names of the events in the room, in its order.
async fn whole_log(user: &User, room: &str) -> Vec<String> {
    let log = user.read_forwards(room, 200).await;
    log.iter().map(|event| text(&event["event"])).collect()
}

/// Waits until a socket is answered: it may be the first to notice that its function's line to Redis is dead.
async fn is_answered(chat: &mut Chat) {
    for _ in 0..100 {
        let reply = chat.ask(json!({"action": "ping"})).await;
        if reply["type"] == "pong" {
            return;
        }
        check_error(&reply, "unavailable");
    }
    panic!("it is never answered");
}

#[tokio::test]
async fn when_a_master_is_lost_the_conversation_goes_on_in_one_order_and_without_duplicates() {
    TestApp::with([("PUSH_BUDGET_MS", "10000")])
        .redis_cluster()
        .run(async |app| {
            app.expect_failures();
            let (room, (ada, at_ada), (bob, mut at_bob)) = app.two_in_a_room().await;
            let mut bobs_view = View::join(&mut at_bob, &room).await;
            let mut writer =
                Writer { chat: at_ada, room: room.clone(), acked: Vec::new(), longest: Duration::ZERO };
            writer.write(5).await;

            let key = format!("room:{{{room}}}:log");
            writer
                .write_during(async {
                    app.redis.lose_a_master(&key).await.expect("the replica takes over");
                })
                .await;
            // No replica takes over before its master was silent for two seconds.
            let seconds = Duration::from_secs(1)..Duration::from_secs(20);
            assert!(seconds.contains(&writer.longest), "the room was away for {:?}", writer.longest);
            writer.write(5).await;
            writer
                .write_during(async {
                    app.redis.resume().await.expect("the lost one comes back");
                })
                .await;
            writer.write(5).await;

            is_answered(&mut at_bob).await;
            // A replica takes over with what it has. What it lacks is in the queue, and comes back from Postgres.
            let acked = &writer.acked;
            let log = eventually("all that was acknowledged is in the room's history, once", async || {
                let log = whole_log(&ada, &room).await;
                if log == *acked { Ok(log) } else { Err(format!("{log:?} instead of {acked:?}")) }
            })
            .await;

            // One who was there all the time, and one who comes now.
            bobs_view.settle(&mut at_bob).await;
            let seen: Vec<_> =
                bobs_view.names().into_iter().filter(|name| log.iter().any(|event| event == name)).collect();
            assert_eq!(seen, log, "one who was there all the time");
            let mut again = bob.connect().await;
            assert_eq!(View::join(&mut again, &room).await.names(), log, "one who comes now");
        })
        .await;
}
