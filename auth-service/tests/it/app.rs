//! The service under test, with its users and clients. It hides the wiring from the tests.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use actix_web::web::Data;
use auth_service::app;
use auth_service::config::Config;
use auth_service::domain::account::{Account, AccountKind, Group, StoredPassword, Subject, Username};
use auth_service::domain::client::ClientId;
use auth_service::domain::clock::{Clock, Random, SystemClock, UnixTime};
use auth_service::identity::password::Passwords;
use auth_service::keys::seal::{StoreKey, SystemRandomSource};
use auth_service::state::AppState;
use auth_service::store::embedded::EmbeddedStore;
use auth_service::store::redis::{RedisAddress, RedisStore};
use auth_service::store::{Addition, Store};
use metrics_exporter_prometheus::PrometheusBuilder;
use reqwest::redirect::Policy;
use reqwest::{RequestBuilder, Response, StatusCode};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::browser::Browser;
use crate::redis_server::RedisServer;

pub(crate) const ISSUER: &str = "https://auth.example";
pub(crate) const RESOURCE: &str = "https://mcp.example/mcp";
pub(crate) const PASSWORD: &str = "correct horse battery staple";
/// The PKCE code verifier and challenge of RFC 7636 appendix B.
pub(crate) const VERIFIER: &str = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk";
pub(crate) const CHALLENGE: &str = "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM";
pub(crate) const REDIRECT: &str = "https://app.example/cb";
pub(crate) const EDGE_SECRET: &str = "a secret of the edge alone";

/// A clock that moves only when the test moves it. The test can also set its time of day ahead or behind.
pub(crate) struct TestClock {
    passed: AtomicU64,
    ahead: AtomicU64,
    /// Whether the service compares this clock with the clock of Redis.
    is_time_of_day: bool,
}

impl Clock for TestClock {
    fn now(&self) -> UnixTime {
        UnixTime(self.passed.load(Ordering::SeqCst).wrapping_add(self.ahead.load(Ordering::SeqCst)))
    }

    fn up(&self) -> Duration {
        Duration::from_secs(self.passed.load(Ordering::SeqCst))
    }

    fn is_time_of_day(&self) -> bool {
        self.is_time_of_day
    }
}

pub(crate) struct TestApp {
    pub(crate) http: reqwest::Client,
    pub(crate) state: Data<AppState>,
    pub(crate) public: String,
    pub(crate) edge: String,
    pub(crate) edge_grpc: Option<app::EdgeGrpc>,
    pub(crate) ops: String,
    pub(crate) issuer: String,
    clock: Arc<TestClock>,
    settings: Vec<(String, String)>,
    data: tempfile::TempDir,
    server: Option<RedisServer>,
}

const STORE_KEY: [u8; 32] = [7; 32];

/// Opens the embedded store, or a new Redis server for this app.
async fn open_store(data: &Path, key: &StoreKey, on_redis: bool) -> (Arc<dyn Store>, Option<RedisServer>) {
    if on_redis {
        let server = RedisServer::start(&["--appendonly", "yes", "--appendfsync", "no"]).unwrap();
        let address = RedisAddress::parse(&server.url()).unwrap();
        return (Arc::new(RedisStore::connect(&address, key).await.unwrap()), Some(server));
    }
    (Arc::new(EmbeddedStore::open(data, key).unwrap()), None)
}

impl TestApp {
    pub(crate) async fn start() -> Self {
        Self::start_with(&[]).await
    }

    /// Starts the app on the embedded store or, if `TEST_STORE=redis` is set, on Redis.
    pub(crate) async fn start_with(settings: &[(&str, &str)]) -> Self {
        let on_redis = std::env::var("TEST_STORE").is_ok_and(|store| store == "redis");
        Self::start_on(on_redis, settings).await
    }

    /// Starts the app on a Redis server that [`Self::kill_store`] can kill. Returns `None` if Redis is not
    /// installed.
    pub(crate) async fn start_on_redis() -> Option<Self> {
        RedisServer::start(&["--appendonly", "no"])?;
        Some(Self::start_on(true, &[]).await)
    }

