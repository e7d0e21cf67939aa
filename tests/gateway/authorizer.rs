//! The REQUEST authorizer of `$connect`.

use anyhow::{Context as _, Result};
use aws_lambda_events::apigw::ApiGatewayCustomAuthorizerRequestTypeRequest;
use serde_json::{Value, json};
use tests::fixture::Instruction;
use tests::websocket::{Refused, WebSocket};

use crate::harness::{
    AUTH_LINE, Changes, Gateway, PASS, check_error_frame, check_id, check_keys, ok, policy, typed,
};

/// What a handshake becomes when the authorizer does this.
async fn status_of(gateway: &Gateway, instruction: Instruction) -> Result<u16> {
    gateway.functions.script("authorize", instruction);
    match gateway.connect().await {
        Ok(_) => Ok(101),
        Err(error) => Ok(error.downcast::<Refused>()?.status.as_u16()),
    }
}

#[tokio::test]
async fn it_is_asked_with_all_of_the_handshake() -> Result<()> {
    let mut gateway = Gateway::start().await?;
    let url = format!("{}?room=a&room=b", gateway.url());
    let _socket = WebSocket::connect(&url, &[PASS, ("User-Agent", "a test")]).await?;
    let call = gateway.functions.next("authorize").await;
    let event = call.event();
    check_keys(
        event,
        &[
            "type",
            "methodArn",
            "headers",
            "multiValueHeaders",
            "queryStringParameters",
            "multiValueQueryStringParameters",
            "stageVariables",
            "requestContext",
        ],
    );
    assert_eq!(event["type"], "REQUEST");
    let arn = format!(
        "arn:aws:execute-api:us-east-1:000000000000:{}/test/$connect",
        call.context("apiId").as_str().context("an id")?
    );
    assert_eq!(event["methodArn"], arn);
    assert_eq!(event["queryStringParameters"], json!({"room": "b"}));
    assert_eq!(event["multiValueQueryStringParameters"], json!({"room": ["a", "b"]}));
    assert_eq!(event["stageVariables"], json!({}));
    check_keys(
        &event["requestContext"],
        &[
            "routeKey",
            "eventType",
            "extendedRequestId",
            "requestTime",
            "messageDirection",
            "stage",
            "connectedAt",
            "requestTimeEpoch",
            "identity",
            "requestId",
            "domainName",
            "connectionId",
            "apiId",
        ],
    );
    assert_eq!(call.context("routeKey"), "$connect");
    assert_eq!(call.context("eventType"), "CONNECT");
    check_id(call.context("requestId"));

    let connect = gateway.functions.next("connect").await;
    assert_eq!(call.context("connectionId"), connect.context("connectionId"));
    assert_eq!(event["headers"], connect.event()["headers"]);
    assert_eq!(event["multiValueHeaders"], connect.event()["multiValueHeaders"]);

    let typed: ApiGatewayCustomAuthorizerRequestTypeRequest = typed(&call)?;
    assert_eq!(typed.method_arn.as_deref(), Some(arn.as_str()));
    assert_eq!(typed.headers["x-pass"], PASS.1);
    assert_eq!(typed.query_string_parameters.all("room"), Some(vec!["b"]));
    Ok(())
}

#[tokio::test]
async fn its_context_is_in_every_later_event_as_strings() -> Result<()> {
    let mut gateway = Gateway::start().await?;
    gateway.authorize_as(&json!({"user": "u-1", "name": "Ann", "count": 7, "ratio": 0.5, "admin": true}));
    let mut socket = gateway.connect().await?;
    let connect = gateway.functions.next("connect").await;
    socket.send("x").await?;
    let message = gateway.functions.next("default").await;
    socket.close(1000, "").await?;
    let disconnect = gateway.functions.next("disconnect").await;

    for call in [&connect, &message, &disconnect] {
        let mut block = call.context("authorizer").clone();
        assert!(block["integrationLatency"].take().is_u64(), "milliseconds: {block}");
        let expected = json!({
            "principalId": "ann", "integrationLatency": null,
            "user": "u-1", "name": "Ann", "count": "7", "ratio": "0.5", "admin": "true",
        });
        assert_eq!(block, expected);
    }
    message.answer_json(ok()).await;
    Ok(())
}

#[tokio::test]
async fn each_connection_has_the_context_that_was_made_for_it() -> Result<()> {
    let mut gateway = Gateway::start().await?;
    let mut sockets = Vec::new();
    for name in ["Ann", "Bob"] {
        gateway.authorize_as(&json!({"name": name}));
        sockets.push(gateway.connect().await?);
    }
    for (socket, name) in sockets.iter_mut().zip(["Ann", "Bob"]) {
        socket.send("who am I?").await?;
        let call = gateway.functions.next("default").await;
        assert_eq!(call.context("authorizer")["name"], name);
        call.answer_json(ok()).await;
    }
    Ok(())
}

#[tokio::test]
async fn a_missing_identity_source_is_a_401_and_nobody_is_asked() -> Result<()> {
    let both = AUTH_LINE.replace("X-Pass]", "X-Pass, route.request.querystring.room]");
    let mut gateway = Changes::default().replace(AUTH_LINE, &both).start().await?;
    let url = gateway.url().to_owned();
    let with_query = |query: &str| format!("{url}{query}");
    let pass = &[PASS][..];
    for (query, headers) in [
        ("", &[][..]),
        ("", pass),
        ("?room=a", &[]),
        ("?room=", pass),
        ("?Room=a", pass),
        ("?room=a", &[("X-Pass", "")]),
    ] {
        let refused = WebSocket::refused(&with_query(query), headers).await?;
        assert_eq!(refused.status, 401, "{query} {headers:?}");
        let body: Value = serde_json::from_str(&refused.body)?;
        check_error_frame(&body, "Unauthorized", body["connectionId"].as_str().context("an id")?);
    }
    let _socket = WebSocket::connect(&with_query("?room=first"), &[("x-PASS", "yes")]).await?;
    let asked = gateway.functions.next("authorize").await;
    assert_eq!(asked.event()["queryStringParameters"]["room"], "first", "the first to be asked about");
    Ok(())
}

