//! Tests of the cache of principals, and of how soon its entries become invalid after a change. They become
//! invalid immediately on the replica that makes the change, and on the other replicas when these receive the
//! report of the change, but always within a second.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

use actix_web::http::header::HeaderValue;
use auth_service::domain::clock::{Clock, UnixTime};
use auth_service::domain::grant::Grant;
use auth_service::domain::issuer::Issuer;
use auth_service::domain::resource::ResourceUri;
use auth_service::keys::set::KeySet;
use auth_service::keys::signing::KeyRing;
use auth_service::principal::{CacheTerms, IDENTITY, Known, PrincipalCache, RejectedToken, Sources};
use auth_service::store::redis::{RedisAddress, RedisStore};
use auth_service::store::{Change, Deletion, DirectGrant, Redemption, Store, Successor};

use super::keys::TERMS;
use super::things::{
    GRACE, NOW, access_token, client, code, grant, granted, hash, held, later, password, register, successor,
    usage,
};
use super::worlds::{World, key};
use crate::chaos::{Chaos, Weather};
use crate::redis_server::RedisServer;

/// The parts of a replica that are needed to check tokens.
pub(crate) struct Replica {
    store: Arc<dyn Store>,
    keys: Arc<KeyRing>,
    issuer: Issuer,
    cache: PrincipalCache,
}

impl Replica {
    pub(crate) fn new(store: Arc<dyn Store>, keys: Arc<KeyRing>) -> Self {
        let terms = CacheTerms { tokens: 1000, longest: Duration::from_secs(10) };
        Self {
            store,
            keys,
            issuer: Issuer::parse("https://auth.example").unwrap(),
            cache: PrincipalCache::new(terms, std::num::NonZeroUsize::MIN),
        }
    }

    pub(crate) async fn check_at(&self, token: &str, now: UnixTime) -> Result<Arc<Known>, RejectedToken> {
        let (grants, changes) = (&*self.store, self.store.changes());
        let sources = Sources { keys: &self.keys, issuer: &self.issuer, grants, changes, now };
        self.cache.of_token(token, sources).await
    }

    pub(crate) async fn check(&self, token: &str) -> Result<Arc<Known>, RejectedToken> {
        self.check_at(token, NOW).await
    }

