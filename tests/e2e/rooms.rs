//! Making, listing, changing and ending rooms.

use serde_json::{Value, json};
use tests::{
    api::assert_keys,
    chat::check_time,
    test_app::TestApp,
    user::{User, text},
};

async fn make(user: &User, body: Value) -> Value {
    user.post("/rooms", body).await.expect(201)
}

#[tokio::test]
async fn a_public_room_has_the_id_that_was_asked_for_or_one_made_from_its_title() {
    TestApp::run(async |app| {
        let ada = app.user("Ada").await;
        let room = make(&ada, json!({"id": "general", "title": " General talk ", "kind": "public"})).await;
        assert_keys(&room, &["id", "title", "kind", "role", "created_at"], &[]);
        check_time(&room["created_at"]);
        assert_eq!((&room["id"], &room["title"]), (&json!("general"), &json!("General talk")));
        assert_eq!((&room["kind"], &room["role"]), (&json!("public"), &json!("owner")));
        assert_eq!(ada.get("/rooms/general").await.expect(200), room);

        let made =
            async |title: &str| text(&make(&ada, json!({"title": title, "kind": "public"})).await["id"]);
        assert_eq!(made("Team Chat!").await, "team-chat");
        let again = made("Team Chat!").await;
        assert!(again.starts_with("team-chat-"), "{again}");
        for title in ["名前", "!!!"] {
            assert!(!made(title).await.is_empty(), "a title without letters gets some id");
        }
    })
    .await;
}

#[tokio::test]
async fn a_room_id_is_given_once_also_after_the_room_has_gone() {
    TestApp::run(async |app| {
        let (ada, bob) = (app.user("Ada").await, app.user("Bob").await);
        let general = json!({"id": "general", "title": "General", "kind": "public"});
        make(&ada, general.clone()).await;
        bob.post("/rooms", general.clone()).await.refused(409, "conflict");
        ada.delete("/rooms/general").await.expect(204);
        ada.get("/rooms/general").await.refused(404, "not_found");
        for user in [&ada, &bob] {
            user.post("/rooms", general.clone()).await.refused(409, "conflict");
        }
        let id = text(&make(&bob, json!({"title": "General", "kind": "public"})).await["id"]);
        assert_ne!(id, "general");
    })
    .await;
}

#[tokio::test]
async fn a_private_room_has_an_id_that_nobody_can_guess_or_ask_for() {
    TestApp::run(async |app| {
        let ada = app.user("Ada").await;
        let one = make(&ada, json!({"title": "Secret", "kind": "private"})).await;
        let two = make(&ada, json!({"title": "Secret", "kind": "private"})).await;
        for room in [&one, &two] {
            assert_eq!((&room["kind"], &room["role"]), (&json!("private"), &json!("owner")));
            let id = text(&room["id"]);
            assert_eq!(id.len(), 25, "128 bits in base 36: {id}");
        }
        assert_ne!(one["id"], two["id"]);
        let asked = ada.post("/rooms", json!({"id": "secret", "title": "Secret", "kind": "private"})).await;
        match asked.status.as_u16() {
            201 => assert_ne!(asked.json()["id"], "secret"),
            _ => assert_eq!(asked.invalid(), ["id"]),
        }
    })
    .await;
}

#[tokio::test]
async fn a_bad_room_is_not_made_and_every_bad_field_is_named() {
    TestApp::run(async |app| {
        let ada = app.user("Ada").await;
        let check = async |body: Value, expected: &[&str]| {
            assert_eq!(ada.post("/rooms", body.clone()).await.invalid(), expected, "{body}");
        };
        check(json!({}), &["kind", "title"]).await;
        check(json!({"id": 7, "title": 7, "kind": 7}), &["id", "kind", "title"]).await;
        for kind in ["", "Public", "direct", "secret"] {
            check(json!({"title": "A", "kind": kind}), &["kind"]).await;
        }
        for id in ["", "-a", "General", "a b", "a_b", "a/b", "{a}", "a\u{0}", "é", &"a".repeat(65)] {
            check(json!({"id": id, "title": "A", "kind": "public"}), &["id"]).await;
        }
        for title in ["", " ", "a\u{0}", "a\nb", &"x".repeat(101)] {
            check(json!({"title": title, "kind": "public"}), &["title"]).await;
        }
        assert_eq!(ada.get("/rooms?scope=public").await.expect(200), json!({"rooms": []}));
    })
    .await;
}

#[tokio::test]
async fn rooms_are_listed_with_what_goes_on_in_them() {
    TestApp::run(async |app| {
        let (ada, bob) = (app.user("Ada").await, app.user("Bob").await);
        for id in ["b-room", "a-room", "c-room"] {
            make(&ada, json!({"id": id, "title": id, "kind": "public"})).await;
        }
        let private = ada.make_private_room().await;
        let list = async |user: &User, query: &str| user.get(&format!("/rooms{query}")).await.expect(200);
        let ids = |list: &Value| -> Vec<String> {
            list["rooms"].as_array().expect("a list").iter().map(|room| text(&room["id"])).collect()
        };

        assert_eq!(ids(&list(&bob, "?scope=public").await), ["a-room", "b-room", "c-room"]);
        assert!(ids(&list(&bob, "?scope=mine").await).is_empty());
        let mut mine = vec!["a-room".to_owned(), "b-room".to_owned(), "c-room".to_owned(), private];
        mine.sort();
        assert_eq!(ids(&list(&ada, "?scope=mine").await), mine);
        assert_eq!(
            list(&ada, "").await,
            list(&ada, "?scope=mine").await,
            "one's own rooms are the usual wish"
        );

        let mut page = list(&bob, "?scope=public&limit=2").await;
        assert_eq!(
            (ids(&page), text(&page["next"])),
            (vec!["a-room".into(), "b-room".into()], "b-room".into())
        );
        page = list(&bob, "?scope=public&limit=2&after=b-room").await;
        assert_eq!((ids(&page), page.get("next")), (vec!["c-room".to_owned()], None));

        let mut chat = bob.join("b-room").await;
        let ack = chat.send("b-room", "The newest of them all").await;
        let room = list(&bob, "?scope=public&after=a-room&limit=1").await["rooms"][0].take();
        assert_keys(&room, &["id", "title", "kind", "created_at", "last_message", "online"], &["unread"]);
        assert_eq!(room["last_message"]["event"], ack["event"]);
        assert_eq!(
            (&room["last_message"]["text"], &room["online"]),
            (&json!("The newest of them all"), &json!(1))
        );
        assert_eq!(list(&ada, "?scope=mine&after=a-room&limit=1").await["rooms"][0]["role"], "owner");
    })
    .await;
}

