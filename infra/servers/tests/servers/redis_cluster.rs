use crate::{eventually, is_gone, is_running};
use redis::{
    AsyncCommands, Client, TlsCertificates,
    aio::MultiplexedConnection,
    cluster::{ClusterClient, ClusterClientBuilder},
    cluster_async::ClusterConnection,
};
use servers::{Redis, RedisCluster, RedisClusterOptions};
use std::{
    fs,
    time::{Duration, Instant},
};

/// Three masters with a replica each, over TLS.
async fn start() -> RedisCluster {
    RedisCluster::start(RedisClusterOptions::default()).await.expect("the cluster starts")
}

/// Three masters and nothing else.
async fn start_plain() -> RedisCluster {
    let options = RedisClusterOptions { replicas: 0, tls: false, ..RedisClusterOptions::default() };
    RedisCluster::start(options).await.expect("the cluster starts")
}

fn certificates(cluster: &RedisCluster) -> Option<TlsCertificates> {
    let authority = fs::read(cluster.ca_file()?).expect("the authority's certificate");
    Some(TlsCertificates { client_tls: None, root_cert: Some(authority) })
}

async fn connect(cluster: &RedisCluster) -> ClusterConnection {
    let running = cluster.nodes().filter(|node| node.pid().is_some()).map(Redis::url);
    let mut builder = ClusterClientBuilder::new(running);
    if let Some(certificates) = certificates(cluster) {
        builder = builder.certs(certificates);
    }
    builder.build().expect("URLs").get_async_connection().await.expect("the cluster answers")
}

async fn connect_to_node(cluster: &RedisCluster, node: &Redis) -> MultiplexedConnection {
    let client = match certificates(cluster) {
        Some(certificates) => Client::build_with_tls(node.url(), certificates),
        None => Client::open(node.url()),
    };
    client.expect("a URL").get_multiplexed_async_connection().await.expect("the node answers")
}

/// How many keys each node holds itself, in the order of the nodes.
async fn keys_of_each(cluster: &RedisCluster) -> Vec<u64> {
    let mut keys = Vec::new();
    for node in cluster.nodes() {
        let mut connection = connect_to_node(cluster, node).await;
        keys.push(redis::cmd("DBSIZE").query_async(&mut connection).await.expect("the node answers"));
    }
    keys
}

async fn write(cluster: &RedisCluster, numbers: impl IntoIterator<Item = u32>) {
    let mut connection = connect(cluster).await;
    for number in numbers {
        let () = connection.set(format!("key {number}"), number).await.expect("writes");
    }
}

/// Those of the numbers up to 300 that the cluster has.
async fn read(cluster: &RedisCluster) -> Vec<u32> {
    let mut connection = connect(cluster).await;
    let mut found = Vec::new();
    for number in 0..300 {
        let number: Option<u32> = connection.get(format!("key {number}")).await.expect("reads");
        found.extend(number);
    }
    found
}

fn numbers(range: std::ops::Range<u32>) -> Vec<u32> {
    range.collect()
}

#[tokio::test]
async fn the_masters_share_the_keys_out_and_every_one_of_them_serves() {
    let begin = Instant::now();
    let cluster = start_plain().await;
    let took = begin.elapsed();
    assert!(took < Duration::from_secs(10), "a start takes {took:?}");
    write(&cluster, 0..300).await;
    assert_eq!(read(&cluster).await, numbers(0..300));
    let keys = keys_of_each(&cluster).await;
    assert!(keys.len() == 3 && keys.iter().all(|keys| 50 < *keys), "{keys:?} of 300");
    assert_eq!(keys.iter().sum::<u64>(), 300, "each key is in one place");
}

