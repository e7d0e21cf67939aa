//! The Redis of one test: one server, or a cluster.

use redis::{
    Cmd, Pipeline, RedisFuture, Value,
    aio::{ConnectionLike, MultiplexedConnection},
    cluster::ClusterClient,
    cluster_async::ClusterConnection,
};
use servers::{Error, Redis, RedisCluster};

/// What tests kill, freeze and look into.
pub enum RedisServer {
    /// One server.
    One(Box<Redis>),
    /// A cluster, whose servers share one fate.
    Cluster(RedisCluster),
}

impl RedisServer {
    /// The variables that lead functions to it.
    pub fn variables(&self) -> Vec<(String, String)> {
        let mut variables = vec![("REDIS_URL", self.url())];
        match self {
            Self::One(server) => {
                let authority = server.ca_file().map(|path| path.to_string_lossy().into_owned());
                variables.extend(authority.map(|authority| ("REDIS_CA_FILE", authority)));
            }
            Self::Cluster(_) => variables.push(("REDIS_CLUSTER", "true".to_owned())),
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

    /// Opens a connection to look behind the functions' backs.
    pub async fn connect(&self) -> RedisConnection {
        let server = match self {
            Self::Cluster(cluster) => {
                let client = ClusterClient::new([cluster.url()]).expect("the URL is Redis'");
                let connection = client.get_async_connection().await.expect("the cluster answers");
                return RedisConnection::Cluster(connection);
            }
            Self::One(server) => server,
        };
        let client = match server.ca_file() {
            None => redis::Client::open(server.url()),
            Some(authority) => {
                let root_cert = Some(std::fs::read(authority).expect("the certificate is there"));
                let certificates = redis::TlsCertificates { client_tls: None, root_cert };
                redis::Client::build_with_tls(server.url(), certificates)
            }
        };
        let client = client.expect("the URL is Redis'");
        RedisConnection::One(client.get_multiplexed_async_connection().await.expect("Redis answers"))
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

    /// Starts it again at the same address. It keeps nothing.
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
