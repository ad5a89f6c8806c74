//! `X-Auth-Assertion`: a short-lived JWT that the authorization service issues to identify the caller. Another
//! service that can reach the wrapper cannot forge one.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use contract::assertion::{Claims, TYPE};
use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{Algorithm, Validation, decode, decode_header};
use tokio::time::Instant;

use super::jwks::Lookup;
use super::{Caller, Clock, Jwks, Refused};
use crate::policy::UnmetRules;

/// Maximum tolerated difference between clocks, in seconds.
const LEEWAY: u64 = 5;
/// Maximum lifetime of an assertion, in seconds, even if its `exp` is later.
const MAX_LIFE: u64 = 300;
/// Maximum length of an assertion, in bytes.
const MAX_LENGTH: usize = 16 << 10;
/// Maximum number of verified assertions that are cached.
const MAX_CACHED: usize = 4096;
/// Maximum length of an assertion that is cached, in bytes. A longer one, for example of a user in very many
/// groups, is verified each time, so that the size of the cache is limited.
const MAX_CACHED_LENGTH: usize = 4 << 10;
/// Minimum time between two log lines about clocks.
const PAUSE: Duration = Duration::from_secs(10);

/// Verifies assertions from one issuer for one resource.
#[derive(Debug)]
pub struct Verifier {
    jwks: Jwks,
    validation: Validation,
    clock: ClockBox,
    /// Verified assertions by their SHA-256. They are cached because the edge sends the same assertion with
    /// several requests.
    cache: Mutex<HashMap<Vec<u8>, Known>>,
    /// The last time that a difference between clocks was logged.
    told: Mutex<Option<Instant>>,
}

struct ClockBox(Clock);

impl std::fmt::Debug for ClockBox {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Clock")
    }
}

#[derive(Debug, Clone)]
struct Known {
    caller: Arc<Caller>,
    expires: u64,
}

impl Verifier {
    /// Creates a verifier for one issuer and one resource.
    pub fn new(issuer: String, resource: String, jwks: Jwks, clock: Clock) -> Self {
        let mut validation = Validation::new(Algorithm::EdDSA);
        validation.set_issuer(&[issuer]);
        validation.set_audience(&[resource]);
        validation.set_required_spec_claims(&["iss", "aud", "exp", "sub"]);
        // Times are compared below, with the verifier's own clock.
        validation.validate_exp = false;
        validation.validate_nbf = false;
        Self { jwks, validation, clock: ClockBox(clock), cache: Mutex::default(), told: Mutex::default() }
    }

    /// Verifies an assertion, and returns the caller that it identifies.
    pub async fn verify(&self, token: &str) -> Result<Arc<Caller>, Refused> {
        if token.len() > MAX_LENGTH {
            return Err(Refused::Invalid("it is too long"));
        }
        let now = (self.clock.0)();
        let digest = digest(token);
        if let Some(known) = self.cache().get(&digest).filter(|known| now < known.expires) {
            return Ok(Arc::clone(&known.caller));
        }
        let claims = self.check(token).await?;
        // At this point the signature is valid, so the error can reveal by how much the assertion is late.
        let expires = lifetime(&claims, now).inspect_err(|error| self.tell(error))?;
        let caller = Arc::new(caller(claims)?);
        if token.len() <= MAX_CACHED_LENGTH {
            self.remember(digest, Known { caller: Arc::clone(&caller), expires }, now);
        }
        Ok(caller)
    }

    /// Whether verification keys are available.
    pub async fn is_ready(&self) -> bool {
        self.jwks.is_ready().await
    }

