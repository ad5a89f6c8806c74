//! OAuth clients (RFC 6749 §2, RFC 7591 §2).

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::account::{Subject, short_id};
use super::clock::UnixTime;
use super::clock_watch::TimeBounds;
use super::opaque_token::TokenHash;
use super::redirect_uri::RedirectUri;
use super::resource::ResourceUri;
use super::scope::Scope;

/// A client identifier: visible ASCII (RFC 6749 Appendix A.1), without spaces.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ClientId(String);

impl ClientId {
    /// An identifier that this server issues, made of 128 bits of a hash or of random bytes. It cannot be
    /// mistaken for the URL of a client metadata document.
    pub fn issued(digest: [u8; 32]) -> Self {
        Self(format!("mcp_{}", short_id(digest)))
    }

    /// The identifier as it is sent.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The subject of a client that acts for itself: its client identifier (RFC 9068 §2.2). No client
    /// identifier starts with the prefix of a user's subject.
    pub fn subject(&self) -> Subject {
        Subject::identified_by(&self.0)
    }
}

impl fmt::Display for ClientId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The string is not a valid client identifier.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a client_id is 1 to 2048 characters of visible ASCII")]
pub struct InvalidClientId;

impl TryFrom<String> for ClientId {
    type Error = InvalidClientId;

    fn try_from(text: String) -> Result<Self, InvalidClientId> {
        let valid = (1..=2048).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic());
        if valid { Ok(Self(text)) } else { Err(InvalidClientId) }
    }
}

impl From<ClientId> for String {
    fn from(id: ClientId) -> Self {
        id.0
    }
}

/// How a client authenticates at the token endpoint (`token_endpoint_auth_method`, RFC 7591 §2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ClientAuthMethod {
    /// No authentication: a public client, which cannot keep a secret.
    None,
    /// The client secret in HTTP Basic authentication (RFC 6749 §2.3.1).
    ClientSecretBasic,
    /// The client secret in the form parameter `client_secret` (RFC 6749 §2.3.1).
    ClientSecretPost,
    /// A signed assertion (RFC 7523 §2.2).
    PrivateKeyJwt,
}

/// A grant type that a client can use (`grant_types`, RFC 7591 §2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GrantType {
    /// The authorization code grant (RFC 6749 §4.1).
    AuthorizationCode,
    /// The refresh token grant (RFC 6749 §6).
    RefreshToken,
    /// The client credentials grant, for a client that acts for itself (RFC 6749 §4.4).
    ClientCredentials,
    /// The device authorization grant, for a device without a browser (RFC 8628).
    #[serde(rename = "urn:ietf:params:oauth:grant-type:device_code")]
    DeviceCode,
    /// Token exchange, for a service that acts on behalf of its callers (RFC 8693).
    #[serde(rename = "urn:ietf:params:oauth:grant-type:token-exchange")]
    TokenExchange,
    /// The JWT bearer grant: an assertion from an issuer that the operator trusts (RFC 7523 §2.1).
    #[serde(rename = "urn:ietf:params:oauth:grant-type:jwt-bearer")]
    JwtBearer,
}

impl GrantType {
    /// All supported grant types.
    pub const ALL: [Self; 6] = [
        Self::AuthorizationCode,
        Self::RefreshToken,
        Self::ClientCredentials,
        Self::DeviceCode,
        Self::TokenExchange,
        Self::JwtBearer,
    ];

    /// The requested grant types that a client is allowed to register. A client that requests none gets
    /// authorization codes and refresh tokens. The default of RFC 7591 §2 is authorization codes alone, but
    /// without refresh tokens, the user would have to log in again every hour. The server is allowed to choose
    /// (§3.2.1), and the registration response contains the choice. The device grant is allowed because a user
    /// must consent to it. Only an operator can give a client any other grant.
    pub fn granted(asked: Option<&[String]>) -> Vec<Self> {
        let Some(names) = asked else {
            return vec![Self::AuthorizationCode, Self::RefreshToken];
        };
        let own = [Self::AuthorizationCode, Self::RefreshToken, Self::DeviceCode];
        own.into_iter().filter(|ours| names.iter().any(|name| name == ours.as_str())).collect()
    }

