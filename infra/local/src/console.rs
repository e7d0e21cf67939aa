//! The log: the local AWS's own messages, the access lines, the functions' output.
//!
//! All of it goes through one thread that writes to standard error, so that a stopped terminal or a full pipe
//! delays no call: a line that finds the queue full is dropped and counted, and the count is printed. What is shown
//! before there are calls, the progress and the banner, is written without it.

use std::io::{self, IsTerminal as _, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::{Map, Value, json};
use time::OffsetDateTime;
use tokio::io::{AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, BufReader};
use tracing_subscriber::fmt::MakeWriter;

use crate::access_log::{CLOCK, TIMESTAMP, printable};

/// What may wait for the terminal before more is dropped: some seconds of a busy machine.
const QUEUE_BYTES: usize = 16 * 1024 * 1024;

/// A longer line of a function is printed in parts of this size.
const MAX_LINE_BYTES: u64 = 256 * 1024;

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
    /// Of the lines that wait, and of those that are being written.
    bytes: usize,
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
        // An empty line takes memory as well.
        let size = line.len() + size_of::<String>();
        let mut lines = self.queue.lock();
        if lines.bytes + size <= QUEUE_BYTES {
            lines.bytes += size;
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

    /// Prints what a function writes, to its end, and shows each line to `seen`. Always reads, so that the function
    /// never waits for the terminal.
    pub(crate) async fn print_output(
        &self,
        function: &str,
        output: impl AsyncRead + Unpin,
        mut seen: impl FnMut(&str),
    ) {
        let mut output = BufReader::new(output);
        let mut line = Vec::new();
        while (&mut output).take(MAX_LINE_BYTES).read_until(b'\n', &mut line).await.is_ok_and(|read| read > 0)
        {
            let text = String::from_utf8_lossy(&line);
            let text = text.trim_end();
            if !text.is_empty() {
                self.function_line(function, text);
                seen(text);
            }
            line.clear();
        }
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
            let bytes = lines.bytes;
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
            let mut lines = self.lock();
            lines.writing = false;
            lines.bytes -= bytes;
            drop(lines);
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
        for n in 0..40 {
            console.line(format!("line {n}{}", " ".repeat(QUEUE_BYTES / 20)));
        }
        assert!(console.queue.lock().bytes <= QUEUE_BYTES);
        drop(start);
        console.flush();
        console.line("after".into());
        console.flush();
        let out = String::from_utf8(out.lock().expect("not poisoned").clone()).expect("text");
        let lines: Vec<&str> = out.lines().map(str::trim_end).collect();
        assert_eq!((lines[0], lines[18], lines[lines.len() - 1]), ("line 0", "line 18", "after"));
        let dropped = |line: &&str| {
            let object: Value = serde_json::from_str(line).ok()?;
            object["message"].as_str()?.strip_suffix(" log lines were dropped")?.parse::<u64>().ok()
        };
        assert_eq!(lines.iter().filter_map(dropped).sum::<u64>(), 21, "{lines:?}");
    }

    #[tokio::test]
    async fn output_that_is_no_utf8_is_read_to_its_end() {
        let (console, start, out) = stopped();
        drop(start);
        let mut seen = Vec::new();
        console.print_output("rooms", &b"a\xffb\n\nlast"[..], |line| seen.push(line.to_owned())).await;
        assert_eq!(seen, ["a\u{fffd}b", "last"]);
        console.flush();
        let out = String::from_utf8(out.lock().expect("not poisoned").clone()).expect("text");
        assert!(out.contains("a\u{fffd}b") && out.contains("last"), "{out}");
    }
}
