use crate::{eventually, is_gone, is_running, send};
use nix::sys::signal::Signal;
use servers::{Error, Postgres, PostgresOptions};
use sqlx::{Connection, PgConnection};
use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

async fn start() -> Postgres {
    Postgres::start(PostgresOptions::default()).await.expect("Postgres starts")
}

async fn start_kept(data: &Path) -> Postgres {
    let options = PostgresOptions { data: Some(data.to_owned()), ..PostgresOptions::default() };
    Postgres::start(options).await.expect("Postgres starts")
}

async fn connect(postgres: &Postgres) -> PgConnection {
    PgConnection::connect(&postgres.url("postgres")).await.expect("Postgres answers")
}

async fn write(postgres: &Postgres, number: i32) {
    let mut connection = connect(postgres).await;
    sqlx::query("create table if not exists kept (number integer)")
        .execute(&mut connection)
        .await
        .expect("writes");
    sqlx::query("insert into kept values ($1)").bind(number).execute(&mut connection).await.expect("writes");
}

async fn read(postgres: &Postgres) -> Vec<i32> {
    let mut connection = connect(postgres).await;
    sqlx::query_scalar("select number from kept order by number")
        .fetch_all(&mut connection)
        .await
        .expect("reads")
}

fn path_of(home: &Path) -> String {
    fs::canonicalize(home).expect("it is there").display().to_string()
}

/// The folder in which everything of a temporary server is.
fn folder(postgres: &Postgres) -> PathBuf {
    postgres.log().parent().expect("the log is in a folder").to_owned()
}

#[tokio::test]
async fn a_temporary_server_answers_and_leaves_nothing_behind() {
    let postgres = start().await;
    let (pid, folder) = (postgres.pid().expect("it runs"), folder(&postgres));
    assert!(is_running(pid) && folder.exists());
    write(&postgres, 1).await;
    assert_eq!(read(&postgres).await, [1]);
    drop(postgres);
    is_gone(pid, &folder).await;
}

#[tokio::test]
async fn a_database_has_a_url_of_its_own_whatever_its_name() {
    let postgres = start().await;
    postgres.create_database("a b?c=d/é").await.expect("makes a database");
    let mut connection = PgConnection::connect(&postgres.url("a b?c=d/é")).await.expect("connects");
    let name: String = sqlx::query_scalar("select current_database()::text")
        .fetch_one(&mut connection)
        .await
        .expect("answers");
    assert_eq!(name, "a b?c=d/é");

    let again = postgres.create_database("a b?c=d/é").await.expect_err("it is there already");
    assert!(again.to_string().contains("already exists"), "{again}");
}

#[tokio::test]
async fn nobody_but_its_owner_can_reach_it() {
    use std::os::unix::fs::PermissionsExt;
    let postgres = start().await;
    let mode = fs::metadata(folder(&postgres)).expect("the folder is there").permissions().mode();
    assert_eq!(mode & 0o077, 0, "the socket's folder is closed to others");
    let mut connection = connect(&postgres).await;
    let addresses: String =
        sqlx::query_scalar("show listen_addresses").fetch_one(&mut connection).await.expect("answers");
    assert_eq!(addresses, "", "it does not listen on the network");
}

#[tokio::test]
async fn a_stopped_server_comes_back_at_the_same_url_with_its_data() {
    let mut postgres = start().await;
    let url = postgres.url("postgres");
    write(&postgres, 1).await;
    postgres.stop().await.expect("stops");
    assert_eq!(postgres.pid(), None);
    PgConnection::connect(&url).await.expect_err("nobody answers");
    postgres.resume().await.expect("comes back");
    assert_eq!(postgres.url("postgres"), url);
    assert_eq!(read(&postgres).await, [1]);
}

#[tokio::test]
async fn stopping_and_resuming_twice_is_doing_it_once() {
    let mut postgres = start().await;
    let pid = postgres.pid();
    postgres.resume().await.expect("is running");
    assert_eq!(postgres.pid(), pid);
    postgres.stop().await.expect("stops");
    postgres.stop().await.expect("is stopped");
    postgres.kill().await.expect("is stopped");
    assert!(matches!(postgres.freeze(), Err(Error::NotRunning("postgres"))));
    postgres.resume().await.expect("comes back");
    connect(&postgres).await;
}

#[tokio::test]
async fn an_open_connection_does_not_keep_a_server_from_stopping() {
    let mut postgres = start().await;
    let mut connection = connect(&postgres).await;
    postgres.stop().await.expect("stops");
    connection.ping().await.expect_err("the connection is closed");
}

