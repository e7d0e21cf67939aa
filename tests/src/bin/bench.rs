//! `./dev bench`: measures, shows a table, and writes `.local/bench/bench.json`.

use std::path::PathBuf;

use anyhow::{Context as _, Result};
use clap::{Parser, ValueEnum};
use indicatif::{ProgressBar, ProgressStyle};
use tests::{
    bench::{Plan, Report, machine::Machine, room, start},
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
    let starts = if chosen(Part::Start) { start::FUNCTIONS } else { 0 };

    let steps = rooms.len() * plan.rounds * 2 + starts * plan.rounds;
    let bar = ProgressBar::new(steps as u64).with_style(ProgressStyle::with_template(
        "{msg:24} {wide_bar} {pos}/{len} {elapsed} (about {eta} left)",
    )?);
    let mut report = Report { machine: Machine::this(), ..Report::default() };
    for &size in rooms {
        bar.set_message(format!("a room of {size}"));
        report.rooms.push(room::measure(&plan, size, || bar.inc(1)).await?);
    }
    if 0 < starts {
        bar.set_message("starts of functions");
        report.starts = start::measure(&plan, || bar.inc(1)).await?;
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
