//! Runs the service until it receives a signal to stop.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use actix_web::web::Data;
use anyhow::Context;
use metrics_exporter_prometheus::PrometheusBuilder;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::JoinHandle;
use tokio::time::MissedTickBehavior;

use auth_service::app;
use auth_service::config::{Config, Storage};
use auth_service::domain::clock::SystemClock;
use auth_service::keys::seal::{StoreKey, SystemRandomSource};
use auth_service::operator::socket;
use auth_service::ops::{audit, telemetry};
use auth_service::rotation::{LOOK_EVERY, Rotated};
use auth_service::state::AppState;
use auth_service::store::embedded::{self, EmbeddedStore, OpenError};
use auth_service::store::redis::{RedisAddress, RedisStore};
use auth_service::store::{Store, StoreError};
use auth_service::threads;
use contract::causes::in_one_line;

/// How often expired rows are deleted.
const SWEEP_EVERY: Duration = Duration::from_secs(300);

/// Time that edge proxies have to notice that this service is about to stop. It still accepts connections during
/// this time.
const DRAIN: Duration = Duration::from_secs(1);

/// How long connections from edge proxies stay open after [`DRAIN`]. Each is closed after its next response.
const LEAVE: Duration = Duration::from_secs(1);

/// Maximum number of attempts to connect to Redis at startup, and the pause between them.
const START_ATTEMPTS: u32 = 10;
const START_PAUSE: Duration = Duration::from_secs(1);
/// The pause before the next attempt to open the embedded store while a command has it open.
const COMMAND_PAUSE: Duration = Duration::from_millis(200);

/// What happens if there is no store yet.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum NewStore {
    /// A new store is created.
    Begin,
    /// The command fails, because the settings might be wrong, or Redis might have lost its data.
    Refuse,
}

/// Opens the configured store, and returns it with its key.
pub(crate) async fn open_store(
    storage: &Storage,
    new: NewStore,
) -> anyhow::Result<(Arc<dyn Store>, StoreKey)> {
    if let (Some(address), Some(key)) = (&storage.redis, &storage.key) {
        let opened = match new {
            NewStore::Begin => RedisStore::connect(address, key).await,
            NewStore::Refuse => RedisStore::connect_to_known(address, key).await,
        };
        let store = opened.map_err(|error| of_redis(address, error))?;
        return Ok((Arc::new(store), key.clone()));
    }
    let key = match &storage.key {
        Some(key) => key.clone(),
        None => embedded::store_key(&storage.data_dir, storage.previous_key.as_ref(), &SystemRandomSource)?,
    };
    Ok((Arc::new(EmbeddedStore::open(&storage.data_dir, &key)?), key))
}

/// Adds the address of Redis to an error, unless the error already contains it, as connection errors do.
pub(crate) fn of_redis(address: &RedisAddress, error: StoreError) -> anyhow::Error {
    let address = address.to_string();
    let is_named = error.to_string().contains(&address);
    let error = anyhow::Error::new(error);
    if is_named { error } else { error.context(address) }
}

/// Opens the store, and tries again if it is unavailable. If the whole stack starts at the same time, Redis might
/// still be loading its data.
async fn awaited_store(storage: &Storage) -> anyhow::Result<(Arc<dyn Store>, StoreKey)> {
    for _ in 1..START_ATTEMPTS {
        match open_store(storage, NewStore::Begin).await {
            Err(error) if matches!(error.downcast_ref(), Some(StoreError::Unavailable(_))) => {
                tracing::warn!("the store could not be opened and will be tried again: {error:#}");
                tokio::time::sleep(START_PAUSE).await;
            }
            // A command that accesses the store directly has it open for a few milliseconds.
            Err(error)
                if matches!(error.downcast_ref(), Some(OpenError::InUse(_)))
                    && !socket::is_served(&storage.data_dir).await =>
            {
                tokio::time::sleep(COMMAND_PAUSE).await;
            }
            outcome => return outcome,
        }
    }
    open_store(storage, NewStore::Begin).await
}

/// Serves until SIGTERM or SIGINT. An error that occurs once logging has started is written to the log, and the
/// result is `Ok(ExitCode::FAILURE)`.
pub(crate) async fn run() -> anyhow::Result<ExitCode> {
    let config = Config::to_serve(std::env::vars())?;
    telemetry::start(&config.observability).context("the log cannot be written to standard error")?;
    for doubt in &config.doubts {
        tracing::warn!("{doubt}");
    }
    match serve(config).await {
        Ok(()) => {
            telemetry::end(None);
            Ok(ExitCode::SUCCESS)
        }
        Err(error) => {
            telemetry::end(Some(&format!("auth-service: {}", in_one_line(error.as_ref()))));
            Ok(ExitCode::FAILURE)
        }
    }
}