#[tokio::test]
async fn a_killed_server_recovers_with_what_was_committed() {
    let data = tempfile::tempdir().expect("a folder");
    let mut postgres = start_kept(&data.path().join("postgres")).await;
    for number in 1..=3 {
        let connection = connect(&postgres).await;
        write(&postgres, number).await;
        postgres.kill().await.expect("dies");
        drop(connection);
        postgres.resume().await.expect("comes back");
    }
    assert_eq!(read(&postgres).await, [1, 2, 3]);
}

#[tokio::test]
async fn a_server_that_died_by_itself_can_be_resumed() {
    let mut postgres = start().await;
    let pid = postgres.pid().expect("it runs");
    send(pid, Signal::SIGQUIT);
    eventually("the server ends", async || !is_running(pid)).await;
    eventually("another one runs", async || {
        postgres.resume().await.expect("comes back");
        postgres.pid() != Some(pid)
    })
    .await;
    connect(&postgres).await;
}

#[tokio::test]
async fn who_waits_for_the_end_of_a_server_is_told_of_it_with_its_last_words() {
    let mut postgres = start().await;
    let pid = postgres.pid().expect("it runs");
    {
        let end = postgres.ended();
        tokio::pin!(end);
        tokio::time::timeout(Duration::from_millis(50), &mut end).await.expect_err("it runs");
        send(pid, Signal::SIGINT);
        let end = end.await.to_string();
        assert!(end.starts_with("postgres ended: exit status: 0\n"), "{end}");
        assert!(end.contains("received fast shutdown request"), "{end}");
    }
    postgres.stop().await.expect("has ended");
    assert!(matches!(postgres.ended().await, Error::NotRunning("postgres")));
}

#[tokio::test]
async fn the_log_says_which_error_it_was_and_not_which_values() {
    let postgres = start().await;
    let mut connection = connect(&postgres).await;
    sqlx::query("create table people (email text constraint one_email unique)")
        .execute(&mut connection)
        .await
        .expect("makes a table");
    let mut insert = async || {
        sqlx::query("insert into people values ($1)").bind("ada@example.com").execute(&mut connection).await
    };
    insert().await.expect("the first");
    insert().await.expect_err("there is one already");
    let log = fs::read_to_string(postgres.log()).expect("the log");
    assert!(log.contains("one_email"), "{log}");
    assert!(!log.contains("ada@example.com"), "{log}");
}

#[tokio::test]
async fn a_process_id_that_is_another_processs_by_now_does_not_keep_a_server_from_starting() {
    let data = tempfile::tempdir().expect("a folder");
    let home = data.path().join("postgres");
    let mut postgres = start_kept(&home).await;
    write(&postgres, 1).await;
    let file = home.join("data/postmaster.pid");
    let left_over = fs::read_to_string(&file).expect("it runs");
    postgres.kill().await.expect("dies");
    drop(postgres);

    // A process that the next server's user can signal, so that Postgres itself would take it for the data's server.
    let other = start().await;
    let (_, rest) = left_over.split_once('\n').expect("the first line is the process id");
    fs::write(&file, format!("{}\n{rest}", other.pid().expect("it runs"))).expect("a file");
    assert_eq!(read(&start_kept(&home).await).await, [1]);
}

#[tokio::test]
async fn a_frozen_server_says_nothing_until_it_thaws() {
    let mut postgres = start().await;
    let mut connection = connect(&postgres).await;
    postgres.freeze().expect("freezes");
    let url = postgres.url("postgres");
    let patience = Duration::from_millis(300);
    {
        let asking = sqlx::query("select 1").execute(&mut connection);
        let connecting = PgConnection::connect(&url);
        tokio::pin!(asking, connecting);
        tokio::time::timeout(patience, &mut asking).await.expect_err("an open connection is not answered");
        tokio::time::timeout(patience, &mut connecting).await.expect_err("a new connection is not answered");
        postgres.thaw().expect("thaws");
        asking.await.expect("the same question is answered");
        connecting.await.expect("the same connection is made");
    }
    postgres.freeze().expect("freezes");
    postgres.stop().await.expect("a frozen server can be stopped");
}

#[tokio::test]
async fn kept_data_is_there_in_the_next_life() {
    let data = tempfile::tempdir().expect("a folder");
    let home = data.path().join("deeper").join("postgres");
    let mut postgres = start_kept(&home).await;
    write(&postgres, 1).await;
    postgres.stop().await.expect("stops");
    drop(postgres);

    let postgres = start_kept(&home).await;
    write(&postgres, 2).await;
    // No orderly end this time.
    drop(postgres);

    let postgres = start_kept(&home).await;
    assert_eq!(read(&postgres).await, [1, 2]);
    let mut connection = connect(&postgres).await;
    for setting in ["fsync", "synchronous_commit", "full_page_writes"] {
        let value: String = sqlx::query_scalar("select current_setting($1)")
            .bind(setting)
            .fetch_one(&mut connection)
            .await
            .expect(setting);
        assert_eq!(value, "on", "kept data is durable: {setting}");
    }
}

