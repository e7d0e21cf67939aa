//! Where a server's files are.

use crate::{Error, error::During, user::User};
use std::{
    fs::{self, Permissions},
    io::{self, ErrorKind},
    os::{
        fd::OwnedFd,
        unix::fs::{PermissionsExt, symlink},
    },
    path::{Path, PathBuf},
    process::Stdio,
};
use tempfile::TempDir;
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
        let folder = private_folder("banter-", &parent, user)?;
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
        let lifeline =
            keeper.stdin.take().expect("standard input is piped").into_owned_fd().during(operation)?;
        Ok(Self { path: folder.keep(), _lifeline: lifeline })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Makes a file in the folder that only the server's user can read.
    pub(crate) fn write(&self, name: &str, text: &str, user: Option<User>) -> Result<PathBuf, Error> {
        let path = self.path.join(name);
        write(&path, text.as_bytes(), user)?;
        Ok(path)
    }
}

/// Makes a file that only the server's user can read.
pub(crate) fn write(path: &Path, content: &[u8], user: Option<User>) -> Result<(), Error> {
    let operation = || format!("writing {}", path.display());
    fs::write(path, content).during(operation)?;
    fs::set_permissions(path, Permissions::from_mode(0o600)).during(operation)?;
    user.map_or(Ok(()), |user| user.own(path))
}

/// The folder for data that is kept, made if it is not there. Where `user` cannot reach `path`, that becomes a link to a
/// place that `user` can reach; removing the link forgets the data.
pub(crate) fn kept(path: &Path, user: Option<User>) -> Result<PathBuf, Error> {
    let operation = || format!("making the folder {}", path.display());
    // What is there and cannot be looked at must not be taken for missing: its place would be taken by something new.
    let is_missing = match fs::metadata(path) {
        Err(refused) if refused.kind() == ErrorKind::NotFound => true,
        found => found.map(|_| false).during(|| format!("looking at {}", path.display()))?,
    };
    if is_missing {
        let parent = path.parent().unwrap_or(Path::new("/"));
        fs::create_dir_all(parent).during(operation)?;
        // A link that leads nowhere: somebody removed the data behind it.
        if fs::symlink_metadata(path).is_ok() {
            fs::remove_file(path).during(operation)?;
        }
        match user {
            Some(user) if !is_open(&fs::canonicalize(parent).during(operation)?) => {
                create_owned(Path::new(ROOT_DATA), None)?;
                // Root's umask may have closed it to the server's user, who only has to pass through.
                fs::set_permissions(ROOT_DATA, Permissions::from_mode(0o711)).during(operation)?;
                let prefix = format!("{}-", path.file_name().unwrap_or_default().to_string_lossy());
                symlink(private_folder(&prefix, Path::new(ROOT_DATA), Some(user))?.keep(), path)
                    .during(operation)?;
            }
            user => {
                create_owned(path, user)?;
                fs::set_permissions(path, Permissions::from_mode(0o700)).during(operation)?;
            }
        }
    }
    fs::canonicalize(path).during(operation)
}

/// Whether every user can enter this folder.
fn is_open(folder: &Path) -> bool {
    folder
        .ancestors()
        .all(|folder| fs::metadata(folder).is_ok_and(|about| about.permissions().mode() & 0o001 != 0))
}

/// Makes a folder with a name of its own that is closed to other users.
fn private_folder(prefix: &str, parent: &Path, user: Option<User>) -> Result<TempDir, Error> {
    let folder = tempfile::Builder::new()
        .prefix(prefix)
        .permissions(Permissions::from_mode(0o700))
        .tempdir_in(parent)
        .during(|| format!("making a folder in {}", parent.display()))?;
    if let Some(user) = user {
        user.own(folder.path())?;
    }
    Ok(folder)
}

/// Makes a folder in a server's folder and gives it to the server's user.
pub(crate) fn create_owned(path: &Path, user: Option<User>) -> Result<(), Error> {
    fs::create_dir_all(path).during(|| format!("making the folder {}", path.display()))?;
    user.map_or(Ok(()), |user| user.own(path))
}

/// Removes a folder with all that is in it, if it is there.
pub(crate) fn remove(path: &Path) -> Result<(), Error> {
    removed(path, fs::remove_dir_all(path))
}

/// Removes a file, if it is there.
pub(crate) fn remove_file(path: &Path) -> Result<(), Error> {
    removed(path, fs::remove_file(path))
}

fn removed(path: &Path, done: io::Result<()>) -> Result<(), Error> {
    match done {
        Err(refused) if refused.kind() == ErrorKind::NotFound => Ok(()),
        done => done.during(|| format!("removing {}", path.display())),
    }
}
