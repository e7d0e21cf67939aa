//! Sign-up, log-in, the account.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tests::{
    api::{Answer, assert_keys},
    chat::check_time,
    test_app::TestApp,
    user::text,
};

fn valid_sign_up() -> Value {
    json!({
        "first_name": "Ada", "last_name": "Lovelace", "email": "ada@example.com",
        "password": "violet-kettle-orbit-42",
    })
}

fn with(field: &str, value: impl Into<Value>) -> Value {
    let mut body = valid_sign_up();
    body[field] = value.into();
    body
}

#[track_caller]
fn check_session(answer: &Value) {
    assert_keys(answer, &["user", "token", "expires_at"], &[]);
    assert_keys(&answer["user"], &["id", "first_name", "last_name", "email", "created_at"], &[]);
    check_time(&answer["expires_at"]);
    check_time(&answer["user"]["created_at"]);
    assert_eq!(text(&answer["token"]).len(), 43, "256 bits in base64url");
}

#[tokio::test]
async fn a_sign_up_opens_a_session_and_a_log_in_another_one() {
    TestApp::run(async |app| {
        let signed_up = app.api.post("/signup", valid_sign_up()).await.expect(201);
        check_session(&signed_up);
        let user = &signed_up["user"];
        assert_eq!((&user["first_name"], &user["last_name"]), (&json!("Ada"), &json!("Lovelace")));
        assert_eq!(user["email"], "ada@example.com");

        for email in ["ada@example.com", "ADA@Example.COM", " ada@example.com "] {
            let body = json!({"email": email, "password": "violet-kettle-orbit-42"});
            let logged_in = app.api.post("/login", body).await.expect(200);
            check_session(&logged_in);
            assert_eq!(&logged_in["user"], user);
            assert_ne!(logged_in["token"], signed_up["token"]);
        }
    })
    .await;
}

#[tokio::test]
async fn names_are_kept_as_people_write_them() {
    TestApp::run(async |app| {
        let mut body = valid_sign_up();
        body["first_name"] = json!("  Zoe\u{308} ");
        body["last_name"] = json!("O'Neill-名 🦀");
        let user = app.api.post("/signup", body).await.expect(201)["user"].take();
        assert_eq!((&user["first_name"], &user["last_name"]), (&json!("Zoë"), &json!("O'Neill-名 🦀")));
    })
    .await;
}

#[tokio::test]
async fn an_address_signs_up_once_whatever_its_case() {
    TestApp::run(async |app| {
        app.api.post("/signup", valid_sign_up()).await.expect(201);
        app.api.post("/signup", valid_sign_up()).await.refused(409, "conflict");
        app.api.post("/signup", with("email", "Ada@EXAMPLE.com")).await.refused(409, "conflict");
    })
    .await;
}

#[tokio::test]
async fn two_sign_ups_of_one_address_at_the_same_time_make_one_account() {
    TestApp::run(async |app| {
        let (one, two) =
            tokio::join!(app.api.post("/signup", valid_sign_up()), app.api.post("/signup", valid_sign_up()));
        let mut statuses = [one.status.as_u16(), two.status.as_u16()];
        statuses.sort_unstable();
        assert_eq!(statuses, [201, 409]);
    })
    .await;
}

#[tokio::test]
async fn a_sign_up_names_every_bad_field_and_makes_no_account() {
    TestApp::run(async |app| {
        let check = async |body: Value, expected: &[&str]| {
            let named = app.api.post("/signup", body.clone()).await.invalid();
            assert_eq!(named, expected, "{body}");
        };
        check(json!({}), &["email", "first_name", "last_name", "password"]).await;
        check(
            json!({"first_name": 1, "last_name": [], "email": {}, "password": null}),
            &["email", "first_name", "last_name", "password"],
        )
        .await;
        for name in ["", "  ", "a\u{0}b", "a\nb", "a\u{202}\u{7f}", &"x".repeat(101)] {
            check(with("first_name", name), &["first_name"]).await;
            check(with("last_name", name), &["last_name"]).await;
        }
        let long = format!("{}@example.com", "a".repeat(250));
        for email in ["", "ada", "ada@", "@example.com", "a b@example.com", "ada@\u{0}.com", &long] {
            check(with("email", email), &["email"]).await;
        }
        app.api.post("/signup", valid_sign_up()).await.expect(201);
    })
    .await;
}

#[tokio::test]
async fn a_weak_password_is_refused_with_a_reason() {
    TestApp::run(async |app| {
        for weak in [
            "short-1",
            "password123",
            "3141592653",
            "aaaaaaaaaaaa",
            "qwertyuiop",
            "AdaLovelace",
            "ada@example.com",
            &"x7-".repeat(43),
        ] {
            let answer = app.api.post("/signup", with("password", weak)).await;
            assert_eq!(answer.invalid(), ["password"], "{weak}");
            assert!(!answer.body.contains(weak), "the answer repeats it: {}", answer.body);
        }
    })
    .await;
}

