//! Tests of the embedded store while its file cannot be written. The tests move the file away. The store notices
//! this before every write, but can still read the open file.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use auth_service::domain::account::{Account, LoginSession};
use auth_service::domain::client::Client;
use auth_service::domain::consent::Approval;
use auth_service::domain::device::DeviceState;
use auth_service::domain::device::UserCode;
use auth_service::domain::grant::Grant;
use auth_service::domain::grant_id::GrantId;
use auth_service::store::changes::{About, Observable};
use auth_service::store::embedded::{EmbeddedStore, OpenError};
use auth_service::store::{
    AccountStore, Addition, Change, ClientStore, CodeStore, ConsentStore, Decision, Deletion, Denial,
    DeviceStore, GrantStore, Installation as _, Issuance, Maintenance, Redemption, Rotation, SessionStore,
    StoreError,
};

use super::things::{
    DAY, GRACE, NOW, account, asked_for_device, client, code, grant, granted, hash, held, later, password,
    random, register, successor, usage,
};
use super::worlds::key;

struct Fault<'a> {
    directory: &'a Path,
}

impl<'a> Fault<'a> {
    fn begin(directory: &'a Path) -> Self {
        fs::rename(directory.join("store.redb"), directory.join("aside")).unwrap();
        Self { directory }
    }

