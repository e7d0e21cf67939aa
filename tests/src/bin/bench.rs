//! `./dev bench`: measures, shows a table, and writes `.local/bench/bench.json`.

use std::path::PathBuf;

use anyhow::{Context as _, Result};
use clap::{Parser, ValueEnum};
use indicatif::{ProgressBar, ProgressStyle};
use tests::{
    bench::{Plan, Report, Spread, ack, archive, machine::Machine, pages, resume, room, start},
    local_aws::workspace_dir,
};

/// Measures Banter's whole local stack with optimised builds and real servers.
#[derive(Parser)]
#[command(name = "bench", bin_name = "./dev bench")]
struct Arguments {
    /// What to measure; everything if absent.
    parts: Vec<Part>,
    /// The folder of the functions' binaries.
    #[arg(long)]
    functions: PathBuf,
    /// How long each measurement goes on, in seconds.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=600))]
    seconds: u64,
    /// How often each measurement is made; medians are told.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=20))]
    rounds: u8,
    /// The sizes of the rooms.
    #[arg(long, value_delimiter = ',', default_values_t = [10, 100, 1000])]
    sizes: Vec<usize>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    /// Deliveries a second, times from send to receipt, memory of `message`.
    Rooms,
    /// Times from send to ack, with the archive queue and without its time.
    Ack,
    /// Events a second on the way to Postgres.
    Archive,
    /// Times to read pages of a conversation of 100,000 events.
    Pages,
    /// Times to resume after 1,000 missed events.
    Resume,
    /// Times from process start to first answer.
    Start,
}

#[tokio::main]
async fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let chosen = |part| arguments.parts.is_empty() || arguments.parts.contains(&part);
    let plan = Plan {
        functions: arguments.functions.clone(),
        seconds: arguments.seconds,
        rounds: arguments.rounds.into(),
    };
    let rooms = if chosen(Part::Rooms) { arguments.sizes.as_slice() } else { &[] };
    let acks: &[usize] = if chosen(Part::Ack) { &ack::SIZES } else { &[] };
    let starts = if chosen(Part::Start) { start::FUNCTIONS } else { 0 };
    let archives: &[u64] = if chosen(Part::Archive) { &archive::HOT } else { &[] };
    let others = [Part::Pages, Part::Resume].into_iter().filter(|part| chosen(*part)).count();

    let steps = (2 * rooms.len() + acks.len() + archives.len() + others + starts) * plan.rounds;
    let bar = ProgressBar::new(steps as u64).with_style(ProgressStyle::with_template(
        "{msg:24} {wide_bar} {pos}/{len} {elapsed} (about {eta} left)",
    )?);
    let progress = || bar.inc(1);
    let mut report = Report { machine: Machine::this(), ..Report::default() };
    for &size in rooms {
        bar.set_message(format!("a room of {size}"));
        report.rooms.push(room::measure(&plan, size, progress).await?);
    }
    for &size in acks {
        bar.set_message(format!("acks in a room of {size}"));
        report.acks.push(ack::measure(&plan, size, progress).await?);
    }
    for &hot in archives {
        bar.set_message(format!("the archive, logs of {hot}"));
        report.archive.push(archive::measure(&plan, hot, progress).await?);
    }
    if chosen(Part::Pages) {
        bar.set_message("pages of history");
        report.pages = pages::measure(&plan, progress).await?;
    }
    if chosen(Part::Resume) {
        bar.set_message("resumes");
        report.resumes = resume::measure(&plan, progress).await?;
    }
    if 0 < starts {
        bar.set_message("starts of functions");
        report.starts = start::measure(&plan, progress).await?;
    }
    bar.finish_and_clear();

    let folder = workspace_dir().join(".local/bench");
    std::fs::create_dir_all(&folder)?;
    let file = folder.join("bench.json");
    std::fs::write(&file, serde_json::to_vec_pretty(&report)?)
        .with_context(|| format!("{}", file.display()))?;
    show(&report, &plan);
    Ok(())
}

