//! What every handler works with, put together once.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use metrics::Counter;

use crate::clients::Clients;
use crate::clients::documents::Documents;
use crate::config::Config;
use crate::domain::account::Subject;
use crate::domain::client::{Client, ClientUse};
use crate::domain::clock::{Clock, Random, RandomUnavailable, UnixTime};
use crate::domain::opaque_token::{OpaqueToken, TokenKind};
use crate::domain::scope::Scope;
use crate::dpop::Dpop;
use crate::facts::{FactsCache, Known, NoFacts, Sources};
use crate::guard::device_rate::DeviceRate;
use crate::guard::fetch::{Fetcher, Loopback, NoFetcher};
use crate::guard::in_flight::InFlight;
use crate::guard::login_rate::LoginRate;
use crate::guard::push_rate::PushRate;
use crate::guard::registration_rate::RegistrationRate;
use crate::guard::waiting::Waiting;
use crate::identity::password::{HashingError, Passwords};
use crate::identity::ticket::Tickets;
use crate::keys::seal::{CryptoFailure, StoreKey};
use crate::keys::set::KeySet;
use crate::keys::signing::KeyRing;
use crate::policy::{CurrentPolicy, LoadError};
use crate::rotation::{self, RotationError};
use crate::store::{Store, StoreError};
use crate::upkeep::{Findings, Upkeep};

/// Requests of one address at a time. A hosted client serves many users from few addresses; requests take milliseconds.
const REQUESTS_AT_ONCE: u32 = 256;
/// Requests whose body is waited for, of one address and of all. Hosted clients send a body together with its head, so one that is
/// waited for is rare, and all of these are a quarter of the connections.
const BODIES_AWAITED: (usize, usize) = (32, 256);
/// Connections whose request head is waited for, of one address and of all: half of the connections. A proxy sends whole heads.
const HEADS_AWAITED: (usize, usize) = (64, 512);

/// Settings, store, keys, and the sources of time and randomness.
pub struct AppState {
    /// Settings.
    pub config: Config,
    /// Who is a client.
    pub clients: Clients,
    /// What is remembered.
    pub store: Arc<dyn Store>,
    /// Takes proofs of possession.
    pub dpop: Dpop,
    /// What signs.
    pub keys: KeyRing,
    /// Hashes passwords.
    pub passwords: Passwords,
    /// Binds forms to browsers.
    pub tickets: Tickets,
    /// Limits how fast clients register.
    pub registration_rate: RegistrationRate,
    /// Limits how fast devices start, and user codes may be guessed.
    pub device_rate: DeviceRate,
    /// Limits how fast requests may be pushed.
    pub push_rate: PushRate,
    /// Limits how fast clients may authenticate with assertions, each of which is remembered.
    pub assertion_rate: PushRate,
    /// Limits how many requests of one address are under way at the public listener.
    pub requests: InFlight,
    /// Limits how many bodies are waited for at the public listener.
    pub bodies: Waiting,
    /// Limits how many request heads are waited for at the public listener, of peers that are no trusted proxy.
    pub heads: Waiting,
    /// Limits how fast passwords may be guessed.
    pub login_rate: LoginRate,
    /// Who tokens are.
    pub facts: FactsCache,
    /// Counts the checks that were allowed. Looked up once: it happens on every request.
    pub allowed_checks: Counter,
    /// The rules that are in force.
    pub policy: Arc<CurrentPolicy>,
    stopping: AtomicBool,
    upkeep: Upkeep,
    clock: Arc<dyn Clock>,
    random: Arc<dyn Random>,
}

