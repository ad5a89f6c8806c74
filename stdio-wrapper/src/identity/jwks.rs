//! The authorization service's keys (RFC 7517). They are fetched when needed, once for all waiting callers, and
//! kept if a later fetch fails.

use std::pin::Pin;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use contract::causes::in_one_line;
use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, JwkSet, KeyAlgorithm};
use jsonwebtoken::{Algorithm, DecodingKey};
use tokio::time::Instant;
use url::Url;

/// Age after which the keys are fetched again.
const MAX_AGE: Duration = Duration::from_secs(300);
/// Minimum time between two fetches, regardless of which key ids are looked up, and between two warnings about them.
const MIN_PAUSE: Duration = Duration::from_secs(5);
/// Minimum time between two fetches while no set has been fetched yet. It is short, because every request is refused
/// until then, even if the authorization service has just become available.
const MIN_PAUSE_WITHOUT_KEYS: Duration = Duration::from_millis(500);
/// Maximum size of a key set, in bytes.
const MAX_SIZE: usize = 256 << 10;

/// Fetches the text of the key set.
pub type Fetch =
    Arc<dyn Fn() -> Pin<Box<dyn Future<Output = Result<String, FetchError>> + Send>> + Send + Sync>;

/// Why the key set could not be fetched.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct FetchError(pub String);

/// The keys, by key id.
pub struct Jwks {
    fetch: Fetch,
    keys: RwLock<Keys>,
    /// Locked during a fetch.
    tried: tokio::sync::Mutex<Tried>,
}

/// The earlier fetches.
#[derive(Debug, Default)]
struct Tried {
    /// The time of the last fetch.
    at: Option<Instant>,
    /// The time of the last warning about a fetch that failed.
    warned: Option<Instant>,
}

/// A key with the only algorithm that it can verify. The algorithm in a token's header is only compared with it
/// (RFC 8725 §3.1).
pub(super) struct VerifyingKey {
    pub(super) algorithm: Algorithm,
    pub(super) key: DecodingKey,
}

#[derive(Default)]
struct Keys {
    keys: Vec<(String, Arc<VerifyingKey>)>,
    fetched: Option<Instant>,
}

/// The result of looking up a key id.
pub(super) enum Lookup {
    /// The key was found.
    Found(Arc<VerifyingKey>),
    /// The current set does not contain the key.
    Unknown,
    /// No set has been fetched yet.
    Unavailable,
}

impl Jwks {
    /// Creates an empty set. The first fetch is made when a key is needed.
    pub fn new(fetch: Fetch) -> Self {
        Self { fetch, keys: RwLock::default(), tried: tokio::sync::Mutex::default() }
    }

    /// Looks up the key with this id. Fetches the set if the key is unknown, but at most once per
    /// [`MIN_PAUSE`], or [`MIN_PAUSE_WITHOUT_KEYS`] if there is no set.
    pub(super) async fn key(&self, id: &str) -> Lookup {
        let (found, is_fresh) = self.look(id);
        match found {
            Some(key) if is_fresh => return Lookup::Found(key),
            // An old set stays in use. The caller that gets the lock renews it.
            Some(key) => {
                if let Ok(tried) = self.tried.try_lock() {
                    self.renew(tried).await;
                }
                return self.look(id).0.map_or(Lookup::Found(key), Lookup::Found);
            }
            None => {}
        }
        let tried = self.tried.lock().await;
        if let (Some(key), _) = self.look(id) {
            return Lookup::Found(key);
        }
        self.renew(tried).await;
        match self.look(id) {
            (Some(key), _) => Lookup::Found(key),
            (None, _) if self.has_keys() => Lookup::Unknown,
            (None, _) => Lookup::Unavailable,
        }
    }

    /// Whether a set is available. If not, this tries to fetch one.
    pub(super) async fn is_ready(&self) -> bool {
        if !self.has_keys() {
            let tried = self.tried.lock().await;
            if !self.has_keys() {
                self.renew(tried).await;
            }
        }
        self.has_keys()
    }

    fn has_keys(&self) -> bool {
        self.keys.read().unwrap_or_else(PoisonError::into_inner).fetched.is_some()
    }

    fn look(&self, id: &str) -> (Option<Arc<VerifyingKey>>, bool) {
        let keys = self.keys.read().unwrap_or_else(PoisonError::into_inner);
        let found = keys.keys.iter().find(|(known, _)| known == id).map(|(_, key)| Arc::clone(key));
        (found, keys.fetched.is_some_and(|at| at.elapsed() < MAX_AGE))
    }

