//! Tests of moving all data from one store to a different store or a different key.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use auth_service::domain::clock::{Clock, SystemClock, UnixTime};
use auth_service::keys::seal::{StoreKey, SystemRandomSource};
use auth_service::store::embedded::{EmbeddedStore, EmbeddedTarget, OpenError};
use auth_service::store::records::{Counts, Kind, Portable};
use auth_service::store::redis::{RedisAddress, RedisStore, RedisTarget};
use auth_service::store::transfer::{self, Source, Target, TargetError, TransferError};
use auth_service::store::{
    AccountStore, Addition, Change, ClientStore, Deletion, Maintenance, Store, StoreError,
};

use super::everything::{fill, is_there, is_there_to_read};
use super::resp::{Reply, Resp};
use super::things::{DAY, HOUR, NOW, account, granted, later, register};
use super::worlds::{Cluster, key};
use crate::redis_server::RedisServer;

struct At(UnixTime);

impl Clock for At {
    fn now(&self) -> UnixTime {
        self.0
    }
}

fn open(directory: &Path) -> EmbeddedStore {
    EmbeddedStore::open(directory, &key()).unwrap()
}

fn address(url: &str) -> RedisAddress {
    RedisAddress::parse(url).unwrap()
}

async fn connect(url: &str) -> RedisStore {
    RedisStore::connect(&address(url), &key()).await.unwrap()
}

fn redis() -> Option<RedisServer> {
    RedisServer::start(&["--appendonly", "no"])
}

async fn into_embedded(
    source: &Source,
    directory: &Path,
    replace: bool,
    at: UnixTime,
) -> Result<Counts, TransferError> {
    let target = async || EmbeddedTarget::new(directory, &key(), replace);
    transfer::copy(source, target, &At(at), |_| {}).await
}

async fn into_redis(
    source: &Source,
    url: &str,
    replace: bool,
    at: UnixTime,
) -> Result<Counts, TransferError> {
    let target = async || RedisTarget::new(&address(url), &key(), replace, SystemClock.now()).await;
    transfer::copy(source, target, &At(at), |_| {}).await
}

async fn dump(store: &dyn Store, directory: &Path) -> PathBuf {
    let file = directory.join("dump");
    transfer::export(store, &file, &key(), (NOW, &SystemRandomSource), |_| {}).await.unwrap();
    file
}

/// The kinds of records that [`fill`] puts into a store, with their numbers.
fn all() -> Vec<(Kind, u64)> {
    [
        (Kind::Client, 4),
        (Kind::Account, 1),
        (Kind::Session, 1),
        (Kind::Approval, 2),
        (Kind::Code, 2),
        (Kind::Grant, 2),
        (Kind::Device, 1),
        (Kind::UserCode, 1),
        (Kind::PushedRequest, 1),
        (Kind::Consent, 1),
        (Kind::Link, 1),
        (Kind::LinkBack, 1),
        (Kind::Once, 1),
        (Kind::SigningKeys, 1),
    ]
    .into()
}