/// Why the service cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The policy file cannot be used.
    #[error("POLICY_FILE: {0}")]
    Policy(#[from] LoadError),
    /// The store does not answer.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// There are no signing keys.
    #[error(transparent)]
    Keys(#[from] RotationError),
    /// Cryptography failed.
    #[error(transparent)]
    Crypto(#[from] CryptoFailure),
    /// No HTTPS client.
    #[error(transparent)]
    Fetcher(#[from] NoFetcher),
    /// Hashing failed.
    #[error(transparent)]
    Hashing(#[from] HashingError),
}

impl AppState {
    /// Puts the parts together; makes the signing key on the very first start.
    pub async fn new(
        config: Config,
        store: Arc<dyn Store>,
        store_key: &StoreKey,
        clock: Arc<dyn Clock>,
        random: Arc<dyn Random>,
    ) -> Result<Self, StartError> {
        let policy = CurrentPolicy::load(config.policy.clone(), config.site.protected_hosts.clone())?;
        let upkeep = Upkeep::start(store.as_ref(), clock.as_ref(), random.as_ref()).await?;
        let findings = upkeep.look(store.as_ref(), clock.as_ref()).await?;
        let keys = current_keys(store.as_ref(), &config, &findings, clock.now()).await?;
        let loopback = if config.site.issuer.is_loopback() { Loopback::Allowed } else { Loopback::Refused };
        let fetcher = Fetcher::new(loopback, config.clients.extra_roots.as_deref())?;
        let documents = Documents::new(fetcher, config.clients.documents.clone(), Arc::clone(&random));
        Ok(Self {
            clients: Clients::new(Arc::clone(&store), documents),
            passwords: Passwords::new(config.listeners.workers.get())?,
            tickets: Tickets::new(store_key)?,
            dpop: Dpop::new(config.dpop, store_key)?,
            keys: KeyRing::new(keys, Arc::clone(&clock))?,
            registration_rate: RegistrationRate::new(config.clients.rate, config.clients.unused_ceiling()),
            device_rate: DeviceRate::default(),
            login_rate: LoginRate::default(),
            push_rate: PushRate::default(),
            assertion_rate: PushRate::default(),
            requests: InFlight::new(REQUESTS_AT_ONCE),
            bodies: Waiting::new(BODIES_AWAITED.0, BODIES_AWAITED.1),
            heads: Waiting::new(HEADS_AWAITED.0, HEADS_AWAITED.1),
            facts: FactsCache::new(config.storage.facts),
            policy: Arc::new(policy),
            allowed_checks: metrics::counter!("mcp_gate_checks_total", "outcome" => "allowed"),
            config,
            store,
            stopping: AtomicBool::new(false),
            upkeep,
            clock,
            random,
        })
    }

    /// The present second.
    pub fn now(&self) -> UnixTime {
        self.clock.now()
    }

    /// Brings the signing keys up to date with the store, and the store with the time. When that fails, those known so
    /// far stay in use.
    pub async fn follow_keys(&self) {
        match self.follow_keys_of_store().await {
            Ok(false) => {}
            Ok(true) => tracing::info!("a signing key is gone; nothing that it signed counts any more"),
            Err(error) => tracing::warn!(%error, "the signing keys could not be brought up to date"),
        }
    }

    async fn follow_keys_of_store(&self) -> Result<bool, RotationError> {
        let findings = self.findings().await?;
        if findings.is_lost {
            return Ok(false);
        }
        let keys = current_keys(self.store.as_ref(), &self.config, &findings, self.now()).await?;
        Ok(self.keys.install(keys)?)
    }

    /// Whether the store had lost everything when it was looked at last.
    pub fn has_lost_store(&self) -> bool {
        self.upkeep.has_lost_store()
    }

    /// From now on nobody new should come, and every answer at the edge is the last one of its connection.
    pub fn begin_stopping(&self) {
        self.stopping.store(true, Ordering::Relaxed);
    }

    /// Whether we are about to stop.
    pub fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Relaxed)
    }

    /// Looks at what everything rests on: the store and the clock.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn findings(&self) -> Result<Findings, StoreError> {
        self.upkeep.look(self.store.as_ref(), self.clock.as_ref()).await
    }

    /// Removes what has expired, unless the clock is in doubt or the store is not what it was.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn sweep(&self) -> Result<u64, StoreError> {
        let findings = self.findings().await?;
        if findings.is_lost || !findings.clock.is_steady() {
            return Ok(0);
        }
        self.store.sweep(self.now()).await
    }

    /// Every scope that there is.
    pub fn catalogue(&self) -> Scope {
        self.policy.now().catalogue().clone()
    }

    /// Who `token` is at that moment.
    pub async fn facts_of(&self, token: &str, now: UnixTime) -> Result<Arc<Known>, NoFacts> {
        let (keys, issuer) = (&self.keys, &self.config.site.issuer);
        let sources = Sources { keys, issuer, store: self.store.as_ref(), now };
        self.facts.of_token(token, sources).await
    }

    /// A use of `client` for an account, now.
    pub fn client_use(&self, client: Client, user: &Subject) -> ClientUse {
        let at = self.now();
        let (keep_until, sole_ceiling) =
            (at.plus(self.config.clients.idle), self.config.clients.sole_ceiling());
        ClientUse { client, at, keep_until, user: user.clone(), sole_ceiling }
    }

    /// The source of randomness.
    pub fn random(&self) -> &dyn Random {
        self.random.as_ref()
    }

    /// 32 unpredictable bytes.
    pub fn random_bytes(&self) -> Result<[u8; 32], RandomUnavailable> {
        self.random.bytes()
    }

    /// A new opaque token.
    pub fn new_token(&self, kind: TokenKind) -> Result<OpaqueToken, RandomUnavailable> {
        Ok(OpaqueToken::new(kind, self.random.bytes()?))
    }
}

/// The signing keys of this moment: as they are due, or, when the clock is in doubt, as they are.
async fn current_keys(
    store: &dyn Store,
    config: &Config,
    findings: &Findings,
    now: UnixTime,
) -> Result<KeySet, RotationError> {
    if findings.clock.is_steady() {
        rotation::up_to_date(store, &config.signing, now).await
    } else {
        rotation::known(store, &config.signing, now).await
    }
}
