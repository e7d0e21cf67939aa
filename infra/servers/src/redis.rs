use crate::{
    Error,
    error::During,
    folder::{self, RunFolder},
    log::Log,
    process::{LOOK_AGAIN, Launch, Process},
    programs::{self, Packages},
    tls::{self, Certificate},
    user::User,
};
use nix::sys::signal::Signal;
use std::{
    fmt::{self, Write},
    fs, io,
    net::{Ipv4Addr, TcpListener},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
    time::timeout,
};

/// What it is called in errors.
pub(crate) const PROGRAM: &str = "redis-server";

const PACKAGES: Packages = Packages { apt: "redis-server", brew: "redis", dnf: "redis" };

/// The first version with the script flags and stream commands that Banter uses.
const OLDEST: u32 = 7;

/// Where there is one of these.
const REMEDY: &str = "Debian 12, Ubuntu 24.04 and Homebrew have one, and REDIS_URL may name one elsewhere";

/// Long enough to load a large append-only file.
pub(crate) const START_LIMIT: Duration = Duration::from_secs(60);

/// How long a server may take to answer one question. Generous: a loaded machine keeps a process waiting.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);

/// What a server keeps its data in, apart from an append-only file.
const DUMP: &str = "dump.rdb";

/// Where a server keeps its append-only file.
const APPEND_ONLY_FOLDER: &str = "appendonlydir";

/// Below the ports that systems give to outgoing connections, so that a stopped server finds its port free again.
const PORTS: std::ops::Range<u16> = 20_000..32_000;

/// How to start a [`Redis`].
#[derive(Clone, Debug, Default)]
pub struct RedisOptions {
    /// Where the data is kept. `None`: a temporary server, whose data is gone with it.
    pub data: Option<PathBuf>,
    /// Whether every write goes to an append-only file, written to disk once a second. Without it, only an orderly
    /// life in memory: what is stopped is forgotten.
    pub append_only: bool,
    /// Whether the server speaks TLS only, with a certificate of an authority of its own ([`Redis::ca_file`]).
    pub tls: bool,
    /// The folder of Redis's programs. `None`: the folders of `PATH`.
    pub programs: Option<PathBuf>,
}

/// Everything that a server knew at one moment, kept aside.
#[derive(Clone)]
pub struct Snapshot {
    dump: Vec<u8>,
}

impl fmt::Debug for Snapshot {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Snapshot").field("bytes", &self.dump.len()).finish()
    }
}

/// What all nodes of one cluster have in common.
#[derive(Clone, Debug)]
pub(crate) struct Membership {
    pub(crate) password: String,
    pub(crate) certificate: Option<Certificate>,
    /// How long a node may be silent before the others give it up.
    pub(crate) node_timeout: Duration,
}

/// A private Redis, or Valkey where that is what is installed. Dropping it ends the server at once.
#[derive(Debug)]
pub struct Redis {
    // In the order in which they have to go.
    process: Option<Process>,
    run: RunFolder,
    log: Log,
    data: PathBuf,
    program: PathBuf,
    user: Option<User>,
    append_only: bool,
    port: u16,
    /// `None`: it is a server on its own.
    node: Option<Node>,
    password: String,
    certificate: Option<Certificate>,
}

/// What makes a server a node of a cluster.
#[derive(Clone, Copy, Debug)]
struct Node {
    /// Where the other nodes reach it.
    bus_port: u16,
    timeout: Duration,
}

impl Redis {
    /// Starts a server and waits until it answers.
    pub async fn start(options: RedisOptions) -> Result<Self, Error> {
        Self::start_as(options, None).await
    }

    /// Starts a server that serves a part of a cluster once it is told which.
    pub(crate) async fn start_node(programs: Option<PathBuf>, cluster: &Membership) -> Result<Self, Error> {
        Self::start_as(RedisOptions { programs, ..RedisOptions::default() }, Some(cluster)).await
    }

