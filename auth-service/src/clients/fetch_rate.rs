//! Limits the number of documents that strangers can make this server fetch.
//!
//! A fetch of a new URL counts against the address that caused it, then against the URL's host, then against all
//! strangers together. A fetch for a client in use counts only against the limit of its URL, so made-up URLs
//! cannot block that client. It also uses separate connections and name lookups ([`Lane`]).
//!
//! A URL that has already returned a good document counts against its own limit instead of the limit of the
//! address. The other limits still apply, because anybody can publish a good document. A fetch for a user who is
//! logged in counts against the limit of its URL, so strangers cannot block it. Each such user can have only a few
//! fetches in progress.

use std::net::IpAddr;
use std::time::Duration;

use quick_cache::sync::Cache;
use url::Url;

use crate::guard::client_address::network;
use crate::guard::fetch::Lane;
use crate::guard::in_flight::{InFlight, Place};
use crate::guard::keyed_rate::{KeyedRate, OneRate, quota};

/// Limit on new URLs for one address: the size of a burst, and the time after which one more is allowed. The other
/// limits have the same form.
const ADDRESS: (u32, Duration) = (20, Duration::from_secs(5));
/// Limit on new URLs at one host, so that this server cannot be used to flood it.
const HOST: (u32, Duration) = (60, Duration::from_secs(1));
/// Limit on new URLs for all addresses together.
const ALL: (u32, Duration) = (300, Duration::from_millis(50));
/// Limit for a URL with its own limit.
const KNOWN: (u32, Duration) = (5, Duration::from_secs(10));
/// Limit on repeated fetches of one URL whose document is cached but does not contain the key that a request
/// names.
const ANOTHER_LOOK: (u32, Duration) = (5, Duration::from_secs(10));
/// Maximum number of fetches in progress for one address.
const AT_ONCE: u32 = 3;
/// Maximum number of URLs that are remembered as good.
const GOOD: usize = 2000;

/// The party on whose behalf a document is fetched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Caller {
    /// A stranger, with the address if it is known.
    Stranger(Option<IpAddr>),
    /// A user who is logged in, with the address if it is known. The client might not be in use yet.
    User(Option<IpAddr>),
    /// A client in use, or an issuer that the operator trusts.
    Known,
}

impl Caller {
    pub(super) const fn lane(self) -> Lane {
        match self {
            Self::Stranger(_) => Lane::Strangers,
            Self::User(_) | Self::Known => Lane::Known,
        }
    }
}

/// The limit on fetches that was exceeded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Crowded {
    /// A limit of the caller's address or of the client's URL.
    Own,
    /// A limit that all strangers share.
    Shared,
}

/// The limits on fetches that the module documentation describes.
pub(super) struct FetchRate {
    addresses: KeyedRate<Option<IpAddr>>,
    hosts: KeyedRate<String>,
    all: OneRate,
    known: KeyedRate<String>,
    another_look: KeyedRate<String>,
    at_once: InFlight,
    good: Cache<String, ()>,
}

impl Default for FetchRate {
    fn default() -> Self {
        Self {
            addresses: KeyedRate::new(quota(ADDRESS)),
            hosts: KeyedRate::new(quota(HOST)),
            all: OneRate::new(quota(ALL)),
            known: KeyedRate::new(quota(KNOWN)),
            another_look: KeyedRate::new(quota(ANOTHER_LOOK)),
            at_once: InFlight::new(AT_ONCE),
            good: Cache::new(GOOD),
        }
    }
}

impl FetchRate {
    /// Counts a fetch. The caller must keep the returned slot until the fetch is finished.
    pub(super) fn admit(&self, url: &Url, caller: Caller) -> Result<Option<Place>, Crowded> {
        let address = match caller {
            Caller::Known => return self.admit_url(url).map(|()| None),
            Caller::User(address) => {
                self.admit_url(url)?;
                return self.at_once.enter(address).map(Some).map_err(|_| Crowded::Own);
            }
            Caller::Stranger(address) => address.map(network),
        };
        if self.was_good(url) {
            self.admit_url(url)?;
        } else {
            self.addresses.check(&address).map_err(|_| Crowded::Own)?;
        }
        let place = self.at_once.enter(address).map_err(|_| Crowded::Own)?;
        self.hosts.check(&url.host_str().unwrap_or_default().to_owned()).map_err(|_| Crowded::Shared)?;
        self.all.check().map_err(|_| Crowded::Shared)?;
        Ok(Some(place))
    }

