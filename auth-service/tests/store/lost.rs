//! Tests of a Redis server that has lost rows or returned with older data, and of processes that have seen less of
//! its data than others.

use std::time::{Duration, Instant};

use auth_service::store::redis::{RedisAddress, RedisStore};
use auth_service::store::{
    AccountStore, Addition, Change, GrantStore, Installation, Maintenance, SigningKeyStore, StoreError,
};

use super::resp::{Reply, Resp};
use super::things::{NOW, account, granted};
use super::worlds::key;
use crate::redis_server::RedisServer;

const IDENTITY: &[u8] = b"mcp-gate:{meta}:identity";
pub(super) const OLDER: &str = "returned with older data than before";

fn address(server: &RedisServer) -> RedisAddress {
    RedisAddress::parse(&server.url()).unwrap()
}

pub(super) async fn starts(server: &RedisServer) -> Result<RedisStore, StoreError> {
    RedisStore::connect(&address(server), &key()).await
}

async fn command(server: &RedisServer) -> Result<RedisStore, StoreError> {
    RedisStore::connect_to_known(&address(server), &key()).await
}

pub(super) async fn adopts(server: &RedisServer) -> Result<(), StoreError> {
    RedisStore::adopt(&address(server), &key()).await
}

/// Counts the rows, without the row that a process writes to test whether Redis is writable.
fn rows(server: &RedisServer) -> usize {
    Resp::connect(server.port).keys().iter().filter(|key| !key.ends_with(b":writable")).count()
}

