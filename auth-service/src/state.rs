//! What every handler works with, put together once.

use std::sync::Arc;

use crate::config::Config;
use crate::domain::clock::{Clock, Random, RandomUnavailable, UnixTime};
use crate::domain::opaque_token::{OpaqueToken, TokenKind};
use crate::identity::password::{HashingFailed, Passwords};
use crate::identity::ticket::Tickets;
use crate::keys::seal::{CryptoFailure, StoreKey};
use crate::keys::signing::{KeyRing, StoredSigningKey};
use crate::policy::Policy;
use crate::store::{Store, StoreError};

/// Settings, store, keys, and the sources of time and randomness.
pub struct AppState {
    /// Settings.
    pub config: Config,
    /// What is remembered.
    pub store: Arc<dyn Store>,
    /// What signs.
    pub keys: KeyRing,
    /// Hashes passwords.
    pub passwords: Passwords,
    /// Binds forms to browsers.
    pub tickets: Tickets,
    /// The rules.
    pub policy: Policy,
    clock: Arc<dyn Clock>,
    random: Arc<dyn Random>,
}

/// Why the service cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Cryptography failed.
    #[error(transparent)]
    Crypto(#[from] CryptoFailure),
    /// Hashing failed.
    #[error(transparent)]
    Hashing(#[from] HashingFailed),
}

impl AppState {
    /// Puts the parts together; makes the signing key on the very first start.
    pub async fn new(
        config: Config,
        store: Arc<dyn Store>,
        store_key: &StoreKey,
        clock: Arc<dyn Clock>,
        random: Arc<dyn Random>,
    ) -> Result<Self, StartError> {
        let signing_key = store.signing_key(&StoredSigningKey::generate(clock.now())?).await?;
        Ok(Self {
            passwords: Passwords::new(config.listeners.workers.get())?,
            tickets: Tickets::new(store_key)?,
            keys: KeyRing::new(&signing_key)?,
            policy: Policy::default(),
            config,
            store,
            clock,
            random,
        })
    }

    /// The present second.
    pub fn now(&self) -> UnixTime {
        self.clock.now()
    }

    /// 32 unpredictable bytes.
    pub fn random_bytes(&self) -> Result<[u8; 32], RandomUnavailable> {
        self.random.bytes()
    }

    /// A new opaque token.
    pub fn new_token(&self, kind: TokenKind) -> Result<OpaqueToken, RandomUnavailable> {
        Ok(OpaqueToken::new(kind, self.random.bytes()?))
    }
}
