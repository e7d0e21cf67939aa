use crate::{eventually, is_gone, is_running};
use redis::{AsyncCommands, Client, cluster::ClusterClient, cluster_async::ClusterConnection};
use servers::{Redis, RedisCluster};
use std::time::{Duration, Instant};

async fn start() -> RedisCluster {
    RedisCluster::start(3).await.expect("the cluster starts")
}

async fn connect(cluster: &RedisCluster) -> ClusterConnection {
    let client = ClusterClient::new([cluster.url()]).expect("a URL");
    client.get_async_connection().await.expect("the cluster answers")
}

/// How many keys a node holds itself.
async fn keys_of(node: &Redis) -> u64 {
    let client = Client::open(node.url()).expect("a URL");
    let mut connection = client.get_multiplexed_async_connection().await.expect("the node answers");
    redis::cmd("DBSIZE").query_async(&mut connection).await.expect("the node answers")
}

#[tokio::test]
async fn the_masters_share_the_keys_out_and_every_one_of_them_serves() {
    let begin = Instant::now();
    let cluster = start().await;
    let took = begin.elapsed();
    assert!(took < Duration::from_secs(10), "a start takes {took:?}");
    let mut connection = connect(&cluster).await;
    for number in 0..300 {
        let () = connection.set(format!("key {number}"), number).await.expect("writes");
    }
    for number in 0..300 {
        let read: u32 = connection.get(format!("key {number}")).await.expect("reads");
        assert_eq!(read, number);
    }
    let mut all = 0;
    for node in cluster.nodes() {
        let keys = keys_of(node).await;
        assert!(50 < keys, "one of three holds {keys} of 300");
        all += keys;
    }
    assert_eq!(all, 300, "each key is in one place");
}

#[tokio::test]
async fn a_script_whose_keys_are_in_different_slots_is_refused() {
    let mut connection = connect(&start().await).await;
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
        let client = Client::open(format!("redis://{address}")).expect("a URL");
        let mut stranger = client.get_multiplexed_async_connection().await.expect("the port is open");
        let refused = stranger.get::<_, Option<String>>("key").await.expect_err("a password is needed");
        assert_eq!(refused.code(), Some("NOAUTH"), "{refused}");
    }
}

#[tokio::test]
async fn a_cluster_that_was_killed_comes_back_empty_at_the_same_url_with_the_same_slots() {
    let mut cluster = start().await;
    let url = cluster.url();
    let () = connect(&cluster).await.set("key", 1).await.expect("writes");
    cluster.kill().await.expect("dies");
    assert!(cluster.nodes().iter().all(|node| node.pid().is_none()));
    let asked = ClusterClient::new([url.clone()]).expect("a URL").get_async_connection().await;
    assert!(asked.is_err(), "somebody answers");
    cluster.resume().await.expect("comes back");
    assert_eq!(cluster.url(), url);
    let mut connection = connect(&cluster).await;
    assert_eq!(connection.get::<_, Option<u32>>("key").await.expect("reads"), None);
    for number in 0..30 {
        let () = connection.set(format!("key {number}"), number).await.expect("every slot is served");
    }
}

#[tokio::test]
async fn a_cluster_ends_with_its_owner_and_leaves_nothing_behind() {
    let cluster = start().await;
    let left: Vec<_> = cluster
        .nodes()
        .iter()
        .map(|node| (node.pid().expect("it runs"), node.log().parent().expect("a folder").to_owned()))
        .collect();
    eventually("all run", async || left.iter().all(|(pid, folder)| is_running(*pid) && folder.exists()))
        .await;
    drop(cluster);
    for (pid, folder) in left {
        is_gone(pid, &folder).await;
    }
}