pub(super) async fn until_refused(store: &RedisStore, said: &str) {
    let start = Instant::now();
    loop {
        match store.ping().await {
            Err(error) if error.to_string().contains(said) => return,
            other => assert!(start.elapsed() < Duration::from_secs(20), "not {said}: {other:?}"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// An eviction removes single rows. If a process created a new store next to the remaining rows, parts of the old
/// store would remain valid.
#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_lost_the_identity_of_its_store_is_not_begun_anew_over_what_is_left() {
    let Some(server) = RedisServer::start(&["--appendonly", "no"]) else { return };
    let store = starts(&server).await.unwrap();
    let (_, _, grant) = granted(&store, "a", "refresh").await;
    let mut admin = Resp::connect(server.port);
    assert_eq!(admin.ask(&[b"DEL", IDENTITY]), Reply::Number(1));
    until_refused(&store, "has lost its identity").await;
    assert!(store.identify("another").await.is_err(), "a process that knew the store created another one");
    let before = rows(&server);
    for refused in [starts(&server).await, command(&server).await] {
        let error = refused.err().unwrap();
        assert!(matches!(error, StoreError::NeedsOperator(_)), "{error}");
        let told = error.to_string();
        for words in ["restore a backup", "auth-service store adopt", "start over", "maxmemory-policy"] {
            assert!(told.contains(words), "{words}: {told}");
        }
    }
    assert_eq!(rows(&server), before, "something was written");

    // The operator adopts the remaining rows, and the running replica uses them under the new identity.
    adopts(&server).await.unwrap();
    let restarted = starts(&server).await.unwrap();
    let start = Instant::now();
    while store.identity().await.is_err() || store.ping().await.is_err() {
        assert!(start.elapsed() < Duration::from_secs(20), "the running replica does not follow");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    for replica in [&store, &restarted] {
        let held = replica.held_grant(&grant.id, &grant.client_id, &grant.subject, NOW).await.unwrap();
        assert!(held.is_some());
    }
    let error = adopts(&server).await.unwrap_err().to_string();
    assert!(error.contains("nothing to adopt"), "{error}");
}

/// Any remaining row shows that there was a store.
#[tokio::test(flavor = "multi_thread")]
async fn any_row_that_is_left_keeps_a_new_store_from_being_begun_and_an_empty_redis_does_not() {
    for kept in ["{meta}:history", "{meta}:key-check", "{accounts}:all", "{s:x}:account", "{g:x}:grant"] {
        let Some(server) = RedisServer::start(&["--appendonly", "no"]) else { return };
        let mut admin = Resp::connect(server.port);
        admin.ask(&[b"ZADD", format!("mcp-gate:{kept}").as_bytes(), b"1", b"x"]);
        let told = starts(&server).await.err().unwrap().to_string();
        // If the row of the key check has a different type, it cannot be read.
        assert!(told.contains("has lost the row with the identity") || told.contains("WRONGTYPE"), "{told}");
        admin.ask(&[b"FLUSHALL"]);
        // Rows that a process writes as a test, and rows with a different prefix, do not count as a store.
        for test in ["mcp-gate:{meta}:writable", "mcp-gate:{meta}:trial", "other:{meta}:x"] {
            admin.ask(&[b"SET", test.as_bytes(), b"x"]);
        }
        let error = command(&server).await.err().unwrap().to_string();
        assert!(error.contains("there is no store"), "{error}");
        assert!(adopts(&server).await.unwrap_err().to_string().contains("there is no store"));
        assert!(starts(&server).await.is_ok());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn replicas_that_begin_a_store_at_the_same_time_agree_on_it() {
    let Some(server) = RedisServer::start(&["--appendonly", "no"]) else { return };
    let begun = futures_util::future::join_all((0..8).map(|_| starts(&server))).await;
    let mut identities = Vec::new();
    for store in begun {
        identities.push(store.unwrap().identity().await.unwrap().unwrap());
    }
    identities.dedup();
    assert_eq!(identities.len(), 1);
}

/// Otherwise, a replica that was not running when Redis returned with older data would accept access that has
/// since been revoked. It would also receive all requests, because the other replicas refuse them.
#[tokio::test(flavor = "multi_thread")]
async fn a066_a_replica_that_was_frozen_and_a_process_that_starts_learn_from_others_that_redis_is_older() {
    let Some(mut server) = RedisServer::start(&["--appendonly", "no"]) else { return };
    let knows = starts(&server).await.unwrap();
    let (_, person, revoked) = granted(&knows, "revoked", "refresh").await;
    knows.revoke_grant(&super::faults::id_of_nobody()).await.unwrap();
    // This replica does not learn the number of changes from here on, because it makes no calls until Redis has
    // older data.
    let frozen = starts(&server).await.unwrap();
    assert!(frozen.ping().await.is_ok());
    let dump = server.data.path().join("dump.rdb");
    let ok = Reply::Text("OK".to_owned());
    assert_eq!(Resp::connect(server.port).ask(&[b"SAVE"]), ok);
    let older = std::fs::read(&dump).unwrap();
    knows.revoke_grant(&revoked.id).await.unwrap();
    assert_eq!(Resp::connect(server.port).ask(&[b"SAVE"]), ok);
    let latest = std::fs::read(&dump).unwrap();
    server.kill();
    std::fs::write(&dump, older).unwrap();
    assert!(server.run());

    until_refused(&knows, OLDER).await;
    until_refused(&frozen, OLDER).await;
    let held = frozen.held_grant(&revoked.id, &revoked.client_id, &revoked.subject, NOW).await;
    assert!(held.is_err(), "a revoked grant became valid again");
    for refused in [starts(&server).await, command(&server).await] {
        let error = refused.err().unwrap().to_string();
        assert!(error.contains(OLDER) && error.contains("auth-service store adopt"), "{error}");
    }

    // With the latest data, no action is necessary.
    server.kill();
    std::fs::write(&dump, &latest).unwrap();
    assert!(server.run());
    let start = Instant::now();
    for store in [&knows, &frozen] {
        while store.ping().await.is_err() {
            assert!(start.elapsed() < Duration::from_secs(20), "the latest data are refused");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    assert!(command(&server).await.is_ok());
    drop((knows, frozen));

    // If the latest data is lost, the operator adopts the older data and repeats the change.
    let mut admin = Resp::connect(server.port);
    let taken = admin.ask(&[b"GET", b"mcp-gate:{meta}:taken-away"]).bytes();
    let knows = starts(&server).await.unwrap();
    knows.revoke_grant(&super::faults::id_of_nobody()).await.unwrap();
    admin.ask(&[b"SET", b"mcp-gate:{meta}:taken-away", &taken]);
    until_refused(&knows, OLDER).await;
    drop(knows);
    assert!(command(&server).await.is_err());
    adopts(&server).await.unwrap();
    let by_hand = command(&server).await.unwrap();
    assert_eq!(by_hand.set_account_disabled(&person.subject, true).await.unwrap(), Change::Changed);
    assert!(starts(&server).await.unwrap().account(&person.subject).await.unwrap().unwrap().disabled);
}

/// The claim is stored in a row. A full Redis must still accept it, because a Redis that returned with older data
/// might be full.
#[tokio::test(flavor = "multi_thread")]
async fn a066_a_replica_tells_others_that_redis_is_older_although_redis_is_full() {
    let Some(server) = RedisServer::start(&["--appendonly", "no"]) else { return };
    let knows = starts(&server).await.unwrap();
    assert_eq!(knows.add_account(&account("ana")).await.unwrap(), Addition::Added);
    knows.revoke_grant(&super::faults::id_of_nobody()).await.unwrap();
    let mut admin = Resp::connect(server.port);
    admin.ask(&[b"DEL", b"mcp-gate:{meta}:taken-away", b"mcp-gate:{meta}:history"]);
    admin.ask(&[b"CONFIG", b"SET", b"maxmemory", b"1"]);
    let start = Instant::now();
    while admin.ask(&[b"GET", b"mcp-gate:{meta}:claim"]) == Reply::Bytes(None) {
        assert!(knows.signing_keys().await.is_err());
        assert!(start.elapsed() < Duration::from_secs(20), "the claim was not stored for other replicas");
    }
    admin.ask(&[b"CONFIG", b"SET", b"maxmemory", b"0"]);
    assert!(starts(&server).await.err().unwrap().to_string().contains(OLDER));
}

pub(super) async fn until_ready(store: &RedisStore) {
    let start = Instant::now();
    while store.ping().await.is_err() {
        assert!(start.elapsed() < Duration::from_secs(20), "the replica stays not ready");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// This happens after a failover to a server that missed the adoption, or after a restart from the adopted
/// snapshot.
#[tokio::test(flavor = "multi_thread")]
async fn a066_the_data_from_before_an_adoption_are_refused_when_they_come_back_again() {
    const EARLIER: &str = "created earlier";
    let Some(mut server) = RedisServer::start(&["--appendonly", "no"]) else { return };
    let dump = server.data.path().join("dump.rdb");
    let replica = starts(&server).await.unwrap();
    let (_, _, revoked) = granted(&replica, "revoked", "refresh").await;
    replica.revoke_grant(&super::faults::id_of_nobody()).await.unwrap();
    assert_eq!(Resp::connect(server.port).ask(&[b"SAVE"]), Reply::Text("OK".to_owned()));
    let older = std::fs::read(&dump).unwrap();
    replica.revoke_grant(&revoked.id).await.unwrap();
    server.kill();
    std::fs::write(&dump, &older).unwrap();
    assert!(server.run());
    until_refused(&replica, OLDER).await;
    adopts(&server).await.unwrap();
    until_ready(&replica).await;
    // The number in the adopted store stays as low as the number in the older data.
    replica.revoke_grant(&revoked.id).await.unwrap();

    server.kill();
    std::fs::write(&dump, &older).unwrap();
    assert!(server.run());
    until_refused(&replica, EARLIER).await;
    let held = replica.held_grant(&revoked.id, &revoked.client_id, &revoked.subject, NOW).await;
    assert!(held.is_err(), "a grant that was revoked is valid again");
    assert!(replica.identity().await.is_err() && replica.signing_keys().await.is_err());
    for refused in [starts(&server).await, command(&server).await] {
        let error = refused.err().expect("a process that knows less starts on the older data");
        assert!(matches!(error, StoreError::NeedsOperator(_)), "{error}");
        let told = error.to_string();
        assert!(told.contains(EARLIER) && told.contains("auth-service store adopt"), "{told}");
    }
    // The operator adopts the older data again.
    adopts(&server).await.unwrap();
    until_ready(&replica).await;
    assert!(starts(&server).await.is_ok());
    assert!(adopts(&server).await.unwrap_err().to_string().contains("nothing to adopt"));
}

/// A replica's claim stays in Redis after the latest data has returned.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_replica_has_left_is_no_reason_to_adopt_once_the_latest_data_are_back() {
    let Some(server) = RedisServer::start(&["--appendonly", "no"]) else { return };
    let replica = starts(&server).await.unwrap();
    replica.revoke_grant(&super::faults::id_of_nobody()).await.unwrap();
    let mut admin = Resp::connect(server.port);
    let taken = admin.ask(&[b"GET", b"mcp-gate:{meta}:taken-away"]).bytes();
    admin.ask(&[b"SET", b"mcp-gate:{meta}:taken-away", b"0"]);
    until_refused(&replica, OLDER).await;
    admin.ask(&[b"SET", b"mcp-gate:{meta}:taken-away", &taken]);
    // A comparison with an earlier connection does not count.
    let replica = starts(&server).await.unwrap();
    assert_ne!(admin.ask(&[b"GET", b"mcp-gate:{meta}:claim"]), Reply::Bytes(None));
    let identity = replica.identity().await.unwrap();
    assert!(adopts(&server).await.unwrap_err().to_string().contains("nothing to adopt"));
    assert_eq!(replica.identity().await.unwrap(), identity);
}
