//! The Redis of one test: one server, or a cluster.

use redis::{
    Cmd, Pipeline, RedisFuture, TlsCertificates, Value,
    aio::{ConnectionLike, MultiplexedConnection},
    cluster::ClusterClientBuilder,
    cluster_async::ClusterConnection,
};
use servers::{ClusterSnapshot, Error, Redis, RedisCluster, Snapshot};
use std::path::Path;

/// What tests kill, freeze and look into.
pub enum RedisServer {
    /// One server.
    One(Box<Redis>),
    /// A cluster, whose servers share one fate, unless it [loses a master](RedisServer::lose_a_master).
    Cluster(RedisCluster),
}

/// Everything that it knew at one moment, kept aside.
pub enum RedisSnapshot {
    /// What one server knew.
    One(Snapshot),
    /// What a cluster knew, each shard at a moment of its own.
    Cluster(ClusterSnapshot),
}

impl RedisServer {
    /// The variables that lead functions to it.
    pub fn variables(&self) -> Vec<(String, String)> {
        let mut variables = vec![("REDIS_URL", self.url())];
        let authority = self.ca_file().map(|path| path.to_string_lossy().into_owned());
        variables.extend(authority.map(|authority| ("REDIS_CA_FILE", authority)));
        if let Self::Cluster(_) = self {
            variables.push(("REDIS_CLUSTER", "true".to_owned()));
        }
        variables.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
    }

    /// The connection string.
    pub fn url(&self) -> String {
        match self {
            Self::One(server) => server.url(),
            Self::Cluster(cluster) => cluster.url(),
        }
    }

    /// The certificate of the authority that signed the server's, as a PEM file, if it speaks TLS.
    pub fn ca_file(&self) -> Option<&Path> {
        match self {
            Self::One(server) => server.ca_file(),
            Self::Cluster(cluster) => cluster.ca_file(),
        }
    }

    /// Opens a connection to look behind the functions' backs.
    pub async fn connect(&self) -> RedisConnection {
        let certificates = self.ca_file().map(|authority| {
            let authority = std::fs::read(authority).expect("the certificate is there");
            TlsCertificates { client_tls: None, root_cert: Some(authority) }
        });
        match self {
            Self::One(server) => {
                let client = match certificates {
                    None => redis::Client::open(server.url()),
                    Some(certificates) => redis::Client::build_with_tls(server.url(), certificates),
                };
                let client = client.expect("the URL is Redis'");
                RedisConnection::One(client.get_multiplexed_async_connection().await.expect("Redis answers"))
            }
            Self::Cluster(cluster) => {
                // The first of them may be the one that is lost.
                let running = cluster.nodes().filter(|node| node.pid().is_some()).map(Redis::url);
                let mut client = ClusterClientBuilder::new(running);
                if let Some(certificates) = certificates {
                    client = client.certs(certificates);
                }
                let client = client.build().expect("the URLs are Redis'");
                RedisConnection::Cluster(client.get_async_connection().await.expect("the cluster answers"))
            }
        }
    }

    /// Shuts it down in good order.
    pub async fn stop(&mut self) -> Result<(), Error> {
        match self {
            Self::One(server) => server.stop().await,
            Self::Cluster(cluster) => cluster.stop().await,
        }
    }

    /// Kills it, as a power cut would.
    pub async fn kill(&mut self) -> Result<(), Error> {
        match self {
            Self::One(server) => server.kill().await,
            Self::Cluster(cluster) => cluster.kill().await,
        }
    }

    /// Starts what of it is not running again, at the same address. It keeps nothing, except that of a cluster a server
    /// that was lost alone gets everything back from the one that took its place.
    pub async fn resume(&mut self) -> Result<(), Error> {
        match self {
            Self::One(server) => server.resume().await,
            Self::Cluster(cluster) => cluster.resume().await,
        }
    }

    /// Kills it and starts it again without anything that it had.
    pub async fn restart_empty(&mut self) -> Result<(), Error> {
        self.kill().await?;
        self.resume().await
    }

    /// Keeps everything that it knows now aside.
    pub async fn snapshot(&self) -> Result<RedisSnapshot, Error> {
        match self {
            Self::One(server) => server.snapshot().await.map(RedisSnapshot::One),
            Self::Cluster(cluster) => cluster.snapshot().await.map(RedisSnapshot::Cluster),
        }
    }

    /// Kills it and starts it again with what it knew at the time of the snapshot and nothing newer, as if replicas had
    /// taken over that had not everything yet.
    ///
    /// # Panics
    /// If the snapshot is one of the other kind.
    pub async fn restart_from(&mut self, snapshot: &RedisSnapshot) -> Result<(), Error> {
        match (self, snapshot) {
            (Self::One(server), RedisSnapshot::One(snapshot)) => server.restart_from(snapshot).await,
            (Self::Cluster(cluster), RedisSnapshot::Cluster(snapshot)) => {
                cluster.restart_from(snapshot).await
            }
            _ => panic!("a snapshot of one server is none of a cluster"),
        }
    }

    /// Kills the master that holds a key, as a power cut would, and waits until its replica has taken its place, some
    /// seconds. [`resume`](Self::resume) brings the lost one back, as a replica.
    ///
    /// # Panics
    /// If it is one server: there is nobody to take its place.
    pub async fn lose_a_master(&mut self, key: &str) -> Result<(), Error> {
        let Self::Cluster(cluster) = self else { panic!("one server is no cluster") };
        cluster.kill_master(cluster.shard_of(key).await?).await
    }

    /// Stops it where it is: connections stay open and nobody answers.
    pub fn freeze(&mut self) -> Result<(), Error> {
        match self {
            Self::One(server) => server.freeze(),
            Self::Cluster(cluster) => cluster.freeze(),
        }
    }

    /// Lets it go on.
    pub fn thaw(&mut self) -> Result<(), Error> {
        match self {
            Self::One(server) => server.thaw(),
            Self::Cluster(cluster) => cluster.thaw(),
        }
    }
}

/// A connection to either.
pub enum RedisConnection {
    /// To one server.
    One(MultiplexedConnection),
    /// To a cluster: each command goes to the server that has its keys.
    Cluster(ClusterConnection),
}

impl ConnectionLike for RedisConnection {
    fn req_packed_command<'a>(&'a mut self, command: &'a Cmd) -> RedisFuture<'a, Value> {
        match self {
            Self::One(connection) => connection.req_packed_command(command),
            Self::Cluster(connection) => connection.req_packed_command(command),
        }
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        pipeline: &'a Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        match self {
            Self::One(connection) => connection.req_packed_commands(pipeline, offset, count),
            Self::Cluster(connection) => connection.req_packed_commands(pipeline, offset, count),
        }
    }

    fn get_db(&self) -> i64 {
        match self {
            Self::One(connection) => connection.get_db(),
            Self::Cluster(connection) => connection.get_db(),
        }
    }
}
