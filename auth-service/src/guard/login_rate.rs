//! How fast passwords may be guessed, and how many at a time.
//!
//! Limits on attempts to log in: one address whatever the names, which is counted first, so that no address makes us remember
//! more names than it may try; one name from one address; and one name whatever the
//! addresses. The last one stops guessing from many places, and would also let a stranger shut the owner out; so a
//! browser in which the owner has logged in before carries a device cookie, and with it only a limit of its own counts
//! (OWASP, "Slow down online guessing attacks with device cookies").

use std::net::IpAddr;
use std::time::Duration;

use crate::domain::account::Username;

use super::client_address::network;
use super::in_flight::{InFlight, NoPlace, Place};
use super::keyed_rate::{KeyedRate, TooFast, quota};

/// Guesses in a row, then one every so often.
const PAIR: (u32, Duration) = (10, Duration::from_secs(30));
/// A whole office may log in from one address.
const ADDRESS: (u32, Duration) = (300, Duration::from_secs(1));
const NAME: (u32, Duration) = (50, Duration::from_secs(60));
/// Attempts of one address that may wait for their hash at the same time: when there is room, as many as may wait at all, since
/// an office may be one address.
const AT_ONCE: u32 = 32;
const AT_ONCE_WHEN_BUSY: u32 = 8;

/// See the module's text.
pub struct LoginRate {
    pairs: KeyedRate<(Username, Option<IpAddr>)>,
    devices: KeyedRate<Username>,
    addresses: KeyedRate<Option<IpAddr>>,
    names: KeyedRate<Username>,
    at_once: InFlight,
}

/// What is known of the browser.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Browser {
    /// Nothing.
    Stranger,
    /// The person has logged in here before.
    KnownDevice,
}

/// How many attempts wait for their hash already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Queue {
    /// No more than half of those that may.
    Roomy,
    /// More than that.
    Busy,
}

/// Why an attempt is not made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TooManyAttempts {
    /// There were too many guesses.
    #[error(transparent)]
    TooFast(#[from] TooFast),
    /// There are too many at this moment.
    #[error(transparent)]
    AtOnce(#[from] NoPlace),
}

/// An attempt that may be made, held until it is over.
#[derive(Debug)]
pub struct Admission {
    /// A known device takes no place of its address.
    _place: Option<Place>,
}

impl Default for LoginRate {
    fn default() -> Self {
        Self {
            pairs: KeyedRate::new(quota(PAIR)),
            devices: KeyedRate::new(quota(PAIR)),
            addresses: KeyedRate::new(quota(ADDRESS)),
            names: KeyedRate::new(quota(NAME)),
            at_once: InFlight::new(AT_ONCE),
        }
    }
}

impl LoginRate {
    /// Counts an attempt before its password is looked at, so that many at once cannot slip through. There is no `name` when
    /// what was typed can be none.
    pub fn admit(
        &self,
        name: Option<&Username>,
        address: Option<IpAddr>,
        browser: Browser,
        queue: Queue,
    ) -> Result<Admission, TooManyAttempts> {
        let address = address.map(network);
        if let (Some(name), Browser::KnownDevice) = (name, browser) {
            self.devices.check(name)?;
            return Ok(Admission { _place: None });
        }
        self.addresses.check(&address)?;
        if let Some(name) = name {
            self.pairs.check(&(name.clone(), address))?;
            self.names.check(name)?;
        }
        let most = match queue {
            Queue::Roomy => AT_ONCE,
            Queue::Busy => AT_ONCE_WHEN_BUSY,
        };
        Ok(Admission { _place: Some(self.at_once.enter_within(most, address)?) })
    }

    /// Forgets whoever is within the limits again; called now and then, so that memory stays bounded.
    pub fn forget_idle(&self) {
        self.pairs.forget_idle();
        self.devices.forget_idle();
        self.addresses.forget_idle();
        self.names.forget_idle();
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
                .filter(|n| {
                    rate.admit(Some(&who(*n)), Some(place(*n)), Browser::Stranger, Queue::Busy).is_ok()
                })
                .count()
        };
        assert_eq!(admitted(100, &|_| address(1), &|_| name("ana")), 10);
        assert!((300..=302).contains(&admitted(1000, &|_| address(2), &|n| name(&format!("u{n}")))));
        assert!(admitted(1000, &address, &|_| name("bob")) <= 51);
        // Upper case and blanks make no second name.
        assert!(rate.admit(Some(&name(" ANA ")), Some(address(1)), Browser::Stranger, Queue::Busy).is_err());
    }

    #[test]
    fn a023_nobody_shuts_the_owner_out() {
        let rate = LoginRate::default();
        for n in 0..1000 {
            let _ = rate.admit(Some(&name("ana")), Some(address(n)), Browser::Stranger, Queue::Busy);
        }
        assert!(rate.admit(Some(&name("ana")), Some(address(5000)), Browser::Stranger, Queue::Busy).is_err());
        assert!(
            rate.admit(Some(&name("ana")), Some(address(5000)), Browser::KnownDevice, Queue::Busy).is_ok()
        );
    }

    #[test]
    fn a093_names_that_cannot_be_are_counted_for_their_address() {
        let rate = LoginRate::default();
        let admitted = (0..1000)
            .filter(|_| rate.admit(None, Some(address(1)), Browser::Stranger, Queue::Busy).is_ok())
            .count();
        assert!((300..=302).contains(&admitted), "{admitted}");
        // The address is used up for every name, and makes us remember none.
        assert!(rate.admit(Some(&name("ana")), Some(address(1)), Browser::Stranger, Queue::Busy).is_err());
        assert!(rate.admit(Some(&name("ana")), Some(address(2)), Browser::Stranger, Queue::Busy).is_ok());
    }

    #[test]
    fn a093_one_address_has_few_attempts_at_once_when_many_wait() {
        let rate = LoginRate::default();
        let attempt = |n: u32, place: u32, queue| {
            rate.admit(Some(&name(&format!("u{n}"))), Some(address(place)), Browser::Stranger, queue)
        };
        let held: Vec<_> = (0..AT_ONCE).map(|n| attempt(n, 1, Queue::Roomy).unwrap()).collect();
        assert!(matches!(attempt(100, 1, Queue::Roomy), Err(TooManyAttempts::AtOnce(_))));
        let others: Vec<_> = (0..8).map(|n| attempt(n, 2, Queue::Busy).unwrap()).collect();
        assert!(matches!(attempt(100, 2, Queue::Busy), Err(TooManyAttempts::AtOnce(_))));
        assert!(attempt(100, 3, Queue::Busy).is_ok());
        drop((held, others));
        assert!(attempt(101, 1, Queue::Busy).is_ok());
    }
}