    /// The grant type with this `grant_type` value.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|grant_type| grant_type.as_str() == name)
    }

    /// The value of the `grant_type` parameter.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::AuthorizationCode => "authorization_code",
            Self::RefreshToken => "refresh_token",
            Self::ClientCredentials => "client_credentials",
            Self::DeviceCode => "urn:ietf:params:oauth:grant-type:device_code",
            Self::TokenExchange => "urn:ietf:params:oauth:grant-type:token-exchange",
            Self::JwtBearer => "urn:ietf:params:oauth:grant-type:jwt-bearer",
        }
    }
}

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

/// Client metadata as the server accepted it (RFC 7591 §2).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClientMetadata {
    /// The URIs to which codes can be sent. Only a client without the authorization code grant has none.
    pub redirect_uris: Vec<RedirectUri>,
    /// How the client authenticates at the token endpoint.
    pub auth_method: ClientAuthMethod,
    /// The grant types that the client can use.
    pub grant_types: Vec<GrantType>,
    /// If the operator added the client, this is the maximum scope that it can be granted. Otherwise, it is the
    /// scope that the client requests by default. See [`Client::scope_limit`] and [`Client::registered_scope`].
    pub scope: Option<Scope>,
    /// The registered `application_type`: `native` or `web` (`OpenID` Connect Registration §2).
    pub application_type: Option<String>,
    /// Whether the client accepts only access tokens that are bound to a key (`dpop_bound_access_tokens`, RFC
    /// 9449 §5.2).
    pub dpop_bound_access_tokens: bool,
    /// The client's public keys, for `private_key_jwt`.
    #[serde(default)]
    pub keys: Option<ClientKeys>,
    /// Descriptions that the client gave of itself. They are shown to users, and no decision depends on them.
    pub display: ClientDisplay,
}

impl ClientMetadata {
    /// SHA-256 of all metadata. The order of members and of redirect URIs makes no difference, and neither
    /// does the port of a loopback redirect URI (RFC 8252 §7.3).
    pub fn digest(&self) -> TokenHash {
        let mut redirect_uris: Vec<String> = self.redirect_uris.iter().map(RedirectUri::comparable).collect();
        redirect_uris.sort_unstable();
        redirect_uris.dedup();
        let mut members = serde_json::to_value(self).unwrap_or_default();
        if let Some(members) = members.as_object_mut() {
            members.insert("redirect_uris".to_owned(), redirect_uris.into());
            // Null members are excluded, so that a field added in a later release does not change the digest of an
            // unchanged client.
            members.retain(|_, value| !value.is_null());
        }
        members.sort_all_objects();
        TokenHash::of(members.to_string().as_bytes())
    }

    /// Whether a client authenticates with this metadata, but would no longer do so with `updated`.
    pub fn drops_credentials(&self, updated: &Self) -> bool {
        self.auth_method != ClientAuthMethod::None && updated.auth_method == ClientAuthMethod::None
    }
}

/// The source of a client's public keys (RFC 7591 §2).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ClientKeys {
    /// `jwks`: the keys are in the metadata.
    Inline(serde_json::Value),
    /// `jwks_uri`: the keys are fetched from this https URL.
    Uri(String),
}

/// One use of a client. It is stored in the same write as the grant or token that the use creates.
#[derive(Debug, Clone)]
pub struct ClientUse {
    /// The client that is used. A client that has a metadata document is stored at its first use.
    pub client: Client,
    /// The time of the use.
    pub at: UnixTime,
    /// The bounds of the correct time. They differ from `at` while the clock is not reliable.
    pub bounds: TimeBounds,
    /// Whether `at` is the real time of day, so that the store can use its own clock as well. Tests simulate the
    /// time.
    pub is_time_of_day: bool,
    /// The time at which the client can be deleted if it is not used again.
    pub keep_until: UnixTime,
    /// The user for whom the client is used.
    pub user: Subject,
    /// The maximum number of clients that are counted towards this account because it and few others have used
    /// them ([`Client::few_users`]). When there are more, the least recently used one is no longer counted towards
    /// it.
    pub sole_ceiling: usize,
}

