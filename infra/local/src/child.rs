//! Programs that we start and that must not outlive us, whatever our end.

use std::ffi::OsStr;
use std::path::PathBuf;
use std::process::Command;

/// A command that gets a signal (`KILL`, `TERM`) when the thread that starts it ends, which must therefore live as long
/// as it is wanted. On Linux only: elsewhere it has to notice by itself that it is alone.
pub(crate) fn ending_with_us(program: impl AsRef<OsStr>, signal: &str) -> Command {
    match setpriv() {
        Some(setpriv) => {
            let mut command = Command::new(setpriv);
            command.args(["--pdeathsig", signal, "--"]).arg(program);
            command
        }
        None => Command::new(program),
    }
}

/// Part of util-linux, which every Linux has.
fn setpriv() -> Option<PathBuf> {
    let folders = std::env::var_os("PATH").unwrap_or_default();
    let mut folders = std::env::split_paths(&folders).filter(|_| cfg!(target_os = "linux"));
    folders.find_map(|folder| Some(folder.join("setpriv")).filter(|program| program.is_file()))
}
