//! The state that all handlers share.

mod signing_keys;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use metrics::Counter;

use crate::clients::Clients;
use crate::clients::documents::Documents;
use crate::config::Config;
use crate::domain::account::Subject;
use crate::domain::client::{Client, ClientId};
use crate::domain::client_use::ClientUse;
use crate::domain::clock::{Clock, Random, RandomUnavailable, UnixTime};
use crate::domain::clock_watch::{TOLERANCE, TimeBounds};
use crate::domain::opaque_token::{OpaqueToken, TokenKind};
use crate::domain::scope::Scope;
use crate::dpop::{Dpop, ProofRefused};
use crate::guard::account_rate::AccountRate;
use crate::guard::device_rate::DeviceRate;
use crate::guard::fetch::{Fetcher, Loopback, NoFetcher};
use crate::guard::in_flight::InFlight;
use crate::guard::known_networks::KnownNetworks;
use crate::guard::login_rate::LoginRate;
use crate::guard::pace::Pace;
use crate::guard::push_rate::PushRate;
use crate::guard::registration_rate::RegistrationRate;
use crate::guard::turns::Turns;
use crate::guard::waiting::Waiting;
use crate::identity::form_token::FormTokens;
use crate::identity::password::{Passwords, SetUpError};
use crate::keys::seal::{CryptoFailure, StoreKey};
use crate::keys::signing::KeyRing;
use crate::policy::{CurrentPolicy, LoadError};
use crate::principal::{Known, PrincipalCache, RejectedToken, Sources};
use crate::rotation::{Reading, Rotated, RotationError};
use crate::store::{LatestEnds, Store, StoreError};
use crate::upkeep::write_probe::WriteProbe;
use crate::upkeep::{Findings, Upkeep};

use signing_keys::{SigningKeys, current_keys};

/// Maximum number of concurrent requests from one address. A hosted client serves many users from a few addresses,
/// but each request takes only milliseconds.
const REQUESTS_AT_ONCE: u32 = 256;
/// Maximum number of requests, and maximum number of checks, whose refusal is delayed. The values are a quarter of
/// the public listener's connections, and half of the edge listener's connections.
const REQUESTS_REFUSED_LATE: usize = 256;
const CHECKS_REFUSED_LATE: usize = 1024;
/// Maximum numbers of requests whose body is incomplete: for one address, and in total. Many SDKs send head and
/// body separately, so a company behind one address briefly needs many slots. If all slots are occupied, a new
/// request takes the oldest slot of the address with the most slots. The total is a quarter of the connections.
const BODIES_AWAITED: (usize, usize) = (128, 256);
/// Maximum numbers of connections whose request head is incomplete: for one address, and in total. The total is
/// half of the connections. Connections of trusted proxies do not count, because they send complete heads.
const HEADS_AWAITED: (usize, usize) = (64, 512);
/// Maximum numbers of connections that the client must close, because its request was refused before its body had
/// arrived: for one address, and in total. Together with the two limits above, an eighth of the connections is left.
const CLOSING_AWAITED: (usize, usize) = (32, 128);
/// Number of requests that each worker of the public listener processes at the same time. While one of them waits
/// for the store, the others use the processor.
const TURNS_PER_WORKER: usize = 4;
/// The settings, the store, the keys, and the sources of time and randomness.
pub struct AppState {
    /// The settings of the service.
    pub config: Config,
    /// Looks up clients and their metadata documents.
    pub clients: Clients,
    /// The store for all persistent state.
    pub store: Arc<dyn Store>,
    /// Verifies the DPoP proofs of clients.
    pub dpop: Dpop,
    /// The keys that sign and verify tokens.
    pub keys: KeyRing,
    /// Hashes and verifies passwords.
    pub passwords: Passwords,
    /// Binds forms to the browsers that requested them.
    pub form_tokens: FormTokens,
    /// Limits how fast clients can register.
    pub registration_rate: RegistrationRate,
    /// Limits how fast one account can add rows to the store.
    pub account_rate: AccountRate,
    /// Limits how fast devices can start a flow, and how fast user codes can be guessed.
    pub device_rate: DeviceRate,
    /// Limits how fast authorization requests can be pushed.
    pub push_rate: PushRate,
    /// Limits how fast clients can authenticate with assertions, because each assertion is stored.
    pub assertion_rate: PushRate,
    /// Limits the number of concurrent requests from one address at the public listener.
    pub requests: InFlight,
    /// Limits how many requests one address can send to the public listener per second.
    pub request_pace: Pace,
    /// Limits how many requests to services one address can send per second.
    pub check_pace: Pace,
    /// Limits the number of incomplete bodies at the public listener.
    pub bodies: Waiting,
    /// Limits the number of incomplete request heads at the public listener, except for trusted proxies.
    pub heads: Waiting,
    /// Limits the number of connections that clients must close after an early refusal, except for trusted proxies.
    pub closing: Waiting,
    /// Decides the order in which requests to the public listener are processed.
    pub turns: Turns,
    /// The networks from which accounts have been used. Their requests are processed first.
    pub known_networks: KnownNetworks,
    /// Limits how fast passwords can be guessed.
    pub login_rate: LoginRate,
    /// Caches principals by access token.
    pub principals: PrincipalCache,
    /// Counts allowed checks. It is kept here because looking it up for every request would be slow.
    pub allowed_checks: Counter,
    /// The policy that is in force.
    pub policy: Arc<CurrentPolicy>,
    stopping: AtomicBool,
    leaving: AtomicBool,
    upkeep: Upkeep,
    write_probe: WriteProbe,
    rotated: Mutex<Option<Rotated>>,
    signing_keys: SigningKeys,
    clock: Arc<dyn Clock>,
    random: Arc<dyn Random>,
}