    async fn end(self, store: &EmbeddedStore) {
        fs::rename(self.directory.join("aside"), self.directory.join("store.redb")).unwrap();
        let start = Instant::now();
        while store.ping().await.is_err() {
            assert!(start.elapsed() < Duration::from_secs(30), "the store does not recover");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

fn open(directory: &Path) -> EmbeddedStore {
    EmbeddedStore::open(directory, &key()).unwrap()
}

fn is_unavailable<T>(result: &Result<T, StoreError>) -> bool {
    matches!(result, Err(StoreError::Unavailable(_)))
}

fn login(account: &Account, cookie: &str) -> LoginSession {
    LoginSession {
        id: hash(cookie),
        subject: account.subject.clone(),
        logins_ended: 0,
        authenticated_at: NOW,
        expires_at: later(DAY),
        asked_by: None,
    }
}

/// Clients, accounts and grants, one of each for every way to revoke access.
struct Before {
    disabled: (Client, Account, Grant),
    deleted: (Client, Account, Grant),
    switched: (Client, Account, Grant),
    revoked: (Client, Account, Grant),
    replayed: (Client, Account, Grant),
    reused: (Client, Account, Grant),
}

impl Before {
    async fn made(store: &EmbeddedStore) -> Self {
        let before = Self {
            disabled: granted(store, "disabled", "r").await,
            deleted: granted(store, "deleted", "r").await,
            switched: granted(store, "switched", "r").await,
            revoked: granted(store, "revoked", "r").await,
            replayed: granted(store, "replayed", "r").await,
            reused: granted(store, "reused", "r").await,
        };
        let (client, account, grant) = &before.reused;
        store.add_session(&login(account, "cookie")).await.unwrap();
        for number in 0..2 {
            let at = later(GRACE * 2 * number);
            let (old, new) = (format!("r{number}"), format!("r{}", number + 1));
            let old = if number == 0 { "r" } else { &old };
            let next = successor(grant, number + 1, &new, at);
            let rotated =
                store.rotate_refresh(&held(grant, number, old), &next, &usage(client, at), GRACE).await;
            assert!(matches!(rotated, Ok(Rotation::Rotated(_))), "{rotated:?}");
        }
        before
    }

    async fn take_away(&self, store: &EmbeddedStore) {
        assert_eq!(
            store.set_account_disabled(&self.disabled.1.subject, true).await.unwrap(),
            Change::Changed
        );
        assert_eq!(store.delete_client(&self.deleted.0.id).await.unwrap(), Deletion::Deleted);
        assert_eq!(store.set_client_disabled(&self.switched.0.id, true).await.unwrap(), Change::Changed);
        store.revoke_grant(&self.revoked.2.id).await.unwrap();
        let (client, _, grant) = &self.replayed;
        let replay = store.redeem_code(&hash("replayed r"), grant, &usage(client, NOW)).await.unwrap();
        assert!(matches!(replay, Redemption::Replayed), "{replay:?}");
        let (client, _, grant) = &self.reused;
        let at = later(GRACE * 5);
        let next = successor(grant, 3, "r3", at);
        let reuse =
            store.rotate_refresh(&held(grant, 0, "r"), &next, &usage(client, at), GRACE).await.unwrap();
        assert!(matches!(reuse, Rotation::Reused(_)), "{reuse:?}");
        store.end_session(&hash("cookie")).await.unwrap();
        assert_eq!(store.deny("an approval", later(DAY), NOW).await.unwrap(), Denial::Denied);
    }

    async fn is_taken_away(&self, store: &EmbeddedStore) {
        for (what, (_, account, grant)) in [
            ("disabled", &self.disabled),
            ("deleted", &self.deleted),
            ("switched", &self.switched),
            ("revoked", &self.revoked),
            ("replayed", &self.replayed),
            ("reused", &self.reused),
        ] {
            let found = store.held_grant(&grant.id, &grant.client_id, &grant.subject, NOW).await.unwrap();
            let counts = found.is_some_and(|(_, account)| !account.disabled);
            assert!(!counts, "{what}: the grant of {} is valid", account.username);
        }
        let disabled = store.accounts().await.unwrap().into_iter().filter(|account| account.disabled).count();
        assert_eq!(disabled, 1, "the list of accounts must show it");
        let clients = store.clients(None, 100, NOW).await.unwrap();
        assert!(clients.iter().all(|client| client.id != self.deleted.0.id));
        assert_eq!(clients.iter().filter(|client| client.disabled).count(), 1);
        assert!(store.session(&hash("cookie"), NOW).await.unwrap().is_none());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_taken_away_counts_while_the_file_cannot_be_written_and_for_ever_after() {
    let data = tempfile::tempdir().unwrap();
    let store = open(data.path());
    let before = Box::pin(Before::made(&store)).await;
    let fault = Fault::begin(data.path());

    // Cached principals of these grants also become invalid.
    let changes = store.changes();
    let version = |(client, account, grant): &(Client, Account, Grant)| {
        let rows = [
            (About::Grant, grant.id.as_str()),
            (About::Client, client.id.as_str()),
            (About::Account, account.subject.as_str()),
        ];
        changes.version(&rows).unwrap()
    };
    let versions = [&before.disabled, &before.deleted, &before.switched, &before.revoked].map(version);
    assert!(versions.iter().all(|version| changes.is_current(version)));
    before.take_away(&store).await;
    assert!(versions.iter().all(|version| !changes.is_current(version)));
    before.is_taken_away(&store).await;
    let (client, account, _) = &before.revoked;
    let code = code(client, &account.subject, NOW);
    let used = usage(client, NOW);
    assert!(is_unavailable(&store.add_account(&super::things::account("newcomer")).await));
    assert!(is_unavailable(&store.add_session(&login(account, "another")).await));
    assert!(is_unavailable(&store.add_code("new", &hash("new"), &code, &used).await));
    assert!(is_unavailable(&store.add_grant(&grant(&code, "n", NOW), &used).await));
    assert!(is_unavailable(&store.set_account_disabled(&before.disabled.1.subject, false).await));
    assert!(is_unavailable(&store.set_client_disabled(&before.switched.0.id, false).await));
    let error = store.ping().await.unwrap_err().to_string();
    assert!(error.contains("kept in store.reserve"), "{error}");

    // When the store is dropped, only its files remain, as after a crash.
    drop(store);
    fs::rename(data.path().join("aside"), data.path().join("store.redb")).unwrap();
    let store = open(data.path());
    before.is_taken_away(&store).await;
    let fault = Fault { directory: fault.directory };
    fs::rename(data.path().join("store.redb"), data.path().join("aside")).unwrap();
    assert_eq!(store.set_account_disabled(&before.replayed.1.subject, true).await.unwrap(), Change::Changed);
    assert_eq!(store.remove_account(&before.replayed.1.subject).await.unwrap(), Deletion::Deleted);
    fault.end(&store).await;
    before.is_taken_away(&store).await;
    assert_eq!(
        store.add_code("an approval", &hash("new"), &code, &used).await.unwrap(),
        Issuance::AnsweredBefore,
        "it was denied before"
    );

    // The older changes in the reserve must not undo later changes.
    assert_eq!(store.set_account_disabled(&before.disabled.1.subject, false).await.unwrap(), Change::Changed);
    drop(store);
    let store = open(data.path());
    assert!(
        store.account(&before.disabled.1.subject).await.unwrap().is_some_and(|account| !account.disabled)
    );
    assert!(store.account(&before.replayed.1.subject).await.unwrap().is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn devices_are_denied_and_consents_and_passwords_taken_back_while_the_file_cannot_be_written() {
    let data = tempfile::tempdir().unwrap();
    let store = open(data.path());
    let client = register(&store, &client("a")).await;
    let ana = account("ana");
    assert_eq!(store.add_account(&ana).await.unwrap(), Addition::Added);
    let (device, user_code) = (hash("device"), UserCode::new(random()).unwrap());
    let asked = asked_for_device(&client, GrantId::new(random()));
    assert_eq!(store.add_device(&device, &user_code, &asked).await.unwrap(), Addition::Added);
    let used =
        auth_service::domain::client_use::ClientUse { user: ana.subject.clone(), ..usage(&client, NOW) };
    let approval = Approval {
        redirect_uri: serde_json::from_value(serde_json::json!("https://app.example/cb")).unwrap(),
        scope: "mcp".parse().unwrap(),
        resources: vec![],
    };
    store.add_consent(&approval, &used, later(DAY)).await.unwrap();
    let fault = Fault::begin(data.path());

    let allowed = DeviceState::Allowed { subject: ana.subject.clone(), authenticated_at: NOW };
    assert!(is_unavailable(&store.decide_device(&device, &allowed, NOW).await));
    assert_eq!(store.decide_device(&device, &DeviceState::Denied, NOW).await.unwrap(), Decision::Stored);
    store.forget_consent(&ana.subject, &client.id).await.unwrap();
    let changed = store.replace_password(&ana.subject, &ana.password, &password("new")).await.unwrap();
    assert!(changed.is_some_and(|account| account.logins_ended == 1));

    fault.end(&store).await;
    let state = store.device(&device, NOW).await.unwrap().unwrap().state;
    assert!(matches!(state, DeviceState::Denied), "{state:?}");
    assert!(store.consent(&ana.subject, &client.id, NOW).await.unwrap().is_none());
    assert_eq!(store.account(&ana.subject).await.unwrap().unwrap().password, password("new"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_even_be_kept_in_the_reserve_counts_until_a_restart_and_says_so() {
    let data = tempfile::tempdir().unwrap();
    let store = open(data.path());
    let (_, ana, grant) = granted(&store, "a", "r").await;
    let reserve: PathBuf = data.path().join("store.reserve");
    fs::remove_file(&reserve).unwrap();
    fs::create_dir(&reserve).unwrap();
    fs::create_dir(reserve.join("in-the-way")).unwrap();
    let fault = Fault::begin(data.path());

    let error = store.set_account_disabled(&ana.subject, true).await.unwrap_err().to_string();
    assert!(error.contains("is refused now, but a restart") && error.contains("undoes it"), "{error}");
    let found = store.held_grant(&grant.id, &grant.client_id, &grant.subject, NOW).await.unwrap();
    assert!(found.is_some_and(|(_, account)| account.disabled));

    fault.end(&store).await;
    drop(store);
    fs::remove_dir_all(&reserve).unwrap();
    let store = open(data.path());
    assert!(store.account(&ana.subject).await.unwrap().is_some_and(|account| account.disabled));
}

/// If the reserve is lost, the revocations in it are lost as well, and the store alone would accept the revoked
/// access.
#[tokio::test(flavor = "multi_thread")]
async fn a_store_is_not_opened_without_the_reserve_in_which_changes_wait() {
    let data = tempfile::tempdir().unwrap();
    let reserve = data.path().join("store.reserve");
    let store = open(data.path());
    let (_, ana, _) = granted(&store, "a", "r").await;
    drop(store);
    // The reserve contains no changes, so the store creates a new one.
    fs::remove_file(&reserve).unwrap();
    let store = open(data.path());
    let fault = Fault::begin(data.path());
    assert_eq!(store.set_account_disabled(&ana.subject, true).await.unwrap(), Change::Changed);
    drop(store);
    fs::rename(fault.directory.join("aside"), data.path().join("store.redb")).unwrap();

    let kept = fs::read(&reserve).unwrap();
    let refused = || match EmbeddedStore::open(data.path(), &key()) {
        Err(error @ OpenError::ReserveLost(_)) => error.to_string(),
        other => panic!("{:?}", other.map(|_| "the store was opened")),
    };
    for damage in [None, Some(Vec::new()), Some(vec![0; kept.len()]), Some(vec![7; kept.len()])] {
        match damage {
            None => fs::remove_file(&reserve).unwrap(),
            Some(content) => fs::write(&reserve, content).unwrap(),
        }
        let told = refused();
        assert!(told.contains("Put it back") && told.contains("remove store.made"), "{told}");
    }
    // The file is put back. The changes in it take effect, and are then written to the store, which no longer
    // needs the file.
    fs::write(&reserve, &kept).unwrap();
    let store = open(data.path());
    assert!(store.account(&ana.subject).await.unwrap().unwrap().disabled);
    store.ping().await.unwrap();
    drop(store);
    fs::remove_file(&reserve).unwrap();
    let store = open(data.path());
    assert!(store.account(&ana.subject).await.unwrap().unwrap().disabled);

    // If the file is permanently lost, the operator can follow the instructions in the message.
    let fault = Fault::begin(data.path());
    assert_eq!(store.remove_account(&ana.subject).await.unwrap(), Deletion::Deleted);
    drop(store);
    fs::rename(fault.directory.join("aside"), data.path().join("store.redb")).unwrap();
    fs::remove_file(&reserve).unwrap();
    refused();
    fs::remove_file(data.path().join("store.made")).unwrap();
    assert!(open(data.path()).account(&ana.subject).await.unwrap().is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reserve_that_is_removed_is_made_again_and_told_until_then() {
    let data = tempfile::tempdir().unwrap();
    let reserve = data.path().join("store.reserve");
    let store = open(data.path());
    assert!(store.dangers().await.unwrap().is_empty());
    fs::remove_file(&reserve).unwrap();
    fs::create_dir(&reserve).unwrap();
    fs::create_dir(reserve.join("in-the-way")).unwrap();
    let told = store.dangers().await.unwrap().concat();
    assert!(told.contains("store.reserve beside the store could not be created"), "{told}");
    fs::remove_dir_all(&reserve).unwrap();
    assert!(store.dangers().await.unwrap().is_empty());
    assert_eq!(fs::metadata(&reserve).unwrap().len(), 512 * 1024);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_of_the_reserve_that_was_broken_off_leaves_what_was_kept_before() {
    let data = tempfile::tempdir().unwrap();
    let store = open(data.path());
    let (_, ana, _) = granted(&store, "a", "r").await;
    let (_, bob, _) = granted(&store, "b", "r").await;
    let fault = Fault::begin(data.path());
    assert_eq!(store.set_account_disabled(&ana.subject, true).await.unwrap(), Change::Changed);
    let first = fs::read(data.path().join("store.reserve")).unwrap();
    let made = fs::read(data.path().join("store.made")).unwrap();
    assert_eq!(store.set_account_disabled(&bob.subject, true).await.unwrap(), Change::Changed);
    drop(store);

    let mut file = fs::read(data.path().join("store.reserve")).unwrap();
    let at = (0..file.len()).find(|at| file[*at] != first[*at]).unwrap();
    file[at + 100] ^= 1;
    fs::write(data.path().join("store.reserve"), file).unwrap();
    // The file store.made counts a change only once it has been written to the reserve, so the test restores that
    // file as well.
    fs::write(data.path().join("store.made"), made).unwrap();
    fs::rename(fault.directory.join("aside"), data.path().join("store.redb")).unwrap();
    let store = open(data.path());
    assert!(store.account(&ana.subject).await.unwrap().unwrap().disabled);
    assert!(!store.account(&bob.subject).await.unwrap().unwrap().disabled);
}
