//! Tests of older data in which no change that takes access away is missing, and of addresses that lead to the Redis of
//! another installation for a while. Only heartbeats reveal either case.

use std::time::{Duration, Instant};

use auth_service::store::redis::{HeartbeatPace, RedisAddress, RedisStore};
use auth_service::store::{GrantStore, Installation, Maintenance, Rotation};

use super::lost::{OLDER, adopts, starts, until_ready, until_refused};
use super::resp::{Reply, Resp};
use super::switch::Switch;
use super::things::{GRACE, NOW, granted, held, successor, usage};
use super::worlds::key;
use crate::redis_server::RedisServer;

const HEARTBEATS: &[u8] = b"mcp-gate:{meta}:heartbeats";
const CLAIM: &[u8] = b"mcp-gate:{meta}:claim";
const FAST: HeartbeatPace = HeartbeatPace {
    every: Duration::from_millis(20),
    settled: Duration::from_millis(100),
    margin: Duration::ZERO,
    follow: Duration::from_secs(600),
    gap: Duration::from_secs(120),
};

/// The highest number of any heartbeat.
fn latest(server: &RedisServer) -> u64 {
    let told = Resp::connect(server.port).ask(&[b"ZRANGE", HEARTBEATS, b"-1", b"-1", b"WITHSCORES"]);
    let Reply::List(told) = told else { panic!("no list") };
    let [_, number] = <[Reply; 2]>::try_from(told).unwrap();
    String::from_utf8(number.bytes()).unwrap().parse().unwrap()
}

