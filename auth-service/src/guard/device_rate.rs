//! Limits how fast devices can request codes, and how fast user codes can be guessed.
//!
//! A user code has 34 bits. If a thousand devices are waiting, an attacker with ten guesses and then one every
//! half minute needs 24 years on average to find one of their codes (RFC 8628 §5.1). Guesses count against the
//! address and against the account, because only a user who is logged in can guess.

use std::net::IpAddr;
use std::time::Duration;

use crate::domain::account::Subject;

use super::client_address::network;
use super::keyed_rate::{KeyedRate, OneRate, TooFast, quota};

/// Limit on guesses: the size of a burst, and the time after which one more is allowed. The other limits have the
/// same form.
const GUESSES: (u32, Duration) = (10, Duration::from_secs(30));
/// Limit on the device flows that one address starts.
const STARTS: (u32, Duration) = (30, Duration::from_secs(2));
/// Limit on the device flows that all addresses together start.
const ALL_STARTS: (u32, Duration) = (1000, Duration::from_millis(20));

/// The limits on devices and user codes that the module documentation describes.
pub struct DeviceRate {
    guesses_at: KeyedRate<Option<IpAddr>>,
    guesses_by: KeyedRate<Subject>,
    starts_at: KeyedRate<Option<IpAddr>>,
    starts: OneRate,
}

impl Default for DeviceRate {
    fn default() -> Self {
        Self {
            guesses_at: KeyedRate::new(quota(GUESSES)),
            guesses_by: KeyedRate::new(quota(GUESSES)),
            starts_at: KeyedRate::new(quota(STARTS)),
            starts: OneRate::new(quota(ALL_STARTS)),
        }
    }
}

impl DeviceRate {
    /// Counts a device that requests codes.
    pub fn admit_start(&self, address: Option<IpAddr>) -> Result<(), TooFast> {
        self.starts_at.check(&address.map(network))?;
        self.starts.check()
    }

    /// Counts a code that a user has entered, before it is looked up.
    pub fn admit_guess(&self, address: Option<IpAddr>, subject: &Subject) -> Result<(), TooFast> {
        self.guesses_by.check(subject)?;
        self.guesses_at.check(&address.map(network))
    }

    /// Removes entries that are no longer needed. Called periodically to limit memory use.
    pub fn forget_idle(&self) {
        self.guesses_at.forget_idle();
        self.guesses_by.forget_idle();
        self.starts_at.forget_idle();
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
