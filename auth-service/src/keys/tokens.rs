//! The claims of the tokens we sign.

use serde::{Deserialize, Serialize};

use crate::domain::account::{Group, Subject};
use crate::domain::client::ClientId;
use crate::domain::clock::UnixTime;
use crate::domain::grant::GrantId;
use crate::domain::resource::ResourceUri;
use crate::domain::scope::{Scope, ScopeToken};

use super::dpop::Confirmation;

/// `typ` of an access token (RFC 9068 §2.1).
pub const ACCESS_TOKEN_TYPE: &str = "at+jwt";
/// `typ` of the assertion that tells a wrapped service who is calling.
pub const ASSERTION_TYPE: &str = "mcp-assertion+jwt";

/// Who acts for the person of a token (RFC 8693 §4.1).
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Actor {
    /// The client.
    pub sub: ClientId,
}

/// Claims of an access token (RFC 9068 §2.2).
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct AccessTokenClaims {
    /// Our issuer identifier.
    pub iss: String,
    /// The person.
    pub sub: Subject,
    /// What the token is for (RFC 8707).
    pub aud: Vec<ResourceUri>,
    /// To whom it was issued (RFC 8693 §4.3).
    pub client_id: ClientId,
    /// What it allows.
    #[serde(with = "scope_text")]
    pub scope: Scope,
    /// When it ends.
    pub exp: UnixTime,
    /// When it was issued.
    pub iat: UnixTime,
    /// Its own identifier.
    pub jti: String,
    /// The grant that it lives on; revoked with it.
    pub gid: GrantId,
    /// The key that must come with it, if it is bound to one (RFC 9449 §6.1).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cnf: Option<Confirmation>,
    /// Groups at the time of issue, for verifiers that cannot ask us (RFC 9068 §2.2.3.1).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<Group>,
    /// Who acts, when it is not the client that the person allowed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub act: Option<Actor>,
}

/// Claims of the assertion in `X-Auth-Assertion`.
#[derive(Debug, Clone, Serialize)]
pub struct AssertionClaims<'a> {
    /// Our issuer identifier.
    pub iss: &'a str,
    /// The resource that the request is for.
    pub aud: &'a str,
    /// The person.
    pub sub: &'a str,
    /// The person's login name.
    pub username: &'a str,
    /// The person's address, empty when unknown.
    pub email: &'a str,
    /// The person's groups.
    pub groups: &'a [Group],
    /// The client that the request came through.
    pub client_id: &'a str,
    /// What the client may do.
    pub scope: &'a str,
    /// When it was issued.
    pub iat: UnixTime,
    /// When it ends.
    pub exp: UnixTime,
    /// Until when the caller's own access token lasts: a stream must not outlive it.
    pub token_exp: UnixTime,
    /// Rules that the caller does not meet: the service must refuse what they are about, by the body.
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    pub tool_rules: &'a [UnmetRule],
}

/// A rule that the caller does not meet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct UnmetRule {
    /// Patterns of tool names that it is about; `*` stands for any text.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tools: Vec<String>,
    /// Patterns of method names that it is about.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub methods: Vec<String>,
    /// Patterns of names that it is not about.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub except: Vec<String>,
    /// Everything that is needed; absent when no scope would help.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub scopes: Vec<ScopeToken>,
    /// The person is not among those whom the rule lets in.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub denied: bool,
}

/// A scope as the space-separated text that RFC 8693 §4.2 asks for.
pub mod scope_text {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    use crate::domain::scope::Scope;

    /// Writes the text form.
    pub fn serialize<S: Serializer>(scope: &Scope, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(scope)
    }

    /// Reads the text form.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Scope, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}
