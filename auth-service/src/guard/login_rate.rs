//! How fast passwords may be guessed.
//!
//! Three limits on attempts to log in: one name from one address, one address whatever the names, and one name whatever the
//! addresses. The last one stops guessing from many places, and would also let a stranger shut the owner out; so a
//! browser in which the owner has logged in before carries a device cookie, and with it only the first limit counts
//! (OWASP, "Slow down online guessing attacks with device cookies").

use std::net::IpAddr;
use std::num::NonZeroU32;
use std::time::Duration;

use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};

use crate::domain::account::Username;

use super::client_address::network;

/// Guesses in a row, then one every so often.
const PAIR: (u32, Duration) = (10, Duration::from_secs(30));
/// A whole office may log in from one address.
const ADDRESS: (u32, Duration) = (300, Duration::from_secs(1));
const NAME: (u32, Duration) = (50, Duration::from_secs(60));

/// See the module's text.
pub struct LoginRate {
    pairs: DefaultKeyedRateLimiter<(Username, Option<IpAddr>)>,
    devices: DefaultKeyedRateLimiter<Username>,
    addresses: DefaultKeyedRateLimiter<Option<IpAddr>>,
    names: DefaultKeyedRateLimiter<Username>,
}

/// What is known of the browser.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Browser {
    /// Nothing.
    Stranger,
    /// The person has logged in here before.
    KnownDevice,
}

/// There were too many guesses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("too many attempts; try again in a minute")]
pub struct TooManyAttempts;

impl Default for LoginRate {
    fn default() -> Self {
        Self {
            pairs: RateLimiter::keyed(quota(PAIR)),
            devices: RateLimiter::keyed(quota(PAIR)),
            addresses: RateLimiter::keyed(quota(ADDRESS)),
            names: RateLimiter::keyed(quota(NAME)),
        }
    }
}

fn quota((burst, every): (u32, Duration)) -> Quota {
    let burst = NonZeroU32::new(burst).unwrap_or(NonZeroU32::MIN);
    Quota::with_period(every).unwrap_or(Quota::per_second(NonZeroU32::MIN)).allow_burst(burst)
}

impl LoginRate {
    /// Counts an attempt before its password is looked at, so that many at once cannot slip through.
    pub fn admit(
        &self,
        name: &Username,
        address: Option<IpAddr>,
        browser: Browser,
    ) -> Result<(), TooManyAttempts> {
        let address = address.map(network);
        let passed = match browser {
            Browser::KnownDevice => self.devices.check_key(name).is_ok(),
            Browser::Stranger => {
                self.pairs.check_key(&(name.clone(), address)).is_ok()
                    && self.addresses.check_key(&address).is_ok()
                    && self.names.check_key(name).is_ok()
            }
        };
        if passed { Ok(()) } else { Err(TooManyAttempts) }
    }

    /// Forgets whoever is within the limits again; called now and then, so that memory stays bounded.
    pub fn forget_idle(&self) {
        self.pairs.retain_recent();
        self.devices.retain_recent();
        self.addresses.retain_recent();
        self.names.retain_recent();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> Username {
        Username::try_from(text.to_owned()).unwrap()
    }

    fn address(n: u32) -> IpAddr {
        IpAddr::V4((0x0a00_0000 + n).into())
    }

    #[test]
    fn a022_guessing_is_slowed_from_one_place_and_from_many() {
        let rate = LoginRate::default();
        let admitted = |attempts: u32, place: &dyn Fn(u32) -> IpAddr, who: &dyn Fn(u32) -> Username| {
            (0..attempts).filter(|n| rate.admit(&who(*n), Some(place(*n)), Browser::Stranger).is_ok()).count()
        };
        assert_eq!(admitted(100, &|_| address(1), &|_| name("ana")), 10);
        assert!((300..=302).contains(&admitted(1000, &|_| address(2), &|n| name(&format!("u{n}")))));
        assert!(admitted(1000, &address, &|_| name("bob")) <= 51);
        // Upper case and blanks make no second name.
        assert!(rate.admit(&name(" ANA "), Some(address(1)), Browser::Stranger).is_err());
    }

    #[test]
    fn a023_nobody_shuts_the_owner_out() {
        let rate = LoginRate::default();
        for n in 0..1000 {
            let _ = rate.admit(&name("ana"), Some(address(n)), Browser::Stranger);
        }
        assert!(rate.admit(&name("ana"), Some(address(5000)), Browser::Stranger).is_err());
        assert!(rate.admit(&name("ana"), Some(address(5000)), Browser::KnownDevice).is_ok());
    }
}