    async fn start_as(options: RedisOptions, cluster: Option<&Membership>) -> Result<Self, Error> {
        let program = find_program(options.programs).await?;
        let user = user()?;
        let run = RunFolder::create(user)?;
        let home = match &options.data {
            Some(path) => folder::kept(path, user)?,
            None => run.path().to_owned(),
        };
        let log = Log::open(&home).await?;
        let data = home.join("data");
        folder::create_owned(&data, user)?;
        let (password, certificate) = match cluster {
            Some(cluster) => (cluster.password.clone(), cluster.certificate.clone()),
            None if options.tls => (new_password()?, Some(tls::make(&run, user)?)),
            None => (new_password()?, None),
        };
        let append_only = options.append_only;
        let mut server = Self {
            process: None,
            run,
            log,
            data,
            program,
            user,
            append_only,
            port: 0,
            node: None,
            password,
            certificate,
        };
        loop {
            server.port = free_port()?;
            if let Some(cluster) = cluster {
                server.node = Some(Node { bus_port: free_port()?, timeout: cluster.node_timeout });
            }
            match server.resume().await {
                // Somebody was faster.
                Err(Error::NotStarted { log, .. }) if log.contains("Address already in use") => (),
                started => return started.map(|()| server),
            }
        }
    }

    /// The connection string. It stays the same when the server is stopped and resumed.
    pub fn url(&self) -> String {
        let scheme = if self.certificate.is_some() { "rediss" } else { "redis" };
        format!("{scheme}://default:{}@{}:{}", self.password, Ipv4Addr::LOCALHOST, self.port)
    }

    /// The certificate of the authority that signed the server's, as a PEM file, if it speaks TLS.
    pub fn ca_file(&self) -> Option<&Path> {
        self.certificate.as_ref().map(|certificate| certificate.authority.as_path())
    }

    /// The server's log.
    pub fn log(&self) -> &Path {
        self.log.path()
    }

