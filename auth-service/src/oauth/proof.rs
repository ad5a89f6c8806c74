//! The DPoP proof of a token request (RFC 9449 §5).

use actix_web::HttpRequest;
use actix_web::http::header::HeaderName;

use crate::domain::client::Client;
use crate::domain::key_thumbprint::KeyThumbprint;
use crate::dpop::ProofRefused;
use crate::keys::dpop::{Expected, InvalidProof};
use crate::state::AppState;

/// Header with the proof.
const DPOP: HeaderName = HeaderName::from_static("dpop");

/// The key that the client proves to hold; none when it does not use DPoP. A client that registered
/// `dpop_bound_access_tokens` must.
pub(super) async fn proven_key(
    request: &HttpRequest,
    client: &Client,
    state: &AppState,
) -> Result<Option<KeyThumbprint>, ProofRefused> {
    if !state.dpop.is_on() {
        return Ok(None);
    }
    let mut headers = request.headers().get_all(DPOP);
    let Some(first) = headers.next() else {
        let required = client.metadata.dpop_bound_access_tokens;
        return if required { Err(InvalidProof::Malformed.into()) } else { Ok(None) };
    };
    // §4.3, point 1.
    let text = first.to_str().ok().filter(|_| headers.next().is_none()).ok_or(InvalidProof::Malformed)?;
    let expected = Expected {
        method: request.method().as_str(),
        url: &state.config.site.issuer.endpoint("/token"),
        access_token: None,
        now: state.now(),
    };
    let proof = state.dpop.check(text, &expected)?;
    state.dpop.remember(&proof, state.store.as_ref(), expected.now).await?;
    Ok(Some(proof.thumbprint))
}