    /// Waits until the replica receives reports of changes. Before that, it does not use its cache.
    pub(crate) async fn is_live(&self) {
        let deadline = Instant::now() + Duration::from_secs(10);
        while !self.store.changes().is_live() {
            assert!(Instant::now() < deadline, "the replica receives no reports of changes");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Checks the token until it is refused, and returns how long that took.
    pub(crate) async fn refuses(&self, token: &str, within: Duration) -> Duration {
        let start = Instant::now();
        loop {
            match self.check(token).await {
                Ok(_) => {}
                Err(RejectedToken::Revoked) => return start.elapsed(),
                Err(error) => panic!("{error}"),
            }
            assert!(start.elapsed() < within, "the token is still valid");
            tokio::time::sleep(Duration::from_micros(200)).await;
        }
    }
}

/// A clock that always returns the same time.
struct FixedClock;

impl Clock for FixedClock {
    fn now(&self) -> UnixTime {
        NOW
    }
}

pub(crate) fn keys() -> Arc<KeyRing> {
    Arc::new(KeyRing::new(KeySet::first(&TERMS, NOW).unwrap(), Arc::new(FixedClock)).unwrap())
}

/// An access token of this grant, issued at [`NOW`].
pub(crate) fn token(keys: &KeyRing, grant: &Grant) -> String {
    access_token(keys, grant, NOW)
}

async fn connect(url: &str) -> Arc<dyn Store> {
    Arc::new(RedisStore::connect(&RedisAddress::parse(url).unwrap(), &key()).await.unwrap())
}

async fn replicas(world: &World) -> Vec<Replica> {
    let keys = keys();
    let replicas: Vec<_> =
        world.replicas.iter().map(|store| Replica::new(Arc::clone(store), Arc::clone(&keys))).collect();
    for replica in &replicas {
        replica.is_live().await;
    }
    replicas
}

/// The ways in which a grant ends or stops being valid.
const ENDS: [&str; 6] = ["revoke", "disable client", "delete client", "reuse", "replay", "disable account"];

async fn end(way: &str, name: &str, store: &dyn Store, grant: &Grant) {
    let client = store.client(&grant.client_id, NOW).await.unwrap().unwrap();
    match way {
        "revoke" => store.revoke_grant(&grant.id).await.unwrap(),
        "disable client" => {
            assert_eq!(store.set_client_disabled(&client.id, true).await.unwrap(), Change::Changed);
        }
        "delete client" => assert_eq!(store.delete_client(&client.id).await.unwrap(), Deletion::Deleted),
        "reuse" => {
            for (next, seconds) in [("second", 1), ("third", 2)] {
                let at = later(Duration::from_secs(seconds));
                let next = successor(grant, 1, next, at);
                store
                    .rotate_refresh(&held(grant, 0, name), &next, &usage(&client, at), Duration::ZERO)
                    .await
                    .unwrap();
            }
        }
        "replay" => {
            let again =
                store.redeem_code(&hash(&format!("{name} {name}")), grant, &usage(&client, NOW)).await;
            assert!(matches!(again.unwrap(), Redemption::Replayed));
        }
        "disable account" => {
            assert_eq!(store.set_account_disabled(&grant.subject, true).await.unwrap(), Change::Changed);
        }
        other => panic!("{other}"),
    }
}

pub(crate) async fn a066_a083_what_ends_is_refused_everywhere_within_a_moment(world: &World) {
    let replicas = replicas(world).await;
    for way in ENDS {
        let name = way.replace(' ', "-");
        let (_, _, grant) = granted(world.store(), &name, &name).await;
        let token = token(&replicas[0].keys, &grant);
        for replica in &replicas {
            replica.check(&token).await.unwrap();
            let again = replica.check(&token).await.unwrap();
            assert!(
                Arc::ptr_eq(&again, &replica.check(&token).await.unwrap()),
                "the principal is not cached"
            );
        }
        end(way, &name, &*replicas[0].store, &grant).await;
        assert!(
            matches!(replicas[0].check(&token).await, Err(RejectedToken::Revoked)),
            "{way}: the replica that made the change still accepts the token"
        );
        for replica in &replicas {
            replica.refuses(&token, Duration::from_secs(1)).await;
        }
    }
}

pub(crate) async fn a066_principals_on_behalf_of_another_grant_end_with_it(world: &World) {
    let replicas = replicas(world).await;
    for way in ["revoke", "disable client", "delete client", "time"] {
        let name = format!("parent-{}", way.replace(' ', "-"));
        let (_, person, parent) = granted(world.store(), &name, &name).await;
        let service = register(world.store(), &client(&format!("service-{name}"))).await;
        let of_code = grant(&code(&service, &person.subject, NOW), "", NOW);
        let child = Grant { parent: Some(parent.id.clone()), refresh: None, ..of_code };
        assert_eq!(
            world.store().add_grant(&child, &usage(&service, NOW)).await.unwrap(),
            DirectGrant::Created
        );
        let token = token(&replicas[0].keys, &child);
        for replica in &replicas {
            let known = replica.check(&token).await.unwrap();
            assert!(
                Arc::ptr_eq(&known, &replica.check(&token).await.unwrap()),
                "the principal is not cached"
            );
        }
        if way == "time" {
            // The parent grant expires before the child's token does. The token must be refused from that second
            // on, even if it is cached.
            let soon = successor(&parent, 1, "next", later(Duration::from_secs(3)));
            let soon = Successor { expires_at: later(Duration::from_secs(3)), ..soon };
            let by = world.store().client(&parent.client_id, NOW).await.unwrap().unwrap();
            world
                .store()
                .rotate_refresh(&held(&parent, 0, &name), &soon, &usage(&by, NOW), GRACE)
                .await
                .unwrap();
            for replica in &replicas {
                let deadline = Instant::now() + Duration::from_secs(1);
                while replica.check(&token).await.unwrap().principal.expires_at != soon.expires_at {
                    assert!(Instant::now() < deadline, "the old expiry time is still used");
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
                replica.check_at(&token, later(Duration::from_secs(2))).await.unwrap();
                assert!(replica.check_at(&token, later(Duration::from_secs(3))).await.is_err());
            }
            continue;
        }
        end(way, &name, &*replicas[0].store, &parent).await;
        assert!(matches!(replicas[0].check(&token).await, Err(RejectedToken::Revoked)), "{way}");
        for replica in &replicas {
            replica.refuses(&token, Duration::from_secs(1)).await;
        }
    }
}

pub(crate) async fn tokens_that_a_revoked_key_signed_leave_the_cache_at_once(world: &World) {
    let replicas = replicas(world).await;
    let (_, _, grant) = granted(world.store(), "a", "refresh").await;
    let before = KeySet::first(&TERMS, NOW).unwrap();
    replicas[0].keys.install(before.clone()).unwrap();
    let of_old = token(&replicas[0].keys, &grant);
    replicas[0].check(&of_old).await.unwrap();
    let after = before.without(&before.keys()[0].kid, &TERMS, NOW).unwrap();
    replicas[0].keys.install(after).unwrap();
    assert!(matches!(replicas[0].check(&of_old).await, Err(RejectedToken::Invalid)));
    let of_new = token(&replicas[0].keys, &grant);
    replicas[0].check(&of_new).await.unwrap();
    assert!(matches!(replicas[0].check(&of_old).await, Err(RejectedToken::Invalid)));
}

pub(crate) async fn a083_principals_follow_the_account_at_once(world: &World) {
    let replicas = replicas(world).await;
    let (_, person, grant) = granted(world.store(), "a", "refresh").await;
    let token = token(&replicas[0].keys, &grant);
    for replica in &replicas {
        assert_eq!(replica.check(&token).await.unwrap().principal.groups, person.groups);
    }
    assert_eq!(replicas[0].store.set_account_groups(&person.subject, &[]).await.unwrap(), Change::Changed);
    assert!(replicas[0].check(&token).await.unwrap().principal.groups.is_empty());
    for replica in &replicas {
        let deadline = Instant::now() + Duration::from_secs(1);
        while !replica.check(&token).await.unwrap().principal.groups.is_empty() {
            assert!(Instant::now() < deadline, "the old groups are still used");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
    let new = password("another");
    assert!(
        replicas[0].store.replace_password(&person.subject, &person.password, &new).await.unwrap().is_some()
    );
    assert!(replicas[0].check(&token).await.is_ok(), "a new password ends logins, not grants");
}

pub(crate) async fn a084_callers_who_come_at_once_get_their_own_principals(world: &World) {
    let replicas = Arc::new(replicas(world).await);
    let mut owners = Vec::new();
    for n in 0..16 {
        let (_, person, grant) = granted(world.store(), &format!("c{n}"), &format!("r{n}")).await;
        owners.push((token(&replicas[0].keys, &grant), person.subject));
    }
    let calls = (0..640).map(|n| {
        let (replicas, (token, subject)) = (Arc::clone(&replicas), owners[n % 16].clone());
        tokio::spawn(async move {
            let known = replicas[n % replicas.len()].check(&token).await.unwrap();
            assert_eq!(known.principal.subject, subject);
        })
    });
    for call in calls.collect::<Vec<_>>() {
        call.await.unwrap();
    }
    for replica in &*replicas {
        assert!(replica.cache.len() <= 16);
    }
}

pub(crate) async fn cached_principals_end_with_their_token_and_are_read_anew_after_a_while(world: &World) {
    let replicas = replicas(world).await;
    let (_, _, grant) = granted(world.store(), "a", "refresh").await;
    let token = token(&replicas[0].keys, &grant);
    let first = replicas[0].check(&token).await.unwrap();
    let at = |seconds| replicas[0].check_at(&token, later(Duration::from_secs(seconds)));
    assert!(Arc::ptr_eq(&first, &at(9).await.unwrap()));
    assert!(!Arc::ptr_eq(&first, &at(10).await.unwrap()), "an entry is cached for at most ten seconds");
    let second = at(10).await.unwrap();
    assert!(!Arc::ptr_eq(&second, &at(5).await.unwrap()), "a clock set back prolonged it");
    at(3599).await.unwrap();
    assert!(matches!(at(3600).await, Err(RejectedToken::Expired)));
    // Tokens without a valid signature are cached separately.
    let count = replicas[0].cache.len();
    for n in 0..200 {
        let forged = format!("{token}{n}");
        assert!(matches!(replicas[0].check(&forged).await, Err(RejectedToken::Invalid)));
        assert!(matches!(replicas[0].check(&forged).await, Err(RejectedToken::Invalid)));
    }
    assert_eq!(replicas[0].cache.len(), count);
}

/// Each path is a separate resource with an assertion of its own.
#[tokio::test]
async fn a100_checks_of_many_paths_do_not_make_the_cache_larger_than_its_limit() {
    const TOKENS: usize = 256;
    let world = World::embedded();
    let mut replica = Replica::new(Arc::clone(&world.replicas[0]), keys());
    let terms = CacheTerms { tokens: TOKENS, longest: Duration::from_secs(100) };
    replica.cache = PrincipalCache::new(terms, std::num::NonZeroUsize::MIN);
    let (_, _, grant) = granted(world.store(), "a", "refresh").await;
    let issued_at = |n: u64| UnixTime(NOW.0 - n);
    let tokens: Vec<_> =
        (0..TOKENS as u64).map(|n| access_token(&replica.keys, &grant, issued_at(n))).collect();
    let assertion = "x".repeat(700);
    let mut kept = 0;
    // The second round finds what the first one has left in the cache. It begins with the most recent assertion.
    for (round, paths) in [[0, 1, 2, 3], [3, 2, 1, 0]].into_iter().enumerate() {
        for token in &tokens {
            let known = replica.check(token).await.unwrap();
            for path in paths {
                let resource = ResourceUri::well_formed(&format!("https://mcp.example/mcp/{path}")).unwrap();
                let mut is_new = false;
                let sign = || {
                    is_new = true;
                    let value = |at| if at + 1 == IDENTITY { assertion.as_str() } else { "value" };
                    let values = std::array::from_fn(|at| HeaderValue::from_str(value(at)).unwrap());
                    Ok::<_, Infallible>(values)
                };
                let Ok(_) = known.identity.for_resource(&resource, 1, NOW, Duration::from_secs(60), sign);
                kept += usize::from(round == 1 && !is_new);
            }
        }
    }
    assert!(kept >= TOKENS / 2, "only {kept} assertions were cached");
    let bytes = kept * assertion.len();
    assert!(bytes <= TOKENS * 2560, "{kept} assertions with {bytes} bytes");
}

/// A response that Redis sent before the revocation and that arrives after it must not be cached.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a066_an_answer_from_before_a_revocation_is_not_kept() {
    let Some(server) = RedisServer::start(&["--appendonly", "no"]) else { return };
    let proxy = Chaos::before(server.port).await;
    let keys = keys();
    let slow = Arc::new(Replica::new(connect(&proxy.url()).await, Arc::clone(&keys)));
    let direct = connect(&server.url()).await;
    slow.is_live().await;
    for round in 0..10 {
        let name = format!("round{round}");
        let (_, _, grant) = granted(&*direct, &name, &name).await;
        let token = token(&keys, &grant);
        // Principals are read over the first connection. The proxy delays the response on that connection while
        // another connection reports the change.
        proxy.turn(Weather::Hold(0));
        let asking = tokio::spawn({
            let (slow, token) = (Arc::clone(&slow), token.clone());
            async move { slow.check(&token).await.is_ok() }
        });
        tokio::time::sleep(Duration::from_millis(50)).await;
        direct.revoke_grant(&grant.id).await.unwrap();
        tokio::time::sleep(Duration::from_millis(50)).await;
        proxy.turn(Weather::Fair);
        assert!(asking.await.unwrap(), "the check began before the revocation");
        assert!(
            matches!(slow.check(&token).await, Err(RejectedToken::Revoked)),
            "{name}: the old result was cached"
        );
    }
}

/// After a revocation, cached principals are used for at most a second, regardless of faults on the connection
/// that reports changes.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a066_no_weather_keeps_a_revoked_token_alive_for_longer_than_a_second() {
    let Some(server) = RedisServer::start(&["--appendonly", "no"]) else { return };
    let keys = keys();
    let direct = connect(&server.url()).await;
    for weather in [
        Weather::Cut,
        Weather::HalfOpen,
        Weather::Garbage,
        Weather::Slow,
        Weather::Delay(Duration::from_millis(300)),
    ] {
        let proxy = Chaos::before(server.port).await;
        let far = Replica::new(connect(&proxy.url()).await, Arc::clone(&keys));
        far.is_live().await;
        let name = format!("{weather:?}").replace(['(', ')', '.'], "");
        let (_, _, grant) = granted(&*direct, &name, &name).await;
        let token = token(&keys, &grant);
        far.check(&token).await.unwrap();
        proxy.turn(weather);
        direct.revoke_grant(&grant.id).await.unwrap();
        let start = Instant::now();
        let mut last = Duration::ZERO;
        while start.elapsed() < Duration::from_secs(3) {
            let asked = start.elapsed();
            if far.check(&token).await.is_ok() {
                last = asked;
            }
            let took = start.elapsed().saturating_sub(asked);
            assert!(took < Duration::from_millis(1200), "{weather:?}: the check took longer than its budget");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        println!("{weather:?}: the revoked token last counted after {last:?}");
        assert!(last < Duration::from_millis(1100), "{weather:?}: {last:?}");
        proxy.turn(Weather::Fair);
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            match far.check(&token).await {
                Err(RejectedToken::Revoked) => break,
                Err(RejectedToken::Store(error)) => {
                    assert!(Instant::now() < deadline, "{weather:?}: the replica does not recover: {error}");
                }
                other => panic!("{weather:?}: {other:?}"),
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        println!(
            "{weather:?}: works again after {:?}",
            start.elapsed().saturating_sub(Duration::from_secs(3))
        );
        far.is_live().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn without_leave_to_track_changes_nothing_is_cached() {
    let Some(server) = RedisServer::start(&["--appendonly", "no", "--requirepass", "hunter2hunter2"]) else {
        return;
    };
    let mut admin = super::resp::Resp::connect(server.port);
    admin.ask(&[b"AUTH", b"hunter2hunter2"]);
    admin.ask(&[b"ACL", b"SETUSER", b"gate", b"on", b">pass", b"~*", b"+@all", b"-client|tracking"]);
    let store = connect(&format!("redis://gate:pass@127.0.0.1:{}", server.port)).await;
    let keys = keys();
    let replica = Replica::new(Arc::clone(&store), Arc::clone(&keys));
    let (_, _, grant) = granted(&*store, "a", "refresh").await;
    let token = token(&keys, &grant);
    tokio::time::sleep(Duration::from_millis(500)).await;
    for _ in 0..5 {
        replica.check(&token).await.unwrap();
    }
    assert!(replica.cache.is_empty() && !store.changes().is_live());
    store.revoke_grant(&grant.id).await.unwrap();
    assert!(matches!(replica.check(&token).await, Err(RejectedToken::Revoked)));
}
