//! Rules about services, and which of them is about a resource.

use std::cmp::Reverse;
use std::sync::Arc;

use crate::domain::host::HostPattern;
use crate::domain::scope::Scope;

use super::lookalike::{could_be_within, folded};
use super::operation::Operation;
use super::pattern::Pattern;
use super::who::Who;

/// What is needed to pass: all of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Needs {
    pub(super) scope: Scope,
    pub(super) who: Who,
}

/// A `[[service]]`.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Service {
    /// Its name, or where it is.
    pub(super) label: String,
    /// Where it stands in the file.
    pub(super) line: usize,
    pub(super) needs: Needs,
    /// HTTP methods that it takes; all, when empty.
    pub(super) http_methods: Vec<String>,
    pub(super) legacy: LegacyTools,
    pub(super) rules: Vec<Rule>,
}

/// What is done about requests whose headers do not say what they are about to do.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum LegacyTools {
    /// They must meet every rule of the service.
    #[default]
    Strict,
    /// stdio-wrapper holds the rules against the body.
    Wrapper,
}

/// A `[[service.tool]]` or `[[service.method]]`.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Rule {
    pub(super) subject: Subject,
    /// Names that it is about.
    pub(super) patterns: Vec<Pattern>,
    /// Names that it is not about, although a pattern fits.
    pub(super) except: Vec<Pattern>,
    pub(super) needs: Needs,
    /// Where it stands in the file.
    pub(super) line: usize,
}

/// What a rule's patterns are names of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Subject {
    Tool,
    Method,
}

impl Rule {
    /// Whether the rule is about `operation`. What is unknown may be anything.
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

    /// The rule in a few words: `tool delete_* (line 12)`.
    pub(super) fn label(&self) -> String {
        let kind = match self.subject {
            Subject::Tool => "tool",
            Subject::Method => "method",
        };
        let patterns: Vec<&str> = self.patterns.iter().map(Pattern::as_str).collect();
        format!("{kind} {} (line {})", patterns.join(", "), self.line)
    }
}

/// Which hosts a service rule is about. The order is that of precedence, the most specific last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum HostRule {
    /// `*`
    Any,
    /// `host` or `*.domain`
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

/// A host, a path, and the service there.
#[derive(Debug, Clone)]
pub(super) struct Place {
    pub(super) host: HostRule,
    /// Without a slash at the end; empty for the whole host.
    pub(super) path: String,
    /// The path as servers compare it that do not go by the letter.
    pub(super) folded: String,
    pub(super) service: Arc<Service>,
}

impl Place {
    pub(super) fn new(host: HostRule, path: String, service: Arc<Service>) -> Self {
        let folded = folded(&path).into_owned();
        Self { host, path, folded, service }
    }
}

/// The path is not that of a more specific rule, and could be taken for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Lookalike;

/// All places, the most specific first: an exact host before `*.domain` before `*`, and on one host the longer path
/// first. The parser refuses two rules of the same place, so there is never a choice.
#[derive(Debug, Clone, Default)]
pub(super) struct Table(Vec<Place>);

impl Table {
    pub(super) fn new(mut places: Vec<Place>) -> Self {
        places.sort_by_key(|place| Reverse((place.host.rank(), place.path.len())));
        Self(places)
    }

    /// The service at this place, if a rule is about it. The most specific place decides that the path is within, unless
    /// it could be taken to be within a more specific one.
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

    pub(super) fn places(&self) -> &[Place] {
        &self.0
    }
}

/// Whether `path` is `ancestor` or lies below it, by whole segments (attack 61).
fn is_within(path: &str, ancestor: &str) -> bool {
    path.strip_prefix(ancestor).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}