#[tokio::test]
async fn each_replica_has_what_its_master_has() {
    let begin = Instant::now();
    let cluster = start().await;
    let took = begin.elapsed();
    assert!(took < Duration::from_secs(10), "a start takes {took:?}");
    write(&cluster, 0..300).await;
    eventually("the replicas have it too", async || {
        let keys = keys_of_each(&cluster).await;
        keys.len() == 6 && keys[..3] == keys[3..]
    })
    .await;
    assert_eq!(keys_of_each(&cluster).await.iter().sum::<u64>(), 600, "each key is in two places");
    for key in ["one", "{two}:a", "key 3"] {
        let shard = cluster.shard_of(&key.replace(' ', "_")).await.expect("answers");
        let node = cluster.nodes().nth(shard).expect("each shard has a master");
        let mut connection = connect_to_node(&cluster, node).await;
        let () = connection.set(key.replace(' ', "_"), 1).await.expect("it is where the cluster says");
    }
}

#[tokio::test]
async fn a_script_whose_keys_are_in_different_slots_is_refused() {
    let mut connection = connect(&start_plain().await).await;
    let mut run = async |keys: [&str; 2]| {
        let mut command = redis::cmd("EVAL");
        command.arg("return redis.call('EXISTS', KEYS[1], KEYS[2])").arg(2).arg(&keys);
        command.query_async::<u64>(&mut connection).await
    };
    assert_eq!(run(["{one}:a", "{one}:b"]).await.expect("one slot"), 0);
    let refused = run(["{one}:a", "{two}:a"]).await.expect_err("two slots");
    assert!(refused.to_string().to_lowercase().contains("slot"), "{refused}");
}

#[tokio::test]
async fn nobody_without_the_password_is_answered_by_any_of_them() {
    let cluster = start().await;
    for node in cluster.nodes() {
        let (_, address) =
            node.url().rsplit_once('@').map(|(_, host)| ((), host.to_owned())).expect("a password");
        let certificates = certificates(&cluster).expect("it speaks TLS");
        let client = Client::build_with_tls(format!("rediss://{address}"), certificates).expect("a URL");
        let mut stranger = client.get_multiplexed_async_connection().await.expect("the port is open");
        let refused = stranger.get::<_, Option<String>>("key").await.expect_err("a password is needed");
        assert_eq!(refused.code(), Some("NOAUTH"), "{refused}");
    }
}

#[tokio::test]
async fn a_cluster_over_tls_is_trusted_by_who_has_the_authority_and_by_nobody_else() {
    let cluster = start().await;
    assert!(cluster.url().starts_with("rediss://"), "{}", cluster.url());
    for node in cluster.nodes() {
        connect_to_node(&cluster, node).await;
        let stranger = Client::open(node.url()).expect("a URL");
        let refused = stranger.get_multiplexed_async_connection().await.expect_err("is not trusted");
        assert!(refused.to_string().contains("certificate"), "{refused}");
        let plain = Client::open(node.url().replace("rediss://", "redis://")).expect("a URL");
        plain.get_multiplexed_async_connection().await.expect_err("it speaks TLS only");
    }
}

#[tokio::test]
async fn when_a_master_is_lost_its_replica_serves_what_it_had_and_later_the_other_way_round() {
    let mut cluster = start().await;
    write(&cluster, 0..100).await;
    eventually("the replicas have it too", async || {
        let keys = keys_of_each(&cluster).await;
        keys[..3] == keys[3..]
    })
    .await;
    let begin = Instant::now();
    cluster.kill_master(0).await.expect("the replica takes over");
    let took = begin.elapsed();
    assert!(took < Duration::from_secs(15), "the failover took {took:?}");
    let running: Vec<_> = cluster.nodes().map(|node| node.pid().is_some()).collect();
    assert_eq!(running, [false, true, true, true, true, true]);
    assert_eq!(read(&cluster).await, numbers(0..100));
    write(&cluster, 100..200).await;

    cluster.resume().await.expect("the lost one comes back");
    assert_eq!(read(&cluster).await, numbers(0..200));
    // What came meanwhile has come to it.
    eventually("the lost one is a replica", async || {
        let keys = keys_of_each(&cluster).await;
        0 < keys[0] && keys[..3] == keys[3..]
    })
    .await;
    cluster.kill_master(0).await.expect("the one that was lost before takes over");
    let running: Vec<_> = cluster.nodes().map(|node| node.pid().is_some()).collect();
    assert_eq!(running, [true, true, true, false, true, true]);
    assert_eq!(read(&cluster).await, numbers(0..200));
}

