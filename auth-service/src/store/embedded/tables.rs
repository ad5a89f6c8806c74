//! The tables of the embedded store.

use redb::TableDefinition;

use crate::store::changes::About;
use crate::store::records::Kind;

pub(super) type Definition = TableDefinition<'static, &'static str, &'static [u8]>;

/// A table, with its key → value.
#[derive(Debug, Clone, Copy)]
pub(super) enum Table {
    /// Client id → client.
    Clients,
    /// Time from which it can be deleted, and client id → client id, for clients that were never used.
    UnusedClients,
    /// Subject → the clients that only this account has used.
    SoleClients,
    /// Fingerprint of a public client → client id, if that is not the one derived from the fingerprint.
    Fingerprints,
    /// SHA-256 of a name that can be used once → `true`.
    Once,
    /// Subject → account.
    Accounts,
    /// SHA-256 of a user name → subject.
    Usernames,
    /// Cookie hash → login session.
    Sessions,
    /// SHA-256 of a consent approval → code hash. Each approval can create one code.
    Approvals,
    /// Code hash → code.
    Codes,
    /// Grant id → grant.
    Grants,
    /// Hash of a refresh token of the first release → grant id. Newer tokens name their grant.
    RefreshTokens,
    /// Device code hash → device authorization.
    Devices,
    /// SHA-256 of a user code → device code hash.
    UserCodes,
    /// Handle hash → pushed authorization request.
    PushedRequests,
    /// SHA-256 of subject and client id → consent.
    Consents,
    /// SHA-256 of another issuer and the user's `sub` there → linked subject.
    Links,
    /// SHA-256 of another issuer and a linked subject → the user's `sub` there.
    LinksBack,
    /// `signing` → the set of signing keys.
    Keys,
    /// The store's own data, such as its schema version and identity.
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
        Self::RefreshTokens,
        Self::Devices,
        Self::UserCodes,
        Self::PushedRequests,
        Self::Consents,
        Self::Links,
        Self::LinksBack,
        Self::Keys,
        Self::Meta,
    ];
    /// The tables whose rows can expire.
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
        Self::RefreshTokens,
        Self::Devices,
        Self::UserCodes,
        Self::PushedRequests,
        Self::Consents,
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
            Self::RefreshTokens => "refresh_tokens",
            Self::Devices => "devices",
            Self::UserCodes => "user_codes",
            Self::PushedRequests => "pushed_requests",
            Self::Consents => "consents",
            Self::Links => "links",
            Self::LinksBack => "links_back",
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

    /// The kind of record that the table contains. None for rows that only lead to others, and for the
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
            Self::RefreshTokens => Kind::RefreshToken,
            Self::Devices => Kind::Device,
            Self::UserCodes => Kind::UserCode,
            Self::PushedRequests => Kind::PushedRequest,
            Self::Consents => Kind::Consent,
            Self::Links => Kind::Link,
            Self::LinksBack => Kind::LinkBack,
            Self::Keys => Kind::SigningKeys,
            Self::UnusedClients | Self::SoleClients | Self::Fingerprints | Self::Usernames | Self::Meta => {
                return None;
            }
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
            Kind::RefreshToken => Self::RefreshTokens,
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
