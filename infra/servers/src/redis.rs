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
    fmt::Write,
    io,
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
const PROGRAM: &str = "redis-server";

const PACKAGES: Packages = Packages { apt: "redis-server", brew: "redis", dnf: "redis" };

/// The first version with the script flags and stream commands that Banter uses.
const OLDEST: u32 = 7;

/// Where there is one of these.
const REMEDY: &str = "Debian 12, Ubuntu 24.04 and Homebrew have one, and REDIS_URL may name one elsewhere";

/// Long enough to load a large append-only file.
pub(crate) const START_LIMIT: Duration = Duration::from_secs(60);

/// How long a server may take to answer one question. Generous: a loaded machine keeps a process waiting.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);

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
    /// Where the other nodes of its cluster reach it. `None`: it is a server on its own.
    bus_port: Option<u16>,
    password: String,
    certificate: Option<Certificate>,
}

impl Redis {
    /// Starts a server and waits until it answers.
    pub async fn start(options: RedisOptions) -> Result<Self, Error> {
        Self::start_as(options, false, new_password()?).await
    }

    /// Starts a server that serves a part of a cluster once it is told which.
    pub(crate) async fn start_node(options: RedisOptions, password: String) -> Result<Self, Error> {
        Self::start_as(options, true, password).await
    }

    async fn start_as(options: RedisOptions, is_node: bool, password: String) -> Result<Self, Error> {
        let program = find_program(options.programs).await?;
        let user = User::for_server(PROGRAM, &["redis", "valkey", "nobody"])?;
        let run = RunFolder::create(user)?;
        let home = match &options.data {
            Some(path) => folder::kept(path, user)?,
            None => run.path().to_owned(),
        };
        let log = Log::open(&home).await?;
        let data = home.join("data");
        folder::create_owned(&data, user)?;
        let certificate = if options.tls { Some(tls::make(&run, user)?) } else { None };
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
            bus_port: None,
            password,
            certificate,
        };
        loop {
            server.port = free_port()?;
            server.bus_port = is_node.then(free_port).transpose()?;
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
        Ok(())
    }

    /// Kills the server, throws all its data away and starts it again at the same address.
    pub async fn restart_empty(&mut self) -> Result<(), Error> {
        self.kill().await?;
        folder::remove(&self.data)?;
        folder::create_owned(&self.data, self.user)?;
        self.resume().await
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
        if let Some(bus_port) = self.bus_port {
            set("cluster-enabled", "yes");
            set("cluster-port", &bus_port.to_string());
            // A loaded machine can keep a process waiting for long; what is killed is noticed when it is resumed.
            set("cluster-node-timeout", "5000");
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
        self.bus_port
    }

    pub(crate) fn not_started(&self, reason: String) -> Error {
        Error::NotStarted { program: PROGRAM, reason, log: self.log.tail() }
    }
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
