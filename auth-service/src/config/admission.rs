//! The users who are admitted to the services, and the policy file.

use std::fmt::Display;
use std::path::PathBuf;

use serde::Deserialize;

use crate::domain::account::{Group, Username};
use crate::domain::email::EmailDomain;
use crate::policy::{PolicySource, Who};

use super::{Environment, Problems};

#[derive(Default, Deserialize)]
struct Raw {
    policy_file: Option<PathBuf>,
    allowed_users: Option<String>,
    allowed_groups: Option<String>,
    allowed_email_domains: Option<String>,
}

/// Reads `POLICY_FILE` and the lists `ALLOWED_USERS`, `ALLOWED_GROUPS` and `ALLOWED_EMAIL_DOMAINS`.
pub(super) fn read(environment: &Environment, problems: &mut Problems) -> PolicySource {
    let raw: Raw = environment.concern(problems);
    let allowed = Who {
        users: list(problems, "ALLOWED_USERS", raw.allowed_users, Username::try_from),
        groups: list(problems, "ALLOWED_GROUPS", raw.allowed_groups, Group::try_from),
        email_domains: list(problems, "ALLOWED_EMAIL_DOMAINS", raw.allowed_email_domains, |text| {
            EmailDomain::parse(&text)
        }),
    };
    PolicySource { file: raw.policy_file, allowed }
}

/// Reads a list separated by commas. A list without entries is a problem, because it could be meant to allow
/// nobody or everybody.
fn list<T, E: Display>(
    problems: &mut Problems,
    variable: &str,
    text: Option<String>,
    parse: impl Fn(String) -> Result<T, E>,
) -> Vec<T> {
    let Some(text) = text else { return Vec::new() };
    let mut entries = Vec::new();
    for entry in text.split(',').map(str::trim).filter(|entry| !entry.is_empty()) {
        match parse(entry.to_owned()) {
            Ok(value) => entries.push(value),
            Err(error) => problems.add(variable, format_args!("{entry:?} cannot be used: {error}")),
        }
    }
    if entries.is_empty() {
        problems.add_about(
            variable,
            "has no entries; add at least one, or unset it to admit everyone who can log in",
        );
    }
    entries
}
