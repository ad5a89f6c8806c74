//! Facts that were found a moment ago. A copy counts only while the store says that nothing about it changed
//! ([`Changes`]); policy is asked on every request all the same.

use std::sync::Arc;
use std::time::Duration;

use actix_web::http::header::HeaderValue;
use metrics::Counter;
use quick_cache::sync::{Cache, PlaceholderGuard};

use crate::domain::clock::UnixTime;
use crate::domain::issuer::Issuer;
use crate::domain::opaque_token::TokenHash;
use crate::keys::signing::KeyRing;
use crate::keys::tokens::AccessTokenClaims;
use crate::store::changes::{About, Version};
use crate::store::{Store, StoreError};

use super::assertions::Assertions;
use super::{Facts, NoFacts, claims_of, of_claims};

/// How many headers say who somebody is (`forward_auth::IDENTITY`).
pub const IDENTITY: usize = 7;
/// How long one check may wait for facts, whatever it waits for: the store, or another request that asks it.
const BUDGET: Duration = Duration::from_secs(1);
/// Signed tokens are remembered one by one; of what is not ours, one for every so many of them.
const KNOWN_TO_ONE_INVALID: usize = 16;
/// How often a copy may turn out stale at once before a request asks for itself.
const TRIES: u32 = 3;

/// SHA-256 of a token. The whole of it is the key, so no two callers ever meet (attack 84).
type Key = [u8; 32];
type Guard<'a> = PlaceholderGuard<
    'a,
    Key,
    Arc<Known>,
    quick_cache::UnitWeighter,
    quick_cache::DefaultHashBuilder,
    quick_cache::sync::DefaultLifecycle<Key, Arc<Known>>,
>;

/// Facts, and what was made from them.
#[derive(Debug)]
pub struct Known {
    /// Who the token is.
    pub facts: Facts,
    /// The headers that say who it is, in the order of `forward_auth::IDENTITY`, the signed one last.
    pub identity: Assertions<[HeaderValue; IDENTITY]>,
    /// What the facts were made from; none if they cannot be kept.
    version: Option<Version>,
    verified: Verified,
}

/// When, and with which keys, it was found out what a token is.
#[derive(Debug, Clone, Copy)]
struct Verified {
    at: UnixTime,
    keys: u64,
}

/// How much is kept, and for how long.
#[derive(Debug, Clone, Copy)]
pub struct CacheTerms {
    /// The most tokens whose facts are kept.
    pub tokens: usize,
    /// The longest that facts are kept, changes or not.
    pub longest: Duration,
}

/// What facts are found with.
#[derive(Clone, Copy)]
pub struct Sources<'a> {
    /// What tokens are verified with.
    pub keys: &'a KeyRing,
    /// Who issues them.
    pub issuer: &'a Issuer,
    /// What became of their grants.
    pub store: &'a dyn Store,
    /// The present second.
    pub now: UnixTime,
}

/// See the module's text.
pub struct FactsCache {
    known: Cache<Key, Arc<Known>>,
    /// Tokens without a signature of ours: they stay so while the keys stay.
    invalid: Cache<Key, Verified>,
    longest: Duration,
    hits: Counter,
    misses: Counter,
    refused: Counter,
    bypassed: Counter,
}

impl FactsCache {
    /// An empty cache.
    pub fn new(terms: CacheTerms) -> Self {
        let outcome = |outcome: &'static str| metrics::counter!("mcp_gate_facts_total", "outcome" => outcome);
        Self {
            known: Cache::new(terms.tokens),
            invalid: Cache::new((terms.tokens / KNOWN_TO_ONE_INVALID).max(1)),
            longest: terms.longest,
            hits: outcome("hit"),
            misses: outcome("miss"),
            refused: outcome("known_invalid"),
            bypassed: outcome("uncached"),
        }
    }

