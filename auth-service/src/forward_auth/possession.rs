//! Checks that the caller possesses the key to which its access token is bound (RFC 9449 §7).

use crate::domain::key_thumbprint::KeyThumbprint;
use crate::domain::resource::ResourceUri;
use crate::dpop::ProofRefused;
use crate::keys::dpop::Expected;
use crate::principal::Principal;
use crate::state::AppState;

use super::request::AccessRequest;

/// The scheme of the `Authorization` header with which a token was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scheme {
    /// The token was sent as `Authorization: Bearer` (RFC 6750 §2.1).
    Bearer,
    /// The token was sent as `Authorization: DPoP`, with a proof in the `DPoP` header (RFC 9449 §7.1).
    Dpop,
}

/// Why a token is not accepted in this request.
#[derive(Debug, thiserror::Error)]
pub(super) enum NotProven {
    /// A bound token was sent as a bearer token. An attacker who has stolen the token would do this (RFC 9449
    /// §7.2).
    #[error("the access token is bound to a key; send it with the DPoP scheme and a proof")]
    Downgraded,
    /// A bearer token was sent with the DPoP scheme. The client wrongly assumes that the token is bound to its
    /// key.
    #[error("the access token is not bound to a key; send it with the Bearer scheme")]
    NotBound,
    /// There is no proof, or it was made with a different key.
    #[error("the request has no DPoP proof made with the key of its access token")]
    Key,
    /// The proof is not acceptable.
    #[error(transparent)]
    Proof(#[from] ProofRefused),
}

impl NotProven {
    /// The error code of the challenge (RFC 9449 §7.1).
    pub(super) const fn code(&self) -> &'static str {
        match self {
            Self::Downgraded | Self::NotBound | Self::Key => "invalid_token",
            Self::Proof(refused) => refused.code().as_str(),
        }
    }

    /// The value of `DPoP-Nonce`, if the client needs one (RFC 9449 §9).
    pub(super) fn nonce(&self) -> Option<&str> {
        match self {
            Self::Proof(ProofRefused::Nonce { fresh }) => Some(fresh),
            _ => None,
        }
    }
}

/// Checks the proof that was sent with `token`, which belongs to `principal`. A bearer token does not need a
/// proof.
pub(super) async fn check(
    asked: &AccessRequest<'_>,
    resource: &ResourceUri,
    scheme: Scheme,
    token: &str,
    principal: &Principal,
    state: &AppState,
) -> Result<(), NotProven> {
    let key = match (&principal.bound_to, scheme) {
        (None, Scheme::Bearer) => return Ok(()),
        (None, Scheme::Dpop) => return Err(NotProven::NotBound),
        (Some(_), Scheme::Bearer) => return Err(NotProven::Downgraded),
        (Some(key), Scheme::Dpop) => key,
    };
    // The future that checks a proof is large. It is boxed, so that the futures of checks with bearer tokens
    // stay small.
    Box::pin(check_proof(asked, resource, token, (key, principal), state)).await
}

async fn check_proof(
    asked: &AccessRequest<'_>,
    resource: &ResourceUri,
    token: &str,
    (key, principal): (&KeyThumbprint, &Principal),
    state: &AppState,
) -> Result<(), NotProven> {
    let text = asked.dpop.ok_or(NotProven::Key)?;
    let expected = Expected {
        method: asked.method.as_str(),
        url: resource.as_str(),
        access_token: Some(token),
        now: state.now(),
    };
    let proof = state.dpop.check(text, &expected)?;
    if proof.thumbprint != *key {
        return Err(NotProven::Key);
    }
    state.admit_proof(&principal.subject, &principal.client_id)?;
    state.dpop.remember(&proof, state.store.as_ref(), expected.now).await?;
    Ok(())
}
