//! Tests of a store that executes a write long after its caller has received an error.

use std::process::Command;
use std::time::{Duration, Instant};

use auth_service::store::redis::{RedisAddress, RedisStore};
use auth_service::store::{CodeStore, GrantStore, Issuance, Maintenance, Redemption, Rotation};
use futures_util::future::join;

use super::resp::Resp;
use super::things::{GRACE, NOW, code, grant, granted, hash, held, later, successor, usage};
use super::worlds::{Cluster, key};
use crate::chaos::{Chaos, Weather};
use crate::redis_server::RedisServer;

/// The proxy delays all data by this much, so that the test can stop the server after it has answered the reads
/// and before the write arrives.
const ON_THE_WAY: Duration = Duration::from_millis(200);

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a032_what_a_stopped_redis_executes_late_uses_up_no_refresh_token_and_no_code() {
    let Some(server) = RedisServer::start(&["--appendonly", "no"]) else { return };
    // Without `CLIENT TRACKING`, only the calls in this test use the first connection.
    Resp::connect(server.port).ask(&[b"ACL", b"SETUSER", b"default", b"-client|tracking"]);
    let way = Chaos::before(server.port).await;
    let store = RedisStore::connect(&RedisAddress::parse(&way.url()).unwrap(), &key()).await.unwrap();
    // Redis can execute only a script that is already loaded, so this call loads the script first.
    let (client, _, of_warm) = granted(&store, "warm", "first").await;
    let next = successor(&of_warm, 1, "second", NOW);
    store.rotate_refresh(&held(&of_warm, 0, "first"), &next, &usage(&client, NOW), GRACE).await.unwrap();
    let (client, person, of_token) = granted(&store, "a", "first").await;
    let made = code(&client, &person.subject, NOW);
    let used = usage(&client, NOW);
    let secret = hash("code");
    assert_eq!(store.add_code("approval", &secret, &made, &used).await.unwrap(), Issuance::Issued);
    let of_code = grant(&made, "of code", NOW);
    let token = held(&of_token, 0, "first");
    let signal = |name: &str| {
        let sent = Command::new("kill")
            .args([name, &server.process.as_ref().unwrap().id().to_string()])
            .status()
            .unwrap();
        assert!(sent.success());
    };

    way.turn(Weather::Delay(ON_THE_WAY));
    let before = way.round_trips();
    let stopped = async {
        // The first round trip reads, and the second writes.
        while way.round_trips() < before + 2 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        signal("-STOP");
    };
    let next = successor(&of_token, 1, "second", NOW);
    let asked =
        join(store.rotate_refresh(&token, &next, &used, GRACE), store.redeem_code(&secret, &of_code, &used));
    let ((rotated, redeemed), ()) = join(asked, stopped).await;
    assert!(rotated.is_err() && redeemed.is_err(), "{rotated:?} {redeemed:?}");
    tokio::time::sleep(Duration::from_secs(3)).await;
    signal("-CONT");
    way.turn(Weather::Fair);
    let start = Instant::now();
    while store.ping().await.is_err() {
        assert!(start.elapsed() < Duration::from_secs(20), "the store does not recover");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }

    // The client retries after the grace period, with the only tokens that it has.
    let at = later(GRACE + Duration::from_secs(1));
    let again = store.rotate_refresh(&token, &next, &usage(&client, at), GRACE).await.unwrap();
    assert!(matches!(again, Rotation::Rotated(_)), "{again:?}");
    let again = store.redeem_code(&secret, &of_code, &used).await.unwrap();
    assert!(matches!(again, Redemption::Redeemed { .. }), "{again:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a032_an_outage_after_redis_has_executed_a_refresh_costs_no_grant() {
    const SHORT: Duration = Duration::from_secs(2);
    let Some(server) = RedisServer::start(&["--appendonly", "no"]) else { return };
    // Without `CLIENT TRACKING`, only the calls of this test use the first connection.
    Resp::connect(server.port).ask(&[b"ACL", b"SETUSER", b"default", b"-client|tracking"]);
    let way = Chaos::before(server.port).await;
    let store = RedisStore::connect(&RedisAddress::parse(&way.url()).unwrap(), &key()).await.unwrap();
    let (client, _, of_old) = granted(&store, "old", "first").await;
    let (old, after_old) = (held(&of_old, 0, "first"), successor(&of_old, 1, "second", NOW));
    store.rotate_refresh(&old, &after_old, &usage(&client, NOW), SHORT).await.unwrap();
    let (client, _, of_token) = granted(&store, "a", "first").await;
    let (token, next) = (held(&of_token, 0, "first"), successor(&of_token, 1, "second", NOW));

    let start = Instant::now();
    way.turn(Weather::Delay(ON_THE_WAY));
    let before = way.round_trips();
    let held_back = async {
        // The first round trip reads, and the second writes. Redis executes it, but its response is lost.
        while way.round_trips() < before + 2 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        way.turn(Weather::Hold(0));
    };
    let used = usage(&client, NOW);
    let (rotated, ()) = join(store.rotate_refresh(&token, &next, &used, SHORT), held_back).await;
    assert!(rotated.is_err(), "{rotated:?}");
    way.turn(Weather::Cut);
    tokio::time::sleep(SHORT * 2).await;
    way.turn(Weather::Fair);
    while store.ping().await.is_err() {
        assert!(start.elapsed() < Duration::from_secs(20), "the store does not recover");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }

    let at = later(start.elapsed());
    let again = store.rotate_refresh(&token, &next, &usage(&client, at), SHORT).await.unwrap();
    assert!(matches!(again, Rotation::Repeated { .. }), "{again:?}");
    // The outage does not extend the grace period of a token that was replaced well before it.
    let at = later(start.elapsed() + Duration::from_secs(30));
    let stolen = store.rotate_refresh(&old, &after_old, &usage(&client, at), SHORT).await.unwrap();
    assert!(matches!(stolen, Rotation::Reused(_)), "{stolen:?}");
    // After the grace period, the other one counts as stolen, too.
    tokio::time::sleep(SHORT + Duration::from_secs(1)).await;
    let at = later(start.elapsed());
    let stolen = store.rotate_refresh(&token, &next, &usage(&client, at), SHORT).await.unwrap();
    assert!(matches!(stolen, Rotation::Reused(_)), "{stolen:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a032_an_outage_of_one_node_of_a_cluster_costs_no_grant_although_the_others_respond() {
    const SHORT: Duration = Duration::from_secs(3);
    let Some(cluster) = Cluster::start() else { return };
    let store = RedisStore::connect(&RedisAddress::parse(&cluster.url()).unwrap(), &key()).await.unwrap();
    let (client, _, of_token) = granted(&store, "a", "first").await;
    let (token, next) = (held(&of_token, 0, "first"), successor(&of_token, 1, "second", NOW));
    let mut others = Vec::new();
    for name in ["b", "c", "d", "e", "f", "g", "h", "i"] {
        others.push(granted(&store, name, name).await.2.id);
    }

    let start = Instant::now();
    let used = usage(&client, NOW);
    let rotated = store.rotate_refresh(&token, &next, &used, SHORT).await.unwrap();
    assert!(matches!(rotated, Rotation::Rotated(_)), "{rotated:?}");
    let mut stopped = None;
    for node in 0..3 {
        cluster.signal(node, "-STOP");
        if store.grant(&of_token.id, NOW).await.is_err() {
            stopped = Some(node);
            break;
        }
        cluster.signal(node, "-CONT");
    }
    let stopped = stopped.unwrap();
    let mut of_others = Vec::new();
    for other in others {
        if store.grant(&other, NOW).await.is_ok() {
            of_others.push(other);
        }
    }
    let (mut answered, mut refused) = (0, 0);
    while start.elapsed() < SHORT * 2 {
        for other in &of_others {
            answered += u32::from(store.grant(other, NOW).await.is_ok());
        }
        let at = later(start.elapsed());
        refused += u32::from(store.rotate_refresh(&token, &next, &usage(&client, at), SHORT).await.is_err());
    }
    assert!(answered > 0 && refused > 1, "{answered} {refused}");
    cluster.signal(stopped, "-CONT");
    let recovers = Instant::now();
    let again = loop {
        let at = later(start.elapsed());
        match store.rotate_refresh(&token, &next, &usage(&client, at), SHORT).await {
            Ok(again) => break again,
            Err(error) => assert!(recovers.elapsed() < Duration::from_secs(10), "{error}"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    assert!(matches!(again, Rotation::Repeated { .. }), "{again:?}");
    // After the grace period, the token counts as stolen.
    tokio::time::sleep(SHORT + Duration::from_secs(2)).await;
    let at = later(start.elapsed());
    let stolen = store.rotate_refresh(&token, &next, &usage(&client, at), SHORT).await.unwrap();
    assert!(matches!(stolen, Rotation::Reused(_)), "{stolen:?}");
}
