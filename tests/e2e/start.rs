//! Starting and stopping: what a person at the terminal meets.

use std::process::Stdio;

use serde_json::json;
use tests::{
    api::{Api, PATIENCE},
    chat::texts_of,
    ledger::Ledger,
    local_aws::{LocalAws, Setup, target_dir, workspace_dir},
    test_app::eventually,
    user::User,
};
use tokio::{net::TcpListener, process::Command, time::timeout};

pub(crate) fn setup() -> Setup {
    Setup::new(workspace_dir().join("template.yaml"))
}

/// Starts one function with these variables and nobody to call it: what it says, and whether it ended well.
async fn start_function(name: &str, variables: &[(&str, &str)]) -> (String, bool) {
    let program = target_dir().expect("programs are built").join(name);
    let output = Command::new(program)
        .env_clear()
        .env("AWS_LAMBDA_FUNCTION_NAME", name)
        .env("AWS_LAMBDA_FUNCTION_VERSION", "1")
        .env("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "128")
        // Port 9 discards: nobody answers there, so a function that does start ends at once.
        .env("AWS_LAMBDA_RUNTIME_API", "127.0.0.1:9")
        .envs(variables.iter().copied())
        .stdin(Stdio::null())
        .output();
    let output = timeout(PATIENCE, output).await.expect("it ends").expect("it starts");
    let said = [output.stdout, output.stderr].concat();
    (String::from_utf8_lossy(&said).into_owned(), output.status.success())
}

#[tokio::test]
async fn a_variable_that_is_absent_or_bad_is_named_and_its_value_is_not_repeated() {
    const GOOD: [(&str, &str); 5] = [
        ("DATABASE_URL", "postgres://nobody@127.0.0.1:9/nothing"),
        ("REDIS_URL", "redis://127.0.0.1:9"),
        ("CONNECTIONS_URL", "http://127.0.0.1:9/live"),
        ("ARCHIVE_QUEUE_URL", "http://127.0.0.1:9/archive"),
        ("FANOUT_QUEUE_URL", "http://127.0.0.1:9/fanout"),
    ];
    let check = async |function: &str, variable: &str, value: Option<&str>, complaint: &str| {
        let mut variables: Vec<_> = GOOD.into_iter().filter(|(name, _)| *name != variable).collect();
        variables.extend(value.map(|value| (variable, value)));
        let (said, well) = start_function(function, &variables).await;
        let what = format!("{function} with {variable}={value:?} said: {said}");
        assert!(!well, "{what}");
        assert!(said.contains(&format!("{variable} {complaint}")), "{what}");
        assert!(!said.contains("hunter2"), "the value may be a secret: {what}");
    };
    for function in ["signup", "login", "rooms", "web", "authorize", "connect", "message"] {
        check(function, "DATABASE_URL", None, "is not set").await;
        check(function, "DATABASE_URL", Some(""), "is not set").await;
        check(function, "DATABASE_URL", Some("hunter2.example.com"), "must be a postgres:// URL").await;
    }
    let with_redis =
        ["signup", "login", "rooms", "web", "authorize", "connect", "message", "disconnect", "fanout"];
    for function in with_redis {
        check(function, "REDIS_URL", None, "is not set").await;
        check(function, "REDIS_URL", Some("hunter2.example.com"), "must be a redis:// or rediss:// URL")
            .await;
        check(function, "REDIS_CLUSTER", Some("perhaps"), "must be true or false").await;
        check(function, "REDIS_CA_FILE", Some("/no/such/file"), "cannot be read").await;
        check(function, "REDIS_CA_FILE", Some("/dev/null"), "holds no certificate").await;
        check(function, "LOG_LEVEL", Some("chatty"), "must be trace, debug, info, warn or error").await;
        check(function, "LOG_FORMAT", Some("xml"), "must be json or text").await;
    }
    for function in ["signup", "login", "rooms", "authorize", "connect", "message"] {
        for days in ["0", "366", "-1", "a week", "7.5"] {
            check(function, "SESSION_DAYS", Some(days), "must be a whole number from 1 to 365").await;
        }
    }
    for function in ["login", "message", "fanout"] {
        check(function, "CONNECTIONS_URL", None, "is not set").await;
        check(function, "CONNECTIONS_URL", Some("hunter2.example.com"), "must be an https:// URL").await;
        check(function, "CONNECTIONS_URL", Some("https://"), "must be an https:// URL").await;
        check(function, "PUSH_BUDGET_MS", Some("soon"), "must be a whole number from 1 to 10000").await;
    }
    for (function, queue) in
        [("message", "ARCHIVE_QUEUE_URL"), ("message", "FANOUT_QUEUE_URL"), ("fanout", "FANOUT_QUEUE_URL")]
    {
        check(function, queue, None, "is not set").await;
        check(function, queue, Some("hunter2.example.com"), "must be an https:// URL").await;
    }
    check("message", "FANOUT_DIRECT", Some("0"), "must be a whole number from 1 to 2000").await;
    check("connect", "MAX_CONNECTIONS_PER_USER", Some("0x"), "must be a whole number from 1 to 1000").await;
    check("rooms", "ROOM_CREATION", Some("everyone"), "must be anyone or admins").await;
    check("rooms", "ADMIN_USER_IDS", Some("ada@example.com"), "must be user ids, with commas").await;
}

#[tokio::test]
async fn a_function_that_cannot_start_fails_its_calls_and_says_why_in_the_log() {
    let aws =
        setup().variable("SESSION_DAYS", "soon").start().await.expect("the gateway starts all the same");
    let api = Api::new(&aws.endpoints.http, Ledger::default());
    let answer = api.post("/login", json!({})).await;
    assert_eq!((answer.status.as_u16(), answer.json()), (500, json!({"message": "Internal Server Error"})));
    api.get("/health").await.expect(200);
    eventually("the log names the variable", async || {
        let log = aws.log();
        if log.contains("SESSION_DAYS must be a whole number from 1 to 365") { Ok(()) } else { Err(log) }
    })
    .await;
    assert!(aws.stop().await.expect("it stops").success());
}

#[tokio::test]
async fn users_rooms_and_messages_are_there_again_after_a_stop() {
    let folder = tempfile::tempdir().expect("a folder can be made");
    let first = setup().state(folder.path()).start().await.expect("it starts");
    let ledger = Ledger::default();
    let ada = sign_up(&first, &ledger).await;
    let room = ada.make_public_room().await;
    let mut chat = ada.join(&room).await;
    let ack = chat.send(&room, "Until tomorrow, everybody").await;
    stop(first).await;

    let second = setup().state(folder.path()).start().await.expect("it starts again");
    let ada = ada.at(&second.endpoints.http, &second.endpoints.websocket);
    let read = ada.get(&format!("/rooms/{room}/messages")).await.expect(200);
    assert_eq!(read["messages"][0]["event"], ack["event"]);
    let mut chat = ada.log_in().await.connect().await;
    assert_eq!(texts_of(&chat.join(&room).await), ["Until tomorrow, everybody"]);
    chat.send(&room, "Good morning to you all").await;
    chat.close().await;
    stop(second).await;
}

pub(crate) async fn sign_up(aws: &LocalAws, ledger: &Ledger) -> User {
    let api = Api::new(&aws.endpoints.http, ledger.clone());
    User::sign_up(&api, &aws.endpoints.websocket, "Ada").await
}

pub(crate) async fn stop(aws: LocalAws) {
    assert!(aws.stop().await.expect("it stops").success());
}

#[tokio::test]
async fn a_taken_port_is_one_clear_line() {
    let taken = TcpListener::bind("127.0.0.1:0").await.expect("some port is free");
    let port = taken.local_addr().expect("it is bound").port().to_string();
    let folder = tempfile::tempdir().expect("a folder can be made");
    for (option, other) in [("--http-port", "--websocket-port"), ("--websocket-port", "--http-port")] {
        let local = Command::new(target_dir().expect("programs are built").join("local"))
            .args(["up", option, &port, other, "0", "--state"])
            .arg(folder.path())
            .current_dir(workspace_dir())
            .stdin(Stdio::null())
            .output();
        let output = timeout(PATIENCE, local).await.expect("it ends").expect("it starts");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success(), "{said}");
        let last = said.lines().last().unwrap_or_default();
        assert!(last.contains(&port) && last.contains(option), "not said: {said}");
        assert!(!said.contains("panicked"), "{said}");
    }
}
