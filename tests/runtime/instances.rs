//! Processes: how many there are, which one takes a call, and what becomes of those that end.

use anyhow::Result;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;
use tests::fixture::{INIT_VARIABLE, Instruction};
use tests::test_app::eventually;

use crate::harness::{Changes, Runtime, gone};

#[tokio::test]
async fn nothing_is_started_before_it_is_called() -> Result<()> {
    let runtime = Runtime::start().await?;
    assert_eq!(runtime.instances().await?, []);
    runtime.tell("main", json!("echo")).await?;
    let instance = runtime.idle_instance().await;
    assert_eq!((instance.function.as_str(), instance.invocations), ("main", 1));
    assert!(instance.init_ms.is_some_and(|init_ms| init_ms > 0.0), "{instance:?}");
    Ok(())
}

#[tokio::test]
async fn calls_in_flight_have_a_process_each_and_idle_processes_are_used_again() -> Result<()> {
    let mut runtime = Runtime::start().await?;
    let calls = [0, 1, 2].map(|n| runtime.invoking("main", &json!({ "n": n })));
    let mut held = Vec::new();
    for _ in 0..3 {
        held.push(runtime.functions.next("main").await);
    }
    let busy = runtime.instances().await?;
    assert_eq!(busy.iter().filter(|instance| instance.state == "busy").count(), 3, "{busy:?}");
    for call in held {
        call.answer_json(json!("done")).await;
    }
    for call in calls {
        call.await??.check_answered(&json!("done"));
    }
    for _ in 0..10 {
        runtime.tell("main", json!("echo")).await?;
    }
    let after = runtime.instances().await?;
    let pids =
        |instances: &[crate::harness::Instance]| instances.iter().map(|one| one.pid).collect::<Vec<_>>();
    assert_eq!(pids(&after), pids(&busy), "no new process was needed");
    assert_eq!(after.iter().map(|one| one.invocations).sum::<u64>(), 13);
    Ok(())
}

#[tokio::test]
async fn calls_above_the_limit_wait_for_a_free_process() -> Result<()> {
    let mut runtime = Changes::default().argument("--concurrency").argument("2").start().await?;
    let calls = [0, 1, 2, 3].map(|n| runtime.invoking("main", &json!({ "n": n })));
    let first = runtime.functions.next("main").await;
    let second = runtime.functions.next("main").await;
    assert_eq!(runtime.instances().await?.len(), 2);
    first.answer_json(json!(1)).await;
    runtime.functions.next("main").await.answer_json(json!(2)).await;
    runtime.functions.next("main").await.answer_json(json!(3)).await;
    second.answer_json(json!(4)).await;
    for call in calls {
        assert_eq!(call.await??.function_error, None);
    }
    assert_eq!(runtime.instances().await?.len(), 2);
    Ok(())
}

#[tokio::test]
async fn a_burst_of_calls_is_answered_whole_and_each_with_its_own_answer() -> Result<()> {
    let runtime = Changes::default().argument("--concurrency").argument("4").start().await?;
    let calls: Vec<_> =
        (0..500).map(|n| runtime.invoking("main", &json!({ "fixture": { "return": n } }))).collect();
    for (n, call) in calls.into_iter().enumerate() {
        call.await??.check_answered(&json!(n));
    }
    assert!(runtime.instances().await?.len() <= 4);
    Ok(())
}

#[tokio::test]
async fn a_function_that_outlives_its_timeout_is_killed_and_the_next_call_works() -> Result<()> {
    let mut runtime = Runtime::start().await?;
    let call = runtime.invoking("brief", &json!({}));
    let held = runtime.functions.next("brief").await;
    let pid = runtime.instances().await?[0].pid;
    held.answer(Instruction::Hang).await;
    let message = call.await??.check_failed("Sandbox.Timedout");
    assert!(message.ends_with("Error: Task timed out after 2.00 seconds"), "{message}");
    gone(pid).await;
    runtime.tell("brief", json!({"return": "well"})).await?.check_answered(&json!("well"));
    Ok(())
}

#[tokio::test]
async fn a_function_that_throws_or_panics_lives_on() -> Result<()> {
    let runtime = Runtime::start().await?;
    let thrown = runtime.tell("main", json!({"throw": "no such room"})).await?;
    assert_eq!(thrown.check_failed("Thrown"), "no such room");
    let before = runtime.idle_instance().await.pid;
    let panicked = runtime.tell("main", json!({"panic": "at the disco"})).await?;
    assert!(
        panicked.payload["errorMessage"].as_str().is_some_and(|text| text.contains("at the disco")),
        "{panicked:?}"
    );
    assert_eq!(runtime.idle_instance().await.pid, before);
    Ok(())
}

#[tokio::test]
async fn a_function_that_exits_in_a_call_fails_it_and_the_next_call_works() -> Result<()> {
    let runtime = Runtime::start().await?;
    let message = runtime.tell("main", json!({"exit": 3})).await?.check_failed("Runtime.ExitError");
    assert!(message.ends_with("Error: Runtime exited with error: exit status 3"), "{message}");
    let message = runtime.tell("main", json!({"exit": 0})).await?.check_failed("Runtime.ExitError");
    assert!(message.ends_with("Error: Runtime exited without providing a reason"), "{message}");
    runtime.tell("main", json!({"return": "well"})).await?.check_answered(&json!("well"));
    Ok(())
}

