//! The embedded store: one redb file, one process, every acknowledged write on disk before the answer.

mod clients;
mod files;
mod pending;
mod rows;
mod writer;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use redb::{Database, DatabaseError, ReadableDatabase};

use crate::domain::account::{Account, Group, LoginSession, StoredPassword, Subject, Username};
use crate::domain::client::{Client, ClientId, ClientUse};
use crate::domain::clock::UnixTime;
use crate::domain::grant::{AuthorizationCode, Grant, GrantId, RefreshUse};
use crate::domain::opaque_token::TokenHash;
use crate::keys::seal::{Purpose, Sealer, StoreKey};
use crate::keys::set::KeySet;

use super::changes::Changes;
use super::rules::{self, CodeRow};
use super::{FoundCode, Redemption, Registration, RegistrationTerms, Rotation, Store, StoreError, Successor};
use rows::{Reader, Rows, Table, Writable};
use writer::Writer;

pub use files::{OpenError, exists, store_key};

/// See the module's text.
pub struct EmbeddedStore {
    database: Arc<Database>,
    sealer: Arc<Sealer>,
    changes: Arc<Changes>,
    writer: Writer,
}

impl EmbeddedStore {
    /// Opens or creates the store in `directory`.
    ///
    /// # Errors
    /// When the directory cannot be used, another process holds the store, or the key is not the one it was
    /// written with.
    pub fn open(directory: &Path, key: &StoreKey) -> Result<Self, OpenError> {
        let path = files::store_file(directory)?;
        let database = Database::create(&path).map_err(|error| match error {
            DatabaseError::DatabaseAlreadyOpen => OpenError::InUse(path.clone()),
            other => OpenError::Damaged(path.clone(), other.to_string()),
        })?;
        let database = Arc::new(database);
        let sealer = Arc::new(Sealer::new(key, Purpose::StoredValue)?);
        let damaged = |error: StoreError| match error {
            StoreError::Unreadable => OpenError::WrongKey(path.clone()),
            StoreError::Unavailable(reason) => OpenError::Damaged(path.clone(), reason),
        };
        rows::prepare(&database, &sealer).map_err(damaged)?;
        let changes = Arc::new(Changes::of_one_process());
        let writer = Writer::start(Arc::clone(&database), Arc::clone(&sealer), Arc::clone(&changes))
            .map_err(damaged)?;
        Ok(Self { database, sealer, changes, writer })
    }

    async fn change_account(
        &self,
        subject: &Subject,
        change: impl Fn(&mut Account) + Send + 'static,
    ) -> Result<bool, StoreError> {
        let subject = subject.clone();
        self.writer
            .write(move |rows| {
                let Some(mut account) = rows.get::<Account>(Table::Accounts, subject.as_str())? else {
                    return Ok(false);
                };
                change(&mut account);
                rows.put(Table::Accounts, subject.as_str(), &account, None)?;
                Ok(true)
            })
            .await
    }

    // Reads come from redb's page cache or one page of disk: microseconds, so they stay on the caller's thread.
    fn read<T>(&self, look: impl FnOnce(&Reader<'_>) -> Result<T, StoreError>) -> Result<T, StoreError> {
        let transaction = self.database.begin_read().map_err(rows::unavailable)?;
        look(&Reader::new(&transaction, &self.sealer))
    }
}

/// The one row of signing keys.
const SIGNING: &str = "signing";

/// Keys are not encrypted, and names are people's own.
fn name_key(username: &Username) -> String {
    TokenHash::of(username.as_str().as_bytes()).text()
}

fn live_grant(rows: &impl Rows, id: &GrantId, now: UnixTime) -> Result<Option<Grant>, StoreError> {
    let grant: Option<Grant> = rows.get(Table::Grants, id.as_str())?;
    Ok(grant.filter(|grant| !grant.is_expired(now)))
}

fn is_held(rows: &impl Rows, grant: &Grant, now: UnixTime) -> Result<bool, StoreError> {
    let client = clients::live(rows, &grant.client_id, now)?;
    Ok(client.is_some_and(|client| grant.is_held_by(&client)))
}

fn grant_of_refresh(rows: &impl Rows, hash: &TokenHash, now: UnixTime) -> Result<Option<Grant>, StoreError> {
    let id: Option<GrantId> = rows.get_live(Table::RefreshTokens, &hash.text(), now)?;
    id.map_or(Ok(None), |id| live_grant(rows, &id, now))
}

fn put_grant(rows: &Writable<'_>, grant: &Grant) -> Result<(), StoreError> {
    rows.put(Table::Grants, grant.id.as_str(), grant, Some(grant.expires_at))?;
    if let Some(refresh) = &grant.refresh {
        rows.put(Table::RefreshTokens, &refresh.current.text(), &grant.id, Some(grant.expires_at))?;
    }
    Ok(())
}

#[async_trait]
impl Store for EmbeddedStore {
    async fn register_client(
        &self,
        client: &Client,
        ids: &[ClientId],
        terms: &RegistrationTerms,
    ) -> Result<Registration, StoreError> {
        // A client that registers on every connect costs a read, not a write.
        if let Some(known) = self.read(|rows| clients::known_and_shared(rows, client, ids, terms.now))? {
            return Ok(Registration::Known(known));
        }
        let (client, ids, terms) = (client.clone(), ids.to_vec(), *terms);
        self.writer.write(move |rows| clients::register(rows, &client, &ids, &terms)).await
    }

