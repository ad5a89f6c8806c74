//! OAuth clients (RFC 6749 §2, RFC 7591 §2).

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::account::{Subject, short_id};
use super::clock::UnixTime;
use super::opaque_token::TokenHash;
use super::redirect_uri::RedirectUri;
use super::resource::ResourceUri;
use super::scope::Scope;

/// A client identifier: visible ASCII (RFC 6749 Appendix A.1), without space.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ClientId(String);

impl ClientId {
    /// An identifier of ours, from 128 bits of a digest or of randomness. It never looks like the URL of a client
    /// metadata document.
    pub fn issued(digest: [u8; 32]) -> Self {
        Self(format!("mcp_{}", short_id(digest)))
    }

    /// The identifier's text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ClientId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Not a client identifier.
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

/// How a client proves at the token endpoint who it is (`token_endpoint_auth_method`, RFC 7591 §2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ClientAuthMethod {
    /// A public client: it cannot keep a secret.
    None,
    /// HTTP Basic (RFC 6749 §2.3.1).
    ClientSecretBasic,
    /// `client_secret` in the form body.
    ClientSecretPost,
    /// A signed assertion (RFC 7523 §2.2).
    PrivateKeyJwt,
}

/// A grant type that a client may use (`grant_types`, RFC 7591 §2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GrantType {
    /// RFC 6749 §4.1.
    AuthorizationCode,
    /// RFC 6749 §6.
    RefreshToken,
    /// RFC 6749 §4.4: a machine for itself.
    ClientCredentials,
    /// RFC 8628: a device without a browser.
    #[serde(rename = "urn:ietf:params:oauth:grant-type:device_code")]
    DeviceCode,
    /// RFC 8693: a service on behalf of whom it serves.
    #[serde(rename = "urn:ietf:params:oauth:grant-type:token-exchange")]
    TokenExchange,
    /// RFC 7523 §2.1: an assertion of an issuer that the operator trusts.
    #[serde(rename = "urn:ietf:params:oauth:grant-type:jwt-bearer")]
    JwtBearer,
}

impl GrantType {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::AuthorizationCode,
        Self::RefreshToken,
        Self::ClientCredentials,
        Self::DeviceCode,
        Self::TokenExchange,
        Self::JwtBearer,
    ];

    /// The ones that a client may give itself, out of those it asks for. Silence means codes and refresh tokens:
    /// RFC 7591 §2 has a default of codes alone, and §3.2.1 lets us decide otherwise, since a client that says nothing
    /// about refresh tokens would be logged out every hour. The answer to a registration says what was decided. A
    /// device code, too, ends with a person's consent; all other grants are the operator's to give.
    pub fn granted(asked: Option<&[String]>) -> Vec<Self> {
        let Some(names) = asked else {
            return vec![Self::AuthorizationCode, Self::RefreshToken];
        };
        let own = [Self::AuthorizationCode, Self::RefreshToken, Self::DeviceCode];
        own.into_iter().filter(|ours| names.iter().any(|name| name == ours.as_str())).collect()
    }

    /// The grant of that name on the wire.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|grant_type| grant_type.as_str() == name)
    }

    /// Its name on the wire.
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

/// A client secret as the store keeps it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ClientSecret {
    /// SHA-256 of the secret: it has 256 random bits, so nothing slower is needed.
    pub hash: TokenHash,
    /// When it ends (`client_secret_expires_at`); never, if absent.
    pub expires_at: Option<UnixTime>,
}

/// Tells one registration from an earlier or later one under the same identifier. Grants carry it, so that
/// deleting a client ends its grants, and registering it anew does not bring them back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RegistrationId(String);

impl RegistrationId {
    /// A new one of these random bytes.
    pub fn new(random: [u8; 32]) -> Self {
        Self(short_id(random))
    }
}

/// Where a client's metadata comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ClientOrigin {
    /// It registered (RFC 7591).
    Registration,
    /// Its identifier is the URL of a client metadata document.
    MetadataDocument,
    /// The operator entered it. It stays until the operator takes it out.
    Operator,
}

