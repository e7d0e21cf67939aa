//! `local up`: starts everything, says where it is, and ends everything.

mod banner;
mod state;

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, ensure};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use serde::Serialize;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use self::state::State;
use crate::access_log::AccessLog;
use crate::console::Console;
use crate::control::Control;
use crate::faults::Faults;
use crate::http_api::HttpGateway;
use crate::lambda::{Clocks, Lambda, Processes};
use crate::local_values::{Addresses, LocalValues, Shell};
use crate::progress::Progress;
use crate::sqs::{self, Sqs};
use crate::stores::{Needs, Stores};
use crate::template::{Function, Template, TemplateFile};
use crate::watch::{Watch, write_environment};
use crate::websocket_api::{Limits, WebSocketGateway};

/// How long requests in flight and `$disconnect` may take at the end.
const DRAIN_LIMIT: Duration = Duration::from_secs(15);

/// What `local up` takes.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// The SAM template to run.
    #[arg(long, default_value = "template.yaml", value_name = "FILE")]
    pub template: PathBuf,
    /// The address of both APIs. Other machines can reach them on any but the loopback.
    #[arg(long, default_value_t = IpAddr::V4(Ipv4Addr::LOCALHOST), value_name = "ADDRESS")]
    pub host: IpAddr,
    /// The port of the HTTP API; 0 is any free one.
    #[arg(long, default_value_t = 3000, value_name = "PORT")]
    pub http_port: u16,
    /// The port of the WebSocket API and of `@connections`; 0 is any free one.
    #[arg(long, default_value_t = 3001, value_name = "PORT")]
    pub websocket_port: u16,
    /// Where data is kept between runs, and where `endpoints.json` is while it runs.
    #[arg(long, default_value = ".local", value_name = "FOLDER")]
    pub state: PathBuf,
    /// The folder of the functions' binaries.
    #[arg(long, default_value = "target/debug", value_name = "FOLDER")]
    pub functions: PathBuf,
    /// Call functions that somebody else runs, over Lambda's Invoke API at this address.
    #[arg(long, value_name = "URL", conflicts_with = "watch")]
    pub invoke_endpoint: Option<String>,
    /// Run the functions with `cargo lambda watch`, which restarts them when their code changes.
    #[arg(long)]
    pub watch: bool,
    /// The most instances of one function.
    #[arg(long, default_value_t = 20, value_name = "N", value_parser = at_least_one)]
    pub concurrency: usize,
    /// Kill a function that asks for no call for so long after its start; for tests, which cannot wait ten seconds.
    #[arg(long, value_name = "SECONDS", value_parser = seconds, hide = true)]
    pub init_limit_seconds: Option<Duration>,
    /// End a function's process that has had no call for so long; for tests, which cannot wait five minutes.
    #[arg(long, value_name = "SECONDS", value_parser = seconds, hide = true)]
    pub instance_idle_seconds: Option<Duration>,
    /// Close a WebSocket that is idle for so long; for tests, which cannot wait ten minutes.
    #[arg(long, value_name = "SECONDS", value_parser = seconds, hide = true)]
    pub idle_timeout_seconds: Option<Duration>,
    /// Close every WebSocket after so long; for tests, which cannot wait two hours.
    #[arg(long, value_name = "SECONDS", value_parser = seconds, hide = true)]
    pub connection_limit_seconds: Option<Duration>,
    /// Wait so long for an authorizer; for tests, which cannot wait half a minute.
    #[arg(long, value_name = "SECONDS", value_parser = seconds, hide = true)]
    pub authorizer_limit_seconds: Option<Duration>,
}

fn at_least_one(text: &str) -> Result<usize> {
    let number = text.parse()?;
    ensure!(number > 0, "at least 1");
    Ok(number)
}

fn seconds(text: &str) -> Result<Duration> {
    Ok(Duration::try_from_secs_f64(text.parse()?)?)
}

