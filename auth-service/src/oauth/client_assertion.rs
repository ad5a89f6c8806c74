//! `private_key_jwt`: the client authenticates with a signed assertion (RFC 7523 §2.2, §3).

use std::net::IpAddr;
use std::sync::Arc;

use jsonwebtoken::jwk::{Jwk, KeyAlgorithm};
use jsonwebtoken::{Algorithm, DecodingKey, Header, Validation};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::clients::documents::DocumentError;
use crate::clients::fetch_rate::Caller;
use crate::domain::client::{Client, ClientId, ClientKeys};
use crate::domain::clock::UnixTime;
use crate::domain::issuer::Issuer;
use crate::domain::opaque_token::TokenHash;
use crate::guard::keyed_rate::TooFast;
use crate::state::AppState;
use crate::store::{OneTimeUse, StoreError};

/// The required value of `client_assertion_type` (RFC 7523 §2.2).
pub(super) const ASSERTION_TYPE: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";
/// Accepted signature algorithms. All are asymmetric, because with HS256 an attacker could use the public key as
/// the secret.
pub(super) const ALGORITHMS: [&str; 4] = ["EdDSA", "ES256", "RS256", "PS256"];
/// Maximum lifetime of an assertion in seconds. A client creates a new assertion for each request, so a short
/// lifetime is enough.
const MAX_LIFETIME_SECONDS: u64 = 600;
/// Tolerated difference between clocks, in seconds.
const LEEWAY: u64 = 30;