#[expect(clippy::print_stdout, reason = "the table is what the program is for")]
fn show(report: &Report, plan: &Plan) {
    let Machine { processor, cores, memory_mib, system } = &report.machine;
    println!(
        "{cores} × {processor}, {} GiB, {system}; {} rounds of {} s\n",
        memory_mib / 1024,
        plan.rounds,
        plan.seconds
    );
    if !report.rooms.is_empty() {
        println!("| room | deliveries/s | p50 | p99 | lost | doubled | memory of `message` |");
        println!("|---:|---:|---:|---:|---:|---:|---:|");
        for room in &report.rooms {
            println!(
                "| {} | {:.0} | {:.1} ms | {:.1} ms | {} | {} | {:.1} MiB |",
                room.size,
                room.deliveries_per_second,
                room.p50_ms,
                room.p99_ms,
                room.lost,
                room.duplicated,
                room.message_resident_kib as f64 / 1024.0
            );
        }
        println!();
    }
    show_acks(report);
    show_archive(report);
    show_history(report);
    if !report.starts.is_empty() {
        println!("| function | start to first request | start to first answer | the same call, warm |");
        println!("|---|---:|---:|---:|");
        for start in &report.starts {
            println!(
                "| `{}` | {:.1} ms | {:.1} ms | {:.1} ms |",
                start.function, start.init_ms, start.first_answer_ms, start.warm_ms
            );
        }
    }
}

#[expect(clippy::print_stdout, reason = "the table is what the program is for")]
fn show_acks(report: &Report) {
    if report.acks.is_empty() {
        return;
    }
    println!(
        "| send to ack, room | with the queue: p50 | p99 | a queue that answers at once: p50 | p99 | ratio p50 | p99 \
         | a queue that takes 20 ms: p50 | in the queue: p50 | ping to pong: p50 |"
    );
    println!("|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|");
    for ack in &report.acks {
        println!(
            "| {} | {:.1} ms | {:.1} ms | {:.1} ms | {:.1} ms | {} | {} | {:.1} ms | {:.1} ms | {:.1} ms |",
            ack.size,
            ack.queue.p50_ms,
            ack.queue.p99_ms,
            ack.instant_queue.p50_ms,
            ack.instant_queue.p99_ms,
            ratio(ack.ratio_p50),
            ratio(ack.ratio_p99),
            ack.slow_queue.p50_ms,
            ack.in_queue.p50_ms,
            ack.ping.p50_ms,
        );
    }
    println!();
}

#[expect(clippy::print_stdout, reason = "the table is what the program is for")]
fn show_archive(report: &Report) {
    if report.archive.is_empty() {
        return;
    }
    println!("| archived events | left in Redis | events/s | calls | a call: p50 | p99 |");
    println!("|---:|---:|---:|---:|---:|---:|");
    for archive in &report.archive {
        let Spread { median, least, most } = archive.events_per_second;
        println!(
            "| {} | {} | {median:.0} ({least:.0}–{most:.0}) | {:.0} | {:.1} ms | {:.1} ms |",
            archive.events,
            archive.left_in_logs,
            archive.calls.median,
            archive.call.p50_ms,
            archive.call.p99_ms
        );
    }
    println!();
}

#[expect(clippy::print_stdout, reason = "the table is what the program is for")]
fn show_history(report: &Report) {
    if !report.pages.is_empty() {
        println!("| page of 50, of 100,000 events | p50 | p99 | ratio to the newest in Postgres |");
        println!("|---|---:|---:|---:|");
        for page in &report.pages {
            let ratio = ratio(page.to_newest_in_postgres);
            println!("| {} | {:.1} ms | {:.1} ms | {ratio} |", page.page, page.time.p50_ms, page.time.p99_ms);
        }
        println!();
    }
    if !report.resumes.is_empty() {
        println!("| missed events | from | pages | p50 | p99 | ratio to Redis |");
        println!("|---:|---|---:|---:|---:|---:|");
        for resume in &report.resumes {
            println!(
                "| {} | {} | {} | {:.1} ms | {:.1} ms | {} |",
                resume.events,
                resume.from,
                resume.pages,
                resume.time.p50_ms,
                resume.time.p99_ms,
                ratio(resume.to_redis)
            );
        }
        println!();
    }
}

fn ratio(Spread { median, least, most }: Spread) -> String {
    format!("{median:.2} ({least:.2}–{most:.2})")
}