/// Where everything is: `endpoints.json`.
#[derive(Clone, Debug, Serialize)]
pub struct Endpoints {
    /// The HTTP API.
    pub http: String,
    /// Where WebSocket clients connect, with the stage.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub websocket: Option<String>,
    /// The base of `@connections`, with the stage.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub management: Option<String>,
    /// SQS, which the URLs of the queues begin with.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sqs: Option<String>,
    /// The control API.
    pub control: String,
}

/// Starts everything, serves until SIGINT, SIGTERM or SIGHUP, and ends everything.
///
/// # Errors
/// When something cannot be started; the message says what to do.
pub async fn run(options: Options, console: Console) -> Result<()> {
    let stop = stop_on_signals(options.state.join(state::ENDPOINTS), console.clone())?;
    raise_open_files();
    let file = TemplateFile::read(&options.template)
        .context("run this in the project's folder, or name the template with --template")?;
    let shell = Shell::read();
    // What is wrong in the template is said before anything is started.
    let template = file.resolve(&LocalValues::new(shell.clone(), unknown_addresses()))?;
    if options.invoke_endpoint.is_none() && !options.watch {
        require_binaries(&template.functions, &options.functions)?;
    }
    let state = State::claim(&options.state)?;
    let listeners = Listeners::bind(&options, &template).await?;
    let endpoints = listeners.endpoints(&file, &template)?;
    let progress = Progress::new(&console);
    let start = Running::start(&options, &file, shell, &state, listeners, &endpoints, &console, &progress);
    let mut running = tokio::select! {
        running = start => running?,
        () = stop.cancelled() => return Ok(()),
    };
    state.publish(&endpoints)?;
    banner::print(&endpoints, &template)?;
    // A person has just read it.
    if !console.is_terminal() {
        tracing::info!(http = endpoints.http, websocket = endpoints.websocket, "ready");
    }
    let failure = tokio::select! {
        () = stop.cancelled() => None,
        failure = running.failed() => Some(failure),
    };
    state.withdraw();
    running.stop().await;
    failure.map_or(Ok(()), Err)
}

/// Everything that has to be ended in order.
struct Running {
    gateways: JoinSet<Result<()>>,
    shutdown: CancellationToken,
    lambda: Lambda,
    queues: Option<sqs::Serving>,
    watch: Option<Watch>,
    stores: Stores,
}

impl Running {
    #[expect(clippy::too_many_arguments, reason = "each is made once, and only to come together here")]
    async fn start(
        options: &Options,
        file: &TemplateFile,
        shell: Shell,
        state: &State,
        listeners: Listeners,
        endpoints: &Endpoints,
        console: &Console,
        progress: &Progress,
    ) -> Result<Self> {
        let names = file.environment_names()?;
        let needs = Needs { postgres: names.contains("DATABASE_URL"), redis: names.contains("REDIS_URL") };
        let stores = Stores::start(needs, &shell, state.folder(), progress).await?;
        let addresses = Addresses {
            database: stores.database_url.clone(),
            redis: stores.redis_url.clone(),
            management: endpoints.management.clone(),
            websocket: endpoints.websocket.clone(),
            queues: endpoints.sqs.clone(),
        };
        let template = file.resolve(&LocalValues::new(shell, addresses))?;
        let (log, faults) = (AccessLog::new(console.clone()), Faults::default());
        let mut watch = None;
        let lambda = if options.watch {
            let started =
                Watch::start(&template.functions, state.folder(), options.concurrency, console, progress)
                    .await?;
            let lambda = Lambda::endpoint(started.url(), &template.functions, faults.clone())?;
            watch = Some(started);
            lambda
        } else if let Some(url) = &options.invoke_endpoint {
            // For whoever runs the functions: `cargo lambda watch --env-file .local/functions.env`.
            write_environment(&template.functions, state.folder())?;
            Lambda::endpoint(url, &template.functions, faults.clone())?
        } else {
            Lambda::processes(Processes {
                functions: template.functions,
                binaries: std::path::absolute(&options.functions)?,
                concurrency: options.concurrency,
                clocks: clocks(options),
                console: console.clone(),
                faults: faults.clone(),
            })?
        };
        let (shutdown, mut gateways) = (CancellationToken::new(), JoinSet::new());
        if let Some(api) = template.http_api {
            let gateway = HttpGateway::new(api, lambda.clone(), log.clone())?;
            let shutdown = shutdown.clone();
            gateways.spawn(async move {
                gateway.serve(listeners.http, shutdown).await;
                Ok(())
            });
        }
        if let Some(api) = template.websocket_api {
            let limits = limits(options);
            let gateway = WebSocketGateway::new(api, lambda.clone(), faults.clone(), log.clone(), limits)?;
            gateways.spawn(gateway.serve(listeners.websocket, shutdown.clone()));
        }
        let mut queues = None;
        if let (Some(listener), Some(base)) = (listeners.queues, &endpoints.sqs) {
            let sqs = Sqs::open(template.queues, state.folder(), base, faults.clone(), log.clone())?;
            for source in template.event_sources {
                let poll = sqs.clone().poll(source, lambda.clone(), options.concurrency, shutdown.clone());
                gateways.spawn(poll);
            }
            queues = Some(sqs.serve(listener));
        }
        let control = Control::new(lambda.clone(), faults, log);
        let until = shutdown.clone();
        gateways.spawn(async move {
            control.serve(listeners.control, until).await;
            Ok(())
        });
        Ok(Self { gateways, shutdown, lambda, queues, watch, stores })
    }

