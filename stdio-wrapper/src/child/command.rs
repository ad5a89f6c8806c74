//! The command line of one child: the configured one, with the placeholders replaced by values of the verified
//! caller.

use std::fmt::Write as _;

use crate::config::{self, ESCAPE, GROUP, SUBJECT, USER, is_in, is_plain, replace};

/// Maximum length of a value after encoding, in bytes. File systems allow 255 bytes in a name.
const MAX_NAME: usize = 200;

/// The values of the caller for whom a child is started.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Placeholders {
    /// The value for the placeholder `{subject}`.
    pub subject: Option<String>,
    /// The value for the placeholder `{user}`.
    pub user: Option<String>,
    /// The value for the placeholder `{group}`.
    pub group: Option<String>,
}

impl Placeholders {
    /// The values that the command of this child uses. Two callers with the same values have the same
    /// command.
    pub(super) fn used_by(&self, child: &config::Child) -> Self {
        let used = |name: &str, value: &Option<String>| value.clone().filter(|_| child.has(name));
        Self {
            subject: used(SUBJECT, &self.subject),
            user: used(USER, &self.user),
            group: used(GROUP, &self.group),
        }
    }
}

/// Why the placeholders of a command could not be replaced.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CommandError {
    /// The caller does not have this value.
    #[error("This server is set up per caller and needs {0}, which the caller's identity does not have.")]
    Missing(&'static str),
    /// The value is too long for a part of a path.
    #[error("This server is set up per caller and needs {0}, but the caller's is too long.")]
    TooLong(&'static str),
}

/// The program, arguments, environment and working directory of one child.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Filled {
    pub(super) command: Vec<String>,
    pub(super) env: Vec<(String, String)>,
    pub(super) cwd: Option<String>,
    /// Whether the name of the directory contains a value of the caller. In that case, the directory might
    /// not exist yet.
    pub(super) cwd_is_per_caller: bool,
}

/// Replaces every placeholder, except in the name of the program. The program is fixed when the wrapper starts
/// (attack 103).
pub(super) fn fill(child: &config::Child, caller: &Placeholders) -> Result<Filled, CommandError> {
    let mut command = child.command.clone();
    for argument in command.iter_mut().skip(1) {
        *argument = fill_text(argument, caller)?;
    }
    let mut env = child.env.clone();
    for (_, value) in &mut env {
        *value = fill_text(value, caller)?;
    }
    let cwd = child.cwd.as_ref().map(|cwd| fill_text(cwd, caller)).transpose()?;
    Ok(Filled { command, env, cwd_is_per_caller: child.cwd.as_deref().is_some_and(is_in), cwd })
}

fn fill_text(text: &str, caller: &Placeholders) -> Result<String, CommandError> {
    replace(text, |name| {
        let value = match name {
            SUBJECT => &caller.subject,
            USER => &caller.user,
            _ => &caller.group,
        };
        let value = value.as_deref().filter(|value| !value.is_empty()).ok_or(CommandError::Missing(name))?;
        let safe = path_safe(value);
        if safe.len() > MAX_NAME { Err(CommandError::TooLong(name)) } else { Ok(safe) }
    })
}

/// Encodes a value as one path segment. Letters, digits, `_`, `@`, and `.` and `-` after the first byte stay
/// unchanged, and every other byte becomes `=XX`. Different values become different segments. The segment
/// contains no separator, no special character of a shell and no control character. It is not `..`, and does
/// not start like an option.
fn path_safe(value: &str) -> String {
    let mut out = String::with_capacity(value.len());
    for (index, byte) in value.bytes().enumerate() {
        if is_plain(byte) && (index > 0 || !matches!(byte, b'.' | b'-')) {
            out.push(char::from(byte));
        } else {
            out.push(char::from(ESCAPE));
            // Writing to a string cannot fail.
            let _ = write!(out, "{byte:02X}");
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn child(argument: &str) -> config::Child {
        config::Child {
            command: vec!["{subject}".to_owned(), argument.to_owned()],
            env: vec![("DATA".to_owned(), "/data/{user}".to_owned())],
            cwd: None,
            max_memory: None,
            max_cpu: None,
            max_processes: None,
            max_files: None,
            isolation: config::Isolation::Off,
            stderr_rate: 1,
            stop_grace: std::time::Duration::ZERO,
        }
    }

    fn caller(name: &str) -> Placeholders {
        Placeholders { subject: Some(name.to_owned()), user: Some(name.to_owned()), group: None }
    }

    #[test]
    fn a103_the_program_is_never_filled_and_values_are_not_filled_again() {
        let filled = fill(&child("--db={subject}.db"), &caller("{user}")).unwrap();
        assert_eq!(filled.command, ["{subject}", "--db==7Buser=7D.db"]);
        assert_eq!(filled.env[0].1, "/data/=7Buser=7D");
        assert_eq!(fill(&child("{group}"), &caller("a")), Err(CommandError::Missing("{group}")));
        assert_eq!(fill(&child("x"), &caller("")), Err(CommandError::Missing("{user}")));
        assert_eq!(fill(&child("x"), &caller(&"a".repeat(201))), Err(CommandError::TooLong("{user}")));
    }

    proptest! {
        #[test]
        fn a_value_is_one_path_segment_and_distinct(a in ".{1,40}", b in ".{1,40}") {
            let (safe_a, safe_b) = (path_safe(&a), path_safe(&b));
            let is_unsafe = safe_a.contains(|letter: char| "/\\\0 ${'".contains(letter));
            prop_assert!(!is_unsafe);
            prop_assert!(!safe_a.starts_with(['.', '-']) && !safe_a.is_empty());
            prop_assert_eq!(safe_a == safe_b, a == b);
        }

        /// Two callers get different strings, because `config::placeholders` requires a separator between two
        /// placeholders that occurs in none of their values.
        #[test]
        fn two_values_with_a_separator_that_is_in_no_value_are_distinct(
            a in "[-a=+/.]{1,4}", b in "[-a=+/.]{1,4}", c in "[-a=+/.]{1,4}", d in "[-a=+/.]{1,4}",
            separator in "[-a=.]{0,2}[+/,: ~][-a=.]{0,2}",
        ) {
            let text = format!("{{user}}{separator}{{group}}");
            let filled = |user: &str, group: &str| {
                let caller = Placeholders { user: Some(user.to_owned()), group: Some(group.to_owned()), subject: None };
                fill_text(&text, &caller).unwrap()
            };
            prop_assert_eq!(filled(&a, &b) == filled(&c, &d), (&a, &b) == (&c, &d));
        }
    }
}
