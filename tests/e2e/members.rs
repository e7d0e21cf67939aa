//! Joining, inviting, roles, leaving, removing.

use serde_json::{Value, json};
use tests::{
    api::{Answer, assert_keys},
    test_app::TestApp,
    user::{User, text},
};

async fn give(by: &User, room: &str, to: &User, role: &str) -> Answer {
    by.put(&format!("/rooms/{room}/members/{}", to.id), json!({"role": role})).await
}

async fn remove(by: &User, room: &str, whom: &User) -> Answer {
    by.delete(&format!("/rooms/{room}/members/{}", whom.id)).await
}

async fn members(by: &User, room: &str) -> Vec<(String, String)> {
    let list = by.get(&format!("/rooms/{room}/members")).await.expect(200);
    let members = list["members"].as_array().expect("a list").iter();
    members.map(|member| (text(&member["user"]["id"]), text(&member["role"]))).collect()
}

fn sorted<const N: usize>(members: [(&User, &str); N]) -> Vec<(String, String)> {
    let mut members = members.map(|(user, role)| (user.id.clone(), role.to_owned()));
    members.sort();
    members.into()
}

#[tokio::test]
async fn anybody_may_become_a_member_of_a_public_room_and_nothing_more() {
    TestApp::run(async |app| {
        let (ada, bob) = (app.user("Ada").await, app.user("Bob").await);
        let room = ada.make_public_room().await;
        for role in ["moderator", "owner"] {
            give(&bob, &room, &bob, role).await.refused(403, "forbidden");
        }
        let member = give(&bob, &room, &bob, "member").await.expect(200);
        let expected = json!({
            "user": {"id": bob.id, "first_name": "Bob", "last_name": "Tester"}, "role": "member",
        });
        assert_eq!(member, expected, "without the address, which is nobody else's business");
        give(&bob, &room, &bob, "member").await.expect(200);
        assert_eq!(members(&bob, &room).await, sorted([(&ada, "owner"), (&bob, "member")]));
        assert_eq!(bob.get(&format!("/rooms/{room}")).await.expect(200)["role"], "member");
        remove(&bob, &room, &bob).await.expect(204);
        assert_eq!(members(&bob, &room).await, sorted([(&ada, "owner")]));
        assert!(bob.get(&format!("/rooms/{room}")).await.expect(200).get("role").is_none());
    })
    .await;
}

#[tokio::test]
async fn members_are_listed_page_by_page() {
    TestApp::run(async |app| {
        let ada = app.user("Ada").await;
        let room = ada.make_public_room().await;
        for name in ["Bob", "Carol", "Dan", "Eve"] {
            let user = app.user(name).await;
            give(&user, &room, &user, "member").await.expect(200);
        }
        let all = members(&ada, &room).await;
        assert_eq!(all.len(), 5);
        let mut read = Vec::new();
        let mut after = String::new();
        loop {
            let page = ada.get(&format!("/rooms/{room}/members?limit=2{after}")).await.expect(200);
            assert_keys(&page, &["members"], &["next"]);
            read.extend(page["members"].as_array().expect("a list").iter().map(|m| text(&m["user"]["id"])));
            match page.get("next") {
                Some(next) => after = format!("&after={}", text(next)),
                None => break,
            }
        }
        assert_eq!(read, all.into_iter().map(|(id, _)| id).collect::<Vec<_>>());
        for query in ["limit=0", "limit=201"] {
            let answer = ada.get(&format!("/rooms/{room}/members?{query}")).await;
            assert_eq!(answer.invalid(), ["limit"]);
        }
        assert_eq!(ada.get(&format!("/rooms/{room}/members?after=bob")).await.invalid(), ["after"]);
    })
    .await;
}

#[tokio::test]
async fn a_private_room_is_entered_by_invitation() {
    TestApp::run(async |app| {
        let (ada, bob) = (app.user("Ada").await, app.user("Bob").await);
        let room = ada.make_private_room().await;
        give(&bob, &room, &bob, "member").await.refused(404, "not_found");
        give(&ada, &room, &bob, "member").await.expect(200);
        assert_eq!(bob.get(&format!("/rooms/{room}")).await.expect(200)["role"], "member");
        let (mut at_ada, mut at_bob) = (ada.join(&room).await, bob.join(&room).await);
        at_ada.send(&room, "Welcome to this private room").await;
        assert_eq!(at_bob.push().await["text"], "Welcome to this private room");
    })
    .await;
}

#[tokio::test]
async fn roles_give_the_power_that_they_say() {
    TestApp::run(async |app| {
        let owner = app.user("Owner").await;
        let (moderator, member) = (app.user("Moderator").await, app.user("Member").await);
        let (other, guest) = (app.user("Other").await, app.user("Guest").await);
        let room = owner.make_private_room().await;
        give(&owner, &room, &moderator, "moderator").await.expect(200);
        give(&owner, &room, &member, "member").await.expect(200);
        give(&owner, &room, &other, "moderator").await.expect(200);

        // A member invites nobody, removes nobody, raises nobody.
        give(&member, &room, &guest, "member").await.refused(403, "forbidden");
        remove(&member, &room, &moderator).await.refused(403, "forbidden");
        give(&member, &room, &member, "moderator").await.refused(403, "forbidden");
        // A moderator invites and removes members, and has no power over equals and owners.
        give(&moderator, &room, &guest, "member").await.expect(200);
        remove(&moderator, &room, &guest).await.expect(204);
        give(&moderator, &room, &guest, "moderator").await.refused(403, "forbidden");
        give(&moderator, &room, &member, "owner").await.refused(403, "forbidden");
        give(&moderator, &room, &other, "member").await.refused(403, "forbidden");
        remove(&moderator, &room, &other).await.refused(403, "forbidden");
        remove(&moderator, &room, &owner).await.refused(403, "forbidden");
        give(&moderator, &room, &moderator, "owner").await.refused(403, "forbidden");
        // One may step down, and not up again.
        give(&other, &room, &other, "member").await.expect(200);
        give(&other, &room, &other, "moderator").await.refused(403, "forbidden");
        // An owner does everything.
        give(&owner, &room, &member, "owner").await.expect(200);
        give(&owner, &room, &moderator, "member").await.expect(200);
        let expected =
            sorted([(&owner, "owner"), (&member, "owner"), (&moderator, "member"), (&other, "member")]);
        assert_eq!(members(&owner, &room).await, expected);
    })
    .await;
}

