//! Fetches and caches the documents of clients: metadata documents, and the key sets that these refer to.
//!
//! A document is cached for the `max-age` of its host, within bounds. Errors and invalid documents are never
//! cached (draft §4.2). A failed fetch does not replace a cached document. Callers that need the same document at
//! the same time share one fetch. [`super::fetch_rate`] limits how many fetches a stranger can cause.

use std::sync::Arc;
use std::time::Duration;

use quick_cache::Weighter;
use quick_cache::sync::Cache;
use serde::de::IgnoredAny;
use serde_json::Value;
use url::Url;

use crate::domain::client::{ClientId, ClientMetadata};
use crate::domain::clock::{Random, RandomUnavailable, UnixTime};
use crate::guard::fetch::{FetchError, Fetched, Fetcher};

use super::document::{self, InvalidDocument};
use super::fetch_rate::{Caller, Crowded, FetchRate};
use super::hosts::HostRule;

/// Minimum and maximum time in seconds for which a document is cached, and the time if its host sends no
/// `max-age`. The minimum applies even with `no-store`: one login reads the document several times (request,
/// consent, redemption), and without a minimum, every request by a stranger would cause a fetch. This is safe
/// because the document is public and is cached only in memory.
const MIN_CACHE_SECONDS: u64 = 60;
const MAX_CACHE_SECONDS: u64 = 24 * 3600;
const UNSAID: u64 = 3600;
/// Maximum size in bytes of all cached metadata documents. Key sets are cached as text, because a parsed key set
/// can use twenty times as much memory.
const METADATA_BYTES: u64 = 4 * 1024 * 1024;
/// Maximum sizes in bytes of all cached key sets: first for clients that no user has allowed, then for clients in
/// use and issuers.
const STRANGE_KEY_SET_BYTES: u64 = 1024 * 1024;
const KNOWN_KEY_SET_BYTES: u64 = 8 * 1024 * 1024;
/// Seconds after which a fetch that has failed, or that was not allowed, can be attempted again.
pub const RETRY_AFTER_SECONDS: u64 = 10;
/// Expected number of cached documents. A small number makes the cache use few shards, so that the largest
/// document fits into each shard.
const USUALLY: usize = 100;
/// Memory in bytes that a cached document needs in addition to its content.
const OVERHEAD: usize = 256;
/// Maximum size of a key set in bytes.
const KEY_SET_LIMIT: usize = 64 * 1024;

/// Which metadata documents are accepted.
#[derive(Debug, Clone, Default)]
pub struct DocumentPolicy {
    /// If the list is not empty, only documents at these hosts are accepted.
    pub allowed: Vec<HostRule>,
    /// Documents at these hosts are never accepted.
    pub blocked: Vec<HostRule>,
    /// If set, no metadata documents are accepted.
    pub off: bool,
}

