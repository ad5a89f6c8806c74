//! What may be done: rules, and one pure decision.
//!
//! Without a policy file there is one rule: any person who can log in may use any protected service through a
//! client that was granted the scope `mcp`.

mod decide;

use crate::domain::resource::ResourceUri;
use crate::domain::scope::Scope;

pub use decide::{Decision, Denial, Presented, decide};

/// The rules.
#[derive(Debug, Clone)]
pub struct Policy {
    default_scope: Scope,
}

impl Default for Policy {
    fn default() -> Self {
        Self { default_scope: "mcp".parse().unwrap_or_default() }
    }
}

impl Policy {
    /// What a request to `resource` needs.
    pub fn required_scope(&self, _resource: &ResourceUri) -> &Scope {
        &self.default_scope
    }

    /// Every scope that there is.
    pub fn catalogue(&self) -> &Scope {
        &self.default_scope
    }
}
