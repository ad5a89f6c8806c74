//! Caches signed assertions about a caller, which are reused for requests with the same access token to the same
//! resource.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::domain::clock::UnixTime;
use crate::domain::resource::ResourceUri;

/// Maximum number of resources for which assertions of one token are cached. Most tokens need only one, but each
/// path is a separate resource.
const RESOURCES: usize = 4;

/// Maximum length of a resource URI for which an assertion is cached, in bytes. The assertion contains the URI.
const MAX_RESOURCE: usize = 256;

/// Memory that all callers share. It is for assertions that exceed a caller's own share, such as the assertion for a
/// second resource. It is limited because every caller with a token can request assertions for many paths (attack
/// 100).
#[derive(Debug)]
pub struct SpareMemory(AtomicUsize);

impl SpareMemory {
    /// Creates a pool with this many bytes.
    pub const fn new(bytes: usize) -> Self {
        Self(AtomicUsize::new(bytes))
    }

    fn take(&self, bytes: usize) -> bool {
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(bytes)).is_ok()
    }

    fn give_back(&self, bytes: usize) {
        self.0.fetch_add(bytes, Ordering::Relaxed);
    }
}

/// How much memory the assertions about one caller can take.
#[derive(Debug)]
pub struct Share<T> {
    /// The bytes that are always available to this caller.
    pub own: usize,
    /// The memory for assertions that exceed `own`.
    pub spare: Arc<SpareMemory>,
    /// The size of one assertion in bytes.
    pub size_of: fn(&T) -> usize,
}

/// The assertions about one caller. They are stored with the principal and removed with it, so they are never used
/// for another caller (attacks 82, 91).
#[derive(Debug)]
pub struct Assertions<T> {
    kept: Mutex<Kept<T>>,
    share: Share<T>,
}

#[derive(Debug)]
struct Kept<T> {
    signed: Vec<Signed<T>>,
    /// The number of bytes taken from the spare memory.
    taken: usize,
}

#[derive(Debug)]
struct Signed<T> {
    resource: ResourceUri,
    policy: u64,
    good_until: UnixTime,
    made: Arc<T>,
}

impl<T> Drop for Assertions<T> {
    fn drop(&mut self) {
        let kept = self.kept.get_mut().unwrap_or_else(PoisonError::into_inner);
        self.share.spare.give_back(kept.taken);
    }
}

impl<T> Kept<T> {
    /// Takes or gives back spare memory, so that the memory taken matches the assertions that are kept. Returns false
    /// if there is not enough spare memory.
    fn settle(&mut self, share: &Share<T>) -> bool {
        let bytes: usize = self.signed.iter().map(|signed| (share.size_of)(&signed.made)).sum();
        let needed = bytes.saturating_sub(share.own);
        let fits = needed <= self.taken || share.spare.take(needed - self.taken);
        if fits {
            share.spare.give_back(self.taken.saturating_sub(needed));
            self.taken = needed;
        }
        fits
    }
}

impl<T> Assertions<T> {
    /// Creates an empty list that can take this share of the memory.
    pub fn new(share: Share<T>) -> Self {
        Self { kept: Mutex::new(Kept { signed: Vec::new(), taken: 0 }), share }
    }

