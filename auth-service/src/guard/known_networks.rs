//! Remembers the networks from which accounts have been used.

use std::net::IpAddr;

use quick_cache::sync::Cache;

use crate::domain::account::Subject;

use super::client_address::network;

/// Maximum number of accounts, and of networks, that are remembered. Each uses about three hundred bytes.
pub const MAX_REMEMBERED: usize = 10_000;
/// Maximum number of networks for one account. It also limits a hostile account whose owner has many addresses.
const OF_ONE_ACCOUNT: usize = 8;
/// Maximum number of accounts that are remembered for a network. A few are enough, because a single one makes the
/// network known.
const AT_ONE_NETWORK: usize = 4;

/// The last few networks from which each account has logged in or refreshed a token.
///
/// A known network only affects the order in which requests are processed. It is never a reason to allow
/// anything.
pub struct KnownNetworks {
    /// The networks of an account, the newest first.
    by_account: Cache<Subject, [Option<IpAddr>; OF_ONE_ACCOUNT]>,
    /// For each network, some of the accounts that have it in their list. Other accounts do not displace them.
    /// Otherwise, a hostile account in an office could make the office's network unknown.
    by_network: Cache<IpAddr, Vec<Subject>>,
}

impl Default for KnownNetworks {
    fn default() -> Self {
        Self { by_account: Cache::new(MAX_REMEMBERED), by_network: Cache::new(MAX_REMEMBERED) }
    }
}

impl KnownNetworks {
    /// Records that the account `subject` has just been used from `address`.
    pub fn note(&self, subject: &Subject, address: Option<IpAddr>) {
        let Some(place) = address.map(network) else { return };
        let mut networks = self.by_account.get(subject).unwrap_or_default();
        if !networks.contains(&Some(place)) {
            networks.rotate_right(1);
            let oldest = networks.first_mut().and_then(|first| first.replace(place));
            self.by_account.insert(subject.clone(), networks);
            // The account is removed from the list of its oldest network, so that an account is never in more
            // lists than [`OF_ONE_ACCOUNT`].
            if let Some(oldest) = oldest {
                self.remember_at(oldest, None);
            }
        }
        if !self.by_network.get(&place).is_some_and(|subjects| subjects.contains(subject)) {
            self.remember_at(place, Some(subject));
        }
    }

    /// Removes the accounts that no longer have this network in their list, and adds `another` if there is
    /// room.
    fn remember_at(&self, place: IpAddr, another: Option<&Subject>) {
        let before = self.by_network.get(&place).unwrap_or_default();
        let mut subjects: Vec<_> = before.into_iter().filter(|subject| self.has(subject, place)).collect();
        if subjects.len() < AT_ONE_NETWORK {
            subjects.extend(another.cloned());
        }
        if subjects.is_empty() {
            self.by_network.remove(&place);
        } else {
            self.by_network.insert(place, subjects);
        }
    }

    fn has(&self, subject: &Subject, place: IpAddr) -> bool {
        self.by_account.get(subject).is_some_and(|networks| networks.contains(&Some(place)))
    }

    /// Whether `address` belongs to one of the last networks of any account.
    pub fn knows(&self, address: Option<IpAddr>) -> bool {
        let Some(place) = address.map(network) else { return false };
        let subjects = self.by_network.get(&place).unwrap_or_default();
        subjects.iter().any(|subject| self.has(subject, place))
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
        assert_eq!(known.by_network.len(), 1 + OF_ONE_ACCOUNT);
    }

    #[test]
    fn a100_hostile_accounts_in_an_office_do_not_make_it_unknown() {
        let known = KnownNetworks::default();
        let office = Some(address(1));
        let ana = Subject::new([1; 32]);
        known.note(&ana, office);
        for eve in 2..10 {
            known.note(&Subject::new([eve; 32]), office);
        }
        for eve in 2..10 {
            (20..40).for_each(|n| known.note(&Subject::new([eve; 32]), Some(address(n))));
        }
        assert!(known.knows(office));
        // If the hostile accounts used the network first, it becomes unknown again. It becomes known again as soon
        // as another account is used there.
        let home = Some(address(2));
        for eve in 2..10 {
            known.note(&Subject::new([eve; 32]), home);
        }
        known.note(&ana, home);
        for eve in 2..10 {
            (20..40).for_each(|n| known.note(&Subject::new([eve; 32]), Some(address(n))));
        }
        known.note(&ana, home);
        assert!(known.knows(home));
    }
}
