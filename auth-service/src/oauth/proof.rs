//! The DPoP proof of a token request (RFC 9449 §5).

use actix_web::HttpRequest;
use actix_web::http::header::HeaderName;

use crate::domain::account::Subject;
use crate::domain::client::Client;
use crate::domain::key_thumbprint::KeyThumbprint;
use crate::dpop::ProofRefused;
use crate::keys::dpop::{Expected, InvalidProof, Proof};
use crate::state::AppState;

/// The header that contains the proof.
const DPOP: HeaderName = HeaderName::from_static("dpop");

/// The proof that the client sent, if any. Its signature and claims are valid; [`ProofOfPossession::spend`] checks
/// whether it has already been used.
pub(super) struct ProofOfPossession(Option<Proof>);

impl ProofOfPossession {
    /// Reads and checks the proof of a request. A client that registered `dpop_bound_access_tokens` must send
    /// one.
    pub(super) fn of(request: &HttpRequest, client: &Client, state: &AppState) -> Result<Self, ProofRefused> {
        if !state.dpop.is_on() {
            return Ok(Self(None));
        }
        let mut headers = request.headers().get_all(DPOP);
        let Some(first) = headers.next() else {
            let required = client.metadata.dpop_bound_access_tokens;
            return if required { Err(InvalidProof::Malformed.into()) } else { Ok(Self(None)) };
        };
        // A request must not have more than one proof (RFC 9449 §4.3, point 1).
        let text = first.to_str().ok().filter(|_| headers.next().is_none()).ok_or(InvalidProof::Malformed)?;
        let expected = Expected {
            method: request.method().as_str(),
            url: &state.config.site.issuer.endpoint("/token"),
            access_token: None,
            now: state.now(),
        };
        Ok(Self(Some(state.dpop.check(text, &expected)?)))
    }

    /// The thumbprint of the key of the proof, or `None` if the client does not use `DPoP`.
    pub(super) fn key(&self) -> Option<KeyThumbprint> {
        self.0.as_ref().map(|proof| proof.thumbprint.clone())
    }

    /// Refuses a proof that has already been used. The caller must do this after all other checks, because anybody
    /// can create valid proofs, and every proof adds a row to the store. The request comes from `client` and is
    /// for the account `subject`.
    pub(super) async fn spend(
        &self,
        state: &AppState,
        subject: &Subject,
        client: &Client,
    ) -> Result<(), ProofRefused> {
        match &self.0 {
            Some(proof) => {
                state.admit_proof(subject, &client.id)?;
                state.dpop.remember(proof, state.store.as_ref(), state.now()).await
            }
            None => Ok(()),
        }
    }
}
