//! What is printed while the local AWS runs: its own messages, the access lines, the functions' output.
//!
//! Everything goes through one thread that writes to standard error, so that a stopped terminal or a full pipe
//! delays no call: a line that finds the queue full is dropped and counted, and the count is printed.

use std::io::{self, IsTerminal as _, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::time::Duration;

use tracing_subscriber::fmt::MakeWriter;

/// Lines that may wait for the terminal before more are dropped: some seconds of a busy machine.
const QUEUE_LINES: usize = 65_536;

/// How long [`Console::flush`] waits for a terminal that does not take its lines.
const FLUSH_PATIENCE: Duration = Duration::from_secs(2);

/// The one way to standard error. Clones write to the same queue.
#[derive(Clone, Debug)]
pub struct Console {
    queue: SyncSender<Entry>,
    dropped: Arc<AtomicU64>,
    terminal: bool,
}

#[derive(Debug)]
enum Entry {
    Line(String),
    Flush(SyncSender<()>),
}

impl Console {
    /// Starts the thread that writes to standard error.
    pub fn stderr() -> Self {
        let stderr = io::stderr();
        let terminal = stderr.is_terminal();
        Self::start(stderr, terminal)
    }

    fn start(out: impl Write + Send + 'static, terminal: bool) -> Self {
        let (queue, lines) = sync_channel(QUEUE_LINES);
        let dropped = Arc::new(AtomicU64::new(0));
        let counter = Arc::clone(&dropped);
        std::thread::Builder::new()
            .name("console".into())
            .spawn(move || write_lines(&lines, out, &counter))
            .expect("the system can start a thread");
        Self { queue, dropped, terminal }
    }

    /// Whether a person is looking: then lines are for reading, otherwise they are JSON.
    pub fn is_terminal(&self) -> bool {
        self.terminal
    }

    /// Prints one line (without its line end). Never waits.
    pub fn line(&self, line: String) {
        if let Err(TrySendError::Full(_)) = self.queue.try_send(Entry::Line(line)) {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Waits until what was printed before is out, but not for a terminal that has stopped.
    pub fn flush(&self) {
        let (done, wait) = sync_channel(1);
        if self.queue.try_send(Entry::Flush(done)).is_ok() {
            match wait.recv_timeout(FLUSH_PATIENCE) {
                Ok(()) | Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {}
            }
        }
    }
}

fn write_lines(lines: &Receiver<Entry>, out: impl Write, dropped: &AtomicU64) {
    let mut out = io::BufWriter::new(out);
    while let Ok(first) = lines.recv() {
        // One system call for all that waits, not one for each line.
        for entry in std::iter::once(first).chain(lines.try_iter()) {
            match entry {
                // A terminal that is gone takes nothing; that is no reason to stop serving.
                Entry::Line(line) => drop(writeln!(out, "{line}")),
                Entry::Flush(done) => {
                    drop(out.flush());
                    let _ = done.send(());
                }
            }
        }
        match dropped.swap(0, Ordering::Relaxed) {
            0 => {}
            lost => drop(writeln!(out, "{{\"level\":\"warn\",\"message\":\"{lost} log lines were dropped\"}}")),
        }
        drop(out.flush());
    }
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
    use std::sync::Mutex;
    use std::sync::mpsc::{Sender, channel};

    use super::*;

    /// A terminal that takes nothing until it is told to.
    struct Stopped {
        go: Receiver<()>,
        out: Arc<Mutex<Vec<u8>>>,
    }

    impl Write for Stopped {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            drop(self.go.recv());
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
