//! Parses a policy file (TOML) into a policy, or into a list of all problems.

mod reader;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use toml::de::DeTable;

use crate::domain::account::{Group, Username};
use crate::domain::email::EmailDomain;
use crate::domain::host::HostPattern;
use crate::domain::resource::ProtectedHosts;
use crate::domain::scope::{InvalidScope, Scope, ScopeToken};

use super::Policy;
use super::pattern::Pattern;
use super::service::{HostRule, LegacyTools, Needs, Place, Rule, Service, Subject, Table};
use super::unmet;
use super::who::Who;

pub use reader::Note;
use reader::{At, Reader};

/// Maximum length of a policy file in bytes.
pub const MAX_FILE_SIZE: usize = 256 * 1024;

const TOP: [&str; 3] = ["default_scope", "scopes", "service"];
const SERVICE: [&str; 11] = [
    "name",
    "host",
    "path",
    "scopes",
    "users",
    "groups",
    "email_domains",
    "http_methods",
    "legacy_tools",
    "tool",
    "method",
];
const RULE: [&str; 6] = ["match", "except", "scopes", "users", "groups", "email_domains"];
/// HTTP methods that an MCP endpoint can use.
const HTTP_METHODS: [&str; 5] = ["GET", "POST", "DELETE", "HEAD", "OPTIONS"];

/// All problems with a file, sorted by line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PolicyProblems(pub Vec<Note>);

impl fmt::Display for PolicyProblems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "the policy file has {} problem{}:",
            self.0.len(),
            if self.0.len() == 1 { "" } else { "s" }
        )?;
        self.0.iter().try_for_each(|problem| write!(f, "\n  - {problem}"))
    }
}

impl std::error::Error for PolicyProblems {}

/// Parses a policy file. Also returns warnings. `allowed` contains the users whom the settings allow. `hosts`
/// contains the protected hosts, if they are known.
pub fn parse(
    text: &str,
    allowed: Who,
    hosts: Option<&ProtectedHosts>,
) -> Result<(Policy, Vec<Note>), PolicyProblems> {
    let mut reader = Reader::new(text);
    let policy = read(&mut reader, text, allowed, hosts);
    let sorted = |mut notes: Vec<Note>| {
        notes.sort();
        notes.dedup();
        notes
    };
    match policy {
        Some(policy) if reader.problems.is_empty() => Ok((policy, sorted(reader.warnings))),
        _ => Err(PolicyProblems(sorted(reader.problems))),
    }
}

fn read(reader: &mut Reader<'_>, text: &str, allowed: Who, hosts: Option<&ProtectedHosts>) -> Option<Policy> {
    if text.len() > MAX_FILE_SIZE {
        reader.problem(1, format!("the file has {} bytes, more than {MAX_FILE_SIZE}", text.len()));
        return None;
    }
    let document = reader.document()?;
    // An empty file would mean that there are no restrictions, and a file that is still being written can be empty
    // for a moment.
    if document.is_empty() {
        reader.problem(1, "the file is empty; to have no rules, unset POLICY_FILE");
    }
    reader.check_keys(&document, "the file", &TOP);
    let default_scope = match scope(reader, &document, "default_scope") {
        scope if scope.is_empty() => "mcp".parse().unwrap_or_default(),
        scope => scope,
    };
    let descriptions = descriptions(reader, &document);
    let mut places = Vec::new();
    for (table, line) in reader.tables(&document, "service", "service") {
        service(reader, table, line, &default_scope, &mut places);
    }
    refuse_ties(reader, &places);
    let catalogue = catalogue(reader, &document, &default_scope, &descriptions, &places);
    let services = Table::new(places);
    warn_of_useless_rules(reader, &services);
    if let Some(hosts) = hosts {
        warn_of_unreachable(reader, &services, hosts);
    }
    Some(Policy { epoch: 1, allowed, default_scope, services, catalogue, descriptions })
}

/// Reads a string of scopes separated by spaces, or a list of such strings.
fn scope(reader: &mut Reader<'_>, table: &DeTable<'_>, key: &str) -> Scope {
    let parts = reader.parsed(table, key, |text| match text.parse::<Scope>() {
        Ok(scope) if !scope.is_empty() => Ok(scope),
        _ => Err(InvalidScope),
    });
    parts.into_iter().flat_map(|part| part.tokens().cloned().collect::<Vec<_>>()).collect()
}

fn descriptions(reader: &mut Reader<'_>, document: &DeTable<'_>) -> BTreeMap<ScopeToken, String> {
    let mut descriptions = BTreeMap::new();
    for (name, text, line) in reader.texts_by_name(document, "scopes") {
        let words = text.trim();
        if words.is_empty() || words.len() > 200 || words.chars().any(char::is_control) {
            reader.problem(
                line,
                format!("scopes: the description of {name:?} must be one line of 1 to 200 bytes"),
            );
        }
        match ScopeToken::try_from(name.clone()) {
            Ok(token) => {
                descriptions.insert(token, words.to_owned());
            }
            Err(error) => reader.problem(line, format!("scopes: {name:?} is not valid: {error}")),
        }
    }
    descriptions
}