    async fn add_client(&self, client: &Client, now: UnixTime) -> Result<bool, StoreError> {
        let client = client.clone();
        self.writer.write(move |rows| clients::enter(rows, &client, now)).await
    }

    async fn client(&self, id: &ClientId, now: UnixTime) -> Result<Option<Client>, StoreError> {
        self.read(|rows| clients::live(rows, id, now))
    }

    async fn clients(
        &self,
        after: Option<&ClientId>,
        most: usize,
        now: UnixTime,
    ) -> Result<Vec<Client>, StoreError> {
        self.read(|rows| rows.page(Table::Clients, after.map(ClientId::as_str), most, now))
    }

    async fn update_client(&self, management: &TokenHash, updated: &Client) -> Result<bool, StoreError> {
        let (management, updated) = (*management, updated.clone());
        self.writer
            .write(move |rows| {
                clients::change(rows, &updated.id, |client| rules::update(client, &management, &updated))
            })
            .await
    }

    async fn set_client_disabled(&self, id: &ClientId, disabled: bool) -> Result<bool, StoreError> {
        let id = id.clone();
        let switch = move |client: &mut Client| {
            client.disabled = disabled;
            true
        };
        self.writer.write(move |rows| clients::change(rows, &id, switch)).await
    }

    async fn delete_client(&self, id: &ClientId) -> Result<bool, StoreError> {
        let id = id.clone();
        self.writer.write(move |rows| clients::remove(rows, &id)).await
    }

    async fn add_account(&self, account: &Account) -> Result<bool, StoreError> {
        let account = account.clone();
        self.writer
            .write(move |rows| {
                let name = name_key(&account.username);
                if rows.get::<Subject>(Table::Usernames, &name)?.is_some() {
                    return Ok(false);
                }
                rows.put(Table::Usernames, &name, &account.subject, None)?;
                rows.put(Table::Accounts, account.subject.as_str(), &account, None)?;
                Ok(true)
            })
            .await
    }

    async fn remove_account(&self, subject: &Subject) -> Result<bool, StoreError> {
        let subject = subject.clone();
        self.writer
            .write(move |rows| {
                let Some(account) = rows.get::<Account>(Table::Accounts, subject.as_str())? else {
                    return Ok(false);
                };
                rows.remove(Table::Usernames, &name_key(&account.username))?;
                rows.remove(Table::Accounts, subject.as_str())?;
                Ok(true)
            })
            .await
    }

    async fn account_named(&self, username: &Username) -> Result<Option<Account>, StoreError> {
        self.read(|rows| {
            let subject: Option<Subject> = rows.get(Table::Usernames, &name_key(username))?;
            subject.map_or(Ok(None), |subject| rows.get(Table::Accounts, subject.as_str()))
        })
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
        now: UnixTime,
    ) -> Result<bool, StoreError> {
        let (subject, old, new) = (subject.clone(), old.clone(), new.clone());
        self.writer
            .write(move |rows| {
                let account: Option<Account> = rows.get(Table::Accounts, subject.as_str())?;
                let Some(mut account) = account.filter(|account| account.password == old) else {
                    return Ok(false);
                };
                account.password = new.clone();
                account.logins_from = now;
                rows.put(Table::Accounts, subject.as_str(), &account, None)?;
                Ok(true)
            })
            .await
    }