    /// Starts an app on the embedded store and, if Redis is installed, one on Redis.
    pub(crate) async fn on_both_stores(settings: &[(&str, &str)]) -> Vec<Self> {
        let mut apps = vec![Self::start_on(false, settings).await];
        if RedisServer::start(&["--appendonly", "no"]).is_some() {
            apps.push(Self::start_on(true, settings).await);
        }
        apps
    }

    pub(crate) fn kill_store(&mut self) {
        self.server.as_mut().unwrap().kill();
    }

    pub(crate) fn run_store(&mut self) {
        assert!(self.server.as_mut().unwrap().run());
    }

    /// Copies the files of the app's Redis server to a temporary directory.
    pub(crate) fn files_of_store(&self) -> tempfile::TempDir {
        let copy = tempfile::tempdir().unwrap();
        copy_files(self.server.as_ref().unwrap().data.path(), copy.path());
        copy
    }

    /// Replaces the files of the app's Redis server with those in `copy`.
    pub(crate) fn replace_files_of_store(&self, copy: &tempfile::TempDir) {
        let data = self.server.as_ref().unwrap().data.path();
        for entry in std::fs::read_dir(data).unwrap().map(Result::unwrap) {
            if entry.path().is_dir() {
                std::fs::remove_dir_all(entry.path()).unwrap();
            } else {
                std::fs::remove_file(entry.path()).unwrap();
            }
        }
        copy_files(copy.path(), data);
    }

    /// Sends a command to the app's Redis, and waits for the reply.
    pub(crate) fn tell_store(&self, command: &str) {
        use std::io::{Read, Write};
        let mut stream =
            std::net::TcpStream::connect(("127.0.0.1", self.server.as_ref().unwrap().port)).unwrap();
        stream.write_all(format!("{command}\r\n").as_bytes()).unwrap();
        let mut answer = [0; 64];
        let read = stream.read(&mut answer).unwrap();
        assert!([&b"+OK\r\n"[..], b":1\r\n"].contains(&&answer[..read]), "{command}");
    }

    /// The directory of the embedded store.
    pub(crate) fn directory(&self) -> &Path {
        self.data.path()
    }

    pub(crate) fn port_of_store(&self) -> u16 {
        self.server.as_ref().unwrap().port
    }

    pub(crate) fn url_of_store(&self) -> String {
        self.server.as_ref().unwrap().url()
    }

    /// The number of rows in the app's Redis.
    pub(crate) fn rows_of_store(&self) -> u64 {
        use std::io::{Read, Write};
        let mut stream =
            std::net::TcpStream::connect(("127.0.0.1", self.server.as_ref().unwrap().port)).unwrap();
        stream.write_all(b"DBSIZE\r\n").unwrap();
        let mut answer = [0; 64];
        let read = stream.read(&mut answer).unwrap();
        let text = std::str::from_utf8(&answer[..read]).unwrap();
        text.trim().trim_start_matches(':').parse().unwrap()
    }

    /// Makes the store refuse writes, or accept them again. Reads work in both cases.
    pub(crate) fn set_store_writable(&self, writable: bool) {
        if self.server.is_some() {
            self.tell_store(&format!("CONFIG SET maxmemory {}", if writable { "0" } else { "1" }));
            return;
        }
        let (file, aside) = (self.data.path().join("store.redb"), self.data.path().join("aside"));
        let (from, to) = if writable { (&aside, &file) } else { (&file, &aside) };
        std::fs::rename(from, to).unwrap();
    }

    /// The process ID of the app's Redis.
    pub(crate) fn store_process(&self) -> u32 {
        self.server.as_ref().unwrap().process.as_ref().unwrap().id()
    }

    /// Starts the app with this source of randomness.
    pub(crate) async fn start_with_random(random: Arc<dyn Random>) -> Self {
        Self::start_from(false, random, &[]).await
    }