    async fn check(&self, token: &str) -> Result<Claims<'static>, Refused> {
        let header = decode_header(token).map_err(|_| Refused::Invalid("it is not a JWT"))?;
        if header.typ.as_deref() != Some(TYPE) {
            return Err(Refused::Invalid("it is a different kind of token"));
        }
        // No extension is supported, and an unknown one must not be ignored (RFC 7515 §4.1.11).
        if header.crit.is_some() {
            return Err(Refused::Invalid("it requires an unknown extension"));
        }
        let id = header.kid.ok_or(Refused::Invalid("it does not name a key"))?;
        let key = match self.jwks.key(&id).await {
            Lookup::Found(key) => key,
            Lookup::Unknown => return Err(Refused::Invalid("its key is unknown")),
            Lookup::Unavailable => return Err(Refused::Unavailable),
        };
        if header.alg != key.algorithm {
            return Err(Refused::Invalid("its algorithm is not that of its key"));
        }
        let mut validation = self.validation.clone();
        validation.algorithms = vec![key.algorithm];
        let decoded = decode::<Claims<'static>>(token, &key.key, &validation)
            .map_err(|error| Refused::Invalid(fault(error.kind())))?;
        Ok(decoded.claims)
    }

    fn remember(&self, digest: Vec<u8>, known: Known, now: u64) {
        let mut cache = self.cache();
        if cache.len() >= MAX_CACHED {
            cache.retain(|_, known| now < known.expires);
        }
        if cache.len() >= MAX_CACHED {
            cache.clear();
        }
        cache.insert(digest, known);
    }

    /// Logs that clocks differ. A replay of an old assertion looks the same, so this is logged at most once per
    /// [`PAUSE`].
    fn tell(&self, error: &Refused) {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if told.is_some_and(|at| at.elapsed() < PAUSE) {
            return;
        }
        *told = Some(Instant::now());
        match error {
            Refused::Early(seconds) => tracing::warn!(
                seconds,
                "an assertion is from the future: this clock is behind that of the authorization service by this many seconds, and callers get 503. Set both clocks, for example with NTP"
            ),
            Refused::Late(seconds) => tracing::warn!(
                seconds,
                "an assertion has expired, and callers get 503. If they send new requests, this clock is ahead of that of the authorization service by this many seconds. Set both clocks, for example with NTP"
            ),
            _ => {}
        }
    }

    fn cache(&self) -> MutexGuard<'_, HashMap<Vec<u8>, Known>> {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Says what is wrong with an assertion. The signature is verified first, so nobody learns anything from the other
/// answers without a genuine assertion.
fn fault(kind: &ErrorKind) -> &'static str {
    match kind {
        ErrorKind::InvalidSignature => "its signature is wrong",
        ErrorKind::InvalidIssuer => "its issuer is not ISSUER",
        ErrorKind::InvalidAudience => "its audience is not RESOURCE, so it is for another service",
        ErrorKind::MissingRequiredClaim(_) => "it lacks a claim",
        _ => "it has a claim that cannot be read",
    }
}

/// The time from which an assertion is no longer valid, in seconds since 1970.
fn lifetime(claims: &Claims<'_>, now: u64) -> Result<u64, Refused> {
    if claims.iat > now + LEEWAY || claims.nbf.is_some_and(|from| from > now + LEEWAY) {
        let from = claims.nbf.map_or(claims.iat, |from| from.max(claims.iat));
        return Err(Refused::Early(from - now));
    }
    let expires = claims.exp.min(claims.iat.saturating_add(MAX_LIFE)).saturating_add(LEEWAY);
    if now < expires { Ok(expires) } else { Err(Refused::Late(now.saturating_sub(claims.iat))) }
}

fn caller(claims: Claims<'_>) -> Result<Caller, Refused> {
    if claims.sub.is_empty() {
        return Err(Refused::Invalid("it does not name a subject"));
    }
    Ok(Caller {
        subject: claims.sub.into_owned(),
        username: claims.username.into_owned(),
        client_id: claims.client_id.into_owned(),
        groups: claims.groups.into_iter().map(Cow::into_owned).collect(),
        scopes: claims.scope.split_whitespace().map(str::to_owned).collect(),
        unmet_rules: UnmetRules(claims.tool_rules),
        token_expires: claims.token_exp,
    })
}

fn digest(token: &str) -> Vec<u8> {
    aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, token.as_bytes()).as_ref().to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_differs_is_named_with_its_difference() {
        let claims = |iat: u64| {
            let claims = serde_json::json!({"sub": "ana", "iat": iat, "exp": iat + 60});
            serde_json::from_value::<Claims<'static>>(claims).unwrap()
        };
        let now = 1_000_000;
        assert_eq!(lifetime(&claims(now + LEEWAY), now), Ok(now + LEEWAY + 60 + LEEWAY));
        assert_eq!(lifetime(&claims(now + 90), now), Err(Refused::Early(90)));
        assert_eq!(lifetime(&claims(now - 65), now), Err(Refused::Late(65)));
        let later = Claims { nbf: Some(now + 120), ..claims(now) };
        assert_eq!(lifetime(&later, now), Err(Refused::Early(120)));
        for error in [Refused::Early(90), Refused::Late(65)] {
            let text = error.to_string();
            assert!(text.contains("clocks") && text.contains("set both") && text.contains(" s "), "{text}");
        }
    }
}
