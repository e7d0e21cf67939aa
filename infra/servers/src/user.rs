use crate::{Error, error::During};
use nix::unistd::{Gid, Uid, chown, geteuid};
use std::path::Path;

/// The unprivileged user that a server runs as when its owner is root.
#[derive(Clone, Copy, Debug)]
pub(crate) struct User {
    pub(crate) uid: Uid,
    pub(crate) gid: Gid,
}

impl User {
    /// The first of these users that exists, or `None` when not root: then the server runs as its owner.
    pub(crate) fn for_server(program: &'static str, names: &[&str]) -> Result<Option<Self>, Error> {
        if !geteuid().is_root() {
            return Ok(None);
        }
        for name in names {
            if let Some(user) =
                nix::unistd::User::from_name(name).during(|| format!("looking up the user {name}"))?
            {
                return Ok(Some(Self { uid: user.uid, gid: user.gid }));
            }
        }
        Err(Error::NoUser { program, users: names.join(", ") })
    }

    /// Gives one file or folder to this user.
    pub(crate) fn own(self, path: &Path) -> Result<(), Error> {
        chown(path, Some(self.uid), Some(self.gid))
            .during(|| format!("giving {} to the server's user", path.display()))
    }
}
