//! A whole Banter of its own for one test: database, Redis, local AWS, and the checks that must hold after any test.

use std::{
    collections::BTreeMap,
    fmt::Write,
    panic::{AssertUnwindSafe, resume_unwind},
    time::Duration,
};

use aws_sdk_sqs::{
    Client,
    config::{Config, Credentials, Region},
    types::{QueueAttributeName, SendMessageBatchRequestEntry},
};
use futures::FutureExt;
use redis::AsyncCommands;
use serde_json::Value;
use servers::{Postgres, PostgresOptions, Redis, RedisCluster, RedisClusterOptions, RedisOptions};
use sqlx::{Connection, Executor, PgConnection};
use tokio::time::timeout;
use uuid::Uuid;

use crate::{
    api::{Api, PATIENCE},
    chat::parse_position,
    ledger::Ledger,
    local_aws::{self, LocalAws, workspace_dir},
    redis_server::{RedisConnection, RedisServer},
    user::User,
};

/// A running Banter. Its parts are killed, frozen and restarted by tests.
pub struct TestApp {
    /// The local AWS with all functions.
    pub aws: LocalAws,
    /// The HTTP API.
    pub api: Api,
    /// The Postgres server. Tests that stop it ask for one of their own with [`Setup::own_postgres`].
    pub postgres: Database,
    /// The Redis of this test alone.
    pub redis: RedisServer,
    ledger: Ledger,
    expected: Expected,
}

/// What a test breaks on purpose.
#[derive(Default)]
struct Expected {
    failures: bool,
    ghosts: bool,
}

/// A database of one test.
pub struct Database {
    server: Option<Postgres>,
    admin_url: String,
    name: String,
}

/// How a test wants its Banter.
#[derive(Default)]
#[must_use]
pub struct Setup {
    variables: Vec<(String, String)>,
    own_postgres: bool,
    redis_tls: bool,
    redis_cluster: bool,
    own_process_group: bool,
}

impl Setup {
    /// Sets a variable of the configuration.
    pub fn set(mut self, variable: &str, value: &str) -> Self {
        self.variables.retain(|(name, _)| name != variable);
        self.variables.push((variable.to_owned(), value.to_owned()));
        self
    }

    /// Gives the test a Postgres server that it may stop.
    pub fn own_postgres(mut self) -> Self {
        self.own_postgres = true;
        self
    }

    /// Gives the test a Redis that speaks TLS only, with a certificate that no system trusts.
    pub fn redis_tls(mut self) -> Self {
        self.redis_tls = true;
        self
    }

    /// Gives the test a Redis Cluster as it is in earnest: three masters with a replica each, over TLS.
    pub fn redis_cluster(mut self) -> Self {
        self.redis_cluster = true;
        self
    }

    /// Keeps the local AWS running when somebody at the terminal types Ctrl-C: the program has to end it.
    pub fn own_process_group(mut self) -> Self {
        self.own_process_group = true;
        self
    }

    /// Starts everything. Whoever does not [`run`](Self::run) a test has to [`stop`](TestApp::stop) it.
    pub async fn start(self) -> TestApp {
        TestApp::start(self).await
    }

    /// Starts everything, runs the test, checks what must always hold, stops everything.
    pub async fn run(self, test: impl AsyncFnOnce(&mut TestApp)) {
        let mut app = TestApp::start(self).await;
        let whole = async {
            test(&mut app).await;
            app.check().await;
        };
        if let Err(panic) = AssertUnwindSafe(whole).catch_unwind().await {
            tell(&format!("---- the log of the local AWS ----\n{}", app.aws.log()));
            resume_unwind(panic);
        }
        app.remove().await;
    }
}

impl TestApp {
    /// Runs a test on a Banter without throttles, with everything else as by default.
    pub async fn run(test: impl AsyncFnOnce(&mut Self)) {
        Self::setup().run(test).await;
    }

    /// A Banter without throttles, with everything else as by default.
    pub fn setup() -> Setup {
        // All tests come from one address and some write as fast as they can; throttles have tests of their own.
        Setup::default().set("HTTP_THROTTLE", "unlimited").set("WEBSOCKET_THROTTLE", "unlimited")
    }

    /// A Banter with these variables.
    pub fn with<const N: usize>(variables: [(&str, &str); N]) -> Setup {
        variables.into_iter().fold(Self::setup(), |setup, (variable, value)| setup.set(variable, value))
    }

