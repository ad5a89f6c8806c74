//! Measures the memory that live grants need. It fills a Redis server with grants, and the token cache of a
//! replica with some of their tokens.
//!
//! `cargo run --release --example live_grants [GRANTS [TOKENS]]` (the defaults are 1000000 and 100000).
//! `docs/state.md` contains the results.
#![expect(
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a measurement"
)]

#[path = "../tests/support/redis_server.rs"]
mod redis_server;
#[path = "../tests/store/things.rs"]
#[expect(dead_code, reason = "tests use the rest")]
mod things;

use std::convert::Infallible;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use actix_web::http::header::HeaderValue;
use anyhow::{Context, ensure};
use auth_service::domain::client_use::ClientUse;
use auth_service::domain::clock::{Clock, SystemClock};
use auth_service::domain::grant::Grant;
use auth_service::domain::issuer::Issuer;
use auth_service::keys::seal::{StoreKey, SystemRandomSource};
use auth_service::keys::set::RotationTerms;
use auth_service::keys::signing::KeyRing;
use auth_service::principal::{CacheTerms, IDENTITY, PrincipalCache, Sources};
use auth_service::rotation;
use auth_service::store::changes::Observable;
use auth_service::store::redis::{RedisAddress, RedisStore};
use auth_service::store::{AccountStore, Addition, DirectGrant, GrantStore, Rotation, Successor, transfer};
use futures_util::stream::{self, StreamExt};
use redis_server::RedisServer;
use things::{
    GRACE, NOW, access_token, account, client, code, grant, held, refresh_token, register, successor, usage,
};

/// Number of accounts. The grants are distributed evenly among them.
const PEOPLE: usize = 1000;
const AT_ONCE: usize = 256;
const TERMS: RotationTerms = RotationTerms {
    algorithm: auth_service::keys::algorithm::SigningAlgorithm::EdDsa,
    period: None,
    lead: Duration::from_secs(600),
};

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1).map(|text| text.parse::<usize>());
    let grants = arguments.next().unwrap_or(Ok(1_000_000)).context("how many grants?")?;
    let tokens = arguments.next().unwrap_or(Ok(100_000)).context("how many tokens in the cache?")?;
    let server = RedisServer::start(&["--appendonly", "no"]).context("there is no Redis")?;
    let store = RedisStore::connect(&RedisAddress::parse(&server.url())?, &StoreKey::new([7; 32])).await?;
    let client = register(&store, &client("client")).await;
    let mut people = Vec::new();
    for n in 0..PEOPLE {
        people.push(account(&format!("person{n}")));
        ensure!(store.add_account(&people[n]).await? == Addition::Added, "no account");
    }
    let used = usage(&client, NOW);
    let made =
        |n: usize| grant(&code(&client, &people[n % PEOPLE].subject, NOW), &format!("refresh {n}"), NOW);
    let (before, start) = (redis_memory(&server)?, Instant::now());
    let mut some: Vec<Grant> = Vec::new();
    let mut writes = stream::iter(0..grants)
        .map(|n| {
            let (store, used, granted) = (&store, &used, made(n));
            async move { store.add_grant(&granted, used).await.map(|added| (added, granted)) }
        })
        .buffered(AT_ONCE);
    while let Some(written) = writes.next().await {
        let (added, granted) = written?;
        ensure!(added == DirectGrant::Created, "no grant");
        if some.len() < tokens {
            some.push(granted);
        }
    }
    drop(writes);
    let bytes = redis_memory(&server)? - before;
    println!(
        "Redis: {grants} grants, each with its refresh token, made in {:.0?}: {} MiB, {} bytes a grant",
        start.elapsed(),
        bytes >> 20,
        bytes / grants
    );

    for times in 1..=2 {
        let before = redis_memory(&server)?;
        refresh(&store, &some, times, &used).await?;
        // The difference is signed, because the memory use can also decrease.
        let more = redis_memory(&server)?.cast_signed() - before.cast_signed();
        println!(
            "Redis: {} of them refreshed once more: {} bytes each",
            some.len(),
            more / some.len().cast_signed()
        );
    }

    let directory = tempfile::tempdir()?;
    let (file, start) = (directory.path().join("dump"), Instant::now());
    let key = StoreKey::new([7; 32]);
    let counts = transfer::export(&store, &file, &key, (NOW, &SystemRandomSource), |_| {}).await?;
    println!(
        "export: {} records in {:.0?}, a file of {} MiB",
        counts.total(),
        start.elapsed(),
        file.metadata()?.len() >> 20
    );

    let set = rotation::up_to_date(&store, &TERMS, SystemClock.now()).await?;
    let keys = KeyRing::new(set, Arc::new(SystemClock))?;
    let issuer = Issuer::parse(things::ISSUER)?;
    while !store.changes().is_live() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let before = own_memory()?;
    let cache = PrincipalCache::new(
        CacheTerms { tokens, longest: Duration::from_secs(300) },
        std::num::NonZeroUsize::MIN,
    );
    let now = SystemClock.now();
    let sources = Sources { keys: &keys, issuer: &issuer, grants: &store, changes: store.changes(), now };
    for granted in &some {
        let token = access_token(&keys, granted, now);
        let known = cache.of_token(&token, sources).await?;
        // A check would sign these values for the resource and cache them.
        let resource = known.principal.resources.first().context("a resource")?.clone();
        // The assertion is the last value, and is about as long as the token.
        let finished = || {
            let of = |at| if at + 1 == IDENTITY { token.as_str() } else { granted.subject.as_str() };
            Ok::<_, Infallible>(std::array::from_fn(|at| HeaderValue::from_str(of(at)).unwrap()))
        };
        let Ok(_) = known.identity.for_resource(&resource, 0, now, Duration::from_secs(60), finished);
    }
    ensure!(cache.len() * 10 >= tokens * 9, "the cache kept {}", cache.len());
    let bytes = own_memory()?.saturating_sub(before);
    println!(
        "replica: {} cached tokens: {} MiB, {} bytes each",
        cache.len(),
        bytes >> 20,
        bytes / cache.len()
    );
    Ok(())
}

