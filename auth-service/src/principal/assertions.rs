//! Caches signed assertions about a caller, which are reused for requests with the same access token to the same
//! resource.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::domain::clock::UnixTime;
use crate::domain::resource::ResourceUri;

/// Maximum number of resources for which assertions of one token are cached. Most tokens need only one, but each
/// path is a separate resource.
const RESOURCES: usize = 4;

/// Maximum length in bytes of a resource URI for which an assertion is cached. The assertion contains the URI, and
/// the caches of all tokens together must fit into the memory of the service (attack 100).
const MAX_RESOURCE: usize = 256;

/// The assertions about one caller. They are stored with the principal and removed with it, so they are never used
/// for another caller (attacks 82, 91).
#[derive(Debug)]
pub struct Assertions<T>(Mutex<Vec<Signed<T>>>);

#[derive(Debug)]
struct Signed<T> {
    resource: ResourceUri,
    policy: u64,
    good_until: UnixTime,
    made: Arc<T>,
}

impl<T> Default for Assertions<T> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<T> Assertions<T> {
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
        let mut signed = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let half = lifetime / 2;
        let fresh = |signed: &&Signed<T>| now <= signed.good_until && signed.good_until.since(now) <= half;
        if let Some(found) = signed.iter().find(is_for).filter(fresh) {
            return Ok(Arc::clone(&found.made));
        }
        let made = Arc::new(sign()?);
        if resource.as_str().len() > MAX_RESOURCE {
            return Ok(made);
        }
        signed.retain(|signed| !is_for(&signed));
        if signed.len() == RESOURCES {
            signed.remove(0);
        }
        let good_until = now.plus(half);
        signed.push(Signed { resource: resource.clone(), policy, good_until, made: Arc::clone(&made) });
        Ok(made)
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;
    use crate::domain::resource::{ProtectedHosts, Scheme};

    const LIFETIME: Duration = Duration::from_secs(60);

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
        let assertions = Assertions::default();
        for at in ["https://a.example/mcp", "https://b.example/mcp", "https://a.example/mcp/x"] {
            for policy in [1, 2] {
                assert_eq!(signed(&assertions, at, policy, 100), format!("{at} {policy} 100"));
            }
        }
        assert!(assertions.0.lock().unwrap().len() <= RESOURCES);
    }

    #[test]
    fn a100_an_assertion_for_a_long_path_is_not_kept() {
        let assertions = Assertions::default();
        let long = format!("https://a.example/{}", "x".repeat(4000));
        for now in [100, 101] {
            assert_eq!(signed(&assertions, &long, 1, now), format!("{long} 1 {now}"));
        }
        assert!(assertions.0.lock().unwrap().is_empty());
    }

    #[test]
    fn an_assertion_is_signed_anew_when_half_of_its_time_is_over() {
        let assertions = Assertions::default();
        let at = "https://a.example/mcp";
        for (now, from) in [(100, 100), (101, 100), (130, 100), (131, 131), (161, 131), (162, 162)] {
            assert_eq!(signed(&assertions, at, 1, now), format!("{at} 1 {from}"));
        }
        // If the clock was set back, a new assertion is created, so that the old one is not used for longer.
        assert_eq!(signed(&assertions, at, 1, 50), format!("{at} 1 50"));
    }
}
