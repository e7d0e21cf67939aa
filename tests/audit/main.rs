//! The audit, under each fault alone: writers and readers at work, something breaks, and nothing acknowledged is lost.
//!
//! A failed test tells its seed; `AUDIT_SEED` repeats its choices.

use std::time::{Duration, Instant};

use tests::{
    audit::{
        Audit, Plan, any_seed,
        faults::{Driver, Fault},
    },
    test_app::{Setup, TestApp},
};
use tokio::sync::watch;

/// Time to work before the first fault.
const BEFORE: Duration = Duration::from_secs(2);
/// How long a fault is on, if it does not say so itself.
const FAULT: Duration = Duration::from_secs(10);

fn seed() -> u64 {
    let given = std::env::var_os("AUDIT_SEED").and_then(|seed| seed.into_string().ok());
    given.map_or_else(any_seed, |seed| seed.parse().expect("AUDIT_SEED is a number"))
}

#[expect(clippy::print_stderr, reason = "a failed test shows what happened, as its runner expects it")]
fn tell(text: &str) {
    eprintln!("{text}");
}

/// Everybody at work under these faults, one after the other.
async fn audit(setup: Setup, faults: &[Fault]) {
    let seed = seed();
    tell(&format!("AUDIT_SEED={seed}"));
    setup
        .run(async |app| {
            if !faults.is_empty() {
                app.expect_failures();
                app.expect_ghosts();
            }
            let audit = Audit::start(app, Plan::short(seed)).await;
            let mut driver = Driver::new(seed, watch::channel(false).1);
            driver.rest(BEFORE).await;
            for &fault in faults {
                let before = Instant::now();
                driver.make(app, &audit, &[fault], FAULT).await;
                check_chat_goes_on(&audit, fault, before);
            }
            if faults.is_empty() {
                driver.rest(FAULT).await;
            }
            let verdict = audit.finish(app, |_| {}).await;
            tell(&verdict.table(driver.made()));
            assert!(verdict.is_good(), "AUDIT_SEED={seed}\n{}", verdict.offenders());
            assert!(20 < verdict.acked, "so little was written that it proves nothing: {verdict:?}");
        })
        .await;
}

/// Without Postgres chat goes on: it is where messages go in the end, not what they wait for.
fn check_chat_goes_on(audit: &Audit, fault: Fault, begin: Instant) {
    if fault == Fault::PostgresAway {
        let (from, to) = (begin + Duration::from_secs(5), begin + Duration::from_secs(20));
        let acked = audit.notes.acks().iter().filter(|ack| (from..to).contains(&ack.at)).count();
        assert!(20 < acked, "while Postgres was away only {acked} messages were acknowledged");
    }
}

#[tokio::test]
async fn nothing_is_lost_doubled_or_in_another_order_when_nothing_fails() {
    audit(TestApp::setup(), &[]).await;
}

#[tokio::test]
async fn nothing_is_lost_when_the_function_of_the_frames_is_killed_in_mid_call() {
    audit(TestApp::setup(), &[Fault::MessageKilled]).await;
}

#[tokio::test]
async fn nothing_is_lost_when_the_archive_is_killed_in_mid_call() {
    audit(TestApp::setup(), &[Fault::ArchiveKilled]).await;
}

#[tokio::test]
async fn nothing_is_lost_when_redis_comes_back_empty_and_once_more() {
    audit(TestApp::setup(), &[Fault::RedisEmpty, Fault::RedisEmpty]).await;
}

#[tokio::test]
async fn nothing_is_lost_when_redis_comes_back_as_it_was_seconds_before_and_once_more() {
    audit(TestApp::setup(), &[Fault::RedisGoesBack, Fault::RedisGoesBack]).await;
}

#[tokio::test]
async fn nothing_is_lost_when_a_cluster_loses_the_master_of_a_room() {
    audit(TestApp::setup().redis_cluster(), &[Fault::MasterLost]).await;
}

#[tokio::test]
async fn nothing_is_lost_when_redis_is_frozen() {
    audit(TestApp::setup(), &[Fault::RedisFrozen]).await;
}

#[tokio::test]
async fn nothing_is_lost_and_chat_goes_on_when_postgres_is_away() {
    audit(TestApp::setup().own_postgres(), &[Fault::PostgresAway]).await;
}

#[tokio::test]
async fn nothing_is_lost_when_the_queue_refuses() {
    audit(TestApp::setup(), &[Fault::QueueRefuses]).await;
}

#[tokio::test]
async fn nothing_is_doubled_when_the_queue_delivers_twice() {
    audit(TestApp::setup(), &[Fault::QueueDuplicates]).await;
}

#[tokio::test]
async fn nothing_is_lost_when_pushes_are_throttled() {
    audit(TestApp::setup(), &[Fault::PushesThrottled]).await;
}

#[tokio::test]
async fn nothing_is_lost_when_pushes_fail() {
    audit(TestApp::setup(), &[Fault::PushesFail]).await;
}

#[tokio::test]
async fn nothing_is_lost_when_the_gateway_takes_living_sockets_for_gone() {
    audit(TestApp::setup(), &[Fault::PushesGone]).await;
}

#[tokio::test]
async fn nothing_is_lost_when_pushes_are_not_answered() {
    audit(TestApp::setup(), &[Fault::PushesUnanswered]).await;
}

#[tokio::test]
async fn nothing_is_lost_when_pushes_are_answered_and_not_delivered() {
    audit(TestApp::setup(), &[Fault::PushesLost]).await;
}

#[tokio::test]
async fn nothing_is_lost_when_no_disconnect_is_delivered() {
    audit(TestApp::setup(), &[Fault::DisconnectDropped]).await;
}

#[tokio::test]
async fn nothing_is_lost_when_the_gateway_dies_with_all_its_sockets() {
    audit(TestApp::setup(), &[Fault::GatewayKilled, Fault::GatewayKilled]).await;
}

#[tokio::test]
async fn nothing_is_lost_when_readers_stop_reading() {
    audit(TestApp::setup(), &[Fault::ReadersDeaf]).await;
}
