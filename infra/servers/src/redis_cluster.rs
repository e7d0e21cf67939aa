use crate::{
    Error, Redis, Snapshot,
    folder::RunFolder,
    process::LOOK_AGAIN,
    redis::{self, Membership, START_LIMIT, new_password, refused_by},
    tls,
};
use futures::future::try_join_all;
use std::{
    io,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

/// The hash slots that the masters of a cluster share out among them.
const SLOTS: usize = 16_384;

/// How long a node may be silent before the others give it up, where a replica can take its place: soon.
const TIMEOUT_WITH_REPLICAS: Duration = Duration::from_secs(2);

/// And where nobody can: a loaded machine can keep a process waiting for long.
const TIMEOUT_WITHOUT_REPLICAS: Duration = Duration::from_secs(5);

/// How to start a [`RedisCluster`]. By default as it is in earnest: three masters with a replica each, and TLS.
#[derive(Clone, Debug)]
pub struct RedisClusterOptions {
    /// How many masters share the keys out among them: three or more, because a cluster decides by majority.
    pub masters: usize,
    /// How many replicas each of them has, that can take its place.
    pub replicas: usize,
    /// Whether the servers speak TLS only, with clients and with each other, with a certificate of an authority of
    /// their own ([`RedisCluster::ca_file`]).
    pub tls: bool,
    /// The folder of Redis's programs. `None`: the folders of `PATH`.
    pub programs: Option<PathBuf>,
}

impl Default for RedisClusterOptions {
    fn default() -> Self {
        Self { masters: 3, replicas: 1, tls: true, programs: None }
    }
}

/// A private Redis Cluster, whose data is gone with it. Dropping it ends the servers at once.
///
/// A master with its replicas is a shard; the shards have numbers from 0, and which server is whose replica never
/// changes, only who of a shard is its master.
#[derive(Debug)]
pub struct RedisCluster {
    // In the order in which they have to go.
    nodes: Vec<Node>,
    masters: usize,
    ca_file: Option<PathBuf>,
    _run: RunFolder,
}

#[derive(Debug)]
struct Node {
    server: Redis,
    /// What the cluster calls it.
    id: String,
    is_frozen: bool,
}

impl Node {
    /// Whether it can take part in anything.
    fn is_up(&self) -> bool {
        self.server.pid().is_some() && !self.is_frozen
    }

    fn freeze(&mut self) -> Result<(), Error> {
        if self.server.pid().is_some() {
            self.server.freeze()?;
            self.is_frozen = true;
        }
        Ok(())
    }

    fn thaw(&mut self) -> Result<(), Error> {
        self.is_frozen = false;
        if self.server.pid().is_some() { self.server.thaw() } else { Ok(()) }
    }

    async fn stop(&mut self) -> Result<(), Error> {
        self.is_frozen = false;
        self.server.stop().await
    }

    async fn kill(&mut self) -> Result<(), Error> {
        self.is_frozen = false;
        self.server.kill().await
    }
}

/// Everything that a cluster knew, each shard at a moment of its own, kept aside.
#[derive(Clone, Debug)]
pub struct ClusterSnapshot {
    shards: Vec<Snapshot>,
}

impl RedisCluster {
    /// Starts all servers, gives each master its equal part of the slots and its replicas, and waits until every one of
    /// them knows all the others and serves. That takes two seconds: so long a master of Redis waits before it believes
    /// in its cluster.
    ///
    /// # Panics
    /// With fewer than three masters: a cluster decides by majority.
    pub async fn start(options: RedisClusterOptions) -> Result<Self, Error> {
        let RedisClusterOptions { masters, replicas, tls, programs } = options;
        assert!(3 <= masters, "a cluster decides by majority");
        let user = redis::user()?;
        let run = RunFolder::create(user)?;
        let certificate = if tls { Some(tls::make(&run, user)?) } else { None };
        let ca_file = certificate.as_ref().map(|certificate| certificate.authority.clone());
        let node_timeout = if replicas == 0 { TIMEOUT_WITHOUT_REPLICAS } else { TIMEOUT_WITH_REPLICAS };
        // One password for all, because clients take what they were given for the first node.
        let membership = Membership { password: new_password()?, certificate, node_timeout };
        let starting = (0..masters * (1 + replicas)).map(async |_| {
            let server = Redis::start_node(programs.clone(), &membership).await?;
            // "$40", and the name on a line of its own.
            let answer = ask(&server, "CLUSTER MYID").await?;
            let id = answer.lines().nth(1).unwrap_or_default().to_owned();
            Ok(Node { server, id, is_frozen: false })
        });
        let cluster = Self { nodes: try_join_all(starting).await?, masters, ca_file, _run: run };
        cluster.share_out().await?;
        cluster.wait_until_whole().await?;
        Ok(cluster)
    }

    /// The connection string of the first node, from which clients learn of the others. It stays the same when the
    /// cluster is stopped and resumed.
    pub fn url(&self) -> String {
        self.nodes[0].server.url()
    }

    /// The certificate of the authority that signed the servers', as a PEM file, if they speak TLS.
    pub fn ca_file(&self) -> Option<&Path> {
        self.ca_file.as_deref()
    }

    /// The servers: first those that were the masters at the start, then their replicas in the same order.
    pub fn nodes(&self) -> impl ExactSizeIterator<Item = &Redis> {
        self.nodes.iter().map(|node| &node.server)
    }

    /// The shard that holds a key.
    pub async fn shard_of(&self, key: &str) -> Result<usize, Error> {
        let command = format!("CLUSTER KEYSLOT {key}");
        let answer = ask(self.any_up()?, &command).await?;
        let slot = answer.trim_end().strip_prefix(':').and_then(|slot| slot.parse::<usize>().ok());
        let slot = slot.ok_or_else(|| refused_by(&command, Ok(answer.clone())))?;
        let is_in = |shard: &usize| slot < (shard + 1) * SLOTS / self.masters;
        Ok((0..self.masters).find(is_in).expect("the last shard ends with the last slot"))
    }

    /// Shuts all servers down in good order.
    pub async fn stop(&mut self) -> Result<(), Error> {
        try_join_all(self.nodes.iter_mut().map(Node::stop)).await.map(drop)
    }

    /// Kills all servers, as a power cut would.
    pub async fn kill(&mut self) -> Result<(), Error> {
        // At one moment, so that none can take another's place.
        self.freeze()?;
        try_join_all(self.nodes.iter_mut().map(Node::kill)).await.map(drop)
    }

    /// Kills the master of a shard, as a power cut would, and waits until a replica has taken its place and all others
    /// know of it: two seconds until it is missed, one or two more until its successor is elected.
    /// [`resume`](Self::resume) brings it back, as a replica.
    pub async fn kill_master(&mut self, shard: usize) -> Result<(), Error> {
        let master = self.master_of(shard).await?;
        self.nodes[master].kill().await?;
        self.wait_until_whole().await
    }

    /// Stops the master of a shard where it is, so that connections to it stay open and it does not answer, and waits
    /// until a replica has taken its place. [`thaw`](Self::thaw) lets it go on; it becomes a replica then.
    pub async fn freeze_master(&mut self, shard: usize) -> Result<(), Error> {
        let master = self.master_of(shard).await?;
        self.nodes[master].freeze()?;
        self.wait_until_whole().await
    }

    /// Starts the servers that are not running again, at the same addresses and as members of the same shards, and
    /// waits until the cluster is whole. What all servers of a shard had is gone if all of them were stopped.
    pub async fn resume(&mut self) -> Result<(), Error> {
        try_join_all(self.nodes.iter_mut().map(|node| node.server.resume())).await?;
        self.wait_until_whole().await
    }

    /// Keeps everything that the cluster knows now aside, shard after shard.
    pub async fn snapshot(&self) -> Result<ClusterSnapshot, Error> {
        let mut shards = Vec::with_capacity(self.masters);
        for shard in 0..self.masters {
            shards.push(self.nodes[self.master_of(shard).await?].server.snapshot().await?);
        }
        Ok(ClusterSnapshot { shards })
    }

    /// Kills all servers and starts them again with what their shards knew at the time of the snapshot, and nothing of
    /// what came later: as after failovers to replicas that had not everything yet, or when older copies of the data
    /// had to be taken.
    pub async fn restart_from(&mut self, snapshot: &ClusterSnapshot) -> Result<(), Error> {
        self.kill().await?;
        for (index, node) in self.nodes.iter().enumerate() {
            // To the replicas as well: a shard is the same whoever of them becomes its master.
            node.server.put(&snapshot.shards[index % self.masters])?;
        }
        self.resume().await
    }

    /// Stops all servers that are running where they are: connections stay open and nobody answers.
    pub fn freeze(&mut self) -> Result<(), Error> {
        self.nodes.iter_mut().try_for_each(Node::freeze)
    }

    /// Lets frozen servers go on.
    pub fn thaw(&mut self) -> Result<(), Error> {
        self.nodes.iter_mut().try_for_each(Node::thaw)
    }

    /// The servers that can be asked.
    fn up(&self) -> impl Iterator<Item = &Redis> {
        self.nodes.iter().filter(|node| node.is_up()).map(|node| &node.server)
    }

    /// One of them.
    fn any_up(&self) -> Result<&Redis, Error> {
        self.up().next().ok_or(Error::NotRunning(redis::PROGRAM))
    }

    /// Which node serves a shard.
    async fn master_of(&self, shard: usize) -> Result<usize, Error> {
        const COMMAND: &str = "CLUSTER NODES";
        let text = ask(self.any_up()?, COMMAND).await?;
        let members = members(&text);
        let serves = |index: &usize| {
            members.iter().any(|member| member.id == self.nodes[*index].id && member.has_slots)
        };
        let found = (shard..self.nodes.len()).step_by(self.masters).find(serves);
        found.ok_or_else(|| refused_by(COMMAND, Ok(text.clone())))
    }

    /// Makes the nodes known to each other, and gives the masters their slots and their replicas.
    async fn share_out(&self) -> Result<(), Error> {
        for (index, node) in self.nodes.iter().enumerate() {
            // Different from the start, so that the nodes need not settle it among them.
            order(&node.server, &format!("CLUSTER SET-CONFIG-EPOCH {}", index + 1)).await?;
            if index < self.masters {
                let slots = index * SLOTS / self.masters..(index + 1) * SLOTS / self.masters;
                let command = format!("CLUSTER ADDSLOTSRANGE {} {}", slots.start, slots.end - 1);
                order(&node.server, &command).await?;
            }
        }
        // Everybody to everybody, so that nobody has to wait for gossip.
        for (index, node) in self.nodes.iter().enumerate() {
            let (port, bus_port) = (node.server.port(), node.server.bus_port());
            let bus_port = bus_port.expect("it was started as a node");
            for other in &self.nodes[..index] {
                let command = format!("CLUSTER MEET {} {port} {bus_port}", Ipv4Addr::LOCALHOST);
                order(&other.server, &command).await?;
            }
        }
        let begin = Instant::now();
        for (index, replica) in self.nodes.iter().enumerate().skip(self.masters) {
            let command = format!("CLUSTER REPLICATE {}", self.nodes[index % self.masters].id);
            while let Err(refused) = order(&replica.server, &command).await {
                // They may not have met yet.
                if !refused.to_string().contains("Unknown node") || begin.elapsed() > START_LIMIT {
                    return Err(refused);
                }
                tokio::time::sleep(LOOK_AGAIN).await;
            }
        }
        Ok(())
    }

    /// Waits until all servers that are up agree on who serves what, and every slot is served.
    async fn wait_until_whole(&self) -> Result<(), Error> {
        let begin = Instant::now();
        for server in self.up() {
            while let Err(state) = self.is_whole_for(server).await {
                if begin.elapsed() > START_LIMIT {
                    let reason =
                        format!("the cluster is not whole after {} s: {state}", START_LIMIT.as_secs());
                    return Err(server.not_started(reason));
                }
                tokio::time::sleep(LOOK_AGAIN).await;
            }
        }
        Ok(())
    }

    /// Whether for this server the cluster is as it should be, or what it says of it instead.
    async fn is_whole_for(&self, server: &Redis) -> Result<(), String> {
        let answer = async |command| server.ask(command).await.map_err(|error: io::Error| error.to_string());
        let info = answer("CLUSTER INFO").await?;
        let wanted = [
            "cluster_state:ok".to_owned(),
            format!("cluster_slots_ok:{SLOTS}"),
            format!("cluster_known_nodes:{}", self.nodes.len()),
        ];
        if !wanted.iter().all(|wanted| info.lines().any(|line| line == wanted)) {
            return Err(info);
        }
        // A client that asks it for the slots now must be told of the living masters, and no others.
        let text = answer("CLUSTER NODES").await?;
        let members = members(&text);
        let mut serving = 0;
        for node in &self.nodes {
            let as_it_should_be = members.iter().find(|member| member.id == node.id).is_some_and(|member| {
                serving += usize::from(member.has_slots);
                if node.is_up() {
                    member.is_well && member.has_slots != member.is_replica
                } else {
                    !member.has_slots
                }
            });
            if !as_it_should_be {
                return Err(text);
            }
        }
        if serving != self.masters {
            return Err(text);
        }
        // Without its copy a replica could take over, and all would be lost.
        let replication = answer("INFO replication").await?;
        let is_linked =
            replication.contains("role:master\r\n") || replication.contains("master_link_status:up\r\n");
        if is_linked { Ok(()) } else { Err(replication) }
    }
}

/// A node as another one sees it.
struct Member<'a> {
    id: &'a str,
    is_replica: bool,
    is_well: bool,
    has_slots: bool,
}

/// What an answer to `CLUSTER NODES` tells of each node.
fn members(text: &str) -> Vec<Member<'_>> {
    text.lines().filter_map(Member::of_line).collect()
}

impl<'a> Member<'a> {
    /// A line: id, address, flags, master, ping, pong, epoch, link, slots.
    fn of_line(line: &'a str) -> Option<Self> {
        let fields: Vec<_> = line.split(' ').collect();
        let (id, flags) = (*fields.first()?, *fields.get(2)?);
        let has = |wanted: &str| flags.split(',').any(|flag| flag == wanted);
        let is_well = !["fail", "fail?", "handshake", "noaddr"].into_iter().any(has);
        Some(Self {
            id,
            is_replica: has("slave"),
            is_well: is_well && fields.get(7) == Some(&"connected"),
            has_slots: fields.get(8).is_some(),
        })
    }
}

/// Asks a server one thing.
async fn ask(server: &Redis, question: &str) -> Result<String, Error> {
    match server.ask(question).await {
        Ok(answer) if !answer.starts_with('-') => Ok(answer),
        refused => Err(refused_by(question, refused)),
    }
}

/// Tells a server what to do.
async fn order(server: &Redis, command: &str) -> Result<(), Error> {
    ask(server, command).await.map(drop)
}
