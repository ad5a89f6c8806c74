//! Limits how fast new clients can register.
//!
//! Hosted MCP clients serve thousands of users from a few addresses, so a limit for an address alone must be high.
//! The main limit is for a pair of an address and the host to which its clients redirect. Therefore, one hosted
//! client does not use up the limit of another, or of a user behind the same address. A stranger with made-up
//! redirect hosts reaches the limit of the address, or the limit of all registrations together. These limits do
//! not affect clients that are already registered.
//!
//! When the maximum number of clients is reached, a new registration removes the oldest client that no user has
//! allowed. New clients are protected from removal for a while, so that a few addresses cannot displace them
//! before their users have logged in. The number of protected clients of each address is limited, so that a few
//! addresses cannot use up the whole capacity.

use std::net::IpAddr;
use std::num::NonZeroU32;
use std::time::Duration;

use governor::Quota;

use crate::domain::redirect_uri::RedirectUri;

use super::client_address::network;
use super::keyed_rate::{KeyedRate, OneRate, TooFast, quota};

/// Rate of all registrations together, as a multiple of the rate of one pair.
const ALL_TOGETHER: u32 = 50;
/// Rate of a single address, as a multiple of the rate of one pair.
const ONE_ADDRESS: u32 = 10;
/// How long a new client is protected from removal.
pub const KEPT: Duration = Duration::from_secs(30 * 60);
/// One address can use 1/`KEPT_OF_ADDRESS` of the capacity for clients that no user has allowed: it can immediately
/// register that many protected clients, and the same number again while those are protected. An attacker therefore
/// needs fifty addresses and half an hour to use up the whole capacity.
const KEPT_OF_ADDRESS: u64 = 100;

/// The limits on registrations that the module documentation describes.
pub struct RegistrationRate {
    pairs: KeyedRate<(Option<IpAddr>, String)>,
    addresses: KeyedRate<Option<IpAddr>>,
    all: OneRate,
    kept: KeyedRate<Option<IpAddr>>,
}

impl RegistrationRate {
    /// Creates the limits. `rate` is the number of new clients per minute for one address and redirect host.
    /// `room` is the maximum number of clients that no user has allowed.
    pub fn new(rate: NonZeroU32, room: u64) -> Self {
        let kept = u32::try_from(room / KEPT_OF_ADDRESS).unwrap_or(u32::MAX).max(1);
        let per_minute =
            |times: u32| Quota::per_minute(rate.saturating_mul(NonZeroU32::MIN.saturating_add(times - 1)));
        Self {
            pairs: KeyedRate::new(per_minute(1)),
            addresses: KeyedRate::new(per_minute(ONE_ADDRESS)),
            all: OneRate::new(per_minute(ALL_TOGETHER)),
            kept: KeyedRate::new(quota((kept, KEPT / kept))),
        }
    }

    /// Counts a new client against all limits. The limit of the address is checked first, so that the server does
    /// not remember more pairs for an address than that address can register clients.
    pub fn admit(&self, address: Option<IpAddr>, redirect_uris: &[RedirectUri]) -> Result<(), TooFast> {
        let address = address.map(network);
        let host = redirect_uris.first().map(RedirectUri::host).unwrap_or_default();
        self.addresses.check(&address)?;
        self.pairs.check(&(address, host))?;
        self.all.check()
    }

    /// Whether a new client from this address is protected from removal. If so, it counts against the share of the
    /// address.
    pub fn keeps(&self, address: Option<IpAddr>) -> bool {
        self.kept.check(&address.map(network)).is_ok()
    }

    /// Removes entries that are no longer needed. Called periodically to limit memory use.
    pub fn forget_idle(&self) {
        self.pairs.forget_idle();
        self.addresses.forget_idle();
        self.kept.forget_idle();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::guard::keyed_rate::MAX_KEYS;

    fn uris(host: &str) -> Vec<RedirectUri> {
        vec![RedirectUri::try_from(format!("https://{host}/cb")).unwrap()]
    }

    #[test]
    fn a044_a_flood_from_one_side_leaves_room_for_others() {
        let rate = RegistrationRate::new(NonZeroU32::new(5).unwrap(), 10_000);
        let flooder: IpAddr = "2001:db8::1".parse().unwrap();
        let outcomes: Vec<bool> =
            (0..20).map(|_| rate.admit(Some(flooder), &uris("evil.example")).is_ok()).collect();
        assert_eq!(outcomes.iter().filter(|admitted| **admitted).count(), 5);
        // Another address of the same subscriber shares the limit, but another redirect host at the same address
        // has its own limit.
        assert!(rate.admit(Some("2001:db8::2".parse().unwrap()), &uris("evil.example")).is_err());
        assert!(rate.admit(Some(flooder), &uris("honest.example")).is_ok());
        assert!(rate.admit(Some("192.0.2.1".parse().unwrap()), &uris("evil.example")).is_ok());
    }

    #[test]
    fn a044_made_up_redirect_hosts_run_into_the_address_limit() {
        let rate = RegistrationRate::new(NonZeroU32::new(1).unwrap(), 10_000);
        let flooder: IpAddr = "192.0.2.1".parse().unwrap();
        let admitted =
            (0..100).filter(|n| rate.admit(Some(flooder), &uris(&format!("h{n}.example"))).is_ok()).count();
        assert_eq!(admitted, 10);
    }

    #[test]
    fn a045_one_address_has_a_share_of_the_clients_that_are_kept() {
        for (room, share) in [(10_000, 100), (600, 6), (3, 1)] {
            let rate = RegistrationRate::new(NonZeroU32::MIN, room);
            let kept =
                |address: &str| (0..200).filter(|_| rate.keeps(Some(address.parse().unwrap()))).count();
            assert_eq!((kept("192.0.2.1"), kept("192.0.2.2")), (share, share), "{room}");
        }
    }

    #[test]
    fn a044_one_address_does_not_crowd_the_pairs_of_others() {
        let rate = RegistrationRate::new(NonZeroU32::MIN, 10_000);
        let flooder: IpAddr = "192.0.2.1".parse().unwrap();
        for n in 0..=MAX_KEYS {
            let _ = rate.admit(Some(flooder), &uris(&format!("h{n}.example")));
        }
        assert!(rate.pairs.remembered() < 20, "{}", rate.pairs.remembered());
    }
}