#[tokio::test]
async fn only_a_throw_of_exactly_unauthorized_is_a_401() -> Result<()> {
    let gateway = Gateway::start().await?;
    for (message, expected) in
        [("Unauthorized", 401), ("unauthorized", 500), ("Unauthorized.", 500), ("boom", 500)]
    {
        let status = status_of(&gateway, Instruction::Throw(message.into())).await?;
        assert_eq!(status, expected, "for {message}");
    }
    Ok(())
}

#[tokio::test]
async fn a_policy_decides_by_its_effect_and_its_resource() -> Result<()> {
    let gateway = Gateway::start().await?;
    let own = "arn:aws:execute-api:*:*:*/test/$connect";
    for (effect, resource, expected) in [
        ("Allow", own, 101),
        ("Allow", "arn:aws:execute-api:us-east-1:*/*", 101),
        ("Allow", "arn:aws:execute-api:*:*:*/other/$connect", 403),
        ("Allow", "arn:aws:execute-api:*:*:*/test/$default", 403),
        ("Deny", own, 403),
        ("Deny", "*", 403),
    ] {
        let statement = json!({"Effect": effect, "Action": "execute-api:Invoke", "Resource": resource});
        let status = status_of(&gateway, Instruction::Return(policy(&statement, &json!({})))).await?;
        assert_eq!(status, expected, "{effect} {resource}");
    }
    Ok(())
}

#[tokio::test]
async fn the_arn_that_it_was_asked_about_is_one_that_it_can_allow() -> Result<()> {
    let mut gateway = Gateway::start().await?;
    gateway.functions.hold("authorize");
    let handshake = gateway.connecting();
    let call = gateway.functions.next("authorize").await;
    let arn = call.event()["methodArn"].clone();
    let statement = json!({"Effect": "Allow", "Action": "execute-api:Invoke", "Resource": arn});
    call.answer_json(policy(&statement, &json!({}))).await;
    handshake.await??;
    Ok(())
}

#[tokio::test]
async fn every_other_failure_is_a_500() -> Result<()> {
    let gateway = Gateway::start().await?;
    let allow = json!({"Effect": "Allow", "Action": "*", "Resource": "*"});
    let mut nobody = policy(&allow, &json!({}));
    nobody.as_object_mut().expect("an object").remove("principalId");
    for failure in [
        Instruction::Panic("boom".into()),
        Instruction::Exit(1),
        Instruction::Return(Value::Null),
        Instruction::Return(json!({"principalId": "ann"})),
        Instruction::Return(json!({"isAuthorized": true})),
        Instruction::Return(nobody),
        Instruction::Return(policy(&allow, &json!({"an": {"object": 1}}))),
        Instruction::Return(policy(&allow, &json!({"a": ["list"]}))),
    ] {
        let status = status_of(&gateway, failure.clone()).await?;
        assert_eq!(status, 500, "for {failure:?}");
    }
    Ok(())
}

#[tokio::test]
async fn its_answer_may_have_8_kb_and_no_more() -> Result<()> {
    let gateway = Gateway::start().await?;
    let answer = |filling: usize| {
        policy(
            &json!({"Effect": "Allow", "Action": "*", "Resource": "*"}),
            &json!({"filling": "x".repeat(filling)}),
        )
    };
    let room = 8 * 1024 - answer(0).to_string().len();
    assert_eq!(status_of(&gateway, Instruction::Return(answer(room))).await?, 101);
    assert_eq!(status_of(&gateway, Instruction::Return(answer(room + 1))).await?, 500);
    Ok(())
}

#[tokio::test]
async fn who_is_refused_never_reaches_connect_and_nothing_is_cached() -> Result<()> {
    let mut gateway = Gateway::start().await?;
    let deny = json!({"Effect": "Deny", "Action": "*", "Resource": "*"});
    gateway.functions.script("authorize", Instruction::Return(policy(&deny, &json!({}))));
    let refused = gateway.refused().await?;
    assert_eq!(refused.status, 403);

    // The same credentials again: the authorizer is asked again, and now it says yes.
    gateway.authorize_as(&json!({"turn": "second"}));
    let _socket = gateway.connect().await?;
    let connect = gateway.functions.next("connect").await;
    assert_eq!(connect.context("authorizer")["turn"], "second", "the first that $connect hears of");
    Ok(())
}

#[tokio::test]
async fn an_authorizer_that_takes_too_long_makes_the_handshake_a_500() -> Result<()> {
    let mut gateway = Changes::default().argument("--authorizer-limit-seconds=0.2").start().await?;
    gateway.functions.hold("authorize");
    let handshake = gateway.connecting();
    let call = gateway.functions.next("authorize").await;
    let refused = handshake.await?.err().context("it is refused")?.downcast::<Refused>()?;
    assert_eq!(refused.status, 500);
    call.answer_json(policy(&json!([]), &json!({}))).await;
    gateway.aws.terminate()?;
    gateway.aws.ended().await?;
    assert!(gateway.aws.log().contains("the authorizer timed out"), "{}", gateway.aws.log());
    Ok(())
}
