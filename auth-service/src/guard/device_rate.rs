//! How fast devices may ask, and how fast their codes may be guessed.
//!
//! A user code has 34 bits. With a thousand devices waiting at once, somebody who may try ten codes and then one every
//! half minute needs four centuries to meet one of them (RFC 8628 §5.1). Guesses are counted for the address and for
//! the account, since only who is logged in may try.

use std::net::IpAddr;
use std::num::NonZeroU32;
use std::time::Duration;

use governor::{DefaultDirectRateLimiter, DefaultKeyedRateLimiter, Quota, RateLimiter};

use crate::domain::account::Subject;

use super::client_address::network;

/// Guesses in a row, then one every so often.
const GUESSES: (u32, Duration) = (10, Duration::from_secs(30));
/// Devices that one address may start in a row, then one every so often.
const STARTS: (u32, Duration) = (30, Duration::from_secs(2));
/// All together.
const ALL_STARTS: (u32, Duration) = (1000, Duration::from_millis(20));

/// See the module's text.
pub struct DeviceRate {
    guesses_at: DefaultKeyedRateLimiter<Option<IpAddr>>,
    guesses_by: DefaultKeyedRateLimiter<Subject>,
    starts_at: DefaultKeyedRateLimiter<Option<IpAddr>>,
    starts: DefaultDirectRateLimiter,
}

/// There were too many.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("too many attempts; try again in a minute")]
pub struct TooMany;

impl Default for DeviceRate {
    fn default() -> Self {
        Self {
            guesses_at: RateLimiter::keyed(quota(GUESSES)),
            guesses_by: RateLimiter::keyed(quota(GUESSES)),
            starts_at: RateLimiter::keyed(quota(STARTS)),
            starts: RateLimiter::direct(quota(ALL_STARTS)),
        }
    }
}

fn quota((burst, every): (u32, Duration)) -> Quota {
    let burst = NonZeroU32::new(burst).unwrap_or(NonZeroU32::MIN);
    Quota::with_period(every).unwrap_or(Quota::per_second(NonZeroU32::MIN)).allow_burst(burst)
}

impl DeviceRate {
    /// Counts a device that starts.
    pub fn admit_start(&self, address: Option<IpAddr>) -> Result<(), TooMany> {
        let passed = self.starts_at.check_key(&address.map(network)).is_ok() && self.starts.check().is_ok();
        if passed { Ok(()) } else { Err(TooMany) }
    }

    /// Counts a code that a person tries, before it is looked up.
    pub fn admit_guess(&self, address: Option<IpAddr>, subject: &Subject) -> Result<(), TooMany> {
        let passed = self.guesses_by.check_key(subject).is_ok()
            && self.guesses_at.check_key(&address.map(network)).is_ok();
        if passed { Ok(()) } else { Err(TooMany) }
    }

    /// Forgets whoever is within the limits again; called now and then, so that memory stays bounded.
    pub fn forget_idle(&self) {
        self.guesses_at.retain_recent();
        self.guesses_by.retain_recent();
        self.starts_at.retain_recent();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(n: u32) -> IpAddr {
        IpAddr::V4((0x0a00_0000 + n).into())
    }

    fn person(n: u8) -> Subject {
        Subject::new([n; 32])
    }

    #[test]
    fn a043_guessing_user_codes_is_slowed_for_an_address_and_for_an_account() {
        let rate = DeviceRate::default();
        let admitted = |place: &dyn Fn(u32) -> IpAddr, who: &dyn Fn(u32) -> Subject| {
            (0..100).filter(|n| rate.admit_guess(Some(place(*n)), &who(*n)).is_ok()).count()
        };
        assert_eq!(admitted(&|_| address(500), &|n| person(u8::try_from(n).unwrap())), 10);
        assert_eq!(admitted(&address, &|_| person(200)), 10);
        assert!(rate.admit_guess(Some(address(900)), &person(201)).is_ok());
    }

    #[test]
    fn a043_a_flood_of_devices_from_one_address_leaves_others_alone() {
        let rate = DeviceRate::default();
        assert_eq!((0..1000).filter(|_| rate.admit_start(Some(address(1))).is_ok()).count(), 30);
        assert!(rate.admit_start(Some(address(2))).is_ok());
    }
}
