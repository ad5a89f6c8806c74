//! Chooses the pushed requests that are deleted when a pool is full.
//!
//! A request from an authenticated client in use is charged to the accounts that use the client, or to the client
//! itself if there are too many accounts or an operator added it. Any other request is charged to the network that
//! it came from. The account, client or network with the most requests loses one of them: the oldest request of
//! the client that has sent the most of these. Therefore a few accounts that fill a pool displace only their own
//! requests, and a client that floods the pool does not displace the requests that its users make through another
//! client.

use std::collections::HashMap;

/// A waiting request, which occupies one slot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) client: String,
    /// The accounts, the client or the network to which the request is charged.
    pub(super) counts_for: Vec<String>,
    /// The name of the request: the SHA-256 of its handle.
    pub(super) name: String,
}

/// Maximum number of requests that are deleted at a time. Choosing them requires reading all slots of the pool.
const AT_ONCE: usize = 64;
/// An account, client or network that has no more requests than this loses at most one at a time.
const FEW: usize = 16;

/// The slots to free for a new request. `places` contains all slots, the oldest first. The result is empty if no
/// account, client or network has more than one slot.
pub(super) fn giving_way(places: &[Place]) -> Vec<Place> {
    let mut left: Vec<&Place> = places.iter().collect();
    let mut leaving = Vec::new();
    while leaving.len() < AT_ONCE {
        let counts = counted(left.iter().flat_map(|place| place.counts_for.iter().map(String::as_str)));
        let Some((payer, most)) = largest(&counts) else { break };
        if most < 2 || (most <= FEW && !leaving.is_empty()) {
            break;
        }
        let is_of = |place: &Place| place.counts_for.iter().any(|other| other == payer);
        let clients = counted(left.iter().filter(|place| is_of(place)).map(|place| place.client.as_str()));
        let Some((client, _)) = largest(&clients) else { break };
        let Some(oldest) = left.iter().position(|place| is_of(place) && place.client == client) else {
            break;
        };
        leaving.push(left.remove(oldest).clone());
    }
    leaving
}

fn counted<'a>(names: impl Iterator<Item = &'a str>) -> HashMap<&'a str, usize> {
    let mut counts = HashMap::new();
    for name in names {
        *counts.entry(name).or_default() += 1;
    }
    counts
}

/// The name with the largest number. If several have the same number, the last name in alphabetical order
/// wins, so that the result is always the same.
fn largest<'a>(counts: &HashMap<&'a str, usize>) -> Option<(&'a str, usize)> {
    counts.iter().map(|(name, count)| (*name, *count)).max_by_key(|(name, count)| (*count, *name))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn place(client: &str, counts_for: &[&str], name: usize) -> Place {
        Place {
            client: client.to_owned(),
            counts_for: counts_for.iter().map(|&name| name.to_owned()).collect(),
            name: name.to_string(),
        }
    }

    #[test]
    fn a044_who_has_most_gives_up_the_oldest_of_the_client_that_has_most() {
        let mut places = vec![place("honest", &["ana", "eve"], 0), place("other", &["ana"], 1)];
        places.extend((2..20).map(|n| place("evil", &["eve", "mallory"], n)));
        places.extend((20..28).map(|n| place("evil too", &["eve"], n)));
        let names: Vec<_> = giving_way(&places).iter().map(|place| place.name.clone()).collect();
        assert_eq!(names[..2], ["2", "3"]);
        assert!(names.iter().all(|name| name != "0" && name != "1"), "{names:?}");
    }

    #[test]
    fn nobody_gives_up_their_only_place() {
        let places: Vec<_> = (0..100).map(|n| place("client", &[&format!("network {n}")], n)).collect();
        assert_eq!(giving_way(&places), []);
        let mut places = places;
        places.push(place("client", &["network 7"], 100));
        assert_eq!(giving_way(&places), [place("client", &["network 7"], 7)]);
    }

    proptest! {
        #[test]
        fn a044_nobody_loses_a_place_while_another_has_more(
            owners in prop::collection::vec((0_u8..6, 0_u8..4), 1..200)
        ) {
            let places: Vec<_> = owners.iter().enumerate()
                .map(|(n, (owner, client))| place(&format!("c{client}"), &[&format!("o{owner}")], n))
                .collect();
            let mut left = places.clone();
            for gone in giving_way(&places) {
                let count = |owner: &String| left.iter().filter(|place| place.counts_for.contains(owner)).count();
                let most = left.iter().map(|place| count(&place.counts_for[0])).max().unwrap();
                prop_assert_eq!(count(&gone.counts_for[0]), most);
                left.retain(|place| *place != gone);
            }
        }
    }
}
