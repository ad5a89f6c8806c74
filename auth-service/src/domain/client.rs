//! OAuth clients (RFC 6749 §2, RFC 7591 §2).

use std::fmt;

use serde::{Deserialize, Serialize};

use super::account::short_id;
use super::clock::UnixTime;
use super::opaque_token::TokenHash;
use super::redirect_uri::RedirectUri;
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
}

/// A grant type that a client may use (`grant_types`, RFC 7591 §2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GrantType {
    /// RFC 6749 §4.1.
    AuthorizationCode,
    /// RFC 6749 §6.
    RefreshToken,
}

impl GrantType {
    /// Its name on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::AuthorizationCode => "authorization_code",
            Self::RefreshToken => "refresh_token",
        }
    }
}

/// The hash of a client secret.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ClientSecret {
    /// SHA-256 of the secret: it has 256 random bits, so nothing slower is needed.
    pub hash: TokenHash,
}

/// A registered client.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Client {
    /// Its identifier.
    pub id: ClientId,
    /// When it registered (`client_id_issued_at`).
    pub issued_at: UnixTime,
    /// Where codes may be sent; never empty.
    pub redirect_uris: Vec<RedirectUri>,
    /// How it authenticates.
    pub auth_method: ClientAuthMethod,
    /// Its secret, when the method has one.
    pub secret: Option<ClientSecret>,
    /// What it may ask the token endpoint for.
    pub grant_types: Vec<GrantType>,
    /// The most it may ever be granted; nothing registered means no limit of its own.
    pub scope: Option<Scope>,
    /// `native` or `web` (`OpenID` Connect Registration §2), as registered.
    pub application_type: Option<String>,
    /// What it says of itself, for people to see: claims, never authority.
    #[serde(default)]
    pub display: ClientDisplay,
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

impl Client {
    /// Whether the client cannot keep a secret.
    pub fn is_public(&self) -> bool {
        self.auth_method == ClientAuthMethod::None
    }

    /// The registered redirect URI that `requested` is, if any.
    pub fn allows_redirect(&self, requested: &RedirectUri) -> bool {
        self.redirect_uris.iter().any(|registered| registered.matches(requested))
    }

    /// Whether it registered this grant type.
    pub fn may_use(&self, grant_type: GrantType) -> bool {
        self.grant_types.contains(&grant_type)
    }
}