    async fn set_account_disabled(&self, subject: &Subject, disabled: bool) -> Result<bool, StoreError> {
        self.change_account(subject, move |account| account.disabled = disabled).await
    }

    async fn set_account_groups(&self, subject: &Subject, groups: &[Group]) -> Result<bool, StoreError> {
        let groups = groups.to_vec();
        self.change_account(subject, move |account| account.groups.clone_from(&groups)).await
    }

    async fn set_account_email(&self, subject: &Subject, email: Option<&str>) -> Result<bool, StoreError> {
        let email = email.map(str::to_owned);
        self.change_account(subject, move |account| account.email.clone_from(&email)).await
    }

    async fn add_session(&self, session: &LoginSession) -> Result<(), StoreError> {
        let session = session.clone();
        self.writer
            .write(move |rows| {
                rows.put(Table::Sessions, &session.id.text(), &session, Some(session.expires_at))
            })
            .await
    }

    async fn session(&self, id: &TokenHash, now: UnixTime) -> Result<Option<LoginSession>, StoreError> {
        let session: Option<LoginSession> = self.read(|rows| rows.get(Table::Sessions, &id.text()))?;
        Ok(session.filter(|session| session.expires_at > now))
    }

    async fn end_session(&self, id: &TokenHash) -> Result<(), StoreError> {
        let key = id.text();
        self.writer.write(move |rows| rows.remove(Table::Sessions, &key)).await
    }

    async fn add_code(
        &self,
        approval: &str,
        hash: &TokenHash,
        code: &AuthorizationCode,
        used: &ClientUse,
    ) -> Result<bool, StoreError> {
        let (approval, key, code, used) = (approval.to_owned(), hash.text(), code.clone(), used.clone());
        self.writer
            .write(move |rows| {
                if rows.get_live::<String>(Table::Approvals, &approval, used.at)?.is_some() {
                    return Ok(false);
                }
                let Some(client) = clients::note_use(rows, &used)? else {
                    return Ok(false);
                };
                let row = CodeRow::new(&code, &client);
                rows.put(Table::Approvals, &approval, &key, Some(row.forget_at()))?;
                rows.put(Table::Codes, &key, &row, Some(row.forget_at()))?;
                Ok(true)
            })
            .await
    }

    async fn find_code(&self, hash: &TokenHash, now: UnixTime) -> Result<FoundCode, StoreError> {
        match self.read(|rows| rows.get_live::<CodeRow>(Table::Codes, &hash.text(), now))? {
            Some(row) if row.redeemed => {
                self.revoke_grant(&row.code.grant_id).await?;
                Ok(FoundCode::Replayed(row.code.grant_id))
            }
            Some(row) if row.code.expires_at > now => Ok(FoundCode::Live(row.code)),
            _ => Ok(FoundCode::Unknown),
        }
    }

    async fn redeem_code(
        &self,
        hash: &TokenHash,
        grant: &Grant,
        used: &ClientUse,
    ) -> Result<Redemption, StoreError> {
        let (key, grant, used) = (hash.text(), grant.clone(), used.clone());
        self.writer
            .write(move |rows| {
                let Some(mut row) = rows.get_live::<CodeRow>(Table::Codes, &key, used.at)? else {
                    return Ok(Redemption::Unknown);
                };
                if row.redeemed {
                    rows.remove(Table::Grants, row.code.grant_id.as_str())?;
                    return Ok(Redemption::Replayed);
                }
                if row.code.expires_at <= used.at || clients::note_use(rows, &used)?.is_none() {
                    return Ok(Redemption::Unknown);
                }
                row.redeemed = true;
                rows.put(Table::Codes, &key, &row, Some(row.forget_at()))?;
                put_grant(rows, &grant)?;
                Ok(Redemption::Redeemed)
            })
            .await
    }

    async fn add_grant(&self, grant: &Grant, used: &ClientUse) -> Result<bool, StoreError> {
        let (grant, used) = (grant.clone(), used.clone());
        self.writer
            .write(move |rows| {
                if clients::note_use(rows, &used)?.is_none() {
                    return Ok(false);
                }
                put_grant(rows, &grant)?;
                Ok(true)
            })
            .await
    }

    async fn grant(&self, id: &GrantId, now: UnixTime) -> Result<Option<Grant>, StoreError> {
        self.read(|rows| live_grant(rows, id, now))
    }

