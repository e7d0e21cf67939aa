//! The connection to one Redis or to a cluster: made on first use, made anew when it broke.

use std::{
    future::Future,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use redis::{
    Client, Cmd, ConnectionAddr, ConnectionInfo, ErrorKind, FromRedisValue, RedisError, RedisResult,
    ServerErrorKind, TlsCertificates, Value,
    aio::{ConnectionManager, ConnectionManagerConfig},
    cluster::{ClusterClient, ClusterClientBuilder},
    cluster_async::ClusterConnection,
};
use tokio::time::timeout;

use crate::{
    configuration::{ConfigurationError, RedisSection},
    error::{Error, Result},
};

/// Redis answers in less than a millisecond, or something is wrong with it.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(2);

/// With TLS on a small function that does other things as well. Twice as long has to fit into [`CALL_LIMIT`]: a cluster
/// with a silent node is waited for twice, once for the node and once when all are connected to.
const CONNECT_TIMEOUT: Duration = Duration::from_millis(1_500);

/// How long a call waits for Redis in all, with whatever is tried meanwhile. Somebody waits for the function: better
/// `unavailable` now than success in ten seconds. A cluster often has a new master by then.
const CALL_LIMIT: Duration = Duration::from_secs(4);

/// A connection that can be shared by all the commands of a function at once.
#[derive(Clone)]
pub(super) enum Link {
    Single(ConnectionManager),
    Cluster(Arc<Cluster>),
}

/// A cluster, connected to on first use, and anew when it answers no more.
///
/// The client follows the masters by itself as long as it reaches any node that it knows. What it cannot get over are a
/// node that hangs, and a time without any node: then it never again asks the address that it was given at first.
pub(super) struct Cluster {
    /// The address of `REDIS_URL`.
    seed: ConnectionInfo,
    certificates: Option<TlsCertificates>,
    connection: Mutex<Option<ClusterConnection>>,
    /// The nodes that the cluster had at the last connect, because the one at the seed may be the one that died. Whoever
    /// connects holds the lock meanwhile.
    known: tokio::sync::Mutex<Vec<ConnectionInfo>>,
}

impl Cluster {
    fn new(section: &RedisSection, certificates: Option<TlsCertificates>) -> RedisResult<Self> {
        let cluster = Self {
            seed: section.connection.clone(),
            certificates,
            connection: Mutex::default(),
            known: tokio::sync::Mutex::default(),
        };
        // Whether the seed can be used shows at the start, not at the first call.
        cluster.client(&[])?;
        Ok(cluster)
    }

    fn client(&self, known: &[ConnectionInfo]) -> RedisResult<ClusterClient> {
        let mut builder = ClusterClientBuilder::new([&self.seed].into_iter().chain(known).cloned())
            .connection_timeout(CONNECT_TIMEOUT)
            .response_timeout(RESPONSE_TIMEOUT)
            // A call has a limit of its own, and tries until then: every second of these tries follows at once, because
            // the replica sends it on to its dead master.
            .overall_response_timeout(None)
            .retries(40)
            .min_retry_wait(50)
            .max_retry_wait(500);
        if let Some(certificates) = &self.certificates {
            builder = builder.certs(certificates.clone());
        }
        builder.build()
    }

    async fn connection(&self) -> RedisResult<ClusterConnection> {
        if let Some(connection) = self.connected() {
            return Ok(connection);
        }
        let mut known = self.known.lock().await;
        // Somebody else may have been faster.
        if let Some(connection) = self.connected() {
            return Ok(connection);
        }
        let mut connection = self.client(&known)?.get_async_connection().await?;
        // The client does not tell which nodes it has found.
        let slots = redis::cmd("CLUSTER").arg("SLOTS").query_async(&mut connection).await?;
        *known = nodes_of(&slots).map(|(host, port)| self.node(host, port)).collect();
        *self.lock() = Some(connection.clone());
        Ok(connection)
    }

    fn connected(&self) -> Option<ClusterConnection> {
        self.lock().clone()
    }

    /// The next call connects anew; calls that are under way keep what they have.
    fn forget(&self) {
        *self.lock() = None;
    }

    fn lock(&self) -> MutexGuard<'_, Option<ClusterConnection>> {
        self.connection.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How a node is reached: as the seed is, at another address.
    fn node(&self, host: &str, port: u16) -> ConnectionInfo {
        let host = host.to_owned();
        let address = match self.seed.addr().clone() {
            ConnectionAddr::TcpTls { insecure, tls_params, .. } => {
                ConnectionAddr::TcpTls { host, port, insecure, tls_params }
            }
            _ => ConnectionAddr::Tcp(host, port),
        };
        self.seed.clone().set_addr(address)
    }

    /// Forgets the connection if this answer tells that it leads to the wrong nodes, or nowhere.
    fn judge<T>(&self, answer: RedisResult<T>) -> RedisResult<T> {
        let is_lost = |error: &RedisError| {
            use ServerErrorKind::{Ask, MasterDown, Moved, ReadOnly};
            matches!(
                error.kind(),
                ErrorKind::Io
                    | ErrorKind::ClusterConnectionNotFound
                    | ErrorKind::Server(Ask | MasterDown | Moved | ReadOnly)
            )
        };
        answer.inspect_err(|error| {
            if is_lost(error) {
                self.forget();
            }
        })
    }
}

/// The nodes in an answer to `CLUSTER SLOTS`: of each range of slots its ends, then its nodes, each with its host, its
/// port and more. A node without a host is the one that was asked, or unknown.
fn nodes_of(slots: &Value) -> impl Iterator<Item = (&str, u16)> {
    fn items(value: &Value) -> &[Value] {
        match value {
            Value::Array(items) => items,
            _ => &[],
        }
    }
    fn node(value: &Value) -> Option<(&str, u16)> {
        let [Value::BulkString(host), Value::Int(port), ..] = items(value) else { return None };
        let host = std::str::from_utf8(host).ok().filter(|host| !matches!(*host, "" | "?"))?;
        Some((host, u16::try_from(*port).ok()?))
    }
    items(slots).iter().flat_map(|range| items(range).iter().skip(2)).filter_map(node)
}

impl Link {
    pub(super) fn new(section: &RedisSection) -> Result<Self, ConfigurationError> {
        let authorities = section.authorities.clone();
        let certificates = authorities.map(|pem| TlsCertificates { client_tls: None, root_cert: Some(pem) });
        let link = if section.cluster {
            Cluster::new(section, certificates).map(|cluster| Self::Cluster(Arc::new(cluster)))
        } else {
            single(section, certificates)
        };
        link.map_err(|error| ConfigurationError::Bad {
            variable: "REDIS_URL",
            // The error's own text could hold the URL, and that a password.
            reason: format!("cannot be used to connect ({:?})", error.kind()),
        })
    }

    pub(super) async fn query<T: FromRedisValue>(&self, command: &Cmd, operation: &'static str) -> Result<T> {
        let value = self.run(command).await.map_err(|cause| failed(operation, cause))?;
        T::from_redis_value(value).map_err(|cause| Error::internal(operation, cause))
    }

    /// Runs the commands of a pipeline in one round trip; all their keys carry one hash tag.
    pub(super) async fn run_pipeline(
        &self,
        pipeline: &redis::Pipeline,
        operation: &'static str,
    ) -> Result<()> {
        let running = async {
            match self.try_run_pipeline(pipeline).await {
                Err(error) if error.is_connection_dropped() => self.try_run_pipeline(pipeline).await,
                answer => answer,
            }
        };
        self.within_limit(running).await.map_err(|cause| failed(operation, cause))
    }

    /// Runs a command that takes something away, and does not try again when the answer is lost. The client of a cluster
    /// does when a line breaks: then it may be told that there was nothing.
    pub(super) async fn query_once<T: FromRedisValue>(
        &self,
        command: &Cmd,
        operation: &'static str,
    ) -> Result<T> {
        let value =
            self.within_limit(self.try_run(command)).await.map_err(|cause| failed(operation, cause))?;
        T::from_redis_value(value).map_err(|cause| Error::internal(operation, cause))
    }

    /// Runs a command. A connection that broke while the function was frozen only shows on its next use, so what
    /// failed with the connection is tried once more: every command and script that comes here is safe to run again.
    pub(super) async fn run(&self, command: &Cmd) -> RedisResult<Value> {
        let running = async {
            match self.try_run(command).await {
                Err(error) if error.is_connection_dropped() => self.try_run(command).await,
                answer => answer,
            }
        };
        self.within_limit(running).await
    }

    /// Waits for an answer no longer than a call may take.
    async fn within_limit<T>(&self, running: impl Future<Output = RedisResult<T>>) -> RedisResult<T> {
        if let Ok(answer) = timeout(CALL_LIMIT, running).await {
            return answer;
        }
        if let Self::Cluster(cluster) = self {
            cluster.forget();
        }
        Err((ErrorKind::Io, "no answer within the time of a call").into())
    }

    async fn try_run(&self, command: &Cmd) -> RedisResult<Value> {
        match self {
            Self::Single(manager) => command.query_async(&mut manager.clone()).await,
            Self::Cluster(cluster) => {
                cluster.judge(command.query_async(&mut cluster.connection().await?).await)
            }
        }
    }

    async fn try_run_pipeline(&self, pipeline: &redis::Pipeline) -> RedisResult<()> {
        match self {
            Self::Single(manager) => pipeline.query_async(&mut manager.clone()).await,
            Self::Cluster(cluster) => {
                cluster.judge(pipeline.query_async(&mut cluster.connection().await?).await)
            }
        }
    }
}

fn single(section: &RedisSection, certificates: Option<TlsCertificates>) -> RedisResult<Link> {
    let client = match certificates {
        Some(certificates) => Client::build_with_tls(section.connection.clone(), certificates)?,
        None => Client::open(section.connection.clone())?,
    };
    let config = ConnectionManagerConfig::new()
        .set_response_timeout(Some(RESPONSE_TIMEOUT))
        .set_connection_timeout(Some(CONNECT_TIMEOUT))
        // The caller is a function with somebody waiting: better `unavailable` now than success in ten seconds.
        .set_number_of_retries(1)
        .set_min_delay(Duration::from_millis(50));
    Ok(Link::Single(ConnectionManager::new_lazy_with_config(client, config)?))
}

/// What Redis itself refuses is a mistake of ours; everything else is Redis being away, starting, or failing over.
pub(super) fn failed(operation: &'static str, cause: RedisError) -> Error {
    // Short of memory, of disk, of time, or of replicas: that passes.
    if matches!(cause.code(), Some("OOM" | "MISCONF" | "BUSY" | "NOREPLICAS")) {
        return Error::unavailable(operation, cause);
    }
    match cause.kind() {
        ErrorKind::Server(
            ServerErrorKind::ResponseError | ServerErrorKind::NoSub | ServerErrorKind::NotBusy,
        )
        | ErrorKind::Extension
        | ErrorKind::UnexpectedReturnType
        | ErrorKind::Parse => Error::internal(operation, cause),
        _ => Error::unavailable(operation, cause),
    }
}
