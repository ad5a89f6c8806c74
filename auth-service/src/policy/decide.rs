//! Decides whether a request is allowed. The decision is a pure function of the caller, the rules and the request.

use crate::domain::resource::ResourceUri;
use crate::domain::scope::Scope;
use crate::principal::Principal;

use super::Policy;
use super::operation::Operation;
use super::service::{LegacyTools, Lookalike, Needs, Rule, Service};
use super::who::Person;

/// The credentials of a request.
#[derive(Debug, Clone, Copy)]
pub enum Credentials<'a> {
    /// The request has no token.
    Nothing,
    /// The request has a token that is invalid for this reason.
    InvalidToken(&'static str),
    /// The request has a valid token that belongs to this principal.
    Token(&'a Principal),
}

/// The target of a request.
#[derive(Debug, Clone, Copy)]
pub struct PolicyTarget<'a> {
    /// The resource to which the request is sent.
    pub resource: &'a ResourceUri,
    /// The HTTP method of the request.
    pub http_method: &'a str,
    /// The operation that the request performs there.
    pub operation: Operation<'a>,
}

/// The result of the decision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// The request is allowed.
    Allow,
    /// The request is refused for this reason.
    Deny(Denial),
}

/// The reason why a request is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Denial {
    /// The user must log in first (401 without `error`, RFC 6750 §3.1).
    Unauthenticated {
        /// The scope that the client should request.
        scope: Scope,
    },
    /// The token is not valid for this resource (401 `invalid_token`).
    InvalidToken {
        /// The reason, which is shown to the developer of the client.
        reason: &'static str,
        /// The scope that the client should request.
        scope: Scope,
    },
    /// The token does not have enough scopes (403 `insufficient_scope`).
    InsufficientScope {
        /// The union of the needed scopes and the scopes that were already granted. A client that requests exactly
        /// this gets the scopes that it needs and keeps those that it has (MCP authorization, "Scope Challenge
        /// Handling").
        scope: Scope,
    },
    /// The rules do not allow this user, or the service does not accept this method (403). There is no challenge,
    /// because no additional scope would help.
    Forbidden {
        /// The reason, which is shown to the user.
        reason: &'static str,
    },
}

/// Reasons shown to a user who is refused.
pub(super) const LOOKALIKE: &str = "the path differs from that of a rule only in case, or in a dot or space at the end of a segment; \
                                    write it exactly as in the URL of the service";
pub(super) const NOT_FOR_ANYTHING: &str = "this account is not allowed to use any service here";
pub(super) const NOT_FOR_SERVICE: &str = "this account is not allowed to use this service";
pub(super) const NOT_FOR_OPERATION: &str = "this account is not allowed to do this here";
pub(super) const NOT_THIS_METHOD: &str = "this service does not accept this HTTP method";

/// The conditions that a request must meet.
pub(super) struct Requirements<'p> {
    pub(super) service: Option<&'p Service>,
    base: &'p Scope,
    pub(super) rules: Vec<&'p Rule>,
}

impl<'p> Requirements<'p> {
    pub(super) fn of(policy: &'p Policy, asked: &PolicyTarget<'_>) -> Result<Self, Lookalike> {
        let service = policy.service(asked.resource)?;
        let rules = service.map_or_else(Vec::new, |service| applying(service, asked.operation));
        let base = service.map_or(&policy.default_scope, |service| &service.needs.scope);
        Ok(Self { service, base, rules })
    }

    /// The union of all scopes that are needed.
    pub(super) fn scope(&self) -> Scope {
        self.rules.iter().fold(self.base.clone(), |all, rule| all.union(&rule.needs.scope)).minimal()
    }

    fn are_covered_by(&self, granted: &Scope) -> bool {
        granted.covers(self.base) && self.rules.iter().all(|rule| granted.covers(&rule.needs.scope))
    }
}

/// The rules of `service` that the check must apply to `operation`.
fn applying<'s>(service: &'s Service, operation: Operation<'_>) -> Vec<&'s Rule> {
    if operation == Operation::Unknown && service.legacy == LegacyTools::Wrapper {
        return Vec::new();
    }
    service.rules.iter().filter(|rule| rule.is_about(operation)).collect()
}

/// Decides on a request. Everything that is not explicitly allowed is denied.
pub fn decide(presented: Credentials<'_>, policy: &Policy, asked: &PolicyTarget<'_>) -> Decision {
    // This is decided before the token is examined, because a login would not help.
    let Ok(needed) = Requirements::of(policy, asked) else {
        return Decision::Deny(Denial::Forbidden { reason: LOOKALIKE });
    };
    let principal = match presented {
        Credentials::Nothing => {
            return Decision::Deny(Denial::Unauthenticated { scope: needed.scope() });
        }
        Credentials::InvalidToken(reason) => {
            return Decision::Deny(Denial::InvalidToken { reason, scope: needed.scope() });
        }
        Credentials::Token(principal) => principal,
    };
    // A token is only valid for the resources for which it was issued (RFC 8707 §2.2, MCP "Token Audience
    // Binding").
    if !principal.resources.iter().any(|audience| audience.includes(asked.resource)) {
        let reason = "the access token was issued for another resource";
        return Decision::Deny(Denial::InvalidToken { reason, scope: needed.scope() });
    }
    // The user is checked before the scopes, so that a user who is refused in any case is not asked for consent
    // again.
    if let Some(reason) = refusal_reason(policy, &needed, Person::from(principal), asked.http_method) {
        return Decision::Deny(Denial::Forbidden { reason });
    }
    if needed.are_covered_by(&principal.scope) {
        return Decision::Allow;
    }
    let granted = principal.scope.within(&policy.catalogue);
    Decision::Deny(Denial::InsufficientScope { scope: needed.scope().union(&granted).minimal() })
}

/// The first reason to refuse that granting more scopes cannot fix.
fn refusal_reason(
    policy: &Policy,
    needed: &Requirements<'_>,
    person: Person<'_>,
    http_method: &str,
) -> Option<&'static str> {
    let lets_in = |needs: &Needs| needs.who.includes(person);
    if !policy.allowed.includes(person) {
        return Some(NOT_FOR_ANYTHING);
    }
    let service = needed.service?;
    if !lets_in(&service.needs) {
        return Some(NOT_FOR_SERVICE);
    }
    let methods = &service.http_methods;
    if !methods.is_empty() && !methods.iter().any(|method| method == http_method) {
        return Some(NOT_THIS_METHOD);
    }
    (!needed.rules.iter().all(|rule| lets_in(&rule.needs))).then_some(NOT_FOR_OPERATION)
}
