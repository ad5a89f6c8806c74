//! Explains to the authors of rules how a request would be decided, and which rule decides. It does no I/O, and
//! uses the same decision function as the check.

use contract::rules::UnmetRule;

use crate::domain::account::{Group, Subject, Username};
use crate::domain::client::ClientId;
use crate::domain::clock::UnixTime;
use crate::domain::grant_id::GrantId;
use crate::domain::resource::ResourceUri;
use crate::domain::scope::Scope;
use crate::principal::Principal;

use super::Policy;
use super::decide::{Credentials, Decision, Denial, LOOKALIKE, PolicyTarget, Requirements, decide};
use super::operation::Operation;
use super::service::{LegacyTools, Needs, Rule, Service, Subject as RuleSubject};
use super::who::Person;

/// How a client names the operation of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Era {
    /// The client names it in headers, as in protocol revision 2026-07-28 and later.
    Modern,
    /// The client names it only in the body, as in protocol revision 2025-11-25 and earlier.
    Legacy,
}

/// A hypothetical request to decide on.
#[derive(Debug, Clone)]
pub struct Question {
    /// The login name of the user.
    pub username: Username,
    /// The email address of the user.
    pub email: Option<String>,
    /// The groups of the user.
    pub groups: Vec<Group>,
    /// The client that sends the request.
    pub client_id: ClientId,
    /// The scope of the access token.
    pub scope: Scope,
    /// The resource to which the request is sent.
    pub resource: ResourceUri,
    /// The HTTP method of the request.
    pub http_method: String,
    /// The MCP method in the request body.
    pub method: String,
    /// The name of the tool, if the method is `tools/call`.
    pub tool: Option<String>,
    /// How the client names the operation.
    pub era: Era,
}

/// The predicted outcome of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// The request is allowed.
    Allowed,
    /// The check refuses the request.
    Refused(Denial),
    /// The check allows the request, but a stdio-wrapper that verifies assertions refuses it after reading
    /// the body.
    RefusedByWrapper,
}

/// The predicted outcome, and the steps of the decision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explanation {
    /// The predicted outcome of the request.
    pub verdict: Verdict,
    /// Whether the settings `ALLOWED_…` admit the user. This is the same for every service.
    pub settings: String,
    /// Each further condition that was checked, and its result.
    pub steps: Vec<String>,
}

/// Predicts the outcome of a request, and explains it.
pub fn explain(policy: &Policy, question: &Question) -> Explanation {
    let principal = principal(question);
    let operation = operation(question);
    let headers_say = if question.era == Era::Modern { operation } else { Operation::Unknown };
    let asked = PolicyTarget {
        resource: &question.resource,
        http_method: &question.http_method,
        operation: headers_say,
    };
    let settings = settings(policy, &principal);
    let mut steps = steps(policy, &asked, &principal);
    let decision = decide(Credentials::Token(&principal), policy, &asked);
    steps.push(format!("check: {}", outcome(&decision)));
    let verdict = match decision {
        Decision::Deny(denial) => Verdict::Refused(denial),
        Decision::Allow => {
            let unmet = policy.unmet_rules(&principal, &question.resource);
            let service = policy.service(&question.resource).ok().flatten();
            let refused = service.is_some_and(|service| {
                service.rules.iter().any(|rule| rule.is_about(operation) && !meets(&rule.needs, &principal))
            });
            steps.extend(wrapper(&unmet, question, refused));
            if refused { Verdict::RefusedByWrapper } else { Verdict::Allowed }
        }
    };
    Explanation { verdict, settings, steps }
}

fn operation(question: &Question) -> Operation<'_> {
    match &question.tool {
        Some(tool) => Operation::Tool(tool),
        None if question.method == "tools/call" => Operation::Unknown,
        None => Operation::Method(&question.method),
    }
}

/// The principal of a valid token with the properties in `question`.
fn principal(question: &Question) -> Principal {
    Principal {
        subject: Subject::new([0; 32]),
        username: question.username.clone(),
        email: question.email.clone(),
        groups: question.groups.clone(),
        client_id: question.client_id.clone(),
        grant_id: GrantId::new([0; 32]),
        scope: question.scope.clone(),
        resources: vec![question.resource.clone()],
        bound_to: None,
        expires_at: UnixTime(u64::MAX),
    }
}

fn settings(policy: &Policy, principal: &Principal) -> String {
    format!(
        "settings ALLOWED_…: {}: {}",
        policy.allowed,
        found(policy.allowed.includes(Person::from(principal)))
    )
}

fn found(yes: bool) -> &'static str {
    if yes { "yes" } else { "NO" }
}

