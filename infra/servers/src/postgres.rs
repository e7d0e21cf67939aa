use crate::{
    Error,
    error::During,
    folder,
    folder::RunFolder,
    log::Log,
    process::{LOOK_AGAIN, Launch, Process},
    programs::{self, Packages},
    user::User,
};
use nix::sys::signal::Signal;
use std::{
    ffi::OsString,
    fmt::Write,
    fs,
    io::ErrorKind,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};
use tokio::process::Command;

/// What it is called in errors.
const PROGRAM: &str = "postgres";

const PACKAGES: Packages = Packages { apt: "postgresql", brew: "postgresql@17", dnf: "postgresql-server" };

/// The superuser of every instance. Whoever can reach the socket is this user.
const SUPERUSER: &str = "postgres";

/// Part of the socket's name only: no instance listens on the network.
const PORT: &str = "5432";

/// Long enough for a recovery after a crash of a laptop's database.
const START_LIMIT: Duration = Duration::from_secs(120);

/// One that every system has and that knows Unicode's letters.
const LOCALE: &str = if cfg!(target_os = "macos") { "en_US.UTF-8" } else { "C.UTF-8" };

/// How to start a [`Postgres`].
#[derive(Clone, Debug, Default)]
pub struct PostgresOptions {
    /// Where the data is kept. `None`: a temporary server, fast because it never waits for the disk; its data is gone
    /// with it.
    pub data: Option<PathBuf>,
    /// The folder of Postgres's programs (`postgres`, `initdb`, `createdb`). `None`: the newest that is installed, or
    /// for data that is already there the version that made it.
    pub programs: Option<PathBuf>,
}

/// A private Postgres. Dropping it ends the server at once.
#[derive(Debug)]
pub struct Postgres {
    // In the order in which they have to go.
    process: Option<Process>,
    run: RunFolder,
    log: Log,
    data: PathBuf,
    programs: PathBuf,
    user: Option<User>,
    temporary: bool,
}

impl Postgres {
    /// Starts a server and waits until it answers.
    pub async fn start(options: PostgresOptions) -> Result<Self, Error> {
        let made_by = options.data.as_deref().and_then(version_of_data);
        let programs = find_programs(options.programs, made_by).await?;
        let user = User::for_server(PROGRAM, &["postgres", "nobody"])?;
        let run = RunFolder::create(user)?;
        let home = match &options.data {
            Some(path) => folder::kept(path, user)?,
            None => run.path().to_owned(),
        };
        let log = Log::open(&home).await?;
        let data = home.join("data");
        forget_process(&data)?;
        let temporary = options.data.is_none();
        let mut server = Self { process: None, run, log, data, programs, user, temporary };
        if !server.data.is_dir() {
            server.make_data(&home).await?;
        }
        server.resume().await?;
        Ok(server)
    }

    /// The connection string of a database of this server; `postgres` is always there.
    /// It stays the same when the server is stopped and resumed.
    pub fn url(&self, database: &str) -> String {
        let socket = self.run.path().to_string_lossy();
        format!("postgres://{SUPERUSER}@localhost/{}?host={}", encoded(database), encoded(&socket))
    }

    /// Makes an empty database.
    pub async fn create_database(&self, name: &str) -> Result<(), Error> {
        let output = Command::new(self.programs.join("createdb"))
            .env_clear()
            .args(["--username", SUPERUSER, "--port", PORT, "--host"])
            .arg(self.run.path())
            .args(["--", name])
            .current_dir("/")
            .output()
            .await
            .during(|| "running createdb".to_owned())?;
        if output.status.success() {
            return Ok(());
        }
        let message = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        Err(Error::Client { program: "createdb", message })
    }

    /// The folder of this server's programs (`psql`, `pg_dump`, …).
    pub fn programs(&self) -> &Path {
        &self.programs
    }

    /// The server's log.
    pub fn log(&self) -> &Path {
        self.log.path()
    }