#[tokio::test]
async fn a_list_that_cannot_be_asked_for_is_refused() {
    TestApp::run(async |app| {
        let ada = app.user("Ada").await;
        for (query, field) in [
            ("scope=all", "scope"),
            ("limit=0", "limit"),
            ("limit=201", "limit"),
            ("limit=-1", "limit"),
            ("limit=ten", "limit"),
            ("limit=99999999999999999999", "limit"),
            ("after=No%20Room", "after"),
            ("after=%00", "after"),
        ] {
            assert_eq!(ada.get(&format!("/rooms?{query}")).await.invalid(), [field], "{query}");
        }
    })
    .await;
}

#[tokio::test]
async fn a_title_is_changed_and_a_room_ended_by_its_owner_only() {
    TestApp::run(async |app| {
        let (ada, bob) = (app.user("Ada").await, app.user("Bob").await);
        let room = ada.make_public_room().await;
        let path = format!("/rooms/{room}");
        let rename = json!({"title": " Renamed "});
        for role in [None, Some("member"), Some("moderator")] {
            if let Some(role) = role {
                ada.invite(&room, &bob, role).await;
            }
            bob.patch(&path, rename.clone()).await.refused(403, "forbidden");
            bob.delete(&path).await.refused(403, "forbidden");
        }
        assert_eq!(ada.patch(&path, json!({"title": ""})).await.invalid(), ["title"]);
        assert_eq!(ada.patch(&path, json!({})).await.invalid(), ["title"]);
        let renamed = ada.patch(&path, rename).await.expect(200);
        assert_eq!(renamed["title"], "Renamed");
        assert_eq!(ada.get(&path).await.expect(200), renamed);
        ada.invite(&room, &bob, "owner").await;
        bob.delete(&path).await.expect(204);
        for user in [&ada, &bob] {
            user.get(&path).await.refused(404, "not_found");
            user.patch(&path, json!({"title": "Again"})).await.refused(404, "not_found");
        }
        app.user("Eve").await.delete(&path).await.refused(404, "not_found");
    })
    .await;
}

#[tokio::test]
async fn a_room_that_has_ended_is_over_for_those_in_it() {
    TestApp::run(async |app| {
        let (room, (ada, mut at_ada), (_, mut at_bob)) = app.two_in_a_room().await;
        at_ada.send(&room, "This will be gone soon").await;
        at_bob.push().await;
        ada.delete(&format!("/rooms/{room}")).await.expect(204);

        let frame = |action: &str| json!({"action": action, "room": room, "text": "Hello? Anybody there?"});
        at_bob.refused(frame("send"), "not_joined").await;
        at_bob.refused(frame("history"), "not_joined").await;
        at_bob.refused(frame("join"), "not_found").await;
        at_bob.leave(&room).await;
        for path in ["", "/messages", "/members", "/online"] {
            ada.get(&format!("/rooms/{room}{path}")).await.refused(404, "not_found");
        }
        assert!(app.redis_keys(&format!("room:{{{room}}}:log")).await.is_empty());
    })
    .await;
}

#[tokio::test]
async fn administrators_may_rename_and_end_rooms_of_others() {
    const ADMIN: &str = "0197f3a2-0000-7000-8000-00000000000a";
    TestApp::with([("ADMIN_USER_IDS", ADMIN), ("ROOM_CREATION", "admins")])
        .run(async |app| {
            let (ada, admin) = (app.user("Ada").await, app.user("Root").await);
            ada.post("/rooms", json!({"title": "A", "kind": "public"})).await.refused(403, "forbidden");
            admin.post("/rooms", json!({"title": "A", "kind": "public"})).await.refused(403, "forbidden");

            let admin = app.give_id(admin, ADMIN).await;
            let room = text(&make(&admin, json!({"title": "A", "kind": "public"})).await["id"]);
            let private = text(&make(&admin, json!({"title": "B", "kind": "private"})).await["id"]);
            for room in [&room, &private] {
                admin.invite(room, &ada, "owner").await;
                admin.delete(&format!("/rooms/{room}/members/{ADMIN}")).await.expect(204);
                let renamed = admin.patch(&format!("/rooms/{room}"), json!({"title": "C"})).await.expect(200);
                assert_eq!((&renamed["title"], renamed.get("role")), (&json!("C"), None));
                admin.delete(&format!("/rooms/{room}")).await.expect(204);
                ada.get(&format!("/rooms/{room}")).await.refused(404, "not_found");
            }
        })
        .await;
}
