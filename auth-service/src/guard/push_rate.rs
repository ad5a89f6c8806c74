//! How fast authorization requests may be pushed (RFC 9126), and how fast assertions of clients may be remembered.
//!
//! Both leave a row in the store before any user has said a word, and anybody may register the client that asks. So they
//! are counted for the client at that address, for the address, and for all strangers together. A stranger is who proves
//! nothing, or a client that no user has allowed yet; a client that authenticates and has been used shares a limit with nobody.

use std::net::IpAddr;
use std::time::Duration;

use crate::domain::client::{Client, ClientId};

use super::client_address::network;
use super::keyed_rate::{KeyedRate, OneRate, TooFast, quota};

/// In a row, then one every so often.
const PAIR: (u32, Duration) = (30, Duration::from_secs(2));
/// A hosted client asks for thousands of users from one address.
const ADDRESS: (u32, Duration) = (120, Duration::from_millis(500));
const STRANGERS: (u32, Duration) = (1000, Duration::from_millis(50));
const KNOWN: (u32, Duration) = (1000, Duration::from_millis(10));

/// See the module's text.
pub struct PushRate {
    pairs: KeyedRate<(ClientId, Option<IpAddr>)>,
    addresses: KeyedRate<Option<IpAddr>>,
    strangers: OneRate,
    known: KeyedRate<ClientId>,
}

impl Default for PushRate {
    fn default() -> Self {
        Self {
            pairs: KeyedRate::new(quota(PAIR)),
            addresses: KeyedRate::new(quota(ADDRESS)),
            strangers: OneRate::new(quota(STRANGERS)),
            known: KeyedRate::new(quota(KNOWN)),
        }
    }
}

/// Whether a client counts as a stranger: see the module's text.
pub fn is_stranger(client: &Client) -> bool {
    client.is_public() || client.last_used_at.is_none()
}

impl PushRate {
    /// Counts one of `client`, which has authenticated if it can.
    pub fn admit(&self, client: &Client, address: Option<IpAddr>) -> Result<(), TooFast> {
        if !is_stranger(client) {
            return self.known.check(&client.id);
        }
        let address = address.map(network);
        self.pairs.check(&(client.id.clone(), address))?;
        self.addresses.check(&address)?;
        self.strangers.check()
    }

    /// Forgets whoever is within the limits again; called now and then.
    pub fn forget_idle(&self) {
        self.pairs.forget_idle();
        self.addresses.forget_idle();
        self.known.forget_idle();
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{from_value, json};

    use crate::domain::client::{ClientMetadata, ClientOrigin, RegistrationId};
    use crate::domain::clock::UnixTime;

    use super::*;

    /// A client that authenticates if `method` says so, and that was used then.
    fn client(name: &str, method: &str, last_used_at: Option<u64>) -> Client {
        let metadata: ClientMetadata = from_value(json!({
            "redirect_uris": ["https://app.example/cb"], "auth_method": method, "grant_types": [],
        }))
        .unwrap();
        Client {
            id: ClientId::try_from(name.to_owned()).unwrap(),
            registration: RegistrationId::new([1; 32]),
            origin: ClientOrigin::Registration,
            issued_at: UnixTime(1),
            last_used_at: last_used_at.map(UnixTime),
            disabled: false,
            fingerprint: None,
            management: None,
            secret: None,
            metadata,
            operator: None,
        }
    }

    fn address(n: u32) -> IpAddr {
        IpAddr::V4((0x0a00_0000 + n).into())
    }

    #[test]
    fn a044_strangers_use_up_what_is_theirs_and_nothing_of_a_client_in_use() {
        let rate = PushRate::default();
        let unused = |n: u32| client(&format!("unused{n}"), "private_key_jwt", None);
        let admitted = |client: &dyn Fn(u32) -> Client, place: &dyn Fn(u32) -> u32, many: u32| {
            (0..many).filter(|n| rate.admit(&client(*n), Some(address(place(*n)))).is_ok()).count()
        };
        assert_eq!(admitted(&|_| unused(0), &|_| 1, 100), 30);
        assert!((90..=92).contains(&admitted(&unused, &|_| 1, 500)), "what is left of the address");
        let all = admitted(&unused, &|n| n + 10, 5000);
        assert!((870..=1000).contains(&all), "{all}");
        // A public client proves nothing, however well it is known.
        let public = client("public", "none", Some(2));
        assert!(rate.admit(&public, Some(address(9000))).is_err());
        let used = client("used", "private_key_jwt", Some(2));
        assert!((1000..=1010).contains(&admitted(&|_| used.clone(), &|_| 1, 2000)));
    }
}
