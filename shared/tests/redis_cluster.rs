//! The stores in Redis on a cluster whose nodes die: three masters with a replica each, over TLS.

use std::{
    cell::Cell,
    time::{Duration, Instant},
};

use futures::future::join_all;
use redis::TlsCertificates;
use servers::{RedisCluster, RedisClusterOptions};
use shared::{
    Error,
    configuration::{Environment, RedisSection},
    domain::{
        messages::{ClientId, ConnectionId, EventId, Text},
        rates::Rates,
        rooms::RoomId,
        users::UserId,
    },
    identity::Identity,
    protocol::frames::{Content, EventBody},
    redis::{JoinOutcome, Redis, Resume},
    token::TokenHash,
};
use uuid::Uuid;

/// Who calls a function has an answer by then, with some time for a machine that does other things as well.
const ANSWERED: Duration = Duration::from_secs(6);

/// So many keys that no shard is without.
const SUBJECTS: usize = 12;

async fn start() -> RedisCluster {
    RedisCluster::start(RedisClusterOptions::default()).await.expect("the cluster starts")
}

/// A store as a function of this cluster makes it.
fn store(cluster: &RedisCluster) -> Redis {
    let authority = cluster.ca_file().expect("it speaks TLS").to_string_lossy().into_owned();
    let variables =
        [("REDIS_URL", cluster.url()), ("REDIS_CA_FILE", authority), ("REDIS_CLUSTER", "true".to_owned())];
    // Nobody else needs the table's values to live as long as the program.
    let variables = variables.map(|(name, value)| (name, &*value.leak()));
    let section = Environment::of_table(variables).section::<RedisSection>();
    Redis::new(&section.expect("the section is whole")).expect("the store is made")
}

/// Calls a script on the shard of this subject: whether it was done. It is either done or `unavailable`, and soon.
async fn call(redis: &Redis, subject: usize) -> bool {
    let rates = Rates::parse("100/second").expect("is a rate");
    let begin = Instant::now();
    let answer = redis.throttle("login", &format!("subject {subject}"), &rates).await;
    let took = begin.elapsed();
    assert!(took < ANSWERED, "{took:?}: {answer:?}");
    match answer {
        Ok(()) | Err(Error::Throttled { .. }) => true,
        Err(Error::Unavailable { .. }) => false,
        Err(other) => panic!("{:?}", other.cause_chain()),
    }
}

/// Calls for all subjects side by side: how many calls were done.
async fn call_all(redis: &Redis) -> usize {
    let calls = join_all((0..SUBJECTS).map(|subject| call(redis, subject))).await;
    calls.into_iter().filter(|done| *done).count()
}

/// Calls until every shard answers again.
async fn is_served(redis: &Redis) {
    let begin = Instant::now();
    while call_all(redis).await < SUBJECTS {
        assert!(begin.elapsed() < Duration::from_secs(15), "it is not served again");
    }
}

/// Goes on calling while something happens to the cluster: how many of the calls were done.
async fn call_during<T>(redis: &Redis, happens: impl Future<Output = T>) -> usize {
    let is_over = Cell::new(false);
    let happens = async {
        happens.await;
        is_over.set(true);
    };
    let calling = async {
        let mut done = 0;
        while !is_over.get() {
            done += call_all(redis).await;
        }
        done
    };
    tokio::join!(happens, calling).1
}

#[tokio::test]
async fn when_a_master_is_lost_everything_is_served_or_unavailable_and_served_again_within_seconds() {
    let mut cluster = start().await;
    let redis = store(&cluster);
    is_served(&redis).await;
    // Also the one at the address that the function was given.
    for shard in [1, 0] {
        let done = call_during(&redis, async {
            cluster.kill_master(shard).await.expect("the replica takes over");
        })
        .await;
        assert!(0 < done, "the other shards are served meanwhile");
        is_served(&redis).await;
    }
    call_during(&redis, async {
        cluster.resume().await.expect("the lost ones come back");
    })
    .await;
    is_served(&redis).await;
}

#[tokio::test]
async fn when_a_master_hangs_everything_is_served_or_unavailable_and_served_again_within_seconds() {
    let mut cluster = start().await;
    let redis = store(&cluster);
    is_served(&redis).await;
    call_during(&redis, async {
        cluster.freeze_master(0).await.expect("the replica takes over");
    })
    .await;
    is_served(&redis).await;
    cluster.thaw().expect("thaws");
    is_served(&redis).await;
}

#[tokio::test]
async fn when_the_node_of_the_url_is_lost_the_others_are_remembered() {
    let mut cluster = start().await;
    let redis = store(&cluster);
    is_served(&redis).await;
    cluster.kill_master(0).await.expect("the replica takes over");
    is_served(&redis).await;
    // Nobody answers, so that the function has to find the cluster anew.
    cluster.freeze().expect("freezes");
    assert_eq!(call_all(&redis).await, 0);
    cluster.thaw().expect("thaws");
    is_served(&redis).await;
    assert!(!call(&store(&cluster), 0).await, "the address that the function was given leads to nobody");
}

#[tokio::test]
async fn a_replica_that_takes_over_has_the_room_and_learns_the_scripts() {
    let mut cluster = start().await;
    let redis = store(&cluster);
    let room = RoomId::parse("general").expect("is an id");
    let session = TokenHash::of("session");
    let ada = Identity { user: UserId::new(Uuid::from_u128(1)), name: "Ada Lovelace".to_owned(), session };
    let connection = ConnectionId::new("a=");
    let id = ClientId::parse("1").expect("is an id");
    let message = EventBody {
        event: EventId::of_client(&room, ada.user, &id),
        from: ada.author(),
        content: Content::Message {
            text: Text::parse("Is this kept?").expect("is a text"),
            id: Some(id),
            reply_to: None,
        },
    };
    let joined = redis.join(&room, &connection, &ada, None, &Resume::Newest, 50).await.expect("answers");
    assert!(matches!(joined, JoinOutcome::Joined(_)), "{joined:?}");
    let posted = redis.post(&room, &connection, &message, None).await.expect("answers");

    let shard = cluster.shard_of("room:{general}:log").await.expect("answers");
    wait_for_the_replica(&cluster, shard).await;
    cluster.kill_master(shard).await.expect("the replica takes over");
    let repeated = loop {
        match redis.post(&room, &connection, &message, None).await {
            Err(Error::Unavailable { .. }) => (),
            answer => break answer.expect("it is unavailable or answers"),
        }
    };
    assert_eq!(repeated.position, posted.position);
}

/// Returns when a shard's replica has everything that its master has now.
async fn wait_for_the_replica(cluster: &RedisCluster, shard: usize) {
    let authority =
        std::fs::read(cluster.ca_file().expect("it speaks TLS")).expect("the certificate is there");
    let certificates = TlsCertificates { client_tls: None, root_cert: Some(authority) };
    let master = cluster.nodes().nth(shard).expect("each shard has a master");
    let client = redis::Client::build_with_tls(master.url(), certificates).expect("a URL");
    let mut connection = client.get_multiplexed_async_connection().await.expect("the master answers");
    // WAIT waits for what its own connection wrote, and with that for everything before.
    let () = redis::cmd("SET").arg("{general}").arg(1).query_async(&mut connection).await.expect("writes");
    let mut command = redis::cmd("WAIT");
    let replicas: u64 = command.arg(1).arg(5_000).query_async(&mut connection).await.expect("answers");
    assert_eq!(replicas, 1);
}
