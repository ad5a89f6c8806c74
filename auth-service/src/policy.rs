//! The access rules, and the function that decides on a request.
//!
//! Rules come from the settings `ALLOWED_…` and from a policy file (`docs/policy.md`). Without a file, there is
//! one rule: any user who can log in can use any protected service through a client that has been granted the
//! scope `mcp`.
//!
//! A request must be allowed by the settings, by the most specific service rule that matches, and by every tool
//! and method rule of that service that matches the operation. An additional tool or method rule can therefore
//! only restrict access.

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

pub use current::{CurrentPolicy, LoadError, PolicySource, PolicyStatus};
pub use decide::{Credentials, Decision, Denial, PolicyTarget, decide};
pub use explain::{Era, Explanation, Question, Verdict, explain};
pub use file::{MAX_FILE_SIZE, Note, PolicyProblems, parse};
pub use operation::Operation;
pub use who::{Person, Who};

use service::{Lookalike, Service, Table};

/// Description of the scope `mcp` when there is no policy file. The consent page shows it below the names of the
/// services.
const EVERYTHING: &str = "To use all tools of these services";
/// Description of the scope `mcp` when there is no policy file and the request is for a single service.
const EVERYTHING_OF_ONE: &str = "To use all tools of this service";

/// The access rules in force.
#[derive(Debug, Clone)]
pub struct Policy {
    /// The number of this policy within the process, counted from 1. Values derived from a policy with a different
    /// number must not be used.
    epoch: u64,
    /// The users whom the settings `ALLOWED_…` allow to use services.
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
    /// The policy that applies without a policy file.
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

    /// The number of this policy. It grows with every change, and is only meaningful within one process.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// The scope that every request to `resource` needs, for any operation.
    pub fn required_scope(&self, resource: &ResourceUri) -> &Scope {
        match self.service(resource) {
            Ok(Some(service)) => &service.needs.scope,
            Ok(None) | Err(Lookalike) => &self.default_scope,
        }
    }

    /// All scopes that can be granted.
    pub fn catalogue(&self) -> &Scope {
        &self.catalogue
    }

    /// The description of a scope for the consent page of a request for this number of services.
    pub fn description(&self, scope: &ScopeToken, services: usize) -> Option<&str> {
        let words = self.descriptions.get(scope)?.as_str();
        Some(if words == EVERYTHING && services == 1 { EVERYTHING_OF_ONE } else { words })
    }

    /// Whether `person` is allowed to use `resource`, apart from rules about single operations.
    pub fn admits(&self, person: Person<'_>, resource: &ResourceUri) -> bool {
        let admitted = match self.service(resource) {
            Ok(Some(service)) => service.needs.who.includes(person),
            Ok(None) => true,
            Err(Lookalike) => false,
        };
        admitted && self.allowed.includes(person)
    }

    /// Whether the path of `resource` matches no rule exactly, but a server could confuse it with the path of a
    /// rule. Every request to such a path is refused.
    pub fn is_lookalike(&self, resource: &ResourceUri) -> bool {
        self.service(resource).is_err()
    }

    /// One path of each service on a host, and as the last one the empty path, which stands for all paths without a
    /// rule of their own.
    pub fn paths_on(&self, host: &str) -> Vec<String> {
        self.services.paths_on(host).into_iter().map(str::to_owned).collect()
    }

    /// The service rule that applies to `resource`.
    fn service(&self, resource: &ResourceUri) -> Result<Option<&Service>, Lookalike> {
        let (host, path) = resource.host_and_path();
        self.services.find(host, path)
    }
}

#[cfg(test)]
mod tests;