    async fn start(setup: Setup) -> Self {
        let postgres = Database::create(setup.own_postgres).await;
        let redis = if setup.redis_cluster {
            let cluster = RedisCluster::start(RedisClusterOptions::default()).await;
            RedisServer::Cluster(cluster.expect("the cluster starts"))
        } else {
            let options = RedisOptions { tls: setup.redis_tls, ..RedisOptions::default() };
            RedisServer::One(Box::new(Redis::start(options).await.expect("Redis starts")))
        };
        let mut variables = setup.variables;
        variables.push(("DATABASE_URL".to_owned(), postgres.url()));
        variables.extend(redis.variables());
        let mut template = local_aws::Setup::new(workspace_dir().join("template.yaml"));
        if setup.own_process_group {
            template = template.own_process_group();
        }
        let aws = variables.iter().fold(template, |setup, (name, value)| setup.variable(name, value));
        let aws = aws.start().await.expect("the local AWS starts");
        let ledger = Ledger::default();
        let api = Api::new(&aws.endpoints.http, ledger.clone());
        Self { aws, api, postgres, redis, ledger, expected: Expected::default() }
    }

    /// Stops everything, in good order where that is possible.
    pub async fn stop(mut self) {
        self.aws.terminate().expect("the local AWS runs");
        self.aws.ended().await.expect("the local AWS stops");
        self.remove().await;
    }

    async fn remove(self) {
        drop((self.aws, self.redis));
        self.postgres.remove().await;
    }

    /// Somebody new.
    pub async fn user(&self, first_name: &str) -> User {
        User::sign_up(&self.api, &self.aws.endpoints.websocket, first_name).await
    }

    /// Two people with an open socket each, both in a room that the first one made.
    pub async fn two_in_a_room(&self) -> (String, (User, crate::chat::Chat), (User, crate::chat::Chat)) {
        let (ada, bob) = (self.user("Ada").await, self.user("Bob").await);
        let room = ada.make_public_room().await;
        let (at_ada, at_bob) = (ada.join(&room).await, bob.join(&room).await);
        (room, (ada, at_ada), (bob, at_bob))
    }

    /// What the test's clients noted.
    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// Says that this test makes calls fail with a status of 500 and more.
    pub fn expect_failures(&mut self) {
        self.expected.failures = true;
    }

    /// Says that this test lets connections end without anybody being told, so that some are still on record at its end.
    pub fn expect_ghosts(&mut self) {
        self.expected.ghosts = true;
    }

    /// A connection to this test's Redis.
    pub async fn redis(&self) -> RedisConnection {
        self.redis.connect().await
    }

    /// The keys in Redis that match a pattern.
    pub async fn redis_keys(&self, pattern: &str) -> Vec<String> {
        self.redis().await.keys(pattern).await.expect("Redis answers")
    }

    /// A client of this test's SQS.
    pub fn sqs(&self) -> Client {
        let config = Config::builder()
            .behavior_version_latest()
            .endpoint_url(&self.aws.endpoints.sqs)
            .region(Region::from_static("eu-central-1"))
            .credentials_provider(Credentials::new("test", "test", None, None, "test"))
            .build();
        Client::from_conf(config)
    }

    /// The address of a queue, by its name in the template.
    pub fn queue_url(&self, queue: &str) -> String {
        format!("{}/000000000000/local-{queue}", self.aws.endpoints.sqs)
    }

    /// Puts messages into a queue, up to ten in one request, so that they arrive together. Answers their ids.
    pub async fn put(&self, queue: &str, bodies: &[String]) -> Vec<String> {
        let entries = bodies.iter().enumerate().map(|(number, body)| {
            let entry = SendMessageBatchRequestEntry::builder().id(number.to_string()).message_body(body);
            entry.build().expect("it has an id and a body")
        });
        let send = self.sqs().send_message_batch().queue_url(self.queue_url(queue));
        let sent = send.set_entries(Some(entries.collect())).send().await.expect("SQS takes them");
        assert!(sent.failed().is_empty(), "{sent:?}");
        let mut sent = sent.successful;
        sent.sort_by_key(|entry| entry.id.parse::<usize>().expect("it is a number"));
        sent.into_iter().map(|entry| entry.message_id).collect()
    }

    /// How many messages a queue has, whether anybody works on them or not.
    pub async fn queued(&self, queue: &str) -> usize {
        let url = self.queue_url(queue);
        let ask = self.sqs().get_queue_attributes().queue_url(url).attribute_names(QueueAttributeName::All);
        let attributes = ask.send().await.expect("SQS answers").attributes.expect("there are attributes");
        let counts = attributes.iter().filter(|(name, _)| name.as_str().starts_with("ApproximateNumber"));
        counts.map(|(_, count)| count.parse::<usize>().expect("a count is a number")).sum()
    }

