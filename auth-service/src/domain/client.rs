//! OAuth clients (RFC 6749 §2, RFC 7591 §2).

use serde::{Deserialize, Serialize};

use super::account::{Subject, short_id};
use super::clock::UnixTime;
use super::opaque_token::TokenHash;
use super::redirect_uri::RedirectUri;
use super::resource::ResourceUri;
use super::scope::Scope;

pub use super::client_id::{ClientId, InvalidClientId};
pub use super::client_metadata::{
    ClientAuthMethod, ClientDisplay, ClientKeys, ClientMetadata, GrantType, said,
};

/// The stored form of a client secret.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ClientSecret {
    /// SHA-256 of the secret. The secret has 256 random bits, so a slow hash is not needed.
    pub hash: TokenHash,
    /// The time at which the secret expires (`client_secret_expires_at`). It is `None` if the secret does not
    /// expire.
    pub expires_at: Option<UnixTime>,
}

/// Distinguishes a registration from earlier or later ones with the same client identifier. Grants store it,
/// so that deleting a client ends its grants, and registering it again does not revive them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RegistrationId(String);

impl RegistrationId {
    /// Creates an identifier from random bytes.
    pub fn new(random: [u8; 32]) -> Self {
        Self(short_id(random))
    }
}

/// The source of a client's metadata.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ClientOrigin {
    /// The client registered itself (RFC 7591).
    Registration,
    /// A client metadata document, whose URL is the client identifier.
    MetadataDocument,
    /// The operator added the client. It stays until the operator deletes it.
    Operator,
}

/// The client settings that only an operator can change. They never come from the client's own metadata.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OperatorTerms {
    /// The resources for which the client can get tokens without a user (`client_credentials`, token
    /// exchange). If a request names none, the first one is used.
    pub resources: Vec<ResourceUri>,
    /// The resources for which the client is the resource server. It can introspect tokens for these
    /// resources (RFC 7662 §4).
    pub serves: Vec<ResourceUri>,
    /// Whether the client is required to push its authorization requests (RFC 9126 §6).
    pub pushes_requests: bool,
}

/// The accounts that have used a client.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ClientUsers {
    /// This account was the first to use the client. Few others have used it since ([`Client::further_users`]).
    One(Subject),
    /// Many accounts have used the client, so they are not recorded.
    Several,
}

/// An OAuth client as the store keeps it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Client {
    /// The client identifier, unique among all clients.
    pub id: ClientId,
    /// Identifies this registration of the client.
    pub registration: RegistrationId,
    /// The source of the client's metadata.
    pub origin: ClientOrigin,
    /// The time of registration (`client_id_issued_at`), or the first time that a user allowed the client.
    pub issued_at: UnixTime,
    /// The last time that a user allowed the client or the client got a token, accurate to one hour.
    pub last_used_at: Option<UnixTime>,
    /// The accounts that have used the client. The value is `None` if no account has used it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub users: Option<ClientUsers>,
    /// The other accounts that have used the client, if there are only a few.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub further_users: Vec<Subject>,
    /// The time until which an unused client is not deleted to make room for other clients, because its user might
    /// be about to log in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kept_until: Option<UnixTime>,
    /// Whether the operator disabled the client. A disabled client gets no tokens, and its existing tokens are
    /// refused. It does not expire and is not deleted to make room for another client ([`Client::stays`]).
    pub disabled: bool,
    /// SHA-256 of the canonical metadata, for public clients only. Registrations with the same metadata share
    /// one client.
    pub fingerprint: Option<TokenHash>,
    /// SHA-256 of the registration access token (RFC 7592). It is `None` once a second party has registered
    /// the same client.
    pub management: Option<TokenHash>,
    /// The client secret, if the authentication method uses one.
    pub secret: Option<ClientSecret>,
    /// The metadata from the registration or from the metadata document.
    pub metadata: ClientMetadata,
    /// The settings made by the operator.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operator: Option<OperatorTerms>,
}

impl Client {
    /// The maximum number of users that a client can have while it counts towards each user's limit. A client with
    /// more users is not counted towards any account. If the maximum were 1, an attacker with two accounts could
    /// fill the store with clients that are counted towards neither.
    pub const FEW_USERS: usize = 5;

    /// The accounts that have used the client, if there are only a few.
    pub fn few_users(&self) -> impl Iterator<Item = &Subject> {
        let first = match &self.users {
            Some(ClientUsers::One(first)) => Some(first),
            _ => None,
        };
        first.into_iter().chain(first.and(Some(&self.further_users)).into_iter().flatten())
    }

    /// The client without this user. Returns `None` if no other account has used it.
    #[must_use]
    pub fn without_user(&self, user: &Subject) -> Option<Self> {
        let mut others = self.few_users().filter(|other| *other != user).cloned();
        let users = Some(ClientUsers::One(others.next()?));
        Some(Self { users, further_users: others.collect(), ..self.clone() })
    }

    /// The time from which an unused client can be deleted to make room for other clients.
    pub fn makes_room_from(&self) -> UnixTime {
        self.kept_until.unwrap_or(self.issued_at)
    }

    /// Whether the client neither expires nor is deleted to make room for others, because the operator added or
    /// disabled it. If a disabled client were deleted, a registration with the same metadata would create an
    /// enabled client with the same identifier.
    pub fn stays(&self) -> bool {
        self.origin == ClientOrigin::Operator || self.disabled
    }

    /// Whether the client does not authenticate at the token endpoint.
    pub fn is_public(&self) -> bool {
        self.metadata.auth_method == ClientAuthMethod::None
    }

    /// Whether a code can be sent to `requested`. URIs that could be mistaken for an authorization response are
    /// refused here as well, in case registration ever accepts one.
    pub fn allows_redirect(&self, requested: &RedirectUri) -> bool {
        requested.could_be_answer().is_none()
            && self.metadata.redirect_uris.iter().any(|registered| registered.matches(requested))
    }

    /// Whether this client created an item that was stored with `registration` and this metadata digest. A client
    /// with a metadata document has no permanent registration until a user allows it, or allows it again after it
    /// dropped its credentials. Until then, the digest identifies it.
    pub fn has_left(&self, registration: &RegistrationId, metadata: Option<&TokenHash>) -> bool {
        self.registration == *registration
            || (self.origin == ClientOrigin::MetadataDocument
                && metadata.is_some_and(|digest| *digest == self.metadata.digest()))
    }

    /// The maximum scope that the client can be granted, if the operator set one.
    pub fn scope_limit(&self) -> Option<&Scope> {
        self.metadata.scope.as_ref().filter(|_| self.origin == ClientOrigin::Operator)
    }

    /// The scope that the client requests by default (`scope`, RFC 7591 §2). It is not a limit.
    pub fn registered_scope(&self) -> Option<&Scope> {
        self.metadata.scope.as_ref().filter(|_| self.origin != ClientOrigin::Operator)
    }

    /// Whether the client is allowed to use this grant type at the token endpoint.
    pub fn may_use(&self, grant_type: GrantType) -> bool {
        self.metadata.grant_types.contains(&grant_type)
    }
}