    /// The process id of the server, `None` while it is stopped.
    pub fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(|process| process.pid().as_raw().unsigned_abs())
    }

    /// Shuts the server down in good order: connections are closed, everything is written out. Does nothing if it is
    /// not running.
    pub async fn stop(&mut self) -> Result<(), Error> {
        match self.process.take() {
            Some(process) => process.stop(Signal::SIGINT).await,
            None => Ok(()),
        }
    }

    /// Kills the server with all its processes, as a power cut would. Does nothing if it is not running.
    pub async fn kill(&mut self) -> Result<(), Error> {
        match self.process.take() {
            Some(process) => process.kill().await,
            None => Ok(()),
        }
    }

    /// Starts the server again with the same data and the same address, after [`stop`](Self::stop) or
    /// [`kill`](Self::kill) or when it ended by itself. Does nothing if it is running.
    pub async fn resume(&mut self) -> Result<(), Error> {
        if let Some(process) = &mut self.process {
            if process.ended()?.is_none() {
                return Ok(());
            }
            self.process = None;
        }
        self.log.clear()?;
        let launch = Launch {
            program: &self.programs.join(PROGRAM),
            arguments: self.settings(),
            user: self.user,
            farewell: if self.temporary { Signal::SIGQUIT } else { Signal::SIGINT },
        };
        let mut process = Process::start(launch, &self.log).await?;
        let begin = Instant::now();
        while !self.is_ready(&process) {
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

    /// Makes the data folder, whole or not at all.
    async fn make_data(&self, home: &Path) -> Result<(), Error> {
        let unfinished = home.join("data.new");
        folder::remove(&unfinished)?;
        let locale = format!("--locale={LOCALE}");
        let mut arguments: Vec<OsString> =
            ["--username", SUPERUSER, "--auth=trust", "--encoding=UTF8", &locale, "--pgdata"]
                .map(OsString::from)
                .into();
        arguments.push(unfinished.clone().into());
        if self.temporary {
            arguments.push("--no-sync".into());
        }
        let launch = Launch {
            program: &self.programs.join("initdb"),
            arguments,
            user: self.user,
            farewell: Signal::SIGTERM,
        };
        let status = Process::start(launch, &self.log).await?.wait().await?;
        if !status.success() {
            return Err(self.not_started(format!("initdb: {status}")));
        }
        fs::rename(&unfinished, &self.data).during(|| format!("making {}", self.data.display()))
    }

    fn settings(&self) -> Vec<OsString> {
        let sockets = format!("unix_socket_directories=\"{}\"", self.run.path().display());
        let mut settings = vec!["listen_addresses=", &sockets, "unix_socket_permissions=0700"];
        // Every warm function holds a connection, and tests run many stacks side by side.
        settings.extend(["max_connections=300", "timezone=UTC", "log_timezone=UTC"]);
        // Not the details of an error: those are the values in the tables, such as the address that is there already.
        settings.push("log_error_verbosity=terse");
        if self.temporary {
            // Nothing has to survive the machine. What was committed survives the server all the same: tests kill it.
            settings.extend(["fsync=off", "full_page_writes=off"]);
            settings.extend(["wal_level=minimal", "max_wal_senders=0"]);
        }
        let mut arguments: Vec<OsString> = ["-p", PORT, "-D"].map(OsString::from).into();
        arguments.push(self.data.clone().into());
        for setting in settings {
            arguments.extend(["-c", setting].map(OsString::from));
        }
        arguments
    }

    /// Whether the server itself says that it takes connections, in the eighth line of its process file.
    fn is_ready(&self, process: &Process) -> bool {
        let file = fs::read_to_string(self.data.join("postmaster.pid")).unwrap_or_default();
        let mut lines = file.lines();
        lines.next().and_then(|line| line.parse().ok()) == Some(process.pid().as_raw())
            && lines.nth(6).map(str::trim) == Some("ready")
    }

    fn not_started(&self, reason: String) -> Error {
        Error::NotStarted { program: PROGRAM, reason, log: self.log.tail() }
    }
}

/// Removes the process file of a server that had no time to. It is left over, for whoever opened the log has the lock that
/// the server and all its processes held too; but its process id may be another's by now, and Postgres would not start.
/// (Who runs a Postgres on the data by hand is still safe from a second one: it looks at the shared memory, too.)
fn forget_process(data: &Path) -> Result<(), Error> {
    let file = data.join("postmaster.pid");
    match fs::remove_file(&file) {
        Err(refused) if refused.kind() == ErrorKind::NotFound => Ok(()),
        done => done.during(|| format!("removing {}", file.display())),
    }
}

/// The major version that made the data, if there is data.
fn version_of_data(home: &Path) -> Option<(PathBuf, u32)> {
    let data = home.join("data");
    let version = fs::read_to_string(data.join("PG_VERSION")).ok()?.trim().parse().ok()?;
    Some((data, version))
}

async fn find_programs(given: Option<PathBuf>, made_by: Option<(PathBuf, u32)>) -> Result<PathBuf, Error> {
    let mut folders = given.map_or_else(programs::postgres_folders, |folder| vec![folder]);
    folders.retain(|folder| {
        [PROGRAM, "initdb", "createdb"].iter().all(|program| folder.join(program).is_file())
    });
    let newest = folders.first().cloned().ok_or_else(|| programs::not_installed(PROGRAM, PACKAGES))?;
    let Some((data, version)) = made_by else { return Ok(newest) };
    for folder in folders {
        if programs::major(&programs::version(&folder.join(PROGRAM)).await?) == version {
            return Ok(folder);
        }
    }
    Err(Error::OtherVersion { data, version })
}

/// Percent-encodes what has a meaning in a URL.
fn encoded(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~/".contains(&byte) {
            encoded.push(byte.into());
        } else {
            write!(encoded, "%{byte:02X}").expect("a String takes everything");
        }
    }
    encoded
}
