//! The claims of the tokens that this server signs.

use serde::{Deserialize, Serialize};

use crate::domain::account::{Group, Subject};
use crate::domain::client::ClientId;
use crate::domain::clock::UnixTime;
use crate::domain::grant::GrantId;
use crate::domain::resource::ResourceUri;
use crate::domain::scope::{Scope, ScopeToken};

use super::dpop::Confirmation;

/// The `typ` header of an access token (RFC 9068 §2.1).
pub const ACCESS_TOKEN_TYPE: &str = "at+jwt";
/// The `typ` header of the assertion that tells a protected service who is calling.
pub const ASSERTION_TYPE: &str = "mcp-assertion+jwt";

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
    /// The key that has to be proved with the token, if it is bound to one (RFC 9449 §6.1).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cnf: Option<Confirmation>,
    /// Groups of the user at the time of issue, for verifiers that cannot ask this server (RFC 9068
    /// §2.2.3.1).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<Group>,
    /// The client that acts for the user, if the token comes from a token exchange.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub act: Option<Actor>,
}

/// The claims of the assertion in the `X-Auth-Assertion` header.
#[derive(Debug, Clone, Serialize)]
pub struct AssertionClaims<'a> {
    /// Issuer identifier of this server.
    pub iss: &'a str,
    /// The resource that the request is for.
    pub aud: &'a str,
    /// Subject identifier of the user.
    pub sub: &'a str,
    /// Login name of the user.
    pub username: &'a str,
    /// Email address of the user, empty if unknown.
    pub email: &'a str,
    /// The groups that the user is in.
    pub groups: &'a [Group],
    /// The client that sent the request.
    pub client_id: &'a str,
    /// The scope of the client's access token.
    pub scope: &'a str,
    /// Time at which the assertion was issued.
    pub iat: UnixTime,
    /// Time at which the assertion expires.
    pub exp: UnixTime,
    /// Time at which the caller's access token expires. A stream must not outlive it.
    pub token_exp: UnixTime,
    /// Policy rules that the caller does not meet. The service must refuse the calls that they apply to,
    /// which only the body of the request shows.
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    pub tool_rules: &'a [UnmetRule],
}

/// A policy rule that the caller does not meet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct UnmetRule {
    /// Patterns of the tool names that the rule applies to; `*` stands for any text.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tools: Vec<String>,
    /// Patterns of the method names that the rule applies to.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub methods: Vec<String>,
    /// Patterns of the names that the rule does not apply to.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub except: Vec<String>,
    /// All scopes that the rule requires. It is empty if no scope would help.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub scopes: Vec<ScopeToken>,
    /// Whether the rule excludes this user, whatever the scope.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub denied: bool,
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
