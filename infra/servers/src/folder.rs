//! Where a server's files are.

use crate::{Error, error::During, user::User};
use std::{
    fs::{self, Permissions},
    os::{
        fd::OwnedFd,
        unix::fs::{PermissionsExt, symlink},
    },
    path::{Path, PathBuf},
    process::Stdio,
};
use tokio::process::Command;

const KEEPER: &str = include_str!("keeper.sh");

/// Where kept data goes when root is the owner: root's own folders are closed to the server's user.
const ROOT_DATA: &str = "/var/lib/banter";

/// A folder for sockets, certificates and what else lives as long as one server. Closed to other users, its path short
/// enough for a socket (about 100 bytes), and gone when its owner is.
#[derive(Debug)]
pub(crate) struct RunFolder {
    path: PathBuf,
    /// The keeper waits for the end of this pipe and then removes the folder.
    _lifeline: OwnedFd,
}

impl RunFolder {
    pub(crate) fn create(user: Option<User>) -> Result<Self, Error> {
        // Root's TMPDIR may be a place of its own, too.
        let parent = if user.is_some() { PathBuf::from("/tmp") } else { std::env::temp_dir() };
        let operation = || format!("making a folder in {}", parent.display());
        let folder = tempfile::Builder::new().prefix("banter-").tempdir_in(&parent).during(operation)?;
        if let Some(user) = user {
            user.own(folder.path())?;
        }
        let mut keeper = Command::new("sh")
            .args(["-c", KEEPER, "keeper"])
            .arg(folder.path())
            .current_dir("/")
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .during(operation)?;
        let lifeline = keeper.stdin.take().expect("standard input is piped").into_owned_fd().during(operation)?;
        Ok(Self { path: folder.keep(), _lifeline: lifeline })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Makes a file in the folder that only the server's user can read.
    pub(crate) fn write(&self, name: &str, text: &str, user: Option<User>) -> Result<PathBuf, Error> {
        let path = self.path.join(name);
        let operation = || format!("writing {}", path.display());
        fs::write(&path, text).during(operation)?;
        fs::set_permissions(&path, Permissions::from_mode(0o600)).during(operation)?;
        if let Some(user) = user {
            user.own(&path)?;
        }
        Ok(path)
    }
}

/// The folder for data that is kept, made if it is not there. When `user` is another than the owner, `path` becomes a
/// link to a place that `user` can reach; removing the link forgets the data.
pub(crate) fn kept(path: &Path, user: Option<User>) -> Result<PathBuf, Error> {
    let operation = || format!("making the folder {}", path.display());
    if fs::metadata(path).is_ok() {
        return fs::canonicalize(path).during(operation);
    }
    let parent = path.parent().unwrap_or(Path::new("/"));
    fs::create_dir_all(parent).during(operation)?;
    let Some(user) = user else {
        fs::create_dir(path).during(operation)?;
        fs::set_permissions(path, Permissions::from_mode(0o700)).during(operation)?;
        return fs::canonicalize(path).during(operation);
    };
    fs::create_dir_all(ROOT_DATA).during(operation)?;
    fs::set_permissions(ROOT_DATA, Permissions::from_mode(0o755)).during(operation)?;
    let prefix = format!("{}-", path.file_name().unwrap_or_default().to_string_lossy());
    let folder = tempfile::Builder::new().prefix(&prefix).tempdir_in(ROOT_DATA).during(operation)?;
    user.own(folder.path())?;
    // A link that leads nowhere: somebody removed the data behind it.
    if fs::symlink_metadata(path).is_ok() {
        fs::remove_file(path).during(operation)?;
    }
    symlink(folder.path(), path).during(operation)?;
    Ok(folder.keep())
}

/// Makes a folder in a server's folder and gives it to the server's user.
pub(crate) fn create_owned(path: &Path, user: Option<User>) -> Result<(), Error> {
    fs::create_dir_all(path).during(|| format!("making the folder {}", path.display()))?;
    user.map_or(Ok(()), |user| user.own(path))
}

/// Removes a folder with all that is in it, if it is there.
pub(crate) fn remove(path: &Path) -> Result<(), Error> {
    match fs::remove_dir_all(path) {
        Err(refused) if refused.kind() == std::io::ErrorKind::NotFound => Ok(()),
        done => done.during(|| format!("removing {}", path.display())),
    }
}
