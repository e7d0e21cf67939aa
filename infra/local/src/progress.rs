//! What is under way until everything is ready: spinners for a person, lines for a log.

use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use crate::console::Console;

/// The steps that are under way.
#[derive(Debug)]
pub struct Progress {
    bars: Option<MultiProgress>,
}

/// One step. Dropping it without [`Step::done`] means that it failed.
#[derive(Debug)]
pub struct Step {
    what: String,
    begin: Instant,
    bar: Option<ProgressBar>,
}

impl Progress {
    /// Spinners if a person looks at this console.
    pub fn new(console: &Console) -> Self {
        Self { bars: console.is_terminal().then(MultiProgress::new) }
    }

    /// Begins a step.
    pub fn step(&self, what: &str) -> Step {
        let bar = self.bars.as_ref().map(|bars| {
            let bar = bars.add(ProgressBar::new_spinner());
            bar.set_style(ProgressStyle::with_template("  {spinner} {msg}").expect("a good template"));
            bar.set_message(what.to_owned());
            bar.enable_steady_tick(Duration::from_millis(100));
            bar
        });
        Step { what: what.to_owned(), begin: Instant::now(), bar }
    }
}

impl Step {
    /// The step is done.
    pub fn done(mut self) {
        let took = self.begin.elapsed();
        match self.bar.take() {
            Some(bar) => {
                bar.set_style(ProgressStyle::with_template("  {msg}").expect("a good template"));
                bar.finish_with_message(format!("✓ {} ({:.1} s)", self.what, took.as_secs_f64()));
            }
            None => {
                let duration_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
                tracing::info!(duration_ms, "{} ready", self.what);
            }
        }
    }
}

impl Drop for Step {
    fn drop(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }
}
