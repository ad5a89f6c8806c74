//! Service rules, and the search for the one that applies to a resource.

use std::cmp::Reverse;
use std::sync::Arc;

use crate::domain::host::HostPattern;
use crate::domain::scope::Scope;

use super::lookalike::{could_be_within, folded};
use super::operation::Operation;
use super::pattern::Pattern;
use super::who::Who;

/// The conditions of a rule. All of them must be met.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Needs {
    pub(super) scope: Scope,
    pub(super) who: Who,
}

/// A `[[service]]` table of the policy file.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Service {
    /// The configured name, or host and path if there is none.
    pub(super) label: String,
    /// Its line in the file.
    pub(super) line: usize,
    pub(super) needs: Needs,
    /// HTTP methods that the service accepts. If the list is empty, it accepts all methods.
    pub(super) http_methods: Vec<String>,
    pub(super) legacy: LegacyTools,
    pub(super) rules: Vec<Rule>,
}

/// How to treat requests whose headers do not name the operation.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum LegacyTools {
    /// The request must meet every rule of the service.
    #[default]
    Strict,
    /// The check does not apply the rules. Instead, stdio-wrapper applies them, because it reads the body.
    Wrapper,
}

/// A `[[service.tool]]` or `[[service.method]]` table of the policy file.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Rule {
    pub(super) subject: Subject,
    /// Patterns of the names to which the rule applies.
    pub(super) patterns: Vec<Pattern>,
    /// Patterns of the names that are excluded from the rule.
    pub(super) except: Vec<Pattern>,
    pub(super) needs: Needs,
    /// Its line in the file.
    pub(super) line: usize,
}

/// Whether the patterns of a rule name tools or methods.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Subject {
    Tool,
    Method,
}

impl Rule {
    /// Whether the rule applies to `operation`. Every rule applies to an unknown operation, because it could be
    /// any operation.
    pub(super) fn is_about(&self, operation: Operation<'_>) -> bool {
        match (self.subject, operation) {
            (_, Operation::Unknown) => true,
            (Subject::Tool, Operation::Tool(name)) => self.names(name),
            (Subject::Tool, Operation::Method(_)) => false,
            (Subject::Method, operation) => operation.method().is_some_and(|method| self.names(method)),
        }
    }

    fn names(&self, name: &str) -> bool {
        let any = |patterns: &[Pattern]| patterns.iter().any(|pattern| pattern.matches(name));
        any(&self.patterns) && !any(&self.except)
    }

    /// A short text that identifies the rule, such as `tool delete_* (line 12)`.
    pub(super) fn label(&self) -> String {
        let kind = match self.subject {
            Subject::Tool => "tool",
            Subject::Method => "method",
        };
        let patterns: Vec<&str> = self.patterns.iter().map(Pattern::as_str).collect();
        format!("{kind} {} (line {})", patterns.join(", "), self.line)
    }
}

/// The hosts to which a service rule applies. Later variants are more specific and take precedence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum HostRule {
    /// Every host, written as `*`.
    Any,
    /// One host, or all hosts of a domain, written as `host` or `*.domain`.
    Pattern(HostPattern),
}

impl HostRule {
    fn matches(&self, host: &str) -> bool {
        match self {
            Self::Any => true,
            Self::Pattern(pattern) => pattern.matches(host),
        }
    }

    fn rank(&self) -> u8 {
        match self {
            Self::Any => 0,
            Self::Pattern(pattern) if pattern.is_wildcard() => 1,
            Self::Pattern(_) => 2,
        }
    }
}

impl std::fmt::Display for HostRule {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Any => f.write_str("*"),
            Self::Pattern(pattern) if pattern.is_wildcard() => write!(f, "*.{}", pattern.name()),
            Self::Pattern(pattern) => write!(f, "{}", pattern.name()),
        }
    }
}

/// A host rule and a path, with the service that applies to them.
#[derive(Debug, Clone)]
pub(super) struct Place {
    pub(super) host: HostRule,
    /// The path without trailing slash. It is empty for the whole host.
    pub(super) path: String,
    /// The path in the form in which a lenient server compares it.
    pub(super) folded: String,
    pub(super) service: Arc<Service>,
}

impl Place {
    pub(super) fn new(host: HostRule, path: String, service: Arc<Service>) -> Self {
        let folded = folded(&path).into_owned();
        Self { host, path, folded, service }
    }
}

/// The path does not exactly match a more specific rule, but a server could confuse it with the path of one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Lookalike;

/// All hosts and paths that have rules, the most specific first: an exact host before `*.domain` before `*`, and
/// on one host the longer path first. The parser refuses two rules for the same host and path, so the order is
/// unambiguous.
#[derive(Debug, Clone, Default)]
pub(super) struct Table(Vec<Place>);

impl Table {
    pub(super) fn new(mut places: Vec<Place>) -> Self {
        places.sort_by_key(|place| Reverse((place.host.rank(), place.path.len())));
        Self(places)
    }

    /// Returns the service of the most specific rule that covers the path. It is an error if a server might treat
    /// the path as one that an even more specific rule covers.
    pub(super) fn find(&self, host: &str, path: &str) -> Result<Option<&Service>, Lookalike> {
        let of_host = || self.0.iter().filter(|place| place.host.matches(host));
        let within = of_host().find(|place| is_within(path, &place.path));
        let named = within.map_or(0, |place| place.path.matches('/').count());
        let loose = folded(path);
        let more_specific =
            of_host().take_while(|place| within.is_none_or(|found| !std::ptr::eq(*place, found)));
        for place in more_specific {
            if could_be_within(&loose, named, &place.folded) {
                return Err(Lookalike);
            }
        }
        Ok(within.map(|place| &*place.service))
    }

    /// The paths with a rule that applies to this host, in the order of the file. A path is omitted if a rule for a
    /// more specific host applies to it. The last one is the empty path, which stands for all others.
    pub(super) fn paths_on(&self, host: &str) -> Vec<&str> {
        let is_own = |place: &&Place| {
            let found = self.find(host, &place.path);
            found.is_ok_and(|found| found.is_some_and(|service| service.line == place.service.line))
        };
        let of_host = self.0.iter().filter(|place| place.host.matches(host) && !place.path.is_empty());
        let mut places: Vec<&Place> = of_host.filter(is_own).collect();
        places.sort_by_key(|place| place.service.line);
        // Two host rules of one service can match the same host.
        places.dedup_by(|second, first| second.path == first.path);
        places.into_iter().map(|place| place.path.as_str()).chain([""]).collect()
    }

    pub(super) fn places(&self) -> &[Place] {
        &self.0
    }
}

/// Whether `path` is `ancestor` or lies below it. Whole segments are compared (attack 61).
fn is_within(path: &str, ancestor: &str) -> bool {
    path.strip_prefix(ancestor).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}
