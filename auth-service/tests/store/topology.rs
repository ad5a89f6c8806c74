//! Tests of Redis slots that are moved and Redis masters that die, while the store is in use.

use std::process::{Child, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use auth_service::principal::RejectedToken;
use auth_service::store::redis::{RedisAddress, RedisStore};
use auth_service::store::{GrantStore, Installation, Maintenance, Rotation, SigningKeyStore, StoreError};

use super::principals;
use super::resp::{Resp, says};
use super::things::{GRACE, NOW, granted, held, successor, usage};
use super::worlds::{Cluster, key};
use crate::redis_server::{self, RedisServer};

/// Rotates one grant's refresh token until `stop` is set. Returns how many rotations succeeded, and how many
/// failed because the store was unavailable.
async fn refresh_for_ever(store: Arc<RedisStore>, name: String, stop: Arc<AtomicBool>) -> (u32, u32) {
    let (client, _, grant) = granted(&*store, &name, &format!("{name} 0")).await;
    let used = usage(&client, NOW);
    let (mut last, mut number, mut rotated, mut refused) = (format!("{name} 0"), 0, 0, 0);
    while !stop.load(Ordering::Relaxed) {
        let next = format!("{name} {}", rotated + refused + 1);
        let successor = successor(&grant, number + 1, &next, NOW);
        match store.rotate_refresh(&held(&grant, number, &last), &successor, &used, GRACE).await {
            Ok(Rotation::Rotated(_)) => {
                (last, number) = (next, number + 1);
                rotated += 1;
            }
            // The response to an earlier attempt was lost, and the token of that attempt is the current one.
            Ok(Rotation::Repeated { sealed_successor, .. }) => {
                (last, number) = (String::from_utf8(sealed_successor).unwrap(), number + 1);
            }
            Ok(wrong) => panic!("{name}: {wrong:?}"),
            Err(StoreError::Unavailable(_) | StoreError::NeedsOperator(_)) => {
                refused += 1;
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            Err(StoreError::Unreadable) => panic!("unreadable"),
        }
    }
    let last = store.grant_of_refresh(&held(&grant, number, &last), NOW).await.unwrap().unwrap();
    assert_eq!(last.id, grant.id);
    (rotated, refused)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn slots_that_move_during_load_make_no_wrong_answer() {
    let Some(cluster) = Cluster::start() else { return };
    let address = RedisAddress::parse(&cluster.url()).unwrap();
    let store = Arc::new(RedisStore::connect(&address, &key()).await.unwrap());
    let stop = Arc::new(AtomicBool::new(false));
    let load: Vec<_> = (0..16)
        .map(|n| tokio::spawn(refresh_for_ever(Arc::clone(&store), format!("grant{n}"), Arc::clone(&stop))))
        .collect();
    let moves = tokio::task::spawn_blocking(move || {
        cluster.move_slots(0, 1, 1000);
        cluster.move_slots(1, 2, 1000);
        cluster
    });
    let cluster = moves.await.unwrap();
    tokio::time::sleep(Duration::from_millis(200)).await;
    stop.store(true, Ordering::Relaxed);
    let (mut rotated, mut refused) = (0, 0);
    for task in load {
        let (of_one, not_of_one) = task.await.unwrap();
        (rotated, refused) = (rotated + of_one, refused + not_of_one);
    }
    println!("{rotated} rotations while 2000 slots moved, {refused} refused");
    assert!(rotated > 500 && refused < rotated / 10);
    drop(cluster);
}

struct Sentinel {
    process: Child,
    port: u16,
    _data: tempfile::TempDir,
}

impl Sentinel {
    fn of(master: &RedisServer) -> Self {
        let data = tempfile::tempdir().unwrap();
        let file = data.path().join("sentinel.conf");
        let watch = format!("sentinel monitor gate 127.0.0.1 {} 1\n", master.port);
        let fast = "sentinel down-after-milliseconds gate 1000\nsentinel failover-timeout gate 5000\n";
        std::fs::write(&file, watch + fast).unwrap();
        let port = redis_server::free_port();
        let mut command = redis_server::program();
        command.arg(&file).arg("--sentinel").args(["--bind", "127.0.0.1", "--port"]).arg(port.to_string());
        let process = command.stdout(Stdio::null()).spawn().unwrap();
        Self { process, port, _data: data }
    }
}

impl Drop for Sentinel {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Checks a live token and a revoked one until `stop` is set. Returns how often the live token passed, and how
/// often the store was unavailable.
async fn check_for_ever(
    gate: Arc<principals::Replica>,
    tokens: Arc<(String, String)>,
    stop: Arc<AtomicBool>,
) -> (u32, u32) {
    let (mut passed, mut unavailable) = (0, 0);
    while !stop.load(Ordering::Relaxed) {
        match gate.check(&tokens.0).await {
            Ok(_) => passed += 1,
            Err(RejectedToken::Store(_)) => unavailable += 1,
            Err(wrong) => panic!("a live token: {wrong}"),
        }
        assert!(gate.check(&tokens.1).await.is_err(), "a revoked token passes");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    (passed, unavailable)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn when_the_master_dies_the_store_goes_on_at_the_replica() {
    let Some(mut master) = RedisServer::start(&["--appendonly", "no"]) else { return };
    let of = format!("127.0.0.1 {}", master.port);
    let diskless = ["--appendonly", "no", "--repl-diskless-sync-delay", "0"];
    let Some(replica) = RedisServer::start(&[&diskless[..], &["--replicaof", &of]].concat()) else { return };
    let sentinel = Sentinel::of(&master);
    let deadline = Instant::now() + Duration::from_secs(20);
    let in_sync = |server: &RedisServer| says(server.port, "INFO replication\r\n", "master_link_status:up");
    while !in_sync(&replica) {
        assert!(Instant::now() < deadline, "the replica does not follow");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    // The sentinel queries its master for replicas every ten seconds.
    let deadline = Instant::now() + Duration::from_secs(30);
    let url = format!("redis-sentinel://127.0.0.1:{}?sentinelServiceName=gate", sentinel.port);
    while !says(sentinel.port, "SENTINEL REPLICAS gate\r\n", &replica.port.to_string()) {
        assert!(Instant::now() < deadline, "the sentinel does not know the replica");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let store = Arc::new(RedisStore::connect(&RedisAddress::parse(&url).unwrap(), &key()).await.unwrap());
    let (_, _, grant) = granted(&*store, "a", "refresh").await;
    let (_, _, revoked) = granted(&*store, "b", "another").await;
    store.revoke_grant(&revoked.id).await.unwrap();
    let keys = principals::keys();
    let gate = Arc::new(principals::Replica::new(Arc::clone(&store) as _, Arc::clone(&keys)));
    let tokens = Arc::new((principals::token(&keys, &grant), principals::token(&keys, &revoked)));
    let (mut of_master, mut of_replica) = (Resp::connect(master.port), Resp::connect(replica.port));
    let deadline = Instant::now() + Duration::from_secs(20);
    while of_master.keys().len() != of_replica.keys().len() {
        assert!(Instant::now() < deadline, "the replica lags behind");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    gate.is_live().await;
    let stop = Arc::new(AtomicBool::new(false));
    let load: Vec<_> = (0..8)
        .map(|_| tokio::spawn(check_for_ever(Arc::clone(&gate), Arc::clone(&tokens), Arc::clone(&stop))))
        .collect();
    tokio::time::sleep(Duration::from_millis(200)).await;
    master.kill();
    let start = Instant::now();
    let mut refused = 0;
    loop {
        let asked = Instant::now();
        match store.held_grant(&grant.id, &grant.client_id, &grant.subject, NOW).await {
            Ok(found) => {
                assert!(found.is_some(), "the replica has what the master acknowledged a while ago");
                break;
            }
            Err(error) => {
                assert!(
                    matches!(error, StoreError::Unavailable(_) | StoreError::NeedsOperator(_)),
                    "{error}"
                );
            }
        }
        refused += 1;
        assert!(asked.elapsed() < Duration::from_secs(1), "{:?}", asked.elapsed());
        assert!(start.elapsed() < Duration::from_secs(30), "the store does not find the new master");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    println!("back after {:?}, {refused} calls refused in between", start.elapsed());
    gate.is_live().await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    stop.store(true, Ordering::Relaxed);
    let (mut passed, mut unavailable) = (0, 0);
    for task in load {
        let (some, others) = task.await.unwrap();
        (passed, unavailable) = (passed + some, unavailable + others);
    }
    println!("{passed} checks passed, {unavailable} were refused because the store was unavailable");
    // How many there are depends on the load of the machine.
    assert!(passed > 0 && unavailable > 0);
    let deadline = Instant::now() + Duration::from_secs(10);
    while store.revoke_grant(&grant.id).await.is_err() {
        assert!(Instant::now() < deadline, "the new master accepts no writes");
    }
    assert!(store.grant(&grant.id, NOW).await.unwrap().is_none());
}

/// Waits until `holds` is true.
async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let start = Instant::now();
    while !holds().await {
        assert!(start.elapsed() < Duration::from_secs(20), "{what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_silent_node_of_a_cluster_is_told_and_makes_a_replica_unready_if_every_check_needs_it() {
    let Some(cluster) = Cluster::start() else { return };
    let store = RedisStore::connect(&RedisAddress::parse(&cluster.url()).unwrap(), &key()).await.unwrap();
    let mut grants = Vec::new();
    for name in ["a", "b", "c", "d", "e", "f", "g", "h", "i"] {
        grants.push(granted(&store, name, name).await.2.id);
    }
    let tells = async || {
        let dangers = store.dangers().await;
        dangers.is_ok_and(|dangers| dangers.iter().any(|danger| danger.contains("does not respond")))
    };
    let mut without_keys = 0;
    for node in 0..3 {
        assert!(!tells().await, "node {node}");
        cluster.signal(node, "-STOP");
        let (has_keys, mut has_rows) = (store.signing_keys().await.is_ok(), true);
        for grant in &grants {
            has_rows &= store.grant(grant, NOW).await.is_ok();
        }
        assert!(!has_rows, "no row is on node {node}");
        if !has_keys {
            without_keys += 1;
        }
        let pings = store.ping().await.is_ok();
        assert!(has_keys || !pings, "node {node}: a replica that cannot check any token is ready");
        assert!(!pings || tells().await, "node {node}: nobody is told");
        cluster.signal(node, "-CONT");
        until("the store does not recover", async || store.ping().await.is_ok()).await;
        until("the store still reports the outage", async || store.dangers().await.is_ok() && !tells().await)
            .await;
    }
    assert!(without_keys > 0, "the signing keys are on no node");
}
