//! Documents of clients, fetched and cached: their metadata, and the keys that they point to.
//!
//! Cached for as long as the host says, within bounds; never an error and never an invalid document (draft §4.2).
//! Callers that miss at the same time share one fetch.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use governor::{DefaultDirectRateLimiter, DefaultKeyedRateLimiter, Quota, RateLimiter};
use quick_cache::sync::Cache;
use serde_json::Value;
use url::Url;

use crate::domain::client::{ClientId, ClientMetadata};
use crate::domain::clock::{Random, RandomUnavailable, UnixTime};
use crate::guard::fetch::{FetchError, Fetched, Fetcher};

use super::document::{self, InvalidDocument};
use super::hosts::HostRule;

const SHORTEST: u64 = 60;
const LONGEST: u64 = 24 * 3600;
const UNSAID: u64 = 3600;
/// Documents kept at most.
const CAPACITY: usize = 2000;
/// Bytes in the largest key set.
const KEY_SET_LIMIT: usize = 64 * 1024;
/// Fetches a minute from one host, so that nobody uses us to bother it, and from all together.
const HOST_RATE: NonZeroU32 = NonZeroU32::MIN.saturating_add(59);
const ALL_RATE: NonZeroU32 = NonZeroU32::MIN.saturating_add(1199);

/// Which documents are welcome.
#[derive(Debug, Clone, Default)]
pub struct DocumentPolicy {
    /// Only these hosts, when there are any.
    pub allowed: Vec<HostRule>,
    /// Never these.
    pub blocked: Vec<HostRule>,
    /// None at all.
    pub off: bool,
}