    pub(crate) async fn start_on(on_redis: bool, settings: &[(&str, &str)]) -> Self {
        Self::start_from(on_redis, Arc::new(SystemRandomSource), settings).await
    }

    /// Starts the app on Redis, with a clock that the service compares with the clock of Redis. Returns `None` if
    /// Redis is not installed.
    pub(crate) async fn start_on_redis_now(settings: &[(&str, &str)]) -> Option<Self> {
        RedisServer::start(&["--appendonly", "no"])?;
        let clock = TestClock {
            passed: AtomicU64::new(SystemClock.now().0),
            ahead: AtomicU64::new(0),
            is_time_of_day: true,
        };
        Some(Self::start_with_clock(true, (Arc::new(clock), Arc::new(SystemRandomSource)), settings).await)
    }

    async fn start_from(on_redis: bool, random: Arc<dyn Random>, settings: &[(&str, &str)]) -> Self {
        let clock = TestClock {
            passed: AtomicU64::new(1_800_000_000),
            ahead: AtomicU64::new(0),
            is_time_of_day: false,
        };
        Self::start_with_clock(on_redis, (Arc::new(clock), random), settings).await
    }

    async fn start_with_clock(
        on_redis: bool,
        sources: (Arc<TestClock>, Arc<dyn Random>),
        settings: &[(&str, &str)],
    ) -> Self {
        let data = tempfile::tempdir().unwrap();
        let defaults = [
            ("ISSUER", ISSUER),
            ("PROTECTED_HOSTS", "mcp.example, other.example"),
            ("EDGE_SECRET", EDGE_SECRET),
            ("WORKERS", "1"),
            ("PUBLIC_LISTEN", "127.0.0.1:0"),
            ("EDGE_LISTEN", "127.0.0.1:0"),
            ("OPS_LISTEN", "127.0.0.1:0"),
        ];
        let overridden = |name: &str| settings.iter().any(|(other, _)| *other == name);
        let settings: Vec<_> =
            defaults.iter().filter(|(name, _)| !overridden(name)).chain(settings).copied().collect();
        let settings: Vec<_> =
            settings.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let (store, server) = open_store(data.path(), &StoreKey::new(STORE_KEY), on_redis).await;
        Self::launch(settings, store, sources, data, server).await
    }

    /// Starts another replica on the same store and with the same clock. With Redis, it has its own
    /// connection.
    pub(crate) async fn replica(&self, settings: &[(&str, &str)]) -> Self {
        self.replica_by(Arc::clone(&self.clock), settings).await
    }

    /// Like [`Self::replica`], but with the Redis at this URL.
    pub(crate) async fn replica_at(&self, url: &str) -> Self {
        let address = RedisAddress::parse(url).unwrap();
        let store = RedisStore::connect(&address, &StoreKey::new(STORE_KEY)).await.unwrap();
        let sources = (Arc::clone(&self.clock), Arc::new(SystemRandomSource) as Arc<dyn Random>);
        let data = tempfile::tempdir().unwrap();
        Self::launch(self.settings.clone(), Arc::new(store), sources, data, None).await
    }

    /// Like [`Self::replica`], but with its own clock, which is `by` behind the clock of this app.
    pub(crate) async fn replica_behind(&self, by: Duration) -> Self {
        let clock = TestClock {
            passed: AtomicU64::new(self.clock.passed.load(Ordering::SeqCst)),
            ahead: AtomicU64::new(0_u64.wrapping_sub(by.as_secs())),
            is_time_of_day: self.clock.is_time_of_day,
        };
        self.replica_by(Arc::new(clock), &[]).await
    }

    async fn replica_by(&self, clock: Arc<TestClock>, settings: &[(&str, &str)]) -> Self {
        let store = match &self.server {
            Some(server) => {
                let address = RedisAddress::parse(&server.url()).unwrap();
                Arc::new(RedisStore::connect(&address, &StoreKey::new(STORE_KEY)).await.unwrap())
            }
            None => Arc::clone(&self.state.store),
        };
        let owned = settings.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        let settings = self.settings.iter().cloned().chain(owned).collect();
        let sources = (clock, Arc::new(SystemRandomSource) as Arc<dyn Random>);
        Self::launch(settings, store, sources, tempfile::tempdir().unwrap(), None).await
    }