    /// Finds out who `token` is.
    pub async fn of_token(&self, token: &str, sources: Sources<'_>) -> Result<Arc<Known>, NoFacts> {
        let key = *TokenHash::of(token.as_bytes()).bytes();
        if let Some(known) = self.known.get(&key).filter(|known| self.is_good(known, &sources)) {
            self.hits.increment(1);
            return known.unless_expired(sources.now);
        }
        // In a box, so that the check that finds what it needs does not carry the room for looking it up.
        let find = Box::pin(self.find(&key, token, sources));
        match tokio::time::timeout(BUDGET, find).await {
            Ok(found) => found?.unless_expired(sources.now),
            Err(_) => Err(NoFacts::Store(StoreError::Unavailable(format!(
                "it did not say within {} ms who a token belongs to",
                BUDGET.as_millis()
            )))),
        }
    }

    /// How many tokens are remembered, good or not any more.
    pub fn len(&self) -> usize {
        self.known.len()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.known.is_empty()
    }

    /// Of many requests with one token, one asks the store, and the others take its answer if it is still good for them.
    async fn find(&self, key: &Key, token: &str, sources: Sources<'_>) -> Result<Arc<Known>, NoFacts> {
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
    ) -> Result<Arc<Known>, NoFacts> {
        let verified = Verified { at: sources.now, keys: sources.keys.generation() };
        if self.invalid.get(key).is_some_and(|before| self.is_young(before, &sources)) {
            self.refused.increment(1);
            return Err(NoFacts::Invalid);
        }
        let claims = claims_of(token, sources.keys).inspect_err(|_| self.invalid.insert(*key, verified))?;
        let (facts, version) = ask(claims, sources).await?;
        let counter = if version.is_some() { &self.misses } else { &self.bypassed };
        counter.increment(1);
        let known = Arc::new(Known { facts, identity: Assertions::default(), version, verified });
        if let (Some(guard), true) = (guard, version.is_some()) {
            // It fails when somebody removed the placeholder, and then the facts are ours alone.
            let _ = guard.insert(Arc::clone(&known));
        }
        Ok(known)
    }

    fn is_good(&self, known: &Known, sources: &Sources<'_>) -> bool {
        let current = known.version.is_some_and(|version| sources.store.changes().is_current(&version));
        current && self.is_young(known.verified, sources)
    }

    /// Neither too old nor from the future, since a clock that was set back must not prolong anything; nor found out with
    /// other keys than those of now.
    fn is_young(&self, verified: Verified, sources: &Sources<'_>) -> bool {
        let Verified { at, keys } = verified;
        at <= sources.now && sources.now.since(at) < self.longest && keys == sources.keys.generation()
    }
}

/// First the numbers, then the question: what changes while it is asked makes the answer stale.
async fn ask(claims: AccessTokenClaims, sources: Sources<'_>) -> Result<(Facts, Option<Version>), NoFacts> {
    let Sources { issuer, store, now, .. } = sources;
    let changes = store.changes();
    let (grant, client, subject) = (claims.gid.clone(), claims.client_id.clone(), claims.sub.clone());
    let own = [
        (About::Grant, grant.as_str()),
        (About::Client, client.as_str()),
        (About::Account, subject.as_str()),
    ];
    let version = changes.version(&own);
    let (facts, parent) = of_claims(claims.clone(), issuer, store, now).await?;
    let Some(parent) = parent else {
        return Ok((facts, version));
    };
    // A grant on behalf of another one ends with it, and which one that is shows only now: so the question is asked
    // once more under all the numbers.
    let of_parent = store.grant(&parent, now).await?.ok_or(NoFacts::Revoked)?.client_id;
    let [a, b, c] = own;
    let all = [a, b, c, (About::Grant, parent.as_str()), (About::Client, of_parent.as_str())];
    let version = changes.version(&all);
    let (facts, _) = of_claims(claims, issuer, store, now).await?;
    // Its end may have been put off in between, which the version tells, or have come.
    let end = store.grant(&parent, now).await?.ok_or(NoFacts::Revoked)?.expires_at;
    Ok((Facts { expires_at: facts.expires_at.min(end), ..facts }, version))
}

impl Known {
    fn unless_expired(self: Arc<Self>, now: UnixTime) -> Result<Arc<Self>, NoFacts> {
        if self.facts.expires_at > now { Ok(self) } else { Err(NoFacts::Expired) }
    }
}