/// Why the service cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The policy file cannot be used.
    #[error("POLICY_FILE: {0}")]
    Policy(#[from] LoadError),
    /// The store is unavailable.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The signing keys cannot be read or created.
    #[error(transparent)]
    Keys(#[from] RotationError),
    /// The cryptography library failed.
    #[error(transparent)]
    Crypto(#[from] CryptoFailure),
    /// The HTTPS client could not be created.
    #[error(transparent)]
    Fetcher(#[from] NoFetcher),
    /// Password hashing could not be set up.
    #[error(transparent)]
    Hashing(#[from] SetUpError),
}

impl AppState {
    /// Creates the state. On the first start, this also creates the signing key.
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
        let rotated = Mutex::default();
        let reading = Reading::begin(store.changes());
        let keys = current_keys(store.as_ref(), &config, &findings, clock.now(), &rotated).await?;
        let loopback = if config.site.issuer.is_loopback() { Loopback::Allowed } else { Loopback::Refused };
        let fetcher = Fetcher::new(loopback, config.clients.extra_roots.as_deref())?;
        let documents = Documents::new(fetcher, config.clients.documents.clone(), Arc::clone(&random));
        Ok(Self {
            clients: Clients::new(Arc::<dyn Store>::clone(&store), documents),
            passwords: Passwords::new(config.listeners.workers.get())?,
            form_tokens: FormTokens::new(store_key)?,
            dpop: Dpop::new(config.dpop, store_key)?,
            keys: KeyRing::new(keys, Arc::clone(&clock))?,
            rotated,
            signing_keys: SigningKeys::new(reading, findings.identity),
            registration_rate: RegistrationRate::new(config.clients.rate, config.clients.unused_ceiling()),
            account_rate: AccountRate::default(),
            device_rate: DeviceRate::default(),
            login_rate: LoginRate::default(),
            push_rate: PushRate::default(),
            assertion_rate: PushRate::default(),
            requests: InFlight::new(REQUESTS_AT_ONCE),
            request_pace: Pace::new(config.trusted_edge.requests_per_second, REQUESTS_REFUSED_LATE),
            check_pace: Pace::new(config.trusted_edge.requests_per_second, CHECKS_REFUSED_LATE),
            bodies: Waiting::new(BODIES_AWAITED.0, BODIES_AWAITED.1),
            heads: Waiting::new(HEADS_AWAITED.0, HEADS_AWAITED.1),
            closing: Waiting::new(CLOSING_AWAITED.0, CLOSING_AWAITED.1),
            turns: Turns::new(config.listeners.workers.get().saturating_mul(TURNS_PER_WORKER)),
            known_networks: KnownNetworks::default(),
            principals: PrincipalCache::new(config.storage.token_cache, config.listeners.workers),
            policy: Arc::new(policy),
            allowed_checks: metrics::counter!("mcp_gate_checks_total", "outcome" => "allowed"),
            config,
            store,
            stopping: AtomicBool::new(false),
            leaving: AtomicBool::new(false),
            upkeep,
            write_probe: WriteProbe::default(),
            clock,
            random,
        })
    }

    /// The current time, from the clock that was passed to [`Self::new`].
    pub fn now(&self) -> UnixTime {
        self.clock.now()
    }

    /// The bounds of the correct time, which differ from [`Self::now`] while the clock is not reliable.
    pub fn time_bounds(&self) -> TimeBounds {
        self.upkeep.time_bounds(self.clock.as_ref())
    }

    /// The earliest possible current time, because the clock might be wrong. A row that has not expired at this
    /// time must not be replaced or deleted as expired.
    pub fn earliest(&self) -> UnixTime {
        self.time_bounds().earliest
    }

    /// Whether the clock shows an unexpected time. In that case, a request must not be permanently refused because
    /// something has expired.
    pub fn is_clock_in_doubt(&self) -> bool {
        !self.time_bounds().is_steady
    }

    /// Returns the last scheduled change to the signing keys that this replica has made, for the audit log. Each
    /// change is returned once.
    pub fn take_rotated(&self) -> Option<Rotated> {
        self.rotated.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Whether the store had lost its data at the last check.
    pub fn has_lost_store(&self) -> bool {
        self.upkeep.has_lost_store()
    }

    /// Makes `/ready` answer with 503 from now on, so that proxies and orchestrators send requests elsewhere.
    pub fn begin_stopping(&self) {
        self.stopping.store(true, Ordering::Relaxed);
    }

    /// From now on, closes each connection to the edge listener after its next response.
    pub fn begin_leaving(&self) {
        self.leaving.store(true, Ordering::Relaxed);
    }

    /// Whether each connection to the edge listener is closed after its next response.
    pub fn is_leaving(&self) -> bool {
        self.leaving.load(Ordering::Relaxed)
    }

    /// Whether the service is about to stop.
    pub fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Relaxed)
    }

    /// Checks the store and the clock.
    ///
    /// # Errors
    /// Fails if the store cannot be read.
    pub async fn findings(&self) -> Result<Findings, StoreError> {
        self.upkeep.look(self.store.as_ref(), self.clock.as_ref()).await
    }

    /// Deletes expired rows, unless the clock is in doubt or the store has lost its data.
    ///
    /// # Errors
    /// Fails if the store returns an error.
    pub async fn sweep(&self) -> Result<u64, StoreError> {
        let findings = self.findings().await?;
        if findings.is_lost || !findings.clock.is_steady() {
            return Ok(0);
        }
        let (now, latest) = (self.now(), self.time_bounds().latest);
        let removed = self.store.sweep(now).await?;
        // A clock that was set back and is trusted again can still be behind. This must not make existing rows
        // expire earlier.
        if latest.since(now) <= TOLERANCE {
            let shortened = self.store.shorten(&self.latest_ends(now)).await?;
            if shortened > 0 {
                tracing::info!(
                    shortened,
                    "rows that were written while a clock was ahead now expire when they should"
                );
            }
        }
        Ok(removed)
    }

    /// The latest time at which each kind of row can expire if it was written no later than `now`.
    fn latest_ends(&self, now: UnixTime) -> LatestEnds {
        let (lifetimes, clients) = (&self.config.lifetimes, &self.config.clients);
        let after = |life: Duration| now.plus(life).plus(TOLERANCE);
        LatestEnds {
            session: after(lifetimes.login_session),
            grant: after(lifetimes.refresh_token.max(lifetimes.access_token)),
            client: after(clients.idle.max(clients.unused)),
        }
    }

    /// All scopes that can be granted.
    pub fn catalogue(&self) -> Scope {
        self.policy.now().catalogue().clone()
    }

    /// Returns the principal of `token` at the time `now`.
    ///
    /// A client whose token has expired uses its refresh token, and some clients discard their tokens if that
    /// fails. Therefore an access token is refused as expired only if the store can be written, and if the clock
    /// shows reliably whether the refresh token is still valid.
    pub async fn principal_of(&self, token: &str, now: UnixTime) -> Result<Arc<Known>, RejectedToken> {
        match self.principal_by_current_keys(token, now).await {
            // The future is boxed so that an allowed check does not reserve memory for it.
            Err(refused @ (RejectedToken::Expired | RejectedToken::Revoked)) => {
                Err(Box::pin(self.final_refusal(token, now, refused)).await)
            }
            // Another replica has issued the token, and only this replica's clock is behind. A refresh would not
            // help.
            Err(RejectedToken::Early { at }) if self.upkeep.is_possible_for_store(at, now) => {
                Err(RejectedToken::Undatable)
            }
            Err(RejectedToken::Early { .. }) => Err(RejectedToken::Invalid),
            found => found,
        }
    }

    async fn final_refusal(&self, token: &str, now: UnixTime, refused: RejectedToken) -> RejectedToken {
        let TimeBounds { earliest, is_steady, .. } = self.time_bounds();
        if !is_steady && let Ok(known) = self.principal_at(token, earliest).await {
            match self.store.grant(&known.principal.grant_id, earliest).await {
                Ok(Some(grant)) if grant.refresh.is_some() && grant.is_expired(now) => {
                    return RejectedToken::Undatable;
                }
                Ok(_) => {}
                Err(error) => return error.into(),
            }
        }
        if matches!(refused, RejectedToken::Expired)
            && let Err(error) = self.try_write().await
        {
            return error.into();
        }
        refused
    }

    /// Tests whether the store can be written. If not, a client could neither log in nor refresh its tokens.
    ///
    /// # Errors
    /// Fails if the store cannot be written.
    pub async fn try_write(&self) -> Result<(), StoreError> {
        self.write_probe.try_write(self.store.as_ref(), self.clock.as_ref()).await
    }

    async fn principal_at(&self, token: &str, now: UnixTime) -> Result<Arc<Known>, RejectedToken> {
        let (keys, issuer) = (&self.keys, &self.config.site.issuer);
        let (grants, changes) = (self.store.as_ref(), self.store.changes());
        let sources = Sources { keys, issuer, grants, changes, now };
        self.principals.of_token(token, sources).await
    }

    /// Counts a DPoP proof of `client` for `subject`. It must be called before the proof is stored.
    ///
    /// # Errors
    /// Fails if the client, or all clients of the account together, have sent too many proofs.
    pub fn admit_proof(&self, subject: &Subject, client: &ClientId) -> Result<(), ProofRefused> {
        let admitted = self.account_rate.admit_proof(subject, client);
        admitted.map_err(|limit| ProofRefused::TooFast(limit.retry_after_seconds))
    }

    /// Describes a use of `client` by an account at the current time.
    pub fn client_use(&self, client: Client, user: &Subject) -> ClientUse {
        let at = self.now();
        let (keep_until, sole_ceiling) =
            (at.plus(self.config.clients.idle), self.config.clients.sole_ceiling());
        ClientUse {
            client,
            at,
            bounds: self.time_bounds(),
            is_time_of_day: self.clock.is_time_of_day(),
            boot: self.clock.boot(),
            keep_until,
            user: user.clone(),
            sole_ceiling,
        }
    }

    /// The source of randomness.
    pub fn random(&self) -> &dyn Random {
        self.random.as_ref()
    }

    /// Returns 32 unpredictable bytes.
    pub fn random_bytes(&self) -> Result<[u8; 32], RandomUnavailable> {
        self.random.bytes()
    }

    /// Creates a new opaque token.
    pub fn new_token(&self, kind: TokenKind) -> Result<OpaqueToken, RandomUnavailable> {
        Ok(OpaqueToken::new(kind, self.random.bytes()?))
    }
}