#[tokio::test]
async fn when_a_master_hangs_its_replica_serves_and_the_master_obeys_when_it_goes_on() {
    let mut cluster = start().await;
    cluster.freeze_master(2).await.expect("the replica takes over");
    cluster.thaw().expect("thaws");
    cluster.resume().await.expect("it is a replica");
    write(&cluster, 0..100).await;
    assert_eq!(read(&cluster).await, numbers(0..100));
    eventually("the one that hung is a replica", async || {
        let keys = keys_of_each(&cluster).await;
        0 < keys[2] && keys[..3] == keys[3..]
    })
    .await;
}

#[tokio::test]
async fn a_cluster_that_was_killed_comes_back_empty_at_the_same_url_with_the_same_slots() {
    let mut cluster = start().await;
    let (url, authority) = (cluster.url(), certificates(&cluster).expect("it speaks TLS"));
    write(&cluster, 0..10).await;
    cluster.kill().await.expect("dies");
    assert!(cluster.nodes().all(|node| node.pid().is_none()));
    let client = ClusterClientBuilder::new([url.clone()]).certs(authority).build().expect("a URL");
    assert!(client.get_async_connection().await.is_err(), "somebody answers");
    cluster.resume().await.expect("comes back");
    assert_eq!(cluster.url(), url);
    assert_eq!(read(&cluster).await, numbers(0..0));
    write(&cluster, 0..30).await;
    assert_eq!(read(&cluster).await, numbers(0..30), "every slot is served");
}

#[tokio::test]
async fn a_cluster_without_replicas_can_be_killed_frozen_and_stopped_as_one() {
    let mut cluster = start_plain().await;
    let client = ClusterClient::new([cluster.url()]).expect("a URL");
    write(&cluster, 0..3).await;
    cluster.freeze().expect("freezes");
    let asking = tokio::time::timeout(Duration::from_millis(300), client.get_async_connection()).await;
    assert!(asking.is_err(), "somebody answers");
    cluster.thaw().expect("thaws");
    assert_eq!(read(&cluster).await, numbers(0..3));
    cluster.stop().await.expect("stops");
    cluster.resume().await.expect("comes back");
    assert_eq!(read(&cluster).await, numbers(0..0));
}

#[tokio::test]
async fn a_cluster_that_restarts_from_a_snapshot_knows_what_it_knew_then_and_nothing_newer() {
    let mut cluster = start().await;
    write(&cluster, 0..100).await;
    let snapshot = cluster.snapshot().await.expect("is kept aside");
    write(&cluster, 100..200).await;
    // Whoever serves a shard then: the data are the shard's.
    cluster.kill_master(1).await.expect("the replica takes over");
    cluster.restart_from(&snapshot).await.expect("comes back");
    assert_eq!(read(&cluster).await, numbers(0..100));
    write(&cluster, 200..300).await;
    cluster.kill_master(2).await.expect("the replica takes over");
    let found = read(&cluster).await;
    assert_eq!(found[..100], numbers(0..100), "a replica has the snapshot as well");

    cluster.kill().await.expect("dies");
    cluster.resume().await.expect("comes back");
    assert_eq!(read(&cluster).await, numbers(0..0), "a snapshot is used once");
}

#[tokio::test]
async fn a_cluster_ends_with_its_owner_and_leaves_nothing_behind() {
    let cluster = start().await;
    let left: Vec<_> = cluster
        .nodes()
        .map(|node| (node.pid().expect("it runs"), node.log().parent().expect("a folder").to_owned()))
        .collect();
    let shared = cluster.ca_file().and_then(|path| path.parent()).expect("it is in a folder").to_owned();
    eventually("all run", async || left.iter().all(|(pid, folder)| is_running(*pid) && folder.exists()))
        .await;
    drop(cluster);
    for (pid, folder) in left {
        is_gone(pid, &folder).await;
    }
    eventually("the certificates are removed", async || !shared.exists()).await;
}
