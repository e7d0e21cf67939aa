//! Where the installed programs are, and what to say when they are not.

use crate::{Error, error::During};
use nix::unistd::geteuid;
use std::{
    env,
    ffi::OsStr,
    fs,
    path::{Path, PathBuf},
};
use tokio::process::Command;

/// The first of these folders that has all the programs.
pub(crate) fn folder_with(folders: &[PathBuf], programs: &[&str]) -> Option<PathBuf> {
    folders.iter().find(|folder| programs.iter().all(|program| folder.join(program).is_file())).cloned()
}

/// The folders of `PATH`.
pub(crate) fn search_path() -> Vec<PathBuf> {
    env::var_os("PATH").map(|path| env::split_paths(&path).collect()).unwrap_or_default()
}

/// The `bin` folders of the Postgres versions that the system's packages put aside, newest first.
pub(crate) fn postgres_folders() -> Vec<PathBuf> {
    // Debian and Ubuntu; the Postgres project's packages for Red Hat's family; Homebrew on either kind of Mac.
    const PARENTS: [(&str, &str); 4] = [
        ("/usr/lib/postgresql", ""),
        ("/usr", "pgsql-"),
        ("/opt/homebrew/opt", "postgresql@"),
        ("/usr/local/opt", "postgresql@"),
    ];
    let mut found = Vec::new();
    for (parent, prefix) in PARENTS {
        for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let version = name.to_str().and_then(|name| name.strip_prefix(prefix)).map(str::parse::<u32>);
            if let Some(Ok(version)) = version {
                found.push((version, entry.path().join("bin")));
            }
        }
    }
    found.sort_by_key(|(version, _)| std::cmp::Reverse(*version));
    found.into_iter().map(|(_, folder)| folder).chain(search_path()).collect()
}

/// The version that a program says of itself: the first number with a dot in its `--version`.
pub(crate) async fn version(program: &Path) -> Result<String, Error> {
    let operation = || format!("asking {} for its version", program.display());
    let output = Command::new(program).arg("--version").output().await.during(operation)?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let number = text
        .split(|c: char| c.is_whitespace() || c == '=')
        .find(|word| word.starts_with(|c: char| c.is_ascii_digit()) && word.contains('.'));
    Ok(number.unwrap_or("0.0").to_owned())
}

/// The first number of a version.
pub(crate) fn major(version: &str) -> u32 {
    version.split('.').next().and_then(|number| number.parse().ok()).unwrap_or(0)
}

/// "This program is not installed", with the command of this system's package manager.
pub(crate) fn not_installed(program: &'static str, packages: Packages) -> Error {
    let exists = |name: &str| search_path().iter().any(|folder| folder.join(name).is_file());
    let sudo = if geteuid().is_root() { "" } else { "sudo " };
    let install = if exists("brew") {
        format!("brew install {}", packages.brew)
    } else if exists("apt-get") {
        format!("{sudo}apt-get update && {sudo}apt-get install {}", packages.apt)
    } else if exists("dnf") {
        format!("{sudo}dnf install {}", packages.dnf)
    } else {
        format!("your package manager's install of {}", packages.apt)
    };
    Error::NotInstalled { program, install }
}

/// What the package of a program is called.
#[derive(Clone, Copy)]
pub(crate) struct Packages {
    pub(crate) apt: &'static str,
    pub(crate) brew: &'static str,
    pub(crate) dnf: &'static str,
}

/// The words in front of a command that make it run as `user` and, on Linux, die with its parent.
pub(crate) fn setpriv(user: Option<crate::user::User>) -> Result<Vec<Box<OsStr>>, Error> {
    let mut words: Vec<Box<OsStr>> = Vec::new();
    if let Some(program) = folder_with(&search_path(), &["setpriv"]).filter(|_| cfg!(target_os = "linux")) {
        words.push(program.join("setpriv").into_os_string().into_boxed_os_str());
        words.extend(["--pdeathsig", "KILL"].map(|word| Box::from(OsStr::new(word))));
        if let Some(user) = user {
            for word in [&format!("--reuid={}", user.uid), &format!("--regid={}", user.gid), "--init-groups"]
            {
                words.push(Box::from(OsStr::new(word)));
            }
        }
        words.push(Box::from(OsStr::new("--")));
    } else if user.is_some() {
        let packages = Packages { apt: "util-linux", brew: "util-linux", dnf: "util-linux" };
        return Err(not_installed("setpriv", packages));
    }
    Ok(words)
}
