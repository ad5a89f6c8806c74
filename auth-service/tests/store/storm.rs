//! Three replicas of the real program before one Redis, in weather: each way to Redis is cut, slowed, half open, or brings
//! garbage, and Redis and the replicas are killed, while people use them. Ten seconds; `CHAOS_SECONDS=600` for longer.
//!
//! What must hold all the while: nobody unknown passes; a second after a revocation was acknowledged nobody passes on it;
//! nobody is told that a live token is none; of two redemptions of a code one succeeds at most; what was acknowledged is
//! there in the end.

use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use auth_service::domain::account::Account;
use auth_service::domain::client::Client;
use auth_service::domain::clock::{Clock, SystemClock};
use auth_service::domain::grant::{Grant, GrantId};
use auth_service::domain::opaque_token::{OpaqueToken, TokenHash, TokenKind};
use auth_service::keys::signing::KeyRing;
use auth_service::keys::tokens::{ACCESS_TOKEN_TYPE, AccessTokenClaims};
use auth_service::rotation;
use auth_service::store::Store;
use auth_service::store::redis::{RedisAddress, RedisStore};
use reqwest::StatusCode;
use tokio::time::sleep;

use super::keys::TERMS;
use super::things::{HOUR, NOW, account, client, code, grant, random, register, usage};
use super::worlds::key;
use crate::chaos::{Chaos, Weather};
use crate::redis_server::{RedisServer, free_port};

const ISSUER: &str = "https://auth.example";
/// Longest that a revocation may go unnoticed (`docs/adr/0009`), and what a request may take on its way back.
const BOUND: Duration = Duration::from_millis(1_000 + 250);
const REPLICAS: usize = 3;

/// One of the program's processes.
struct Replica {
    process: Mutex<Option<Child>>,
    way: Chaos,
    public: u16,
    edge: u16,
    data: tempfile::TempDir,
}

impl Replica {
    async fn start(redis: u16) -> Self {
        let way = Chaos::before(redis).await;
        let data = tempfile::tempdir().unwrap();
        let replica = Self { process: Mutex::new(None), way, public: free_port(), edge: free_port(), data };
        replica.run();
        replica
    }

    fn run(&self) {
        let log = std::fs::OpenOptions::new().create(true).append(true).open(self.data.path().join("log"));
        let mut command = Command::new(env!("CARGO_BIN_EXE_auth-service"));
        command.env_clear().envs([
            ("ISSUER", ISSUER),
            ("PROTECTED_HOSTS", "mcp.example"),
            ("REGISTRATION_RATE", "100000"),
            ("WORKERS", "1"),
            ("RUST_LOG", "warn"),
            ("OPS_LISTEN", "127.0.0.1:0"),
        ]);
        command.env("REDIS_URL", self.way.url()).env("STORE_KEY", key().encode().as_str());
        command.env("PUBLIC_LISTEN", format!("127.0.0.1:{}", self.public));
        command.env("EDGE_LISTEN", format!("127.0.0.1:{}", self.edge));
        command.stdout(log.unwrap()).stderr(Stdio::null());
        *self.process.lock().unwrap() = Some(command.spawn().unwrap());
    }

    fn kill(&self) {
        if let Some(mut process) = self.process.lock().unwrap().take() {
            process.kill().unwrap();
            process.wait().unwrap();
        }
    }

    /// It does not start while Redis is away, so it may have to be started again and again, as a supervisor would.
    fn see_that_it_runs(&self) {
        let ended = match self.process.lock().unwrap().as_mut() {
            Some(process) => process.try_wait().unwrap().is_some(),
            None => true,
        };
        if ended {
            self.run();
        }
    }
}

impl Drop for Replica {
    fn drop(&mut self) {
        self.kill();
    }
}

/// What was seen.
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
    /// Straight to Redis.
    store: RedisStore,
    keys: KeyRing,
    replicas: Vec<Replica>,
    http: reqwest::Client,
    stop: AtomicBool,
    seen: Seen,
}

fn chance() -> usize {
    usize::from(random()[0])
}