#[derive(Debug, thiserror::Error)]
pub(super) enum AssertionError {
    #[error("the client assertion is malformed, or signed with an algorithm that is not accepted")]
    Malformed,
    #[error("the client has no key for this client assertion")]
    NoKey,
    #[error("the signature of the client assertion was not made with the client's key")]
    Signature,
    #[error("the client assertion has the wrong iss or sub, or its aud is not only this server")]
    Claims,
    #[error("the client assertion has expired, is not valid yet, or is valid for more than ten minutes")]
    Time,
    #[error("the client assertion has already been used")]
    Replayed,
    #[error("the client's keys cannot be fetched: {0}")]
    Keys(#[from] DocumentError),
    #[error(transparent)]
    TooFast(#[from] TooFast),
    #[error(transparent)]
    Store(#[from] StoreError),
}

#[derive(Deserialize)]
struct Claims {
    iss: String,
    sub: String,
    aud: Audience,
    exp: u64,
    nbf: Option<u64>,
    iat: Option<u64>,
    jti: String,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Audience {
    One(String),
    Many(Vec<String>),
}

impl Audience {
    /// Whether every audience is this server: its issuer, its token endpoint or its endpoint for pushed requests
    /// (RFC 7523 §3, RFC 9126 §2; OAuth 2.1 prefers the issuer). If an assertion also named another server, that
    /// server could use it here.
    fn is_ours_alone(&self, issuer: &Issuer) -> bool {
        let ours = |audience: &String| {
            audience == issuer.as_str()
                || ["/token", "/par"].iter().any(|path| *audience == issuer.endpoint(path))
        };
        match self {
            Self::One(audience) => ours(audience),
            Self::Many(audiences) => !audiences.is_empty() && audiences.iter().all(ours),
        }
    }
}

/// Reads the client identifier from an assertion that has not been verified yet.
pub(super) fn claimed_client(assertion: &str) -> Option<ClientId> {
    #[derive(Deserialize)]
    struct Subject {
        sub: String,
    }
    if assertion.len() > 16_384 {
        return None;
    }
    let claims: Subject = jsonwebtoken::dangerous::insecure_decode_claims(assertion).ok()?;
    ClientId::try_from(claims.sub).ok()
}

/// Verifies that `client` created the assertion for this server, that it is valid now, and that it has not been
/// used yet. `address` is the source of the request.
pub(super) async fn verify(
    assertion: &str,
    client: &Client,
    address: Option<IpAddr>,
    state: &AppState,
) -> Result<(), AssertionError> {
    let now = state.now();
    let header = accepted_header(assertion).ok_or(AssertionError::Malformed)?;
    let claims = verified(assertion, &header, client, address, state).await?;
    check(&claims, client, &state.config.site.issuer, now)?;
    // The assertion is counted only once its signature has been verified, so that only the client itself can use
    // up its limit.
    state.assertion_rate.admit(client, address)?;
    // The client and the `jti` are stored until the assertion expires.
    let name = format!(
        "assertion/{}",
        TokenHash::of(&Sha256::digest(format!("{}\n{}", client.id, claims.jti))).text()
    );
    let until = UnixTime(claims.exp.saturating_add(LEEWAY + 1));
    match state.store.remember_once(&name, until, now).await? {
        OneTimeUse::First => Ok(()),
        OneTimeUse::Replayed => Err(AssertionError::Replayed),
    }
}

/// The claims of the assertion, if one of the client's keys has signed it.
async fn verified(
    assertion: &str,
    header: &Header,
    client: &Client,
    address: Option<IpAddr>,
    state: &AppState,
) -> Result<Claims, AssertionError> {
    let kid = header.kid.as_deref();
    let mut has_key = false;
    for fresh in [false, true] {
        let keys = find_keys(client, kid, header.alg, (fresh, address), state).await?;
        if let Some(claims) = signed_claims(assertion, &keys, header.alg) {
            return Ok(claims);
        }
        has_key |= !keys.is_empty();
        // A key with an identifier does not change. A key without an identifier might have been replaced.
        if has_key && kid.is_some() {
            break;
        }
    }
    Err(if has_key { AssertionError::Signature } else { AssertionError::NoKey })
}

fn check(claims: &Claims, client: &Client, issuer: &Issuer, now: UnixTime) -> Result<(), AssertionError> {
    let id = client.id.as_str();
    if claims.iss != id
        || claims.sub != id
        || !claims.aud.is_ours_alone(issuer)
        || claims.jti.is_empty()
        || claims.jti.len() > 512
    {
        return Err(AssertionError::Claims);
    }
    let soon = now.0 + LEEWAY;
    let in_time = claims.exp.saturating_add(LEEWAY) > now.0
        && claims.exp <= soon + MAX_LIFETIME_SECONDS
        && claims.nbf.is_none_or(|at| at <= soon)
        && claims.iat.is_none_or(|at| at <= soon);
    if in_time { Ok(()) } else { Err(AssertionError::Time) }
}

/// Finds the client's keys for this assertion. With `fresh`, a cached key set is fetched again, because the client
/// might have rotated its keys.
async fn find_keys(
    client: &Client,
    kid: Option<&str>,
    algorithm: Algorithm,
    (fresh, address): (bool, Option<IpAddr>),
    state: &AppState,
) -> Result<Vec<DecodingKey>, AssertionError> {
    let set = match &client.metadata.keys {
        Some(ClientKeys::Inline(set)) if !fresh => Arc::new(set.clone()),
        Some(ClientKeys::Uri(uri)) => {
            let used = client.last_used_at.is_some();
            let caller = if used { Caller::Known } else { Caller::Stranger(address) };
            Arc::new(state.clients.documents().key_set(uri, fresh, caller, state.now()).await?)
        }
        _ => return Ok(Vec::new()),
    };
    Ok(fitting_keys(&set, kid, algorithm))
}

/// The header of a signed JWT, if its algorithm is accepted and it does not require an extension (RFC 7515
/// §4.1.11).
pub(super) fn accepted_header(jwt: &str) -> Option<Header> {
    let header = jsonwebtoken::decode_header(jwt).ok()?;
    let accepted =
        matches!(header.alg, Algorithm::EdDSA | Algorithm::ES256 | Algorithm::RS256 | Algorithm::PS256);
    (accepted && header.crit.is_none()).then_some(header)
}

/// Verifies the signature of a JWT with one of the keys and returns its claims. The caller checks the time
/// and the audience.
pub(super) fn signed_claims<C: DeserializeOwned>(
    jwt: &str,
    keys: &[DecodingKey],
    algorithm: Algorithm,
) -> Option<C> {
    let mut validation = Validation::new(algorithm);
    validation.required_spec_claims.clear();
    validation.validate_exp = false;
    validation.validate_aud = false;
    keys.iter().find_map(|key| jsonwebtoken::decode::<C>(jwt, key, &validation).ok()).map(|data| data.claims)
}

/// Maximum number of keys that are tried for one signature. A key set without identifiers contains several
/// candidates while its owner rotates keys. The limit is needed because anybody can publish a set with hundreds of
/// keys.
const MAX_TRIED: usize = 8;

/// Finds the keys in a JWK set with this identifier and algorithm. There can be several, because identifiers are
/// optional and need not be unique (RFC 7517 §4.5). Keys that cannot be parsed are skipped, because a set can
/// contain types of keys that are not supported here (RFC 7517 §5).
pub(super) fn fitting_keys(set: &Value, kid: Option<&str>, algorithm: Algorithm) -> Vec<DecodingKey> {
    let keys = set.get("keys").and_then(Value::as_array).into_iter().flatten();
    let readable = keys.filter_map(|key| serde_json::from_value::<Jwk>(key.clone()).ok());
    let fitting = readable.filter(|jwk| fits(jwk, kid, algorithm));
    fitting.filter_map(|jwk| DecodingKey::from_jwk(&jwk).ok()).take(MAX_TRIED).collect()
}

/// Whether a key has this identifier and can be used with this algorithm. The algorithm in the assertion's header
/// must match the type of the key, and its `alg` if there is one.
fn fits(jwk: &Jwk, kid: Option<&str>, algorithm: Algorithm) -> bool {
    use jsonwebtoken::jwk::AlgorithmParameters::{EllipticCurve, OctetKeyPair, RSA};
    use jsonwebtoken::jwk::EllipticCurve::{Ed25519, P256};
    let family = match (algorithm, &jwk.algorithm) {
        (Algorithm::EdDSA, OctetKeyPair(key)) => key.curve == Ed25519,
        (Algorithm::ES256, EllipticCurve(key)) => key.curve == P256,
        (Algorithm::RS256 | Algorithm::PS256, RSA(_)) => true,
        _ => false,
    };
    let said = match (jwk.common.key_algorithm, algorithm) {
        (None, _)
        | (Some(KeyAlgorithm::EdDSA), Algorithm::EdDSA)
        | (Some(KeyAlgorithm::ES256), Algorithm::ES256)
        | (Some(KeyAlgorithm::RS256), Algorithm::RS256)
        | (Some(KeyAlgorithm::PS256), Algorithm::PS256) => true,
        (Some(_), _) => false,
    };
    family && said && kid.is_none_or(|kid| jwk.common.key_id.as_deref() == Some(kid))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_key_fits_if_its_type_curve_algorithm_and_identifier_do() {
        let fits = |key: Value, kid: Option<&str>, algorithm| {
            fits(&serde_json::from_value::<Jwk>(key).unwrap(), kid, algorithm)
        };
        let octets = |curve: &str| json!({ "kty": "OKP", "crv": curve, "x": "AA", "kid": "k" });
        let point = |curve: &str| json!({ "kty": "EC", "crv": curve, "x": "AA", "y": "AA", "alg": "ES256" });
        assert!(
            fits(octets("Ed25519"), Some("k"), Algorithm::EdDSA)
                && fits(octets("Ed25519"), None, Algorithm::EdDSA)
        );
        assert!(!fits(octets("Ed25519"), Some("other"), Algorithm::EdDSA));
        assert!(!fits(octets("P-256"), None, Algorithm::EdDSA));
        assert!(fits(point("P-256"), None, Algorithm::ES256));
        assert!(
            !fits(point("P-384"), None, Algorithm::ES256) && !fits(point("P-521"), None, Algorithm::ES256)
        );
        assert!(!fits(point("P-256"), None, Algorithm::RS256));
    }
}