    /// Waits until something ends that should not.
    async fn failed(&mut self) -> anyhow::Error {
        let watch = async {
            match &mut self.watch {
                Some(watch) => watch.ended().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            why = watch => why,
            Some(ended) = self.gateways.join_next() => match ended {
                Ok(Ok(())) => anyhow!("a gateway has ended"),
                Ok(Err(why)) => why,
                Err(why) => anyhow::Error::new(why).context("a gateway has ended"),
            },
        }
    }

    /// Ends everything in the order in which one needs the other: gateways, functions, queues, stores.
    async fn stop(mut self) {
        self.shutdown.cancel();
        let drained = async { while self.gateways.join_next().await.is_some() {} };
        let _ = timeout(DRAIN_LIMIT, drained).await;
        self.gateways.abort_all();
        self.lambda.stop().await;
        if let Some(queues) = self.queues {
            queues.stop().await;
        }
        if let Some(watch) = self.watch {
            watch.stop().await;
        }
        self.stores.stop().await;
    }
}

fn clocks(options: &Options) -> Clocks {
    let usual = Clocks::default();
    Clocks {
        init: options.init_limit_seconds.unwrap_or(usual.init),
        idle: options.instance_idle_seconds.unwrap_or(usual.idle),
    }
}

fn limits(options: &Options) -> Limits {
    let usual = Limits::default();
    Limits {
        idle: options.idle_timeout_seconds.unwrap_or(usual.idle),
        connection: options.connection_limit_seconds.unwrap_or(usual.connection),
        authorizer: options.authorizer_limit_seconds.unwrap_or(usual.authorizer),
        ..usual
    }
}

/// The ports, taken before anything is started that would have to be ended again.
struct Listeners {
    http: TcpListener,
    websocket: TcpListener,
    control: TcpListener,
    /// None in a template without queues.
    queues: Option<TcpListener>,
}

impl Listeners {
    async fn bind(options: &Options, template: &Template) -> Result<Self> {
        let mut queues = None;
        if !template.queues.is_empty() {
            queues = Some(TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?);
        }
        Ok(Self {
            queues,
            http: bind((options.host, options.http_port).into(), "--http-port").await?,
            websocket: bind((options.host, options.websocket_port).into(), "--websocket-port").await?,
            control: TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?,
        })
    }