    /// The process id of the server, `None` while it is stopped.
    pub fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(|process| process.pid().as_raw().unsigned_abs())
    }

    /// Shuts the server down in good order. Does nothing if it is not running.
    pub async fn stop(&mut self) -> Result<(), Error> {
        match self.process.take() {
            Some(process) => process.stop(Signal::SIGTERM).await,
            None => Ok(()),
        }
    }

    /// Kills the server, as a power cut would. Does nothing if it is not running.
    pub async fn kill(&mut self) -> Result<(), Error> {
        match self.process.take() {
            Some(process) => process.kill().await,
            None => Ok(()),
        }
    }

    /// Starts the server again at the same address, with what it has on disk, after [`stop`](Self::stop) or
    /// [`kill`](Self::kill) or when it ended by itself. Does nothing if it is running.
    pub async fn resume(&mut self) -> Result<(), Error> {
        if let Some(process) = &mut self.process {
            if process.ended()?.is_none() {
                return Ok(());
            }
            self.process = None;
        }
        self.log.clear()?;
        let configuration = self.run.write("redis.conf", &self.configuration(), self.user)?;
        let launch = Launch {
            program: &self.program,
            arguments: vec![configuration.into()],
            user: self.user,
            farewell: Signal::SIGTERM,
        };
        let mut process = Process::start(launch, &self.log).await?;
        let begin = Instant::now();
        while !self.is_ready().await {
            if let Some(status) = process.ended()? {
                return Err(self.not_started(status.to_string()));
            }
            if begin.elapsed() > START_LIMIT {
                return Err(self.not_started(format!("it is not ready after {} s", START_LIMIT.as_secs())));
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
        self.process = Some(process);
        if !self.append_only {
            // It has read it. What comes after its next end begins with nothing.
            folder::remove_file(&self.data.join(DUMP))?;
        }
        Ok(())
    }

    /// Keeps everything that the server knows now aside. The server answers nobody else meanwhile.
    pub async fn snapshot(&self) -> Result<Snapshot, Error> {
        const COMMAND: &str = "SAVE";
        loop {
            let answer =
                timeout(START_LIMIT, self.exchange(COMMAND)).await.unwrap_or_else(|late| Err(late.into()));
            match answer {
                Ok(answer) if answer == "+OK\r\n" => break,
                // It is just writing for a replica.
                Ok(answer) if answer.contains("save already in progress") => {
                    tokio::time::sleep(LOOK_AGAIN).await;
                }
                refused => return Err(refused_by(COMMAND, refused)),
            }
        }
        let path = self.data.join(DUMP);
        let dump = fs::read(&path).during(|| format!("reading {}", path.display()))?;
        // The server on its own would take it for its data at its next start.
        folder::remove_file(&path)?;
        Ok(Snapshot { dump })
    }

    /// Kills the server, throws all its data away and starts it again at the same address.
    pub async fn restart_empty(&mut self) -> Result<(), Error> {
        self.kill().await?;
        self.forget()?;
        self.resume().await
    }

    /// Kills the server and starts it again at the same address with what it knew at the time of the snapshot, and
    /// nothing of what came later: as after a failover to a replica that had not everything yet, or when an older copy
    /// of the data had to be taken.
    pub async fn restart_from(&mut self, snapshot: &Snapshot) -> Result<(), Error> {
        self.kill().await?;
        self.put(snapshot)?;
        self.resume().await
    }

    /// Throws the data of a server that is not running away. A node of a cluster stays one.
    pub(crate) fn forget(&self) -> Result<(), Error> {
        folder::remove_file(&self.data.join(DUMP))?;
        folder::remove(&self.data.join(APPEND_ONLY_FOLDER))
    }

    /// Gives a server that is not running this data in place of its own.
    pub(crate) fn put(&self, snapshot: &Snapshot) -> Result<(), Error> {
        self.forget()?;
        if self.append_only {
            // With an append-only file a server reads nothing else; the file may begin with a dump.
            let folder = self.data.join(APPEND_ONLY_FOLDER);
            folder::create_owned(&folder, self.user)?;
            folder::write(&folder.join("appendonly.aof.1.base.rdb"), &snapshot.dump, self.user)?;
            let manifest = "file appendonly.aof.1.base.rdb seq 1 type b\n";
            folder::write(&folder.join("appendonly.aof.manifest"), manifest.as_bytes(), self.user)
        } else {
            folder::write(&self.data.join(DUMP), &snapshot.dump, self.user)
        }
    }

    /// Waits until the server ends though nobody asked it to, and says how, with the end of its log. A server that was
    /// stopped or killed is not running. Whoever waits may give up at any time.
    pub async fn ended(&mut self) -> Error {
        let Some(process) = &mut self.process else { return Error::NotRunning(PROGRAM) };
        match process.wait().await {
            Ok(status) => Error::Ended { program: PROGRAM, reason: status.to_string(), log: self.log.tail() },
            Err(error) => error,
        }
    }

    /// Stops the server where it is: connections stay open and nobody answers.
    pub fn freeze(&mut self) -> Result<(), Error> {
        self.running()?.freeze().map(drop)
    }

    /// Lets a frozen server go on.
    pub fn thaw(&mut self) -> Result<(), Error> {
        self.running()?.thaw()
    }

    fn running(&mut self) -> Result<&mut Process, Error> {
        self.process.as_mut().ok_or(Error::NotRunning(PROGRAM))
    }

    /// The configuration as a file, not as arguments: everybody can read those, and it has the password.
    fn configuration(&self) -> String {
        let mut text = String::new();
        let mut set = |name: &str, value: &str| {
            let value = value.replace('\\', r"\\").replace('"', r#"\""#);
            writeln!(text, "{name} \"{value}\"").expect("a String takes everything");
        };
        let port = self.port.to_string();
        match &self.certificate {
            None => set("port", &port),
            Some(certificate) => {
                set("port", "0");
                set("tls-port", &port);
                set("tls-cert-file", &certificate.own.to_string_lossy());
                set("tls-key-file", &certificate.key.to_string_lossy());
                set("tls-ca-cert-file", &certificate.authority.to_string_lossy());
                set("tls-auth-clients", "no");
            }
        }
        set("bind", &Ipv4Addr::LOCALHOST.to_string());
        set("unixsocket", &self.socket().to_string_lossy());
        set("unixsocketperm", "700");
        set("requirepass", &self.password);
        set("dir", &self.data.to_string_lossy());
        set("appendonly", if self.append_only { "yes" } else { "no" });
        set("appendfsync", "everysec");
        set("save", "");
        set("daemonize", "no");
        if let Some(Node { bus_port, timeout }) = self.node {
            let secure = if self.certificate.is_some() { "yes" } else { "no" };
            set("tls-cluster", secure);
            set("tls-replication", secure);
            set("masterauth", &self.password);
            set("cluster-enabled", "yes");
            set("cluster-port", &bus_port.to_string());
            set("cluster-node-timeout", &timeout.as_millis().to_string());
            // As ElastiCache has it: the slots of the living masters are served while another one is away.
            set("cluster-require-full-coverage", "no");
            // Who belongs to whom stays as it was set up, and a replica takes over however old its data is.
            set("cluster-allow-replica-migration", "no");
            set("cluster-replica-validity-factor", "0");
            // A replica gets its copy at once, and leaves no file behind that it would take for its data one day.
            set("repl-diskless-sync-delay", "0");
            set("rdb-del-sync-files", "yes");
            // All nodes are stopped at once; none has to wait for another.
            set("shutdown-timeout", "0");
        }
        text
    }

    /// Beside the port, so that a server with TLS can be asked whether it is ready without a TLS client.
    fn socket(&self) -> PathBuf {
        self.run.path().join("redis.sock")
    }

    /// Whether the server answers a ping; while it loads its data it refuses.
    async fn is_ready(&self) -> bool {
        self.ask("PING").await.is_ok_and(|answer| answer.starts_with("+PONG"))
    }

    /// Asks the server one thing: its answer as it comes over the line.
    pub(crate) async fn ask(&self, command: &str) -> io::Result<String> {
        timeout(ANSWER_LIMIT, self.exchange(command)).await?
    }

    async fn exchange(&self, command: &str) -> io::Result<String> {
        let mut socket = UnixStream::connect(self.socket()).await?;
        let question = format!("AUTH {}\r\n{command}\r\nQUIT\r\n", self.password);
        socket.write_all(question.as_bytes()).await?;
        let mut answers = String::new();
        socket.read_to_string(&mut answers).await?;
        let (_, answer) = answers.split_once("\r\n").unwrap_or_default();
        Ok(answer.strip_suffix("+OK\r\n").unwrap_or(answer).to_owned())
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    pub(crate) fn bus_port(&self) -> Option<u16> {
        self.node.map(|node| node.bus_port)
    }

    pub(crate) fn not_started(&self, reason: String) -> Error {
        Error::NotStarted { program: PROGRAM, reason, log: self.log.tail() }
    }
}

/// The user that a server runs as.
pub(crate) fn user() -> Result<Option<User>, Error> {
    User::for_server(PROGRAM, &["redis", "valkey", "nobody"])
}

/// Why a server did not do as it was told.
pub(crate) fn refused_by(command: &str, answer: io::Result<String>) -> Error {
    let answer = answer.map_or_else(|error| error.to_string(), |answer| answer.trim_end().to_owned());
    Error::Refused { program: PROGRAM, command: command.to_owned(), answer }
}

async fn find_program(given: Option<PathBuf>) -> Result<PathBuf, Error> {
    let folders = given.map_or_else(
        || {
            programs::search_path()
                .into_iter()
                .chain(["/opt/homebrew/bin".into(), "/usr/local/bin".into()])
                .collect()
        },
        |folder| vec![folder],
    );
    let found = [PROGRAM, "valkey-server"]
        .iter()
        .find_map(|name| Some(programs::folder_with(&folders, &[name])?.join(name)));
    let program = found.ok_or_else(|| programs::not_installed(PROGRAM, PACKAGES))?;
    let version = programs::version(&program).await?;
    if programs::major(&version) < OLDEST {
        return Err(Error::TooOld { program: PROGRAM, found: version, needed: OLDEST, remedy: REMEDY });
    }
    Ok(program)
}

fn free_port() -> Result<u16, Error> {
    loop {
        let port = PORTS.start + u16::from_ne_bytes(random()?) % (PORTS.end - PORTS.start);
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return Ok(port);
        }
    }
}

pub(crate) fn new_password() -> Result<String, Error> {
    Ok(format!("{:032x}", u128::from_ne_bytes(random()?)))
}

fn random<const N: usize>() -> Result<[u8; N], Error> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).during(|| "asking the system for random bytes".to_owned())?;
    Ok(bytes)
}