impl ClientUse {
    /// Uses within this time after a stored use are not stored.
    pub const RESOLUTION: Duration = Duration::from_secs(3600);

    /// Whether so much time has passed since the last recorded use of `client` that this use must be stored.
    pub fn is_news_to(&self, client: &Client) -> bool {
        client.last_used_at.is_none_or(|last| self.at.distance(last) >= Self::RESOLUTION)
    }

    /// How this use changes the recorded users of `client`. If the client was already in use before users were
    /// recorded, its users stay unknown.
    pub fn new_user_of(&self, client: &Client) -> NewUser {
        match client.users {
            None if client.last_used_at.is_some() => NewUser::No,
            None => NewUser::OneOfFew,
            Some(ClientUsers::Several) => NewUser::No,
            Some(ClientUsers::One(_)) if client.few_users().any(|user| *user == self.user) => NewUser::No,
            Some(ClientUsers::One(_)) if client.further_users.len() + 1 < Client::FEW_USERS => {
                NewUser::OneOfFew
            }
            Some(ClientUsers::One(_)) => NewUser::OneMoreThanFew,
        }
    }

    /// The new expiry of a row whose expiry was `before`, if this use extends its lifetime to `end`, which is one
    /// lifetime after [`Self::at`].
    ///
    /// A clock that is behind must not shorten anything, so an expiry never moves back. The exception is an expiry
    /// that is later than one lifetime after the latest possible time, because it was set while a clock was ahead.
    /// It is corrected only while the clock is steady.
    pub fn extend(&self, before: Option<UnixTime>, end: UnixTime) -> UnixTime {
        let latest = end.plus(self.bounds.latest.since(self.at));
        let extended = before.map_or(end, |before| before.max(end));
        if self.bounds.is_steady { extended.min(latest) } else { extended }
    }

    /// Adds the user of this use to the users of `client`.
    pub fn add_user_to(&self, client: &mut Client, new_user: NewUser) {
        match new_user {
            NewUser::No => {}
            NewUser::OneOfFew if client.users.is_none() => {
                client.users = Some(ClientUsers::One(self.user.clone()));
            }
            NewUser::OneOfFew => client.further_users.push(self.user.clone()),
            NewUser::OneMoreThanFew => {
                client.users = Some(ClientUsers::Several);
                client.further_users.clear();
            }
        }
    }
}

/// How a use changes the recorded users of its client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NewUser {
    /// The recorded users stay the same: the user is one of them, or the users are no longer recorded.
    No,
    /// The user is added to the recorded users, because there are only a few.
    OneOfFew,
    /// There are too many users to record, so the client is not counted towards any of them.
    OneMoreThanFew,
}

/// Descriptions that the client gives of itself (RFC 7591 §2). They are not verified.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClientDisplay {
    /// The human-readable name of the client.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_name: Option<String>,
    /// URL of the home page.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_uri: Option<String>,
    /// URL of the logo. It is returned to the client but never fetched or shown.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub logo_uri: Option<String>,
    /// URL of the privacy policy.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub policy_uri: Option<String>,
    /// URL of the terms of service.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tos_uri: Option<String>,
    /// Addresses of the people who are responsible for the client.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub contacts: Option<Vec<String>>,
    /// Identifier of the software, which is the same for all its instances.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub software_id: Option<String>,
    /// Version of the software that `software_id` identifies.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub software_version: Option<String>,
}

/// Treats an empty string as a missing member. Some programs send an empty string for an optional member (RFC 7591
/// §2) that they do not set.
pub fn said(text: Option<String>) -> Option<String> {
    text.filter(|text| !text.is_empty())
}

impl ClientDisplay {
    /// The same descriptions without empty strings.
    #[must_use]
    pub fn said(self) -> Self {
        Self {
            client_name: said(self.client_name),
            client_uri: said(self.client_uri),
            logo_uri: said(self.logo_uri),
            policy_uri: said(self.policy_uri),
            tos_uri: said(self.tos_uri),
            contacts: self.contacts,
            software_id: said(self.software_id),
            software_version: said(self.software_version),
        }
    }
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
