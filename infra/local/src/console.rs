//! What is printed while the local AWS runs: its own messages, the access lines, the functions' output.
//!
//! Everything goes through one thread that writes to standard error, so that a stopped terminal or a full pipe
//! delays no call: a line that finds the queue full is dropped and counted, and the count is printed.

use std::io::{self, IsTerminal as _, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::{Map, Value, json};
use time::OffsetDateTime;
use tracing_subscriber::fmt::MakeWriter;

use crate::access_log::{CLOCK, TIMESTAMP, printable};

/// Lines that may wait for the terminal before more are dropped: some seconds of a busy machine.
const QUEUE_LINES: usize = 65_536;

/// How long [`Console::flush`] waits for a terminal that does not take its lines.
const FLUSH_PATIENCE: Duration = Duration::from_secs(2);

/// The one way to standard error. Clones write to the same queue.
#[derive(Clone, Debug)]
pub struct Console {
    queue: Arc<Queue>,
    terminal: bool,
}

#[derive(Debug, Default)]
struct Queue {
    lines: Mutex<Lines>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Lines {
    waiting: Vec<String>,
    dropped: u64,
    writing: bool,
}

impl Console {
    /// Starts the thread that writes to standard error.
    pub fn stderr() -> Self {
        let stderr = io::stderr();
        let terminal = stderr.is_terminal();
        Self::start(stderr, terminal)
    }

    fn start(out: impl Write + Send + 'static, terminal: bool) -> Self {
        let queue = Arc::new(Queue::default());
        let lines = Arc::clone(&queue);
        let work = move || lines.write_to(out);
        std::thread::Builder::new()
            .name("console".into())
            .spawn(work)
            .expect("the system can start a thread");
        Self { queue, terminal }
    }

    /// Whether a person is looking: then lines are for reading, otherwise they are JSON.
    pub fn is_terminal(&self) -> bool {
        self.terminal
    }

    /// Prints one line (without its line end). Never waits.
    pub fn line(&self, line: String) {
        let mut lines = self.queue.lock();
        if lines.waiting.len() < QUEUE_LINES {
            lines.waiting.push(line);
        } else {
            lines.dropped += 1;
        }
        drop(lines);
        self.queue.changed.notify_all();
    }

    /// Prints a line that a function wrote. Its JSON stays as it is, unless a person is looking.
    pub fn function_line(&self, function: &str, line: &str) {
        let object = line.starts_with('{').then(|| serde_json::from_str(line).ok()).flatten();
        self.line(match object {
            Some(object) if self.terminal => readable(function, &object),
            Some(_) => line.to_owned(),
            None if self.terminal => labelled(function, &printable(line)),
            None => wrapped(function, line, OffsetDateTime::now_utc()),
        });
    }

    /// Waits until what was printed before is out, but not for a terminal that has stopped.
    pub fn flush(&self) {
        let lines = self.queue.lock();
        let unwritten = |lines: &mut Lines| lines.writing || !lines.waiting.is_empty();
        drop(self.queue.changed.wait_timeout_while(lines, FLUSH_PATIENCE, unwritten));
    }
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, Lines> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write_to(&self, out: impl Write) {
        let mut out = io::BufWriter::new(out);
        loop {
            let nothing = |lines: &mut Lines| lines.waiting.is_empty() && lines.dropped == 0;
            let lines = self.changed.wait_while(self.lock(), nothing);
            let mut lines = lines.unwrap_or_else(PoisonError::into_inner);
            // All that waits at once: one system call for many lines under load.
            let (batch, dropped) = (std::mem::take(&mut lines.waiting), std::mem::take(&mut lines.dropped));
            lines.writing = true;
            drop(lines);
            // A terminal that is gone takes nothing; that is no reason to stop serving.
            for line in batch {
                drop(writeln!(out, "{line}"));
            }
            if dropped > 0 {
                drop(writeln!(
                    out,
                    "{}",
                    json!({"level": "WARN", "message": format!("{dropped} log lines were dropped")})
                ));
            }
            drop(out.flush());
            self.lock().writing = false;
            self.changed.notify_all();
        }
    }
}

/// What a function wrote that is no JSON, such as a panic, as a line of the log.
fn wrapped(function: &str, line: &str, now: OffsetDateTime) -> String {
    let timestamp = now.format(TIMESTAMP).expect("a date of these centuries");
    json!({"timestamp": timestamp, "level": "INFO", "function": function, "message": line}).to_string()
}

/// A function's log line for a person: level, message and fields.
fn readable(function: &str, object: &Map<String, Value>) -> String {
    const SHOWN_FIRST: [&str; 4] = ["timestamp", "level", "message", "function"];
    let text = |value: &Value| match value {
        Value::String(text) => printable(text),
        other => printable(&other.to_string()),
    };
    let first = |name: &str| object.get(name).map(text).unwrap_or_default();
    let level = first("level");
    let colour = match level.to_ascii_lowercase().as_str() {
        "error" => 31,
        "warn" => 33,
        _ => 2,
    };
    let mut line = labelled(function, &format!("\x1b[{colour}m{level}\x1b[0m {}", first("message")));
    for (name, value) in object.iter().filter(|(name, _)| !SHOWN_FIRST.contains(&name.as_str())) {
        line.push_str(&format!("  \x1b[2m{}=\x1b[0m{}", printable(name), text(value)));
    }
    line
}

fn labelled(function: &str, text: &str) -> String {
    let clock = OffsetDateTime::now_utc().format(CLOCK).expect("a date of these centuries");
    format!("\x1b[2m{clock}\x1b[0m \x1b[36m{function:<10}\x1b[0m {text}")
}

/// `tracing` writes through the console as well.
impl<'a> MakeWriter<'a> for Console {
    type Writer = TracingLine;

    fn make_writer(&'a self) -> TracingLine {
        TracingLine { console: self.clone(), line: Vec::new() }
    }
}

/// Collects what `tracing` formats for one event, and prints it when it is dropped.
#[derive(Debug)]
pub struct TracingLine {
    console: Console,
    line: Vec<u8>,
}

impl Write for TracingLine {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.line.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for TracingLine {
    fn drop(&mut self) {
        let line = String::from_utf8_lossy(&self.line);
        let line = line.trim_end();
        if !line.is_empty() {
            self.console.line(line.to_owned());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, Sender, channel};

    use super::*;

    /// A terminal that takes nothing until it is told to.
    struct Stopped {
        go: Receiver<()>,
        out: Arc<Mutex<Vec<u8>>>,
    }

    impl Write for Stopped {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let _ = self.go.recv();
            self.out.lock().expect("not poisoned").extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn stopped() -> (Console, Sender<()>, Arc<Mutex<Vec<u8>>>) {
        let (start, go) = channel();
        let out = Arc::new(Mutex::new(Vec::new()));
        (Console::start(Stopped { go, out: Arc::clone(&out) }, false), start, out)
    }

    #[test]
    fn what_a_function_writes_is_one_json_line_whatever_it_is() {
        let line = wrapped("rooms", "thread 'main' panicked at \"x\"", OffsetDateTime::UNIX_EPOCH);
        let object: Value = serde_json::from_str(&line).expect("JSON");
        assert_eq!(
            (&object["function"], &object["message"]),
            (&"rooms".into(), &"thread 'main' panicked at \"x\"".into())
        );
    }

    #[test]
    fn a_function_cannot_steer_the_terminal() {
        let object = json!({"level": "info", "message": "\u{1b}[2Jx", "\u{1b}]0;": "\u{7}"});
        let line = readable("rooms", object.as_object().expect("an object"));
        assert!(
            !line.contains("\u{1b}[2J") && !line.contains("\u{1b}]0") && !line.contains('\u{7}'),
            "{line:?}"
        );
    }

    #[test]
    fn a_stopped_terminal_delays_nobody_and_the_lost_lines_are_counted() {
        let (console, start, out) = stopped();
        for n in 0..3 * QUEUE_LINES {
            console.line(format!("line {n}"));
        }
        drop(start);
        console.flush();
        console.line("after".into());
        console.flush();
        let out = String::from_utf8(out.lock().expect("not poisoned").clone()).expect("text");
        assert!(out.starts_with("line 0\nline 1\n"), "{}", &out[..40]);
        assert!(out.contains("log lines were dropped"));
        assert!(out.ends_with("after\n"));
    }
}
