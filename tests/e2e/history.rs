//! Reading back, by HTTP and by frame.

use serde_json::{Value, json};
use tests::{
    api::assert_keys,
    chat::{Chat, check_event, texts, texts_of},
    test_app::TestApp,
    user::{User, text},
};

async fn write(chat: &mut Chat, room: &str, count: usize) -> Vec<String> {
    let mut positions = Vec::new();
    for n in 0..count {
        positions.push(text(&chat.send(room, &n.to_string()).await["position"]));
    }
    positions
}

fn numbers(range: std::ops::Range<usize>) -> Vec<String> {
    range.map(|n| n.to_string()).collect()
}

async fn read(user: &User, room: &str, query: &str) -> Value {
    let page = user.get(&format!("/rooms/{room}/messages?{query}")).await.expect(200);
    assert_keys(&page, &["messages"], &["next", "previous"]);
    for message in page["messages"].as_array().expect("a list") {
        check_event(message);
    }
    page
}

fn read_texts(page: &Value) -> Vec<&str> {
    texts(page["messages"].as_array().expect("a list"))
}

#[tokio::test]
async fn a_room_in_which_nothing_was_written_has_an_empty_history() {
    TestApp::run(async |app| {
        let (room, (ada, mut at_ada), _) = app.two_in_a_room().await;
        for query in ["", "before=1-0", "after=0-0", "after=99999999999999-0", "before=0-0"] {
            assert_eq!(read(&ada, &room, query).await, json!({"messages": []}), "{query}");
        }
        let page = at_ada.ask(json!({"action": "history", "room": room})).await;
        assert_eq!((&page["events"], &page["more"]), (&json!([]), &json!(false)));
    })
    .await;
}

#[tokio::test]
async fn the_whole_conversation_is_read_back_page_by_page_in_both_directions() {
    TestApp::run(async |app| {
        let (room, (_, mut at_ada), (bob, _)) = app.two_in_a_room().await;
        let positions = write(&mut at_ada, &room, 60).await;

        let newest = read(&bob, &room, "").await;
        assert_eq!(read_texts(&newest), numbers(10..60));
        assert_eq!((newest.get("next"), &newest["previous"]), (None, &json!(positions[10])));
        let older = read(&bob, &room, &format!("before={}&limit=7", positions[10])).await;
        assert_eq!(read_texts(&older), numbers(3..10));
        assert_eq!((&older["next"], &older["previous"]), (&json!(positions[9]), &json!(positions[3])));
        let oldest = read(&bob, &room, &format!("before={}", text(&older["previous"]))).await;
        assert_eq!(read_texts(&oldest), numbers(0..3));
        assert_eq!((&oldest["next"], oldest.get("previous")), (&json!(positions[2]), None));

        let mut all = Vec::new();
        let mut after = "0-0".to_owned();
        loop {
            let page = read(&bob, &room, &format!("after={after}&limit=25")).await;
            all.extend(read_texts(&page).into_iter().map(str::to_owned));
            match page.get("next") {
                Some(next) => after = text(next),
                None => break,
            }
        }
        assert_eq!(all, numbers(0..60));
    })
    .await;
}

#[tokio::test]
async fn frames_read_the_same_history() {
    TestApp::run(async |app| {
        let (room, (_, mut at_ada), (bob, mut at_bob)) = app.two_in_a_room().await;
        let positions = write(&mut at_ada, &room, 60).await;
        let mut check = async |options: Value, query: String, more: bool| {
            let mut frame = json!({"action": "history", "room": room});
            frame.as_object_mut().expect("an object").extend(options.as_object().expect("an object").clone());
            let page = at_bob.ask(frame).await;
            assert_eq!(page["events"], read(&bob, &room, &query).await["messages"], "{query}");
            assert_eq!(page["more"], more, "{query}");
        };
        let [third, tenth] = [&positions[3], &positions[10]];
        check(json!({}), String::new(), true).await;
        check(json!({"limit": 60}), "limit=60".into(), false).await;
        check(json!({"limit": 200}), "limit=200".into(), false).await;
        check(json!({"before": tenth, "limit": 7}), format!("before={tenth}&limit=7"), true).await;
        check(json!({"before": third}), format!("before={third}"), false).await;
        check(json!({"after": tenth, "limit": 7}), format!("after={tenth}&limit=7"), true).await;
        check(json!({"after": tenth}), format!("after={tenth}"), false).await;
        check(json!({"after": "0-0"}), "after=0-0".into(), true).await;
        check(json!({"after": positions[59]}), format!("after={}", positions[59]), false).await;
    })
    .await;
}

