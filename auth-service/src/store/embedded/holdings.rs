//! The lists of what each account holds, one of each kind.

use crate::domain::account::{LoginSession, Subject};
use crate::domain::clock::UnixTime;
use crate::domain::grant::{AuthorizationCode, Grant};
use crate::domain::opaque_token::TokenHash;
use crate::store::holdings::{Held, Holding, leaving};
use crate::store::rules::CodeRow;
use crate::store::{StoreError, row};

use super::rows::Rows;
use super::tables::Table;
use super::writable::Writable;

/// A row of the account `subject` that exists until `until`.
pub(super) struct New<'a> {
    holding: Holding,
    subject: &'a Subject,
    held: Held,
    until: UnixTime,
}

impl<'a> New<'a> {
    pub(super) fn code(hash: &TokenHash, code: &'a AuthorizationCode, at: UnixTime) -> Self {
        let held = Held::code(hash, code, at);
        Self { holding: Holding::Codes, subject: &code.subject, held, until: code.expires_at }
    }

    pub(super) fn grant(grant: &'a Grant, at: UnixTime) -> Self {
        let held = Held::grant(grant, at);
        Self { holding: Holding::Grants, subject: &grant.subject, held, until: grant.expires_at }
    }

    pub(super) fn session(session: &'a LoginSession) -> Self {
        let held = Held::session(session);
        Self { holding: Holding::Sessions, subject: &session.subject, held, until: session.expires_at }
    }

    pub(super) fn consent(key: &str, subject: &'a Subject, at: UnixTime, until: UnixTime) -> Self {
        Self { holding: Holding::Consents, subject, held: Held::consent(key, at), until }
    }
}

/// Adds a row to its list, or moves it to its new time, and deletes nothing.
pub(super) fn note(rows: &Writable<'_>, new: &New<'_>) -> Result<(), StoreError> {
    change(rows, new, |list| (list, ()))
}

/// Adds a row to its list, and deletes the rows that are removed for it. Returns the grants among them.
pub(super) fn hold(rows: &Writable<'_>, new: &New<'_>) -> Result<Vec<Grant>, StoreError> {
    let goes = change(rows, new, |mut list| {
        let goes = leaving(new.holding, list.clone(), &new.held.name);
        list.retain(|held| !goes.contains(held));
        (list, goes)
    })?;
    let mut grants = Vec::new();
    for held in &goes {
        match new.holding {
            Holding::Codes => remove_code(rows, held)?,
            Holding::Grants => {
                grants.extend(rows.get_live::<Grant>(Table::Grants, held.row(), new.held.at)?);
                rows.remove(Table::Grants, held.row())?;
            }
            Holding::Sessions => rows.remove(Table::Sessions, held.row())?,
            Holding::Consents => rows.remove(Table::Consents, held.row())?,
        }
    }
    Ok(grants)
}

/// Deletes a code, unless it was redeemed. Redeemed codes are kept, so that a replay is noticed.
fn remove_code(rows: &Writable<'_>, held: &Held) -> Result<(), StoreError> {
    let Some((_, key)) = held.code_parts() else { return Ok(()) };
    match rows.get::<CodeRow>(Table::Codes, key)? {
        Some(row) if !row.redeemed => rows.remove(Table::Codes, key),
        _ => Ok(()),
    }
}

fn change<T>(
    rows: &Writable<'_>,
    new: &New<'_>,
    change: impl FnOnce(Vec<Held>) -> (Vec<Held>, T),
) -> Result<T, StoreError> {
    let key = format!("{}:{}", new.holding.name(), new.subject);
    let before = rows.raw(Table::Holdings, &key)?.and_then(|row| row::expiry(&row));
    let mut list: Vec<Held> = rows.get(Table::Holdings, &key)?.unwrap_or_default();
    list.retain(|held| held.name != new.held.name);
    list.push(new.held.clone());
    let (list, outcome) = change(list);
    rows.put(Table::Holdings, &key, &list, before.max(Some(new.until)))?;
    Ok(outcome)
}