    async fn launch(
        settings: Vec<(String, String)>,
        store: Arc<dyn Store>,
        (clock, random): (Arc<TestClock>, Arc<dyn Random>),
        data: tempfile::TempDir,
        server: Option<RedisServer>,
    ) -> Self {
        let config = Config::from_variables(settings.iter().cloned()).unwrap();
        let listeners = config.listeners;
        let key = StoreKey::new(STORE_KEY);
        let state =
            AppState::new(config, store, &key, Arc::clone(&clock) as Arc<dyn Clock>, random).await.unwrap();
        let state = Data::new(state);
        let servers =
            app::listen(listeners, &state, PrometheusBuilder::new().build_recorder().handle()).unwrap();
        let [public, edge, ops] = servers.addresses.map(|address| format!("http://{address}"));
        actix_web::rt::spawn(servers.public);
        actix_web::rt::spawn(servers.edge);
        actix_web::rt::spawn(servers.ops);
        let http = reqwest::Client::builder().redirect(Policy::none()).no_proxy().build().unwrap();
        let issuer = state.config.site.issuer.to_string();
        Self {
            http,
            state,
            public,
            edge,
            edge_grpc: servers.edge_grpc,
            ops,
            issuer,
            clock,
            settings,
            data,
            server,
        }
    }

    pub(crate) fn wait(&self, duration: Duration) {
        self.clock.passed.fetch_add(duration.as_secs(), Ordering::SeqCst);
    }

    /// Sets how far the time of day is ahead of the time that the test has simulated.
    pub(crate) fn set_clock_ahead(&self, by: Duration) {
        self.clock.ahead.store(by.as_secs(), Ordering::SeqCst);
    }

    /// Sets how far the time of day is behind the time that the test has simulated.
    pub(crate) fn set_clock_behind(&self, by: Duration) {
        self.clock.ahead.store(0_u64.wrapping_sub(by.as_secs()), Ordering::SeqCst);
    }

    /// Adds an account whose password is [`PASSWORD`].
    pub(crate) async fn person(&self, name: &str) -> Account {
        self.account(name, false).await
    }

    pub(crate) async fn account(&self, name: &str, one_time: bool) -> Account {
        let phc = Passwords::new(1).unwrap().hash(PASSWORD.into()).await.unwrap();
        let account = Account {
            subject: Subject::new(SystemRandomSource.bytes().unwrap()),
            kind: AccountKind::Person,
            username: Username::try_from(name.to_owned()).unwrap(),
            email: Some(format!("{name}@example.com")),
            groups: vec![
                Group::try_from("staff".to_owned()).unwrap(),
                Group::try_from("ops".to_owned()).unwrap(),
            ],
            password: StoredPassword { phc, one_time },
            logins_ended: 0,
            disabled: false,
            created_at: self.clock.now(),
        };
        assert_eq!(self.state.store.add_account(&account).await.unwrap(), Addition::Added);
        account
    }

    pub(crate) async fn register(&self, metadata: &Value) -> Response {
        self.http.post(format!("{}/register", self.public)).json(metadata).send().await.unwrap()
    }

    /// Registers a public client in the same way as the SDKs, and returns its identifier.
    pub(crate) async fn client(&self) -> String {
        self.client_with(&[REDIRECT]).await
    }

    pub(crate) async fn client_with(&self, redirect_uris: &[&str]) -> String {
        let metadata = json!({
            "redirect_uris": redirect_uris, "token_endpoint_auth_method": "none", "client_name": "Test client",
            "grant_types": ["authorization_code", "refresh_token"], "response_types": ["code"],
        });
        let response = self.register(&metadata).await;
        assert_eq!(response.status(), StatusCode::CREATED);
        response.json::<Value>().await.unwrap()["client_id"].as_str().unwrap().to_owned()
    }