    /// Returns the assertion for `resource` under the policy with this number. A cached one is reused while at
    /// least half of its `lifetime` is left. Otherwise, `sign` creates a new one.
    pub fn for_resource<E>(
        &self,
        resource: &ResourceUri,
        policy: u64,
        now: UnixTime,
        lifetime: Duration,
        sign: impl FnOnce() -> Result<T, E>,
    ) -> Result<Arc<T>, E> {
        let is_for = |signed: &&Signed<T>| signed.resource == *resource && signed.policy == policy;
        // A poisoned lock is harmless, because the list is valid even after a panic.
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let half = lifetime / 2;
        let fresh = |signed: &&Signed<T>| now <= signed.good_until && signed.good_until.since(now) <= half;
        if let Some(found) = kept.signed.iter().find(is_for).filter(fresh) {
            return Ok(Arc::clone(&found.made));
        }
        let made = Arc::new(sign()?);
        if resource.as_str().len() > MAX_RESOURCE {
            return Ok(made);
        }
        kept.signed.retain(|signed| !is_for(&signed));
        if kept.signed.len() == RESOURCES {
            kept.signed.remove(0);
        }
        let good_until = now.plus(half);
        kept.signed.push(Signed { resource: resource.clone(), policy, good_until, made: Arc::clone(&made) });
        // The oldest ones are dropped first. An empty list always fits.
        while !kept.settle(&self.share) {
            kept.signed.remove(0);
        }
        Ok(made)
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;
    use crate::domain::resource::{ProtectedHosts, Scheme};

    const LIFETIME: Duration = Duration::from_secs(60);

    fn assertions(own: usize, spare: &Arc<SpareMemory>) -> Assertions<String> {
        Assertions::new(Share { own, spare: Arc::clone(spare), size_of: String::len })
    }

    fn roomy() -> Assertions<String> {
        assertions(usize::MAX, &Arc::new(SpareMemory::new(0)))
    }

    fn resource(text: &str) -> ResourceUri {
        let hosts = vec!["a.example".parse().unwrap(), "b.example".parse().unwrap()];
        ProtectedHosts::new(Scheme::Https, hosts).parse(text).unwrap()
    }

    fn signed(assertions: &Assertions<String>, at: &str, policy: u64, now: u64) -> String {
        let sign = || Ok::<_, Infallible>(format!("{at} {policy} {now}"));
        assertions.for_resource(&resource(at), policy, UnixTime(now), LIFETIME, sign).unwrap().to_string()
    }

    #[test]
    fn a082_an_assertion_is_for_its_resource_and_policy_alone() {
        let assertions = roomy();
        for at in ["https://a.example/mcp", "https://b.example/mcp", "https://a.example/mcp/x"] {
            for policy in [1, 2] {
                assert_eq!(signed(&assertions, at, policy, 100), format!("{at} {policy} 100"));
            }
        }
        assert!(assertions.kept.lock().unwrap().signed.len() <= RESOURCES);
    }

    #[test]
    fn a100_an_assertion_for_a_long_path_is_not_kept() {
        let assertions = roomy();
        let long = format!("https://a.example/{}", "x".repeat(4000));
        for now in [100, 101] {
            assert_eq!(signed(&assertions, &long, 1, now), format!("{long} 1 {now}"));
        }
        assert!(assertions.kept.lock().unwrap().signed.is_empty());
    }

    #[test]
    fn an_assertion_is_signed_anew_when_half_of_its_time_is_over() {
        let assertions = roomy();
        let at = "https://a.example/mcp";
        for (now, from) in [(100, 100), (101, 100), (130, 100), (131, 131), (161, 131), (162, 162)] {
            assert_eq!(signed(&assertions, at, 1, now), format!("{at} 1 {from}"));
        }
        // If the clock was set back, a new assertion is created, so that the old one is not used for longer.
        assert_eq!(signed(&assertions, at, 1, 50), format!("{at} 1 50"));
    }
    #[test]
    fn a100_assertions_beyond_the_own_share_take_spare_memory_and_give_it_back() {
        let spare = Arc::new(SpareMemory::new(50));
        let left = || spare.0.load(Ordering::Relaxed);
        // Each assertion takes 30 bytes.
        let at = |path: &str| format!("https://a.example/{path}");
        let (first, second) = (assertions(30, &spare), assertions(30, &spare));
        let has = |of: &Assertions<String>| of.kept.lock().unwrap().signed.len();
        for (path, kept, rest) in [("aaaaa", 1, 50), ("bbbbb", 2, 20), ("ccccc", 2, 20), ("ddddd", 2, 20)] {
            assert_eq!(signed(&first, &at(path), 1, 1000), format!("{} 1 1000", at(path)));
            assert_eq!((has(&first), left()), (kept, rest), "{path}");
        }
        assert_eq!(
            signed(&first, &at("ddddd"), 1, 1001),
            format!("{} 1 1000", at("ddddd")),
            "the latest is kept"
        );
        signed(&second, &at("aaaaa"), 1, 1000);
        signed(&second, &at("bbbbb"), 1, 1000);
        assert_eq!((has(&second), left()), (1, 20), "the spare memory is used up");
        drop(first);
        assert_eq!(left(), 50);
        signed(&second, &at("ccccc"), 1, 1000);
        assert_eq!((has(&second), left()), (2, 20));
        // An assertion that exceeds both its own share and the spare memory is not kept.
        let tight = assertions(5, &spare);
        signed(&tight, &at("aaaaa"), 1, 1000);
        assert_eq!((has(&tight), left()), (0, 20));
    }
}
