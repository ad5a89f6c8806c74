//! The embedded store: one redb file that one process uses. Every write is on disk before it is acknowledged.

mod accounts;
mod client_use;
mod clients;
mod current_overlay;
mod disk;
mod files;
mod grants;
mod holdings;
mod installation;
mod made;
mod overlay;
mod pending;
mod places;
mod portable;
mod reserve;
mod rows;
mod schema;
mod sole_clients;
mod sweep;
mod tables;
mod writable;
mod writer;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use redb::{DatabaseError, ReadableDatabase};

use crate::domain::account::{Account, Group, LoginSession, StoredPassword, Subject, Username};
use crate::domain::client::{Client, ClientId};
use crate::domain::client_use::ClientUse;
use crate::domain::clock::UnixTime;
use crate::domain::grant::{AuthorizationCode, Grant};
use crate::domain::grant_id::GrantId;
use crate::domain::opaque_token::TokenHash;
use crate::domain::refresh_token::HashedRefreshToken;
use crate::domain::replaced_token::StoreTime;
use crate::keys::seal::{Purpose, Sealer, StoreKey};
use crate::keys::set::KeySet;

use super::changes::Changes;
use super::records::SIGNING;
use super::rules::CodeRow;
use super::{
    Addition, Change, Deletion, Denial, DirectGrant, FoundCode, Issuance, LatestEnds, ManagedChange,
    OneTimeUse, Redemption, Registration, RegistrationTerms, Replacement, Rotation, Store, StoreError,
    Successor,
};
use current_overlay::CurrentOverlay;
use disk::Disk;
use places::Places;
use reserve::Reserve;
use rows::{Reader, Rows};
use schema::Unfit;
use tables::Table;
use writable::Writable;
use writer::{Parts, Writer};

pub use files::{OpenError, exists, has_key_file, readable_key_file, store_key};
pub use portable::EmbeddedTarget;

/// An open redb file that implements [`Store`].
pub struct EmbeddedStore {
    key: StoreKey,
    disk: Arc<Disk>,
    sealer: Arc<Sealer>,
    overlay: Arc<CurrentOverlay>,
    changes: Arc<Changes>,
    writer: Writer,
    swept_for_room: Pause,
    places: Places,
    /// Identifies the clock of this process. It is `None` if there was no randomness.
    clock: Option<u64>,
}

/// Minimum number of seconds between two searches for expired rows that can be removed to make room.
const PAUSE: u64 = 5;

/// Limits how often an action is performed. The value is the time of the last one, in seconds since 1970.
#[derive(Default)]
struct Pause(AtomicU64);

impl Pause {
    /// Whether enough time has passed since the last action for the caller to perform the next one. If several
    /// callers run at the same time, the result is true for only one of them.
    fn is_due(&self, now: UnixTime) -> bool {
        let due = |last: u64| (now.0 < last || now.0 >= last.saturating_add(PAUSE)).then_some(now.0);
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, due).is_ok()
    }
}

impl EmbeddedStore {
    /// Opens or creates the store in `directory`.
    ///
    /// # Errors
    /// Fails if the directory cannot be used, if another process has the store open, or if it was written with a
    /// different key.
    pub fn open(directory: &Path, key: &StoreKey) -> Result<Self, OpenError> {
        let path = files::store_file(directory)?;
        let store = Self::open_file(&path, key)?;
        files::mark_made(directory)?;
        Ok(store)
    }

