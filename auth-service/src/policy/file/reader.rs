//! Reads TOML, and collects all problems with their lines instead of stopping at the first one.

use std::fmt;
use std::ops::Range;

use toml::de::{DeTable, DeValue};

/// A remark about a line of a policy file.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Note {
    /// The line in the file, counted from 1.
    pub line: usize,
    /// A description of the problem and how to fix it.
    pub text: String,
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: {}", self.line, self.text)
    }
}

/// A value and its line in the file.
pub(super) type At<T> = (T, usize);

pub(super) struct Reader<'i> {
    source: &'i str,
    /// Byte offsets of the line ends, in order.
    line_ends: Vec<usize>,
    pub(super) problems: Vec<Note>,
    pub(super) warnings: Vec<Note>,
}

impl<'i> Reader<'i> {
    pub(super) fn new(source: &'i str) -> Self {
        let line_ends = source.match_indices('\n').map(|(at, _)| at).collect();
        Self { source, line_ends, problems: Vec::new(), warnings: Vec::new() }
    }

    /// Parses the file as a table. Returns `None` if it is not valid TOML.
    pub(super) fn document(&mut self) -> Option<DeTable<'i>> {
        let (document, errors) = DeTable::parse_recoverable(self.source);
        for error in errors {
            let line = self.line(error.span().unwrap_or_default());
            self.problem(line, error.message().to_owned());
        }
        self.problems.is_empty().then(|| document.into_inner())
    }

    pub(super) fn problem(&mut self, line: usize, text: impl Into<String>) {
        self.problems.push(Note { line, text: text.into() });
    }

    pub(super) fn warning(&mut self, line: usize, text: impl Into<String>) {
        self.warnings.push(Note { line, text: text.into() });
    }

    fn line(&self, span: Range<usize>) -> usize {
        self.line_ends.partition_point(|end| *end < span.start) + 1
    }

    /// Refuses unknown keys. Otherwise a misspelled key would silently drop a restriction.
    pub(super) fn check_keys(&mut self, table: &DeTable<'_>, place: &str, known: &[&str]) {
        for key in table.keys() {
            let name = key.get_ref().as_ref();
            if !known.contains(&name) {
                let line = self.line(key.span());
                self.problem(line, format!("{place} has no key {name:?}; the keys are {}", known.join(", ")));
            }
        }
    }

    /// Reads a string, if the key exists.
    pub(super) fn string(&mut self, table: &DeTable<'_>, key: &str) -> Option<At<String>> {
        let value = table.get(key)?;
        let line = self.line(value.span());
        if let DeValue::String(text) = value.get_ref() {
            return Some((text.to_string(), line));
        }
        self.problem(line, format!("{key} must be a string in quotes, not {}", value.get_ref().type_str()));
        None
    }

    /// Reads a string or a list of strings. The result is empty if the key does not exist. An empty list is
    /// refused, because its author might have meant to allow nobody or everybody.
    pub(super) fn strings(&mut self, table: &DeTable<'_>, key: &str) -> Vec<At<String>> {
        let Some(value) = table.get(key) else { return Vec::new() };
        let line = self.line(value.span());
        let items = match value.get_ref() {
            DeValue::String(text) => return vec![(text.to_string(), line)],
            DeValue::Array(items) => items,
            other => {
                self.problem(line, format!("{key} must be a list of strings, not {}", other.type_str()));
                return Vec::new();
            }
        };
        if items.is_empty() {
            self.problem(line, format!("{key} is empty; name at least one, or leave {key} out"));
        }
        let mut texts = Vec::new();
        for item in items {
            let line = self.line(item.span());
            match item.get_ref() {
                DeValue::String(text) => texts.push((text.to_string(), line)),
                other => {
                    self.problem(
                        line,
                        format!("{key} must contain strings in quotes, not {}", other.type_str()),
                    );
                }
            }
        }
        texts
    }

    /// Parses each string under `key` with `parse`.
    pub(super) fn parsed<T, E: fmt::Display>(
        &mut self,
        table: &DeTable<'_>,
        key: &str,
        parse: impl Fn(String) -> Result<T, E>,
    ) -> Vec<T> {
        let mut values = Vec::new();
        for (text, line) in self.strings(table, key) {
            match parse(text.clone()) {
                Ok(value) => values.push(value),
                Err(error) => self.problem(line, format!("{key}: {text:?} is not valid: {error}")),
            }
        }
        values
    }

    /// Reads the tables under `[[key]]`.
    pub(super) fn tables<'t>(
        &mut self,
        table: &'t DeTable<'i>,
        key: &str,
        shown: &str,
    ) -> Vec<At<&'t DeTable<'i>>> {
        let Some(value) = table.get(key) else { return Vec::new() };
        let line = self.line(value.span());
        let DeValue::Array(items) = value.get_ref() else {
            self.problem(line, format!("{key} must be written as [[{shown}]], one for each"));
            return Vec::new();
        };
        let mut tables = Vec::new();
        for item in items {
            let line = self.line(item.span());
            match item.get_ref() {
                DeValue::Table(table) => tables.push((table, line)),
                _ => self.problem(line, format!("{key} must be written as [[{shown}]], one for each")),
            }
        }
        tables
    }

    /// Reads key, value and line of each entry of the table `[key]`, whose values are strings.
    pub(super) fn texts_by_name(&mut self, table: &DeTable<'_>, key: &str) -> Vec<(String, String, usize)> {
        let Some(value) = table.get(key) else { return Vec::new() };
        let line = self.line(value.span());
        let DeValue::Table(entries) = value.get_ref() else {
            self.problem(line, format!("{key} must be a table: [{key}], then name = \"description\""));
            return Vec::new();
        };
        let mut texts = Vec::new();
        for (name, value) in entries {
            let line = self.line(name.span());
            match value.get_ref() {
                DeValue::String(text) => texts.push((name.get_ref().to_string(), text.to_string(), line)),
                _ => self.problem(
                    line,
                    format!(
                        "{key}: {:?} must be a string; a name with a dot must be in quotes",
                        name.get_ref()
                    ),
                ),
            }
        }
        texts
    }
}