/// Waits until enough further heartbeats have been written that some of them count.
async fn until_settled(server: &RedisServer) {
    let (start, first) = (Instant::now(), latest(server));
    while latest(server) < first + 30 {
        assert!(start.elapsed() < Duration::from_secs(30), "no heartbeats are written");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn until_first(server: &RedisServer) {
    let start = Instant::now();
    while Resp::connect(server.port).ask(&[b"ZCARD", HEARTBEATS]) == Reply::Number(0) {
        assert!(start.elapsed() < Duration::from_secs(30), "no heartbeat is written");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn replica(server: &RedisServer, pace: HeartbeatPace) -> RedisStore {
    let store = starts(server).await.unwrap();
    store.set_heartbeat_pace(pace);
    until_first(server).await;
    store
}

fn saved(server: &RedisServer) -> Vec<u8> {
    assert_eq!(Resp::connect(server.port).ask(&[b"SAVE"]), Reply::Text("OK".to_owned()));
    std::fs::read(server.data.path().join("dump.rdb")).unwrap()
}

fn restart_with(server: &mut RedisServer, data: &[u8]) {
    server.kill();
    std::fs::write(server.data.path().join("dump.rdb"), data).unwrap();
    assert!(server.run());
}

#[tokio::test(flavor = "multi_thread")]
async fn a031_older_data_in_which_a_used_refresh_token_is_valid_again_are_refused() {
    let Some(mut server) = RedisServer::start(&["--appendonly", "no"]) else { return };
    let store = replica(&server, FAST).await;
    let (client, _, grant) = granted(&store, "a", "refresh").await;
    let older = saved(&server);
    let rotate = async |store: &RedisStore| {
        let (token, next) = (held(&grant, 0, "refresh"), successor(&grant, 1, "next", NOW));
        store.rotate_refresh(&token, &next, &usage(&client, NOW), GRACE).await
    };
    assert!(matches!(rotate(&store).await.unwrap(), Rotation::Rotated(_)));
    until_settled(&server).await;
    let newest = saved(&server);

    restart_with(&mut server, &older);
    until_refused(&store, OLDER).await;
    assert!(rotate(&store).await.is_err(), "a used refresh token is valid again");
    let told = store.ping().await.unwrap_err().to_string();
    assert!(
        told.contains("refresh tokens and codes that were used") && told.contains("store adopt"),
        "{told}"
    );
    // Other processes also refuse the older data, and further heartbeats of other processes do not change this.
    let refused = starts(&server).await.err().expect("a process starts on the older data").to_string();
    assert!(refused.contains(OLDER), "{refused}");
    Resp::connect(server.port).ask(&[b"ZADD", HEARTBEATS, b"9000", b"another"]);
    until_refused(&store, OLDER).await;

    restart_with(&mut server, &newest);
    until_ready(&store).await;
    restart_with(&mut server, &older);
    until_refused(&store, OLDER).await;
    adopts(&server).await.unwrap();
    until_ready(&store).await;
    until_settled(&server).await;
    assert!(starts(&server).await.is_ok());
}

/// A failover loses the writes that the new master has not received. If none of them takes a right away, the service
/// must continue.
#[tokio::test(flavor = "multi_thread")]
async fn the_last_heartbeats_can_be_lost_in_a_failover() {
    let Some(mut server) = RedisServer::start(&["--appendonly", "no"]) else { return };
    let store = replica(&server, HeartbeatPace { settled: Duration::from_secs(60), ..FAST }).await;
    for _ in 0..3 {
        let older = saved(&server);
        until_settled(&server).await;
        restart_with(&mut server, &older);
        until_ready(&store).await;
        until_settled(&server).await;
        assert!(store.ping().await.is_ok());
    }
    assert_eq!(Resp::connect(server.port).ask(&[b"GET", CLAIM]), Reply::Bytes(None));
}

#[tokio::test(flavor = "multi_thread")]
async fn a100_heartbeats_of_processes_that_ended_are_forgotten() {
    let Some(server) = RedisServer::start(&["--appendonly", "no"]) else { return };
    let store = replica(&server, FAST).await;
    let mut admin = Resp::connect(server.port);
    admin.ask(&[b"ZADD", HEARTBEATS, b"200000", b"latest"]);
    until_settled(&server).await;
    admin.ask(&[b"ZADD", HEARTBEATS, b"5", b"ended"]);
    until_settled(&server).await;
    assert_eq!(admin.ask(&[b"ZSCORE", HEARTBEATS, b"ended"]), Reply::Bytes(None));
    assert!(store.ping().await.is_ok());
}

async fn behind(switch: &Switch) -> RedisStore {
    let url = format!("redis://127.0.0.1:{}", switch.port);
    let store = RedisStore::connect(&RedisAddress::parse(&url).unwrap(), &key()).await.unwrap();
    store.set_heartbeat_pace(FAST);
    store
}

/// Makes the address lead to `to`, and closes the connections to `from`.
fn redirect(switch: &Switch, from: &RedisServer, to: &RedisServer) {
    switch.lead_to(to.port);
    Resp::connect(from.port).ask(&[b"CLIENT", b"KILL", b"TYPE", b"normal", b"SKIPME", b"yes"]);
}

/// Two installations have the same `STORE_KEY`, such as a copy of the first one for tests.
#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_is_led_to_another_installation_for_a_while_comes_back_without_harm() {
    let (Some(mine), Some(other)) =
        (RedisServer::start(&["--appendonly", "no"]), RedisServer::start(&["--appendonly", "no"]))
    else {
        return;
    };
    let stays = replica(&mine, FAST).await;
    let (_, _, grant) = granted(&stays, "a", "refresh").await;
    let switch = Switch::start(mine.port);
    let led = behind(&switch).await;
    let later = replica(&other, FAST).await;
    // The clock of Redis is read in whole seconds, so the two stores must be more than a second apart.
    tokio::time::sleep(Duration::from_millis(2100)).await;
    until_settled(&mine).await;

    redirect(&switch, &mine, &other);
    until_refused(&led, "REDIS_URL leads to another Redis").await;
    let held = led.held_grant(&grant.id, &grant.client_id, &grant.subject, NOW).await;
    assert!(held.is_err(), "the token would be refused with a challenge");
    redirect(&switch, &other, &mine);
    until_ready(&led).await;
    for store in [&led, &stays] {
        let held = store.held_grant(&grant.id, &grant.client_id, &grant.subject, NOW).await.unwrap();
        assert!(held.is_some() && store.ping().await.is_ok());
    }
    let told = led.dangers().await.unwrap().concat();
    assert!(told.contains("REDIS_URL led to another Redis"), "{told}");
    assert!(!stays.dangers().await.unwrap().concat().contains("REDIS_URL"));
    for server in [&mine, &other] {
        assert_eq!(Resp::connect(server.port).ask(&[b"GET", CLAIM]), Reply::Bytes(None));
        assert!(starts(server).await.is_ok());
    }
    assert!(later.ping().await.is_ok());

    // If the store has moved, the replica eventually switches to it.
    led.set_heartbeat_pace(HeartbeatPace { follow: Duration::ZERO, ..FAST });
    redirect(&switch, &mine, &other);
    until_ready(&led).await;
    assert_eq!(led.identity().await.unwrap(), later.identity().await.unwrap());
    let told = led.dangers().await.unwrap().concat();
    assert!(told.contains("was replaced with one that was created later"), "{told}");
}

/// The other installation is older than the replica's own one, which has not replaced it.
#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_is_led_to_an_earlier_store_leaves_nothing_there_while_it_is_in_use() {
    let (Some(first), Some(second)) =
        (RedisServer::start(&["--appendonly", "no"]), RedisServer::start(&["--appendonly", "no"]))
    else {
        return;
    };
    let earlier = replica(&first, FAST).await;
    tokio::time::sleep(Duration::from_millis(2100)).await;
    let switch = Switch::start(second.port);
    let led = behind(&switch).await;
    until_first(&second).await;
    redirect(&switch, &second, &first);
    until_refused(&led, "created earlier").await;
    for _ in 0..20 {
        assert!(led.ping().await.is_err() && earlier.ping().await.is_ok());
    }
    let has_claim = || Resp::connect(first.port).ask(&[b"GET", CLAIM]) != Reply::Bytes(None);
    assert!(!has_claim());
    assert!(starts(&first).await.is_ok());
    redirect(&switch, &first, &second);
    until_ready(&led).await;

    // If no process has used the earlier store in the meantime, it might have been replaced.
    drop(earlier);
    led.set_heartbeat_pace(HeartbeatPace { gap: Duration::ZERO, ..FAST });
    tokio::time::sleep(Duration::from_millis(2100)).await;
    redirect(&switch, &second, &first);
    until_refused(&led, "created earlier").await;
    let start = Instant::now();
    while !has_claim() {
        assert!(led.ping().await.is_err() && start.elapsed() < Duration::from_secs(20), "no claim is left");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(starts(&first).await.is_err());
}