    fn open_file(path: &Path, key: &StoreKey) -> Result<Self, OpenError> {
        let disk = Disk::open(path).map_err(|error| match error {
            DatabaseError::DatabaseAlreadyOpen => OpenError::InUse(path.to_owned()),
            other => OpenError::Damaged(path.to_owned(), other.to_string()),
        })?;
        let disk = Arc::new(disk);
        let sealer = Arc::new(Sealer::new(key, Purpose::StoredValue)?);
        let damaged = |error: StoreError| match error {
            StoreError::Unreadable => OpenError::WrongKey(path.to_owned()),
            StoreError::Unavailable(reason) | StoreError::NeedsOperator(reason) => {
                OpenError::Damaged(path.to_owned(), reason)
            }
        };
        let database = disk.database().map_err(damaged)?;
        schema::prepare(&database, &sealer).map_err(|unfit| match unfit {
            Unfit::Newer(found) => OpenError::Newer { path: path.to_owned(), found },
            Unfit::Store(error) => damaged(error),
        })?;
        let applied = schema::number_of_overlay(&database, &sealer).map_err(damaged)?;
        drop(database);
        disk.note_beginning();
        let reserve = Reserve::open(path, &sealer, applied).map_err(OpenError::ReserveLost)?;
        let overlay = Arc::new(CurrentOverlay::new(reserve));
        let changes = Arc::new(Changes::of_one_process());
        let writer = Writer::start(Parts {
            disk: Arc::clone(&disk),
            sealer: Arc::clone(&sealer),
            overlay: Arc::clone(&overlay),
            changes: Arc::clone(&changes),
        })
        .map_err(damaged)?;
        let (swept_for_room, places) = (Pause::default(), Places::default());
        let mut clock = [0; 8];
        let clock = aws_lc_rs::rand::fill(&mut clock).is_ok().then_some(u64::from_ne_bytes(clock));
        Ok(Self { key: key.clone(), disk, sealer, overlay, changes, writer, swept_for_room, places, clock })
    }

    /// The time of this use on a clock that cannot be set. It is comparable only while this process runs.
    fn time_at(&self, used: &ClientUse) -> Option<StoreTime> {
        self.clock.map(|clock| StoreTime { clock, at: UnixTime(used.bounds.up.as_secs()) })
    }

    // Reads are served from redb's page cache or from one page on disk. That takes microseconds, so they run
    // on the caller's thread.
    fn read<T>(&self, look: impl FnOnce(&Reader<'_>) -> Result<T, StoreError>) -> Result<T, StoreError> {
        let overlay = self.overlay.get();
        let found = self.disk.database().and_then(|database| {
            let transaction = database.begin_read().map_err(rows::unavailable)?;
            look(&Reader::new(&transaction, &self.sealer, &overlay))
        });
        if let Err(StoreError::Unavailable(_)) = &found {
            // The writer thread notices the failure and opens the database again.
            self.writer.try_disk();
        }
        found
    }
}

/// The key of a user name. It is hashed, because keys are not encrypted and user names are personal data.
fn name_key(username: &Username) -> String {
    hashed(username.as_str())
}

/// Hashes external text with SHA-256, for use as a key.
fn hashed(text: &str) -> String {
    TokenHash::of(text.as_bytes()).text()
}

#[async_trait]
impl Store for EmbeddedStore {
    async fn register_client(
        &self,
        client: &Client,
        ids: &[ClientId],
        terms: &RegistrationTerms,
    ) -> Result<Registration, StoreError> {
        // A client that registers on every connection therefore causes a read, but no write.
        if let Some(known) = self.read(|rows| clients::known_and_shared(rows, client, ids, terms.now))? {
            return Ok(Registration::Known(known));
        }
        let (client, ids, terms) = (client.clone(), ids.to_vec(), *terms);
        self.writer.write(move |rows| clients::register(rows, &client, &ids, &terms)).await
    }

    async fn registered_client(
        &self,
        client: &Client,
        ids: &[ClientId],
        now: UnixTime,
    ) -> Result<Option<Client>, StoreError> {
        self.read(|rows| clients::registered(rows, client, ids, now))
    }

