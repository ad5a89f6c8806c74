//! The claims of the access tokens that this server signs. The claims of assertions are in
//! [`contract::assertion`].

use serde::{Deserialize, Serialize};

use crate::domain::account::{Group, Subject};
use crate::domain::client::ClientId;
use crate::domain::clock::UnixTime;
use crate::domain::grant_id::GrantId;
use crate::domain::resource::ResourceUri;
use crate::domain::scope::Scope;

use super::dpop::Confirmation;

/// The `typ` header of an access token (RFC 9068 §2.1).
pub const ACCESS_TOKEN_TYPE: &str = "at+jwt";

/// The party that acts for the subject of a token (RFC 8693 §4.1).
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Actor {
    /// Identifier of the client that acts.
    pub sub: ClientId,
}

/// Claims of an access token (RFC 9068 §2.2).
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct AccessTokenClaims {
    /// Issuer identifier of this server.
    pub iss: String,
    /// The user, or the client itself in the client credentials grant.
    pub sub: Subject,
    /// The resources that the token is valid for (RFC 8707).
    pub aud: Vec<ResourceUri>,
    /// The client that the token was issued to (RFC 8693 §4.3).
    pub client_id: ClientId,
    /// The scope that the token allows.
    #[serde(with = "scope_text")]
    pub scope: Scope,
    /// Time at which the token expires.
    pub exp: UnixTime,
    /// Time at which the token was issued.
    pub iat: UnixTime,
    /// Unique identifier of the token.
    pub jti: String,
    /// The grant that the token belongs to. The token is revoked together with it.
    pub gid: GrantId,
    /// The key whose possession must be proved with the token, if the token is bound to one (RFC 9449 §6.1).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cnf: Option<Confirmation>,
    /// Groups of the user at the time of issue, for verifiers that cannot query this server (RFC 9068 §2.2.3.1).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<Group>,
    /// The client that acts for the user, if the token comes from a token exchange.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub act: Option<Actor>,
}

/// Writes a scope as space-separated text (RFC 8693 §4.2).
pub mod scope_text {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    use crate::domain::scope::Scope;

    /// Serializes the scope as text.
    pub fn serialize<S: Serializer>(scope: &Scope, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(scope)
    }

    /// Deserializes the scope from text.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Scope, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}
