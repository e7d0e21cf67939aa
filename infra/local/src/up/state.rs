//! The state folder: one local AWS at a time, and `endpoints.json` while it is ready.

use std::fs::{self, File, TryLockError};
use std::io::{ErrorKind, Read as _, Seek as _, Write as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};

use super::Endpoints;
use crate::watch;

/// The file that says where everything is.
pub(super) const ENDPOINTS: &str = "endpoints.json";

const LOCK: &str = "lock";

/// A state folder that is ours as long as this lives.
#[derive(Debug)]
pub(super) struct State {
    folder: PathBuf,
    /// Held until the end of the process, whatever its end.
    _lock: File,
}

impl State {
    /// Takes the folder, which is made if it is not there.
    pub(super) fn claim(folder: &Path) -> Result<Self> {
        let during = || format!("preparing the folder {}", folder.display());
        fs::create_dir_all(folder).with_context(during)?;
        let folder = fs::canonicalize(folder).with_context(during)?;
        let path = folder.join(LOCK);
        let mut lock = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .with_context(during)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut pid = String::new();
                drop(lock.read_to_string(&mut pid));
                bail!(
                    "another local AWS (process {}) uses {}: stop it, or choose another folder with --state",
                    pid.trim(),
                    folder.display()
                );
            }
            Err(TryLockError::Error(why)) => {
                return Err(why).with_context(|| format!("locking {}", path.display()));
            }
        }
        lock.set_len(0).and_then(|()| lock.rewind()).with_context(during)?;
        writeln!(lock, "{}", std::process::id()).with_context(during)?;
        // Data, logs and passwords are no part of anybody's repository.
        fs::write(folder.join(".gitignore"), "*\n").with_context(during)?;
        let state = Self { folder, _lock: lock };
        // What a killed run has left behind leads nowhere.
        state.withdraw();
        state.remove(watch::ENVIRONMENT);
        Ok(state)
    }

    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Writes `endpoints.json`, whole or not at all.
    pub(super) fn publish(&self, endpoints: &Endpoints) -> Result<()> {
        let (path, new) = (self.folder.join(ENDPOINTS), self.folder.join("endpoints.json.new"));
        let text = serde_json::to_string_pretty(endpoints)? + "\n";
        let written = fs::write(&new, text).and_then(|()| fs::rename(&new, &path));
        written.with_context(|| format!("writing {}", path.display()))
    }

    /// Removes `endpoints.json`.
    pub(super) fn withdraw(&self) {
        self.remove(ENDPOINTS);
    }

    fn remove(&self, file: &str) {
        let path = self.folder.join(file);
        match fs::remove_file(&path) {
            Err(why) if why.kind() != ErrorKind::NotFound => {
                tracing::warn!("{} stays: {why}", path.display())
            }
            _ => {}
        }
    }
}

/// The functions' environment holds passwords, and nobody needs it any longer.
impl Drop for State {
    fn drop(&mut self) {
        self.remove(watch::ENVIRONMENT);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoints() -> Endpoints {
        Endpoints {
            http: "http://127.0.0.1:3000".into(),
            websocket: Some("ws://127.0.0.1:3001/live".into()),
            management: None,
            sqs: None,
            control: "http://127.0.0.1:4000".into(),
        }
    }

    #[test]
    fn a_folder_has_one_owner_at_a_time_and_the_second_is_told_of_the_first() {
        let folder = tempfile::tempdir().expect("a folder");
        let first = State::claim(folder.path()).expect("free");
        let refused = State::claim(folder.path()).expect_err("taken").to_string();
        assert!(refused.contains(&format!("process {}", std::process::id())), "{refused}");
        drop(first);
        State::claim(folder.path()).expect("free again");
    }

    #[test]
    fn endpoints_are_there_only_while_they_lead_somewhere() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join(ENDPOINTS);
        let state = State::claim(folder.path()).expect("free");
        state.publish(&endpoints()).expect("written");
        let read: serde_json::Value = serde_json::from_slice(&fs::read(&file).expect("there")).expect("JSON");
        assert_eq!(read["websocket"], "ws://127.0.0.1:3001/live");
        assert_eq!(read.get("management"), None);
        // A run that was killed has left its file behind.
        drop(state);
        let state = State::claim(folder.path()).expect("free");
        assert!(!file.exists());
        state.publish(&endpoints()).expect("written");
        state.withdraw();
        assert!(!file.exists());
    }

    #[test]
    fn the_environment_of_the_functions_does_not_stay_behind() {
        let folder = tempfile::tempdir().expect("a folder");
        let state = State::claim(folder.path()).expect("free");
        let file = watch::write_environment(&[], state.folder()).expect("written");
        assert!(file.exists());
        drop(state);
        assert!(!file.exists());
    }
}
