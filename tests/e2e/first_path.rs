//! The thinnest whole path.

use serde_json::json;
use tests::test_app::TestApp;

#[tokio::test]
async fn two_people_sign_up_join_a_room_and_talk_and_find_it_again_later() {
    TestApp::run(async |app| {
        let (ada, bob) = (app.user("Ada").await, app.user("Bob").await);
        let room = ada.make_public_room().await;
        let mut at_ada = ada.connect().await;
        let mut at_bob = bob.connect_with_token().await.expect("the session is alive");

        let joined = at_ada.join(&room).await;
        assert_eq!((&joined["room"], &joined["events"]), (&json!(room), &json!([])));
        assert_eq!((&joined["position"], &joined["online"]), (&json!(null), &json!(1)));
        assert_eq!((&joined["reset"], &joined["more"]), (&json!(false), &json!(false)));
        assert_eq!(at_bob.join(&room).await["online"], 2);

        let ack = at_ada.send_with_id(&room, "Good morning, everybody", "1").await;
        let push = at_bob.push().await;
        let expected = json!({
            "type": "message", "room": room, "position": ack["position"], "previous": null,
            "event": ack["event"], "from": {"id": ada.id, "name": ada.name},
            "text": "Good morning, everybody", "at": ack["at"], "id": "1",
        });
        assert_eq!(push, expected);
        assert_eq!((&ack["id"], &ack["previous"]), (&json!("1"), &json!(null)));

        let second = at_bob.send(&room, "Good morning, Ada").await;
        let reply = at_ada.push().await;
        assert_eq!(reply["previous"], ack["position"]);
        assert_eq!(second["previous"], ack["position"]);
        assert_eq!(reply["from"], json!({"id": bob.id, "name": bob.name}));
        assert!(reply.get("id").is_none(), "Bob gave none: {reply}");
        at_ada.close().await;
        at_bob.close().await;

        let history = bob.get(&format!("/rooms/{room}/messages")).await.expect(200);
        assert_eq!(history, json!({"messages": [expected, reply]}));
        let mut later = bob.connect().await;
        assert_eq!(later.join(&room).await["events"], history["messages"]);
    })
    .await;
}
