//! What becomes of a function's answer.

use anyhow::Result;
use reqwest::{Method, Response};
use serde_json::{Value, json};
use tests::fixture::Instruction;

use crate::harness::Runtime;

async fn answer(runtime: &Runtime, answer: Value) -> Result<Response> {
    runtime.functions.script("main", Instruction::Return(answer));
    Ok(runtime.http(Method::GET, "/rooms").send().await?)
}

#[tokio::test]
async fn status_headers_cookies_and_body_are_taken_over() -> Result<()> {
    let runtime = Runtime::start().await?;
    let response = answer(
        &runtime,
        json!({
            "statusCode": 201,
            "headers": {"Content-Type": "application/json", "X-Number": 7},
            "cookies": ["a=1; Path=/", "b=2; HttpOnly"],
            "body": "{\"id\":\"general\"}",
            "isBase64Encoded": false,
        }),
    )
    .await?;
    assert_eq!(response.status().as_u16(), 201);
    assert_eq!(response.headers()["content-type"], "application/json");
    assert_eq!(response.headers()["x-number"], "7");
    let cookies: Vec<_> = response.headers().get_all("set-cookie").iter().cloned().collect();
    assert_eq!(cookies, ["a=1; Path=/", "b=2; HttpOnly"]);
    assert_eq!(response.text().await?, "{\"id\":\"general\"}");
    Ok(())
}

#[tokio::test]
async fn a_body_in_base64_comes_out_as_bytes() -> Result<()> {
    let runtime = Runtime::start().await?;
    let image = json!({"statusCode": 200, "headers": {"content-type": "image/png"}, "body": "iVBORw==", "isBase64Encoded": true});
    let response = answer(&runtime, image).await?;
    assert_eq!(response.headers()["content-type"], "image/png");
    assert_eq!(response.bytes().await?.as_ref(), b"\x89PNG");
    Ok(())
}

#[tokio::test]
async fn an_answer_without_a_status_is_the_body_of_a_200() -> Result<()> {
    let runtime = Runtime::start().await?;
    let response = answer(&runtime, json!({"id": "general"})).await?;
    assert_eq!(response.status().as_u16(), 200);
    assert_eq!(response.headers()["content-type"], "application/json");
    assert_eq!(response.json::<Value>().await?, json!({"id": "general"}));
    Ok(())
}

#[tokio::test]
async fn a_204_has_no_body_and_the_connection_goes_on() -> Result<()> {
    let runtime = Runtime::start().await?;
    for _ in 0..3 {
        let response = answer(&runtime, json!({"statusCode": 204, "body": "nobody reads this"})).await?;
        assert_eq!((response.status().as_u16(), response.text().await?), (204, String::new()));
    }
    Ok(())
}

#[tokio::test]
async fn a_head_request_gets_the_headers_only() -> Result<()> {
    let runtime = Runtime::start().await?;
    runtime.functions.script("main", Instruction::Return(json!({"statusCode": 200, "body": "four"})));
    let response = runtime.http(Method::HEAD, "/rooms/x").send().await?;
    assert_eq!(response.headers()["content-length"], "4");
    assert_eq!(response.text().await?, "");
    Ok(())
}
