//! Limits how fast passwords can be guessed, and the number of concurrent attempts.
//!
//! There are limits for one address with any user names, for one name from one address, and for one name from all
//! addresses together. The limit of the address is checked first, so that an address cannot make the server
//! remember more names than it can try. The last limit stops distributed guessing, but would also let a stranger
//! lock out the owner of the account. Therefore a browser in which the owner has already logged in has a device
//! cookie, and only a separate limit applies to it (OWASP, "Slow down online guessing attacks with device
//! cookies").

use std::net::IpAddr;
use std::time::Duration;

use crate::domain::account::Username;

use super::client_address::network;
use super::in_flight::{InFlight, NoPlace, Place};
use super::keyed_rate::{KeyedRate, Taken, TooFast, quota};

/// Limit on guesses for one name from one address: the size of a burst, and the time after which one more is
/// allowed. The other limits have the same form.
const PAIR: (u32, Duration) = (10, Duration::from_secs(30));
/// Limit on attempts from one address, which a whole office can share.
const ADDRESS: (u32, Duration) = (300, Duration::from_secs(1));
/// Limit on guesses for one name from all addresses together.
const NAME: (u32, Duration) = (50, Duration::from_secs(60));
/// Limit on successful logins with one name that do not count as guesses. Without it, an attacker with a valid
/// password could make the service hash it any number of times.
const SUCCESSES: (u32, Duration) = (60, Duration::from_secs(1));
/// Number of waiting attempts from all addresses together at which each address is limited to [`SHARE`]. It is
/// half of the slots, so that an office behind one address leaves slots for other addresses.
const ROOMY: u32 = 16;
/// Maximum number of waiting attempts from one address while [`ROOMY`] is reached.
const SHARE: u32 = 8;

/// The limits on logins that the module documentation describes.
pub struct LoginRate {
    pairs: KeyedRate<(Username, Option<IpAddr>)>,
    devices: KeyedRate<Username>,
    addresses: KeyedRate<Option<IpAddr>>,
    names: KeyedRate<Username>,
    successes: KeyedRate<Username>,
    at_once: InFlight,
}

/// Whether the browser of an attempt is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Browser {
    /// The user has never logged in with this browser.
    Stranger,
    /// The user has already logged in with this browser.
    KnownDevice,
}

