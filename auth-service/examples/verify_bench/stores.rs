//! Measures the cost of the stores: cache misses, refreshes and redemptions in round trips, and writes in
//! comparison with fsync.

use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use auth_service::keys::seal::StoreKey;
use auth_service::store::embedded::EmbeddedStore;
use auth_service::store::redis::{RedisAddress, RedisStore};
use auth_service::store::{
    AccountStore, Addition, CodeStore, DirectGrant, GrantStore, Issuance, Maintenance, Redemption, Rotation,
    Store,
};
use futures_util::future::try_join_all;

use super::chaos::{Chaos, Weather};
use super::redis_server::RedisServer;
use super::things::{GRACE, NOW, account, client, code, grant, granted, hash, register, successor, usage};

const CALLS: u32 = 2000;
/// The delay of a message to Redis. The reply has the same delay.
const FAR: Duration = Duration::from_millis(10);

pub(crate) async fn compare() -> anyhow::Result<()> {
    let key = StoreKey::new([7; 32]);
    let directory = tempfile::tempdir()?;
    let store = EmbeddedStore::open(directory.path(), &key)?;
    println!("embedded store, durable writes ({} each)", CALLS / 10);
    let floor = fsync_floor(directory.path())?;
    let (alone, together) = (write(&store, CALLS / 10, false).await?, write(&store, CALLS / 10, true).await?);
    println!(
        "  write and fsync of 4 KiB {floor:?}; a revocation {alone:?}: {:.2} times that; of {} at once each {together:?}: \
         {:.2} times that",
        ratio(alone, floor),
        CALLS / 10,
        ratio(together, floor)
    );
    let Some(server) = RedisServer::start(&["--appendonly", "no"]) else { return Ok(()) };
    let store = RedisStore::connect(&RedisAddress::parse(&server.url())?, &key).await?;
    println!("Redis on this machine, one caller after the other ({CALLS} each)");
    round_trips(&store, "here", CALLS).await?;
    // If almost all of the time is network delay, the ratio is the number of round trips.
    let way = Chaos::before(server.port).await;
    let store = RedisStore::connect(&RedisAddress::parse(&way.url())?, &key).await?;
    way.turn(Weather::Delay(FAR));
    println!("Redis {FAR:?} away, one caller after the other ({} each)", CALLS / 50);
    round_trips(&store, "there", CALLS / 50).await
}

/// Measures operations on Redis, and compares their duration with that of a single request.
async fn round_trips(store: &RedisStore, place: &str, calls: u32) -> anyhow::Result<()> {
    let (client, _, held) = granted(store, &format!("held-{place}"), &format!("refresh {place}")).await;
    let floor = per_call(calls, async |_| store.ping().await.unwrap()).await;
    let miss = per_call(calls, async |_| {
        let found = store.held_grant(&held.id, &held.client_id, &held.subject, NOW).await.unwrap();
        assert!(found.is_some());
    })
    .await;
    println!("  one GET {floor:?}, the principal of a token {miss:?}: {:.2} round trips", ratio(miss, floor));
    let (used, first) = (usage(&client, NOW), format!("refresh {place}"));
    let rotate = per_call(calls / 4, async |n| {
        let (last, next) = (name(&first, n), successor(&held, n + 1, &name(&first, n + 1), NOW));
        let rotated =
            store.rotate_refresh(&super::things::held(&held, n, &last), &next, &used, GRACE).await.unwrap();
        assert!(matches!(rotated, Rotation::Rotated(_)));
    })
    .await;
    println!("  a refresh (store's part) {rotate:?}: {:.2} round trips", ratio(rotate, floor));
    let person = account(&format!("redeemer-{place}"));
    assert_eq!(store.add_account(&person).await?, Addition::Added);
    let redeeming = register(store, &super::things::client(&format!("redeeming-{place}"))).await;
    let used = usage(&redeeming, NOW);
    let mut codes = Vec::new();
    for n in 0..calls / 4 {
        let made = code(&redeeming, &person.subject, NOW);
        let secret = hash(&format!("code {place} {n}"));
        assert_eq!(store.add_code(made.grant_id.as_str(), &secret, &made, &used).await?, Issuance::Issued);
        codes.push((secret, made));
    }
    let redeem = per_call(calls / 4, async |n| {
        let (secret, made) = &codes[n as usize];
        let redeemed = store
            .redeem_code(secret, &grant(made, &format!("of code {place} {n}"), NOW), &used)
            .await
            .unwrap();
        assert!(matches!(redeemed, Redemption::Redeemed { .. }));
    })
    .await;
    println!("  a redemption (store's part) {redeem:?}: {:.2} round trips", ratio(redeem, floor));
    Ok(())
}

fn name(of: &str, n: u32) -> String {
    if n == 0 { of.to_owned() } else { format!("{of} {n}") }
}

fn ratio(a: Duration, b: Duration) -> f64 {
    a.as_secs_f64() / b.as_secs_f64()
}

async fn per_call(calls: u32, call: impl AsyncFn(u32)) -> Duration {
    let start = Instant::now();
    for n in 0..calls {
        call(n).await;
    }
    start.elapsed() / calls
}

/// Revokes `calls` grants, one after the other or concurrently. Returns the time for one.
async fn write(store: &dyn Store, calls: u32, at_once: bool) -> anyhow::Result<Duration> {
    let client = register(store, &client(if at_once { "many" } else { "one" })).await;
    let (person, used) = (account("writer"), usage(&client, NOW));
    let mut grants = Vec::new();
    for n in 0..calls {
        let granted = grant(&code(&client, &person.subject, NOW), &format!("{} {n}", client.id), NOW);
        let added = store.add_grant(&granted, &used).await?;
        anyhow::ensure!(added == DirectGrant::Created, "no grant");
        grants.push(granted.id);
    }
    let start = Instant::now();
    if at_once {
        try_join_all(grants.iter().map(|grant| store.revoke_grant(grant))).await?;
    } else {
        for grant in &grants {
            store.revoke_grant(grant).await?;
        }
    }
    let took = start.elapsed() / calls;
    for grant in &grants {
        anyhow::ensure!(store.grant(grant, NOW).await?.is_none(), "a grant is left");
    }
    Ok(took)
}

/// Repeatedly writes and syncs one page in the middle of a file of constant length. No commit can be faster.
fn fsync_floor(directory: &std::path::Path) -> anyhow::Result<Duration> {
    let file = std::fs::File::create(directory.join("floor"))?;
    file.write_all_at(&vec![0_u8; 1024 * 1024], 0)?;
    file.sync_all()?;
    let calls = CALLS / 10;
    let start = Instant::now();
    for n in 0..calls {
        file.write_all_at(&[n.to_be_bytes()[3]; 4096], 512 * 1024)?;
        file.sync_data()?;
    }
    Ok(start.elapsed() / calls)
}
