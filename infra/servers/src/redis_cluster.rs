use crate::{
    Error, Redis, RedisOptions,
    process::LOOK_AGAIN,
    redis::{START_LIMIT, new_password},
};
use std::{net::Ipv4Addr, time::Instant};

/// The hash slots that the masters of a cluster share out among them.
const SLOTS: usize = 16_384;

/// A private Redis Cluster of masters without replicas, whose data is gone with it. Dropping it ends the servers at
/// once.
#[derive(Debug)]
pub struct RedisCluster {
    nodes: Vec<Redis>,
}

impl RedisCluster {
    /// Starts so many masters, gives each its equal part of the slots, and waits until every one of them knows all the
    /// others and serves. That takes two seconds: so long a master of Redis waits before it believes in its cluster.
    ///
    /// # Panics
    /// With fewer than three masters: a cluster decides by majority.
    pub async fn start(masters: usize) -> Result<Self, Error> {
        assert!(3 <= masters, "a cluster decides by majority");
        // One for all, because clients take what they were given for the first node.
        let password = new_password()?;
        let mut nodes = Vec::with_capacity(masters);
        for _ in 0..masters {
            nodes.push(Redis::start_node(RedisOptions::default(), password.clone()).await?);
        }
        let cluster = Self { nodes };
        cluster.share_out().await?;
        cluster.wait_until_whole().await?;
        Ok(cluster)
    }

    /// The connection string of the first node, from which clients learn of the others. It stays the same when the
    /// cluster is stopped and resumed.
    pub fn url(&self) -> String {
        self.nodes[0].url()
    }

    /// The servers.
    pub fn nodes(&self) -> &[Redis] {
        &self.nodes
    }

    /// Shuts all servers down in good order.
    pub async fn stop(&mut self) -> Result<(), Error> {
        for node in &mut self.nodes {
            node.stop().await?;
        }
        Ok(())
    }

    /// Kills all servers, as a power cut would.
    pub async fn kill(&mut self) -> Result<(), Error> {
        for node in &mut self.nodes {
            node.kill().await?;
        }
        Ok(())
    }

    /// Starts the servers again, at the same addresses and with the same slots, and waits until the cluster is whole.
    pub async fn resume(&mut self) -> Result<(), Error> {
        for node in &mut self.nodes {
            node.resume().await?;
        }
        self.wait_until_whole().await
    }

    /// Stops all servers where they are: connections stay open and nobody answers.
    pub fn freeze(&mut self) -> Result<(), Error> {
        self.nodes.iter_mut().try_for_each(Redis::freeze)
    }

    /// Lets frozen servers go on.
    pub fn thaw(&mut self) -> Result<(), Error> {
        self.nodes.iter_mut().try_for_each(Redis::thaw)
    }

    /// Gives the nodes their slots and makes them known to each other.
    async fn share_out(&self) -> Result<(), Error> {
        let first = &self.nodes[0];
        let address = format!(
            "{} {} {}",
            Ipv4Addr::LOCALHOST,
            first.port(),
            first.bus_port().expect("it was started as a node")
        );
        for (index, node) in self.nodes.iter().enumerate() {
            let slots = index * SLOTS / self.nodes.len()..(index + 1) * SLOTS / self.nodes.len();
            order(node, &format!("CLUSTER ADDSLOTSRANGE {} {}", slots.start, slots.end - 1)).await?;
            // Different from the start, so that the nodes need not settle it among them.
            order(node, &format!("CLUSTER SET-CONFIG-EPOCH {}", index + 1)).await?;
            if 0 < index {
                order(node, &format!("CLUSTER MEET {address}")).await?;
            }
        }
        Ok(())
    }

    async fn wait_until_whole(&self) -> Result<(), Error> {
        let begin = Instant::now();
        for node in &self.nodes {
            while let Err(state) = self.is_whole_for(node).await {
                if begin.elapsed() > START_LIMIT {
                    let reason =
                        format!("the cluster is not whole after {} s: {state}", START_LIMIT.as_secs());
                    return Err(node.not_started(reason));
                }
                tokio::time::sleep(LOOK_AGAIN).await;
            }
        }
        Ok(())
    }

    /// Whether this node serves and is connected to all others, or what it says of the cluster instead.
    async fn is_whole_for(&self, node: &Redis) -> Result<(), String> {
        let failed = |error: std::io::Error| error.to_string();
        let info = node.ask("CLUSTER INFO").await.map_err(failed)?;
        let known = format!("cluster_known_nodes:{}\r\n", self.nodes.len());
        if !info.contains("cluster_state:ok\r\n") || !info.contains(&known) {
            return Err(info);
        }
        // A client that asks it for the slots now must be told of all of them.
        let nodes = node.ask("CLUSTER NODES").await.map_err(failed)?;
        let serving =
            nodes.lines().filter(|line| line.contains(" connected ") && !line.contains("fail")).count();
        if serving < self.nodes.len() { Err(nodes) } else { Ok(()) }
    }
}

/// Tells a node what to do.
async fn order(node: &Redis, command: &str) -> Result<(), Error> {
    match node.ask(command).await {
        Ok(answer) if answer == "+OK\r\n" => Ok(()),
        Ok(refused) => Err(node.not_started(format!("{command}: {}", refused.trim_end()))),
        Err(error) => Err(node.not_started(format!("{command}: {error}"))),
    }
}
