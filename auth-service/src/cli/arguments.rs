//! Reads arguments that several commands share.

use std::path::Path;

use anyhow::{Context, bail};

use auth_service::domain::account::{Group, Username};

/// The error for an unreadable file that was named by an argument.
pub(super) fn unreadable(path: &Path, error: &std::io::Error) -> anyhow::Error {
    anyhow::anyhow!("cannot read {}: {error}; name a regular file that this user can read", path.display())
}

pub(super) fn username(text: &str) -> anyhow::Result<Username> {
    Username::try_from(text.to_owned()).with_context(|| format!("{text:?} is not a valid user name"))
}

pub(super) fn email(text: Option<String>) -> anyhow::Result<Option<String>> {
    if text
        .as_ref()
        .is_some_and(|email| email.matches('@').count() != 1 || !email.is_ascii() || email.len() > 254)
    {
        bail!("an email must be one plain ASCII address such as ana@example.com");
    }
    Ok(text)
}

pub(super) fn groups(names: Vec<String>) -> anyhow::Result<Vec<Group>> {
    Ok(names.into_iter().map(Group::try_from).collect::<Result<Vec<_>, _>>()?)
}
