//! How the local AWS ends, and that nothing outlives it.

use anyhow::{Context as _, Result};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use reqwest::Method;
use serde_json::json;
use tests::fixture::Instruction;
use tokio::time::timeout;

use crate::harness::{Changes, Runtime, SOON, gone};

#[tokio::test]
async fn a_stop_lets_requests_in_flight_end_and_leaves_nothing_behind() -> Result<()> {
    let mut runtime = Runtime::start().await?;
    let answered = tokio::spawn(runtime.http(Method::GET, "/rooms").send());
    let call = runtime.functions.next("main").await;
    let pid = runtime.instances().await?[0].pid;
    let endpoints = runtime.aws.state().join("endpoints.json");
    assert!(endpoints.exists());
    runtime.aws.terminate()?;
    runtime.log_line("message", "stopping; a second Ctrl-C stops at once").await;
    call.answer_json(json!({"statusCode": 200, "body": "in time"})).await;
    assert_eq!(answered.await??.text().await?, "in time");
    assert!(runtime.aws.ended().await?.success());
    gone(pid).await;
    assert!(!endpoints.exists());
    Ok(())
}

#[tokio::test]
async fn a_second_signal_ends_it_at_once_whatever_is_in_flight() -> Result<()> {
    let mut runtime = Runtime::start().await?;
    let request = tokio::spawn(runtime.http(Method::GET, "/rooms").send());
    runtime.functions.next("main").await.answer(Instruction::Hang).await;
    let pid = runtime.instances().await?[0].pid;
    runtime.aws.terminate()?;
    runtime.log_line("message", "stopping; a second Ctrl-C stops at once").await;
    runtime.aws.terminate()?;
    let status = timeout(SOON, runtime.aws.ended()).await.context("it waits all the same")??;
    assert_eq!(status.code(), Some(130));
    assert!(request.await?.is_err());
    gone(pid).await;
    assert!(!runtime.aws.state().join("endpoints.json").exists());
    Ok(())
}

#[tokio::test]
async fn functions_do_not_outlive_a_local_aws_that_is_killed() -> Result<()> {
    let mut runtime = Runtime::start().await?;
    let call = runtime.invoking("main", &json!({}));
    let busy = runtime.functions.next("main").await;
    runtime.tell("brief", json!("echo")).await?;
    let pids: Vec<_> = runtime.instances().await?.iter().map(|instance| instance.pid).collect();
    assert_eq!(pids.len(), 2);
    kill(Pid::from_raw(i32::try_from(runtime.aws.pid().context("it runs")?)?), Signal::SIGKILL)?;
    runtime.aws.ended().await?;
    // Only Linux ends a child with its parent in the middle of a call; elsewhere it ends when it asks for the next.
    if cfg!(target_os = "linux") {
        drop(busy);
    } else {
        busy.answer_json(json!(null)).await;
    }
    for pid in pids {
        gone(pid).await;
    }
    assert!(call.await?.is_err());
    Ok(())
}

#[tokio::test]
async fn data_of_the_private_stores_is_kept_between_runs() -> Result<()> {
    let folder = tempfile::Builder::new().prefix("state-test-").tempdir()?;
    let with_stores = || {
        let stores = "COLOUR: blue, DATABASE_URL: !Ref Nobody, REDIS_URL: !Ref Nobody";
        Changes::default().replace("COLOUR: blue", stores).state(folder.path())
    };
    let runtime = with_stores().start().await?;
    let (database, redis) = stores(&runtime).await?;
    sqlx::raw_sql("create table kept (word text)").execute(&mut connect(&database).await?).await?;
    sqlx::raw_sql("insert into kept values ('here')").execute(&mut connect(&database).await?).await?;
    let mut connection = redis::Client::open(redis)?.get_multiplexed_async_connection().await?;
    redis::cmd("SET").arg("kept").arg("here").exec_async(&mut connection).await?;
    assert!(runtime.aws.stop().await?.success());

    let runtime = with_stores().start().await?;
    let (database, redis) = stores(&runtime).await?;
    let word: String =
        sqlx::query_scalar("select word from kept").fetch_one(&mut connect(&database).await?).await?;
    let mut connection = redis::Client::open(redis)?.get_multiplexed_async_connection().await?;
    let kept: String = redis::cmd("GET").arg("kept").query_async(&mut connection).await?;
    assert_eq!((word.as_str(), kept.as_str()), ("here", "here"));
    assert!(runtime.aws.stop().await?.success());
    Ok(())
}

/// Where the functions find Postgres and Redis.
async fn stores(runtime: &Runtime) -> Result<(String, String)> {
    let environment = runtime.tell("main", json!("tell")).await?.payload["environment"].clone();
    let value =
        |name: &str| anyhow::Ok(environment[name].as_str().with_context(|| format!("no {name}"))?.to_owned());
    Ok((value("DATABASE_URL")?, value("REDIS_URL")?))
}

async fn connect(database: &str) -> Result<sqlx::PgConnection> {
    Ok(<sqlx::PgConnection as sqlx::Connection>::connect(database).await?)
}