#[tokio::test]
async fn a_failed_log_in_does_not_tell_whether_the_address_is_known() {
    TestApp::run(async |app| {
        let ada = app.user("Ada").await;
        let try_with = async |email: &str, password: &str| -> Answer {
            app.api.post("/login", json!({"email": email, "password": password})).await
        };
        let wrong_password = try_with(&ada.email, "violet-kettle-orbit-42").await;
        let unknown_address = try_with("nobody@example.com", "violet-kettle-orbit-42").await;
        wrong_password.refused(401, "unauthorized");
        assert_eq!(wrong_password.appearance(), unknown_address.appearance());
        assert_eq!(app.api.post("/login", json!({})).await.invalid(), ["email", "password"]);
    })
    .await;
}

#[tokio::test]
async fn a_failed_log_in_takes_as_long_whether_the_address_is_known_or_not() {
    TestApp::run(async |app| {
        let ada = app.user("Ada").await;
        let quickest = async |email: &str| {
            let body = json!({"email": email, "password": "violet-kettle-orbit-42"});
            let mut quickest = Duration::MAX;
            for _ in 0..7 {
                let asked = Instant::now();
                app.api.post("/login", body.clone()).await.refused(401, "unauthorized");
                quickest = quickest.min(asked.elapsed());
            }
            quickest
        };
        // A hash takes some tens of milliseconds, everything else one or two; the quickest of several is hardly disturbed.
        let (known, unknown) = (quickest(&ada.email).await, quickest("nobody@example.com").await);
        assert!(known < unknown * 2 && unknown < known * 2, "known {known:?}, unknown {unknown:?}");
    })
    .await;
}

#[tokio::test]
async fn the_account_is_read_and_changed_by_its_owner() {
    TestApp::run(async |app| {
        let ada = app.user("Ada").await;
        let account = ada.get("/me").await.expect(200);
        assert_eq!((&account["id"], &account["email"]), (&json!(ada.id), &json!(ada.email)));
        assert_keys(&account, &["id", "first_name", "last_name", "email", "created_at"], &[]);

        let changed = ada.patch("/me", json!({"first_name": "Augusta"})).await.expect(200);
        assert_eq!((&changed["first_name"], &changed["last_name"]), (&json!("Augusta"), &json!("Tester")));
        let changed =
            ada.patch("/me", json!({"last_name": "King", "email": "x@example.com"})).await.expect(200);
        assert_eq!((&changed["first_name"], &changed["last_name"]), (&json!("Augusta"), &json!("King")));
        assert_eq!(ada.get("/me").await.expect(200), changed);
        assert_eq!(changed["email"], ada.email, "an address is not changed by this call");

        assert_eq!(ada.patch("/me", json!({})).await.expect(200), changed);
        assert_eq!(
            ada.patch("/me", json!({"first_name": "", "last_name": "Byron"})).await.invalid(),
            ["first_name"]
        );
        assert_eq!(ada.get("/me").await.expect(200), changed, "a refused change changes nothing");
    })
    .await;
}

#[tokio::test]
async fn a_new_name_is_shown_to_others_from_the_next_connection_on() {
    TestApp::run(async |app| {
        let (room, (ada, _at_ada), (_, mut at_bob)) = app.two_in_a_room().await;
        ada.patch("/me", json!({"first_name": "Augusta"})).await.expect(200);
        ada.join(&room).await.send(&room, "Call me Augusta from now on").await;
        assert_eq!(at_bob.push().await["from"]["name"], "Augusta Tester");
    })
    .await;
}

#[tokio::test]
async fn a_password_is_changed_by_one_who_knows_it() {
    TestApp::run(async |app| {
        let ada = app.user("Ada").await;
        let change = async |current: &str, new: &str| {
            ada.post("/me/password", json!({"current": current, "new": new})).await
        };
        let new = "amber-lantern-drift-7719";
        app.ledger().secret(new);
        change("not-the-right-one-at-all", new).await.refused(403, "forbidden");
        assert_eq!(change(&ada.password, "password123").await.invalid(), ["new"]);
        assert_eq!(ada.post("/me/password", json!({})).await.invalid(), ["current", "new"]);
        change(&ada.password, new).await.expect(204);

        let log_in = async |password: &str| {
            app.api.post("/login", json!({"email": ada.email, "password": password})).await
        };
        log_in(&ada.password).await.refused(401, "unauthorized");
        log_in(new).await.expect(200);
        ada.get("/me").await.expect(200);
    })
    .await;
}

#[tokio::test]
async fn the_service_says_how_it_is_and_what_it_can() {
    TestApp::run(async |app| {
        assert_eq!(app.api.get("/health").await.expect(200), json!({"postgres": "ok", "redis": "ok"}));
        let description = app.api.get("/openapi.json").await.expect(200);
        assert!(text(&description["openapi"]).starts_with("3."), "{}", description["openapi"]);
        for path in ["/signup", "/login", "/rooms/{room}/messages", "/health"] {
            assert!(description["paths"].get(path).is_some(), "{path} is not described");
        }
    })
    .await;
}