    /// Waits until a queue has so many messages.
    pub async fn queue_has(&self, queue: &str, messages: usize) {
        eventually("the queue has so many messages", async || {
            let queued = self.queued(queue).await;
            if queued == messages { Ok(()) } else { Err(format!("{queue} has {queued} and not {messages}")) }
        })
        .await;
    }

    /// The bodies of the messages that wait in a queue, ten at most.
    pub async fn waiting(&self, queue: &str) -> Vec<String> {
        let receive = self.sqs().receive_message().queue_url(self.queue_url(queue));
        let received = receive.max_number_of_messages(10).send().await.expect("SQS answers");
        let messages = received.messages.unwrap_or_default();
        messages.into_iter().map(|message| message.body.expect("it has a body")).collect()
    }

    /// All lines of the log that are JSON.
    pub fn log_lines(&self) -> Vec<Value> {
        let log = self.aws.log();
        log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok()).collect()
    }

    /// The lines that a function has written for its calls.
    pub fn calls_of(&self, function: &str) -> Vec<Value> {
        let is_one = |line: &Value| line["message"] == "call" && line["function"] == function;
        self.log_lines().into_iter().filter(is_one).collect()
    }

    /// A connection to this test's database.
    pub async fn database(&self) -> PgConnection {
        PgConnection::connect(&self.postgres.url()).await.expect("Postgres answers")
    }

    /// Gives an account another id, for variables that name users and are set before anybody has signed up.
    pub async fn give_id(&self, user: User, id: &str) -> User {
        let mut database = self.database().await;
        for statement in [
            "update users set email = 'old-' || email where id = $2::text::uuid",
            "insert into users (id, first_name, last_name, email, password_hash)
             select $1::text::uuid, first_name, last_name, substr(email, 5), password_hash from users where id = $2::text::uuid",
            "update sessions set user_id = $1::text::uuid where user_id = $2::text::uuid",
        ] {
            // Every statement takes both, used or not.
            let statement = format!("with ids as (select $1::text, $2::text) {statement}");
            let query = sqlx::query(sqlx::AssertSqlSafe(statement)).bind(id).bind(&user.id);
            query.execute(&mut database).await.expect("the account can be moved");
        }
        user.with_id(id)
    }

    /// What must hold after every test. Stops the local AWS, because its log is whole only then.
    async fn check(&mut self) {
        self.check_acked().await;
        if !self.expected.ghosts {
            self.check_connections().await;
        }
        self.aws.terminate().expect("the local AWS runs");
        let status = self.aws.ended().await.expect("the local AWS stops");
        assert!(status.success(), "the local AWS did not stop in good order: {status}");
        check_log(&self.aws.log(), &self.ledger, &self.expected);
    }

    /// Acknowledged means kept: every event that a sender has an ack for reaches Postgres, once, at its place or at a
    /// smaller one that it had been given before.
    async fn check_acked(&self) {
        let acked = self.ledger.all_acked();
        if acked.is_empty() {
            return;
        }
        eventually("all that was acknowledged is in Postgres", async || {
            let stored = self.stored_events().await;
            let mut missing = acked.iter().filter(|acked| {
                let place = parse_position(&acked.position);
                !matches!(stored.get(&(acked.room.clone(), acked.event.clone())), Some(stored) if Some(*stored) <= place)
            });
            missing.next().map_or(Ok(()), |missing| Err(format!("{missing:?} is not there")))
        })
        .await;
    }

    /// The places of all events in Postgres, by room and by the name that senders know.
    async fn stored_events(&self) -> BTreeMap<(String, String), (u64, u64)> {
        const QUERY: &str =
            "select room_id, coalesce(logged_as, event_id)::text, position_ms, position_n from messages";
        let rows: Vec<(String, String, i64, i64)> =
            sqlx::query_as(QUERY).fetch_all(&mut self.database().await).await.expect("Postgres answers");
        let place = |ms: i64, n: i64| (ms.unsigned_abs(), n.unsigned_abs());
        rows.into_iter().map(|(room, event, ms, n)| ((room, event), place(ms, n))).collect()
    }

    /// Nothing is left of a connection that was closed, whether in good order or not.
    async fn check_connections(&self) {
        let left = async || {
            let mut left = Vec::new();
            for pattern in ["connection:*", "user:*:connections", "room:*:subscribers", "room:*:online"] {
                left.extend(self.redis_keys(pattern).await);
            }
            left
        };
        eventually("no key of a connection is left", async || {
            let left = left().await;
            if left.is_empty() { Ok(()) } else { Err(format!("{left:?}")) }
        })
        .await;
    }
}

#[expect(clippy::print_stderr, reason = "a failed test shows what happened, as its runner expects it")]
fn tell(text: &str) {
    eprintln!("{text}");
}

