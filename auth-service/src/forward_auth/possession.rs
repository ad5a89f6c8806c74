//! Whether the caller holds the key that its access token is bound to (RFC 9449 §7).

use crate::domain::key_thumbprint::KeyThumbprint;
use crate::domain::resource::ResourceUri;
use crate::dpop::ProofRefused;
use crate::facts::Facts;
use crate::keys::dpop::Expected;
use crate::state::AppState;

use super::request::AccessRequest;

/// How a token was presented.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scheme {
    /// `Authorization: Bearer`.
    Bearer,
    /// `Authorization: DPoP`.
    Dpop,
}

/// Why a token does not count in this request.
#[derive(Debug, thiserror::Error)]
pub(super) enum NotProven {
    /// A bound token as if it were a bearer token: whoever stole it would send it so (§7.2).
    #[error("the access token is bound to a key; send it with the DPoP scheme and a proof")]
    Downgraded,
    /// A bearer token with the DPoP scheme: the client believes that it is protected, and it is not.
    #[error("the access token is not bound to a key; send it with the Bearer scheme")]
    NotBound,
    /// No proof, or one by another key.
    #[error("the request has no DPoP proof by the key of its access token")]
    Key,
    /// The proof does not count.
    #[error(transparent)]
    Proof(#[from] ProofRefused),
}

impl NotProven {
    /// The error code (RFC 9449 §7.1).
    pub(super) const fn code(&self) -> &'static str {
        match self {
            Self::Downgraded | Self::NotBound | Self::Key => "invalid_token",
            Self::Proof(refused) => refused.code().as_str(),
        }
    }

    /// `DPoP-Nonce`, if the client lacks one.
    pub(super) fn nonce(&self) -> Option<&str> {
        match self {
            Self::Proof(ProofRefused::Nonce { fresh }) => Some(fresh),
            _ => None,
        }
    }
}

/// Checks the proof that comes with `token`, which `facts` are about. Bearer tokens cost nothing here.
pub(super) async fn check(
    asked: &AccessRequest<'_>,
    resource: &ResourceUri,
    scheme: Scheme,
    token: &str,
    facts: &Facts,
    state: &AppState,
) -> Result<(), NotProven> {
    let key = match (&facts.bound_to, scheme) {
        (None, Scheme::Bearer) => return Ok(()),
        (None, Scheme::Dpop) => return Err(NotProven::NotBound),
        (Some(_), Scheme::Bearer) => return Err(NotProven::Downgraded),
        (Some(key), Scheme::Dpop) => key,
    };
    // In a box, so that bearer tokens do not carry the room for it.
    Box::pin(check_proof(asked, resource, token, (key, facts), state)).await
}

async fn check_proof(
    asked: &AccessRequest<'_>,
    resource: &ResourceUri,
    token: &str,
    (key, facts): (&KeyThumbprint, &Facts),
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
    state.admit_proof(&facts.subject)?;
    state.dpop.remember(&proof, state.store.as_ref(), expected.now).await?;
    Ok(())
}
