//! Verifies DPoP proofs (RFC 9449) for the token endpoint and the check.

use crate::domain::clock::UnixTime;
use crate::domain::error_code::ErrorCode;
use crate::keys::dpop::{Expected, InvalidProof, Nonces, Proof, check};
use crate::keys::seal::{CryptoFailure, StoreKey};
use crate::store::{OneTimeUse, ReplayStore, StoreError};

/// Whether DPoP proofs are verified, and what they must contain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DpopMode {
    /// Proofs are ignored, and no token is bound to a key.
    Off,
    /// If a client sends a proof, its token is bound to the key of the proof.
    #[default]
    On,
    /// Like `On`, but every proof must contain a nonce from this server (§8, §9), which shows that it is recent.
    WithNonce,
}

/// The reason why a proof is refused.
#[derive(Debug, thiserror::Error)]
pub enum ProofRefused {
    /// The proof itself is not valid (`invalid_dpop_proof`).
    #[error(transparent)]
    Invalid(#[from] InvalidProof),
    /// The proof has already been used (`invalid_dpop_proof`, §11.1).
    #[error("the DPoP proof has already been used; create a new one for each request")]
    Replayed,
    /// The proof contains no valid nonce (`use_dpop_nonce`).
    #[error("the DPoP proof must contain the nonce from the DPoP-Nonce header")]
    Nonce {
        /// The nonce that the client should use.
        fresh: String,
    },
    /// The client, or all clients of the account together, have sent too many proofs. The value is the number of
    /// seconds until the next one is accepted.
    #[error("too many DPoP proofs from this client or account; try again in a minute")]
    TooFast(u64),
    /// The store failed, so it is unknown whether the proof has already been used.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The cryptography library could not make a nonce.
    #[error(transparent)]
    Crypto(#[from] CryptoFailure),
}

impl ProofRefused {
    /// The error code for the client (RFC 9449 §5, §8).
    pub const fn code(&self) -> ErrorCode {
        match self {
            Self::Nonce { .. } => ErrorCode::UseDpopNonce,
            Self::Invalid(_) | Self::Replayed => ErrorCode::InvalidDpopProof,
            Self::TooFast(_) | Self::Store(_) | Self::Crypto(_) => ErrorCode::TemporarilyUnavailable,
        }
    }
}

/// Verifies DPoP proofs for the token endpoint and the check.
#[derive(Debug)]
pub struct Dpop {
    mode: DpopMode,
    nonces: Nonces,
}

impl Dpop {
    /// Creates a verifier. Nonces are derived from `key`, so that all replicas with this key accept them.
    pub fn new(mode: DpopMode, key: &StoreKey) -> Result<Self, CryptoFailure> {
        Ok(Self { mode, nonces: Nonces::new(key)? })
    }

    /// Whether proofs are verified.
    pub fn is_on(&self) -> bool {
        self.mode != DpopMode::Off
    }

    /// Checks a proof, but not whether it has already been used: see [`Dpop::remember`].
    pub fn check(&self, text: &str, expected: &Expected<'_>) -> Result<Proof, ProofRefused> {
        let proof = check(text, expected)?;
        let is_good = |nonce: &String| self.nonces.is_good(nonce, expected.now);
        if self.mode == DpopMode::WithNonce && !proof.nonce.as_ref().is_some_and(is_good) {
            return Err(ProofRefused::Nonce { fresh: self.nonces.issue(expected.now)? });
        }
        Ok(proof)
    }

    /// Refuses a proof that has already been used, at this replica or another one (`docs/adr/0008-dpop.md`
    /// describes the cost). It must be the last check, so that only the holder of a valid key can add rows to the
    /// store.
    pub async fn remember(
        &self,
        proof: &Proof,
        store: &dyn ReplayStore,
        now: UnixTime,
    ) -> Result<(), ProofRefused> {
        match store.remember_once(&proof.name, proof.until, now).await? {
            OneTimeUse::First => Ok(()),
            OneTimeUse::Replayed => Err(ProofRefused::Replayed),
        }
    }
}
