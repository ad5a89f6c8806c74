//! Runs three processes of the real program with one Redis server while faults occur. The connections to Redis are
//! cut, slowed down, left half open or filled with garbage, and Redis and the replicas are killed, while users use
//! the service. The test takes ten seconds, or `CHAOS_SECONDS`. The faults are derived from a seed. The test
//! prints the seed, and `CHAOS_SEED` sets it to repeat the same faults. `CHAOS_APPENDFSYNC=everysec` weakens the
//! guarantees of Redis.
//!
//! At any time, an unknown token is refused. A revoked token is refused no later than one second after the
//! revocation was acknowledged. A live token is never reported as invalid. At most one of two redemptions of a
//! code succeeds. At the end, every acknowledged change must still be stored.

mod people;
mod replica;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use auth_service::domain::clock::Clock;
use auth_service::domain::clock::SystemClock;
use auth_service::keys::signing::KeyRing;
use auth_service::rotation;
use auth_service::store::Maintenance;
use auth_service::store::redis::{RedisAddress, RedisStore};
use reqwest::StatusCode;
use tokio::time::sleep;

use super::keys::TERMS;
use super::things::{client, random, register};
use super::worlds::key;
use crate::chaos::Weather;
use crate::redis_server::RedisServer;
use replica::Replica;

/// The maximum time until a revocation takes effect (`docs/adr/0009`), with a margin for the response.
const BOUND: Duration = Duration::from_millis(1_000 + 250);
const REPLICAS: usize = 3;

/// Counts of the events during the test.
#[derive(Default)]
struct Seen {
    passed: AtomicU64,
    refused: AtomicU64,
    unavailable: AtomicU64,
    revoked: AtomicU64,
    refreshed: AtomicU64,
    redeemed: AtomicU64,
    registered: AtomicU64,
    killed: AtomicU64,
    wrong: Mutex<Vec<String>>,
}

fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

struct Storm {
    /// A direct connection to Redis, without faults.
    store: RedisStore,
    keys: KeyRing,
    replicas: Vec<Replica>,
    http: reqwest::Client,
    stop: AtomicBool,
    seen: Seen,
    begun: Instant,
    /// The faults, with the time at which each began.
    diary: Mutex<Vec<(Duration, String)>>,
}

fn chance() -> usize {
    usize::from(random()[0])
}

/// A random number generator that produces the same numbers for the same seed (`SplitMix64`).
struct Dice(u64);

impl Dice {
    fn throw(&mut self) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::from((mixed ^ (mixed >> 31)).to_be_bytes()[0])
    }

    fn milliseconds(&mut self, least: u64, times: u64) -> Duration {
        Duration::from_millis(least + times * u64::try_from(self.throw()).unwrap())
    }
}

impl Storm {
    fn goes_on(&self) -> bool {
        !self.stop.load(Ordering::Relaxed)
    }

    fn wrong(&self, what: &str) {
        let at = self.begun.elapsed();
        let before = at.saturating_sub(Duration::from_secs(6));
        let diary = self.diary.lock().unwrap();
        let weather: Vec<_> = diary.iter().filter(|(then, _)| *then >= before).collect();
        self.seen.wrong.lock().unwrap().push(format!("{at:.2?}: {what}, after {weather:?}"));
    }

    fn replica(&self) -> &Replica {
        &self.replicas[chance() % self.replicas.len()]
    }

    /// The status of a replica's response to a check, if it responds.
    async fn check(&self, replica: &Replica, token: &str) -> Option<StatusCode> {
        let url = format!("http://{}/verify/envoy/mcp", SocketAddr::from(([127, 0, 0, 1], replica.edge)));
        let asked = self.http.post(url).header("host", "mcp.example").header("x-forwarded-proto", "https");
        let status = asked.bearer_auth(token).send().await.ok()?.status();
        count(match status {
            StatusCode::OK => &self.seen.passed,
            StatusCode::UNAUTHORIZED => &self.seen.refused,
            _ => &self.seen.unavailable,
        });
        Some(status)
    }

    /// The status and body of a replica's response, if it responds.
    async fn post(&self, path: &str, form: &[(&str, &str)]) -> Option<(StatusCode, serde_json::Value)> {
        let url = format!("http://127.0.0.1:{}{path}", self.replica().public);
        let response = self.http.post(url).form(form).send().await.ok()?;
        let status = response.status();
        let text = response.text().await.ok()?;
        Some((status, serde_json::from_str(&text).unwrap_or_default()))
    }