    async fn grant_of_refresh(&self, hash: &TokenHash, now: UnixTime) -> Result<Option<Grant>, StoreError> {
        self.read(|rows| grant_of_refresh(rows, hash, now))
    }

    async fn rotate_refresh(
        &self,
        presented: &TokenHash,
        successor: &Successor,
        used: &ClientUse,
        grace: Duration,
    ) -> Result<Rotation, StoreError> {
        let (presented, successor, used, now) = (*presented, successor.clone(), used.clone(), used.at);
        self.writer
            .write(move |rows| {
                let Some(mut grant) = grant_of_refresh(rows, &presented, now)? else {
                    return Ok(Rotation::Unknown);
                };
                match grant.judge_refresh(&presented, now, grace) {
                    RefreshUse::Current => {
                        if clients::note_use(rows, &used)?.is_none() {
                            return Ok(Rotation::Unknown);
                        }
                        grant.rotate(successor.hash, successor.sealed.clone(), now, successor.expires_at);
                        put_grant(rows, &grant)?;
                        // The used token stays known as long as the grant may live, so that its reuse is noticed.
                        rows.put(Table::RefreshTokens, &presented.text(), &grant.id, Some(grant.expires_at))?;
                        Ok(Rotation::Rotated(grant))
                    }
                    RefreshUse::Repeated { sealed_successor } => {
                        Ok(Rotation::Repeated { grant, sealed_successor })
                    }
                    RefreshUse::Reused => {
                        rows.remove(Table::Grants, grant.id.as_str())?;
                        Ok(Rotation::Reused(grant.id))
                    }
                }
            })
            .await
    }

    async fn revoke_grant(&self, id: &GrantId) -> Result<(), StoreError> {
        let id = id.clone();
        self.writer.write(move |rows| rows.remove(Table::Grants, id.as_str())).await
    }

    async fn held_grant(
        &self,
        id: &GrantId,
        client: &ClientId,
        subject: &Subject,
        now: UnixTime,
    ) -> Result<Option<(Grant, Account)>, StoreError> {
        self.read(|rows| {
            let grant = live_grant(rows, id, now)?;
            let client = clients::live(rows, client, now)?;
            let account = rows.get(Table::Accounts, subject.as_str())?;
            let Some((grant, account)) = rules::held(grant, client.as_ref(), account) else {
                return Ok(None);
            };
            if let Some(parent) = &grant.parent
                && !live_grant(rows, parent, now)?.map_or(Ok(false), |parent| is_held(rows, &parent, now))?
            {
                return Ok(None);
            }
            Ok(Some((grant, account)))
        })
    }

    async fn signing_keys(&self) -> Result<Option<KeySet>, StoreError> {
        self.read(|rows| rows.get(Table::Keys, SIGNING))
    }

    async fn replace_signing_keys(&self, seen: Option<u64>, changed: &KeySet) -> Result<bool, StoreError> {
        let changed = changed.clone();
        self.writer
            .write(move |rows| {
                let found: Option<KeySet> = rows.get(Table::Keys, SIGNING)?;
                if found.map(|set| set.revision()) != seen {
                    return Ok(false);
                }
                rows.put(Table::Keys, SIGNING, &changed, None)?;
                Ok(true)
            })
            .await
    }

    async fn remember_once(&self, name: &str, until: UnixTime, now: UnixTime) -> Result<bool, StoreError> {
        let name = name.to_owned();
        self.writer
            .write(move |rows| {
                if rows.get_live::<bool>(Table::Once, &name, now)?.is_some() {
                    return Ok(false);
                }
                rows.put(Table::Once, &name, &true, Some(until))?;
                Ok(true)
            })
            .await
    }

    async fn sweep(&self, now: UnixTime) -> Result<u64, StoreError> {
        let mut removed = 0;
        for table in Table::EXPIRING {
            let expired = self.read(|rows| rows.expired(table, now))?;
            for keys in expired.chunks(1000) {
                let keys = keys.to_vec();
                removed += self.writer.write(move |rows| rows.remove_expired(table, &keys, now)).await?;
            }
        }
        Ok(removed)
    }

    fn changes(&self) -> &Changes {
        &self.changes
    }

    async fn ping(&self) -> Result<(), StoreError> {
        self.read(|rows| rows.get::<String>(Table::Meta, rows::KEY_CHECK).map(|_| ()))
    }
}