fn steps(policy: &Policy, asked: &PolicyTarget<'_>, principal: &Principal) -> Vec<String> {
    let person = Person::from(principal);
    let mut steps = Vec::new();
    let Ok(required) = Requirements::of(policy, asked) else {
        steps.push(format!("service: {LOOKALIKE}: NO"));
        return steps;
    };
    let Some(service) = required.service else {
        steps.push("service: no rule applies to this resource, so the default applies".to_owned());
        steps.push(scopes_step("default_scope", &policy.default_scope, principal));
        return steps;
    };
    steps.push(format!("service: {} (line {})", service.label, service.line));
    steps.push(format!(
        "service allows {}: {}",
        service.needs.who,
        found(service.needs.who.includes(person))
    ));
    if !service.http_methods.is_empty() {
        let takes = service.http_methods.iter().any(|method| method == asked.http_method);
        steps.push(format!("service accepts {}: {}", service.http_methods.join(", "), found(takes)));
    }
    steps.push(scopes_step("service", &service.needs.scope, principal));
    steps.push(rules_step(service, asked, required.rules.len()));
    for rule in required.rules {
        steps.push(format!("  {}: {}", rule.label(), needs_step(rule, principal)));
    }
    steps
}

fn scopes_step(of: &str, scope: &Scope, principal: &Principal) -> String {
    let result = if principal.scope.covers(scope) { "granted" } else { "NOT granted" };
    format!("{of} needs the scope {scope}: {result}")
}

fn rules_step(service: &Service, asked: &PolicyTarget<'_>, applying: usize) -> String {
    let all = service.rules.len();
    match (asked.operation, service.legacy) {
        _ if all == 0 => "the service has no rules for tools or methods".to_owned(),
        (Operation::Unknown, LegacyTools::Wrapper) => {
            format!(
                "the headers do not name the operation; because of legacy_tools = \"wrapper\", stdio-wrapper applies the {all} rules of the service"
            )
        }
        (Operation::Unknown, LegacyTools::Strict) => {
            format!("the headers do not name the operation, so all {all} rules of the service must be met")
        }
        _ => format!("{applying} of {all} rules of the service apply"),
    }
}

fn needs_step(rule: &Rule, principal: &Principal) -> String {
    let who = &rule.needs.who;
    let mut parts = Vec::new();
    if !who.is_everybody() {
        let result = if who.includes(Person::from(principal)) { "yes" } else { "NO" };
        parts.push(format!("allows {who}: {result}"));
    }
    if !rule.needs.scope.is_empty() {
        let result = if principal.scope.covers(&rule.needs.scope) { "granted" } else { "NOT granted" };
        parts.push(format!("needs the scope {}: {result}", rule.needs.scope));
    }
    parts.join("; ")
}

fn meets(needs: &Needs, principal: &Principal) -> bool {
    needs.who.includes(Person::from(principal)) && principal.scope.covers(&needs.scope)
}

fn outcome(decision: &Decision) -> String {
    match decision {
        Decision::Allow => "allowed".to_owned(),
        Decision::Deny(Denial::InsufficientScope { scope }) => {
            format!("403 insufficient_scope, scope=\"{scope}\"; the client can ask the user for it")
        }
        Decision::Deny(Denial::Forbidden { reason }) => format!("403 access_denied: {reason}"),
        Decision::Deny(Denial::InvalidToken { reason, .. }) => format!("401 invalid_token: {reason}"),
        Decision::Deny(Denial::Unauthenticated { .. }) => "401".to_owned(),
    }
}

fn wrapper(unmet: &[UnmetRule], question: &Question, refused: bool) -> Vec<String> {
    if unmet.is_empty() {
        return vec!["wrapper: receives no rules, because the caller meets all of them".to_owned()];
    }
    let what = question.tool.as_deref().unwrap_or(&question.method);
    let mut steps = vec![format!("wrapper: receives {} rules that the caller does not meet", unmet.len())];
    for rule in unmet {
        let (kind, names) = match RuleSubject::of(rule) {
            RuleSubject::Tool => ("tools", &rule.tools),
            RuleSubject::Method => ("methods", &rule.methods),
        };
        let answer = if rule.denied {
            "403".to_owned()
        } else {
            format!("403 insufficient_scope, scope=\"{}\"", rule.scopes.join(" "))
        };
        steps.push(format!("  {kind} {}: {answer}", names.join(", ")));
    }
    steps.push(if refused {
        format!("wrapper: refuses {what} because of its body if IDENTITY=assertion; with IDENTITY=headers or none it would ALLOW it, so use legacy_tools = \"strict\" in that case")
    } else {
        format!("wrapper: none of them applies to {what}")
    });
    steps
}

impl RuleSubject {
    fn of(rule: &UnmetRule) -> Self {
        if rule.tools.is_empty() { Self::Method } else { Self::Tool }
    }
}