/// What only an operator can give a client. It never comes from what a client says of itself.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OperatorTerms {
    /// The resources that it may ask for itself, without a person (`client_credentials`, token exchange). The first is
    /// meant when it names none.
    pub resources: Vec<ResourceUri>,
    /// The resources that it is the resource server of: it may introspect tokens that are for these (RFC 7662 §4).
    pub serves: Vec<ResourceUri>,
    /// Whether it has to push its authorization requests (RFC 9126 §6).
    pub pushes_requests: bool,
}

/// Who has used a client.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ClientUsers {
    /// One account.
    One(Subject),
    /// More than one.
    Several,
}

/// A client.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Client {
    /// Its identifier.
    pub id: ClientId,
    /// This registration of it.
    pub registration: RegistrationId,
    /// Where its metadata comes from.
    pub origin: ClientOrigin,
    /// When it registered (`client_id_issued_at`), or was first allowed by a person.
    pub issued_at: UnixTime,
    /// When a person last allowed it, or it last got a token; to the hour.
    pub last_used_at: Option<UnixTime>,
    /// Who has used it; none when nobody has, or when a release did not note it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub users: Option<ClientUsers>,
    /// Until when it makes room for nobody, although nobody has used it: its user may be about to sign in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kept_until: Option<UnixTime>,
    /// Switched off by the operator: it gets no tokens, and those that it has open nothing.
    pub disabled: bool,
    /// SHA-256 of the canonical metadata of a public client: the same metadata is the same client.
    pub fingerprint: Option<TokenHash>,
    /// SHA-256 of the registration access token (RFC 7592), while only one party registered this client.
    pub management: Option<TokenHash>,
    /// Its secret, when the method has one.
    pub secret: Option<ClientSecret>,
    /// What it registered, or what its document says.
    pub metadata: ClientMetadata,
    /// What the operator gave it beyond that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operator: Option<OperatorTerms>,
}

/// Client metadata as decided (RFC 7591 §2).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClientMetadata {
    /// Where codes may be sent; empty only for a client without the authorization code grant.
    pub redirect_uris: Vec<RedirectUri>,
    /// How it authenticates.
    pub auth_method: ClientAuthMethod,
    /// What it may ask the token endpoint for.
    pub grant_types: Vec<GrantType>,
    /// From an operator the most that it may ever be granted, from the client itself what it asks for by default: see
    /// [`Client::scope_limit`] and [`Client::registered_scope`].
    pub scope: Option<Scope>,
    /// `native` or `web` (`OpenID` Connect Registration §2), as registered.
    pub application_type: Option<String>,
    /// Whether it takes no other access tokens than those bound to a key (`dpop_bound_access_tokens`, RFC 9449 §5.2).
    #[serde(default)]
    pub dpop_bound_access_tokens: bool,
    /// Its public keys, for `private_key_jwt`.
    #[serde(default)]
    pub keys: Option<ClientKeys>,
    /// What it says of itself, for people to see: claims, never authority.
    #[serde(default)]
    pub display: ClientDisplay,
}

impl ClientMetadata {
    /// SHA-256 of all that the client says of itself. The order of members and of redirect URIs makes no difference, and
    /// neither does a loopback port (RFC 8252 §7.3).
    pub fn digest(&self) -> TokenHash {
        let mut redirect_uris: Vec<String> = self.redirect_uris.iter().map(RedirectUri::comparable).collect();
        redirect_uris.sort_unstable();
        redirect_uris.dedup();
        let mut members = serde_json::to_value(self).unwrap_or_default();
        if let Some(members) = members.as_object_mut() {
            members.insert("redirect_uris".to_owned(), redirect_uris.into());
            // What is not said, a later release may learn to read: that alone is no change of the client.
            members.retain(|_, value| !value.is_null());
        }
        members.sort_all_objects();
        TokenHash::of(members.to_string().as_bytes())
    }

    /// Whether a client with this metadata proves who it is, and with `updated` no longer would.
    pub fn drops_credentials(&self, updated: &Self) -> bool {
        self.auth_method != ClientAuthMethod::None && updated.auth_method == ClientAuthMethod::None
    }
}

/// Where a client's public keys are (RFC 7591 §2).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ClientKeys {
    /// `jwks`: in the metadata.
    Inline(serde_json::Value),
    /// `jwks_uri`: behind an https URL.
    Uri(String),
}

