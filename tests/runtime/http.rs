//! The HTTP API: events, routes, limits, errors.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result};
use aws_lambda_events::event::apigw::ApiGatewayV2httpRequest;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tests::fixture::Instruction;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::harness::{Changes, Runtime};

fn keys(value: &Value) -> BTreeSet<&str> {
    value.as_object().expect("an object").keys().map(String::as_str).collect()
}

#[tokio::test]
async fn an_event_has_payload_2_0_with_exactly_the_keys_of_the_real_one() -> Result<()> {
    let mut runtime = Runtime::start().await?;
    let request = runtime
        .http(Method::PATCH, "/rooms/caf%C3%A9?a=1&a=2&b=x%20y")
        .header("Cookie", "theme=dark; lang=de")
        .header("X-Twice", "1")
        .header("X-Twice", "2")
        .header("User-Agent", "test/1")
        .json(&json!({"title": "Café"}));
    let answered = tokio::spawn(request.send());
    let call = runtime.functions.next("main").await;
    let event = call.event().clone();
    call.answer_json(json!({"statusCode": 204})).await;
    assert_eq!(answered.await??.status(), StatusCode::NO_CONTENT);

    let expected = BTreeSet::from([
        "version",
        "routeKey",
        "rawPath",
        "rawQueryString",
        "cookies",
        "headers",
        "queryStringParameters",
        "pathParameters",
        "requestContext",
        "body",
        "isBase64Encoded",
    ]);
    assert_eq!(keys(&event), expected);
    let expected = BTreeSet::from([
        "accountId",
        "apiId",
        "domainName",
        "domainPrefix",
        "http",
        "requestId",
        "routeKey",
        "stage",
        "time",
        "timeEpoch",
    ]);
    assert_eq!(keys(&event["requestContext"]), expected);
    let expected = BTreeSet::from(["method", "path", "protocol", "sourceIp", "userAgent"]);
    assert_eq!(keys(&event["requestContext"]["http"]), expected);

    let typed: ApiGatewayV2httpRequest = serde_json::from_value(event.clone())?;
    assert_eq!(typed.route_key.as_deref(), Some("ANY /rooms/{room}"));
    assert_eq!(typed.raw_path.as_deref(), Some("/rooms/café"));
    assert_eq!(typed.raw_query_string.as_deref(), Some("a=1&a=2&b=x%20y"));
    assert_eq!(typed.path_parameters["room"], "café");
    assert_eq!(typed.cookies, Some(vec!["theme=dark".to_owned(), "lang=de".to_owned()]));
    assert_eq!(typed.headers["x-twice"], "1,2");
    assert_eq!(event["headers"].get("cookie"), None);
    assert_eq!(event["queryStringParameters"], json!({"a": "1,2", "b": "x y"}));
    assert_eq!(typed.request_context.http.source_ip.as_deref(), Some("127.0.0.1"));
    assert_eq!(typed.request_context.http.user_agent.as_deref(), Some("test/1"));
    assert_eq!(typed.body.as_deref(), Some(r#"{"title":"Café"}"#));
    Ok(())
}

#[tokio::test]
async fn empty_parts_of_an_event_are_absent() -> Result<()> {
    let mut runtime = Runtime::start().await?;
    let answered = tokio::spawn(runtime.http(Method::GET, "/rooms").send());
    let call = runtime.functions.next("main").await;
    for absent in ["cookies", "queryStringParameters", "pathParameters", "body"] {
        assert_eq!(call.event().get(absent), None, "{absent}");
    }
    assert_eq!(
        (&call.event()["rawQueryString"], &call.event()["isBase64Encoded"]),
        (&json!(""), &json!(false))
    );
    call.answer_json(json!({"statusCode": 200})).await;
    answered.await??;
    Ok(())
}

#[tokio::test]
async fn a_body_in_chunks_and_a_body_of_bytes_arrive_whole() -> Result<()> {
    let mut runtime = Runtime::start().await?;
    let host = runtime.aws.endpoints.http.trim_start_matches("http://").to_owned();
    let mut socket = TcpStream::connect(&host).await?;
    let head = format!("POST /rooms/x HTTP/1.1\r\nhost: {host}\r\ncontent-type: image/png\r\n");
    socket.write_all(head.as_bytes()).await?;
    socket.write_all(b"transfer-encoding: chunked\r\n\r\n2\r\n\x89P\r\n2\r\nNG\r\n0\r\n\r\n").await?;
    let call = runtime.functions.next("main").await;
    assert_eq!((&call.event()["body"], &call.event()["isBase64Encoded"]), (&json!("iVBORw=="), &json!(true)));
    assert_eq!(call.event()["headers"]["content-length"], "4");
    assert_eq!(call.event()["headers"].get("transfer-encoding"), None);
    call.answer_json(json!({"statusCode": 200})).await;
    Ok(())
}

#[tokio::test]
async fn the_most_specific_route_takes_a_request() -> Result<()> {
    let mut runtime = Runtime::start().await?;
    for (method, path, key) in [
        (Method::GET, "/rooms", "GET /rooms"),
        (Method::DELETE, "/rooms/x", "ANY /rooms/{room}"),
        (Method::GET, "/rooms/new", "ANY /rooms/new"),
    ] {
        let answered = tokio::spawn(runtime.http(method, path).send());
        let call = runtime.functions.next("main").await;
        assert_eq!(call.event()["routeKey"], key);
        assert_eq!(call.context("routeKey"), key);
        call.answer_json(json!({"statusCode": 200})).await;
        answered.await??;
    }
    Ok(())
}

async fn check_error(
    runtime: &Runtime,
    request: reqwest::RequestBuilder,
    status: u16,
    message: &str,
) -> Result<()> {
    let response = request.send().await?;
    assert_eq!(response.status().as_u16(), status, "{message}");
    assert_eq!(response.headers()["content-type"], "application/json");
    let id = response.headers()["apigw-requestid"].to_str()?.to_owned();
    assert_eq!(response.json::<Value>().await?, json!({ "message": message }));
    let line = runtime.log_line("request_id", &id).await;
    assert_eq!((&line["api"], &line["status"]), (&json!("http"), &json!(status)), "{line}");
    Ok(())
}

#[tokio::test]
async fn what_no_route_takes_is_not_found_and_is_in_the_log() -> Result<()> {
    let runtime = Runtime::start().await?;
    for (method, path) in [(Method::GET, "/nowhere"), (Method::POST, "/rooms"), (Method::GET, "/rooms/a/b")] {
        check_error(&runtime, runtime.http(method, path), 404, "Not Found").await?;
    }
    assert_eq!(runtime.instances().await?, [], "no function saw them");
    Ok(())
}

#[tokio::test]
async fn a_query_string_never_reaches_the_log() -> Result<()> {
    let runtime = Runtime::start().await?;
    runtime.http(Method::GET, "/nowhere?ticket=hidden-in-the-query").send().await?;
    runtime.log_line("route", "GET /nowhere").await;
    assert!(!runtime.aws.log().contains("hidden-in-the-query"));
    Ok(())
}

#[tokio::test]
async fn a_function_that_fails_is_an_internal_server_error() -> Result<()> {
    let runtime = Runtime::start().await?;
    for instruction in [
        Instruction::Throw("no".into()),
        Instruction::Panic("no".into()),
        Instruction::Exit(1),
        Instruction::Return(json!({"statusCode": "many"})),
        Instruction::Return(json!({"statusCode": 200, "body": {"not": "a text"}})),
    ] {
        runtime.functions.script("main", instruction);
        check_error(&runtime, runtime.http(Method::GET, "/rooms"), 500, "Internal Server Error").await?;
    }
    Ok(())
}

#[tokio::test]
async fn the_log_says_why_a_function_failed() -> Result<()> {
    let runtime = Runtime::start().await?;
    runtime.functions.script("main", Instruction::Exit(1));
    let response = runtime.http(Method::GET, "/rooms").send().await?;
    let id = response.headers()["apigw-requestid"].to_str()?.to_owned();
    let line = runtime.log_line("request_id", &id).await;
    let error = line["error"].as_str().context("an error")?;
    assert!(error.starts_with("Runtime.ExitError: RequestId: "), "{error}");
    assert_eq!((&line["route"], &line["function"]), (&json!("GET /rooms"), &json!("main")));
    Ok(())
}

#[tokio::test]
async fn the_functions_timeout_is_an_error_and_the_gateways_own_is_unavailable() -> Result<()> {
    let runtime = Runtime::start().await?;
    runtime.functions.script("brief", Instruction::Hang);
    check_error(&runtime, runtime.http(Method::GET, "/brief"), 500, "Internal Server Error").await?;
    runtime.functions.script("main", Instruction::Hang);
    check_error(&runtime, runtime.http(Method::GET, "/hasty"), 503, "Service Unavailable").await
}

#[tokio::test]
async fn a_body_over_ten_megabytes_is_refused_before_any_function() -> Result<()> {
    let runtime = Runtime::start().await?;
    let request = runtime.http(Method::POST, "/rooms/x").body(vec![0; 10 * 1024 * 1024 + 1]);
    check_error(&runtime, request, 413, "Request Entity Too Large").await?;
    // One that Lambda does not take although the gateway does.
    let request = runtime.http(Method::POST, "/rooms/x").body(vec![0; 7 * 1024 * 1024]);
    check_error(&runtime, request, 413, "Request Entity Too Large").await?;
    assert_eq!(runtime.instances().await?, []);
    Ok(())
}

#[tokio::test]
async fn more_than_ten_kilobytes_of_headers_are_refused() -> Result<()> {
    let runtime = Runtime::start().await?;
    runtime.functions.script("main", Instruction::Return(json!({"statusCode": 200})));
    let request = |bytes| runtime.http(Method::GET, "/rooms").header("x-long", "x".repeat(bytes));
    check_error(&runtime, request(10_241), 431, "Request Header Fields Too Large").await?;
    assert_eq!(request(9_900).send().await?.status(), StatusCode::OK);
    Ok(())
}

#[tokio::test]
async fn a_host_that_is_none_is_refused_before_a_function_stumbles_over_it() -> Result<()> {
    let runtime = Runtime::start().await?;
    let host = runtime.aws.endpoints.http.trim_start_matches("http://").to_owned();
    for bad in ["", "host: \r\n", "host: a b\r\n", "host: a\r\nhost: b\r\n", "host: a@b\r\n"] {
        let mut socket = TcpStream::connect(&host).await?;
        socket.write_all(format!("GET /rooms HTTP/1.1\r\nconnection: close\r\n{bad}\r\n").as_bytes()).await?;
        let mut answer = String::new();
        socket.read_to_string(&mut answer).await?;
        assert!(answer.starts_with("HTTP/1.1 400 "), "{bad:?}: {answer}");
    }
    Ok(())
}

#[tokio::test]
async fn a_client_that_hangs_up_stops_neither_the_function_nor_the_line_in_the_log() -> Result<()> {
    let mut runtime = Runtime::start().await?;
    let host = runtime.aws.endpoints.http.trim_start_matches("http://").to_owned();
    let mut socket = TcpStream::connect(&host).await?;
    socket.write_all(format!("GET /rooms HTTP/1.1\r\nhost: {host}\r\n\r\n").as_bytes()).await?;
    let call = runtime.functions.next("main").await;
    drop(socket);
    let id = call.context("requestId").as_str().context("an id")?.to_owned();
    call.answer_json(json!({"statusCode": 200})).await;
    assert_eq!(runtime.log_line("request_id", &id).await["status"], 200);
    Ok(())
}

#[tokio::test]
async fn a_preflight_is_answered_by_the_gateway() -> Result<()> {
    let runtime = Runtime::start().await?;
    let preflight = |origin: &'static str| {
        let request = runtime.http(Method::OPTIONS, "/rooms").header("origin", origin);
        request.header("access-control-request-method", "POST").send()
    };
    let allowed = preflight("https://chat.example").await?;
    assert_eq!(allowed.status(), StatusCode::NO_CONTENT);
    assert_eq!(allowed.headers()["access-control-allow-origin"], "https://chat.example");
    assert_eq!(allowed.headers()["access-control-allow-methods"], "GET,POST");
    assert_eq!(allowed.headers()["access-control-allow-headers"], "authorization,content-type");
    assert_eq!(allowed.headers()["access-control-max-age"], "600");
    let foreign = preflight("https://evil.example").await?;
    assert_eq!(foreign.status(), StatusCode::NO_CONTENT);
    assert_eq!(foreign.headers().get("access-control-allow-origin"), None);
    assert_eq!(runtime.instances().await?, [], "no function saw them");
    Ok(())
}

#[tokio::test]
async fn with_cors_configured_the_functions_own_headers_for_it_are_ignored() -> Result<()> {
    let runtime = Runtime::start().await?;
    let headers = json!({"access-control-allow-origin": "*", "x-own": "1"});
    runtime.functions.script("main", Instruction::Return(json!({"statusCode": 200, "headers": headers})));
    let plain = runtime.http(Method::GET, "/rooms").send().await?;
    assert_eq!(plain.headers().get("access-control-allow-origin"), None);
    assert_eq!(plain.headers()["x-own"], "1");
    let page = runtime.http(Method::GET, "/rooms").header("origin", "https://chat.example").send().await?;
    assert_eq!(page.headers()["access-control-allow-origin"], "https://chat.example");
    assert_eq!(page.headers()["access-control-expose-headers"], "retry-after");
    Ok(())
}

#[tokio::test]
async fn a_stage_with_a_name_is_part_of_the_path() -> Result<()> {
    let changes = Changes::default().replace(
        "    Properties:\n      CorsConfiguration:",
        "    Properties:\n      StageName: v1\n      CorsConfiguration:",
    );
    let mut runtime = changes.start().await?;
    assert!(runtime.aws.endpoints.http.ends_with("/v1"), "{}", runtime.aws.endpoints.http);
    let answered = tokio::spawn(runtime.http(Method::GET, "/rooms").send());
    let call = runtime.functions.next("main").await;
    assert_eq!((call.context("stage"), &call.event()["rawPath"]), (&json!("v1"), &json!("/v1/rooms")));
    call.answer_json(json!({"statusCode": 200})).await;
    answered.await??;
    let outside = runtime.aws.endpoints.http.replace("/v1", "/rooms");
    assert_eq!(runtime.client.get(outside).send().await?.status(), StatusCode::NOT_FOUND);
    Ok(())
}
