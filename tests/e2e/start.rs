//! Starting and stopping: what a person at the terminal meets.

use std::process::Stdio;

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
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

fn setup() -> Setup {
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
    const GOOD: [(&str, &str); 3] = [
        ("DATABASE_URL", "postgres://nobody@127.0.0.1:9/nothing"),
        ("REDIS_URL", "redis://127.0.0.1:9"),
        ("CONNECTIONS_URL", "http://127.0.0.1:9/live"),
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
    for function in ["signup", "login", "rooms", "web", "authorize", "connect", "message", "disconnect"] {
        check(function, "REDIS_URL", None, "is not set").await;
        check(function, "REDIS_URL", Some("hunter2.example.com"), "must be a redis:// or rediss:// URL")
            .await;
        check(function, "REDIS_CLUSTER", Some("perhaps"), "must be true or false").await;
        check(function, "REDIS_CA_FILE", Some("/no/such/file"), "").await;
        check(function, "LOG_LEVEL", Some("chatty"), "must be trace, debug, info, warn or error").await;
        check(function, "LOG_FORMAT", Some("xml"), "must be json or text").await;
    }
    for function in ["signup", "login", "rooms", "authorize", "connect", "message"] {
        for days in ["0", "366", "-1", "a week", "7.5"] {
            check(function, "SESSION_DAYS", Some(days), "must be a whole number from 1 to 365").await;
        }
    }
    for function in ["login", "message"] {
        check(function, "CONNECTIONS_URL", None, "is not set").await;
        check(function, "CONNECTIONS_URL", Some("hunter2.example.com"), "must be an https:// URL").await;
        check(function, "PUSH_BUDGET_MS", Some("soon"), "must be a whole number from 1 to 20000").await;
    }
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

async fn sign_up(aws: &LocalAws, ledger: &Ledger) -> User {
    let api = Api::new(&aws.endpoints.http, ledger.clone());
    User::sign_up(&api, &aws.endpoints.websocket, "Ada").await
}

fn signal(aws: &LocalAws, signal: Signal) {
    let pid = aws.pid().expect("it runs").cast_signed();
    kill(Pid::from_raw(pid), signal).expect("it is ours");
}

async fn stop(aws: LocalAws) {
    assert!(aws.stop().await.expect("it stops").success());
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_stop_says_goodbye_to_open_sockets_and_leaves_no_process_behind() {
    let folder = tempfile::tempdir().expect("a folder can be made");
    let mut aws = setup().state(folder.path()).start().await.expect("it starts");
    let ada = sign_up(&aws, &Ledger::default()).await;
    let room = ada.make_public_room().await;
    let mut chat = ada.join(&room).await;
    let family = descendants(aws.pid().expect("it runs"));
    assert!(5 < family.len(), "Postgres, Redis and some functions: {family:?}");
    assert!(folder.path().join("endpoints.json").exists());

    signal(&aws, Signal::SIGINT);
    assert_eq!(chat.closed().await, 1001);
    assert!(aws.ended().await.expect("it ends").success());
    none_lives(&family).await;
    assert!(!folder.path().join("endpoints.json").exists());
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_killed_local_aws_leaves_no_process_behind_either() {
    let folder = tempfile::tempdir().expect("a folder can be made");
    let mut aws = setup().state(folder.path()).start().await.expect("it starts");
    sign_up(&aws, &Ledger::default()).await;
    let family = descendants(aws.pid().expect("it runs"));
    signal(&aws, Signal::SIGKILL);
    aws.ended().await.expect("it is dead");
    none_lives(&family).await;
    // And what it kept can be used again.
    stop(setup().state(folder.path()).start().await.expect("it starts again")).await;
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

async fn none_lives(family: &[Process]) {
    eventually("all its processes have ended", async || {
        let left: Vec<_> = family.iter().filter(|process| process.lives()).collect();
        if left.is_empty() { Ok(()) } else { Err(format!("{left:?}")) }
    })
    .await;
}

/// A process, which its id alone does not name for good.
#[derive(Debug)]
struct Process {
    pid: u32,
    started: String,
}

impl Process {
    fn lives(&self) -> bool {
        stat(self.pid).is_some_and(|(_, state, started)| state != "Z" && started == self.started)
    }
}

/// All processes that this one has started, and that those have started.
fn descendants(ancestor: u32) -> Vec<Process> {
    let processes = std::fs::read_dir("/proc").expect("this is Linux");
    let pids = processes.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let all: Vec<_> = pids.filter_map(|pid| Some((pid, stat(pid)?))).collect();
    let mut family = vec![ancestor];
    let mut next = 0;
    while let Some(&parent) = family.get(next) {
        family.extend(all.iter().filter(|(_, (of, ..))| *of == parent).map(|(pid, _)| *pid));
        next += 1;
    }
    let started = |pid: &u32| Some(Process { pid: *pid, started: stat(*pid)?.2 });
    family[1..].iter().filter_map(started).collect()
}

/// Parent, state and start of a process: `man 5 proc`.
fn stat(pid: u32) -> Option<(u32, String, String)> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, fields) = stat.rsplit_once(") ")?;
    let fields: Vec<_> = fields.split(' ').collect();
    Some((fields[1].parse().ok()?, fields[0].to_owned(), fields[19].to_owned()))
}
