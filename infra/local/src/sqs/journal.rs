//! The file of one queue: what happened to its messages, one JSON object a line, only ever appended to.
//!
//! A thread of its own writes what has come in meanwhile in one piece and syncs it once, so that many senders share the
//! disk's time. The file is written anew when most of it tells of messages that are gone: whole beside the old one, and
//! then put in its place. A last line that was not written to its end tells of something that nobody was promised.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread::JoinHandle;

use anyhow::{Context as _, Result, bail};
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

use super::messages::{Delivery, Message};

/// What is written in one piece, at most about.
const GROUP_BYTES: usize = 4 * 1024 * 1024;

/// A line of the file.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Record {
    /// A message as it is: new, or in a file that was written anew.
    Message(Message),
    /// Who may receive it when has changed.
    Delivery { number: u64, delivery: Delivery },
    /// These are gone.
    Deleted(Vec<u64>),
}

/// What must have happened before one goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Safety {
    /// It survives the end of this process.
    Written,
    /// It survives the end of this machine.
    Synced,
}

/// The file cannot be written. Why stands in the log.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("the queue's file cannot be written")]
pub(super) struct Broken;

/// Something that is on its way to the file.
#[derive(Debug)]
#[must_use = "what is not waited for may not be written"]
pub(super) struct Written(Option<oneshot::Receiver<Result<(), Broken>>>);

impl Written {
    /// There was nothing to write.
    pub(super) const NOTHING: Self = Self(None);

    /// Waits until it is there.
    pub(super) async fn done(self) -> Result<(), Broken> {
        match self.0 {
            Some(wait) => wait.await.unwrap_or(Err(Broken)),
            None => Ok(()),
        }
    }
}

enum Command {
    Append { records: Vec<Record>, safety: Safety, done: oneshot::Sender<Result<(), Broken>> },
    Rewrite(Vec<Message>),
}

/// The file and its thread. Dropping it waits until everything is written.
#[derive(Debug)]
pub(super) struct Journal {
    commands: Option<mpsc::Sender<Command>>,
    writer: Option<JoinHandle<()>>,
}

impl Journal {
    /// Opens the file, which is made if it is not there, and tells what is in it.
    pub(super) fn open(path: PathBuf) -> Result<(Self, Vec<Message>)> {
        let during = || format!("reading the queue's file {}", path.display());
        let messages = read(&path).with_context(during)?;
        // Without what is gone, and without a torn line in its middle once more is appended.
        let file = rewrite(&path, &messages).with_context(during)?;
        let (commands, queue) = mpsc::channel();
        let mut writer = Writer { file, path, broken: false };
        let work = move || writer.run(&queue);
        let writer = std::thread::Builder::new().name("queue".into()).spawn(work)?;
        Ok((Self { commands: Some(commands), writer: Some(writer) }, messages))
    }

    /// Appends to the file. The records are in it in the order of these calls, whether one waits or not.
    pub(super) fn append(&self, records: Vec<Record>, safety: Safety) -> Written {
        let (done, wait) = oneshot::channel();
        self.command(Command::Append { records, safety, done });
        Written(Some(wait))
    }

    /// Writes the file anew. These messages are all that is left of what was appended so far.
    pub(super) fn rewrite(&self, messages: Vec<Message>) {
        self.command(Command::Rewrite(messages));
    }

    fn command(&self, command: Command) {
        // A writer that is gone answers nobody, which says enough.
        drop(self.commands.as_ref().map(|commands| commands.send(command)));
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        drop(self.commands.take());
        drop(self.writer.take().map(JoinHandle::join));
    }
}

struct Writer {
    file: File,
    path: PathBuf,
    /// After a failure it is not known what is in the file, so that nothing may be appended.
    broken: bool,
}

impl Writer {
    fn run(&mut self, commands: &mpsc::Receiver<Command>) {
        while let Ok(first) = commands.recv() {
            let (mut lines, mut synced, mut waiting) = (Vec::new(), false, Vec::new());
            let mut failure = None;
            let mut next = Some(first);
            while let Some(command) = next {
                match command {
                    Command::Append { records, safety, done } => {
                        records.iter().for_each(|record| write_line(&mut lines, record));
                        synced |= safety == Safety::Synced;
                        waiting.push(done);
                    }
                    Command::Rewrite(messages) => match self.rewrite(&messages) {
                        // They are all in what has just been written, or gone.
                        Ok(()) => lines.clear(),
                        Err(why) => failure = Some(why),
                    },
                }
                next = if lines.len() < GROUP_BYTES { commands.try_recv().ok() } else { None };
            }
            if failure.is_none() {
                failure = self.append(&lines, synced).err();
            }
            if let Some(why) = failure {
                tracing::error!("{} cannot be written: {why}", self.path.display());
                self.broken = true;
            }
            let outcome = if self.broken { Err(Broken) } else { Ok(()) };
            for done in waiting {
                // A caller that is gone has asked for it all the same.
                let _ = done.send(outcome);
            }
        }
    }

    fn append(&mut self, lines: &[u8], synced: bool) -> io::Result<()> {
        if self.broken {
            return Ok(());
        }
        self.file.write_all(lines)?;
        if synced { self.file.sync_data() } else { Ok(()) }
    }

    fn rewrite(&mut self, messages: &[Message]) -> io::Result<()> {
        if !self.broken {
            self.file = rewrite(&self.path, messages)?;
        }
        Ok(())
    }
}