impl Storm {
    fn goes_on(&self) -> bool {
        !self.stop.load(Ordering::Relaxed)
    }

    fn wrong(&self, what: String) {
        self.seen.wrong.lock().unwrap().push(what);
    }

    fn replica(&self) -> &Replica {
        &self.replicas[chance() % self.replicas.len()]
    }

    /// What a replica says to a check; none if it says nothing.
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

    /// What a replica answers, status and body; none if the answer did not come.
    async fn post(&self, path: &str, form: &[(&str, &str)]) -> Option<(StatusCode, serde_json::Value)> {
        let url = format!("http://127.0.0.1:{}{path}", self.replica().public);
        let response = self.http.post(url).form(form).send().await.ok()?;
        let status = response.status();
        let text = response.text().await.ok()?;
        Some((status, serde_json::from_str(&text).unwrap_or_default()))
    }

    /// Somebody new, with a grant and its two tokens; none if Redis did not take all of it.
    async fn newcomer(&self, name: &str) -> Option<(Client, Account, Grant, String, OpaqueToken)> {
        let client = client(name);
        let terms = super::things::terms(NOW, 1_000_000);
        let ids = [client.id.clone()];
        self.store.register_client(&client, &ids, &terms).await.ok()?;
        let account = account(&format!("{name}-person"));
        self.store.add_account(&account).await.ok().filter(|added| *added)?;
        let refresh = OpaqueToken::new(TokenKind::RefreshToken, random());
        let granted = grant(&code(&client, &account.subject, NOW), refresh.expose(), NOW);
        let added = self.store.add_grant(&granted, &usage(&client, NOW)).await;
        added.ok().filter(|added| *added)?;
        let token = self.token(&granted);
        Some((client, account, granted, token, refresh))
    }

    fn token(&self, grant: &Grant) -> String {
        let now = SystemClock.now();
        let claims = AccessTokenClaims {
            iss: ISSUER.to_owned(),
            sub: grant.subject.clone(),
            aud: grant.resources.clone(),
            client_id: grant.client_id.clone(),
            scope: grant.scope.clone(),
            exp: now.plus(HOUR),
            iat: now,
            jti: TokenHash::of(&random()).text(),
            gid: grant.id.clone(),
            groups: vec![],
            cnf: None,
            act: None,
        };
        self.keys.sign(ACCESS_TOKEN_TYPE, &claims).unwrap()
    }

    /// Grants that end, one after the other.
    async fn revoke(&self, who: usize) {
        for n in 0.. {
            if !self.goes_on() {
                return;
            }
            let name = format!("r{who}-{n}");
            let Some((client, account, grant, token, refresh)) = self.newcomer(&name).await else {
                sleep(Duration::from_millis(20)).await;
                continue;
            };
            // Everybody knows it.
            for replica in &self.replicas {
                for _ in 0..2 {
                    self.check(replica, &token).await;
                }
            }
            let by_http = [("token", refresh.expose()), ("client_id", client.id.as_str())];
            let acknowledged = match chance() % 4 {
                0 => self.store.revoke_grant(&grant.id).await.is_ok(),
                1 => self.store.set_account_disabled(&account.subject, true).await.is_ok_and(|done| done),
                2 => self.store.delete_client(&client.id).await.is_ok_and(|done| done),
                _ => self.post("/revoke", &by_http).await.is_some_and(|(status, _)| status == StatusCode::OK),
            };
            if !acknowledged {
                continue;
            }
            count(&self.seen.revoked);
            let since = Instant::now();
            for wait in [BOUND, Duration::from_millis(100), Duration::from_millis(400)] {
                sleep(wait).await;
                for (number, replica) in self.replicas.iter().enumerate() {
                    let asked = since.elapsed();
                    if self.check(replica, &token).await == Some(StatusCode::OK) {
                        self.wrong(format!(
                            "{name} passes at replica {number}, asked {asked:?} after its end"
                        ));
                    }
                }
            }
        }
    }