#[tokio::test]
async fn a_room_keeps_at_least_one_owner() {
    TestApp::run(async |app| {
        let (ada, bob) = (app.user("Ada").await, app.user("Bob").await);
        let room = ada.make_public_room().await;
        remove(&ada, &room, &ada).await.refused(409, "conflict");
        give(&ada, &room, &ada, "member").await.refused(409, "conflict");
        give(&ada, &room, &bob, "owner").await.expect(200);
        // Both step down at the same moment: one of them is told to stay.
        let (one, two) = tokio::join!(remove(&ada, &room, &ada), remove(&bob, &room, &bob));
        let mut statuses = [one.status.as_u16(), two.status.as_u16()];
        statuses.sort_unstable();
        assert_eq!(statuses, [204, 409]);
        assert_eq!(members(&ada, &room).await.len(), 1);
    })
    .await;
}

#[tokio::test]
async fn one_who_is_removed_hears_and_says_nothing_more_in_a_private_room() {
    TestApp::run(async |app| {
        let (ada, bob) = (app.user("Ada").await, app.user("Bob").await);
        let room = ada.make_private_room().await;
        give(&ada, &room, &bob, "member").await.expect(200);
        let (mut at_ada, mut at_bob) = (ada.join(&room).await, bob.join(&room).await);
        at_bob.send(&room, "I am still with you all").await;

        remove(&ada, &room, &bob).await.expect(204);
        at_ada.send(&room, "Now we are among ourselves").await;
        assert!(at_bob.pushed_before_now().await.is_empty());
        let frame = |action: &str| json!({"action": action, "room": room, "text": "Let me in, please"});
        at_bob.refused(frame("send"), "not_joined").await;
        at_bob.refused(frame("history"), "not_joined").await;
        at_bob.refused(frame("join"), "not_found").await;
        bob.get(&format!("/rooms/{room}/messages")).await.refused(404, "not_found");
        assert_eq!(ada.get(&format!("/rooms/{room}/online")).await.expect(200)["count"], 1);

        give(&ada, &room, &bob, "member").await.expect(200);
        at_bob.join(&room).await;
        at_bob.send(&room, "Thank you, I am back again").await;
    })
    .await;
}

#[tokio::test]
async fn leaving_that_lost_redis_half_way_can_be_repeated_until_it_is_done() {
    TestApp::run(async |app| {
        app.expect_failures();
        let (ada, bob) = (app.user("Ada").await, app.user("Bob").await);
        let room = ada.make_private_room().await;
        give(&ada, &room, &bob, "member").await.expect(200);
        let (mut at_ada, mut at_bob) = (ada.join(&room).await, bob.join(&room).await);

        app.redis.freeze().expect("Redis stands still");
        for _ in 0..2 {
            remove(&bob, &room, &bob).await.refused(503, "unavailable");
        }
        app.redis.thaw().expect("Redis goes on");
        assert_eq!(members(&ada, &room).await, sorted([(&ada, "owner")]));
        bob.get(&format!("/rooms/{room}")).await.refused(404, "not_found");
        remove(&bob, &room, &bob).await.expect(204);
        at_ada.send(&room, "Now we are among ourselves").await;
        assert!(at_bob.pushed_before_now().await.is_empty());
        // Whoever has wholly left is as much an outsider as anybody.
        remove(&bob, &room, &bob).await.refused(404, "not_found");
    })
    .await;
}

#[tokio::test]
async fn a_membership_that_makes_no_sense_is_refused() {
    TestApp::run(async |app| {
        let (ada, bob) = (app.user("Ada").await, app.user("Bob").await);
        let room = ada.make_public_room().await;
        let path = format!("/rooms/{room}/members/{}", bob.id);
        for body in [
            json!({}),
            json!({"role": 1}),
            json!({"role": ""}),
            json!({"role": "king"}),
            json!({"role": null}),
        ] {
            assert_eq!(ada.put(&path, body).await.invalid(), ["role"]);
        }
        let nobody = format!("/rooms/{room}/members/0197f3a2-0000-7000-8000-00000000000f");
        ada.put(&nobody, json!({"role": "member"})).await.refused(404, "not_found");
        ada.delete(&nobody).await.expect(204);
        for id in ["bob", "0", "%00", "0197f3a2-0000-7000-8000-00000000000"] {
            let path = format!("/rooms/{room}/members/{id}");
            for answer in [ada.put(&path, json!({"role": "member"})).await, ada.delete(&path).await] {
                let told: Value = answer.json();
                assert!(
                    ["validation_failed", "not_found"]
                        .contains(&told["error"]["code"].as_str().unwrap_or("")),
                    "{id}: {told}"
                );
            }
        }
        assert_eq!(members(&ada, &room).await, sorted([(&ada, "owner")]));
    })
    .await;
}