/// Refreshes each of these grants. `times` is the number of refreshes of each grant, including this one.
async fn refresh(store: &RedisStore, grants: &[Grant], times: u32, used: &ClientUse) -> anyhow::Result<()> {
    let name =
        |n: usize, times: u32| if times == 0 { format!("refresh {n}") } else { format!("{n} {times}") };
    let mut refreshes = stream::iter(grants.iter().enumerate())
        .map(|(n, grant)| async move {
            let token = held(grant, times - 1, &name(n, times - 1));
            let next = refresh_token(&grant.id, times, &name(n, times));
            // The sealed token has a realistic length. Sealing adds a nonce and a tag.
            let sealed = [next.expose().as_bytes(), &[7; 28]].concat();
            let next = Successor { sealed, ..successor(grant, times, &name(n, times), NOW) };
            store.rotate_refresh(&token, &next, used, GRACE).await
        })
        .buffer_unordered(AT_ONCE);
    while let Some(refreshed) = refreshes.next().await {
        ensure!(matches!(refreshed?, Rotation::Rotated(_)), "not refreshed");
    }
    Ok(())
}

/// `used_memory` of Redis, in bytes.
fn redis_memory(server: &RedisServer) -> anyhow::Result<usize> {
    let mut stream = TcpStream::connect(("127.0.0.1", server.port))?;
    stream.write_all(b"INFO memory\r\nQUIT\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    let line = text.lines().find_map(|line| line.strip_prefix("used_memory:")).context("no used_memory")?;
    Ok(line.trim().parse()?)
}

/// Resident memory of this process in bytes.
fn own_memory() -> anyhow::Result<usize> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    Ok(line.trim().trim_end_matches(" kB").trim().parse::<usize>()? * 1024)
}
