//! Taking proofs of possession (RFC 9449): what the token endpoint and the check have in common.

use crate::domain::clock::UnixTime;
use crate::domain::error_code::ErrorCode;
use crate::keys::dpop::{Expected, InvalidProof, Nonces, Proof, check};
use crate::keys::seal::{CryptoFailure, StoreKey};
use crate::store::{Store, StoreError};

/// Whether proofs are looked at, and what they must have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DpopMode {
    /// They are ignored, and no token is bound to a key.
    Off,
    /// A client that sends one gets a token bound to its key.
    #[default]
    On,
    /// As `On`, and every proof must have a nonce of ours (§8, §9): it cannot have been made long before.
    WithNonce,
}

/// Why a proof does not count.
#[derive(Debug, thiserror::Error)]
pub enum ProofRefused {
    /// `invalid_dpop_proof`.
    #[error(transparent)]
    Invalid(#[from] InvalidProof),
    /// `invalid_dpop_proof`: it came before (§11.1).
    #[error("the DPoP proof was used before; make a new one for every request")]
    Replayed,
    /// `use_dpop_nonce`.
    #[error("the DPoP proof must have the nonce that is in DPoP-Nonce")]
    Nonce {
        /// The one to use.
        fresh: String,
    },
    /// It cannot be known now.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// No nonce could be made.
    #[error(transparent)]
    Crypto(#[from] CryptoFailure),
}

impl ProofRefused {
    /// The error code (RFC 9449 §5, §8), if it is the client's to mend.
    pub const fn code(&self) -> ErrorCode {
        match self {
            Self::Nonce { .. } => ErrorCode::UseDpopNonce,
            Self::Invalid(_) | Self::Replayed => ErrorCode::InvalidDpopProof,
            Self::Store(_) | Self::Crypto(_) => ErrorCode::TemporarilyUnavailable,
        }
    }
}

/// Takes proofs.
#[derive(Debug)]
pub struct Dpop {
    mode: DpopMode,
    nonces: Nonces,
}

impl Dpop {
    /// In that mode, with nonces under the deployment's key.
    pub fn new(mode: DpopMode, key: &StoreKey) -> Result<Self, CryptoFailure> {
        Ok(Self { mode, nonces: Nonces::new(key)? })
    }

    /// Whether proofs are looked at.
    pub fn is_on(&self) -> bool {
        self.mode != DpopMode::Off
    }

    /// Checks a proof in itself. It may still be one that came before: see [`Dpop::remember`].
    pub fn check(&self, text: &str, expected: &Expected<'_>) -> Result<Proof, ProofRefused> {
        let proof = check(text, expected)?;
        let is_good = |nonce: &String| self.nonces.is_good(nonce, expected.now);
        if self.mode == DpopMode::WithNonce && !proof.nonce.as_ref().is_some_and(is_good) {
            return Err(ProofRefused::Nonce { fresh: self.nonces.issue(expected.now)? });
        }
        Ok(proof)
    }

    /// Refuses a proof that came before, to this replica or another (`docs/adr/0008-dpop.md` has the price). Asked last,
    /// so that only the holder of a key that counts makes the store remember anything.
    pub async fn remember(
        &self,
        proof: &Proof,
        store: &dyn Store,
        now: UnixTime,
    ) -> Result<(), ProofRefused> {
        let first = store.remember_once(&proof.name, proof.until, now).await?;
        if first { Ok(()) } else { Err(ProofRefused::Replayed) }
    }
}
