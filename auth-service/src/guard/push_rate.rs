//! Limits how fast authorization requests can be pushed (RFC 9126), and how fast client assertions can be
//! used.
//!
//! Both add a row to the store before a user is involved, and anybody can register a client. Therefore they count
//! against the client at its address, against the address, and against all strangers together; see
//! [`Familiarity`]. A public client does not authenticate, even if it is in use: an attacker can use its
//! identifier, but only from the attacker's own addresses.

use std::net::IpAddr;
use std::time::Duration;

use crate::domain::account::Subject;
use crate::domain::client::{Client, ClientId};

use super::client_address::network;
use super::keyed_rate::{KeyedRate, OneRate, TooFast, quota};

/// Limit on requests from one client at one address: the size of a burst, and the time after which one more is
/// allowed. The other limits have the same form.
const PAIR: (u32, Duration) = (30, Duration::from_secs(2));
/// Limit on requests from one address. A hosted client sends requests for thousands of users from a single
/// address.
const ADDRESS: (u32, Duration) = (120, Duration::from_millis(500));
/// Limit on requests from all clients that no user has allowed, taken together.
const STRANGERS: (u32, Duration) = (1000, Duration::from_millis(50));
/// Limit on requests from a single client that is in use and authenticates.
const KNOWN: (u32, Duration) = (1000, Duration::from_millis(10));

/// Limit on requests that count towards one account, from all clients that only a few accounts have used.
const OF_ACCOUNT: (u32, Duration) = (300, Duration::from_millis(200));

/// The limits on pushed requests and client assertions that the module documentation describes.
pub struct PushRate {
    pairs: KeyedRate<(ClientId, Option<IpAddr>)>,
    addresses: KeyedRate<Option<IpAddr>>,
    // Clients in use have separate limiters. Otherwise, a flood of made-up keys would force them to share buckets.
    pairs_in_use: KeyedRate<(ClientId, Option<IpAddr>)>,
    addresses_in_use: KeyedRate<Option<IpAddr>>,
    strangers: OneRate,
    known: KeyedRate<ClientId>,
    accounts: KeyedRate<Subject>,
}

impl Default for PushRate {
    fn default() -> Self {
        Self {
            pairs: KeyedRate::new(quota(PAIR)),
            addresses: KeyedRate::new(quota(ADDRESS)),
            pairs_in_use: KeyedRate::new(quota(PAIR)),
            addresses_in_use: KeyedRate::new(quota(ADDRESS)),
            strangers: OneRate::new(quota(STRANGERS)),
            known: KeyedRate::new(quota(KNOWN)),
            accounts: KeyedRate::new(quota(OF_ACCOUNT)),
        }
    }
}

/// How well a client is known. This determines the limits that apply to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Familiarity {
    /// No user has allowed the client, and no operator has added it. All of these clients share a limit.
    Stranger,
    /// The client is in use but does not authenticate. It shares limits with the other clients of this kind at the
    /// same address.
    InUse,
    /// The client is in use and has authenticated. It has a separate limit. If only a few accounts have used it,
    /// its requests also count towards the limit of one of them.
    Proven,
}

impl Familiarity {
    /// Returns the familiarity of `client`. If the client has credentials, the caller must already have
    /// authenticated it.
    pub fn of(client: &Client) -> Self {
        if client.last_used_at.is_none() && client.operator.is_none() {
            Self::Stranger
        } else if client.is_public() {
            Self::InUse
        } else {
            Self::Proven
        }
    }
}

impl PushRate {
    /// Counts one request from `client`. If the client has credentials, the caller must already have authenticated
    /// it.
    pub fn admit(&self, client: &Client, address: Option<IpAddr>) -> Result<(), TooFast> {
        let (familiarity, address) = (Familiarity::of(client), address.map(network));
        if familiarity == Familiarity::Proven {
            self.admit_for_accounts(client)?;
            return self.known.check(&client.id);
        }
        let (pairs, addresses) = match familiarity {
            Familiarity::InUse => (&self.pairs_in_use, &self.addresses_in_use),
            _ => (&self.pairs, &self.addresses),
        };
        pairs.check(&(client.id.clone(), address))?;
        addresses.check(&address)?;
        if familiarity == Familiarity::InUse { Ok(()) } else { self.strangers.check() }
    }