async fn serve(config: Config) -> anyhow::Result<()> {
    threads::keep_one().await?;
    let metrics = PrometheusBuilder::new().install_recorder().context("metrics cannot be recorded")?;
    auth_service::ops::metrics::register();
    let (store, key) = awaited_store(&config.storage).await?;
    let listeners = config.listeners;
    let place = match &config.storage.redis {
        Some(address) => address.to_string(),
        None => config.storage.data_dir.display().to_string(),
    };
    tracing::info!(issuer = %config.site.issuer, store = place, "starting");
    let state =
        AppState::new(config, store, &key, Arc::new(SystemClock), Arc::new(SystemRandomSource)).await?;
    let state = Data::new(state);
    let servers = app::listen(listeners, &state, metrics)?;
    // No other process can open the embedded store now, so operator commands must be sent to this one.
    let operators = if state.config.storage.redis.is_none() {
        let operators = socket::Operators::listen(&state.config.storage.data_dir)?;
        Some(tokio::spawn(socket::serve(operators, state.clone())))
    } else {
        None
    };
    let (public, edge, ops) = (servers.public.handle(), servers.edge.handle(), servers.ops.handle());
    let [public_at, edge_at, ops_at] = servers.addresses;
    tracing::info!(public = %public_at, edge = %edge_at, ops = %ops_at, "listening");
    if let Some(edge_grpc) = &servers.edge_grpc {
        tracing::info!(edge_grpc = %edge_grpc.address, "listening");
    }

    let key_keeper = tokio::spawn(keep_keys_forever(state.clone()));
    let policy = tokio::spawn(Arc::clone(&state.policy).follow());
    let kept = state.clone();
    let sweeper = tokio::spawn(sweep_forever(state));
    let mut told = Signals::listen()?;
    let stop = async move {
        let is_replaced = told.until_stop(&kept).await;
        if is_replaced {
            kept.begin_stopping();
            tracing::info!("stopping: /ready reports it");
            tokio::time::sleep(DRAIN).await;
        }
        tracing::info!("stopping: no new connections are accepted, and requests in progress are completed");
        let [public_socket, edge_socket] = &servers.sockets;
        tokio::join!(public_socket.close(&public), edge_socket.close(&edge));
        // From now on, each connection from a proxy is closed after its next response. The proxy then connects to
        // another replica, because this one refuses new connections.
        kept.begin_leaving();
        if is_replaced {
            tokio::time::sleep(LEAVE).await;
        }
        // The edge listeners stop after the public one, so that checks for requests in progress are still
        // answered.
        public.stop(true).await;
        if let Some(edge_grpc) = servers.edge_grpc {
            edge_grpc.stop(Duration::from_secs(app::SHUTDOWN_TIMEOUT)).await;
        }
        edge.stop(true).await;
        ops.stop(true).await;
    };
    let served = tokio::try_join!(servers.public, servers.edge, servers.ops, async {
        stop.await;
        Ok(())
    });
    sweeper.abort();
    key_keeper.abort();
    policy.abort();
    if let Some(operators) = operators {
        operators.abort();
    }
    served.context("a listener failed")?;
    tracing::info!("stopped");
    Ok(())
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hang_up: Signal,
    user: [Signal; 2],
}

impl Signals {
    fn listen() -> anyhow::Result<Self> {
        let listen =
            |kind, name: &'static str| signal(kind).with_context(|| format!("cannot listen for {name}"));
        Ok(Self {
            terminate: listen(SignalKind::terminate(), "SIGTERM")?,
            interrupt: listen(SignalKind::interrupt(), "SIGINT")?,
            hang_up: listen(SignalKind::hangup(), "SIGHUP")?,
            user: [
                listen(SignalKind::user_defined1(), "SIGUSR1")?,
                listen(SignalKind::user_defined2(), "SIGUSR2")?,
            ],
        })
    }

    /// Waits for a signal to stop. Returns true for SIGTERM, which orchestrators send: proxies then have a moment
    /// to switch to another replica. After SIGINT (Ctrl-C), the service stops without this delay.
    async fn until_stop(&mut self, state: &Data<AppState>) -> bool {
        let [first, second] = &mut self.user;
        let mut reload = None;
        loop {
            tokio::select! {
                _ = self.terminate.recv() => return true,
                _ = self.interrupt.recv() => return false,
                _ = self.hang_up.recv() => {
                    tracing::info!(
                        "SIGHUP: the policy file and the signing keys are read again, which also happens regularly; other settings need a restart"
                    );
                    // A file system or a store that does not respond must not delay the handling of the next
                    // signal.
                    if reload.as_ref().is_none_or(JoinHandle::is_finished) {
                        reload = Some(tokio::spawn(reload_all(state.clone())));
                    }
                }
                _ = first.recv() => tracing::info!("SIGUSR1 has no effect on this program"),
                _ = second.recv() => tracing::info!("SIGUSR2 has no effect on this program"),
            }
        }
    }
}

async fn reload_all(state: Data<AppState>) {
    state.policy.reload().await;
    state.follow_keys().await;
}

async fn keep_keys_forever(state: Data<AppState>) {
    let mut ticks = tokio::time::interval(LOOK_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        state.follow_keys().await;
        // The first iteration also reports a change made during startup.
        if let Some(Rotated { current, newest, keys }) = state.take_rotated() {
            audit::Event::SigningKeysRotated { current: &current, newest: &newest, keys }.emit();
        }
    }
}

async fn sweep_forever(state: Data<AppState>) {
    let mut ticks = tokio::time::interval(SWEEP_EVERY);
    loop {
        ticks.tick().await;
        state.request_pace.forget_idle();
        state.check_pace.forget_idle();
        state.registration_rate.forget_idle();
        state.login_rate.forget_idle();
        state.account_rate.forget_idle();
        audit::forget_idle();
        state.device_rate.forget_idle();
        state.push_rate.forget_idle();
        state.assertion_rate.forget_idle();
        state.clients.documents().forget_idle();
        match state.sweep().await {
            Ok(removed) => tracing::debug!(removed, "swept expired rows"),
            Err(error) => tracing::error!(%error, "expired rows could not be swept"),
        }
    }
}
