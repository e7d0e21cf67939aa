//! Redis as a cluster: keys on real slots of several masters.

use http::Method;
use serde_json::json;
use tests::{
    chat::texts_of,
    test_app::{TestApp, eventually},
    user::text,
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