    /// Counts a repeated fetch of a cached document. Anybody can cause one in the name of a client in use, so it
    /// has a separate limit and cannot block the fetches that the client needs.
    pub(super) fn admit_another_look(&self, url: &Url, caller: Caller) -> Result<Option<Place>, Crowded> {
        self.another_look.check(&url.as_str().to_owned()).map_err(|_| Crowded::Own)?;
        match caller {
            Caller::Known => Ok(None),
            Caller::Stranger(_) | Caller::User(_) => self.admit(url, caller),
        }
    }

    fn admit_url(&self, url: &Url) -> Result<(), Crowded> {
        self.known.check(&url.as_str().to_owned()).map_err(|_| Crowded::Own)
    }

    /// Remembers that the URL has returned a good document.
    pub(super) fn note_good(&self, url: &Url) {
        self.good.insert(url.as_str().to_owned(), ());
    }

    /// Remembers that a fetch of the URL has failed.
    pub(super) fn note_bad(&self, url: &Url) {
        self.good.remove(url.as_str());
    }

    pub(super) fn was_good(&self, url: &Url) -> bool {
        self.good.get(url.as_str()).is_some()
    }

    /// Removes entries that are no longer needed.
    pub(super) fn forget_idle(&self) {
        self.addresses.forget_idle();
        self.hosts.forget_idle();
        self.known.forget_idle();
        self.another_look.forget_idle();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(n: usize) -> Url {
        Url::parse(&format!("https://host.example/{n}")).unwrap()
    }

    fn at(n: u32) -> Caller {
        Caller::Stranger(Some(IpAddr::V4((0x0a00_0000 + n).into())))
    }

    #[test]
    fn a050_made_up_urls_use_up_their_own_address_and_no_url_that_is_known() {
        let rate = FetchRate::default();
        let admitted = |caller| (0..100).filter(|n| rate.admit(&url(*n), caller).is_ok()).count();
        assert_eq!(admitted(at(1)), 20);
        assert!(rate.admit(&url(0), at(2)).is_ok());
        // Many addresses together use up the host's limit for new URLs, but not the limits for known URLs.
        for n in 10..20 {
            admitted(at(n));
        }
        assert_eq!(rate.admit(&url(1000), at(30)).unwrap_err(), Crowded::Shared);
        assert!(rate.admit(&url(1), Caller::Known).is_ok());
        assert_eq!((0..100).filter(|_| rate.admit(&url(2), Caller::Known).is_ok()).count(), 5);
    }

    #[test]
    fn a050_a_good_document_makes_no_stranger_a_client_in_use() {
        let rate = FetchRate::default();
        (0..200).for_each(|n| rate.note_good(&url(n)));
        let held: Vec<_> = (0..3).map(|n| rate.admit(&url(n), at(1)).unwrap()).collect();
        assert!(held.iter().all(Option::is_some), "each has one of the slots of its address");
        assert_eq!(rate.admit(&url(4), at(1)).unwrap_err(), Crowded::Own);
        drop(held);
        let admitted = (5..200).filter(|n| rate.admit(&url(*n), at(1)).is_ok()).count();
        assert!(
            (57..=60).contains(&admitted),
            "{admitted}: the limit of the host applies instead of the address's"
        );
        // After a failed fetch, the URL counts as new again.
        let rate = FetchRate::default();
        (0..100).for_each(|n| rate.note_good(&url(n)));
        (0..100).for_each(|n| rate.note_bad(&url(n)));
        assert_eq!((0..100).filter(|n| rate.admit(&url(*n), at(1)).is_ok()).count(), 20);
    }

    #[test]
    fn a050_a_user_is_kept_from_no_client_by_strangers_and_takes_few_places() {
        let rate = FetchRate::default();
        for n in 10..40 {
            (0..100).for_each(|url_of| drop(rate.admit(&url(url_of), at(n))));
        }
        let user = Caller::User(Some(IpAddr::V4(0x0a00_0001.into())));
        let held: Vec<_> = (0..3).map(|n| rate.admit(&url(n), user).unwrap()).collect();
        assert!(held.iter().all(Option::is_some), "each has one of the slots of its address");
        assert_eq!(rate.admit(&url(4), user).unwrap_err(), Crowded::Own);
        assert!(rate.admit(&url(4), Caller::Known).is_ok());
        drop(held);
        assert_eq!((0..100).filter(|_| rate.admit(&url(5), user).is_ok()).count(), 5);
    }

    #[test]
    fn a050_one_address_waits_for_few_hosts_at_once() {
        let rate = FetchRate::default();
        let held: Vec<_> = (0..3).map(|n| rate.admit(&url(n), at(1)).unwrap()).collect();
        assert_eq!(rate.admit(&url(4), at(1)).unwrap_err(), Crowded::Own);
        assert!(rate.admit(&url(4), at(2)).is_ok());
        drop(held);
        assert!(rate.admit(&url(5), at(1)).is_ok());
    }
}
