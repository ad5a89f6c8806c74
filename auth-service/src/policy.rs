//! What may be done: rules, and one pure decision.
//!
//! Rules come from the settings `ALLOWED_…` and from a policy file (`docs/policy.md`). Without a file there is one rule:
//! any person who may log in may use any protected service through a client that was granted the scope `mcp`.
//!
//! Everything that a request is under must let it pass: the settings, the one service rule that is most specific, and
//! every rule of that service that matches the operation. So another rule can only ever close a door.

mod current;
mod decide;
mod explain;
mod file;
mod lookalike;
mod operation;
mod pattern;
mod service;
mod unmet;
mod who;

use std::collections::BTreeMap;

use crate::domain::resource::ResourceUri;
use crate::domain::scope::{Scope, ScopeToken};

pub use current::{CurrentPolicy, LoadError, PolicySource, Standing};
pub use decide::{Asked, Decision, Denial, Presented, decide};
pub use explain::{Era, Explanation, Question, Verdict, explain};
pub use file::{LONGEST_FILE, Note, PolicyProblems, parse};
pub use operation::Operation;
pub use who::{Person, Who};

use service::{Lookalike, Service, Table};

/// What the scope of a gate without a policy file allows. Pages show it below the services that it is about.
const EVERYTHING: &str = "to use all tools of what is named above";

/// The rules.
#[derive(Debug, Clone)]
pub struct Policy {
    /// Which policy of this process this is, counted from 1: what was derived from another must not be used.
    epoch: u64,
    /// Who may use anything at all.
    allowed: Who,
    default_scope: Scope,
    services: Table,
    catalogue: Scope,
    descriptions: BTreeMap<ScopeToken, String>,
}

impl Default for Policy {
    fn default() -> Self {
        Self::without_file(Who::default())
    }
}

impl Policy {
    /// The one rule that there is without a file.
    pub fn without_file(allowed: Who) -> Self {
        let default_scope: Scope = "mcp".parse().unwrap_or_default();
        let words = |token: &ScopeToken| (token.clone(), EVERYTHING.to_owned());
        let descriptions = default_scope.tokens().map(words).collect();
        Self {
            epoch: 1,
            allowed,
            catalogue: default_scope.clone(),
            default_scope,
            services: Table::default(),
            descriptions,
        }
    }

    /// The number of this policy. It grows with every change, and only within one process.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// What a request to `resource` needs at least, whatever it is about to do.
    pub fn required_scope(&self, resource: &ResourceUri) -> &Scope {
        match self.service(resource) {
            Ok(Some(service)) => &service.needs.scope,
            Ok(None) | Err(Lookalike) => &self.default_scope,
        }
    }

    /// Every scope that there is.
    pub fn catalogue(&self) -> &Scope {
        &self.catalogue
    }

    /// What a scope is for, in words for the person who grants it.
    pub fn description(&self, scope: &ScopeToken) -> Option<&str> {
        self.descriptions.get(scope).map(String::as_str)
    }

    /// Whether `person` may use `resource` at all.
    pub fn admits(&self, person: Person<'_>, resource: &ResourceUri) -> bool {
        let admitted = match self.service(resource) {
            Ok(Some(service)) => service.needs.who.includes(person),
            Ok(None) => true,
            Err(Lookalike) => false,
        };
        admitted && self.allowed.includes(person)
    }

    /// Whether the path of `resource` is not that of a rule, and could be taken for it: no request there passes.
    pub fn is_lookalike(&self, resource: &ResourceUri) -> bool {
        self.service(resource).is_err()
    }

    /// The rule that is about `resource`.
    fn service(&self, resource: &ResourceUri) -> Result<Option<&Service>, Lookalike> {
        let (host, path) = resource.host_and_path();
        self.services.find(host, path)
    }
}

#[cfg(test)]
mod tests;
