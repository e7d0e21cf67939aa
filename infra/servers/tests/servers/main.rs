//! What a private server promises, on the real programs.

mod command;
mod postgres;
mod redis;

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
    let ps = std::process::Command::new("ps").args(["-o", "stat=", "-p", &pid.to_string()]).output();
    let state = String::from_utf8(ps.expect("ps runs").stdout).expect("ps speaks ASCII");
    !state.trim().is_empty() && !state.starts_with('Z')
}

async fn is_gone(pid: u32, folder: &Path) {
    eventually("the server ends", async || !is_running(pid)).await;
    eventually("its folder is removed", async || !folder.exists()).await;
}
