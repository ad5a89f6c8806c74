//! Passwords: Argon2id (RFC 9106) with the parameters that OWASP gives, a bounded number at a time.

use std::sync::Arc;

use argon2::Argon2;
use argon2::password_hash::phc::PasswordHash;
use argon2::password_hash::{PasswordHasher, PasswordVerifier};
use secrecy::{ExposeSecret, SecretString};
use tokio::sync::Semaphore;

/// Bytes in the shortest password a person may choose (NIST SP 800-63B §3.1.1 counts length, not classes).
pub const SHORTEST: usize = 12;
/// Bytes in the longest. Argon2 takes more, but nobody types more.
pub const LONGEST: usize = 256;

/// Hashes and verifies passwords.
#[derive(Clone)]
pub struct Passwords {
    /// Each hash takes 19 MiB and a core for some milliseconds; waiting costs nothing.
    permits: Arc<Semaphore>,
    /// Verified in place of an account that does not exist, so that both take the same time.
    decoy: Arc<str>,
}

/// Hashing could not be done: out of memory, or the service is stopping.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("the password could not be checked")]
pub struct HashingFailed;

impl Passwords {
    /// At most `parallel` hashes at a time.
    pub fn new(parallel: usize) -> Result<Self, HashingFailed> {
        let decoy = hash(b"decoy")?;
        Ok(Self { permits: Arc::new(Semaphore::new(parallel)), decoy: decoy.into() })
    }

    /// Hashes a password into a PHC string with a fresh salt.
    pub async fn hash(&self, password: SecretString) -> Result<String, HashingFailed> {
        self.bounded(move || hash(password.expose_secret().as_bytes())).await?
    }

    /// Whether `password` is the one behind `phc`. With no `phc` it is not, after the same work.
    pub async fn verify(&self, phc: Option<String>, password: SecretString) -> Result<bool, HashingFailed> {
        let known = phc.is_some();
        let phc = phc.unwrap_or_else(|| self.decoy.to_string());
        let matches = self.bounded(move || matches(&phc, password.expose_secret().as_bytes())).await?;
        Ok(matches && known)
    }

    async fn bounded<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, HashingFailed> {
        let permit = Arc::clone(&self.permits).acquire_owned().await.map_err(|_| HashingFailed)?;
        // The permit moves into the work: a caller that goes away does not free a place that is still in use.
        let run = move || {
            let outcome = work();
            drop(permit);
            outcome
        };
        tokio::task::spawn_blocking(run).await.map_err(|_| HashingFailed)
    }
}

fn hash(password: &[u8]) -> Result<String, HashingFailed> {
    Argon2::default().hash_password(password).map(|hash| hash.to_string()).map_err(|_| HashingFailed)
}

fn matches(phc: &str, password: &[u8]) -> bool {
    password.len() <= LONGEST
        && PasswordHash::new(phc).is_ok_and(|hash| Argon2::default().verify_password(password, &hash).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_password_verifies_against_its_own_hash_only() {
        let passwords = Passwords::new(1).unwrap();
        let phc = passwords.hash("correct horse battery".into()).await.unwrap();
        assert!(phc.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"));
        assert!(passwords.verify(Some(phc.clone()), "correct horse battery".into()).await.unwrap());
        assert!(!passwords.verify(Some(phc), "correct horse batterz".into()).await.unwrap());
        assert!(!passwords.verify(None, "decoy".into()).await.unwrap());
        assert!(!passwords.verify(Some("not a hash".into()), "x".into()).await.unwrap());
    }

    #[tokio::test]
    async fn a093_a_hash_keeps_its_permit_when_the_caller_goes_away() {
        let passwords = Passwords::new(1).unwrap();
        let caller = tokio::spawn({
            let passwords = passwords.clone();
            async move { passwords.bounded(|| std::thread::sleep(std::time::Duration::from_millis(200))).await }
        });
        while passwords.permits.available_permits() == 1 {
            tokio::task::yield_now().await;
        }
        caller.abort();
        assert!(caller.await.unwrap_err().is_cancelled());
        assert_eq!(passwords.permits.available_permits(), 0);
    }
}
