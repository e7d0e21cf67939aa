use crate::{eventually, is_gone, is_running, send};
use nix::sys::signal::Signal;
use redis::{AsyncCommands, Client, TlsCertificates, aio::MultiplexedConnection};
use servers::{Error, Redis, RedisOptions};
use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

async fn start(options: RedisOptions) -> Redis {
    Redis::start(options).await.expect("Redis starts")
}

fn kept(data: &Path) -> RedisOptions {
    RedisOptions { data: Some(data.to_owned()), append_only: true, ..RedisOptions::default() }
}

async fn connect(server: &Redis) -> MultiplexedConnection {
    let client = Client::open(server.url()).expect("a URL");
    client.get_multiplexed_async_connection().await.expect("Redis answers")
}

async fn write(server: &Redis, number: i32) {
    let () = connect(server).await.rpush("kept", number).await.expect("writes");
}

async fn read(server: &Redis) -> Vec<i32> {
    connect(server).await.lrange("kept", 0, -1).await.expect("reads")
}

fn folder(server: &Redis) -> PathBuf {
    server.log().parent().expect("the log is in a folder").to_owned()
}

#[tokio::test]
async fn a_temporary_server_answers_and_leaves_nothing_behind() {
    let server = start(RedisOptions::default()).await;
    let (pid, folder) = (server.pid().expect("it runs"), folder(&server));
    assert!(is_running(pid) && folder.exists());
    write(&server, 1).await;
    assert_eq!(read(&server).await, [1]);
    drop(server);
    is_gone(pid, &folder).await;
}