#[tokio::test]
async fn kept_data_is_closed_to_others_and_found_again_also_where_the_server_cannot_go() {
    use std::os::unix::fs::PermissionsExt;
    let data = tempfile::tempdir().expect("a folder");
    // When the tests run as root, the server's user cannot enter this folder.
    fs::set_permissions(data.path(), fs::Permissions::from_mode(0o700)).expect("its mode");
    let home = data.path().join("postgres");
    let mut postgres = start_kept(&home).await;
    write(&postgres, 1).await;
    postgres.stop().await.expect("stops");
    drop(postgres);

    let mode = fs::metadata(&home).expect("it is there").permissions().mode();
    assert_eq!(mode & 0o077, 0, "closed to others");
    let mut postgres = start_kept(&home).await;
    assert_eq!(read(&postgres).await, [1]);
    postgres.stop().await.expect("stops");

    let elsewhere = fs::canonicalize(&home).expect("it is there");
    fs::remove_dir_all(&elsewhere).expect("removes the data");
    let mut postgres = start_kept(&home).await;
    PgConnection::connect(&postgres.url("postgres")).await.expect("a new server answers");
    postgres.stop().await.expect("stops");
    fs::remove_dir_all(fs::canonicalize(&home).expect("it is there")).expect("removes the data");
}

#[tokio::test]
async fn kept_data_has_one_server_at_a_time() {
    let data = tempfile::tempdir().expect("a folder");
    let home = data.path().join("postgres");
    let first = start_kept(&home).await;
    let options = PostgresOptions { data: Some(home.clone()), ..PostgresOptions::default() };
    let refused = Postgres::start(options).await.expect_err("the data is taken");
    let owner = std::process::id();
    assert!(matches!(refused, Error::InUse { owner: Some(pid), .. } if pid == owner), "{refused:?}");
    let expected = format!("{} is in use by process {owner}: stop that one", path_of(&home));
    assert!(refused.to_string().starts_with(&expected), "{refused}");
    connect(&first).await;
}

#[tokio::test]
async fn data_that_was_never_finished_is_made_anew() {
    let data = tempfile::tempdir().expect("a folder");
    let home = data.path().join("postgres");
    drop(start_kept(&home).await);
    // As if the owner had been killed while the data was made.
    fs::rename(home.join("data"), home.join("data.new")).expect("the data is there");
    connect(&start_kept(&home).await).await;
}

#[tokio::test]
async fn servers_run_side_by_side() {
    let (one, other) = tokio::join!(start(), start());
    write(&one, 1).await;
    write(&other, 2).await;
    assert_eq!(read(&one).await, [1]);
    assert_eq!(read(&other).await, [2]);
}

#[tokio::test]
async fn a_missing_program_is_one_line_with_the_command_that_installs_it() {
    let nothing = tempfile::tempdir().expect("a folder");
    let options = PostgresOptions { programs: Some(nothing.path().to_owned()), ..PostgresOptions::default() };
    let missing = Postgres::start(options).await.expect_err("there is no Postgres").to_string();
    assert!(missing.starts_with("postgres is not installed: run `"), "{missing}");
    assert!(missing.contains("install postgresql"), "{missing}");
    assert_eq!(missing.lines().count(), 1, "{missing}");
}

#[tokio::test]
async fn data_of_a_version_that_is_not_installed_is_refused_in_one_line() {
    let data = tempfile::tempdir().expect("a folder");
    let home = data.path().join("postgres");
    fs::create_dir_all(home.join("data")).expect("a folder");
    fs::write(home.join("data/PG_VERSION"), "9\n").expect("a file");
    let options = PostgresOptions { data: Some(home), ..PostgresOptions::default() };
    let refused = Postgres::start(options).await.expect_err("nobody has this version").to_string();
    assert!(refused.contains("was made by Postgres 9, which is not installed"), "{refused}");
    assert_eq!(refused.lines().count(), 1, "{refused}");
}

#[tokio::test]
async fn a_server_that_does_not_start_says_why_in_its_own_words() {
    let data = tempfile::tempdir().expect("a folder");
    let home = data.path().join("postgres");
    let mut postgres = start_kept(&home).await;
    postgres.stop().await.expect("stops");
    fs::write(home.join("data/postgresql.conf"), "no_such_setting = 1\n").expect("a file");
    let refused = postgres.resume().await.expect_err("this configuration is wrong").to_string();
    assert!(refused.starts_with("postgres did not start: exit status: 1"), "{refused}");
    assert!(refused.contains(r#"unrecognized configuration parameter "no_such_setting""#), "{refused}");
}
