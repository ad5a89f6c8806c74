//! The persistent state of the service. There is one trait for each kind of data, and all of them use domain types.
//! Every method is atomic, even if it changes data of several kinds. When it returns, its change is as durable as
//! the store in use guarantees.

mod account_links;
mod accounts;
pub mod changes;
mod clients;
mod codes;
mod consents;
mod devices;
pub mod dump;
pub mod embedded;
mod grants;
mod holdings;
mod installation;
mod maintenance;
mod outage;
mod outcomes;
mod places;
mod pushed_requests;
pub mod records;
pub mod redis;
mod replays;
mod row;
mod rules;
mod sessions;
mod signing_keys;
mod sole_clients;
pub mod transfer;

use changes::Observable;
use records::Portable;

pub use account_links::AccountLinkStore;
pub use accounts::AccountStore;
pub use clients::{ClientStore, RegistrationTerms};
pub use codes::CodeStore;
pub use consents::ConsentStore;
pub use devices::DeviceStore;
pub use grants::{GrantStore, Successor};
pub use installation::Installation;
pub use maintenance::{LatestEnds, Maintenance};
pub use outcomes::{
    Addition, Admission, Change, Decision, Deletion, Denial, DirectGrant, FoundCode, Issuance, Linking,
    ManagedChange, OneTimeUse, Redemption, Registration, Replacement, Rotation,
};
pub use pushed_requests::PushedRequestStore;
pub use replays::ReplayStore;
pub use sessions::SessionStore;
pub use signing_keys::{KeysMark, SigningKeyStore};

/// The message that the readiness endpoint returns, and that is logged, when the store has lost its data.
pub const LOST: &str = "the store has lost its identity since this service started, and with it all or some of its data: \
                        accounts, clients, tokens, keys. Stop the service and restore a backup (scripts/restore DUMP). To \
                        start over with an empty Redis instead, restart the service; if rows are left, its error explains what to do";

/// The store failed. No part of the requested change was applied. Callers respond with status 503.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// The store is closed, unreachable or failing.
    #[error("the store is unavailable: {0}")]
    Unavailable(String),
    /// The store has lost data. Only the operator can resolve this.
    #[error("the store is unavailable: {0}")]
    NeedsOperator(String),
    /// A stored value cannot be decrypted or parsed: `STORE_KEY` is wrong or the data is damaged.
    #[error(
        "a stored value cannot be read: STORE_KEY is not the key that it was written with, or the data is damaged"
    )]
    Unreadable,
}

/// All kinds of data together, for code that opens a store or passes it on. Other code only requires the traits that it
/// needs.
pub trait Store:
    ClientStore
    + AccountStore
    + SessionStore
    + CodeStore
    + GrantStore
    + DeviceStore
    + PushedRequestStore
    + ConsentStore
    + AccountLinkStore
    + SigningKeyStore
    + ReplayStore
    + Installation
    + Maintenance
    + Observable
    + Portable
{
}