fn is_all(counts: &Counts) {
    assert_eq!(counts.0.clone().into_iter().collect::<Vec<_>>(), all());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_export_of_the_embedded_store_is_imported_elsewhere() {
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let store = open(one.path());
    let keys = fill(&store).await;
    let file = dump(&store, one.path()).await;
    let source = Source::Dump(file.clone(), key());
    is_all(&source.count().await.unwrap());
    is_all(&into_embedded(&source, two.path(), false, NOW).await.unwrap());
    is_there(&open(two.path()), &keys, NOW).await;
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(fs::metadata(two.path().join("store.redb")).unwrap().permissions().mode() & 0o777, 0o600);
    // An existing file is never overwritten.
    let again = transfer::export(&store, &file, &key(), (NOW, &SystemRandomSource), |_| {}).await;
    assert!(matches!(again, Err(TransferError::Unwritable { .. })));
    is_all(&source.count().await.unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_goes_from_the_embedded_store_to_redis_and_back() {
    let Some(server) = redis() else { return };
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let store = Arc::new(open(one.path()));
    let keys = fill(&*store).await;
    is_all(&into_redis(&Source::Store(store), &server.url(), false, NOW).await.unwrap());
    let store = Arc::new(connect(&server.url()).await);
    is_there_to_read(&*store, &keys, NOW).await;
    is_all(&into_embedded(&Source::Store(Arc::clone(&store) as _), two.path(), false, NOW).await.unwrap());
    let mut redis = Resp::connect(server.port);
    for name in redis.keys() {
        let Reply::Number(left) = redis.ask(&[b"PTTL", &name]) else { panic!("no number") };
        let name = String::from_utf8(name).unwrap();
        let for_ever = ["{clients}:", "{accounts}:", "{keys}:", "{meta}:", "{s:", "{n:", "{i:", "{j:"];
        let stays = for_ever.iter().any(|part| name.contains(part)) || (name.contains("{c:") && left < 0);
        assert!(stays || left > 0 && left < 91 * 86_400_000, "{name} {left}");
    }
    is_there(&*store, &keys, NOW).await;
    is_there(&open(two.path()), &keys, NOW).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_goes_from_redis_to_a_cluster_and_out_of_it() {
    let (Some(server), Some(cluster)) = (redis(), Cluster::start()) else { return };
    let store = Arc::new(connect(&server.url()).await);
    let keys = fill(&*store).await;
    for n in 0..300 {
        granted(&*store, &format!("c{n}"), &format!("r{n}")).await;
    }
    let counts = into_redis(&Source::Store(store), &cluster.url(), false, NOW).await.unwrap();
    assert_eq!((counts.0[&Kind::Grant], counts.0[&Kind::Account]), (302, 301));
    assert_eq!(cluster.filled(), [true; 3]);
    let there = Arc::new(connect(&cluster.url()).await);
    let directory = tempfile::tempdir().unwrap();
    let back = into_embedded(&Source::Store(Arc::clone(&there) as _), directory.path(), false, NOW).await;
    assert_eq!(back.unwrap(), counts);
    let back = open(directory.path());
    for store in [&*there as &dyn Store, &back] {
        assert_eq!(store.accounts().await.unwrap().len(), 301);
        for n in 0..300 {
            let person = account(&format!("c{n}-person"));
            let subject = store.account_named(&person.username).await.unwrap().unwrap().subject;
            assert_eq!(store.remove_account(&subject).await.unwrap(), Deletion::Deleted);
            assert_eq!(
                store.delete_client(&super::things::id(&format!("c{n}"))).await.unwrap(),
                Deletion::Deleted
            );
        }
        is_there(store, &keys, NOW).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_over_stays_behind_and_nobody_misses_it() {
    let Some(server) = redis() else { return };
    let one = tempfile::tempdir().unwrap();
    let store = open(one.path());
    fill(&store).await;
    let source = Source::Dump(dump(&store, one.path()).await, key());
    let counts = into_redis(&source, &server.url(), false, later(HOUR)).await.unwrap();
    assert_eq!(counts.0.get(&Kind::Session), None);
    assert_eq!(counts.0[&Kind::Grant], 2);
    let far = into_redis(&source, &server.url(), true, later(DAY * 400)).await.unwrap();
    assert!(!far.0.contains_key(&Kind::Grant));
    assert_eq!((far.0[&Kind::Account], far.0[&Kind::Client]), (1, 1), "{far}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_is_ahead_leaves_nothing_out() {
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let store = open(one.path());
    let keys = fill(&store).await;
    let ahead = later(DAY * 4000);
    let file = one.path().join("ahead.dump");
    is_all(&transfer::export(&store, &file, &key(), (ahead, &SystemRandomSource), |_| {}).await.unwrap());
    let source = Source::Dump(file, key());
    is_all(&source.count().await.unwrap());
    is_all(&into_embedded(&source, two.path(), false, ahead).await.unwrap());
    is_there(&open(two.path()), &keys, NOW).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_whose_clock_shows_another_time_is_not_filled() {
    let Some(server) = redis() else { return };
    assert_eq!(connect(&server.url()).await.add_account(&account("ana")).await.unwrap(), Addition::Added);
    for days in [-200_i64, 200] {
        let wrong = UnixTime(SystemClock.now().0.strict_add_signed(days * 86_400));
        let refused = RedisTarget::new(&address(&server.url()), &key(), true, wrong).await.err().unwrap();
        assert!(matches!(refused, TargetError::Clock { .. }), "{refused}");
    }
    assert_eq!(connect(&server.url()).await.accounts().await.unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_is_not_empty_is_replaced_only_when_told() {
    let Some(server) = redis() else { return };
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let store = open(one.path());
    let keys = fill(&store).await;
    let source = Source::Dump(dump(&store, one.path()).await, key());
    for n in ["ana", "bo"] {
        assert_eq!(open(two.path()).add_account(&account(n)).await.unwrap(), Addition::Added);
        assert_eq!(connect(&server.url()).await.add_account(&account(n)).await.unwrap(), Addition::Added);
    }
    let refused = into_embedded(&source, two.path(), false, NOW).await.unwrap_err();
    assert!(matches!(refused, TransferError::Target(TargetError::NotEmpty(_))), "{refused}");
    let refused = into_redis(&source, &server.url(), false, NOW).await.unwrap_err();
    assert!(refused.to_string().contains("--replace"), "{refused}");
    assert_eq!(open(two.path()).accounts().await.unwrap().len(), 2);
    assert_eq!(connect(&server.url()).await.accounts().await.unwrap().len(), 2);
    let reserve = fs::read(two.path().join("store.reserve")).unwrap();
    is_all(&into_embedded(&source, two.path(), true, NOW).await.unwrap());
    is_all(&into_redis(&source, &server.url(), true, NOW).await.unwrap());
    assert!(fs::read(two.path().join("store.reserve.replaced")).unwrap() == reserve);
    is_there(&open(two.path()), &keys, NOW).await;
    is_there(&connect(&server.url()).await, &keys, NOW).await;
    // The replaced store is kept in a different file.
    let before = tempfile::tempdir().unwrap();
    fs::copy(two.path().join("store.redb.replaced"), before.path().join("store.redb")).unwrap();
    assert_eq!(open(before.path()).accounts().await.unwrap().len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dump_that_was_cut_changes_nothing() {
    let Some(server) = redis() else { return };
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let store = open(one.path());
    fill(&store).await;
    let file = dump(&store, one.path()).await;
    let bytes = fs::read(&file).unwrap();
    fs::write(&file, &bytes[..bytes.len() - 5]).unwrap();
    let source = Source::Dump(file, key());
    assert_eq!(open(two.path()).add_account(&account("ana")).await.unwrap(), Addition::Added);
    assert_eq!(connect(&server.url()).await.add_account(&account("ana")).await.unwrap(), Addition::Added);
    for cut in [
        into_embedded(&source, two.path(), true, NOW).await.unwrap_err(),
        into_redis(&source, &server.url(), true, NOW).await.unwrap_err(),
    ] {
        assert!(cut.to_string().contains("truncated"), "{cut}");
    }
    assert_eq!(open(two.path()).accounts().await.unwrap().len(), 1);
    assert_eq!(connect(&server.url()).await.accounts().await.unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_import_that_was_broken_off_is_nobodys_store_and_is_begun_anew() {
    let Some(server) = redis() else { return };
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let store = open(one.path());
    let keys = fill(&store).await;
    let source = Source::Dump(dump(&store, one.path()).await, key());
    // The import stops after two records, as if the process had died.
    let (to, mut records) = tokio::sync::mpsc::channel(100);
    store.export(NOW, to).await.unwrap();
    let some: Vec<_> = records.recv().await.unwrap().into_iter().take(2).collect();
    let running = connect(&server.url()).await;
    let mut target =
        RedisTarget::new(&address(&server.url()), &key(), false, SystemClock.now()).await.unwrap();
    target.put(some.clone(), NOW).await.unwrap();
    drop(target);
    let mut target = EmbeddedTarget::new(two.path(), &key(), false).unwrap();
    target.put(some, NOW).await.unwrap();
    std::mem::forget(target);
    let refused = RedisStore::connect(&address(&server.url()), &key()).await.err().unwrap().to_string();
    assert!(refused.contains("import"), "{refused}");
    assert!(running.ping().await.is_err(), "a running replica must report that it is not ready");
    is_all(&into_redis(&source, &server.url(), false, NOW).await.unwrap());
    running.ping().await.unwrap();
    is_there(&running, &keys, NOW).await;
    assert!(open(two.path()).accounts().await.unwrap().is_empty());
    // The file of the interrupted import is still open, and is replaced as after a crash.
    is_all(&into_embedded(&source, two.path(), false, NOW).await.unwrap());
    is_there(&open(two.path()), &keys, NOW).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a094_a_key_is_replaced_and_the_one_before_opens_nothing_any_more() {
    let Some(server) = redis() else { return };
    let directory = tempfile::tempdir().unwrap();
    let (old, new) = (key(), StoreKey::new([8; 32]));
    let both = new.clone().with_previous(Some(&old));
    let keys = fill(&open(directory.path())).await;
    assert!(matches!(EmbeddedStore::open(directory.path(), &new), Err(OpenError::WrongKey(_))));
    let embedded = EmbeddedStore::open(directory.path(), &both).unwrap();
    is_there_to_read(&embedded, &keys, NOW).await;
    // A row that is written in between uses the new key.
    assert_eq!(
        embedded.set_account_groups(&embedded.accounts().await.unwrap()[0].subject, &[]).await.unwrap(),
        Change::Changed
    );
    let done = embedded.reseal().await.unwrap();
    assert_eq!(done.changed + 1, done.rows, "all rows except the account");
    assert_eq!(embedded.reseal().await.unwrap().changed, 0);
    drop(embedded);
    assert!(matches!(EmbeddedStore::open(directory.path(), &old), Err(OpenError::WrongKey(_))));
    is_there(&EmbeddedStore::open(directory.path(), &new).unwrap(), &keys, NOW).await;

    let at = address(&server.url());
    let keys = fill(&RedisStore::connect(&at, &old).await.unwrap()).await;
    assert!(matches!(RedisStore::connect(&at, &new).await, Err(StoreError::Unreadable)));
    // Both replicas have both keys, but one of them still encrypts with the old key. Each can read the rows of the
    // other.
    let reversed = RedisStore::connect(&at, &old.clone().with_previous(Some(&new))).await.unwrap();
    let redis = RedisStore::connect(&at, &both).await.unwrap();
    assert_eq!(redis.add_account(&account("of-new")).await.unwrap(), Addition::Added);
    assert_eq!(reversed.add_account(&account("of-old")).await.unwrap(), Addition::Added);
    assert_eq!(redis.accounts().await.unwrap().len(), 3);
    assert_eq!(reversed.accounts().await.unwrap().len(), 3);
    for name in ["of-new", "of-old"] {
        let found = redis.account_named(&account(name).username).await.unwrap().unwrap();
        assert_eq!(redis.remove_account(&found.subject).await.unwrap(), Deletion::Deleted);
    }
    let mut of_redis = Resp::connect(server.port);
    let lives = |of_redis: &mut Resp| {
        let mut names = of_redis.keys();
        names.sort();
        names.iter().map(|name| of_redis.ask(&[b"PTTL", name])).collect::<Vec<_>>()
    };
    let before = lives(&mut of_redis);
    assert!(redis.reseal().await.unwrap().changed > 25);
    assert_eq!(redis.reseal().await.unwrap().changed, 0);
    for (before, after) in before.iter().zip(lives(&mut of_redis)) {
        let (Reply::Number(before), Reply::Number(after)) = (before, after) else { panic!("no numbers") };
        assert!(*before >= after && before - after < 5000, "{before} {after}");
    }
    assert!(matches!(RedisStore::connect(&at, &old).await, Err(StoreError::Unreadable)));
    is_there(&RedisStore::connect(&at, &new).await.unwrap(), &keys, NOW).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_key_is_replaced_under_load_and_no_write_is_lost() {
    let Some(server) = redis() else { return };
    let (old, new) = (key(), StoreKey::new([8; 32]));
    let at = address(&server.url());
    let store = Arc::new(RedisStore::connect(&at, &old.clone().with_previous(Some(&new))).await.unwrap());
    for n in 0..200 {
        register(&*store, &super::things::client(&format!("c{n}"))).await;
    }
    let both = RedisStore::connect(&at, &new.clone().with_previous(Some(&old))).await.unwrap();
    let writing = tokio::spawn({
        let store = Arc::clone(&store);
        async move {
            for n in 0..200 {
                let id = super::things::id(&format!("c{n}"));
                assert_eq!(store.set_client_disabled(&id, true).await.unwrap(), Change::Changed);
            }
        }
    });
    both.reseal().await.unwrap();
    writing.await.unwrap();
    both.reseal().await.unwrap();
    let alone = RedisStore::connect(&at, &new).await.unwrap();
    let clients = alone.clients(None, 1000, NOW).await.unwrap();
    assert!(clients.len() == 200 && clients.iter().all(|client| client.disabled));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_of_redis_that_nobody_knows_is_not_left_out_silently() {
    let Some(server) = redis() else { return };
    let store = connect(&server.url()).await;
    fill(&store).await;
    let mut redis = Resp::connect(server.port);
    redis.ask(&[b"SET", b"mcp-gate:{x:abc}:news", b"of a later release"]);
    redis.ask(&[b"SET", b"somebody-elses", b"key"]);
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("dump");
    let refused = transfer::export(&store, &file, &key(), (NOW, &SystemRandomSource), |_| {}).await;
    let refused = refused.unwrap_err().to_string();
    assert!(refused.contains("{x:abc}:news"), "{refused}");
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0, "an incomplete dump was left behind");
}
