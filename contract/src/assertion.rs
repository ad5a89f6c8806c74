//! The assertion: a short-lived JWT in the header `X-Auth-Assertion`, which auth-service issues to identify the
//! caller.

use std::borrow::Cow;

use serde::{Deserialize, Deserializer, Serialize};

use crate::rules::UnmetRule;

/// The `typ` header of an assertion, so that no other kind of token is accepted as one (RFC 8725 §3.11).
pub const TYPE: &str = "mcp-assertion+jwt";

/// The claims of an assertion. A reader ignores unknown claims, so that auth-service can be updated before the
/// services. Unknown rules must not be ignored; see [`UnmetRule`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claims<'a> {
    /// Issuer identifier of auth-service. Readers compare it when they verify the signature.
    #[serde(skip_deserializing)]
    pub iss: Cow<'a, str>,
    /// The resource that the request is for. Readers compare it when they verify the signature.
    #[serde(skip_deserializing)]
    pub aud: Cow<'a, str>,
    /// Identifier of the user, which never changes.
    pub sub: Cow<'a, str>,
    /// Login name of the user.
    #[serde(default, deserialize_with = "or_default")]
    pub username: Cow<'a, str>,
    /// Email address of the user. Empty if unknown.
    #[serde(default, deserialize_with = "or_default")]
    pub email: Cow<'a, str>,
    /// The groups that the user is in.
    #[serde(default, deserialize_with = "or_default")]
    pub groups: Vec<Cow<'a, str>>,
    /// The client that sent the request.
    #[serde(default, deserialize_with = "or_default")]
    pub client_id: Cow<'a, str>,
    /// The scope of the client's access token, separated by spaces (RFC 8693 §4.2).
    #[serde(default, deserialize_with = "or_default")]
    pub scope: Cow<'a, str>,
    /// Time at which the assertion was issued, in seconds since 1970.
    pub iat: u64,
    /// Time at which the assertion expires, in seconds since 1970.
    pub exp: u64,
    /// Time before which the assertion must not be accepted, in seconds since 1970. auth-service does not set
    /// it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nbf: Option<u64>,
    /// Time at which the caller's access token expires, in seconds since 1970. A stream must not outlive it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_exp: Option<u64>,
    /// Policy rules that the caller does not meet. The service must refuse the calls that they apply to,
    /// because only the request body shows which call is made.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tool_rules: Vec<UnmetRule>,
}

/// Treats `null` as a missing claim.
fn or_default<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(claim: D) -> Result<T, D::Error> {
    Option::deserialize(claim).map(Option::unwrap_or_default)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_by_whoever_verifies_it() {
        let claims = Claims {
            iss: "https://auth.example".into(),
            aud: "https://mcp.example/mcp".into(),
            sub: "usr_1".into(),
            username: "ana".into(),
            email: "".into(),
            groups: vec!["staff".into()],
            client_id: "c".into(),
            scope: "mcp mcp:write".into(),
            iat: 1,
            exp: 61,
            nbf: None,
            token_exp: Some(3600),
            tool_rules: vec![UnmetRule {
                tools: vec!["delete_*".into()],
                denied: true,
                ..UnmetRule::default()
            }],
        };
        let text = serde_json::to_string(&claims).unwrap();
        let read: Claims<'_> = serde_json::from_str(&text).unwrap();
        assert_eq!(read, Claims { iss: "".into(), aud: "".into(), ..claims });
    }

    #[test]
    fn a_reader_ignores_new_claims_and_refuses_new_kinds_of_rules() {
        let read = |more: &str| {
            serde_json::from_str::<Claims<'static>>(&format!(r#"{{"sub":"u","iat":1,"exp":2{more}}}"#))
        };
        let claims = read(r#","new":{"a":1},"aud":["a","b"],"groups":null,"username":null"#).unwrap();
        assert_eq!((claims.groups.len(), claims.username.as_ref(), claims.token_exp), (0, "", None));
        assert!(read(r#","tool_rules":[{"tools":["x"],"scopes":["mcp"]}]"#).is_ok());
        assert!(read(r#","tool_rules":[{"tools":["x"],"prompts":["y"]}]"#).is_err());
        assert!(read(r#","tool_rules":null"#).is_err());
        assert!(serde_json::from_str::<Claims<'static>>(r#"{"sub":"u","exp":2}"#).is_err());
    }
}