    fn endpoints(&self, file: &TemplateFile, template: &Template) -> Result<Endpoints> {
        let (http, websocket) = (reachable(&self.http)?, reachable(&self.websocket)?);
        let queues = self.queues.as_ref().map(TcpListener::local_addr).transpose()?;
        let stage = file.websocket_stage()?;
        let http_stage = template.http_api.as_ref().map(|api| api.stage.as_str());
        let http_path = http_stage.filter(|stage| *stage != "$default").map(|stage| format!("/{stage}"));
        Ok(Endpoints {
            http: format!("http://{http}{}", http_path.unwrap_or_default()),
            websocket: stage.as_ref().map(|stage| format!("ws://{websocket}/{stage}")),
            management: stage.as_ref().map(|stage| format!("http://{websocket}/{stage}")),
            sqs: queues.map(|address| format!("http://{address}")),
            control: format!("http://{}", self.control.local_addr()?),
        })
    }
}

async fn bind(address: SocketAddr, flag: &str) -> Result<TcpListener> {
    TcpListener::bind(address).await.map_err(|why| match why.kind() {
        ErrorKind::AddrInUse => anyhow!("port {} is taken: choose another with {flag}", address.port()),
        ErrorKind::PermissionDenied => {
            anyhow!("port {} is not for everybody: choose one above 1023 with {flag}", address.port())
        }
        _ => anyhow!("cannot listen on {address}: {why}"),
    })
}

/// The address at which this machine reaches a listener.
fn reachable(listener: &TcpListener) -> Result<SocketAddr> {
    let mut address = listener.local_addr()?;
    if address.ip().is_unspecified() {
        address.set_ip(Ipv4Addr::LOCALHOST.into());
    }
    Ok(address)
}

/// Something in the place of every address, to read a template before there are any.
fn unknown_addresses() -> Addresses {
    let unknown = || Some("not known yet".to_owned());
    Addresses {
        database: unknown(),
        redis: unknown(),
        management: unknown(),
        websocket: unknown(),
        queues: unknown(),
    }
}

fn require_binaries(functions: &[Function], folder: &Path) -> Result<()> {
    let missing = functions.iter().map(|function| function.name.as_str());
    let missing: Vec<&str> = missing.filter(|name| !folder.join(name).is_file()).collect();
    let list = missing.join(", ");
    ensure!(
        missing.is_empty(),
        "not in {}: {list}; run `./dev up`, which builds the functions",
        folder.display()
    );
    Ok(())
}

/// Every WebSocket and every function's pipe is an open file, and many systems start with 1,024.
fn raise_open_files() {
    /// macOS allows "unlimited" and then takes no more than this, its `OPEN_MAX`.
    const MOST_ON_MACOS: u64 = 10_240;
    if let Ok((_, most)) = getrlimit(Resource::RLIMIT_NOFILE) {
        let limit = if cfg!(target_os = "macos") { most.min(MOST_ON_MACOS) } else { most };
        if let Err(why) = setrlimit(Resource::RLIMIT_NOFILE, limit, most) {
            tracing::warn!("the limit of open files stays low: {why}");
        }
    }
}

/// A token that the first SIGINT, SIGTERM or SIGHUP cancels. The second ends the process at once: the system then
/// ends the functions, and the servers' watchdogs the servers.
fn stop_on_signals(endpoints: PathBuf, console: Console) -> Result<CancellationToken> {
    let kinds = [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()];
    let [mut interrupt, mut terminate, mut hangup] = match kinds.map(signal) {
        [Ok(interrupt), Ok(terminate), Ok(hangup)] => [interrupt, terminate, hangup],
        _ => return Err(anyhow!("signals cannot be handled")),
    };
    let stop = CancellationToken::new();
    let first = stop.clone();
    tokio::spawn(async move {
        loop {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
                _ = hangup.recv() => {}
            }
            if first.is_cancelled() {
                drop(std::fs::remove_file(&endpoints));
                console.flush();
                std::process::exit(130);
            }
            tracing::info!("stopping; a second Ctrl-C stops at once");
            first.cancel();
        }
    });
    Ok(stop)
}
