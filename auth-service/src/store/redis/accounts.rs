//! Accounts. A pointer row maps the user name to the subject, and an account exists only if its pointer does.

use async_trait::async_trait;
use fred::types::Value;
use futures_util::future::try_join_all;

use crate::domain::account::{Account, Group, StoredPassword, Subject, Username};
use crate::store::{AccountStore, Addition, Change, Deletion, StoreError};

use super::RedisStore;
use super::cells::{Cells, Found};
use super::tries::Tries;

#[async_trait]
impl AccountStore for RedisStore {
    async fn add_account(&self, account: &Account) -> Result<Addition, StoreError> {
        add(&self.cells, account).await
    }

    async fn remove_account(&self, subject: &Subject) -> Result<Deletion, StoreError> {
        remove(&self.cells, subject).await
    }

    async fn account_named(&self, username: &Username) -> Result<Option<Account>, StoreError> {
        named(&self.cells, username).await
    }

    async fn account(&self, subject: &Subject) -> Result<Option<Account>, StoreError> {
        by_subject(&self.cells, subject).await
    }

    async fn accounts(&self) -> Result<Vec<Account>, StoreError> {
        all(&self.cells).await
    }

    async fn replace_password(
        &self,
        subject: &Subject,
        old: &StoredPassword,
        new: &StoredPassword,
    ) -> Result<Option<Account>, StoreError> {
        replace_password(&self.cells, subject, old, new).await
    }

    async fn set_account_disabled(&self, subject: &Subject, disabled: bool) -> Result<Change, StoreError> {
        change(&self.cells, subject, |account| account.set_disabled(disabled)).await
    }

    async fn set_account_groups(&self, subject: &Subject, groups: &[Group]) -> Result<Change, StoreError> {
        change(&self.cells, subject, |account| account.groups = groups.to_vec()).await
    }

    async fn set_account_email(&self, subject: &Subject, email: Option<&str>) -> Result<Change, StoreError> {
        change(&self.cells, subject, |account| account.email = email.map(str::to_owned)).await
    }
}

/// Maximum number of rows that are read at the same time.
const CHUNK: usize = 256;

async fn add(cells: &Cells, account: &Account) -> Result<Addition, StoreError> {
    let name = cells.keys.username(&account.username);
    if cells.read::<Subject>(&name).await?.is_some() {
        return Ok(Addition::Taken);
    }
    // The account is written before the pointer. An interruption in between leaves an account without a pointer,
    // which does not count.
    let row = cells.keys.account(&account.subject);
    if !cells.swap(&row, None::<&Found<()>>, account, None).await? {
        return Ok(Addition::Taken);
    }
    let member: Value = account.subject.as_str().into();
    let index = cells.keys.account_index();
    cells.connection.run::<()>("SADD", vec![index.as_str().into(), member.clone()]).await?;
    if cells.swap(&name, None::<&Found<()>>, &account.subject, None).await? {
        return Ok(Addition::Added);
    }
    cells.remove(&row).await?;
    cells.connection.run::<()>("SREM", vec![index.into(), member]).await?;
    Ok(Addition::Taken)
}

async fn remove(cells: &Cells, subject: &Subject) -> Result<Deletion, StoreError> {
    let Some(account) = by_subject(cells, subject).await? else {
        return Ok(Deletion::Missing);
    };
    // The pointer is removed first, because an account exists only with its pointer.
    cells.remove(&cells.keys.username(&account.username)).await?;
    let is_deleted = cells.take_away(&cells.keys.account(subject)).await?;
    let member: Value = subject.as_str().into();
    cells.connection.run::<()>("SREM", vec![cells.keys.account_index().into(), member]).await?;
    Ok(if is_deleted { Deletion::Deleted } else { Deletion::Missing })
}

async fn named(cells: &Cells, username: &Username) -> Result<Option<Account>, StoreError> {
    match cells.read::<Subject>(&cells.keys.username(username)).await? {
        Some(subject) => by_subject(cells, &subject.value).await,
        // If Redis has been emptied, this is an error: the user must not be told that the name is wrong.
        None => cells.absent(None).await,
    }
}

pub(super) async fn by_subject(cells: &Cells, subject: &Subject) -> Result<Option<Account>, StoreError> {
    Ok(cells.read(&cells.keys.account(subject)).await?.map(|found| found.value))
}

async fn all(cells: &Cells) -> Result<Vec<Account>, StoreError> {
    let subjects: Vec<String> =
        cells.connection.run("SMEMBERS", vec![cells.keys.account_index().into()]).await?;
    let mut accounts = Vec::with_capacity(subjects.len());
    for chunk in subjects.chunks(CHUNK) {
        let listed = chunk.iter().map(|subject| listed(cells, subject));
        accounts.extend(try_join_all(listed).await?.into_iter().flatten());
    }
    accounts.sort_by(|a, b| a.username.cmp(&b.username));
    Ok(accounts)
}

/// The account of an index entry, if its user name points to it.
async fn listed(cells: &Cells, subject: &str) -> Result<Option<Account>, StoreError> {
    let subject: Subject = serde_json::from_value(subject.into()).map_err(|_| StoreError::Unreadable)?;
    let Some(account) = by_subject(cells, &subject).await? else {
        return Ok(None);
    };
    let led_to = cells.read::<Subject>(&cells.keys.username(&account.username)).await?;
    Ok(led_to.filter(|found| found.value == subject).map(|_| account))
}

async fn replace_password(
    cells: &Cells,
    subject: &Subject,
    old: &StoredPassword,
    new: &StoredPassword,
) -> Result<Option<Account>, StoreError> {
    let key = cells.keys.account(subject);
    let mut tries = Tries::default();
    loop {
        tries.next().await?;
        let found = cells.read::<Account>(&key).await?;
        let Some(found) = found.filter(|found| found.value.password == *old) else {
            return Ok(None);
        };
        let mut account = found.value.clone();
        account.set_password(new);
        if cells.swap_although_full(&key, &found, &account).await? {
            cells.count_change().await?;
            return Ok(Some(account));
        }
    }
}

/// Applies `change` to an account.
async fn change(
    cells: &Cells,
    subject: &Subject,
    change: impl Fn(&mut Account),
) -> Result<Change, StoreError> {
    let key = cells.keys.account(subject);
    let mut tries = Tries::default();
    loop {
        tries.next().await?;
        let Some(found) = cells.read::<Account>(&key).await? else {
            return Ok(Change::Missing);
        };
        let mut account = found.value.clone();
        change(&mut account);
        if cells.swap_although_full(&key, &found, &account).await? {
            // The change might have disabled the account or removed it from a group.
            cells.count_change().await?;
            return Ok(Change::Changed);
        }
    }
}
