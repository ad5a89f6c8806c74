//! A cache of principals by access token. A cached value is used only while the store guarantees that its rows
//! have not changed ([`crate::store::changes::Changes`]). The policy is never cached: it is evaluated for every
//! request.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use actix_web::http::header::HeaderValue;
use metrics::Counter;
use quick_cache::Weighter;
use quick_cache::sync::{Cache, PlaceholderGuard};
use tokio::sync::Semaphore;

use crate::domain::account::Group;
use crate::domain::clock::UnixTime;
use crate::domain::issuer::Issuer;
use crate::domain::opaque_token::TokenHash;
use crate::domain::resource::ResourceUri;
use crate::keys::signing::KeyRing;
use crate::keys::tokens::AccessTokenClaims;
use crate::store::changes::{About, Changes, Version};
use crate::store::{GrantStore, StoreError};

use super::assertions::{Assertions, Share, SpareMemory};
use super::{Principal, RejectedToken, claims_of, of_claims};

/// Number of headers that identify the caller (`forward_auth::IDENTITY`).
pub const IDENTITY: usize = 7;
/// Time limit for finding the principal in one check, including the wait for another request that queries the
/// store.
const BUDGET: Duration = Duration::from_secs(1);
/// The size of the cache of valid tokens, divided by the size of the cache of invalid tokens.
const KNOWN_TO_ONE_INVALID: usize = 16;
/// How many times a request finds a stale value before it queries the store without waiting for other requests.
const TRIES: u32 = 3;

/// SHA-256 of a token. The whole hash is the key, so that two tokens never share an entry (attack 84).
type Key = [u8; 32];
type Guard<'a> = PlaceholderGuard<
    'a,
    Key,
    Arc<Known>,
    BySize,
    quick_cache::DefaultHashBuilder,
    quick_cache::sync::DefaultLifecycle<Key, Arc<Known>>,
>;

/// The memory for each token of [`CacheTerms::tokens`], in bytes. A token with one assertion usually takes this much.
const MEMORY_OF_ONE: usize = 2560;
/// The memory of the cache, divided by the memory for further assertions about the same callers.
const SPARE: usize = 16;
/// The memory that the cache itself needs for an entry, in bytes.
const ENTRY: usize = 128;
/// The maximum overhead of the allocator for each allocation, in bytes.
const ALLOCATION: usize = 16;
/// The size of a B-tree node in a set of scope tokens, in bytes. A node contains at least five tokens, unless it is
/// the only one.
const SCOPE_NODE: usize = 288;
/// The size of an assertion's JSON and signature, without the values that identify the caller, in bytes.
const ASSERTION: usize = 400;

/// Weighs a token by the memory that it takes. The weight of an entry must not change, so it includes the first
/// assertion even before that is signed. Further assertions use [`SpareMemory`].
#[derive(Clone)]
struct BySize;

impl Weighter<Key, Arc<Known>> for BySize {
    fn weight(&self, _: &Key, known: &Arc<Known>) -> u64 {
        (ENTRY + size_of::<Known>() + values_of(&known.principal) + one_assertion(&known.principal)) as u64
    }
}

/// The size in bytes of the values of a principal, without the struct itself.
fn values_of(principal: &Principal) -> usize {
    let Principal { subject, username, email, groups, client_id, grant_id, scope, resources, .. } = principal;
    let texts = [subject.as_str(), username.as_str(), client_id.as_str(), grant_id.as_str()];
    let texts = texts.into_iter().chain(email.as_deref()).map(|text| text.len() + ALLOCATION);
    let listed = groups.iter().map(Group::as_str).chain(resources.iter().map(ResourceUri::as_str));
    let listed = listed.map(|text| size_of::<String>() + text.len() + ALLOCATION);
    let tokens = scope.tokens().map(|token| token.as_str().len() + ALLOCATION);
    let nodes = (1 + scope.tokens().count() / 5) * SCOPE_NODE;
    texts.chain(listed).chain(tokens).sum::<usize>() + nodes
}

/// The size in bytes of the first assertion about a principal and of the other headers that identify the caller.
fn one_assertion(principal: &Principal) -> usize {
    let Principal { subject, username, email, groups, client_id, scope, resources, .. } = principal;
    let groups: usize = groups.iter().map(|group| group.as_str().len() + 3).sum();
    let scope: usize = scope.tokens().map(|token| token.as_str().len() + 1).sum();
    let email = email.as_deref().unwrap_or_default().len();
    let caller =
        subject.as_str().len() + username.as_str().len() + email + groups + client_id.as_str().len() + scope;
    let resource = resources.iter().map(|resource| resource.as_str().len()).max().unwrap_or_default();
    // Base64 encodes three bytes as four.
    caller + (caller + resource + ASSERTION) / 3 * 4 + IDENTITY * (size_of::<HeaderValue>() + ALLOCATION)
}

