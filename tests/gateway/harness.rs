//! A local AWS whose functions are in the test's hands.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use aws_sdk_apigatewaymanagement::Client;
use aws_sdk_apigatewaymanagement::config::retry::RetryConfig;
use aws_sdk_apigatewaymanagement::config::{Config, Credentials, Region};
use serde_json::{Value, json};
use tempfile::TempDir;
use tests::fixture::{self, Call, Functions, Instruction};
use tests::local_aws::{LocalAws, Setup};
use tests::websocket::{Refused, WebSocket};

/// Every function of the template.
pub(crate) const FUNCTIONS: [&str; 6] = ["authorize", "connect", "disconnect", "default", "reply", "brief"];

/// What the authorizer of the template asks for.
pub(crate) const PASS: (&str, &str) = ("X-Pass", "let me in");

/// The template's line of the authorizer and of some routes, for tests that change them.
pub(crate) const AUTH_LINE: &str = "      Auth: {AuthType: CUSTOM, AuthArn: !GetAtt Authorize.Arn, IdentitySource: [route.request.header.X-Pass]}\n";
pub(crate) const CONNECT_LINE: &str = "        $connect: {FunctionArn: !GetAtt Connect.Arn}\n";
pub(crate) const DISCONNECT_LINE: &str = "        $disconnect: {FunctionArn: !GetAtt Disconnect.Arn}\n";
pub(crate) const DEFAULT_LINE: &str = "        $default: {FunctionArn: !GetAtt Default.Arn}\n";

pub(crate) struct Gateway {
    pub(crate) aws: LocalAws,
    pub(crate) functions: Functions,
    _folder: TempDir,
}

/// How a test's gateway differs from the template.
#[derive(Default)]
pub(crate) struct Changes {
    /// Texts of the template and what stands there instead.
    pub(crate) template: Vec<(String, String)>,
    /// Arguments of `local up`.
    pub(crate) arguments: Vec<String>,
}

impl Changes {
    pub(crate) fn replace(mut self, from: &str, to: &str) -> Self {
        self.template.push((from.to_owned(), to.to_owned()));
        self
    }

    pub(crate) fn without(self, line: &str) -> Self {
        self.replace(line, "")
    }

    pub(crate) fn argument(mut self, argument: &str) -> Self {
        self.arguments.push(argument.to_owned());
        self
    }

    pub(crate) async fn start(self) -> Result<Gateway> {
        let folder = tempfile::Builder::new().prefix("gateway-test-").tempdir()?;
        let functions = Functions::listen().await?;
        // A test says so if it wants to hear of these itself.
        functions.script("authorize", Instruction::Return(allow(&json!({}))));
        for function in ["connect", "disconnect"] {
            functions.script(function, Instruction::Return(json!({"statusCode": 200})));
        }
        let binaries = folder.path().join("functions");
        fixture::binaries(&binaries, &FUNCTIONS)?;
        let template = folder.path().join("template.yaml");
        std::fs::write(&template, self.template(functions.address())?)?;
        let setup = Setup::new(&template).functions(&binaries);
        let setup = self.arguments.iter().fold(setup, Setup::argument);
        Ok(Gateway { aws: setup.start().await?, functions, _folder: folder })
    }

    fn template(&self, address: &str) -> Result<String> {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("gateway/template.yaml");
        let mut text = std::fs::read_to_string(path)?;
        let address = ("Default: nobody".to_owned(), format!("Default: {address}"));
        for (from, to) in self.template.iter().chain([&address]) {
            ensure!(text.matches(from).count() == 1, "the template must have this once: {from}");
            text = text.replace(from, to);
        }
        Ok(text)
    }
}

impl Gateway {
    pub(crate) async fn start() -> Result<Self> {
        Changes::default().start().await
    }

    pub(crate) fn url(&self) -> &str {
        &self.aws.endpoints.websocket
    }

    /// The URL with another stage or path.
    pub(crate) fn url_with_path(&self, path: &str) -> String {
        let (host, _) = self.url().rsplit_once('/').expect("the URL ends in the stage");
        format!("{host}{path}")
    }

    /// `127.0.0.1:<port>`.
    pub(crate) fn host(&self) -> &str {
        self.url().trim_start_matches("ws://").split('/').next().expect("a URL has a host")
    }

    /// Opens a connection; its authorizer and `$connect` must be scripted.
    pub(crate) async fn connect(&self) -> Result<WebSocket> {
        WebSocket::connect(self.url(), &[PASS]).await
    }

