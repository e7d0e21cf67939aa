//! The binary: a command with a server beside it.

use crate::{eventually, is_running, send};
use nix::sys::signal::Signal;
use std::{
    path::{Path, PathBuf},
    process::Stdio,
};
use tokio::{
    io::{AsyncBufReadExt, BufReader, Lines},
    process::{Child, ChildStdout, Command},
};

fn servers(with: &str, script: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_servers"));
    // As from a shell: an own process group, and no terminal.
    command.args([with, "--", "sh", "-c", script]).process_group(0).stdin(Stdio::piped()).kill_on_drop(true);
    command
}

/// Starts a script that says where its server is, and what else it has to say.
async fn start(with: &str, script: &str) -> (Child, String, Lines<BufReader<ChildStdout>>) {
    let script = format!("echo \"$TEST_POSTGRES_URL$TEST_REDIS_URL\"; {script}");
    let mut child = servers(with, &script).stdout(Stdio::piped()).spawn().expect("servers starts");
    let mut lines = BufReader::new(child.stdout.take().expect("it is piped")).lines();
    let url = lines.next_line().await.expect("reads").expect("a URL");
    (child, url, lines)
}

fn pid(child: &Child) -> u32 {
    child.id().expect("it runs")
}

/// The folder of a temporary Postgres, and its process.
fn postgres_of(url: &str) -> (PathBuf, u32) {
    let (_, folder) = url.split_once("?host=").expect("a socket's folder");
    let file = std::fs::read_to_string(Path::new(folder).join("data/postmaster.pid")).expect("it runs");
    (folder.into(), file.lines().next().and_then(|line| line.parse().ok()).expect("a process id"))
}

#[tokio::test]
async fn the_command_finds_the_server_and_its_programs_and_its_status_is_passed_on() {
    let script = r#"test "$(psql --no-psqlrc --tuples-only --no-align --command 'select 6 * 7' "$TEST_POSTGRES_URL")" = 42 && exit 7"#;
    let status = servers("with-postgres", script).status().await.expect("servers runs");
    assert_eq!(status.code(), Some(7));

    let script = r#"test "$(redis-cli -u "$TEST_REDIS_URL" --no-auth-warning ping)" = PONG && exit 8"#;
    let status = servers("with-redis", script).status().await.expect("servers runs");
    assert_eq!(status.code(), Some(8));
}

#[tokio::test]
async fn a_command_that_was_killed_gives_the_status_a_shell_gives() {
    let status = servers("with-redis", "kill -KILL $$").status().await.expect("servers runs");
    assert_eq!(status.code(), Some(128 + 9));
}

#[tokio::test]
async fn a_command_that_does_not_exist_is_named() {
    let output =
        Command::new(env!("CARGO_BIN_EXE_servers")).args(["with-redis", "--", "no-such-command"]).output();
    let output = output.await.expect("servers runs");
    assert_eq!(output.status.code(), Some(1));
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(message.starts_with("servers: starting no-such-command: "), "{message}");
    assert_eq!(message.lines().count(), 1, "{message}");
}

#[tokio::test]
async fn signals_are_passed_on_and_the_server_stays_until_the_command_has_ended() {
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        let name = signal.as_str().trim_start_matches("SIG");
        let script = format!(
            "trap 'psql --quiet --tuples-only --no-align --command \"select 42\" \"$TEST_POSTGRES_URL\"; exit 5' {name}
             echo ready; while :; do sleep 0.01; done"
        );
        let (mut child, url, mut lines) = start("with-postgres", &script).await;
        let (folder, server) = postgres_of(&url);
        assert_eq!(lines.next_line().await.expect("reads").as_deref(), Some("ready"));
        send(pid(&child), signal);
        assert_eq!(lines.next_line().await.expect("reads").as_deref(), Some("42"), "{name}");
        assert_eq!(child.wait().await.expect("ends").code(), Some(5), "{name}");
        assert!(!is_running(server), "the server was stopped first");
        eventually("its folder is removed", async || !folder.exists()).await;
    }
}

#[tokio::test]
async fn a_killed_owner_leaves_nothing_behind() {
    let (mut child, url, _) = start("with-postgres", "exec cat").await;
    let (folder, server) = postgres_of(&url);
    send(pid(&child), Signal::SIGKILL);
    child.wait().await.expect("ends");
    eventually("the server ends", async || !is_running(server)).await;
    eventually("its folder is removed", async || !folder.exists()).await;
}

#[tokio::test]
async fn a_killed_owner_leaves_nothing_behind_even_of_a_frozen_server() {
    let (mut child, url, _) = start("with-postgres", "exec cat").await;
    let (folder, server) = postgres_of(&url);
    send(server, Signal::SIGSTOP);
    send(pid(&child), Signal::SIGKILL);
    child.wait().await.expect("ends");
    eventually("the server ends", async || !is_running(server)).await;
    eventually("its folder is removed", async || !folder.exists()).await;
}

#[tokio::test]
async fn a_killed_owner_leaves_no_redis_behind() {
    let (mut child, url, _) = start("with-redis", "exec cat").await;
    let port = url.rsplit_once(':').and_then(|(_, port)| port.parse::<u16>().ok()).expect("a port");
    send(pid(&child), Signal::SIGKILL);
    child.wait().await.expect("ends");
    let refused = async || tokio::net::TcpStream::connect(("127.0.0.1", port)).await.is_err();
    eventually("nobody listens there", refused).await;
}
