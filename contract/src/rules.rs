//! The policy rules that a caller does not meet.

use serde::{Deserialize, Serialize};

/// A policy rule that the caller of a request does not meet. The service must refuse the calls that it applies
/// to. A reader must not overlook a rule of an unknown kind, so unknown members are an error.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UnmetRule {
    /// Patterns of the tool names that the rule applies to ([`crate::pattern`]).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tools: Vec<String>,
    /// Patterns of the method names that the rule applies to.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub methods: Vec<String>,
    /// Patterns of the names that the rule does not apply to.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub except: Vec<String>,
    /// All scopes that the calls require. If it is empty, no scope would help.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub scopes: Vec<String>,
    /// Whether the rule excludes this user regardless of the scopes.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub denied: bool,
}