/// Why a document cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DocumentError {
    /// The operator does not accept documents from this host.
    #[error("the operator of this server does not accept clients from its host")]
    Host,
    /// The document is not acceptable; see [`InvalidDocument`].
    #[error(transparent)]
    Invalid(#[from] InvalidDocument),
    /// The document could not be fetched; see [`FetchError`].
    #[error(transparent)]
    Fetch(#[from] FetchError),
    /// The caller's address or the client has exceeded its limit on fetches.
    #[error("too many documents were fetched for this client or network; try again in ten seconds")]
    TooFast,
    /// All callers together have exceeded a limit on fetches.
    #[error("too many documents are being fetched")]
    Crowded,
    /// The document is not a key set, or an issuer's metadata does not contain the URL of a key set.
    #[error("there is no key set at its jwks_uri")]
    Keys,
}

impl DocumentError {
    /// Whether a retry can succeed without a change to the document. `in_use` states whether a user has allowed
    /// the client. If not, an unreachable host might not exist, so this counts as permanent.
    pub const fn is_temporary(&self, in_use: bool) -> bool {
        match self {
            Self::TooFast | Self::Crowded => true,
            Self::Fetch(FetchError::Unreachable) => in_use,
            Self::Fetch(FetchError::Status(status)) => in_use && matches!(status, 408 | 429 | 500..),
            Self::Host | Self::Invalid(_) | Self::Fetch(_) | Self::Keys => false,
        }
    }
}

impl From<Crowded> for DocumentError {
    fn from(limit: Crowded) -> Self {
        match limit {
            Crowded::Own => Self::TooFast,
            Crowded::Shared => Self::Crowded,
        }
    }
}

/// The cached documents, and the limits on fetching them.
pub struct Documents {
    fetcher: Fetcher,
    policy: DocumentPolicy,
    metadata: Kept<ClientMetadata>,
    strange_key_sets: Kept<Box<[u8]>>,
    /// The key sets of clients in use and of issuers. They have a separate cache, because strangers can publish
    /// any number of key sets of the maximum size.
    known_key_sets: Kept<Box<[u8]>>,
    rate: FetchRate,
    random: Arc<dyn Random>,
}

type Kept<T> = Cache<String, Cached<T>, ByBytes>;

struct Cached<T> {
    content: Arc<T>,
    bytes: usize,
    until: UnixTime,
}

/// Weighs cached documents by their size in bytes.
#[derive(Clone)]
struct ByBytes;

impl<T> Weighter<String, Cached<T>> for ByBytes {
    fn weight(&self, url: &String, cached: &Cached<T>) -> u64 {
        (url.len() + cached.bytes + OVERHEAD) as u64
    }
}

// Implemented by hand, because a derived implementation would require `T: Clone`.
impl<T> Clone for Cached<T> {
    fn clone(&self) -> Self {
        Self { content: Arc::clone(&self.content), bytes: self.bytes, until: self.until }
    }
}

impl Documents {
    /// Creates an empty cache. `fetcher` fetches the documents that `policy` accepts.
    pub fn new(fetcher: Fetcher, policy: DocumentPolicy, random: Arc<dyn Random>) -> Self {
        Self {
            fetcher,
            policy,
            metadata: Cache::with_weighter(USUALLY, METADATA_BYTES, ByBytes),
            strange_key_sets: Cache::with_weighter(USUALLY, STRANGE_KEY_SET_BYTES, ByBytes),
            known_key_sets: Cache::with_weighter(USUALLY, KNOWN_KEY_SET_BYTES, ByBytes),
            rate: FetchRate::default(),
            random,
        }
    }

    /// Whether clients can use metadata documents as their identifiers.
    pub fn are_accepted(&self) -> bool {
        !self.policy.off
    }

    /// Returns the metadata in the document at `id`. `caller` determines the limits that apply.
    pub async fn metadata(
        &self,
        id: &ClientId,
        caller: Caller,
        now: UnixTime,
    ) -> Result<ClientMetadata, DocumentError> {
        let url = document::url(id)?;
        self.admit(&url)?;
        let read = |fetched: &Fetched| document::read(id, &fetched.body).map_err(DocumentError::from);
        let metadata = self.cached(&self.metadata, &url, document::LIMIT, (caller, now), read).await?;
        Ok(metadata.as_ref().clone())
    }

    /// Returns the key set at a `jwks_uri`. With `fresh`, a cached key set is fetched again because the client
    /// might have rotated its keys, unless it has already been fetched again too often.
    pub async fn key_set(
        &self,
        uri: &str,
        fresh: bool,
        caller: Caller,
        now: UnixTime,
    ) -> Result<Value, DocumentError> {
        let url = Url::parse(uri).map_err(|_| DocumentError::Keys)?;
        self.admit(&url)?;
        self.keys_at(&url, fresh, caller, now).await
    }

    async fn keys_at(
        &self,
        url: &Url,
        fresh: bool,
        caller: Caller,
        now: UnixTime,
    ) -> Result<Value, DocumentError> {
        let cache = match caller {
            Caller::Known => &self.known_key_sets,
            Caller::Stranger(_) | Caller::User(_) => &self.strange_key_sets,
        };
        let text = self.key_set_text(cache, url, fresh, (caller, now)).await?;
        serde_json::from_slice(&text).map_err(|_| DocumentError::Keys)
    }

    async fn key_set_text(
        &self,
        cache: &Kept<Box<[u8]>>,
        url: &Url,
        fresh: bool,
        (caller, now): (Caller, UnixTime),
    ) -> Result<Arc<Box<[u8]>>, DocumentError> {
        let read = |fetched: &Fetched| match serde_json::from_slice::<IgnoredAny>(&fetched.body) {
            Ok(_) => Ok(fetched.body.as_slice().into()),
            Err(_) => Err(DocumentError::Keys),
        };
        let kept = cache.get(url.as_str()).filter(|kept| fresh && kept.until > now);
        let Some(kept) = kept else {
            return self.cached(cache, url, KEY_SET_LIMIT, (caller, now), read).await;
        };
        // Anybody can request a key that does not exist, so the cached set stays until a new one has been fetched.
        self.rate.note_good(url);
        let Ok(_place) = self.rate.admit_another_look(url, caller) else {
            return Ok(kept.content);
        };
        match self.fetch(url, KEY_SET_LIMIT, (caller, now), read).await {
            Ok(anew) => {
                cache.insert(url.as_str().to_owned(), anew.clone());
                Ok(anew.content)
            }
            Err(_) => Ok(kept.content),
        }
    }

    /// Returns the keys of an issuer that the operator trusts. They are at `jwks_uri`, or at the URL in the
    /// issuer's metadata (RFC 8414 §3, `OpenID` Connect Discovery §4). The rules for hosts of clients do not
    /// apply.
    pub async fn issuer_keys(
        &self,
        issuer: &str,
        jwks_uri: Option<&str>,
        fresh: bool,
        now: UnixTime,
    ) -> Result<Value, DocumentError> {
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

    async fn trusted(&self, uri: &str, fresh: bool, now: UnixTime) -> Result<Value, DocumentError> {
        let url = Url::parse(uri).map_err(|_| DocumentError::Keys)?;
        self.keys_at(&url, fresh, Caller::Known, now).await
    }

    /// Removes rate limit entries that are no longer needed. Called periodically.
    pub fn forget_idle(&self) {
        self.rate.forget_idle();
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
        cache: &Kept<T>,
        url: &Url,
        limit: usize,
        (caller, now): (Caller, UnixTime),
        read: impl Fn(&Fetched) -> Result<T, DocumentError>,
    ) -> Result<Arc<T>, DocumentError> {
        if cache.get(url.as_str()).is_some_and(|found| found.until <= now) {
            cache.remove(url.as_str());
            self.rate.note_good(url);
        }
        let fetch = async {
            // A URL that must not be fetched counts against no limit.
            self.fetcher.check(url)?;
            let _place = self.rate.admit(url, caller)?;
            self.fetch(url, limit, (caller, now), read).await
        };
        cache.get_or_insert_async(url.as_str(), fetch).await.map(|found| found.content)
    }

    async fn fetch<T>(
        &self,
        url: &Url,
        limit: usize,
        (caller, now): (Caller, UnixTime),
        read: impl Fn(&Fetched) -> Result<T, DocumentError>,
    ) -> Result<Cached<T>, DocumentError> {
        let read = async {
            let fetched = self.fetcher.json(url, limit, caller.lane()).await?;
            Ok::<_, DocumentError>((read(&fetched)?, fetched))
        };
        let (content, fetched) = read.await.inspect_err(|_| self.rate.note_bad(url))?;
        let lifetime = fetched.max_age.unwrap_or(UNSAID).clamp(MIN_CACHE_SECONDS, MAX_CACHE_SECONDS);
        Ok(Cached {
            content: Arc::new(content),
            bytes: fetched.body.len(),
            until: now.plus(Duration::from_secs(lifetime)),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use crate::guard::fetch::Loopback;
    use crate::keys::seal::SystemRandomSource;

    use super::*;

    #[actix_web::test]
    async fn a050_a_fresh_look_at_keys_counts_for_who_causes_it() {
        let fetcher = Fetcher::new(Loopback::Refused, None).unwrap();
        let documents = Documents::new(fetcher, DocumentPolicy::default(), Arc::new(SystemRandomSource));
        // The fetcher refuses this address, so the fetch fails immediately.
        let url = Url::parse("https://127.0.0.1/keys").unwrap();
        let kept = Cached {
            content: Arc::new(br#"{"keys":[]}"#.as_slice().into()),
            bytes: 11,
            until: UnixTime(1000),
        };
        documents.strange_key_sets.insert(url.to_string(), kept.clone());
        documents.known_key_sets.insert(url.to_string(), kept);
        let at = |n: u8| Caller::Stranger(Some(IpAddr::from([198, 51, 100, n])));
        let url_of = |n: u8| Url::parse(&format!("https://host.example/{n}")).unwrap();
        let _under_way: Vec<_> = (0..3).map(|n| documents.rate.admit(&url_of(n), at(1)).unwrap()).collect();
        // The address has the maximum number of fetches in progress, so no new fetch starts and the cached keys
        // stay.
        documents.key_set(url.as_str(), true, at(1), UnixTime(10)).await.unwrap();
        assert!(documents.rate.was_good(&url), "the key set was fetched");
        documents.key_set(url.as_str(), true, at(2), UnixTime(10)).await.unwrap();
        assert!(!documents.rate.was_good(&url), "the key set was not fetched");
        // Repeated fetches of a cached key set do not use up the limit for key sets that are not cached.
        for _ in 0..20 {
            documents.key_set(url.as_str(), true, Caller::Known, UnixTime(10)).await.unwrap();
        }
        assert!(documents.rate.admit(&url, Caller::Known).is_ok());
    }

    #[actix_web::test]
    async fn a050_strangers_key_sets_leave_those_of_clients_in_use_where_they_are() {
        let fetcher = Fetcher::new(Loopback::Refused, None).unwrap();
        let documents = Documents::new(fetcher, DocumentPolicy::default(), Arc::new(SystemRandomSource));
        let set = |bytes: usize| {
            let content = Arc::new(br#"{"keys":[]}"#.as_slice().into());
            Cached { content, bytes, until: UnixTime(1000) }
        };
        let in_use = "https://app.example/keys";
        documents.known_key_sets.insert(in_use.to_owned(), set(2000));
        for n in 0..1000 {
            documents.strange_key_sets.insert(format!("https://host.example/{n}"), set(KEY_SET_LIMIT));
        }
        assert!(documents.strange_key_sets.len() < 20, "{}", documents.strange_key_sets.len());
        documents.key_set(in_use, false, Caller::Known, UnixTime(10)).await.unwrap();
        // After a user has allowed a client, its key set is cached separately, so it is fetched again.
        assert!(
            documents.key_set("https://host.example/999", false, Caller::Known, UnixTime(10)).await.is_err()
        );
    }

    #[test]
    fn what_passes_is_told_from_what_has_to_be_mended() {
        let status = |status| DocumentError::Fetch(FetchError::Status(status)).is_temporary(true);
        let unreachable = DocumentError::Fetch(FetchError::Unreachable);
        assert!(unreachable.is_temporary(true) && !unreachable.is_temporary(false));
        for limit in [DocumentError::TooFast, DocumentError::Crowded] {
            assert!(limit.is_temporary(true) && limit.is_temporary(false), "{limit}");
        }
        assert!(status(503) && status(500) && status(429) && !status(404) && !status(302));
        for lasts in [DocumentError::Host, DocumentError::Keys, DocumentError::Fetch(FetchError::ContentType)]
        {
            assert!(!lasts.is_temporary(true), "{lasts}");
        }
    }
}