    /// One grant that lives, and whose tokens are refreshed again and again.
    async fn live(&self, who: usize) {
        let (client, _, grant, _, first) = loop {
            let started = Instant::now();
            match self.newcomer(&format!("l{who}-{}", TokenHash::of(&random()).text())).await {
                Some(newcomer) => break newcomer,
                None if started.elapsed() > Duration::from_secs(60) => panic!("no newcomer"),
                None => sleep(Duration::from_millis(50)).await,
            }
        };
        let (mut refresh, mut access) = (first.expose().to_owned(), self.token(&grant));
        let mut tries = Instant::now();
        while self.goes_on() {
            if self.check(self.replica(), &access).await == Some(StatusCode::UNAUTHORIZED) {
                self.wrong(format!("l{who}: a live token is refused"));
            }
            let form = [
                ("grant_type", "refresh_token"),
                ("client_id", client.id.as_str()),
                ("refresh_token", refresh.as_str()),
            ];
            match self.post("/token", &form).await {
                Some((StatusCode::OK, body)) => {
                    let text = |name: &str| body[name].as_str().unwrap().to_owned();
                    (refresh, access) = (text("refresh_token"), text("access_token"));
                    count(&self.seen.refreshed);
                    tries = Instant::now();
                }
                Some((StatusCode::BAD_REQUEST | StatusCode::UNAUTHORIZED, body)) => {
                    self.wrong(format!("l{who}: a live refresh token: {body}"));
                    return;
                }
                // No answer, or that the store is away: the same token again.
                _ => sleep(Duration::from_millis(20)).await,
            }
            assert!(tries.elapsed() < Duration::from_secs(100), "l{who}: nothing works any more");
        }
        self.is_back().await;
        match self
            .store
            .grant_of_refresh(&TokenHash::of(refresh.as_bytes()), SystemClock.now())
            .await
            .unwrap()
        {
            Some(found) if found.id == grant.id => {}
            _ => self.wrong(format!("l{who}: an acknowledged refresh token is lost")),
        }
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            match self.check(self.replica(), &access).await {
                Some(StatusCode::OK) => return,
                // A replica may just notice that its connection is one that the weather broke.
                Some(StatusCode::SERVICE_UNAVAILABLE) | None if Instant::now() < deadline => {}
                status => return self.wrong(format!("l{who}: in the end a live token gets {status:?}")),
            }
            sleep(Duration::from_millis(50)).await;
        }
    }

    /// Codes that two replicas get at once.
    async fn redeem(&self) {
        for n in 0.. {
            if !self.goes_on() {
                return;
            }
            let name = format!("c-{n}");
            let Some((client, account, ..)) = self.newcomer(&name).await else {
                sleep(Duration::from_millis(20)).await;
                continue;
            };
            let made = code(&client, &account.subject, NOW);
            let secret = OpaqueToken::new(TokenKind::AuthorizationCode, random());
            let added = self.store.add_code(&name, &secret.hash(), &made, &usage(&client, NOW)).await;
            if !added.is_ok_and(|added| added) {
                continue;
            }
            let form = [
                ("grant_type", "authorization_code"),
                ("client_id", client.id.as_str()),
                ("code", secret.expose()),
                ("redirect_uri", "https://app.example/cb"),
                ("code_verifier", "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk"),
            ];
            let mut redeemed = 0;
            for _ in 0..2 {
                let (a, b) = tokio::join!(self.post("/token", &form), self.post("/token", &form));
                let of = |answer: Option<(StatusCode, _)>| {
                    answer.is_some_and(|(status, _)| status == StatusCode::OK)
                };
                redeemed += usize::from(of(a)) + usize::from(of(b));
            }
            match redeemed {
                0 => {}
                1 => count(&self.seen.redeemed),
                times => self.wrong(format!("{name}: redeemed {times} times")),
            }
        }
    }

    /// Clients that register, each of which is there in the end.
    async fn register(&self) {
        let mut registered = Vec::new();
        for n in 0.. {
            if !self.goes_on() {
                break;
            }
            let asked = serde_json::json!({
                "client_name": format!("registered {n}"),
                "redirect_uris": [format!("https://app{n}.example/cb")],
                "token_endpoint_auth_method": "none",
            });
            let url = format!("http://127.0.0.1:{}/register", self.replica().public);
            if let Ok(response) = self.http.post(url).json(&asked).send().await
                && response.status() == StatusCode::CREATED
                && let Ok(body) = response.json::<serde_json::Value>().await
            {
                count(&self.seen.registered);
                registered.push(super::things::id(body["client_id"].as_str().unwrap()));
            }
            sleep(Duration::from_millis(20)).await;
        }
        self.is_back().await;
        for id in registered {
            if self.store.client(&id, SystemClock.now()).await.unwrap().is_none() {
                self.wrong(format!("an acknowledged client is lost: {id}"));
            }
        }
    }

    /// Tokens that nobody has: signed ones of no grant, and such as are none.
    async fn strangers(&self) {
        let client = client("stranger");
        while self.goes_on() {
            let of_nobody = Grant {
                id: GrantId::new(random()),
                ..grant(&code(&client, &account("nobody").subject, NOW), "none", NOW)
            };
            let token = self.token(&of_nobody);
            let forged = format!("{}A", token.trim_end_matches('A'));
            for token in [&token, &forged] {
                if self.check(self.replica(), token).await == Some(StatusCode::OK) {
                    self.wrong("a token of nobody passes".to_owned());
                }
            }
        }
    }

    /// Waits until all is well.
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
            assert!(Instant::now() < deadline, "it does not come back");
            sleep(Duration::from_millis(50)).await;
        }
    }

    /// The weather.
    async fn blow(&self, mut redis: RedisServer, time: Duration) -> RedisServer {
        let end = Instant::now() + time;
        while Instant::now() < end {
            sleep(Duration::from_millis(100 + 6 * u64::try_from(chance()).unwrap())).await;
            match chance() % 8 {
                0 => {
                    redis.kill();
                    sleep(Duration::from_millis(4 * u64::try_from(chance()).unwrap())).await;
                    assert!(redis.run(), "Redis does not start again");
                    count(&self.seen.killed);
                }
                1 => {
                    self.replica().kill();
                    count(&self.seen.killed);
                }
                2 => self.replica().way.turn(Weather::Cut),
                3 => self.replica().way.turn(Weather::Delay(Duration::from_millis(5))),
                4 => self.replica().way.turn(Weather::Delay(Duration::from_millis(700))),
                5 => self.replica().way.turn(Weather::HalfOpen),
                6 => self.replica().way.turn(Weather::Garbage),
                _ => self.replica().way.turn(Weather::Slow),
            }
            sleep(Duration::from_millis(100 + 4 * u64::try_from(chance()).unwrap())).await;
            // One at a time has fair weather again, so that several may have none at once.
            if chance().is_multiple_of(3) {
                self.replica().way.turn(Weather::Fair);
            } else {
                self.replicas.iter().for_each(|replica| replica.way.turn(Weather::Fair));
            }
            self.replicas.iter().for_each(Replica::see_that_it_runs);
        }
        for replica in &self.replicas {
            replica.way.turn(Weather::Fair);
        }
        redis
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a066_a083_a088_in_any_weather_nothing_wrong_passes_and_nothing_acknowledged_is_lost() {
    let seconds = std::env::var("CHAOS_SECONDS").ok().and_then(|text| text.parse().ok()).unwrap_or(10);
    let Some(redis) = RedisServer::start(&["--appendonly", "yes", "--appendfsync", "always"]) else { return };
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
    let storm = Arc::new(Storm { store: direct, keys, replicas, http, stop: AtomicBool::new(false), seen });
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
    let redis = storm.blow(redis, Duration::from_secs(seconds)).await;
    // Whoever was killed last has to come back before the others look for what they were told.
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
    assert!(wrong.is_empty(), "{} wrong answers: {wrong:#?}", wrong.len());
    for done in
        [&seen.passed, &seen.unavailable, &seen.revoked, &seen.refreshed, &seen.redeemed, &seen.registered]
    {
        assert!(get(done) > 0, "the test tested something");
    }
    drop(redis);
}