impl Database {
    async fn create(own_server: bool) -> Self {
        let given = std::env::var_os("TEST_POSTGRES_URL").and_then(|url| url.into_string().ok());
        let (server, admin_url) = match given {
            Some(url) if !own_server => (None, url),
            _ => {
                let server = Postgres::start(PostgresOptions::default()).await.expect("Postgres starts");
                let url = server.url("postgres");
                (Some(server), url)
            }
        };
        let database = Self { server, admin_url, name: format!("test_{}", Uuid::new_v4().simple()) };
        database.administer(&format!("create database {}", database.name)).await;
        database
    }

    /// The server, for a test that stops it.
    pub fn server(&mut self) -> &mut Postgres {
        self.server.as_mut().expect("the test asked for a server of its own")
    }

    /// The connection string of the database.
    pub fn url(&self) -> String {
        let (server, options) = self.admin_url.split_once('?').unwrap_or((&self.admin_url, ""));
        let (server, _) = server.rsplit_once('/').expect("the URL names a database");
        format!("{server}/{}?{options}", self.name)
    }

    async fn administer(&self, statement: &str) {
        let mut connection = PgConnection::connect(&self.admin_url).await.expect("Postgres answers");
        connection.execute(sqlx::AssertSqlSafe(statement)).await.expect("the statement is valid");
        connection.close().await.expect("Postgres answers");
    }

    async fn remove(self) {
        // One's own server goes with everything in it.
        if self.server.is_none() {
            self.administer(&format!("drop database {} with (force)", self.name)).await;
        }
    }
}

/// Looks at a condition until it holds. Panics with what `look` said last if it does not for too long.
pub async fn eventually<T>(condition: &str, look: impl AsyncFn() -> Result<T, String>) -> T {
    eventually_within(PATIENCE, condition, look).await
}

/// Looks at a condition for so long, or until it holds.
pub async fn eventually_within<T>(
    patience: Duration,
    condition: &str,
    look: impl AsyncFn() -> Result<T, String>,
) -> T {
    const LOOK_AGAIN: Duration = Duration::from_millis(5);
    let mut last = String::new();
    let looking = async {
        loop {
            match look().await {
                Ok(held) => return held,
                Err(seen) => last = seen,
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    };
    match timeout(patience, looking).await {
        Ok(held) => held,
        Err(_) => panic!("waited in vain until {condition}: {last}"),
    }
}

/// The log holds no secret, and no failure that the test did not cause on purpose.
fn check_log(log: &str, ledger: &Ledger, expected: &Expected) {
    let mut faults = String::new();
    let secrets = ledger.all_secrets();
    for line in log.lines() {
        if let Some(secret) = secrets.iter().find(|secret| line.contains(secret.as_str())) {
            writeln!(faults, "the secret {secret} is in the log: {line}").expect("a string takes all");
        }
        if line.contains("panicked") || (!expected.failures && tells_of_failure(line)) {
            writeln!(faults, "{line}").expect("a string takes all");
        }
    }
    assert!(faults.is_empty(), "{faults}");
}

fn tells_of_failure(line: &str) -> bool {
    let Ok(line) = serde_json::from_str::<Value>(line) else { return false };
    let is_error = line["level"].as_str().is_some_and(|level| level.eq_ignore_ascii_case("error"));
    is_error || line["status"].as_u64().is_some_and(|status| 500 <= status)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(log: &str, expected: &Expected) -> bool {
        let ledger = Ledger::default();
        ledger.secret("hunter2-hunter2");
        std::panic::catch_unwind(AssertUnwindSafe(|| check_log(log, &ledger, expected))).is_err()
    }

    #[test]
    fn a_log_with_a_secret_a_panic_or_a_failure_is_refused() {
        let nothing = Expected::default();
        assert!(!refused(r#"{"level":"INFO","status":404,"message":"access"}"#, &nothing));
        assert!(!refused("some words that are no JSON", &nothing));
        for line in [
            "GET /?password=hunter2-hunter2",
            r#"{"level":"INFO","status":500}"#,
            r#"{"level":"error","message":"a call has failed"}"#,
            "thread 'main' panicked at src/lib.rs:1:1",
        ] {
            assert!(refused(&format!("one line\n{line}\nanother line"), &nothing), "{line}");
        }
    }

    #[test]
    fn a_test_that_breaks_something_still_tells_of_no_secret_and_does_not_panic() {
        let broken = Expected { failures: true, ..Expected::default() };
        assert!(!refused(r#"{"level":"error","status":503}"#, &broken));
        assert!(refused("hunter2-hunter2", &broken));
        assert!(refused("panicked", &broken));
    }
}
