//! What a private server promises, on the real programs.

mod command;
mod postgres;
mod redis;
mod redis_cluster;

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use std::{path::Path, time::Duration};

/// Waits until something holds; what for is said if it never does.
async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let waiting = async {
        let mut look_again = tokio::time::interval(Duration::from_millis(10));
        while !holds().await {
            look_again.tick().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), waiting).await.unwrap_or_else(|_| panic!("never: {what}"));
}

/// Whether a process is there and not just waiting for its parent to notice its end.
fn is_running(pid: u32) -> bool {
    let state = if cfg!(target_os = "linux") {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        stat.rsplit_once(") ").map(|(_, fields)| fields.to_owned()).unwrap_or_default()
    } else {
        let ps = std::process::Command::new("ps").args(["-o", "state=", "-p", &pid.to_string()]).output();
        String::from_utf8(ps.expect("ps runs").stdout).expect("ps speaks ASCII").trim().to_owned()
    };
    !state.is_empty() && !state.starts_with('Z')
}

fn send(pid: u32, signal: Signal) {
    kill(Pid::from_raw(pid.try_into().expect("a process id")), signal).expect("it runs");
}

async fn is_gone(pid: u32, folder: &Path) {
    eventually("the server ends", async || !is_running(pid)).await;
    eventually("its folder is removed", async || !folder.exists()).await;
}