fn who(reader: &mut Reader<'_>, table: &DeTable<'_>) -> Who {
    Who {
        users: reader.parsed(table, "users", Username::try_from),
        groups: reader.parsed(table, "groups", Group::try_from),
        email_domains: reader.parsed(table, "email_domains", |text| EmailDomain::parse(&text)),
    }
}

fn service<'i>(
    reader: &mut Reader<'i>,
    table: &DeTable<'i>,
    line: usize,
    default_scope: &Scope,
    places: &mut Vec<Place>,
) {
    reader.check_keys(table, "[[service]]", &SERVICE);
    let hosts = reader.parsed(table, "host", |text| host_rule(&text));
    if !table.contains_key("host") {
        reader.problem(
            line,
            "[[service]] needs host: one of PROTECTED_HOSTS, *.example.com, or * for every host",
        );
    }
    let path = reader.string(table, "path").and_then(|at| service_path(reader, at)).unwrap_or_default();
    let own_scope = scope(reader, table, "scopes");
    let needs = Needs {
        scope: if own_scope.is_empty() { default_scope.clone() } else { own_scope },
        who: who(reader, table),
    };
    let label = match (reader.string(table, "name"), hosts.first()) {
        (Some((name, _)), _) => name,
        (None, Some(host)) => format!("{host}{path}"),
        (None, None) => String::new(),
    };
    let mut rules = Vec::new();
    for (key, subject) in [("tool", Subject::Tool), ("method", Subject::Method)] {
        for (table, line) in reader.tables(table, key, &format!("service.{key}")) {
            rules.extend(rule(reader, table, line, subject));
        }
    }
    rules.sort_by_key(|rule| rule.line);
    let http_methods = reader.parsed(table, "http_methods", |text| {
        if HTTP_METHODS.contains(&text.as_str()) {
            Ok(text)
        } else {
            Err("it must be GET, POST, DELETE, HEAD or OPTIONS")
        }
    });
    let service = Service { label, line, needs, http_methods, legacy: legacy_tools(reader, table), rules };
    let length = unmet::longest_list(&service);
    if length > unmet::MAX_LEN {
        reader.problem(line, format!(
            "the rules of [[service]] need {length} bytes in an assertion, but at most {} are possible; combine names with the same requirements in one match",
            unmet::MAX_LEN
        ));
    }
    let service = Arc::new(service);
    places.extend(hosts.into_iter().map(|host| Place::new(host, path.clone(), Arc::clone(&service))));
}

fn legacy_tools(reader: &mut Reader<'_>, table: &DeTable<'_>) -> LegacyTools {
    match reader.string(table, "legacy_tools") {
        Some((text, _)) if text == "wrapper" => LegacyTools::Wrapper,
        Some((text, line)) if text != "strict" => {
            reader.problem(line, format!("legacy_tools must be \"strict\" or \"wrapper\", not {text:?}"));
            LegacyTools::Strict
        }
        _ => LegacyTools::Strict,
    }
}

fn host_rule(text: &str) -> Result<HostRule, &'static str> {
    if text == "*" {
        return Ok(HostRule::Any);
    }
    let pattern: HostPattern =
        text.parse().map_err(|_| "write mcp.example.com, *.example.com, or * for every host")?;
    match pattern.port() {
        None if !text.ends_with(':') => Ok(HostRule::Pattern(pattern)),
        _ => Err("write the host without a port; the port is that of PROTECTED_HOSTS"),
    }
}

/// Reads the path of a service. It can contain only characters that are never percent-encoded (RFC 3986 §2.3), so
/// that there is only one way to write the path.
fn service_path(reader: &mut Reader<'_>, (text, line): At<String>) -> Option<String> {
    let path = text.strip_suffix('/').unwrap_or(&text);
    let plain = |segment: &str| {
        !matches!(segment, "" | "." | "..")
            && segment.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._~".contains(&b))
    };
    let valid = text.starts_with('/') && path.split('/').skip(1).all(plain);
    if !valid {
        reader.problem(line, format!(
            "path: {text:?} is not valid; it must start with / and consist of segments of letters, digits and - . _ ~"
        ));
    }
    valid.then(|| path.to_owned())
}

