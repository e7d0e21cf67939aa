//! No process is left behind. Looks into `/proc`, so only on Linux.

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tests::{ledger::Ledger, local_aws::LocalAws, test_app::eventually};

use crate::start::{setup, sign_up, stop};

#[tokio::test]
async fn a_stop_says_goodbye_to_open_sockets_and_leaves_no_process_behind() {
    let folder = tempfile::tempdir().expect("a folder can be made");
    let mut aws = setup().state(folder.path()).start().await.expect("it starts");
    let ada = sign_up(&aws, &Ledger::default()).await;
    let room = ada.make_public_room().await;
    let mut chat = ada.join(&room).await;
    let family = descendants(aws.pid().expect("it runs"));
    assert!(5 < family.len(), "Postgres, Redis and some functions: {family:?}");
    assert!(folder.path().join("endpoints.json").exists());

    signal(&aws, Signal::SIGINT);
    assert_eq!(chat.closed().await, 1001);
    assert!(aws.ended().await.expect("it ends").success());
    none_lives(&family).await;
    assert!(!folder.path().join("endpoints.json").exists());
}

#[tokio::test]
async fn a_killed_local_aws_leaves_no_process_behind_either() {
    let folder = tempfile::tempdir().expect("a folder can be made");
    let mut aws = setup().state(folder.path()).start().await.expect("it starts");
    sign_up(&aws, &Ledger::default()).await;
    let family = descendants(aws.pid().expect("it runs"));
    signal(&aws, Signal::SIGKILL);
    aws.ended().await.expect("it is dead");
    none_lives(&family).await;
    // And what it kept can be used again.
    stop(setup().state(folder.path()).start().await.expect("it starts again")).await;
}

fn signal(aws: &LocalAws, signal: Signal) {
    let pid = aws.pid().expect("it runs").cast_signed();
    kill(Pid::from_raw(pid), signal).expect("it is ours");
}

async fn none_lives(family: &[Process]) {
    eventually("all its processes have ended", async || {
        let left: Vec<_> = family.iter().filter(|process| process.lives()).collect();
        if left.is_empty() { Ok(()) } else { Err(format!("{left:?}")) }
    })
    .await;
}

/// A process, which its id alone does not name for good.
#[derive(Debug)]
struct Process {
    pid: u32,
    started: String,
}

impl Process {
    fn lives(&self) -> bool {
        stat(self.pid).is_some_and(|(_, state, started)| state != "Z" && started == self.started)
    }
}

/// All processes that this one has started, and that those have started.
fn descendants(ancestor: u32) -> Vec<Process> {
    let processes = std::fs::read_dir("/proc").expect("this is Linux");
    let pids = processes.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let all: Vec<_> = pids.filter_map(|pid| Some((pid, stat(pid)?))).collect();
    let mut family = vec![ancestor];
    let mut next = 0;
    while let Some(&parent) = family.get(next) {
        family.extend(all.iter().filter(|(_, (of, ..))| *of == parent).map(|(pid, _)| *pid));
        next += 1;
    }
    let started = |pid: &u32| Some(Process { pid: *pid, started: stat(*pid)?.2 });
    family[1..].iter().filter_map(started).collect()
}

/// Parent, state and start of a process: `man 5 proc`.
fn stat(pid: u32) -> Option<(u32, String, String)> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, fields) = stat.rsplit_once(") ")?;
    let fields: Vec<_> = fields.split(' ').collect();
    Some((fields[1].parse().ok()?, fields[0].to_owned(), fields[19].to_owned()))
}