/// A use of a client, noted together with the write that the use makes anyway.
#[derive(Debug, Clone)]
pub struct ClientUse {
    /// Who is used. A client by metadata document is remembered from its first use on.
    pub client: Client,
    /// When.
    pub at: UnixTime,
    /// When the client may be forgotten, should this stay its last use.
    pub keep_until: UnixTime,
    /// For whom.
    pub user: Subject,
    /// How many clients that nobody else has used that account may have. Beyond it, the one that was used longest ago is removed.
    pub sole_ceiling: usize,
}

impl ClientUse {
    /// Uses closer together than this are one.
    pub const RESOLUTION: Duration = Duration::from_secs(3600);

    /// Whether this use changes what is known of `client`.
    pub fn is_news_to(&self, client: &Client) -> bool {
        client.last_used_at.is_none_or(|last| self.at.since(last) >= Self::RESOLUTION)
            || self.users_of(client) != client.users
    }

    /// Who has used `client`, with this use. A client that was used already and does not say by whom may be anybody's.
    pub fn users_of(&self, client: &Client) -> Option<ClientUsers> {
        match &client.users {
            None if client.last_used_at.is_some() => None,
            Some(ClientUsers::One(user)) if *user != self.user => Some(ClientUsers::Several),
            None => Some(ClientUsers::One(self.user.clone())),
            known => known.clone(),
        }
    }
}

/// Self-asserted descriptions (RFC 7591 §2).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClientDisplay {
    /// Human-readable name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_name: Option<String>,
    /// Home page.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_uri: Option<String>,
    /// Logo; echoed, never fetched or shown.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub logo_uri: Option<String>,
    /// Privacy policy.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub policy_uri: Option<String>,
    /// Terms of service.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tos_uri: Option<String>,
    /// Ways to reach the people behind it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub contacts: Option<Vec<String>>,
    /// Identifier of the software, the same for all its instances.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub software_id: Option<String>,
    /// Its version.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub software_version: Option<String>,
}

/// A member of metadata that says something. Programs write an empty text where they mean none, and read it so (RFC 7591 §2:
/// all of these members are optional).
pub fn said(text: Option<String>) -> Option<String> {
    text.filter(|text| !text.is_empty())
}

impl ClientDisplay {
    /// The same without texts that say nothing.
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
    /// From when on it may have to make room for others, while nobody has used it.
    pub fn makes_room_from(&self) -> UnixTime {
        self.kept_until.unwrap_or(self.issued_at)
    }

    /// Whether the client cannot keep a secret.
    pub fn is_public(&self) -> bool {
        self.metadata.auth_method == ClientAuthMethod::None
    }

    /// Whether a code may be sent to `requested`. What could be mistaken for an answer may have been registered with an
    /// earlier release.
    pub fn allows_redirect(&self, requested: &RedirectUri) -> bool {
        requested.could_be_answer().is_none()
            && self.metadata.redirect_uris.iter().any(|registered| registered.matches(requested))
    }

    /// Whether it is the client that left something here in this registration, with metadata of this digest. A client by
    /// metadata document has no registration that lasts until a user allows it, or allows it anew after it dropped its
    /// credentials; its metadata is what tells it until then.
    pub fn has_left(&self, registration: &RegistrationId, metadata: Option<&TokenHash>) -> bool {
        self.registration == *registration
            || (self.origin == ClientOrigin::MetadataDocument
                && metadata.is_some_and(|digest| *digest == self.metadata.digest()))
    }

    /// The most that it may ever be granted, when the operator has said so.
    pub fn scope_limit(&self) -> Option<&Scope> {
        self.metadata.scope.as_ref().filter(|_| self.origin == ClientOrigin::Operator)
    }

    /// What it means by asking for no scope, as it said of itself (`scope`, RFC 7591 §2). It limits nothing.
    pub fn registered_scope(&self) -> Option<&Scope> {
        self.metadata.scope.as_ref().filter(|_| self.origin != ClientOrigin::Operator)
    }

    /// Whether it may ask the token endpoint for this.
    pub fn may_use(&self, grant_type: GrantType) -> bool {
        self.metadata.grant_types.contains(&grant_type)
    }
}