    /// Whether the client is still registered.
    pub(crate) async fn client_is_known(&self, client: &str) -> bool {
        let id = ClientId::try_from(client.to_owned()).unwrap();
        self.state.store.client(&id, self.state.now()).await.unwrap().is_some()
    }

    pub(crate) fn browser(&self) -> Browser<'_> {
        Browser::new(self, Vec::new())
    }

    /// Returns another window of the same browser, with the same cookies.
    pub(crate) fn browser_with(&self, same: &Browser<'_>) -> Browser<'_> {
        Browser::new(self, same.cookies.clone())
    }

    /// A browser in which the new user `name` has logged in.
    pub(crate) async fn browser_of(&self, name: &str) -> Browser<'_> {
        self.person(name).await;
        let mut browser = self.browser();
        let page = browser.open("/login").await;
        let answer = browser.submit(&page, &[("username", name), ("password", PASSWORD)]).await;
        assert_eq!(answer.status, StatusCode::OK);
        browser
    }

    /// An authorization code for `client`, after the login and consent of a new user.
    pub(crate) async fn code(&self, client: &str) -> String {
        let mut browser = self.browser_of(&format!("person{}", rand_suffix())).await;
        browser.allow(&authorize_query(client, &[])).await
    }

    pub(crate) async fn token(&self, form: &[(&str, &str)]) -> Response {
        self.http.post(format!("{}/token", self.public)).form(form).send().await.unwrap()
    }

    pub(crate) async fn redeem(&self, client: &str, code: &str) -> Response {
        let form = [
            ("grant_type", "authorization_code"),
            ("client_id", client),
            ("code", code),
            ("code_verifier", VERIFIER),
            ("redirect_uri", REDIRECT),
            ("resource", RESOURCE),
        ];
        self.token(&form).await
    }

    pub(crate) async fn refresh(&self, client: &str, refresh_token: &str) -> Response {
        self.token(&[
            ("grant_type", "refresh_token"),
            ("client_id", client),
            ("refresh_token", refresh_token),
        ])
        .await
    }

    /// The access token and the refresh token of a new user for `client`.
    pub(crate) async fn tokens(&self, client: &str) -> Tokens {
        let response = self.redeem(client, &self.code(client).await).await;
        assert_eq!(response.status(), StatusCode::OK);
        Tokens::of(response).await
    }

    /// Returns a check request as Envoy sends it over HTTP.
    #[expect(clippy::needless_pass_by_value, reason = "a test writes Method::POST")]
    pub(crate) fn check(&self, method: reqwest::Method, host: &str, target: &str) -> RequestBuilder {
        self.check_by("envoy", method.as_str(), host, target)
    }

    /// Returns a check request as `proxy` sends it over HTTP.
    pub(crate) fn check_by(&self, proxy: &str, method: &str, host: &str, target: &str) -> RequestBuilder {
        let url = format!("{}/verify/{proxy}", self.edge);
        let request = match proxy {
            "envoy" => self
                .http
                .request(method.parse().unwrap(), format!("{url}{target}"))
                .header("host", host)
                .header("x-forwarded-proto", "https"),
            "nginx" => self
                .http
                .get(url)
                .header("x-original-method", method)
                .header("x-original-url", format!("https://{host}{target}")),
            _ => self
                .http
                .get(url)
                .header("x-forwarded-method", method)
                .header("x-forwarded-proto", "https")
                .header("x-forwarded-host", host)
                .header("x-forwarded-uri", target),
        };
        request.header("x-edge-secret", EDGE_SECRET)
    }

    /// Returns the status of a check by Envoy. The request target is sent unchanged, whereas an HTTP library would
    /// normalize it.
    pub(crate) async fn raw_check(&self, target: &str) -> u16 {
        self.raw(&format!(
            "POST /verify/envoy{target} HTTP/1.1\r\nHost: mcp.example\r\nX-Edge-Secret: {EDGE_SECRET}\r\nConnection: close\r\n\r\n"
        ))
        .await
        .unwrap()
    }

    /// Sends exactly these bytes to the edge listener. Returns the status of the response, if there is one.
    pub(crate) async fn raw(&self, bytes: &str) -> Option<u16> {
        send_and_hang_up(&self.edge, bytes).await.split(' ').nth(1)?.parse().ok()
    }

    /// Sends exactly these bytes to the public listener. Returns the status and body of the response. The request
    /// must contain `Connection: close`, because that listener does not respond to a client that has closed its
    /// half of the connection.
    pub(crate) async fn raw_public(&self, bytes: &str) -> (u16, String) {
        let answer = read_to_end(send_bytes(&self.public, bytes).await).await;
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
    }

    /// Sends exactly these bytes to the public listener. Returns the head of the response.
    pub(crate) async fn raw_public_head(&self, bytes: &str) -> String {
        let answer = read_to_end(send_bytes(&self.public, bytes).await).await;
        answer.split_once("\r\n\r\n").unwrap().0.to_owned()
    }

    pub(crate) async fn check_token(&self, token: &str) -> Response {
        self.check(reqwest::Method::POST, "mcp.example", "/mcp").bearer_auth(token).send().await.unwrap()
    }
}

