//! Accounts. One row maps the user name to the subject, and the account is stored under its subject.

use async_trait::async_trait;

use crate::domain::account::{Account, Group, StoredPassword, Subject, Username};
use crate::store::{AccountStore, Addition, Change, Deletion, StoreError};

use super::rows::Rows;
use super::tables::Table;
use super::writable::Writable;
use super::{EmbeddedStore, name_key};

#[async_trait]
impl AccountStore for EmbeddedStore {
    async fn add_account(&self, account: &Account) -> Result<Addition, StoreError> {
        let account = account.clone();
        self.writer.write(move |rows| add(rows, &account)).await
    }

    async fn remove_account(&self, subject: &Subject) -> Result<Deletion, StoreError> {
        let subject = subject.clone();
        self.writer.write_even_late(move |rows| remove(rows, &subject)).await
    }

    async fn account_named(&self, username: &Username) -> Result<Option<Account>, StoreError> {
        self.read(|rows| named(rows, username))
    }

    async fn account(&self, subject: &Subject) -> Result<Option<Account>, StoreError> {
        self.read(|rows| rows.get(Table::Accounts, subject.as_str()))
    }

    async fn accounts(&self) -> Result<Vec<Account>, StoreError> {
        let mut accounts: Vec<Account> = self.read(|rows| rows.all(Table::Accounts))?;
        accounts.sort_by(|a, b| a.username.cmp(&b.username));
        Ok(accounts)
    }

    async fn replace_password(
        &self,
        subject: &Subject,
        old: &StoredPassword,
        new: &StoredPassword,
    ) -> Result<Option<Account>, StoreError> {
        let (subject, old, new) = (subject.clone(), old.clone(), new.clone());
        self.writer.take_away(move |rows| replace_password(rows, &subject, &old, &new)).await
    }

    async fn set_account_disabled(&self, subject: &Subject, disabled: bool) -> Result<Change, StoreError> {
        let subject = subject.clone();
        let switch = move |account: &mut Account| account.set_disabled(disabled);
        let work = move |rows: &Writable<'_>| change(rows, &subject, switch);
        if disabled { self.writer.take_away(work).await } else { self.writer.write(work).await }
    }

    async fn set_account_groups(&self, subject: &Subject, groups: &[Group]) -> Result<Change, StoreError> {
        let (subject, groups) = (subject.clone(), groups.to_vec());
        let replace = move |account: &mut Account| account.groups.clone_from(&groups);
        self.writer.take_away(move |rows| change(rows, &subject, &replace)).await
    }

    async fn set_account_email(&self, subject: &Subject, email: Option<&str>) -> Result<Change, StoreError> {
        let (subject, email) = (subject.clone(), email.map(str::to_owned));
        let replace = move |account: &mut Account| account.email.clone_from(&email);
        self.writer.write(move |rows| change(rows, &subject, &replace)).await
    }
}

/// Adds an account, if its user name is free.
fn add(rows: &Writable<'_>, account: &Account) -> Result<Addition, StoreError> {
    let name = name_key(&account.username);
    if rows.get::<Subject>(Table::Usernames, &name)?.is_some() {
        return Ok(Addition::Taken);
    }
    rows.put(Table::Usernames, &name, &account.subject, None)?;
    rows.put(Table::Accounts, account.subject.as_str(), account, None)?;
    Ok(Addition::Added)
}

fn remove(rows: &Writable<'_>, subject: &Subject) -> Result<Deletion, StoreError> {
    let Some(account) = rows.get::<Account>(Table::Accounts, subject.as_str())? else {
        return Ok(Deletion::Missing);
    };
    rows.remove(Table::Usernames, &name_key(&account.username))?;
    rows.remove(Table::Accounts, subject.as_str())?;
    Ok(Deletion::Deleted)
}

fn named(rows: &impl Rows, username: &Username) -> Result<Option<Account>, StoreError> {
    let subject: Option<Subject> = rows.get(Table::Usernames, &name_key(username))?;
    subject.map_or(Ok(None), |subject| rows.get(Table::Accounts, subject.as_str()))
}

/// Replaces a password if it is still `old`. Returns the changed account if it was replaced.
fn replace_password(
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

/// Applies `change` to an account.
fn change(
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
