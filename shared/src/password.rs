//! Hashing passwords: argon2id with what OWASP asks for.

use argon2::{
    Algorithm, Argon2, Params, PasswordHasher, PasswordVerifier, Version,
    password_hash::{Error as HashError, phc},
};

use crate::{
    domain::users::{NewPassword, TypedPassword},
    error::{Error, Result},
};

// OWASP's Password Storage Cheat Sheet, argon2id: 19 MiB, 2 passes, 1 lane.
const MEMORY_KIB: u32 = 19 * 1024;
const PASSES: u32 = 2;
const LANES: u32 = 1;

/// A hash of no password, of the same cost as a real one: made from random bits that nobody kept.
const NOBODYS: &str =
    "$argon2id$v=19$m=19456,t=2,p=1$vIAvQhOwEkpx2CYH/yETQg$dPci9f7yMMm/3Wcd440QFC4UXg+tMEAte8oeDFnHLAY";

/// An argon2id hash as a PHC string, with its salt and its parameters.
#[derive(Clone, PartialEq, Eq)]
pub struct PasswordHash(String);

impl PasswordHash {
    /// Takes a hash that was made before it was stored.
    pub fn from_store(phc: String) -> Self {
        Self(phc)
    }

    /// The PHC string.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Hashes a new password, on a thread of its own.
///
/// # Errors
/// [`Error::Internal`] if there is no memory or no randomness for it.
pub async fn hash(password: NewPassword) -> Result<PasswordHash> {
    const OPERATION: &str = "hashing a password";
    let hashed = aside(OPERATION, move || argon2()?.hash_password(password.as_bytes())).await?;
    hashed.map(|hash| PasswordHash(hash.to_string())).map_err(|cause| Error::internal(OPERATION, cause))
}

/// Whether the password is the one that was hashed, on a thread of its own.
///
/// # Errors
/// [`Error::Internal`] if the hash cannot be read, or there is no memory for it.
pub async fn matches(password: TypedPassword, hash: PasswordHash) -> Result<bool> {
    const OPERATION: &str = "checking a password";
    let verified = aside(OPERATION, move || {
        let hash = phc::PasswordHash::new(&hash.0)?;
        // The hash names its own parameters, so hashes from before a change of ours keep working.
        argon2()?.verify_password(password.as_bytes(), &hash)
    });
    match verified.await? {
        Ok(()) => Ok(true),
        Err(HashError::PasswordInvalid) => Ok(false),
        Err(cause) => Err(Error::internal(OPERATION, cause)),
    }
}

/// Takes as long as [`matches()`] for an account that does not exist, so that nobody can tell which do.
///
/// # Errors
/// [`Error::Internal`] if there is no memory for it.
pub async fn matches_nobody(password: TypedPassword) -> Result<()> {
    matches(password, PasswordHash(NOBODYS.to_owned())).await.map(|_| ())
}

fn argon2() -> Result<Argon2<'static>, HashError> {
    let parameters = Params::new(MEMORY_KIB, PASSES, LANES, None)?;
    Ok(Argon2::new(Algorithm::Argon2id, Version::V0x13, parameters))
}

/// A hash takes some 20 ms of one core; the thread of the runtime has answers to wait for meanwhile.
async fn aside<T: Send + 'static>(
    operation: &'static str,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(|cause| Error::internal(operation, cause))
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn typed_matches(typed: &str, hash: &PasswordHash) -> bool {
        let typed = TypedPassword::parse(typed).expect("is a password");
        matches(typed, hash.clone()).await.expect("can be checked")
    }

    #[tokio::test]
    async fn a_password_matches_its_own_hash_and_no_other() {
        let new = || NewPassword::parse("violet-kettle-orbit-42", &[], None).expect("is strong");
        let (one, other) =
            (hash(new()).await.expect("can be hashed"), hash(new()).await.expect("can be hashed"));
        assert!(one.as_str().starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{}", one.as_str());
        assert!(one != other, "two hashes of one password share their salt");
        assert!(typed_matches("violet-kettle-orbit-42", &one).await);
        assert!(!typed_matches("violet-kettle-orbit-43", &one).await);
    }

    #[tokio::test]
    async fn the_hash_of_nobody_costs_what_a_real_one_does() {
        let new = NewPassword::parse("violet-kettle-orbit-42", &[], None).expect("is strong");
        let real = hash(new).await.expect("can be hashed");
        let cost = |hash: &str| {
            let hash = phc::PasswordHash::new(hash).expect("is a PHC string");
            let length = (hash.salt.expect("has a salt").len(), hash.hash.expect("has a hash").len());
            (hash.algorithm.to_string(), hash.version, hash.params.to_string(), length)
        };
        assert_eq!(cost(NOBODYS), cost(real.as_str()));
        assert!(!typed_matches("violet-kettle-orbit-42", &PasswordHash(NOBODYS.to_owned())).await);
    }
}
