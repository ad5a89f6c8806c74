//! May this request pass? A pure function of who is asking, the rules, and what is asked for.

use crate::domain::resource::ResourceUri;
use crate::domain::scope::Scope;
use crate::facts::Facts;

use super::Policy;

/// What the request brought to prove who it is from.
#[derive(Debug, Clone, Copy)]
pub enum Presented<'a> {
    /// No token.
    Nothing,
    /// A token that is not valid, and why.
    InvalidToken(&'static str),
    /// A valid token.
    Token(&'a Facts),
}

/// The answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// It may pass.
    Allow,
    /// It may not.
    Deny(Denial),
}

/// Why a request may not pass.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Denial {
    /// It has to log in (401, no `error`: RFC 6750 §3.1).
    Unauthenticated {
        /// What to ask for.
        scope: Scope,
    },
    /// Its token does not count here (401 `invalid_token`).
    InvalidToken {
        /// Why, for the client's developer.
        reason: &'static str,
        /// What to ask for.
        scope: Scope,
    },
    /// Its token does not allow this (403 `insufficient_scope`).
    InsufficientScope {
        /// Everything that is needed (MCP authorization, "Scope Challenge Handling").
        scope: Scope,
    },
}

/// Decides. Anything not allowed here is denied.
pub fn decide(presented: Presented<'_>, policy: &Policy, resource: &ResourceUri) -> Decision {
    let needed = policy.required_scope(resource);
    let facts = match presented {
        Presented::Nothing => {
            return Decision::Deny(Denial::Unauthenticated { scope: needed.clone() });
        }
        Presented::InvalidToken(reason) => {
            return Decision::Deny(Denial::InvalidToken { reason, scope: needed.clone() });
        }
        Presented::Token(facts) => facts,
    };
    // A token is good only for what it was issued for (RFC 8707 §2.2, MCP "Token Audience Binding").
    if !facts.resources.iter().any(|audience| audience.includes(resource)) {
        let reason = "the access token was issued for another resource";
        return Decision::Deny(Denial::InvalidToken { reason, scope: needed.clone() });
    }
    if !facts.scope.covers(needed) {
        return Decision::Deny(Denial::InsufficientScope { scope: needed.clone() });
    }
    Decision::Allow
}

#[cfg(test)]
mod tests {
    use crate::domain::account::{Subject, Username};
    use crate::domain::client::ClientId;
    use crate::domain::clock::UnixTime;
    use crate::domain::grant::GrantId;
    use crate::domain::resource::{ProtectedHosts, Scheme};

    use super::*;

    fn resource(text: &str) -> ResourceUri {
        let hosts = vec!["a.example".parse().unwrap(), "b.example".parse().unwrap()];
        ProtectedHosts::new(Scheme::Https, hosts).parse(text).unwrap()
    }

    fn facts(scope: &str, resource_text: &str) -> Facts {
        Facts {
            subject: Subject::new([1; 32]),
            username: Username::try_from("ana".to_owned()).unwrap(),
            email: None,
            groups: vec![],
            client_id: ClientId::try_from("c".to_owned()).unwrap(),
            grant_id: GrantId::new([2; 32]),
            scope: scope.parse().unwrap(),
            resources: vec![resource(resource_text)],
            bound_to: None,
            expires_at: UnixTime(10),
        }
    }

    fn decided(facts: &Facts, asked: &str) -> Decision {
        decide(Presented::Token(facts), &Policy::default(), &resource(asked))
    }

    #[test]
    fn a_token_passes_at_its_own_resource_with_enough_scope() {
        let facts = facts("mcp", "https://a.example/mcp");
        assert_eq!(decided(&facts, "https://a.example/mcp"), Decision::Allow);
        assert_eq!(decided(&facts, "https://a.example/mcp/x"), Decision::Allow);
    }

    #[test]
    fn a060_a061_a_token_is_refused_at_any_other_resource() {
        let facts = facts("mcp", "https://a.example/mcp");
        for asked in ["https://b.example/mcp", "https://a.example/mcp-other", "https://a.example"] {
            assert!(matches!(decided(&facts, asked), Decision::Deny(Denial::InvalidToken { .. })), "{asked}");
        }
    }

    #[test]
    fn too_little_scope_names_what_is_needed() {
        for scope in ["", "mcp:read", "other"] {
            let needed = Denial::InsufficientScope { scope: "mcp".parse().unwrap() };
            assert_eq!(
                decided(&facts(scope, "https://a.example"), "https://a.example/mcp"),
                Decision::Deny(needed)
            );
        }
    }

    #[test]
    fn no_token_and_a_bad_token_are_told_apart() {
        let asked = resource("https://a.example/mcp");
        let policy = Policy::default();
        assert!(matches!(
            decide(Presented::Nothing, &policy, &asked),
            Decision::Deny(Denial::Unauthenticated { .. })
        ));
        let invalid = decide(Presented::InvalidToken("x"), &policy, &asked);
        assert!(matches!(invalid, Decision::Deny(Denial::InvalidToken { reason: "x", .. })));
    }
}