#[tokio::test]
async fn a_cursor_or_a_limit_that_is_none_is_refused() {
    TestApp::run(async |app| {
        let (room, (ada, mut at_ada), _) = app.two_in_a_room().await;
        for (field, value) in [
            ("before", "soon"),
            ("after", "1"),
            ("after", "-1-0"),
            ("after", "1-0-0"),
            ("after", "18446744073709551616-0"),
            ("limit", "0"),
            ("limit", "201"),
            ("limit", "1.5"),
        ] {
            let answer = ada.get(&format!("/rooms/{room}/messages?{field}={value}")).await;
            assert_eq!(answer.invalid(), [field], "{field}={value}");
            let value = serde_json::from_str(value).unwrap_or_else(|_| json!(value));
            let frame = json!({"action": "history", "room": room, field: value});
            assert_eq!(at_ada.invalid(frame).await, [field]);
        }
        let both = ada.get(&format!("/rooms/{room}/messages?before=2-0&after=1-0")).await;
        assert_eq!(both.invalid().len(), 1);
        let both = json!({"action": "history", "room": room, "before": "2-0", "after": "1-0"});
        assert_eq!(at_ada.invalid(both).await.len(), 1);
    })
    .await;
}

#[tokio::test]
async fn a_page_that_is_too_large_for_a_frame_is_cut_and_says_so() {
    TestApp::run(async |app| {
        let (room, (_, mut at_ada), (bob, _)) = app.two_in_a_room().await;
        // Some 16,300 bytes each: five of them fit into 96 KiB.
        for n in 0..14 {
            let longest: String =
                char::from_digit(n, 36).into_iter().chain("😀".repeat(3_999).chars()).collect();
            at_ada.send(&room, &longest).await;
        }
        let firsts = |reply: &Value| -> String {
            texts_of(reply).iter().filter_map(|text| text.chars().next()).collect()
        };
        let mut chat = bob.connect().await;
        let newest = chat.join(&room).await;
        assert_eq!(
            (firsts(&newest).as_str(), &newest["more"]),
            ("9abcd", &json!(true)),
            "the nearest to now"
        );

        let mut all = String::new();
        let mut page = chat.join_after(&room, "0-0").await;
        loop {
            assert!(page.to_string().len() <= 96 * 1024, "a reply of {} bytes", page.to_string().len());
            all.push_str(&firsts(&page));
            if page["more"] == false {
                break;
            }
            let last = page["events"].as_array().and_then(|events| events.last()).expect("a page has events");
            page = chat.history_after(&room, &text(&last["position"])).await;
        }
        assert_eq!(all, "0123456789abcd");
    })
    .await;
}

#[tokio::test]
async fn who_is_online_is_told_once_for_each_person() {
    TestApp::run(async |app| {
        let (room, (ada, _at_ada), (bob, _at_bob)) = app.two_in_a_room().await;
        let _twice = bob.join(&room).await;
        let online = ada.get(&format!("/rooms/{room}/online")).await.expect(200);
        let expected = json!({
            "users": [{"id": ada.id, "name": "Ada Tester"}, {"id": bob.id, "name": "Bob Tester"}], "count": 2,
        });
        assert_eq!(online, expected);
    })
    .await;
}