/// Why an attempt is refused before its password is checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TooManyAttempts {
    /// There were too many guesses.
    #[error(transparent)]
    TooFast(#[from] TooFast),
    /// Too many attempts are in progress.
    #[error(transparent)]
    AtOnce(#[from] NoPlace),
}

/// An attempt that is allowed. The caller must keep it until the attempt is finished.
#[derive(Debug)]
pub struct Admission {
    name: Option<Username>,
    pair: Option<Taken<(Username, Option<IpAddr>)>>,
    /// The event that was counted under the name, or under its known device.
    of_name: Option<Taken<Username>>,
    browser: Browser,
    /// The slot that this attempt occupies among the concurrent attempts from its address. Attempts from a known
    /// device do not need one.
    _place: Option<Place>,
}

impl Default for LoginRate {
    fn default() -> Self {
        Self {
            pairs: KeyedRate::new(quota(PAIR)),
            devices: KeyedRate::new(quota(PAIR)),
            addresses: KeyedRate::new(quota(ADDRESS)),
            names: KeyedRate::new(quota(NAME)),
            successes: KeyedRate::new(quota(SUCCESSES)),
            at_once: InFlight::new(ROOMY),
        }
    }
}

impl LoginRate {
    /// Counts an attempt before its password is checked, so that parallel attempts cannot exceed the limits.
    /// `name` is `None` if the typed text cannot be a user name.
    pub fn admit(
        &self,
        name: Option<&Username>,
        address: Option<IpAddr>,
        browser: Browser,
    ) -> Result<Admission, TooManyAttempts> {
        let address = address.map(network);
        if let (Some(name), Browser::KnownDevice) = (name, browser) {
            let of_name = Some(self.devices.take(name)?);
            return Ok(Admission { name: Some(name.clone()), pair: None, of_name, browser, _place: None });
        }
        self.addresses.check(&address)?;
        let pair = name.map(|name| self.pairs.take(&(name.clone(), address))).transpose()?;
        let of_name = name.map(|name| self.names.take(name)).transpose()?;
        let place = self.at_once.enter_sharing(SHARE, ROOMY, address)?;
        Ok(Admission { name: name.cloned(), pair, of_name, browser, _place: Some(place) })
    }

    /// Undoes the counting of an attempt for its name, because it was not a guess. It still counts against the
    /// limit of the address, because a password has been hashed.
    pub fn succeeded(&self, admission: Admission) {
        let Some(name) = admission.name else { return };
        if self.successes.check(&name).is_err() {
            return;
        }
        if let Some(pair) = admission.pair {
            self.pairs.give_back(pair);
        }
        if let Some(of_name) = admission.of_name {
            match admission.browser {
                Browser::KnownDevice => self.devices.give_back(of_name),
                Browser::Stranger => self.names.give_back(of_name),
            }
        }
    }

    /// Removes entries that are no longer needed. Called periodically to limit memory use.
    pub fn forget_idle(&self) {
        self.pairs.forget_idle();
        self.devices.forget_idle();
        self.addresses.forget_idle();
        self.names.forget_idle();
        self.successes.forget_idle();
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
            (0..attempts)
                .filter(|n| rate.admit(Some(&who(*n)), Some(place(*n)), Browser::Stranger).is_ok())
                .count()
        };
        assert_eq!(admitted(100, &|_| address(1), &|_| name("ana")), 10);
        assert!((300..=302).contains(&admitted(1000, &|_| address(2), &|n| name(&format!("u{n}")))));
        assert!(admitted(1000, &address, &|_| name("bob")) <= 51);
        // Upper case and surrounding spaces do not make a different name.
        assert!(rate.admit(Some(&name(" ANA ")), Some(address(1)), Browser::Stranger).is_err());
    }

    #[test]
    fn a023_nobody_shuts_the_owner_out() {
        let rate = LoginRate::default();
        for n in 0..1000 {
            let _ = rate.admit(Some(&name("ana")), Some(address(n)), Browser::Stranger);
        }
        assert!(rate.admit(Some(&name("ana")), Some(address(5000)), Browser::Stranger).is_err());
        assert!(rate.admit(Some(&name("ana")), Some(address(5000)), Browser::KnownDevice).is_ok());
    }

    #[test]
    fn a093_names_that_cannot_be_are_counted_for_their_address() {
        let rate = LoginRate::default();
        let admitted =
            (0..1000).filter(|_| rate.admit(None, Some(address(1)), Browser::Stranger).is_ok()).count();
        assert!((300..=302).contains(&admitted), "{admitted}");
        // The address has used up its attempts for every name, and no state was stored for any name.
        assert!(rate.admit(Some(&name("ana")), Some(address(1)), Browser::Stranger).is_err());
        assert!(rate.admit(Some(&name("ana")), Some(address(2)), Browser::Stranger).is_ok());
    }

    #[test]
    fn a093_one_address_leaves_half_of_the_places_to_others() {
        let rate = LoginRate::default();
        let attempt = |n: u32, place: u32| {
            rate.admit(Some(&name(&format!("u{n}"))), Some(address(place)), Browser::Stranger)
        };
        // Many users in one office try to log in at the same time.
        let held: Vec<_> = (0..ROOMY).map(|n| attempt(n, 1).unwrap()).collect();
        assert!(matches!(attempt(100, 1), Err(TooManyAttempts::AtOnce(_))));
        let others: Vec<_> = (0..SHARE).map(|n| attempt(200 + n, 2).unwrap()).collect();
        assert!(matches!(attempt(300, 2), Err(TooManyAttempts::AtOnce(_))));
        assert!(attempt(400, 3).is_ok());
        drop(held);
        assert!(attempt(101, 1).is_ok());
        drop(others);
    }

    #[test]
    fn a022_a_login_that_succeeds_counts_for_nothing_and_gives_back_no_guess() {
        let rate = LoginRate::default();
        for browser in [Browser::Stranger, Browser::KnownDevice] {
            let who = name(&format!("{browser:?}"));
            let attempt = || rate.admit(Some(&who), Some(address(1)), browser);
            for _ in 0..30 {
                rate.succeeded(attempt().unwrap());
            }
            // Successful logins do not increase the number of guesses. After any number of logins, exactly ten
            // guesses are possible, and a login between the guesses adds none.
            for _ in 0..9 {
                drop(attempt().unwrap());
            }
            rate.succeeded(attempt().unwrap());
            drop(attempt().unwrap());
            assert!(matches!(attempt(), Err(TooManyAttempts::TooFast(_))));
        }
        // An attacker with a valid password cannot make the service hash the password any number of times.
        let who = name("busy");
        let logins = (0..1000).map_while(|_| rate.admit(Some(&who), None, Browser::KnownDevice).ok());
        let logins = logins.map(|admission| rate.succeeded(admission)).count();
        assert!((70..=72).contains(&logins), "{logins}");
    }
}