    async fn add_client(&self, client: &Client, now: UnixTime) -> Result<Addition, StoreError> {
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

    async fn update_client(
        &self,
        management: &TokenHash,
        updated: &Client,
    ) -> Result<ManagedChange, StoreError> {
        let (management, updated) = (*management, updated.clone());
        self.writer.write(move |rows| clients::update(rows, &management, &updated)).await
    }

    async fn set_client_disabled(&self, id: &ClientId, disabled: bool) -> Result<Change, StoreError> {
        let id = id.clone();
        let work = move |rows: &Writable<'_>| clients::set_disabled(rows, &id, disabled);
        if disabled { self.writer.take_away(work).await } else { self.writer.write(work).await }
    }

    async fn delete_client(&self, id: &ClientId) -> Result<Deletion, StoreError> {
        let id = id.clone();
        self.writer.write_even_late(move |rows| clients::remove(rows, &id)).await
    }

    async fn delete_client_managed_by(
        &self,
        management: &TokenHash,
        id: &ClientId,
    ) -> Result<ManagedChange, StoreError> {
        let (management, id) = (*management, id.clone());
        self.writer.write_even_late(move |rows| clients::remove_managed_by(rows, &management, &id)).await
    }

    async fn add_account(&self, account: &Account) -> Result<Addition, StoreError> {
        let account = account.clone();
        self.writer.write(move |rows| accounts::add(rows, &account)).await
    }

    async fn remove_account(&self, subject: &Subject) -> Result<Deletion, StoreError> {
        let subject = subject.clone();
        self.writer.write_even_late(move |rows| accounts::remove(rows, &subject)).await
    }

    async fn account_named(&self, username: &Username) -> Result<Option<Account>, StoreError> {
        self.read(|rows| accounts::named(rows, username))
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
        self.writer.take_away(move |rows| accounts::replace_password(rows, &subject, &old, &new)).await
    }

    async fn set_account_disabled(&self, subject: &Subject, disabled: bool) -> Result<Change, StoreError> {
        let subject = subject.clone();
        let switch = move |account: &mut Account| account.set_disabled(disabled);
        let work = move |rows: &Writable<'_>| accounts::change(rows, &subject, switch);
        if disabled { self.writer.take_away(work).await } else { self.writer.write(work).await }
    }

    async fn set_account_groups(&self, subject: &Subject, groups: &[Group]) -> Result<Change, StoreError> {
        let (subject, groups) = (subject.clone(), groups.to_vec());
        let replace = move |account: &mut Account| account.groups.clone_from(&groups);
        self.writer.take_away(move |rows| accounts::change(rows, &subject, &replace)).await
    }

    async fn set_account_email(&self, subject: &Subject, email: Option<&str>) -> Result<Change, StoreError> {
        let (subject, email) = (subject.clone(), email.map(str::to_owned));
        let replace = move |account: &mut Account| account.email.clone_from(&email);
        self.writer.write(move |rows| accounts::change(rows, &subject, &replace)).await
    }

    async fn add_session(&self, session: &LoginSession) -> Result<(), StoreError> {
        let session = session.clone();
        self.writer
            .write(move |rows| {
                rows.put(Table::Sessions, &session.id.text(), &session, Some(session.expires_at))?;
                holdings::hold(rows, &holdings::New::session(&session)).map(|_| ())
            })
            .await
    }

    async fn session(&self, id: &TokenHash, now: UnixTime) -> Result<Option<LoginSession>, StoreError> {
        let session: Option<LoginSession> = self.read(|rows| rows.get(Table::Sessions, &id.text()))?;
        Ok(session.filter(|session| session.expires_at > now))
    }

    async fn end_session(&self, id: &TokenHash) -> Result<(), StoreError> {
        let key = id.text();
        self.writer.write_even_late(move |rows| holdings::remove_session(rows, &key)).await
    }

    async fn add_code(
        &self,
        approval: &str,
        hash: &TokenHash,
        code: &AuthorizationCode,
        used: &ClientUse,
    ) -> Result<Issuance, StoreError> {
        let (approval, hash, code, used) = (hashed(approval), *hash, code.clone(), used.clone());
        self.writer.write(move |rows| grants::add_code(rows, &approval, &hash, &code, &used)).await
    }

    async fn deny(&self, approval: &str, until: UnixTime, now: UnixTime) -> Result<Denial, StoreError> {
        let approval = hashed(approval);
        self.writer.take_away(move |rows| grants::deny(rows, &approval, until, now)).await
    }

    async fn find_code(&self, hash: &TokenHash, now: UnixTime) -> Result<FoundCode, StoreError> {
        match self.read(|rows| rows.get_live::<CodeRow>(Table::Codes, &hash.text(), now))? {
            Some(row) if row.redeemed => Ok(FoundCode::Used(row.code)),
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
        let (hash, grant, used) = (*hash, grant.clone(), used.clone());
        self.writer.write(move |rows| grants::redeem_code(rows, &hash, &grant, &used)).await
    }

    async fn add_grant(&self, grant: &Grant, used: &ClientUse) -> Result<DirectGrant, StoreError> {
        let (grant, used) = (grant.clone(), used.clone());
        self.writer.write(move |rows| grants::add(rows, &grant, &used)).await
    }

    async fn grant(&self, id: &GrantId, now: UnixTime) -> Result<Option<Grant>, StoreError> {
        self.read(|rows| grants::live(rows, id, now))
    }

    async fn grant_of_refresh(
        &self,
        token: &HashedRefreshToken,
        now: UnixTime,
    ) -> Result<Option<Grant>, StoreError> {
        self.read(|rows| grants::of_refresh(rows, token, now))
    }

    async fn rotate_refresh(
        &self,
        presented: &HashedRefreshToken,
        successor: &Successor,
        used: &ClientUse,
        grace: Duration,
    ) -> Result<Rotation, StoreError> {
        let by_store = self.time_at(used);
        // A repeated request needs no write, so it does not have to wait for a slow disk.
        let repeated =
            self.read(|rows| grants::repeat(rows, presented, used, (&self.disk.grace(grace), by_store)))?;
        if let Some(repeated) = repeated {
            return Ok(repeated);
        }
        let (presented, successor, used) = (presented.clone(), successor.clone(), used.clone());
        let disk = Arc::clone(&self.disk);
        let rotate = move |rows: &Writable<'_>| {
            grants::rotate(rows, &presented, &successor, &used, (&disk.grace(grace), by_store))
        };
        self.writer.write(rotate).await
    }

    async fn revoke_grant(&self, id: &GrantId) -> Result<(), StoreError> {
        let id = id.clone();
        self.writer.write_even_late(move |rows| holdings::remove_grant(rows, &id)).await
    }

    async fn held_grant(
        &self,
        id: &GrantId,
        client: &ClientId,
        subject: &Subject,
        now: UnixTime,
    ) -> Result<Option<(Grant, Account)>, StoreError> {
        self.read(|rows| grants::held(rows, id, client, subject, now))
    }

    async fn signing_keys(&self) -> Result<Option<KeySet>, StoreError> {
        self.read(|rows| rows.get(Table::Keys, SIGNING))
    }

    async fn replace_signing_keys(
        &self,
        seen: Option<u64>,
        changed: &KeySet,
    ) -> Result<Replacement, StoreError> {
        let changed = changed.clone();
        self.writer
            .take_away(move |rows| {
                let found: Option<KeySet> = rows.get(Table::Keys, SIGNING)?;
                if found.map(|set| set.revision()) != seen {
                    return Ok(Replacement::Outdated);
                }
                rows.put(Table::Keys, SIGNING, &changed, None)?;
                Ok(Replacement::Replaced)
            })
            .await
    }

    async fn remember_once(
        &self,
        name: &str,
        until: UnixTime,
        now: UnixTime,
    ) -> Result<OneTimeUse, StoreError> {
        let name = hashed(name);
        self.writer
            .write(move |rows| {
                if rows.get_live::<bool>(Table::Once, &name, now)?.is_some() {
                    return Ok(OneTimeUse::Replayed);
                }
                rows.put(Table::Once, &name, &true, Some(until))?;
                Ok(OneTimeUse::First)
            })
            .await
    }

    async fn sweep(&self, now: UnixTime) -> Result<u64, StoreError> {
        let mut removed = 0;
        for table in Table::EXPIRING {
            removed += self.sweep_table(table, now).await?;
        }
        Ok(removed)
    }

    async fn shorten(&self, ends: &LatestEnds) -> Result<u64, StoreError> {
        self.shorten_all(ends).await
    }

    fn changes(&self) -> &Changes {
        &self.changes
    }

    async fn ping(&self) -> Result<(), StoreError> {
        self.read(|rows| rows.get::<String>(Table::Meta, schema::KEY_CHECK).map(|_| ()))?;
        // A full disk can still be read, so a write must be tried as well.
        self.writer.ping().await
    }
}
