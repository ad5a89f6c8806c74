//! Client metadata (RFC 7591 §2): what a client registers about itself.

use serde::{Deserialize, Serialize};

use super::opaque_token::TokenHash;
use super::redirect_uri::RedirectUri;
use super::scope::Scope;

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

/// Client metadata as the server accepted it (RFC 7591 §2).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClientMetadata {
    /// The URIs to which codes can be sent. Only a client without the authorization code grant has none.
    pub redirect_uris: Vec<RedirectUri>,
    /// How the client authenticates at the token endpoint.
    pub auth_method: ClientAuthMethod,
    /// The grant types that the client can use.
    pub grant_types: Vec<GrantType>,
    /// If the operator added the client, this is the maximum scope that the client can be granted. Otherwise, it is
    /// the scope that the client requests by default. See `Client::scope_limit` and `Client::registered_scope`.
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
