//! What is said when it cannot start, and calls to functions that somebody else runs.

use anyhow::Result;
use reqwest::{Method, StatusCode};
use serde_json::json;
use tests::fixture::Instruction;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use crate::harness::{Changes, Runtime};

/// Checks that it does not start, and that it says so in one line with these parts.
async fn check_refused(changes: Changes, parts: &[&str]) {
    let error = match changes.start().await {
        Ok(_) => panic!("it started"),
        Err(error) => format!("{error:#}"),
    };
    let lines: Vec<_> = error.lines().filter(|line| line.starts_with("error: ")).collect();
    let [line] = lines.as_slice() else { panic!("not one line: {error}") };
    for part in parts {
        assert!(line.contains(part), "`{part}` is not in: {line}");
    }
}

#[tokio::test]
async fn a_taken_port_is_named_with_the_flag_that_changes_it() -> Result<()> {
    let taken = TcpListener::bind("127.0.0.1:0").await?;
    let port = taken.local_addr()?.port().to_string();
    for flag in ["--http-port", "--websocket-port"] {
        let changes = Changes::default().argument(flag).argument(&port);
        check_refused(changes, &[&format!("port {port} is taken"), flag]).await;
    }
    Ok(())
}

#[tokio::test]
async fn a_missing_template_is_named() {
    let changes = Changes::default().argument("--template").argument("/nowhere/template.yaml");
    check_refused(changes, &["/nowhere/template.yaml", "--template"]).await;
}

#[tokio::test]
async fn a_mistake_in_the_template_is_told_with_its_place() {
    let changes = Changes::default().replace("COLOUR: blue", "COLOUR: !GetAtt Data.Outputs.Colour");
    check_refused(changes, &["Resources.Main.Properties.Environment.Variables.COLOUR", "Data"]).await;
}

#[tokio::test]
async fn functions_that_are_not_built_are_named_with_what_builds_them() {
    let changes = Changes::default().replace("CodeUri: functions/main", "CodeUri: functions/absent");
    check_refused(changes, &["absent", "./dev up"]).await;
}

#[tokio::test]
async fn a_state_folder_has_one_local_aws_at_a_time() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let first = Changes::default().state(folder.path()).start().await?;
    let pid = format!("process {}", first.aws.pid().expect("it runs"));
    check_refused(Changes::default().state(folder.path()), &[&pid, "--state"]).await;
    assert!(first.aws.stop().await?.success());
    Changes::default().state(folder.path()).start().await?;
    Ok(())
}

#[tokio::test]
async fn a_database_that_cannot_be_reached_is_named_without_its_password() {
    let changes = Changes::default().replace("COLOUR: blue", "COLOUR: blue, DATABASE_URL: x");
    let changes = changes.variable("DATABASE_URL", "postgres://ada:secret-word@127.0.0.1:1/chat");
    let error = format!("{:#}", changes.start().await.err().expect("it does not start"));
    assert!(error.contains("connecting to Postgres at 127.0.0.1:1/chat"), "{error}");
    assert!(!error.contains("secret-word"), "{error}");
}

#[tokio::test]
async fn functions_that_somebody_else_runs_are_called_over_their_invoke_api() -> Result<()> {
    let mut other = Runtime::start().await?;
    let changes = Changes::default().argument("--invoke-endpoint").argument(&other.aws.endpoints.control);
    let runtime = changes.start().await?;
    let answered = tokio::spawn(runtime.http(Method::GET, "/rooms").send());
    other.functions.next("main").await.answer_json(json!({"statusCode": 200, "body": "from there"})).await;
    assert_eq!(answered.await??.text().await?, "from there");
    other.functions.script("main", Instruction::Throw("no".into()));
    assert_eq!(runtime.http(Method::GET, "/rooms").send().await?.status(), StatusCode::INTERNAL_SERVER_ERROR);
    runtime.tell("main", json!({"throw": "no such room"})).await?.check_failed("Thrown");
    assert_eq!(runtime.instances().await?, [], "it runs none itself");
    Ok(())
}

#[tokio::test]
async fn a_status_of_500_is_a_functions_error_as_cargo_lambda_tells_it() -> Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("http://{}", listener.local_addr()?);
    let runtime = Changes::default().argument("--invoke-endpoint").argument(url).start().await?;
    let call = runtime.invoking("main", &json!({}));
    let (mut socket, _) = listener.accept().await?;
    let mut head = vec![0; 64];
    socket.read_exact(&mut head).await?;
    assert!(head.starts_with(b"POST /2015-03-31/functions/main/invocations HTTP/1.1\r\n"));
    let body = json!({"errorType": "Thrown", "errorMessage": "no such room"}).to_string();
    let answer = format!("HTTP/1.1 500 x\r\ncontent-length: {}\r\n\r\n{body}", body.len());
    socket.write_all(answer.as_bytes()).await?;
    assert_eq!(call.await??.check_failed("Thrown"), "no such room");
    Ok(())
}

#[tokio::test]
async fn an_invoke_endpoint_that_nobody_serves_is_an_internal_server_error() -> Result<()> {
    let runtime =
        Changes::default().argument("--invoke-endpoint").argument("http://127.0.0.1:1").start().await?;
    let response = runtime.http(Method::GET, "/rooms").send().await?;
    assert_eq!(response.status(), StatusCode::INTERNAL_SERVER_ERROR);
    Ok(())
}
