//! The lists of each account's rows, one list for each kind of row.

use crate::domain::account::{LoginSession, Subject};
use crate::domain::clock::UnixTime;
use crate::domain::grant::{AuthorizationCode, Grant};
use crate::domain::grant_id::GrantId;
use crate::domain::opaque_token::TokenHash;
use crate::store::StoreError;
use crate::store::holdings::{Held, Holding, insert_imported, leaving};
use crate::store::rules::CodeRow;

use super::rows::Rows;
use super::tables::Table;
use super::writable::Writable;

/// An entry in a list of the account `subject`.
pub(super) struct New<'a> {
    holding: Holding,
    subject: &'a Subject,
    held: Held,
}

impl<'a> New<'a> {
    pub(super) fn code(hash: &TokenHash, code: &'a AuthorizationCode, at: UnixTime) -> Self {
        let held = Held::code(hash, code, at);
        Self { holding: Holding::Codes, subject: &code.subject, held }
    }

    pub(super) fn grant(grant: &'a Grant, at: UnixTime) -> Self {
        let held = Held::grant(grant, at);
        Self { holding: Holding::Grants, subject: &grant.subject, held }
    }

    pub(super) fn session(session: &'a LoginSession) -> Self {
        let held = Held::session(session);
        Self { holding: Holding::Sessions, subject: &session.subject, held }
    }

    pub(super) fn consent(key: &str, subject: &'a Subject, at: UnixTime, until: UnixTime) -> Self {
        Self { holding: Holding::Consents, subject, held: Held::consent(key, at, until) }
    }

    /// The key of the list.
    fn list(&self) -> String {
        list_key(self.holding, self.subject)
    }
}

fn list_key(holding: Holding, subject: &Subject) -> String {
    format!("{}:{subject}", holding.name())
}

/// The grants in the list of an account that have not expired.
pub(super) fn grants(rows: &impl Rows, subject: &Subject, now: UnixTime) -> Result<Vec<Grant>, StoreError> {
    let list: Option<Vec<Held>> = rows.get(Table::Holdings, &list_key(Holding::Grants, subject))?;
    let found = list.unwrap_or_default().into_iter();
    let grants = found.map(|held| rows.get_live::<Grant>(Table::Grants, held.row(), now));
    grants.filter_map(Result::transpose).collect()
}

/// Adds a row to its list, or moves it to the end of the list, and deletes nothing.
pub(super) fn note(rows: &Writable<'_>, new: &New<'_>) -> Result<(), StoreError> {
    change(rows, new, |list| (list, ()))
}

/// Adds an imported row to its list, at the position that corresponds to its time.
pub(super) fn enter(rows: &Writable<'_>, new: &New<'_>, now: UnixTime) -> Result<(), StoreError> {
    change(rows, new, |mut list| {
        if let Some(held) = list.pop() {
            insert_imported(&mut list, held, now);
        }
        (list, ())
    })
}

/// Adds a row to its list, and deletes the rows that then exceed the limits. Returns the grants among the deleted
/// rows.
pub(super) fn hold(rows: &Writable<'_>, new: &New<'_>) -> Result<Vec<Grant>, StoreError> {
    let goes = change(rows, new, |mut list| {
        let goes = leaving(new.holding, list.clone(), &new.held.name, new.held.at);
        list.retain(|held| !goes.contains(held));
        (list, goes)
    })?;
    let mut grants = Vec::new();
    for held in &goes {
        match new.holding {
            Holding::Codes => remove_code(rows, held)?,
            Holding::Grants => {
                // A row that cannot be read is also deleted.
                let grant = rows.get_live::<Grant>(Table::Grants, held.row(), new.held.at);
                grants.extend(grant.unwrap_or_default());
                rows.remove(Table::Grants, held.row())?;
            }
            Holding::Sessions => rows.remove(Table::Sessions, held.row())?,
            Holding::Consents => rows.remove(Table::Consents, held.row())?,
        }
    }
    Ok(grants)
}

/// Deletes a grant and its entry. A row that cannot be read is also deleted.
pub(super) fn remove_grant(rows: &Writable<'_>, id: &GrantId) -> Result<(), StoreError> {
    let found = rows.get::<Grant>(Table::Grants, id.as_str()).unwrap_or_default();
    rows.remove(Table::Grants, id.as_str())?;
    found.map_or(Ok(()), |grant| release(rows, &New::grant(&grant, grant.created_at)))
}

/// Deletes a login session and its entry. A row that cannot be read is also deleted.
pub(super) fn remove_session(rows: &Writable<'_>, key: &str) -> Result<(), StoreError> {
    let found = rows.get::<LoginSession>(Table::Sessions, key).unwrap_or_default();
    rows.remove(Table::Sessions, key)?;
    found.map_or(Ok(()), |session| release(rows, &New::session(&session)))
}

/// Removes the entry of a row that has been deleted or used up. Entries are compared by name only. While the
/// database cannot be written, the entry stays until its expiry, because the overlay has space only for changes
/// that take access away.
pub(super) fn release(rows: &Writable<'_>, gone: &New<'_>) -> Result<(), StoreError> {
    if rows.is_beside() {
        return Ok(());
    }
    let key = gone.list();
    let Some(list) = rows.get::<Vec<Held>>(Table::Holdings, &key)? else { return Ok(()) };
    let stays: Vec<_> = list.iter().filter(|held| held.name != gone.held.name).collect();
    if stays.len() == list.len() {
        return Ok(());
    }
    rows.put(Table::Holdings, &key, &stays, rows.end(Table::Holdings, &key)?)
}

/// Deletes a code, unless it has been redeemed. Redeemed codes are kept, so that a replay is detected.
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
    let key = new.list();
    let before = rows.end(Table::Holdings, &key)?;
    let mut list: Vec<Held> = rows.get(Table::Holdings, &key)?.unwrap_or_default();
    list.retain(|held| held.name != new.held.name);
    list.push(new.held.clone());
    let (list, outcome) = change(list);
    rows.put(Table::Holdings, &key, &list, before.max(Some(new.held.until)))?;
    Ok(outcome)
}