/// Why there is no document.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DocumentError {
    /// The operator decided so.
    #[error("the operator of this server does not accept clients from its host")]
    Host,
    /// See [`InvalidDocument`].
    #[error(transparent)]
    Invalid(#[from] InvalidDocument),
    /// See [`FetchError`].
    #[error(transparent)]
    Fetch(#[from] FetchError),
    /// Too many fetches.
    #[error("too many documents are being fetched; try again in a minute")]
    Crowded,
    /// A key set that is none.
    #[error("its jwks_uri does not hold a key set")]
    Keys,
}

/// See the module's text.
pub struct Documents {
    fetcher: Fetcher,
    policy: DocumentPolicy,
    metadata: Cache<String, Cached<ClientMetadata>>,
    key_sets: Cache<String, Cached<Value>>,
    hosts: DefaultKeyedRateLimiter<String>,
    all: DefaultDirectRateLimiter,
    random: Arc<dyn Random>,
}

struct Cached<T> {
    content: Arc<T>,
    until: UnixTime,
}

// Derived, it would ask that `T` can be cloned.
impl<T> Clone for Cached<T> {
    fn clone(&self) -> Self {
        Self { content: Arc::clone(&self.content), until: self.until }
    }
}

impl Documents {
    /// Documents fetched by `fetcher`, as `policy` allows.
    pub fn new(fetcher: Fetcher, policy: DocumentPolicy, random: Arc<dyn Random>) -> Self {
        Self {
            fetcher,
            policy,
            metadata: Cache::new(CAPACITY),
            key_sets: Cache::new(CAPACITY),
            hosts: RateLimiter::keyed(Quota::per_minute(HOST_RATE)),
            all: RateLimiter::direct(Quota::per_minute(ALL_RATE)),
            random,
        }
    }

    /// Whether clients may be known by documents at all.
    pub fn are_accepted(&self) -> bool {
        !self.policy.off
    }

    /// The metadata behind `id`.
    pub async fn metadata(&self, id: &ClientId, now: UnixTime) -> Result<ClientMetadata, DocumentError> {
        let url = document::url(id)?;
        self.admit(&url)?;
        let read = |fetched: &Fetched| document::read(id, &fetched.body).map_err(DocumentError::from);
        let metadata = self.cached(&self.metadata, &url, document::LIMIT, now, read).await?;
        Ok(metadata.as_ref().clone())
    }

    /// The key set behind a `jwks_uri`. With `fresh`, fetched anew: a client may have rotated its keys.
    pub async fn key_set(&self, uri: &str, fresh: bool, now: UnixTime) -> Result<Arc<Value>, DocumentError> {
        let url = Url::parse(uri).map_err(|_| DocumentError::Keys)?;
        self.admit(&url)?;
        if fresh {
            self.key_sets.remove(url.as_str());
        }
        let read = |fetched: &Fetched| serde_json::from_slice(&fetched.body).map_err(|_| DocumentError::Keys);
        self.cached(&self.key_sets, &url, KEY_SET_LIMIT, now, read).await
    }

    /// The keys of an issuer that the operator trusts, at `jwks_uri` or where its own metadata says (RFC 8414 §3, `OpenID`
    /// Connect Discovery §4). The rules about hosts of clients say nothing about it.
    pub async fn issuer_keys(
        &self,
        issuer: &str,
        jwks_uri: Option<&str>,
        fresh: bool,
        now: UnixTime,
    ) -> Result<Arc<Value>, DocumentError> {
        let uri = match jwks_uri {
            Some(uri) => uri.to_owned(),
            None => self.discovered_keys(issuer, now).await?,
        };
        self.trusted(&uri, fresh, now).await
    }

    async fn discovered_keys(&self, issuer: &str, now: UnixTime) -> Result<String, DocumentError> {
        let parsed = Url::parse(issuer).map_err(|_| DocumentError::Keys)?;
        let origin = parsed.origin().ascii_serialization();
        let path = parsed.path().trim_end_matches('/');
        let places = [
            format!("{origin}/.well-known/oauth-authorization-server{path}"),
            format!("{}/.well-known/openid-configuration", issuer.trim_end_matches('/')),
        ];
        let mut last = DocumentError::Keys;
        for place in places {
            match self.trusted(&place, false, now).await {
                Ok(metadata) if metadata.get("issuer").and_then(Value::as_str) == Some(issuer) => {
                    let uri = metadata.get("jwks_uri").and_then(Value::as_str).ok_or(DocumentError::Keys)?;
                    return Ok(uri.to_owned());
                }
                Ok(_) => last = DocumentError::Keys,
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    async fn trusted(&self, uri: &str, fresh: bool, now: UnixTime) -> Result<Arc<Value>, DocumentError> {
        let url = Url::parse(uri).map_err(|_| DocumentError::Keys)?;
        if fresh {
            self.key_sets.remove(url.as_str());
        }
        let read = |fetched: &Fetched| serde_json::from_slice(&fetched.body).map_err(|_| DocumentError::Keys);
        self.cached(&self.key_sets, &url, KEY_SET_LIMIT, now, read).await
    }

    /// Forgets which hosts were asked long ago; called now and then, so that memory stays bounded.
    pub fn forget_idle(&self) {
        self.hosts.retain_recent();
    }

    pub(super) fn random_bytes(&self) -> Result<[u8; 32], RandomUnavailable> {
        self.random.bytes()
    }

    fn admit(&self, url: &Url) -> Result<(), DocumentError> {
        let host = url.host_str().unwrap_or_default();
        let listed = |rules: &[HostRule]| rules.iter().any(|rule| rule.matches(host));
        let welcome = !self.policy.off
            && !listed(&self.policy.blocked)
            && (self.policy.allowed.is_empty() || listed(&self.policy.allowed));
        if welcome { Ok(()) } else { Err(DocumentError::Host) }
    }

    async fn cached<T>(
        &self,
        cache: &Cache<String, Cached<T>>,
        url: &Url,
        limit: usize,
        now: UnixTime,
        read: impl Fn(&Fetched) -> Result<T, DocumentError>,
    ) -> Result<Arc<T>, DocumentError> {
        if cache.get(url.as_str()).is_some_and(|found| found.until <= now) {
            cache.remove(url.as_str());
        }
        let fetch = async {
            self.count(url)?;
            let fetched = self.fetcher.json(url, limit).await?;
            let lifetime = fetched.max_age.unwrap_or(UNSAID).clamp(SHORTEST, LONGEST);
            Ok::<_, DocumentError>(Cached {
                content: Arc::new(read(&fetched)?),
                until: now.plus(Duration::from_secs(lifetime)),
            })
        };
        cache.get_or_insert_async(url.as_str(), fetch).await.map(|found| found.content)
    }

    fn count(&self, url: &Url) -> Result<(), DocumentError> {
        let host = url.host_str().unwrap_or_default().to_owned();
        self.hosts.check_key(&host).map_err(|_| DocumentError::Crowded)?;
        self.all.check().map_err(|_| DocumentError::Crowded)
    }
}