#[tokio::test]
async fn nobody_without_the_password_is_answered() {
    let server = start(RedisOptions::default()).await;
    let (_, address) =
        server.url().rsplit_once('@').map(|(_, host)| ((), host.to_owned())).expect("it has a password");
    let client = Client::open(format!("redis://{address}")).expect("a URL");
    let mut stranger = client.get_multiplexed_async_connection().await.expect("the port is open");
    let refused = stranger.get::<_, Option<String>>("kept").await.expect_err("a password is needed");
    assert_eq!(refused.code(), Some("NOAUTH"), "{refused}");
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn nobody_can_read_the_password_from_the_list_of_processes() {
    let server = start(RedisOptions::default()).await;
    let url = server.url();
    let password = url.split(['@', ':']).nth(2).expect("it has a password");
    let arguments = fs::read(format!("/proc/{}/cmdline", server.pid().expect("it runs"))).expect("it runs");
    let arguments = String::from_utf8_lossy(&arguments);
    assert!(arguments.contains("redis-server") && !arguments.contains(password), "{arguments}");
}

#[tokio::test]
async fn with_an_append_only_file_a_stopped_server_comes_back_at_the_same_url_with_its_data() {
    let mut server = start(RedisOptions { append_only: true, ..RedisOptions::default() }).await;
    let url = server.url();
    write(&server, 1).await;
    server.stop().await.expect("stops");
    assert_eq!(server.pid(), None);
    Client::open(url.clone())
        .expect("a URL")
        .get_multiplexed_async_connection()
        .await
        .expect_err("nobody answers");
    server.resume().await.expect("comes back");
    assert_eq!(server.url(), url);
    assert_eq!(read(&server).await, [1]);
}

#[tokio::test]
async fn without_one_a_killed_server_comes_back_empty() {
    let mut server = start(RedisOptions::default()).await;
    write(&server, 1).await;
    server.kill().await.expect("dies");
    server.resume().await.expect("comes back");
    assert_eq!(read(&server).await, Vec::<i32>::new());
}

#[tokio::test]
async fn an_emptied_server_has_forgotten_everything_and_is_where_it_was() {
    let data = tempfile::tempdir().expect("a folder");
    let mut server = start(kept(&data.path().join("redis"))).await;
    let url = server.url();
    write(&server, 1).await;
    server.restart_empty().await.expect("starts anew");
    assert_eq!(server.url(), url);
    assert_eq!(read(&server).await, Vec::<i32>::new());
    write(&server, 2).await;
    server.stop().await.expect("stops");
    server.resume().await.expect("comes back");
    assert_eq!(read(&server).await, [2]);
}

/// Both ways of keeping data: in memory only, and in an append-only file.
fn both_kinds() -> [RedisOptions; 2] {
    [false, true].map(|append_only| RedisOptions { append_only, ..RedisOptions::default() })
}

#[tokio::test]
async fn a_server_that_restarts_from_a_snapshot_knows_what_it_knew_then_and_nothing_newer() {
    for options in both_kinds() {
        let mut server = start(options).await;
        let url = server.url();
        write(&server, 1).await;
        write(&server, 2).await;
        let snapshot = server.snapshot().await.expect("is kept aside");
        write(&server, 3).await;
        assert_eq!(read(&server).await, [1, 2, 3], "a snapshot changes nothing");
        server.restart_from(&snapshot).await.expect("comes back");
        assert_eq!(server.url(), url);
        assert_eq!(read(&server).await, [1, 2]);

        // Again, after it was killed by somebody else and has written other things.
        write(&server, 4).await;
        server.kill().await.expect("dies");
        server.restart_from(&snapshot).await.expect("comes back");
        assert_eq!(read(&server).await, [1, 2]);
        server.restart_empty().await.expect("starts anew");
        assert_eq!(read(&server).await, Vec::<i32>::new());
    }
}

#[tokio::test]
async fn with_an_append_only_file_what_came_after_a_restart_from_a_snapshot_is_kept() {
    let mut server = start(RedisOptions { append_only: true, ..RedisOptions::default() }).await;
    write(&server, 1).await;
    let snapshot = server.snapshot().await.expect("is kept aside");
    server.restart_from(&snapshot).await.expect("comes back");
    write(&server, 2).await;
    server.stop().await.expect("stops");
    server.resume().await.expect("comes back");
    assert_eq!(read(&server).await, [1, 2]);
}

#[tokio::test]
async fn without_one_a_server_that_took_a_snapshot_or_came_from_one_still_comes_back_empty() {
    let mut server = start(RedisOptions::default()).await;
    write(&server, 1).await;
    let snapshot = server.snapshot().await.expect("is kept aside");
    for _ in 0..2 {
        server.kill().await.expect("dies");
        server.resume().await.expect("comes back");
        assert_eq!(read(&server).await, Vec::<i32>::new());
        server.restart_from(&snapshot).await.expect("comes back");
        assert_eq!(read(&server).await, [1]);
    }
}

#[tokio::test]
async fn a_server_that_is_not_running_has_no_snapshot() {
    let mut server = start(RedisOptions::default()).await;
    server.kill().await.expect("dies");
    let refused = server.snapshot().await.expect_err("it is dead").to_string();
    assert!(refused.starts_with("redis-server did not do SAVE: "), "{refused}");
}

#[tokio::test]
async fn stopping_and_resuming_twice_is_doing_it_once() {
    let mut server = start(RedisOptions::default()).await;
    let pid = server.pid();
    server.resume().await.expect("is running");
    assert_eq!(server.pid(), pid);
    server.stop().await.expect("stops");
    server.stop().await.expect("is stopped");
    server.kill().await.expect("is stopped");
    assert!(matches!(server.thaw(), Err(Error::NotRunning("redis-server"))));
}

#[tokio::test]
async fn a_server_that_died_by_itself_can_be_resumed() {
    let mut server = start(RedisOptions::default()).await;
    let pid = server.pid().expect("it runs");
    send(pid, Signal::SIGKILL);
    eventually("another one runs", async || {
        server.resume().await.expect("comes back");
        server.pid() != Some(pid)
    })
    .await;
    write(&server, 1).await;
}

#[tokio::test]
async fn who_waits_for_the_end_of_a_server_is_told_of_it_with_its_last_words() {
    let mut server = start(RedisOptions::default()).await;
    let pid = server.pid().expect("it runs");
    {
        let end = server.ended();
        tokio::pin!(end);
        tokio::time::timeout(Duration::from_millis(50), &mut end).await.expect_err("it runs");
        send(pid, Signal::SIGTERM);
        let end = end.await.to_string();
        assert!(end.starts_with("redis-server ended: exit status: 0\n"), "{end}");
        assert!(end.contains("Received SIGTERM"), "{end}");
    }
    server.stop().await.expect("has ended");
    assert!(matches!(server.ended().await, Error::NotRunning("redis-server")));
}

#[tokio::test]
async fn a_frozen_server_says_nothing_until_it_thaws() {
    let mut server = start(RedisOptions::default()).await;
    let mut connection = connect(&server).await;
    server.freeze().expect("freezes");
    {
        let asking = connection.get::<_, Option<String>>("kept");
        tokio::pin!(asking);
        tokio::time::timeout(Duration::from_millis(300), &mut asking).await.expect_err("it is not answered");
        server.thaw().expect("thaws");
        assert_eq!(asking.await.expect("the same question is answered"), None);
    }
    server.freeze().expect("freezes");
    server.stop().await.expect("a frozen server can be stopped");
}

#[tokio::test]
async fn kept_data_is_there_in_the_next_life_and_has_one_server_at_a_time() {
    let data = tempfile::tempdir().expect("a folder");
    let home = data.path().join("redis");
    let mut server = start(kept(&home)).await;
    write(&server, 1).await;
    let refused = Redis::start(kept(&home)).await.expect_err("the data is taken");
    assert!(matches!(refused, Error::InUse { .. }), "{refused:?}");
    server.stop().await.expect("stops");
    drop(server);

    let server = start(kept(&home)).await;
    write(&server, 2).await;
    // No orderly end this time.
    drop(server);
    assert_eq!(read(&start(kept(&home)).await).await, [1, 2]);
}

#[tokio::test]
async fn servers_run_side_by_side() {
    let (one, other) = tokio::join!(start(RedisOptions::default()), start(RedisOptions::default()));
    write(&one, 1).await;
    write(&other, 2).await;
    assert_eq!(read(&one).await, [1]);
    assert_eq!(read(&other).await, [2]);
}

#[tokio::test]
async fn tls_is_trusted_by_who_has_the_authority_and_by_nobody_else() {
    let server = start(RedisOptions { tls: true, ..RedisOptions::default() }).await;
    assert!(server.url().starts_with("rediss://"), "{}", server.url());
    let authority = fs::read(server.ca_file().expect("it speaks TLS")).expect("the authority's certificate");

    let certificates = TlsCertificates { client_tls: None, root_cert: Some(authority) };
    let client = Client::build_with_tls(server.url(), certificates).expect("a URL and a certificate");
    let mut connection = client.get_multiplexed_async_connection().await.expect("is trusted");
    let () = connection.set("key", "value").await.expect("writes");

    let stranger = Client::open(server.url()).expect("a URL");
    let refused = stranger.get_multiplexed_async_connection().await.expect_err("is not trusted");
    assert!(refused.to_string().contains("certificate"), "{refused}");

    let plain = Client::open(server.url().replace("rediss://", "redis://")).expect("a URL");
    plain.get_multiplexed_async_connection().await.expect_err("it speaks TLS only");
}

#[tokio::test]
async fn a_missing_program_is_one_line_with_the_command_that_installs_it() {
    let nothing = tempfile::tempdir().expect("a folder");
    let options = RedisOptions { programs: Some(nothing.path().to_owned()), ..RedisOptions::default() };
    let missing = Redis::start(options).await.expect_err("there is no Redis").to_string();
    assert!(missing.starts_with("redis-server is not installed: run `"), "{missing}");
    assert!(missing.contains("install redis"), "{missing}");
    assert_eq!(missing.lines().count(), 1, "{missing}");
}

#[tokio::test]
async fn a_redis_that_is_too_old_is_refused_in_one_line() {
    use std::os::unix::fs::PermissionsExt;
    let programs = tempfile::tempdir().expect("a folder");
    let program = programs.path().join("redis-server");
    fs::write(
        &program,
        "#!/bin/sh\necho 'Redis server v=6.0.16 sha=00000000:0 malloc=jemalloc-5.2.1 bits=64'\n",
    )
    .expect("a file");
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("its mode");
    let options = RedisOptions { programs: Some(programs.path().to_owned()), ..RedisOptions::default() };
    let refused = Redis::start(options).await.expect_err("6 is too old");
    let refused = refused.to_string();
    assert!(refused.starts_with("redis-server 6.0.16 is too old: 7 or later is needed; "), "{refused}");
    assert_eq!(refused.lines().count(), 1, "{refused}");
}

#[tokio::test]
async fn a_server_that_does_not_start_says_why_in_its_own_words() {
    let data = tempfile::tempdir().expect("a folder");
    let home = data.path().join("redis");
    let mut server = start(kept(&home)).await;
    write(&server, 1).await;
    server.stop().await.expect("stops");
    fs::remove_file(home.join("data/appendonlydir/appendonly.aof.1.base.rdb")).expect("the file is there");
    let refused = server.resume().await.expect_err("its data is broken").to_string();
    assert!(refused.starts_with("redis-server did not start: exit status: 1"), "{refused}");
    assert!(refused.contains("appendonly.aof.1.base.rdb"), "{refused}");
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_server_whose_watchdog_is_killed_ends_too() {
    let server = start(RedisOptions::default()).await;
    let pid = server.pid().expect("it runs");
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
    let parent = status.lines().find_map(|line| line.strip_prefix("PPid:")).expect("it has a parent");
    send(parent.trim().parse().expect("a process id"), Signal::SIGKILL);
    eventually("the server ends", async || !is_running(pid)).await;
}