fn rule(reader: &mut Reader<'_>, table: &DeTable<'_>, line: usize, subject: Subject) -> Option<Rule> {
    let place = match subject {
        Subject::Tool => "[[service.tool]]",
        Subject::Method => "[[service.method]]",
    };
    reader.check_keys(table, place, &RULE);
    if !table.contains_key("match") {
        reader.problem(line, format!("{place} needs match: a name, or a pattern such as \"delete_*\""));
    }
    let patterns = reader.parsed(table, "match", |text| Pattern::parse(&text));
    let except = reader.parsed(table, "except", |text| Pattern::parse(&text));
    for pattern in patterns.iter().chain(&except) {
        let usual = |byte: u8| byte.is_ascii_alphanumeric() || b"_-./*:$".contains(&byte);
        if !pattern.as_str().bytes().all(usual) {
            reader.warning(
                line,
                format!(
                    "{place}: names like {pattern:?} are unusual; only * is a wildcard",
                    pattern = pattern.as_str()
                ),
            );
        }
    }
    let needs = Needs { scope: scope(reader, table, "scopes"), who: who(reader, table) };
    let asks = ["scopes", "users", "groups", "email_domains"];
    if !asks.iter().any(|key| table.contains_key(*key)) {
        reader.problem(line, format!("{place} has no condition; add scopes, users, groups or email_domains"));
    }
    (!patterns.is_empty()).then_some(Rule { subject, patterns, except, needs, line })
}

/// Refuses two rules for the same host and path, because it would be unclear which one applies. This includes
/// paths that many servers treat as the same.
fn refuse_ties(reader: &mut Reader<'_>, places: &[Place]) {
    let mut seen: BTreeMap<(String, &str), &Place> = BTreeMap::new();
    for place in places {
        let Some(first) = seen.insert((place.host.to_string(), &place.folded), place) else { continue };
        let (host, path, before) = (&place.host, &place.path, first.service.line);
        let text = if first.path == *path {
            format!("there is already a [[service]] for {host}{path} in line {before}; combine both")
        } else {
            format!(
                "many servers treat {host}{path} like {host}{} in line {before}, because they ignore case, and a dot at the end of a segment; \
                 combine both",
                first.path
            )
        };
        reader.problem(place.service.line, text);
    }
}

/// All scopes that are described or needed. If a scope is needed but not described, it can be granted, and the
/// consent page shows its name.
fn catalogue(
    reader: &mut Reader<'_>,
    document: &DeTable<'_>,
    default_scope: &Scope,
    descriptions: &BTreeMap<ScopeToken, String>,
    places: &[Place],
) -> Scope {
    let mut used: Vec<At<&Scope>> = Vec::new();
    for place in places {
        used.push((&place.service.needs.scope, place.service.line));
        used.extend(place.service.rules.iter().map(|rule| (&rule.needs.scope, rule.line)));
    }
    let mut all: BTreeSet<ScopeToken> = descriptions.keys().cloned().collect();
    // Hosts without a rule need the default scope.
    all.extend(default_scope.tokens().cloned());
    for (scope, line) in used {
        for token in scope.tokens() {
            if document.contains_key("scopes") && !descriptions.contains_key(token) {
                reader.warning(line, format!("the scope {} is not described in [scopes]", token.as_str()));
            }
            all.insert(token.clone());
        }
    }
    all.into_iter().collect()
}

fn warn_of_useless_rules(reader: &mut Reader<'_>, services: &Table) {
    for place in services.places() {
        let service = &place.service;
        for rule in &service.rules {
            if rule.needs.who.is_everybody() && service.needs.scope.covers(&rule.needs.scope) {
                reader
                    .warning(rule.line, "this rule refuses nothing: its service already needs these scopes");
            }
        }
        if service.rules.is_empty() && service.legacy == LegacyTools::Wrapper {
            reader.warning(
                service.line,
                "legacy_tools has no effect: the service has no [[service.tool]] or [[service.method]]",
            );
        }
    }
}

/// Warns about rules that match no request, because their host is not protected, or because more specific rules
/// match instead.
fn warn_of_unreachable(reader: &mut Reader<'_>, services: &Table, hosts: &ProtectedHosts) {
    for place in services.places() {
        let protected = hosts.patterns().iter().filter(|pattern| overlap(&place.host, pattern));
        let exact: Vec<&HostPattern> = protected.collect();
        let line = place.service.line;
        if exact.is_empty() {
            reader.warning(
                line,
                format!("no host of PROTECTED_HOSTS is {}, so this rule applies to nothing", place.host),
            );
            continue;
        }
        let reached = exact.iter().any(|pattern| {
            pattern.is_wildcard()
                || matches!(services.find(pattern.name().as_str(), &place.path), Ok(Some(found)) if found.line == line)
        });
        if !reached {
            reader.warning(
                line,
                format!(
                    "no request matches {}{}: each of its hosts has its own rule",
                    place.host, place.path
                ),
            );
        }
    }
}

/// Whether one host can match both the rule and the protected pattern.
fn overlap(rule: &HostRule, protected: &HostPattern) -> bool {
    match rule {
        HostRule::Any => true,
        HostRule::Pattern(pattern) => match (pattern.is_wildcard(), protected.is_wildcard()) {
            (true, true) | (false, false) => pattern.name() == protected.name(),
            (false, true) => protected.matches(pattern.name().as_str()),
            (true, false) => pattern.matches(protected.name().as_str()),
        },
    }
}