    /// Opens a connection and tells its id.
    pub(crate) async fn connect_with_id(&mut self) -> Result<(WebSocket, String)> {
        let socket = self.connect().await?;
        let id = self.functions.next("connect").await.connection_id().to_owned();
        Ok((socket, id))
    }

    /// What refuses a handshake that brings all it should.
    pub(crate) async fn refused(&self) -> Result<Refused> {
        WebSocket::refused(self.url(), &[PASS]).await
    }

    /// Starts a handshake that a function is going to hold.
    pub(crate) fn connecting(&self) -> tokio::task::JoinHandle<Result<WebSocket>> {
        let url = self.url().to_owned();
        tokio::spawn(async move { WebSocket::connect(&url, &[PASS]).await })
    }

    /// Makes the authorizer allow with this context.
    pub(crate) fn authorize_as(&self, context: &Value) {
        self.functions.script("authorize", Instruction::Return(allow(context)));
    }

    /// Sends a frame that `reply` answers, and checks that the answer is the next frame to come: whatever
    /// should not have come has not.
    pub(crate) async fn check_nothing_waits(&mut self, socket: &mut WebSocket) -> Result<()> {
        socket.send_json(&json!({"action": "reply", "marker": true})).await?;
        loop {
            let call = self.functions.next("reply").await;
            if call.event()["body"].as_str().is_some_and(|body| body.contains("marker")) {
                call.answer_json(json!({"statusCode": 200, "body": "the marker"})).await;
                break;
            }
        }
        ensure!(socket.next().await? == "the marker");
        Ok(())
    }

    /// AWS's own client of `@connections`.
    pub(crate) fn management(&self) -> Client {
        self.management_at(&self.aws.endpoints.management)
    }

    pub(crate) fn management_at(&self, url: &str) -> Client {
        let config = Config::builder()
            .endpoint_url(url)
            .region(Region::from_static("us-east-1"))
            .credentials_provider(Credentials::new("AKIATEST", "secret", None, None, "test"))
            // An error is to be seen, not repeated until it goes away.
            .retry_config(RetryConfig::disabled())
            .build();
        Client::from_conf(config)
    }

    pub(crate) async fn post(&self, id: &str, data: impl Into<Vec<u8>>) -> Result<()> {
        let data = aws_sdk_apigatewaymanagement::primitives::Blob::new(data);
        self.management().post_to_connection().connection_id(id).data(data).send().await?;
        Ok(())
    }
}

/// An authorizer's answer that allows everything.
pub(crate) fn allow(context: &Value) -> Value {
    policy(&json!({"Effect": "Allow", "Action": "execute-api:Invoke", "Resource": "*"}), context)
}

pub(crate) fn policy(statement: &Value, context: &Value) -> Value {
    json!({
        "principalId": "ann",
        "policyDocument": {"Version": "2012-10-17", "Statement": [statement]},
        "context": context,
    })
}

pub(crate) fn ok() -> Value {
    json!({"statusCode": 200})
}

/// Checks that an object has these keys and no other.
#[track_caller]
pub(crate) fn check_keys(object: &Value, expected: &[&str]) {
    let keys: BTreeSet<&str> = object.as_object().expect("an object").keys().map(String::as_str).collect();
    assert_eq!(keys, expected.iter().copied().collect::<BTreeSet<_>>());
}

/// Checks that a frame is one of the gateway's own errors.
#[track_caller]
pub(crate) fn check_error_frame(frame: &Value, message: &str, connection_id: &str) {
    check_keys(frame, &["message", "connectionId", "requestId"]);
    assert_eq!(frame["message"], message);
    assert_eq!(frame["connectionId"], connection_id);
    check_id(&frame["requestId"]);
}

/// Checks that a value is an id: the URL-safe base64 of 11 bytes.
#[track_caller]
pub(crate) fn check_id(value: &Value) {
    let id = value.as_str().expect("an id is a string");
    assert_eq!(id.len(), 16, "{id}");
    let digits = id.strip_suffix('=').expect("an id ends in =");
    assert!(digits.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte)), "{id}");
}

/// The event of a call, read as the functions read it.
pub(crate) fn typed<T: serde::de::DeserializeOwned>(call: &Call) -> Result<T> {
    serde_json::from_value(call.event().clone()).context("aws_lambda_events cannot read the event")
}