    async fn renew(&self, mut tried: tokio::sync::MutexGuard<'_, Tried>) {
        let pause = if self.has_keys() { MIN_PAUSE } else { MIN_PAUSE_WITHOUT_KEYS };
        if tried.at.is_some_and(|at| at.elapsed() < pause) {
            return;
        }
        // The time is also set before the fetch, because the caller might disconnect during it.
        tried.at = Some(Instant::now());
        let fetched = (self.fetch)().await.and_then(|text| parse(&text));
        // A fetch can take longer than the pause. Callers that waited for it must not repeat it one after the other.
        tried.at = Some(Instant::now());
        match fetched {
            Ok(keys) => {
                *self.keys.write().unwrap_or_else(PoisonError::into_inner) =
                    Keys { keys, fetched: Some(Instant::now()) };
            }
            Err(error) if tried.warned.is_some_and(|at| at.elapsed() < MIN_PAUSE) => {
                tracing::debug!(%error, "the keys could not be read from JWKS_URL again");
            }
            Err(error) => {
                tried.warned = Some(Instant::now());
                let so = if self.has_keys() {
                    "known keys stay in use"
                } else {
                    "all requests are refused until then"
                };
                tracing::warn!(%error, "the keys could not be read from JWKS_URL; {so}");
            }
        }
    }
}

impl std::fmt::Debug for Jwks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Jwks")
    }
}

/// The keys of a set that auth-service can sign with: Ed25519, P-256, RSA. Other keys are ignored.
fn parse(text: &str) -> Result<Vec<(String, Arc<VerifyingKey>)>, FetchError> {
    let set: JwkSet =
        serde_json::from_str(text).map_err(|error| FetchError(format!("not a key set: {error}")))?;
    let keys: Vec<_> = set.keys.iter().filter_map(usable).collect();
    if keys.is_empty() {
        return Err(FetchError("the key set has no key for EdDSA, ES256 or RS256".to_owned()));
    }
    Ok(keys)
}

fn algorithm(key: &Jwk) -> Option<Algorithm> {
    let (ours, named) = match &key.algorithm {
        AlgorithmParameters::OctetKeyPair(pair) if pair.curve == EllipticCurve::Ed25519 => {
            (Algorithm::EdDSA, KeyAlgorithm::EdDSA)
        }
        AlgorithmParameters::EllipticCurve(point) if point.curve == EllipticCurve::P256 => {
            (Algorithm::ES256, KeyAlgorithm::ES256)
        }
        AlgorithmParameters::RSA(_) => (Algorithm::RS256, KeyAlgorithm::RS256),
        _ => return None,
    };
    let said = key.common.key_algorithm;
    // An RSA key can be used with several algorithms, so the set must specify one.
    let fits = match ours {
        Algorithm::RS256 => said == Some(named),
        _ => said.is_none_or(|said| said == named),
    };
    fits.then_some(ours)
}

fn usable(key: &Jwk) -> Option<(String, Arc<VerifyingKey>)> {
    let algorithm = algorithm(key)?;
    let id = key.common.key_id.clone()?;
    Some((id, Arc::new(VerifyingKey { algorithm, key: DecodingKey::from_jwk(key).ok()? })))
}

/// Fetches over HTTP, without following redirects, and with limits for time and size.
pub fn http_fetch(url: &Url) -> Result<Fetch, reqwest::Error> {
    let client = reqwest::Client::builder()
        .timeout(Duration::from_secs(5))
        .redirect(reqwest::redirect::Policy::none())
        .no_proxy()
        .build()?;
    let url = url.clone();
    Ok(Arc::new(move || {
        let request = client.get(url.clone());
        Box::pin(async move { get(request).await })
    }))
}

async fn get(request: reqwest::RequestBuilder) -> Result<String, FetchError> {
    let failed = |error: reqwest::Error| FetchError(in_one_line(&error));
    let mut response = request.send().await.map_err(failed)?;
    if response.status() != reqwest::StatusCode::OK {
        return Err(FetchError(format!("the response has status {}", response.status().as_u16())));
    }
    let mut body = Vec::new();
    while let Some(piece) = response.chunk().await.map_err(failed)? {
        body.extend_from_slice(&piece);
        if body.len() > MAX_SIZE {
            return Err(FetchError("the response is too large".to_owned()));
        }
    }
    String::from_utf8(body).map_err(|_| FetchError("the response is not text".to_owned()))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[tokio::test]
    async fn callers_that_waited_for_a_slow_fetch_do_not_repeat_it() {
        let fetches = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&fetches);
        let jwks = Jwks::new(Arc::new(move || {
            counted.fetch_add(1, Ordering::Relaxed);
            Box::pin(async {
                // This is longer than the pause.
                tokio::time::sleep(Duration::from_millis(600)).await;
                Err(FetchError("no answer".to_owned()))
            })
        }));
        let ask = async || assert!(matches!(jwks.key("k").await, Lookup::Unavailable));
        tokio::join!(ask(), ask(), ask());
        ask().await;
        assert_eq!(fetches.load(Ordering::Relaxed), 1);
        tokio::time::sleep(MIN_PAUSE_WITHOUT_KEYS).await;
        ask().await;
        assert_eq!(fetches.load(Ordering::Relaxed), 2);
    }
}
