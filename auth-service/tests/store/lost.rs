//! Tests of a Redis that lost rows or came back with older data, as processes see it that know less than
//! others.

use std::time::{Duration, Instant};

use auth_service::store::redis::{RedisAddress, RedisStore};
use auth_service::store::{Installation, Store, StoreError};

use super::resp::{Reply, Resp};
use super::things::{NOW, account, granted};
use super::worlds::key;
use crate::redis_server::RedisServer;

const IDENTITY: &[u8] = b"mcp-gate:{meta}:identity";
const OLDER: &str = "came back older than it was";

fn address(server: &RedisServer) -> RedisAddress {
    RedisAddress::parse(&server.url()).unwrap()
}

async fn starts(server: &RedisServer) -> Result<RedisStore, StoreError> {
    RedisStore::connect(&address(server), &key()).await
}

async fn command(server: &RedisServer) -> Result<RedisStore, StoreError> {
    RedisStore::connect_to_known(&address(server), &key()).await
}

async fn adopts(server: &RedisServer) -> Result<(), StoreError> {
    RedisStore::adopt(&address(server), &key()).await
}

/// The rows, without the one that a process writes as a test.
fn rows(server: &RedisServer) -> usize {
    Resp::connect(server.port).keys().iter().filter(|key| !key.ends_with(b":writable")).count()
}

async fn until_refused(store: &RedisStore, said: &str) {
    let start = Instant::now();
    loop {
        match store.ping().await {
            Err(error) if error.to_string().contains(said) => return,
            other => assert!(start.elapsed() < Duration::from_secs(20), "not {said}: {other:?}"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// An eviction takes single rows. A new store over the rest would be one in which a part of the old one
/// counts.
#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_lost_the_identity_of_its_store_is_not_begun_anew_over_what_is_left() {
    let Some(server) = RedisServer::start(&["--appendonly", "no"]) else { return };
    let store = starts(&server).await.unwrap();
    let (_, _, grant) = granted(&store, "a", "refresh").await;
    let mut admin = Resp::connect(server.port);
    assert_eq!(admin.ask(&[b"DEL", IDENTITY]), Reply::Number(1));
    until_refused(&store, "has lost its identity").await;
    assert!(store.identify("another").await.is_err(), "a process that knew the store begins another");
    let before = rows(&server);
    for refused in [starts(&server).await, command(&server).await] {
        let error = refused.err().unwrap();
        assert!(matches!(error, StoreError::NeedsOperator(_)), "{error}");
        let told = error.to_string();
        for words in ["restore a backup", "auth-service store adopt", "begin anew", "maxmemory-policy"] {
            assert!(told.contains(words), "{words}: {told}");
        }
    }
    assert_eq!(rows(&server), before, "something was written");

    // The operator says that what is left counts. The running replica follows.
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

/// Whatever row is left shows that there was a store.
#[tokio::test(flavor = "multi_thread")]
async fn any_row_that_is_left_keeps_a_new_store_from_being_begun_and_an_empty_redis_does_not() {
    for kept in ["{meta}:history", "{meta}:key-check", "{accounts}:all", "{s:x}:account", "{g:x}:grant"] {
        let Some(server) = RedisServer::start(&["--appendonly", "no"]) else { return };
        let mut admin = Resp::connect(server.port);
        admin.ask(&[b"ZADD", format!("mcp-gate:{kept}").as_bytes(), b"1", b"x"]);
        let told = starts(&server).await.err().unwrap().to_string();
        // A row of another type than that of the key check cannot be read.
        assert!(told.contains("has lost the row with the identity") || told.contains("WRONGTYPE"), "{told}");
        admin.ask(&[b"FLUSHALL"]);
        // Rows that a process writes to test something, and those of others, are not a store.
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

/// Without this, a replica that did not run while Redis came back with older data would let in whoever was
/// shut out since, and all requests would go to it, because the others refuse them.
#[tokio::test(flavor = "multi_thread")]
async fn a066_a_replica_that_was_frozen_and_a_process_that_starts_learn_from_others_that_redis_is_older() {
    let Some(mut server) = RedisServer::start(&["--appendonly", "no"]) else { return };
    let knows = starts(&server).await.unwrap();
    let (_, person, revoked) = granted(&knows, "revoked", "refresh").await;
    knows.revoke_grant(&super::faults::id_of_nobody()).await.unwrap();
    // This one sees nothing of what happens next.
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
    assert!(held.is_err(), "a grant that was revoked is valid again");
    for refused in [starts(&server).await, command(&server).await] {
        let error = refused.err().unwrap().to_string();
        assert!(error.contains(OLDER) && error.contains("auth-service store adopt"), "{error}");
    }

    // With the latest data, nothing has to be done.
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

    // If the latest data are lost, the operator says that the older ones count, and makes the change again.
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
    assert!(by_hand.set_account_disabled(&person.subject, true).await.unwrap());
    assert!(starts(&server).await.unwrap().account(&person.subject).await.unwrap().unwrap().disabled);
}

/// A claim needs a row. It has to be possible to write it, because a Redis that came back may be full.
#[tokio::test(flavor = "multi_thread")]
async fn a066_a_replica_tells_others_that_redis_is_older_although_redis_is_full() {
    let Some(server) = RedisServer::start(&["--appendonly", "no"]) else { return };
    let knows = starts(&server).await.unwrap();
    assert!(knows.add_account(&account("ana")).await.unwrap());
    knows.revoke_grant(&super::faults::id_of_nobody()).await.unwrap();
    let mut admin = Resp::connect(server.port);
    admin.ask(&[b"DEL", b"mcp-gate:{meta}:taken-away", b"mcp-gate:{meta}:history"]);
    admin.ask(&[b"CONFIG", b"SET", b"maxmemory", b"1"]);
    let start = Instant::now();
    while admin.ask(&[b"GET", b"mcp-gate:{meta}:claim"]) == Reply::Bytes(None) {
        assert!(knows.signing_keys().await.is_err());
        assert!(start.elapsed() < Duration::from_secs(20), "nothing is left for others");
    }
    admin.ask(&[b"CONFIG", b"SET", b"maxmemory", b"0"]);
    assert!(starts(&server).await.err().unwrap().to_string().contains(OLDER));
}