#[tokio::test]
async fn a_process_that_dies_while_idle_is_replaced_at_the_next_call() -> Result<()> {
    let runtime = Runtime::start().await?;
    runtime.tell("main", json!("echo")).await?;
    let before = runtime.idle_instance().await.pid;
    kill(Pid::from_raw(before), Signal::SIGKILL)?;
    eventually("the dead process is no instance any more", async || {
        let instances = runtime.instances().await.map_err(|why| why.to_string())?;
        if instances.is_empty() { Ok(()) } else { Err(format!("{instances:?}")) }
    })
    .await;
    runtime.tell("main", json!({"return": "well"})).await?.check_answered(&json!("well"));
    assert_ne!(runtime.idle_instance().await.pid, before);
    Ok(())
}

#[tokio::test]
async fn a_process_that_has_had_no_call_for_long_is_ended() -> Result<()> {
    let mut runtime = Changes::default().argument("--instance-idle-seconds").argument("0.2").start().await?;
    let call = runtime.invoking("main", &json!({}));
    let held = runtime.functions.next("main").await;
    let pid = runtime.instances().await?[0].pid;
    held.answer_json(json!("well")).await;
    call.await??.check_answered(&json!("well"));
    gone(pid).await;
    runtime.tell("main", json!({"return": "well"})).await?.check_answered(&json!("well"));
    Ok(())
}

#[tokio::test]
async fn a_process_that_is_killed_in_a_call_fails_that_call_only() -> Result<()> {
    let mut runtime = Runtime::start().await?;
    let (first, second) = (runtime.invoking("main", &json!({})), runtime.invoking("main", &json!({})));
    let held = [runtime.functions.next("main").await, runtime.functions.next("main").await];
    kill(Pid::from_raw(runtime.instances().await?[0].pid), Signal::SIGKILL)?;
    eventually("the dead process is no instance any more", async || {
        let instances = runtime.instances().await.map_err(|why| why.to_string())?;
        if instances.len() == 1 { Ok(()) } else { Err(format!("{instances:?}")) }
    })
    .await;
    for call in held {
        call.answer_json(json!("well")).await;
    }
    let answers = [first.await??, second.await??];
    let (well, killed): (Vec<_>, Vec<_>) = answers.iter().partition(|answer| answer.function_error.is_none());
    let [well, killed] = [well, killed].map(|one| *one.first().expect("one of each"));
    well.check_answered(&json!("well"));
    assert!(killed.check_failed("Runtime.ExitError").ends_with("signal: killed"));
    Ok(())
}

#[tokio::test]
async fn a_function_that_does_not_start_says_why_and_is_tried_again_at_the_next_call() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("init");
    std::fs::write(&file, "exit")?;
    let variable = format!("COLOUR: blue, {INIT_VARIABLE}: '{}'", file.display());
    let runtime = Changes::default().replace("COLOUR: blue", &variable).start().await?;
    let message = runtime.tell("main", json!("echo")).await?.check_failed("Runtime.ExitError");
    assert!(message.ends_with("Runtime exited with error: exit status 1"), "{message}");
    let line = runtime.log_line("message", "function `main` did not start").await;
    assert_eq!(line["function"], "main");
    let last_words = line["last_words"].as_str().unwrap_or_default();
    assert!(last_words.contains("the configuration lacks REDIS_URL"), "{line}");
    std::fs::remove_file(&file)?;
    runtime.tell("main", json!({"return": "well"})).await?.check_answered(&json!("well"));
    Ok(())
}

#[tokio::test]
async fn a_function_that_hangs_before_its_first_call_is_killed_by_the_limit_of_the_init_and_not_of_the_call()
-> Result<()> {
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("init");
    std::fs::write(&file, "hang")?;
    let variable = format!("COLOUR: blue, {INIT_VARIABLE}: '{}'", file.display());
    let changes = Changes::default().replace("COLOUR: blue", &variable);
    let runtime = changes.argument("--init-limit-seconds").argument("0.5").start().await?;
    let message = runtime.tell("main", json!("echo")).await?.check_failed("Sandbox.Timedout");
    assert!(message.ends_with("Init timed out after 0.50 seconds"), "{message}");
    assert_eq!(runtime.instances().await?, []);
    Ok(())
}

#[tokio::test]
async fn a_call_that_waits_for_the_limit_gets_its_turn_when_a_start_fails() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("init");
    std::fs::write(&file, "exit")?;
    let variable = format!("COLOUR: blue, {INIT_VARIABLE}: '{}'", file.display());
    let changes = Changes::default().replace("COLOUR: blue", &variable);
    let runtime = changes.argument("--concurrency").argument("1").start().await?;
    let calls = [0, 1, 2].map(|_| runtime.invoking("main", &json!({})));
    for call in calls {
        call.await??.check_failed("Runtime.ExitError");
    }
    Ok(())
}

#[tokio::test]
async fn what_a_function_writes_never_holds_it_up_and_is_in_the_log() -> Result<()> {
    let runtime = Runtime::start().await?;
    let print = json!({"print": {"lines": 20_000, "then": {"return": "written"}}});
    runtime.tell("main", print).await?.check_answered(&json!("written"));
    runtime.log_line("message", "line 19999").await;
    assert_eq!(
        runtime.log_lines("function", "main").iter().filter(|line| line["api"].is_null()).count(),
        20_000
    );
    Ok(())
}
