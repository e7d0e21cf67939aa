//! `./dev chaos`: everybody at work for long, all faults mixed, and the proof that nothing acknowledged was lost.

use std::{
    panic::{AssertUnwindSafe, resume_unwind},
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::Result;
use clap::Parser;
use futures::FutureExt as _;
use indicatif::{ProgressBar, ProgressStyle};
use tests::{
    audit::{
        Audit, Plan, any_seed,
        faults::{Driver, Fault},
        proof::Verdict,
    },
    local_aws::workspace_dir,
    test_app::TestApp,
};
use tokio::sync::watch;

/// How long faults are on, in milliseconds.
const FAULTS_MS: std::ops::Range<u64> = 3_000..15_000;
/// How long nothing fails between faults, in milliseconds.
const PEACE_MS: std::ops::Range<u64> = 500..6_000;
/// Most faults at once.
const MOST_AT_ONCE: u64 = 3;
/// How often it is told what is waited for where there is no terminal, in seconds.
const PLAIN_LINES_S: u64 = 10;
/// How many rounds of faults there are between two looks at what came out so far.
const ROUNDS: u32 = 8;

/// Runs Banter's whole local stack under all faults, and proves that nothing acknowledged was lost.
#[derive(Parser)]
#[command(name = "chaos", bin_name = "./dev chaos")]
struct Arguments {
    /// How long, in minutes. Ctrl-C ends it before, with the proof.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..=100_000))]
    minutes: u64,
    /// Repeats the choices of a run.
    #[arg(long)]
    seed: Option<u64>,
    /// On a Redis Cluster in place of one Redis server.
    #[arg(long)]
    cluster: bool,
    /// Only these faults.
    #[arg(long, value_delimiter = ',')]
    only: Vec<Fault>,
}

#[tokio::main]
async fn main() -> Result<ExitCode> {
    let arguments = Arguments::parse();
    let seed = arguments.seed.unwrap_or_else(any_seed);
    let duration = Duration::from_secs(arguments.minutes * 60);
    let shown = Shown::new(seed, duration)?;
    let (stop, stopped) = watch::channel(false);
    tokio::spawn(stop_on_interrupt(stop, shown.clone()));

    shown.say("starting the servers and the local AWS");
    let mut setup = TestApp::setup().own_postgres().own_process_group();
    if arguments.cluster {
        setup = setup.redis_cluster();
    }
    let mut app = setup.start().await;
    let mut driver = Driver::new(seed, stopped);
    let faults = if arguments.only.is_empty() { Fault::all(arguments.cluster) } else { arguments.only };
    let run = run(&mut app, &mut driver, &faults, seed, duration, &shown);
    let judged = AssertUnwindSafe(run).catch_unwind().await;
    let is_good = judged.as_ref().is_ok_and(Verdict::is_good);
    if !is_good {
        let file = workspace_dir().join(".local/chaos").join(format!("{seed}.log"));
        std::fs::create_dir_all(file.parent().expect("it is in a folder"))?;
        std::fs::write(&file, app.aws.log())?;
        shown.print(&format!("--seed {seed} repeats its choices; the log is {}", file.display()));
    }
    app.stop().await;
    let verdict = judged.unwrap_or_else(|panic| resume_unwind(panic));
    shown.bar.finish_and_clear();
    let on_cluster = if arguments.cluster { " --cluster" } else { "" };
    let command = format!("./dev chaos --minutes {} --seed {seed}{on_cluster}", arguments.minutes);
    print(&format!("`{command}`\n\n{}", verdict.table(driver.made())));
    if !is_good {
        print(&verdict.offenders());
    }
    Ok(if is_good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn run(
    app: &mut TestApp,
    driver: &mut Driver,
    faults: &[Fault],
    seed: u64,
    duration: Duration,
    shown: &Shown,
) -> Verdict {
    let end = Instant::now() + duration;
    let mut audit = Audit::start(app, Plan::long(seed)).await;
    let mut round = 0;
    while Instant::now() < end && !driver.is_stopped() {
        let faults = choose(driver, faults);
        let names: Vec<&str> = faults.iter().map(|fault| fault.name()).collect();
        shown.doing(&audit, &names.join(" + "));
        let lasts = driver.dice().pause(FAULTS_MS);
        driver.make(app, &audit, &faults, lasts).await;
        shown.doing(&audit, "no fault");
        let peace = driver.dice().pause(PEACE_MS);
        driver.rest(peace).await;
        round += 1;
        if round % ROUNDS == 0 {
            shown.doing(&audit, "waiting for quiet");
            let settled = audit.settle(app, |left| shown.waiting(left)).await;
            let verdict = audit.glance(app, settled).await;
            if !verdict.is_good() {
                audit.end().await;
                return verdict;
            }
            shown.doing(&audit, &format!("{} messages kept, none lost", verdict.acked));
            audit.go_on();
        }
    }
    shown.doing(&audit, "waiting for quiet");
    audit.finish(app, |left| shown.waiting(left)).await
}

/// Some faults that can be at the same time.
fn choose(driver: &mut Driver, faults: &[Fault]) -> Vec<Fault> {
    let dice = driver.dice();
    let mut chosen: Vec<Fault> = Vec::new();
    for _ in 0..dice.within(1..MOST_AT_ONCE + 1) {
        let fault = *dice.one_of(faults);
        if chosen.iter().all(|other| fault.goes_with(*other)) {
            chosen.push(fault);
        }
    }
    chosen
}

/// The first Ctrl-C ends the faults, the second one everything.
async fn stop_on_interrupt(stop: watch::Sender<bool>, shown: Shown) {
    let mut before = false;
    while tokio::signal::ctrl_c().await.is_ok() {
        if before {
            std::process::exit(130);
        }
        before = true;
        shown.print("no more faults; proving what came out (Ctrl-C once more ends at once)");
        stop.send_replace(true);
    }
}

/// What the person at the terminal sees: a line that changes, or lines where there is no terminal.
#[derive(Clone)]
struct Shown {
    bar: ProgressBar,
    /// When it last told what it waits for, in [`PLAIN_LINES_S`].
    told: Arc<AtomicU64>,
}

impl Shown {
    fn new(seed: u64, duration: Duration) -> Result<Self> {
        let style = "{elapsed} of about {prefix}  {msg}";
        let bar = ProgressBar::new_spinner().with_style(ProgressStyle::with_template(style)?);
        bar.set_prefix(format!("{} min", duration.as_secs() / 60));
        bar.enable_steady_tick(Duration::from_millis(250));
        let shown = Self { bar, told: Arc::default() };
        shown.print(&format!("chaos with --seed {seed}"));
        Ok(shown)
    }

    fn doing(&self, audit: &Audit, what: &str) {
        let counts = audit.notes.counts();
        let age = audit.age().as_secs();
        self.bar.set_message(format!("{} acks, {} shown: {what}", counts.acks, counts.shown));
        if self.bar.is_hidden() {
            print(&format!(
                "{:3}:{:02} {} acks, {} shown: {what}",
                age / 60,
                age % 60,
                counts.acks,
                counts.shown
            ));
        }
    }

    fn say(&self, what: &str) {
        self.bar.set_message(what.to_owned());
    }

    fn waiting(&self, what: &str) {
        let what = format!("waiting for {what}");
        let now = self.bar.elapsed().as_secs() / PLAIN_LINES_S;
        if self.bar.is_hidden() && self.told.swap(now, Ordering::Relaxed) < now {
            print(&format!("       {what}"));
        }
        self.bar.set_message(what);
    }

    fn print(&self, text: &str) {
        if self.bar.is_hidden() { print(text) } else { self.bar.println(text) }
    }
}

#[expect(clippy::print_stdout, reason = "what came out is what the program is for")]
fn print(text: &str) {
    println!("{text}");
}
