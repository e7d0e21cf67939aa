//! The connection to one Redis or to a cluster: made on first use, made anew when it broke.

use std::{sync::Arc, time::Duration};

use redis::{
    Client, Cmd, FromRedisValue, RedisError, RedisResult, TlsCertificates, Value,
    aio::{ConnectionManager, ConnectionManagerConfig},
    cluster::{ClusterClient, ClusterClientBuilder},
    cluster_async::ClusterConnection,
};
use tokio::sync::Mutex;

use crate::{
    configuration::{ConfigurationError, RedisSection},
    error::{Error, Result},
};

/// Redis answers in less than a millisecond, or something is wrong with it.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(2);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// A connection that can be shared by all the commands of a function at once.
#[derive(Clone)]
pub(super) enum Link {
    Single(ConnectionManager),
    Cluster(Arc<Cluster>),
}

/// A cluster, connected to on first use.
pub(super) struct Cluster {
    client: ClusterClient,
    connection: Mutex<Option<ClusterConnection>>,
}

impl Cluster {
    async fn connection(&self) -> RedisResult<ClusterConnection> {
        let mut connection = self.connection.lock().await;
        match &*connection {
            Some(connected) => Ok(connected.clone()),
            None => Ok(connection.insert(self.client.get_async_connection().await?).clone()),
        }
    }
}

impl Link {
    pub(super) fn new(section: &RedisSection) -> Result<Self, ConfigurationError> {
        let authorities = section.authorities.clone();
        let certificates = authorities.map(|pem| TlsCertificates { client_tls: None, root_cert: Some(pem) });
        let link =
            if section.cluster { cluster(section, certificates) } else { single(section, certificates) };
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
        let answer = match self.try_run_pipeline(pipeline).await {
            Err(error) if error.is_connection_dropped() => self.try_run_pipeline(pipeline).await,
            answer => answer,
        };
        answer.map_err(|cause| failed(operation, cause))
    }

    /// Runs a command that must not run twice.
    pub(super) async fn query_once<T: FromRedisValue>(
        &self,
        command: &Cmd,
        operation: &'static str,
    ) -> Result<T> {
        let value = self.try_run(command).await.map_err(|cause| failed(operation, cause))?;
        T::from_redis_value(value).map_err(|cause| Error::internal(operation, cause))
    }

    /// Runs a command. A connection that broke while the function was frozen only shows on its next use, so what
    /// failed with the connection is tried once more: every command and script that comes here is safe to run again.
    pub(super) async fn run(&self, command: &Cmd) -> RedisResult<Value> {
        match self.try_run(command).await {
            Err(error) if error.is_connection_dropped() => self.try_run(command).await,
            answer => answer,
        }
    }

    async fn try_run(&self, command: &Cmd) -> RedisResult<Value> {
        match self {
            Self::Single(manager) => command.query_async(&mut manager.clone()).await,
            Self::Cluster(cluster) => command.query_async(&mut cluster.connection().await?).await,
        }
    }

    async fn try_run_pipeline(&self, pipeline: &redis::Pipeline) -> RedisResult<()> {
        match self {
            Self::Single(manager) => pipeline.query_async(&mut manager.clone()).await,
            Self::Cluster(cluster) => pipeline.query_async(&mut cluster.connection().await?).await,
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

fn cluster(section: &RedisSection, certificates: Option<TlsCertificates>) -> RedisResult<Link> {
    let mut builder = ClusterClientBuilder::new([section.connection.clone()])
        .connection_timeout(CONNECT_TIMEOUT)
        .response_timeout(RESPONSE_TIMEOUT)
        // The default of 16 would outlast the function.
        .retries(3);
    if let Some(certificates) = certificates {
        builder = builder.certs(certificates);
    }
    Ok(Link::Cluster(Arc::new(Cluster { client: builder.build()?, connection: Mutex::default() })))
}

/// What Redis itself refuses is a mistake of ours; everything else is Redis being away, starting, or failing over.
pub(super) fn failed(operation: &'static str, cause: RedisError) -> Error {
    use redis::{ErrorKind, ServerErrorKind};
    // Short of memory, or of disk: that passes.
    if matches!(cause.code(), Some("OOM" | "MISCONF")) {
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