fn copy_files(from: &Path, to: &Path) {
    for entry in std::fs::read_dir(from).unwrap().map(Result::unwrap) {
        let (from, to) = (entry.path(), to.join(entry.file_name()));
        if from.is_dir() {
            std::fs::create_dir(&to).unwrap();
            copy_files(&from, &to);
        } else {
            std::fs::copy(from, to).unwrap();
        }
    }
}

/// Sends these bytes to a listener, and then closes the sending half of the connection.
async fn send_and_hang_up(listener: &str, bytes: &str) -> String {
    let mut stream = send_bytes(listener, bytes).await;
    stream.shutdown().await.unwrap();
    read_to_end(stream).await
}

async fn send_bytes(listener: &str, bytes: &str) -> TcpStream {
    let mut stream = TcpStream::connect(listener.strip_prefix("http://").unwrap()).await.unwrap();
    stream.write_all(bytes.as_bytes()).await.unwrap();
    stream
}

/// Reads until the other side closes the connection.
async fn read_to_end(mut stream: TcpStream) -> String {
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap_or_default();
    String::from_utf8_lossy(&answer).into_owned()
}

#[derive(Debug, Clone)]
pub(crate) struct Tokens {
    pub(crate) access: String,
    pub(crate) refresh: String,
}

impl Tokens {
    pub(crate) async fn of(response: Response) -> Self {
        let body: Value = response.json().await.unwrap();
        let text = |name: &str| body[name].as_str().unwrap_or_default().to_owned();
        Self { access: text("access_token"), refresh: text("refresh_token") }
    }
}

/// The error code in an OAuth error response.
pub(crate) async fn error_code(response: Response) -> String {
    response.json::<Value>().await.unwrap()["error"].as_str().unwrap().to_owned()
}

/// A random suffix that makes a name unique.
pub(crate) fn rand_suffix() -> String {
    let bytes = SystemRandomSource.bytes().unwrap();
    bytes.iter().take(6).map(|byte| char::from(b'a' + byte % 26)).collect()
}

/// The query of a valid authorization request. `replaced` contains parameters to replace, or to omit if the value
/// is empty.
pub(crate) fn authorize_query(client: &str, replaced: &[(&str, &str)]) -> String {
    let good = [
        ("response_type", "code"),
        ("client_id", client),
        ("redirect_uri", REDIRECT),
        ("state", "the state"),
        ("scope", "mcp"),
        ("resource", RESOURCE),
        ("code_challenge", CHALLENGE),
        ("code_challenge_method", "S256"),
    ];
    let kept = good.iter().filter(|(name, _)| !replaced.iter().any(|(other, _)| other == name));
    let pairs: Vec<_> = kept.chain(replaced).filter(|(_, value)| !value.is_empty()).collect();
    url::form_urlencoded::Serializer::new(String::new()).extend_pairs(pairs).finish()
}
