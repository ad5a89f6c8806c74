//! How fast new clients may register.
//!
//! Hosted MCP clients serve thousands of people from a few addresses, so an address alone says little. What is
//! limited is an address *together with* the host that its clients redirect to: one hosted connector does not use
//! up another's share, nor that of a person behind the same address. A stranger who makes up redirect hosts runs
//! into the limit on all registrations together; whoever is a client already is never limited.

use std::net::IpAddr;
use std::num::NonZeroU32;

use governor::Quota;

use crate::domain::redirect_uri::RedirectUri;

use super::client_address::network;
use super::keyed_rate::{KeyedRate, OneRate, TooFast};

/// How many times the rate of one all of them together may have.
const ALL_TOGETHER: u32 = 50;
/// How many times the rate of one pair a single address may have.
const ONE_ADDRESS: u32 = 10;

/// See the module's text.
pub struct RegistrationRate {
    pairs: KeyedRate<(Option<IpAddr>, String)>,
    addresses: KeyedRate<Option<IpAddr>>,
    all: OneRate,
}

impl RegistrationRate {
    /// `rate` new clients a minute for one address and redirect host.
    pub fn new(rate: NonZeroU32) -> Self {
        let per_minute =
            |times: u32| Quota::per_minute(rate.saturating_mul(NonZeroU32::MIN.saturating_add(times - 1)));
        Self {
            pairs: KeyedRate::new(per_minute(1)),
            addresses: KeyedRate::new(per_minute(ONE_ADDRESS)),
            all: OneRate::new(per_minute(ALL_TOGETHER)),
        }
    }

    /// Counts a new client against every limit that concerns it.
    pub fn admit(&self, address: Option<IpAddr>, redirect_uris: &[RedirectUri]) -> Result<(), TooFast> {
        let address = address.map(network);
        let host = redirect_uris.first().map(RedirectUri::host).unwrap_or_default();
        self.pairs.check(&(address, host))?;
        self.addresses.check(&address)?;
        self.all.check()
    }

    /// Forgets whoever is within the limits again; called now and then, so that memory stays bounded.
    pub fn forget_idle(&self) {
        self.pairs.forget_idle();
        self.addresses.forget_idle();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn uris(host: &str) -> Vec<RedirectUri> {
        vec![RedirectUri::try_from(format!("https://{host}/cb")).unwrap()]
    }

    #[test]
    fn a044_a_flood_from_one_side_leaves_room_for_others() {
        let rate = RegistrationRate::new(NonZeroU32::new(5).unwrap());
        let flooder: IpAddr = "2001:db8::1".parse().unwrap();
        let outcomes: Vec<bool> =
            (0..20).map(|_| rate.admit(Some(flooder), &uris("evil.example")).is_ok()).collect();
        assert_eq!(outcomes.iter().filter(|admitted| **admitted).count(), 5);
        // The same subscriber under another address is the same; another connector behind it is not.
        assert!(rate.admit(Some("2001:db8::2".parse().unwrap()), &uris("evil.example")).is_err());
        assert!(rate.admit(Some(flooder), &uris("honest.example")).is_ok());
        assert!(rate.admit(Some("192.0.2.1".parse().unwrap()), &uris("evil.example")).is_ok());
    }

    #[test]
    fn a044_made_up_redirect_hosts_run_into_the_address_limit() {
        let rate = RegistrationRate::new(NonZeroU32::new(1).unwrap());
        let flooder: IpAddr = "192.0.2.1".parse().unwrap();
        let admitted =
            (0..100).filter(|n| rate.admit(Some(flooder), &uris(&format!("h{n}.example"))).is_ok()).count();
        assert_eq!(admitted, 10);
    }
}
