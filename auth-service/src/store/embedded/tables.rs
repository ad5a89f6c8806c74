//! The tables of the embedded store.

use redb::TableDefinition;

use crate::store::changes::About;
use crate::store::records::Kind;

pub(super) type Definition = TableDefinition<'static, &'static str, &'static [u8]>;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Table {
    /// Maps client ids to clients.
    Clients,
    /// Lists unused clients by the time from which they can be deleted. The key is that time and the client
    /// id, and the value is the client id.
    UnusedClients,
    /// Maps the subject of an account to the clients that it and few other accounts have used.
    SoleClients,
    /// Maps the fingerprint of a public client to its id, if the id is not derived from the fingerprint.
    Fingerprints,
    /// Contains the SHA-256 of names that can be used only once.
    Once,
    /// Maps subjects to accounts.
    Accounts,
    /// Maps the SHA-256 of a user name to the subject.
    Usernames,
    /// Maps the hash of a cookie to the login session.
    Sessions,
    /// Maps the SHA-256 of a consent approval to the hash of its code. Each approval can create only one
    /// code.
    Approvals,
    /// Maps the hash of an authorization code to the code.
    Codes,
    /// Maps grant ids to grants.
    Grants,
    /// Maps the hash of a device code to the device authorization.
    Devices,
    /// Maps the SHA-256 of a user code to the hash of the device code.
    UserCodes,
    /// Maps the hash of a handle to the pushed authorization request.
    PushedRequests,
    /// Maps the SHA-256 of subject and client id to the consent.
    Consents,
    /// Maps the SHA-256 of another issuer and its user's `sub` to the linked subject.
    Links,
    /// Maps the SHA-256 of another issuer and a linked subject to the user's `sub` at that issuer.
    LinksBack,
    /// Maps a kind of rows and a subject to the account's rows of that kind.
    Holdings,
    /// Contains the set of signing keys under the key `signing`.
    Keys,
    /// Contains the store's own data, such as its schema version and identity.
    Meta,
}

impl Table {
    pub(super) const ALL: [Self; 20] = [
        Self::Clients,
        Self::UnusedClients,
        Self::SoleClients,
        Self::Fingerprints,
        Self::Once,
        Self::Accounts,
        Self::Usernames,
        Self::Sessions,
        Self::Approvals,
        Self::Codes,
        Self::Grants,
        Self::Devices,
        Self::UserCodes,
        Self::PushedRequests,
        Self::Consents,
        Self::Links,
        Self::LinksBack,
        Self::Holdings,
        Self::Keys,
        Self::Meta,
    ];
    pub(super) const EXPIRING: [Self; 14] = [
        Self::Clients,
        Self::UnusedClients,
        Self::SoleClients,
        Self::Fingerprints,
        Self::Once,
        Self::Sessions,
        Self::Approvals,
        Self::Codes,
        Self::Grants,
        Self::Devices,
        Self::UserCodes,
        Self::PushedRequests,
        Self::Consents,
        Self::Holdings,
    ];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Clients => "clients",
            Self::UnusedClients => "unused_clients",
            Self::SoleClients => "sole_clients",
            Self::Fingerprints => "fingerprints",
            Self::Once => "once",
            Self::Accounts => "accounts",
            Self::Usernames => "usernames",
            Self::Sessions => "sessions",
            Self::Approvals => "approvals",
            Self::Codes => "codes",
            Self::Grants => "grants",
            Self::Devices => "devices",
            Self::UserCodes => "user_codes",
            Self::PushedRequests => "pushed_requests",
            Self::Consents => "consents",
            Self::Links => "links",
            Self::LinksBack => "links_back",
            Self::Holdings => "holdings",
            Self::Keys => "keys",
            Self::Meta => "meta",
        }
    }

    /// The kind of cached row that the table contains, if any.
    pub(super) const fn about(self) -> Option<About> {
        match self {
            Self::Grants => Some(About::Grant),
            Self::Clients => Some(About::Client),
            Self::Accounts => Some(About::Account),
            _ => None,
        }
    }

    /// The kind of record that the table contains. Returns `None` for rows that only point to others, and for the
    /// store's own data.
    pub(super) const fn kind(self) -> Option<Kind> {
        Some(match self {
            Self::Clients => Kind::Client,
            Self::Once => Kind::Once,
            Self::Accounts => Kind::Account,
            Self::Sessions => Kind::Session,
            Self::Approvals => Kind::Approval,
            Self::Codes => Kind::Code,
            Self::Grants => Kind::Grant,
            Self::Devices => Kind::Device,
            Self::UserCodes => Kind::UserCode,
            Self::PushedRequests => Kind::PushedRequest,
            Self::Consents => Kind::Consent,
            Self::Links => Kind::Link,
            Self::LinksBack => Kind::LinkBack,
            Self::Keys => Kind::SigningKeys,
            Self::UnusedClients
            | Self::SoleClients
            | Self::Fingerprints
            | Self::Usernames
            | Self::Holdings
            | Self::Meta => return None,
        })
    }

    /// The table that contains records of this kind.
    pub(super) const fn of(kind: Kind) -> Self {
        match kind {
            Kind::Client => Self::Clients,
            Kind::Once => Self::Once,
            Kind::Account => Self::Accounts,
            Kind::Session => Self::Sessions,
            Kind::Approval => Self::Approvals,
            Kind::Code => Self::Codes,
            Kind::Grant => Self::Grants,
            Kind::Device => Self::Devices,
            Kind::UserCode => Self::UserCodes,
            Kind::PushedRequest => Self::PushedRequests,
            Kind::Consent => Self::Consents,
            Kind::Link => Self::Links,
            Kind::LinkBack => Self::LinksBack,
            Kind::SigningKeys => Self::Keys,
        }
    }

    pub(super) const fn definition(self) -> Definition {
        TableDefinition::new(self.name())
    }
}