/// Writes a file of these messages, whole or not at all, and leaves it open at its end.
fn rewrite(path: &Path, messages: &[Message]) -> io::Result<File> {
    let new = path.with_extension("new");
    let mut file = File::create(&new)?;
    let mut lines = Vec::new();
    for message in messages {
        write_line(&mut lines, &Record::Message(message.clone()));
        if lines.len() >= GROUP_BYTES {
            file.write_all(&lines)?;
            lines.clear();
        }
    }
    file.write_all(&lines)?;
    file.sync_all()?;
    fs::rename(&new, path)?;
    if let Some(folder) = path.parent() {
        File::open(folder)?.sync_all()?;
    }
    Ok(file)
}

fn write_line(lines: &mut Vec<u8>, record: &Record) {
    serde_json::to_writer(&mut *lines, record).expect("a record is JSON, and memory takes it");
    lines.push(b'\n');
}

/// What is left of everything that a file tells of.
fn read(path: &Path) -> Result<Vec<Message>> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(why) if why.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(why) => return Err(why.into()),
    };
    let (mut file, mut line) = (BufReader::new(file), Vec::new());
    let (mut messages, mut unreadable) = (BTreeMap::new(), None);
    for number in 1_u64.. {
        line.clear();
        if file.read_until(b'\n', &mut line)? == 0 {
            break;
        }
        if let Some((number, why)) = unreadable {
            bail!("line {number} cannot be read, and it is not the last: {why}");
        }
        match line.strip_suffix(b"\n").map(serde_json::from_slice) {
            Some(Ok(record)) => apply(&mut messages, record),
            Some(Err(why)) => unreadable = Some((number, why)),
            // Torn; nothing comes after it.
            None => {}
        }
    }
    Ok(messages.into_values().collect())
}

fn apply(messages: &mut BTreeMap<u64, Message>, record: Record) {
    match record {
        Record::Message(message) => drop(messages.insert(message.number, message)),
        Record::Delivery { number, delivery } => {
            if let Some(message) = messages.get_mut(&number) {
                message.delivery = delivery;
            }
        }
        Record::Deleted(numbers) => numbers.iter().for_each(|number| drop(messages.remove(number))),
    }
}

#[cfg(test)]
mod tests {
    use std::fs::OpenOptions;

    use tempfile::TempDir;

    use super::*;

    fn message(number: u64, body: &str) -> Message {
        let delivery = Delivery { visible_ms: 5, receives: 0, first_received_ms: None };
        Message { number, id: uuid::Uuid::nil(), body: body.into(), sent_ms: 5, source: None, delivery }
    }

    fn folder() -> (TempDir, PathBuf) {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("archive.jsonl");
        (folder, path)
    }

    async fn append(journal: &Journal, record: Record) {
        journal.append(vec![record], Safety::Synced).done().await.expect("written");
    }

    fn bodies(path: &Path) -> Vec<String> {
        let (_, messages) = Journal::open(path.to_owned()).expect("readable");
        messages.iter().map(|message| message.body.to_string()).collect()
    }

    fn add(path: &Path, text: &str) {
        let mut file = OpenOptions::new().append(true).open(path).expect("there");
        file.write_all(text.as_bytes()).expect("written");
    }

    #[tokio::test]
    async fn what_was_appended_is_read_again_and_what_was_deleted_is_not() {
        let (_folder, path) = folder();
        let (journal, messages) = Journal::open(path.clone()).expect("new");
        assert!(messages.is_empty());
        for (number, body) in [(1, "one"), (2, "two\n\"2\""), (3, "three")] {
            append(&journal, Record::Message(message(number, body))).await;
        }
        let delivery = Delivery { visible_ms: 9, receives: 1, first_received_ms: Some(7) };
        append(&journal, Record::Delivery { number: 2, delivery }).await;
        append(&journal, Record::Deleted(vec![1, 3])).await;
        drop(journal);
        let (_, messages) = Journal::open(path).expect("readable");
        assert_eq!(messages.len(), 1);
        assert_eq!((&*messages[0].body, messages[0].delivery), ("two\n\"2\"", delivery));
    }

    #[tokio::test]
    async fn a_torn_last_line_is_ignored_and_what_comes_after_it_is_not() {
        for torn in [r#"{"message":{"number":2,"bo"#, "{\"message\":{}}\n", "\n"] {
            let (_folder, path) = folder();
            let (journal, _) = Journal::open(path.clone()).expect("new");
            append(&journal, Record::Message(message(1, "one"))).await;
            drop(journal);
            add(&path, torn);
            let (journal, messages) = Journal::open(path.clone()).expect(torn);
            assert_eq!(messages.len(), 1, "{torn}");
            append(&journal, Record::Message(message(2, "two"))).await;
            drop(journal);
            assert_eq!(bodies(&path), ["one", "two"], "{torn}");
        }
    }

    #[tokio::test]
    async fn an_unreadable_line_in_the_middle_is_not_passed_over() {
        let (_folder, path) = folder();
        let (journal, _) = Journal::open(path.clone()).expect("new");
        append(&journal, Record::Message(message(1, "one"))).await;
        drop(journal);
        add(&path, "nonsense\n{\"deleted\":[]}\n");
        let error = format!("{:#}", Journal::open(path).expect_err("damaged"));
        assert!(error.contains("line 2 cannot be read"), "{error}");
    }

    #[tokio::test]
    async fn a_file_that_is_written_anew_holds_what_is_left_and_takes_more() {
        let (_folder, path) = folder();
        let (journal, _) = Journal::open(path.clone()).expect("new");
        for number in 1..=100 {
            append(&journal, Record::Message(message(number, "gone"))).await;
        }
        let before = fs::metadata(&path).expect("there").len();
        journal.rewrite(vec![message(100, "left")]);
        append(&journal, Record::Message(message(101, "new"))).await;
        let after = fs::metadata(&path).expect("there").len();
        assert!(after < before / 10, "{before} → {after}");
        drop(journal);
        assert_eq!(bodies(&path), ["left", "new"]);
    }
}