/// The size in bytes of the headers that identify a caller.
fn size_of_headers(headers: &[HeaderValue; IDENTITY]) -> usize {
    headers.iter().map(|value| size_of::<HeaderValue>() + value.len() + ALLOCATION).sum()
}

/// A principal, and the assertions about it.
#[derive(Debug)]
pub struct Known {
    /// The principal to which the token belongs.
    pub principal: Principal,
    /// The headers that identify the caller, in the order of `forward_auth::IDENTITY`. The last one is the signed
    /// assertion.
    pub identity: Assertions<[HeaderValue; IDENTITY]>,
    /// The state of the rows from which the principal was read. It is `None` if the principal cannot be
    /// cached.
    version: Option<Version>,
    verified: Verified,
}

/// The time and the signing keys with which a token was verified.
#[derive(Debug, Clone, Copy)]
struct Verified {
    at: UnixTime,
    keys: u64,
}

/// The limits of the cache.
#[derive(Debug, Clone, Copy)]
pub struct CacheTerms {
    /// Maximum number of tokens in the cache, if each takes 2.5 KiB. A token that takes more, for example because it
    /// is for many resources, counts as several.
    pub tokens: usize,
    /// The maximum time for which a value is cached, even if nothing changes.
    pub longest: Duration,
}

/// The sources from which a principal is found.
#[derive(Clone, Copy)]
pub struct Sources<'a> {
    /// The keys that verify tokens.
    pub keys: &'a KeyRing,
    /// The issuer that tokens must name.
    pub issuer: &'a Issuer,
    /// The store of the grants. It also finds the accounts of their users.
    pub grants: &'a dyn GrantStore,
    /// The record of changes to this store.
    pub changes: &'a Changes,
    /// The time of the check.
    pub now: UnixTime,
}

/// The cache of principals by access token.
pub struct PrincipalCache {
    known: Cache<Key, Arc<Known>, BySize>,
    /// The memory for assertions that exceed the weight of their entries.
    spare: Arc<SpareMemory>,
    /// Tokens without a valid signature. They remain invalid as long as the keys do not change.
    invalid: Cache<Key, Verified>,
    /// One permit for each worker, because a worker cannot verify more than one signature at the same time.
    verifications: Semaphore,
    longest: Duration,
    hits: Counter,
    misses: Counter,
    refused: Counter,
    bypassed: Counter,
}

impl PrincipalCache {
    /// Creates an empty cache for a service with this number of workers.
    pub fn new(terms: CacheTerms, workers: NonZeroUsize) -> Self {
        let outcome = |outcome: &'static str| metrics::counter!("mcp_gate_token_cache_lookups_total", "outcome" => outcome);
        let memory = terms.tokens * MEMORY_OF_ONE;
        let spare = memory / SPARE;
        Self {
            known: Cache::with_weighter(terms.tokens, (memory - spare) as u64, BySize),
            spare: Arc::new(SpareMemory::new(spare)),
            invalid: Cache::new((terms.tokens / KNOWN_TO_ONE_INVALID).max(1)),
            verifications: Semaphore::new(workers.get()),
            longest: terms.longest,
            hits: outcome("hit"),
            misses: outcome("miss"),
            refused: outcome("known_invalid"),
            bypassed: outcome("uncached"),
        }
    }

    /// Finds the principal of `token`.
    pub async fn of_token(&self, token: &str, sources: Sources<'_>) -> Result<Arc<Known>, RejectedToken> {
        let key = *TokenHash::of(token.as_bytes()).bytes();
        if let Some(known) = self.known.get(&key).filter(|known| self.is_good(known, &sources)) {
            self.hits.increment(1);
            return known.unless_expired(sources.now);
        }
        // The future is boxed, so that a check that finds its value in the cache does not need memory for the
        // query.
        let find = Box::pin(self.find(&key, token, sources));
        match tokio::time::timeout(BUDGET, find).await {
            Ok(found) => found?.unless_expired(sources.now),
            Err(_) => Err(RejectedToken::Store(StoreError::Unavailable(format!(
                "the owner of a token was not found within {} ms",
                BUDGET.as_millis()
            )))),
        }
    }

    /// The number of valid tokens in the cache, including stale ones.
    pub fn len(&self) -> usize {
        self.known.len()
    }

    /// Whether the cache contains no valid tokens.
    pub fn is_empty(&self) -> bool {
        self.known.is_empty()
    }

