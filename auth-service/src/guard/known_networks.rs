//! Remembers from which networks accounts have been used.

use std::net::IpAddr;

use quick_cache::sync::Cache;

use crate::domain::account::Subject;

use super::client_address::network;

/// Maximum numbers of accounts and of networks that are remembered. Each takes about two hundred bytes.
pub const MAX_REMEMBERED: usize = 10_000;
/// Maximum number of networks of one account. A hostile account has no more of them, however many addresses its
/// owner has.
const OF_ONE_ACCOUNT: usize = 8;

/// The networks from which accounts have logged in or refreshed a token, the last few of each account.
///
/// A network is a hint in which order requests are worked on, and never a reason to allow anything.
pub struct KnownNetworks {
    /// The networks of an account, the newest first.
    by_account: Cache<Subject, [Option<IpAddr>; OF_ONE_ACCOUNT]>,
    /// The account that was last used from a network.
    accounts: Cache<IpAddr, Subject>,
}

impl Default for KnownNetworks {
    fn default() -> Self {
        Self { by_account: Cache::new(MAX_REMEMBERED), accounts: Cache::new(MAX_REMEMBERED) }
    }
}

impl KnownNetworks {
    /// Notes that the account `subject` was just used from `address`.
    pub fn note(&self, subject: &Subject, address: Option<IpAddr>) {
        let Some(place) = address.map(network) else { return };
        let mut networks = self.by_account.get(subject).unwrap_or_default();
        if !networks.contains(&Some(place)) {
            networks.rotate_right(1);
            if let Some(newest) = networks.first_mut() {
                *newest = Some(place);
            }
            self.by_account.insert(subject.clone(), networks);
        }
        if self.accounts.get(&place).as_ref() != Some(subject) {
            self.accounts.insert(place, subject.clone());
        }
    }

    /// Whether an account was used from `address`, and not from too many other networks since.
    pub fn knows(&self, address: Option<IpAddr>) -> bool {
        let Some(place) = address.map(network) else { return false };
        let account = self.accounts.get(&place);
        let networks = account.and_then(|account| self.by_account.get(&account));
        networks.is_some_and(|networks| networks.contains(&Some(place)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(n: u8) -> IpAddr {
        IpAddr::from([198, 51, 100, n])
    }

    #[test]
    fn a100_an_account_has_a_few_networks_and_takes_none_from_another() {
        let known = KnownNetworks::default();
        let [ana, eve] = [Subject::new([1; 32]), Subject::new([2; 32])];
        known.note(&ana, Some(address(1)));
        for n in 10..250 {
            known.note(&eve, Some(address(n)));
        }
        let of_eve: Vec<u8> = (10..250).filter(|n| known.knows(Some(address(*n)))).collect();
        assert_eq!(of_eve, (242..250).collect::<Vec<u8>>());
        assert!(known.knows(Some(address(1))));
        assert!(!known.knows(Some(address(2))) && !known.knows(None));
    }
}