    /// Waits until Redis and all replicas respond normally.
    async fn is_back(&self) {
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            let mut well = self.store.ping().await.is_ok();
            for replica in &self.replicas {
                well &= self.check(replica, "none").await == Some(StatusCode::UNAUTHORIZED);
                let url = format!("http://127.0.0.1:{}/jwks", replica.public);
                well &= self.http.get(url).send().await.is_ok_and(|answer| answer.status().is_success());
            }
            if well {
                return;
            }
            assert!(Instant::now() < deadline, "Redis or a replica does not recover");
            sleep(Duration::from_millis(50)).await;
        }
    }

    fn note(&self, what: String) {
        self.diary.lock().unwrap().push((self.begun.elapsed(), what));
    }

    fn turn(&self, which: usize, weather: Weather) {
        self.note(format!("{which} {weather:?}"));
        self.replicas[which].way.turn(weather);
    }

    /// Causes faults for the duration `time`. Returns the Redis server that is running at the end.
    async fn blow(&self, mut redis: RedisServer, time: Duration, dice: &mut Dice) -> RedisServer {
        let end = Instant::now() + time;
        while Instant::now() < end {
            sleep(dice.milliseconds(100, 6)).await;
            let which = dice.throw() % self.replicas.len();
            match dice.throw() % 8 {
                0 => {
                    self.note("Redis is killed".to_owned());
                    redis.kill();
                    sleep(dice.milliseconds(0, 4)).await;
                    assert!(redis.run(), "Redis did not start again");
                    self.note("Redis runs".to_owned());
                    count(&self.seen.killed);
                }
                1 => {
                    self.note(format!("{which} is killed"));
                    self.replicas[which].kill();
                    count(&self.seen.killed);
                }
                2 => self.turn(which, Weather::Cut),
                3 => self.turn(which, Weather::Delay(Duration::from_millis(5))),
                4 => self.turn(which, Weather::Delay(Duration::from_millis(700))),
                5 => self.turn(which, Weather::HalfOpen),
                6 => self.turn(which, Weather::Garbage),
                _ => self.turn(which, Weather::Slow),
            }
            sleep(dice.milliseconds(100, 4)).await;
            // Some faults are left for longer, so that several replicas can have faults at the same time.
            if dice.throw().is_multiple_of(3) {
                self.turn(dice.throw() % self.replicas.len(), Weather::Fair);
            } else {
                self.all_fair();
            }
            self.replicas.iter().for_each(Replica::see_that_it_runs);
        }
        self.all_fair();
        redis
    }

    fn all_fair(&self) {
        (0..self.replicas.len()).for_each(|which| self.turn(which, Weather::Fair));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a066_a083_a088_in_any_weather_nothing_wrong_passes_and_nothing_acknowledged_is_lost() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse().ok());
    let seconds = number("CHAOS_SECONDS").unwrap_or(10);
    let dice = number("CHAOS_SEED").unwrap_or_else(|| u64::from_be_bytes(random()[..8].try_into().unwrap()));
    println!("CHAOS_SEED={dice}");
    let fsync = std::env::var("CHAOS_APPENDFSYNC").unwrap_or_else(|_| "always".to_owned());
    let Some(redis) = RedisServer::start(&["--appendonly", "yes", "--appendfsync", &fsync]) else { return };
    let address = RedisAddress::parse(&redis.url()).unwrap();
    let direct = RedisStore::connect(&address, &key()).await.unwrap();
    let set = rotation::up_to_date(&direct, &TERMS, SystemClock.now()).await.unwrap();
    let keys = KeyRing::new(set, Arc::new(SystemClock)).unwrap();
    register(&direct, &client("stranger")).await;
    let mut replicas = Vec::new();
    for _ in 0..REPLICAS {
        replicas.push(Replica::start(redis.port).await);
    }
    let http = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(3)).build().unwrap();
    let seen = Seen::default();
    let (stop, begun, diary) = (AtomicBool::new(false), Instant::now(), Mutex::default());
    let storm = Arc::new(Storm { store: direct, keys, replicas, http, stop, seen, begun, diary });
    storm.is_back().await;
    let mut tasks = Vec::new();
    for who in 0..4 {
        let (a, b) = (Arc::clone(&storm), Arc::clone(&storm));
        tasks.push(tokio::spawn(async move { a.revoke(who).await }));
        tasks.push(tokio::spawn(async move { b.live(who).await }));
    }
    let (a, b, c) = (Arc::clone(&storm), Arc::clone(&storm), Arc::clone(&storm));
    tasks.push(tokio::spawn(async move { a.redeem().await }));
    tasks.push(tokio::spawn(async move { b.register().await }));
    tasks.push(tokio::spawn(async move { c.strangers().await }));
    let redis = storm.blow(redis, Duration::from_secs(seconds), &mut Dice(dice)).await;
    // The replica that was killed last must run again before the other tasks check the acknowledged changes.
    let supervised = {
        let storm = Arc::clone(&storm);
        tokio::spawn(async move {
            loop {
                storm.replicas.iter().for_each(Replica::see_that_it_runs);
                sleep(Duration::from_millis(200)).await;
            }
        })
    };
    storm.stop.store(true, Ordering::Relaxed);
    for task in tasks {
        task.await.unwrap();
    }
    supervised.abort();
    let _ = supervised.await;
    let seen = &storm.seen;
    let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    println!(
        "{seconds} s: {} passed, {} refused, {} unavailable; {} revocations, {} refreshes, {} codes, {} registrations; \
         {} processes killed",
        get(&seen.passed),
        get(&seen.refused),
        get(&seen.unavailable),
        get(&seen.revoked),
        get(&seen.refreshed),
        get(&seen.redeemed),
        get(&seen.registered),
        get(&seen.killed),
    );
    let wrong = seen.wrong.lock().unwrap().clone();
    if !wrong.is_empty() {
        storm.replicas.iter().for_each(|replica| println!("the log of a replica ends:\n{}\n", replica.log()));
    }
    assert!(wrong.is_empty(), "{} wrong answers: {wrong:#?}", wrong.len());
    for done in
        [&seen.passed, &seen.unavailable, &seen.revoked, &seen.refreshed, &seen.redeemed, &seen.registered]
    {
        assert!(get(done) > 0, "one of the tasks has done nothing");
    }
    drop(redis);
}
