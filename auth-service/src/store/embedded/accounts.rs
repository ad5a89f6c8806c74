//! Accounts. One row maps the user name to the subject, and the account is stored under its subject.

use crate::domain::account::{Account, StoredPassword, Subject, Username};
use crate::store::{Addition, Change, Deletion, StoreError};

use super::name_key;
use super::rows::Rows;
use super::tables::Table;
use super::writable::Writable;

/// Adds an account, if its user name is free.
pub(super) fn add(rows: &Writable<'_>, account: &Account) -> Result<Addition, StoreError> {
    let name = name_key(&account.username);
    if rows.get::<Subject>(Table::Usernames, &name)?.is_some() {
        return Ok(Addition::Taken);
    }
    rows.put(Table::Usernames, &name, &account.subject, None)?;
    rows.put(Table::Accounts, account.subject.as_str(), account, None)?;
    Ok(Addition::Added)
}

/// Removes an account.
pub(super) fn remove(rows: &Writable<'_>, subject: &Subject) -> Result<Deletion, StoreError> {
    let Some(account) = rows.get::<Account>(Table::Accounts, subject.as_str())? else {
        return Ok(Deletion::Missing);
    };
    rows.remove(Table::Usernames, &name_key(&account.username))?;
    rows.remove(Table::Accounts, subject.as_str())?;
    Ok(Deletion::Deleted)
}

pub(super) fn named(rows: &impl Rows, username: &Username) -> Result<Option<Account>, StoreError> {
    let subject: Option<Subject> = rows.get(Table::Usernames, &name_key(username))?;
    subject.map_or(Ok(None), |subject| rows.get(Table::Accounts, subject.as_str()))
}

/// Replaces a password if it is still `old`. Returns the changed account if it was replaced.
pub(super) fn replace_password(
    rows: &Writable<'_>,
    subject: &Subject,
    old: &StoredPassword,
    new: &StoredPassword,
) -> Result<Option<Account>, StoreError> {
    let account: Option<Account> = rows.get(Table::Accounts, subject.as_str())?;
    let Some(mut account) = account.filter(|account| account.password == *old) else {
        return Ok(None);
    };
    account.set_password(new);
    rows.put(Table::Accounts, subject.as_str(), &account, None)?;
    Ok(Some(account))
}

/// Changes an account.
pub(super) fn change(
    rows: &Writable<'_>,
    subject: &Subject,
    change: impl Fn(&mut Account),
) -> Result<Change, StoreError> {
    let Some(mut account) = rows.get::<Account>(Table::Accounts, subject.as_str())? else {
        return Ok(Change::Missing);
    };
    change(&mut account);
    rows.put(Table::Accounts, subject.as_str(), &account, None)?;
    Ok(Change::Changed)
}
