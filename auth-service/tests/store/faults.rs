//! Tests of a Redis server that is unreachable, forbids commands, or refuses writes.

use std::time::{Duration, Instant};

use auth_service::store::redis::{RedisAddress, RedisStore};
use auth_service::store::{
    AccountStore, Addition, Change, ClientStore, CodeStore, Deletion, DeviceStore, GrantStore, Installation,
    Issuance, Maintenance, Redemption, Replacement, Rotation, SigningKeyStore, StoreError,
};

use super::resp::{Reply, Resp};
use super::round_trips::allowed_device;
use super::switch::Switch;
use super::things::{
    GRACE, NOW, account, client, code, grant, granted, hash, held, id, register, successor, usage,
};
use super::worlds::key;
use crate::redis_server::RedisServer;

async fn connect(url: &str) -> Result<RedisStore, StoreError> {
    RedisStore::connect(&RedisAddress::parse(url).unwrap(), &key()).await
}

async fn recovers(store: &RedisStore, within: Duration) {
    let start = Instant::now();
    while store.ping().await.is_err() {
        assert!(start.elapsed() < within, "the store does not recover");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a088_redis_that_is_killed_is_an_error_at_once_and_works_again_when_it_is_back() {
    let Some(mut server) = RedisServer::start(&["--appendonly", "yes", "--appendfsync", "always"]) else {
        return;
    };
    let store = connect(&server.url()).await.unwrap();
    let (client, _, grant) = granted(&store, "a", "refresh").await;
    server.kill();
    for _ in 0..20 {
        let start = Instant::now();
        let error = store.held_grant(&grant.id, &grant.client_id, &grant.subject, NOW).await.unwrap_err();
        assert!(matches!(error, StoreError::Unavailable(_)), "{error}");
        assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
        assert!(store.ping().await.is_err() && store.revoke_grant(&grant.id).await.is_err());
    }
    let start = Instant::now();
    for _ in 0..100 {
        assert!(store.held_grant(&grant.id, &grant.client_id, &grant.subject, NOW).await.is_err());
    }
    assert!(start.elapsed() < Duration::from_millis(200), "a call waited for Redis");
    assert!(server.run());
    recovers(&store, Duration::from_secs(10)).await;
    assert!(
        store.held_grant(&grant.id, &grant.client_id, &grant.subject, NOW).await.unwrap().is_some(),
        "an acknowledged change was lost"
    );
    assert_eq!(
        store.delete_client(&client.id).await.unwrap(),
        Deletion::Deleted,
        "scripts must work although the new process has not loaded them"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_that_hangs_costs_no_more_than_the_budget() {
    let Some(server) = RedisServer::start(&["--appendonly", "no"]) else { return };
    let store = connect(&server.url()).await.unwrap();
    let mut other = Resp::connect(server.port);
    let hang = std::thread::spawn(move || {
        other.ask(&[
            b"EVAL",
            b"local t = redis.call('TIME')[1] while redis.call('TIME')[1] - t < 3 do end return 1",
            b"0",
        ])
    });
    tokio::time::sleep(Duration::from_millis(100)).await;
    for _ in 0..3 {
        let start = Instant::now();
        assert!(matches!(store.client(&id("a"), NOW).await, Err(StoreError::Unavailable(_))));
        assert!(start.elapsed() < Duration::from_millis(700), "{:?}", start.elapsed());
    }
    hang.join().unwrap();
    recovers(&store, Duration::from_secs(10)).await;
    register(&store, &client("a")).await;
}

#[tokio::test]
async fn a_redis_that_cannot_be_used_says_why_and_never_the_password() {
    let options = ["--appendonly", "no", "--requirepass", "hunter2hunter2"];
    let Some(server) = RedisServer::start(&options) else { return };
    let at = |user: &str| format!("redis://{user}127.0.0.1:{}", server.port);
    for (url, hint) in [
        (at(""), "password"),
        (at(":wrongwrong@"), "password"),
        (at("gate:wrongwrong@"), "password"),
        (format!("redis-cluster://:hunter2hunter2@127.0.0.1:{}", server.port), "REDIS_URL"),
        ("redis://gate:wrongwrong@127.0.0.1:1".to_owned(), "REDIS_URL"),
    ] {
        let error = connect(&url).await.err().unwrap().to_string();
        assert!(error.contains(hint) && error.contains("127.0.0.1"), "{error}");
        assert!(!error.contains("wrongwrong") && !error.contains("hunter2"), "{error}");
    }
    let store = connect(&at(":hunter2hunter2@")).await.unwrap();
    assert_eq!(store.add_account(&account("ana")).await.unwrap(), Addition::Added);
    // The Redis user gets only the permissions that the store requires.
    let mut admin = Resp::connect(server.port);
    admin.ask(&[b"AUTH", b"hunter2hunter2"]);
    let rule = format!("ACL SETUSER gate on >p@ss ~mcp-gate:* resetchannels {NEEDED}");
    assert_eq!(tell(&mut admin, &rule), Reply::Text("OK".to_owned()));
    let limited = connect(&at("gate:p%40ss@")).await.unwrap();
    granted(&limited, "a", "refresh").await;
    assert_eq!(limited.accounts().await.unwrap().len(), 2);
    assert_eq!(limited.clients(None, 5, NOW).await.unwrap().len(), 1);
    assert_eq!(limited.sweep(NOW).await.unwrap(), 0);
    // The Redis user has no permission to read the time or the settings of Redis. This is not an error.
    assert_eq!((limited.own_time().await.unwrap(), limited.dangers().await.unwrap()), (None, Vec::new()));
    assert!(limited.ping().await.is_ok());
    let numbered = connect(&format!("{}/1", at(":hunter2hunter2@"))).await.unwrap();
    assert!(numbered.accounts().await.unwrap().is_empty(), "another database has the same accounts");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rotation_whose_answer_was_lost_is_told_again() {
    let Some(server) = RedisServer::start(&["--appendonly", "no"]) else { return };
    let store = connect(&server.url()).await.unwrap();
    let (client, _, grant) = granted(&store, "a", "first").await;
    let used = usage(&client, NOW);
    let rotate = |number: u32, token: &str, next: &str| {
        let (token, next) = (held(&grant, number, token), successor(&grant, number + 1, next, NOW));
        let (store, used) = (&store, &used);
        async move { store.rotate_refresh(&token, &next, used, GRACE).await.unwrap() }
    };
    // The response to the first call is lost, as if the process had died.
    drop(rotate(0, "first", "second").await);
    let again = rotate(0, "first", "other").await;
    assert!(matches!(again, Rotation::Repeated { sealed_successor, .. } if sealed_successor == b"second"));
    assert!(matches!(rotate(1, "second", "third").await, Rotation::Rotated(_)));
    // A grant and its refresh token are a single row, so a rotation is atomic.
    let keys = Resp::connect(server.port).keys();
    let of_refresh = |key: &&Vec<u8>| key.starts_with(b"mcp-gate:{r:");
    assert_eq!(keys.iter().filter(of_refresh).count(), 0);
}

/// Waits until the check of `/ready` reports that Redis refuses writes for this reason.
async fn refuses_writes(store: &RedisStore, said: &str) {
    let start = Instant::now();
    loop {
        match store.ping().await {
            Err(error) if error.to_string().contains(said) => break,
            other => assert!(start.elapsed() < Duration::from_secs(10), "not {said}: {other:?}"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let added = store.add_account(&account("nobody")).await;
    assert!(!matches!(added, Ok(Addition::Added)), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_way_in_which_redis_refuses_writes_is_told_and_over_when_it_is() {
    let Some(server) = RedisServer::start(&["--appendonly", "no"]) else { return };
    let store = connect(&server.url()).await.unwrap();
    let (_, _, grant) = granted(&store, "a", "refresh").await;
    let mut admin = Resp::connect(server.port);
    let mut tell = |line: &str| {
        let words: Vec<&[u8]> = line.split_whitespace().map(str::as_bytes).collect();
        admin.ask(&words)
    };
    for (cause, end, said) in [
        ("CONFIG SET maxmemory 1", "CONFIG SET maxmemory 0", "OOM"),
        ("CONFIG SET min-replicas-to-write 1", "CONFIG SET min-replicas-to-write 0", "NOREPLICAS"),
        ("REPLICAOF 127.0.0.1 1", "REPLICAOF NO ONE", "READONLY"),
    ] {
        tell(cause);
        refuses_writes(&store, said).await;
        tell(end);
        recovers(&store, Duration::from_secs(10)).await;
        let held = store.held_grant(&grant.id, &grant.client_id, &grant.subject, NOW).await.unwrap();
        assert!(held.is_some(), "an acknowledged change was lost after {said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_cannot_save_is_told_and_over_when_it_can() {
    let data = tempfile::tempdir().unwrap();
    let directory = data.path().to_str().unwrap();
    let options =
        ["--appendonly", "no", "--save", "3600 1", "--dbfilename", "in-the-way", "--dir", directory];
    let Some(server) = RedisServer::start(&options) else { return };
    let store = connect(&server.url()).await.unwrap();
    register(&store, &client("a")).await;
    let mut admin = Resp::connect(server.port);
    // A directory occupies the name of the dump file, so Redis cannot save its data.
    let place = data.path().join("in-the-way");
    std::fs::create_dir(&place).unwrap();
    std::fs::write(place.join("file"), "").unwrap();
    admin.ask(&[b"BGSAVE"]);
    refuses_writes(&store, "MISCONF").await;
    std::fs::remove_dir_all(&place).unwrap();
    admin.ask(&[b"BGSAVE"]);
    recovers(&store, Duration::from_secs(20)).await;
    assert!(store.client(&id("a"), NOW).await.unwrap().is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_master_is_looked_for_when_the_server_behind_a_name_has_become_a_copy() {
    let (Some(old), Some(new)) =
        (RedisServer::start(&["--appendonly", "no"]), RedisServer::start(&["--appendonly", "no"]))
    else {
        return;
    };
    let proxy = Switch::start(old.port);
    let store = connect(&format!("redis://127.0.0.1:{}", proxy.port)).await.unwrap();
    register(&store, &client("a")).await;
    Resp::connect(new.port).ask(&[b"REPLICAOF", b"127.0.0.1", old.port.to_string().as_bytes()]);
    let mut copy = Resp::connect(new.port);
    let start = Instant::now();
    while copy.keys().len() < Resp::connect(old.port).keys().len() {
        assert!(start.elapsed() < Duration::from_secs(20), "the replica does not catch up");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    // After a failover, the old master becomes a replica, and the host name resolves to the new master.
    copy.ask(&[b"REPLICAOF", b"NO", b"ONE"]);
    Resp::connect(old.port).ask(&[b"REPLICAOF", b"127.0.0.1", new.port.to_string().as_bytes()]);
    proxy.lead_to(new.port);
    recovers(&store, Duration::from_secs(10)).await;
    assert!(store.client(&id("a"), NOW).await.unwrap().is_some());
    register(&store, &client("b")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_password_that_redis_takes_no_more_is_named_as_that() {
    let Some(server) = RedisServer::start(&["--appendonly", "no", "--requirepass", "hunter2hunter2"]) else {
        return;
    };
    let store = connect(&format!("redis://:hunter2hunter2@127.0.0.1:{}", server.port)).await.unwrap();
    register(&store, &client("a")).await;
    let mut admin = Resp::connect(server.port);
    admin.ask(&[b"AUTH", b"hunter2hunter2"]);
    admin.ask(&[b"CONFIG", b"SET", b"requirepass", b"another one"]);
    admin.ask(&[b"CLIENT", b"KILL", b"TYPE", b"normal"]);
    refuses_writes(&store, "refuses the user or password in REDIS_URL").await;
    admin.ask(&[b"CONFIG", b"SET", b"requirepass", b"hunter2hunter2"]);
    recovers(&store, Duration::from_secs(10)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a100_what_is_taken_from_somebody_is_taken_although_redis_is_full() {
    let Some(server) = RedisServer::start(&["--appendonly", "no"]) else { return };
    let store = connect(&server.url()).await.unwrap();
    let (client, person, grant) = granted(&store, "a", "refresh").await;
    let other = register(&store, &super::things::client("b")).await;
    let keys = auth_service::rotation::up_to_date(&store, &super::keys::TERMS, NOW).await.unwrap();
    let mut admin = Resp::connect(server.port);
    let ok = Reply::Text("OK".to_owned());
    assert_eq!(admin.ask(&[b"CONFIG", b"SET", b"maxmemory", b"1"]), ok);
    let refused = store.add_account(&account("ana")).await.unwrap_err().to_string();
    assert!(refused.contains("OOM"), "{refused}");
    assert!(store.ping().await.is_err());
    assert_eq!(store.set_account_disabled(&person.subject, true).await.unwrap(), Change::Changed);
    let (_, disabled) = store.held_grant(&grant.id, &client.id, &person.subject, NOW).await.unwrap().unwrap();
    assert!(disabled.disabled);
    let new = super::things::password("second");
    assert!(store.replace_password(&person.subject, &person.password, &new).await.unwrap().is_some());
    assert_eq!(store.set_account_groups(&person.subject, &[]).await.unwrap(), Change::Changed);
    assert_eq!(
        store.replace_signing_keys(Some(keys.revision()), &keys).await.unwrap(),
        Replacement::Replaced
    );
    assert_eq!(store.set_client_disabled(&client.id, true).await.unwrap(), Change::Changed);
    assert!(store.held_grant(&grant.id, &client.id, &person.subject, NOW).await.unwrap().is_none());
    store.revoke_grant(&grant.id).await.unwrap();
    assert_eq!(store.delete_client(&client.id).await.unwrap(), Deletion::Deleted);
    // An update of a client does not take access away, so it is refused.
    let update = store.update_client(&other.management.unwrap(), &other).await;
    assert!(update.is_err());
    assert_eq!(admin.ask(&[b"CONFIG", b"SET", b"maxmemory", b"0"]), ok);
    recovers(&store, Duration::from_secs(10)).await;
    assert!(store.account(&person.subject).await.unwrap().unwrap().disabled);
    assert_eq!(store.remove_account(&person.subject).await.unwrap(), Deletion::Deleted);
}

/// Sends a command in one line.
fn tell(admin: &mut Resp, line: &str) -> Reply {
    let words: Vec<&[u8]> = line.split_whitespace().map(str::as_bytes).collect();
    admin.ask(&words)
}

/// Replaces the lists of each account's grants and logins with values of a different type, which no script can
/// change. Returns the number of lists.
fn spoil_lists(admin: &mut Resp) -> usize {
    let lists: Vec<_> = admin.keys().into_iter().filter(|key| key.starts_with(b"mcp-gate:{h:")).collect();
    for list in &lists {
        admin.ask(&[b"DEL", list]);
        admin.ask(&[b"LPUSH", list, b"in the way"]);
    }
    lists.len()
}

/// If a redemption were reported as failed, the client would retry it. The retry would count as a replay, and the
/// grant would be revoked.
#[tokio::test(flavor = "multi_thread")]
async fn a026_what_was_redeemed_is_told_although_the_list_of_its_account_cannot_be_changed() {
    let Some(server) = RedisServer::start(&["--appendonly", "no"]) else { return };
    let store = connect(&server.url()).await.unwrap();
    let (client, person, granted) = granted(&store, "a", "refresh").await;
    let used = usage(&client, NOW);
    let mut admin = Resp::connect(server.port);
    assert!(spoil_lists(&mut admin) > 0);
    let made = code(&client, &person.subject, NOW);
    assert_eq!(store.add_code("approval", &hash("code"), &made, &used).await.unwrap(), Issuance::Issued);
    spoil_lists(&mut admin);
    let grant = grant(&made, "of code", NOW);
    let redeemed = store.redeem_code(&hash("code"), &grant, &used).await.unwrap();
    assert!(matches!(redeemed, Redemption::Redeemed { .. }), "{redeemed:?}");
    let (device, of_device) = allowed_device(&store, "device", 'C').await;
    let redeemed = store.redeem_device(&device, &of_device, &used).await.unwrap();
    assert!(matches!(redeemed, Redemption::Redeemed { .. }), "{redeemed:?}");
    let next = successor(&granted, 1, "second", NOW);
    let rotated = store.rotate_refresh(&held(&granted, 0, "refresh"), &next, &used, GRACE).await.unwrap();
    assert!(matches!(rotated, Rotation::Rotated(_)), "{rotated:?}");
    store.revoke_grant(&granted.id).await.unwrap();
    assert!(store.grant(&grant.id, NOW).await.unwrap().is_some());
}

const NEEDED: &str = "+get +set +del +incr +eval +evalsha +client|tracking +ping +zadd +zrem +zcard +zscore +zrange \
                      +zrangebylex +zrangebyscore +zremrangebyscore +sadd +srem +smembers";

#[tokio::test(flavor = "multi_thread")]
async fn a_permission_that_is_missing_is_named_at_the_start_and_by_the_check_of_readiness() {
    let Some(server) = RedisServer::start(&["--appendonly", "no"]) else { return };
    let mut admin = Resp::connect(server.port);
    let mut permit = |rule: &str| {
        let done = tell(&mut admin, &format!("ACL SETUSER gate {rule}"));
        assert_eq!(done, Reply::Text("OK".to_owned()), "{rule}");
    };
    let url = format!("redis://gate:pass@127.0.0.1:{}", server.port);
    permit(&format!("on >pass ~mcp-gate:* resetchannels {NEEDED}"));
    let store = connect(&url).await.unwrap();
    let (client, person, grant) = granted(&store, "a", "refresh").await;
    for command in ["incr", "zadd", "zcard", "zscore", "zrangebylex", "zremrangebyscore", "sadd", "smembers"]
    {
        permit(&format!("-{command}"));
        let error = connect(&url).await.err().unwrap().to_string();
        assert!(error.contains(&format!("+{command}")), "{command}: {error}");
        refuses_until_permitted(&store, command).await;
        permit(&format!("+{command}"));
        recovers(&store, Duration::from_secs(10)).await;
    }
    // A completed change is reported as a success even if it cannot be counted.
    permit("-incr");
    let new = super::things::password("second");
    assert!(store.replace_password(&person.subject, &person.password, &new).await.unwrap().is_some());
    assert_eq!(store.set_account_disabled(&person.subject, true).await.unwrap(), Change::Changed);
    assert_eq!(store.set_client_disabled(&client.id, true).await.unwrap(), Change::Changed);
    store.revoke_grant(&grant.id).await.unwrap();
    permit("+incr");
    recovers(&store, Duration::from_secs(10)).await;
    // The changes are counted later, as a single one, so that older data in Redis is still detected.
    let number = Resp::connect(server.port).ask(&[b"GET", b"mcp-gate:{meta}:taken-away"]);
    assert_eq!(number, Reply::Bytes(Some(b"1".to_vec())));
}

async fn refuses_until_permitted(store: &RedisStore, command: &str) {
    let error = store.ping().await.unwrap_err().to_string();
    assert!(error.contains(&format!("+{command}")), "{command}: {error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a066_a_redis_that_lost_one_change_is_noticed_by_the_next_change_and_stays_older() {
    let Some(server) = RedisServer::start(&["--appendonly", "no"]) else { return };
    let store = connect(&server.url()).await.unwrap();
    let (_, _, grant) = granted(&store, "a", "refresh").await;
    for _ in 0..3 {
        store.revoke_grant(&id_of_nobody()).await.unwrap();
    }
    let mut admin = Resp::connect(server.port);
    let number = b"mcp-gate:{meta}:taken-away";
    assert_eq!(admin.ask(&[b"GET", number]), Reply::Bytes(Some(b"3".to_vec())));
    admin.ask(&[b"SET", number, b"2"]);
    let error = store.revoke_grant(&id_of_nobody()).await.unwrap_err().to_string();
    assert!(error.contains("returned with older data than before: at least 1 change"), "{error}");
    // Changes by other replicas raise the number, but do not restore the lost change.
    admin.ask(&[b"SET", number, b"7"]);
    let held = store.held_grant(&grant.id, &grant.client_id, &grant.subject, NOW).await;
    assert!(held.is_err());
    // A new connection can reach a server with the latest data.
    admin.ask(&[b"CLIENT", b"KILL", b"TYPE", b"normal"]);
    recovers(&store, Duration::from_secs(10)).await;
}

/// Other replicas did not see the higher number of changes, and continue to count from the older one.
#[tokio::test(flavor = "multi_thread")]
async fn a066_an_older_redis_whose_number_others_have_caught_up_with_is_not_taken_for_the_latest() {
    for made_by_others in [3, 5] {
        let Some(mut server) = RedisServer::start(&["--appendonly", "no"]) else { return };
        // The test can interrupt this connection, so that `store` does not see the changes that the other replicas
        // make.
        let between = Switch::start(server.port);
        let store = connect(&format!("redis://127.0.0.1:{}", between.port)).await.unwrap();
        let (_, _, kept) = granted(&store, "kept", "refresh").await;
        let (_, _, revoked) = granted(&store, "revoked", "refresh").await;
        store.revoke_grant(&id_of_nobody()).await.unwrap();
        let dump = server.data.path().join("dump.rdb");
        assert_eq!(Resp::connect(server.port).ask(&[b"SAVE"]), Reply::Text("OK".to_owned()));
        let older = std::fs::read(&dump).unwrap();
        for _ in 0..2 {
            store.revoke_grant(&id_of_nobody()).await.unwrap();
        }
        store.revoke_grant(&revoked.id).await.unwrap();
        let opens = async |store: &RedisStore, grant: &auth_service::domain::grant::Grant| {
            store
                .held_grant(&grant.id, &grant.client_id, &grant.subject, NOW)
                .await
                .map(|held| held.is_some())
        };
        assert!(!opens(&store, &revoked).await.unwrap());
        assert_eq!(Resp::connect(server.port).ask(&[b"SAVE"]), Reply::Text("OK".to_owned()));
        let latest = std::fs::read(&dump).unwrap();

        server.kill();
        between.lead_to(1);
        std::fs::write(&dump, older).unwrap();
        assert!(server.run());
        // A process that starts now does not know that number, and `store` cannot pass it on. The changes of that
        // process raise the number at least to the one that `store` has seen.
        let others = connect(&server.url()).await.unwrap();
        assert!(opens(&others, &revoked).await.unwrap(), "the data are not older than the revocation");
        for _ in 0..made_by_others {
            others.revoke_grant(&id_of_nobody()).await.unwrap();
        }
        let number = Resp::connect(server.port).ask(&[b"GET", b"mcp-gate:{meta}:taken-away"]);
        assert_eq!(number, Reply::Bytes(Some((1 + made_by_others).to_string().into_bytes())));
        between.lead_to(server.port);
        refuses_writes(&store, "returned with older data than before").await;
        // The other process then learns from `store` that the data is older.
        refuses_writes(&others, "returned with older data than before").await;
        drop(others);
        // A new connection reaches the same older data, which is also refused.
        Resp::connect(server.port).ask(&[b"CLIENT", b"KILL", b"TYPE", b"normal"]);
        refuses_writes(&store, "returned with older data than before").await;
        for grant in [&kept, &revoked] {
            assert!(opens(&store, grant).await.is_err());
        }

        server.kill();
        std::fs::write(&dump, latest).unwrap();
        assert!(server.run());
        recovers(&store, Duration::from_secs(10)).await;
        assert!(opens(&store, &kept).await.unwrap() && !opens(&store, &revoked).await.unwrap());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a100_the_history_of_changes_has_an_end() {
    let Some(server) = RedisServer::start(&["--appendonly", "no"]) else { return };
    let store = connect(&server.url()).await.unwrap();
    for _ in 0..1100 {
        store.revoke_grant(&id_of_nobody()).await.unwrap();
    }
    let history = Resp::connect(server.port).ask(&[b"ZCARD", b"mcp-gate:{meta}:history"]);
    assert_eq!(history, Reply::Number(1024));
    assert!(store.ping().await.is_ok());
}

/// If a login removed more rows than it displaces, many concurrent logins would all remove the same rows, hundreds
/// of times.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a100_logins_at_once_at_the_ceiling_each_remove_what_they_displace() {
    let Some(server) = RedisServer::start(&["--appendonly", "no"]) else { return };
    let world = super::worlds::World::at(&server.url()).await;
    let user = account("eve").subject;
    let login = |n: usize| auth_service::domain::account::LoginSession {
        id: hash(&n.to_string()),
        subject: user.clone(),
        logins_ended: 0,
        authenticated_at: NOW,
        expires_at: super::things::later(super::things::DAY),
        asked_by: None,
    };
    let sessions: Vec<_> = (0..200).map(login).collect();
    for session in &sessions[..50] {
        world.store().add_session(session).await.unwrap();
    }
    let later = sessions[50..].to_vec();
    world
        .at_once(150, |n, store| {
            let session = later[n].clone();
            async move { store.add_session(&session).await.unwrap() }
        })
        .await;
    let mut live = 0;
    for session in &sessions {
        live += usize::from(world.store().session(&session.id, NOW).await.unwrap().is_some());
    }
    assert_eq!(live, 50);
    // Each login removes at most one row per replica.
    let mut admin = Resp::connect(server.port);
    let key = admin.keys().into_iter().find(|key| key.ends_with(b":{meta}:taken-away")).unwrap();
    let number = admin.ask(&[b"GET", &key]).bytes();
    let removals: usize = String::from_utf8(number).unwrap().parse().unwrap();
    assert!((150..=3 * 150).contains(&removals), "{removals}");
}

pub(crate) fn id_of_nobody() -> auth_service::domain::grant_id::GrantId {
    auth_service::domain::grant_id::GrantId::new([9; 32])
}