    /// Charges one request to one of the few accounts that have used `client`, because an account can have many
    /// clients with few users. If an account is at its limit, the request is charged to another one, so that one
    /// user at the limit does not block the client for its other users.
    fn admit_for_accounts(&self, client: &Client) -> Result<(), TooFast> {
        let mut outcome = Ok(());
        for user in client.few_users().filter(|_| client.operator.is_none()) {
            outcome = self.accounts.check(user);
            if outcome.is_ok() {
                return Ok(());
            }
        }
        outcome
    }

    /// Removes entries that are no longer needed. Called periodically.
    pub fn forget_idle(&self) {
        self.pairs.forget_idle();
        self.addresses.forget_idle();
        self.pairs_in_use.forget_idle();
        self.addresses_in_use.forget_idle();
        self.known.forget_idle();
        self.accounts.forget_idle();
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{from_value, json};

    use crate::domain::client::{ClientMetadata, ClientOrigin, ClientUsers, RegistrationId};
    use crate::domain::clock::UnixTime;

    use super::*;

    /// Returns a client with this authentication method and this time of last use.
    fn client(name: &str, method: &str, last_used_at: Option<u64>) -> Client {
        let metadata: ClientMetadata = from_value(json!({
            "redirect_uris": ["https://app.example/cb"], "auth_method": method, "grant_types": [],
            "dpop_bound_access_tokens": false, "display": {},
        }))
        .unwrap();
        Client {
            id: ClientId::try_from(name.to_owned()).unwrap(),
            registration: RegistrationId::new([1; 32]),
            origin: ClientOrigin::Registration,
            issued_at: UnixTime(1),
            last_used_at: last_used_at.map(UnixTime),
            users: None,
            further_users: Vec::new(),
            kept_until: None,
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
        assert!((90..=92).contains(&admitted(&unused, &|_| 1, 500)), "the rest of the address's limit");
        let all = admitted(&unused, &|n| n + 10, 5000);
        assert!((870..=1000).contains(&all), "{all}");
        // A public client in use does not authenticate, so strangers who use its identifier use up only the limits
        // of their own addresses.
        let public = client("public", "none", Some(2));
        assert_eq!(admitted(&|_| public.clone(), &|_| 1, 100), 30);
        assert_eq!(admitted(&|_| public.clone(), &|_| 9000, 100), 30);
        let more = |n: u32| client(&format!("public{n}"), "none", Some(2));
        assert!((90..=92).contains(&admitted(&more, &|_| 1, 500)), "the rest of the address's limit");
        let used = client("used", "private_key_jwt", Some(2));
        assert!((1000..=1010).contains(&admitted(&|_| used.clone(), &|_| 1, 2000)));
    }

    #[test]
    fn a100_the_clients_of_one_account_share_a_rate_and_take_nothing_from_others() {
        let rate = PushRate::default();
        let of = |user: u8, n: u32| Client {
            users: Some(ClientUsers::One(Subject::new([user; 32]))),
            ..client(&format!("own{user}x{n}"), "private_key_jwt", Some(2))
        };
        let admitted = (0..2000).filter(|n| rate.admit(&of(1, *n), Some(address(*n))).is_ok()).count();
        assert!((300..=310).contains(&admitted), "{admitted}");
        assert!(rate.admit(&of(2, 0), Some(address(1))).is_ok());
        // A request from a client that two accounts have used is charged to one of them. A user at the limit does
        // not affect the other one.
        let shared = |n: u32| Client { further_users: vec![Subject::new([3; 32])], ..of(1, n) };
        let admitted = (0..2000).filter(|n| rate.admit(&shared(*n), Some(address(*n))).is_ok()).count();
        assert!((300..=315).contains(&admitted), "{admitted}");
    }
}