    /// If several requests with the same token need the store, one of them queries it. The others use its result
    /// if it is still current.
    async fn find(&self, key: &Key, token: &str, sources: Sources<'_>) -> Result<Arc<Known>, RejectedToken> {
        for _ in 0..TRIES {
            match self.known.get_value_or_guard_async(key).await {
                Ok(known) if self.is_good(&known, &sources) => {
                    self.hits.increment(1);
                    return Ok(known);
                }
                Ok(stale) => {
                    self.known.remove_if(key, |known| Arc::ptr_eq(known, &stale));
                }
                Err(guard) => return self.fetch(key, token, sources, Some(guard)).await,
            }
        }
        self.fetch(key, token, sources, None).await
    }

    async fn fetch(
        &self,
        key: &Key,
        token: &str,
        sources: Sources<'_>,
        guard: Option<Guard<'_>>,
    ) -> Result<Arc<Known>, RejectedToken> {
        let verified = Verified { at: sources.now, keys: sources.keys.generation() };
        if self.invalid.get(key).is_some_and(|before| self.is_young(before, &sources)) {
            self.refused.increment(1);
            return Err(RejectedToken::Invalid);
        }
        let claims =
            self.verify(token, sources.keys).await.inspect_err(|_| self.invalid.insert(*key, verified))?;
        let (principal, version) = ask(claims, sources).await?;
        let counter = if version.is_some() { &self.misses } else { &self.bypassed };
        counter.increment(1);
        let (own, spare) = (one_assertion(&principal), Arc::clone(&self.spare));
        let identity = Assertions::new(Share { own, spare, size_of: size_of_headers });
        let known = Arc::new(Known { principal, identity, version, verified });
        if let (Some(guard), true) = (guard, version.is_some()) {
            // This fails if the placeholder has been removed. In that case, the value is not cached.
            let _ = guard.insert(Arc::clone(&known));
        }
        Ok(known)
    }

    /// Verifies a token that is not in the cache. Anybody can send unknown tokens, and verifying a signature takes
    /// longer than the whole check of a cached token. Therefore only a few are verified at the same time, and
    /// requests that are ready to continue are processed first.
    async fn verify(&self, token: &str, keys: &KeyRing) -> Result<AccessTokenClaims, RejectedToken> {
        // The semaphore is never closed.
        let _turn = self.verifications.acquire().await;
        tokio::task::yield_now().await;
        claims_of(token, keys)
    }

    fn is_good(&self, known: &Known, sources: &Sources<'_>) -> bool {
        let current = known.version.is_some_and(|version| sources.changes.is_current(&version));
        current && self.is_young(known.verified, sources)
    }

    /// Whether a verification is recent and was made with the current keys. A time in the future is not recent,
    /// because a clock that was set back must not extend the life of a cached value.
    fn is_young(&self, verified: Verified, sources: &Sources<'_>) -> bool {
        let Verified { at, keys } = verified;
        at <= sources.now && sources.now.since(at) < self.longest && keys == sources.keys.generation()
    }
}

/// Queries the store. The change counters are read first, so that a concurrent change makes the result stale.
async fn ask(
    claims: AccessTokenClaims,
    sources: Sources<'_>,
) -> Result<(Principal, Option<Version>), RejectedToken> {
    let Sources { issuer, grants, changes, now, .. } = sources;
    let (grant, client, subject) = (claims.gid.clone(), claims.client_id.clone(), claims.sub.clone());
    let own = [
        (About::Grant, grant.as_str()),
        (About::Client, client.as_str()),
        (About::Account, subject.as_str()),
    ];
    let version = changes.version(&own);
    let (principal, parent) = of_claims(claims.clone(), issuer, grants, now).await?;
    let Some(parent) = parent else {
        return Ok((principal, version));
    };
    // A grant with a parent ends together with the parent. The parent is known only after the first query, so the
    // query is repeated with the counters of all rows.
    let of_parent = grants.grant(&parent, now).await?.ok_or(RejectedToken::Revoked)?.client_id;
    let [a, b, c] = own;
    let all = [a, b, c, (About::Grant, parent.as_str()), (About::Client, of_parent.as_str())];
    let version = changes.version(&all);
    let (principal, _) = of_claims(claims, issuer, grants, now).await?;
    // The parent might have expired since the first query. If it was extended instead, the version has changed.
    let end = grants.grant(&parent, now).await?.ok_or(RejectedToken::Revoked)?.expires_at;
    Ok((Principal { expires_at: principal.expires_at.min(end), ..principal }, version))
}

impl Known {
    fn unless_expired(self: Arc<Self>, now: UnixTime) -> Result<Arc<Self>, RejectedToken> {
        if self.principal.expires_at > now { Ok(self) } else { Err(RejectedToken::Expired) }
    }
}
