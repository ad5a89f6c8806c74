//! Connects the modules to a program, and runs it until a signal arrives.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use actix_web::dev::Server;
use actix_web::http::KeepAlive;
use actix_web::middleware::from_fn;
use actix_web::{App, web};
use anyhow::Context as _;
use contract::listener::{self, Limits, Socket};
use rustix::process::{DumpableBehavior, set_dumpable_behavior};
use tokio::runtime::Handle;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::Instant;

use crate::budget::Memory;
use crate::capacity::Capacity;
use crate::child::{Boundary, Isolation, Launcher, LineFraming, Random, Reaper, Spec, raise_files};
use crate::config::{self, Config, Identity};
use crate::connection::{self, Draining, Open};
use crate::http::{self, Backends, Endpoint};
use crate::identity::{Authenticator, Clock, FetchError, http_fetch};
use crate::legacy::{Sessions, Settings};
use crate::metrics::Metrics;
use crate::modern::{self, Servers};
use crate::offload::Offload;
use crate::ops::{self, Ready};
use crate::translate::{self, LegacyToModern, ModernToLegacy};
use crate::unread::close_unread;

/// Time limit for receiving the head of a request.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// Time for edges to notice that the wrapper is about to stop. It is at most a quarter of `SHUTDOWN_TIMEOUT`.
const DRAIN: Duration = Duration::from_secs(1);
/// Maximum time for closing a connection.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);
/// Maximum number of sessions if the container has no limits, or if sessions share one child.
const DEFAULT_SESSIONS: usize = 100;
/// Maximum number of sessions if the container's limits decide how many fit.
const MAX_SESSIONS: usize = 10_000;
/// Number of children that can start at the same time, per processor of the container. It is more than one,
/// because a start does not use the processor all the time.
const STARTS_PER_PROCESSOR: usize = 2;
/// Maximum number of connections waiting to be accepted.
const BACKLOG: i32 = 4096;
/// Maximum number of connections waiting to be accepted by the operator's listener.
const OPS_BACKLOG: i32 = 2048;
/// Maximum number of connections to the operator's listener.
const MAX_OPS_CONNECTIONS: usize = 100;

/// The external inputs of the program, so that tests can replace them.
pub struct World {
    /// The time in seconds since 1970.
    pub clock: Clock,
    /// A source of random bytes.
    pub random: Random,
}

/// Serves until SIGTERM or SIGINT.
pub async fn run(config: Config, world: World) -> anyhow::Result<()> {
    // Signals are handled from the beginning, because an unhandled signal would terminate the program.
    let mut signals = Signals::listen()?;
    let metrics = Arc::new(Metrics::default());
    hide();
    let reaper = Reaper::install();
    let files = raise_files();
    tracing::debug!(files, "the limit of open files");
    let capacity = capacity(&config);
    let max_sessions = config.limits.max_sessions.unwrap_or(if capacity.is_limited() {
        MAX_SESSIONS
    } else {
        DEFAULT_SESSIONS
    });
    let memory = Memory::new(config.limits.max_line, config.limits.max_body);
    let launcher = Launcher::new(
        spec(&config, isolation(config.child.isolation)?, Arc::clone(&capacity), memory.clone()),
        Handle::current(),
        Arc::clone(&reaper),
        Arc::clone(&metrics),
        Arc::clone(&world.random),
    );
    let offload = Offload::start().context("a thread for large messages cannot be started")?;
    let sessions = Sessions::new(
        settings(&config, max_sessions, memory.clone(), Arc::clone(&offload)),
        Arc::clone(&launcher),
        Arc::new(LineFraming),
        Arc::clone(&metrics),
        Arc::clone(&world.random),
    );
    let modern = Servers::new(
        modern_settings(&config, max_sessions, memory.clone(), Arc::clone(&offload)),
        Arc::clone(&launcher),
        Arc::new(LineFraming),
        Arc::clone(&metrics),
    );
    let authenticator = Arc::new(authenticator(&config, Arc::clone(&world.clock))?);
    let translation =
        config.translate.then(|| translation(&config, &sessions, world.random, Arc::clone(&offload)));
    let legacy_to_modern =
        config.translate.then(|| LegacyToModern::new(Arc::clone(&sessions), Arc::clone(&modern)));
    let backends = Backends {
        sessions: Arc::clone(&sessions),
        modern: Arc::clone(&modern),
        translation: translation.clone(),
        legacy_to_modern,
    };
    let endpoint = Endpoint::new(
        &config,
        backends,
        Arc::clone(&authenticator),
        world.clock,
        Arc::clone(&metrics),
        (&memory, offload),
    );

    let per_worker = config.limits.max_connections.div_ceil(config.workers.max(1));
    let open = Open::new(per_worker * config.workers.max(1), config.listen.ip());
    let ready = ready(Arc::clone(&sessions), authenticator, Arc::clone(&open));
    let ops = ops_server(&config, Arc::clone(&metrics), ready)?;
    let draining = web::Data::<Draining>::default();
    let (mcp, address, socket) = mcp_server(&config, endpoint, draining.clone(), (per_worker, &open))?;
    tokio::spawn(Arc::clone(&reaper).run(Arc::clone(&metrics)));
    tokio::spawn(Arc::clone(&launcher).keep_looking());
    tokio::spawn(Arc::clone(&launcher).guard());
    tokio::spawn(Arc::clone(&launcher).guard_watches());
    tokio::spawn(Arc::clone(&launcher).keep_spares());
    tokio::spawn(Arc::clone(&sessions).run());
    tokio::spawn(Arc::clone(&modern).run());
    if let Some(translation) = &translation {
        tokio::spawn(Arc::clone(translation).run());
    }
    let (mcp_handle, ops_handle) = (mcp.handle(), ops.handle());
    let mut serving = tokio::spawn(mcp);
    tokio::spawn(ops);
    tracing::info!(%address, path = config.mcp_path, command = config.child.command.first(), "serving");

    let within = config.limits.shutdown_timeout;
    let drain = tokio::select! {
        told = signals.until_stop() => if told == Stop::Replaced { DRAIN.min(within / 4) } else { Duration::ZERO },
        ended = &mut serving => return ended?.context("the server stopped unexpectedly"),
    };
    sessions.drain();
    draining.begin();
    tracing::info!("stopping: /ready reports this, and connections close after their next response");
    tokio::time::sleep(drain).await;
    tracing::info!("shutting down");
    // Calls would be refused from now on. New connections are refused, so that an edge uses another instance.
    socket.close(&mcp_handle).await;
    // Streams and waiting requests end together with the sessions. Connections can be closed only after that.
    if let Some(translation) = &translation {
        translation.stop();
    }
    // The last eighth is for orphans and connections, so that the program exits in time although children use all of
    // theirs.
    let end = Instant::now() + within.saturating_sub(drain);
    let left_for_children = || (end - within / 8).saturating_duration_since(Instant::now());
    launcher.stop_spares();
    tokio::join!(sessions.stop(left_for_children()), modern.stop(left_for_children()));
    launcher.stop_all(left_for_children()).await;
    // All children have exited or used up their time, so all other processes are orphans.
    reaper.collect(&metrics).await;
    let stop_connections = async { tokio::join!(mcp_handle.stop(true), ops_handle.stop(false)) };
    // Connections that are still open after this are closed when the process exits.
    let _ = tokio::time::timeout_at(end, stop_connections).await;
    tracing::info!("stopped");
    Ok(())
}

/// The signal that stops the wrapper.
#[derive(Debug, PartialEq, Eq)]
enum Stop {
    /// SIGTERM, which orchestrators send. Edges get time to switch to another instance.
    Replaced,
    /// SIGINT, which a user sends with Ctrl-C. The wrapper stops without this delay.
    Interrupted,
}

/// Signals that the program handles.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hang_up: Signal,
    user: [Signal; 2],
}

impl Signals {
    fn listen() -> anyhow::Result<Self> {
        let listen =
            |kind, name: &'static str| signal(kind).with_context(|| format!("{name} cannot be handled"));
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

    async fn until_stop(&mut self) -> Stop {
        let [first, second] = &mut self.user;
        loop {
            tokio::select! {
                _ = self.terminate.recv() => return Stop::Replaced,
                _ = self.interrupt.recv() => return Stop::Interrupted,
                _ = self.hang_up.recv() => {
                    tracing::info!("SIGHUP is ignored, because settings are read only at the start; restart to change them");
                }
                _ = first.recv() => tracing::info!("SIGUSR1 is ignored"),
                _ = second.recv() => tracing::info!("SIGUSR2 is ignored"),
            }
        }
    }
}

/// Hides the memory and environment of this process from its children, which might run under the same user id.
/// Without this, they could read the assertions of other callers if the kernel does not isolate them. This also
/// prevents core files.
fn hide() {
    if let Err(error) = set_dumpable_behavior(DumpableBehavior::NotDumpable) {
        tracing::warn!(%error, "children with the same user id can read the memory of this process");
    }
}

fn capacity(config: &Config) -> Arc<Capacity> {
    // If the operator has set the maximum number of sessions, the container's limits are not used. A child that
    // all callers share does not count as a session.
    if config.limits.max_sessions.is_some() || config.shared {
        return Arc::new(Capacity::unlimited());
    }
    let capacity = Capacity::of_container();
    if let Some(sessions) = capacity.more() {
        tracing::info!(
            sessions,
            "MAX_SESSIONS is auto: the container's limits leave room for about this many sessions of a \
             typical server"
        );
    }
    Arc::new(capacity)
}

/// The number of processors that are available to the container.
fn processors() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

fn spec(config: &Config, isolation: Isolation, capacity: Arc<Capacity>, memory: Memory) -> Spec {
    // The queue can hold the largest body twice, so that one large message does not prevent the next one from
    // being queued.
    Spec {
        child: config.child.clone(),
        prewarm: config.prewarm,
        start_timeout: config.limits.start_timeout,
        max_starts: config.limits.max_starts.unwrap_or_else(|| STARTS_PER_PROCESSOR * processors()),
        max_queue: (2 * config.limits.max_body).max(1 << 20),
        isolation,
        capacity,
        memory,
    }
}

/// Determines how children are isolated from each other, and logs the result.
fn isolation(wanted: config::Isolation) -> anyhow::Result<Isolation> {
    if wanted == config::Isolation::Off {
        tracing::info!(
            "CHILD_ISOLATION is off: children can read, trace and signal each other, and change each other's limits and priorities"
        );
        return Ok(Isolation::OFF);
    }
    let (boundary, filter) = (Boundary::find(), Isolation::can_filter());
    let missing = boundary.as_ref().err().or(filter.as_ref().err());
    if let Some(missing) = missing.filter(|_| wanted == config::Isolation::Required) {
        return Err(missing.clone()).context(
            "CHILD_ISOLATION is `required`, but is not available here. Set it to `auto` to run without isolation",
        );
    }
    match &boundary {
        Ok(Boundary::Signals) => {
            tracing::info!("children cannot read, trace or signal each other; they share files and network");
        }
        Ok(Boundary::Tracing) => tracing::warn!(
            "children cannot read or trace each other, but they can signal each other; Linux 6.12 and later can also prevent that"
        ),
        Err(error) => tracing::warn!(%error, "children can read, trace and signal each other"),
    }
    match &filter {
        Ok(()) => {
            tracing::info!(
                "children cannot change the limits and priorities of each other and of the wrapper"
            );
        }
        Err(error) => tracing::warn!(
            %error,
            "children can change the limits and priorities of each other and of the wrapper, and can terminate the wrapper in this way"
        ),
    }
    Ok(Isolation { boundary: boundary.ok(), has_filter: filter.is_ok() })
}

fn settings(config: &Config, max_sessions: usize, memory: Memory, offload: Arc<Offload>) -> Settings {
    let limits = &config.limits;
    // Without identities, all callers are one principal.
    let all = (config.identity == Identity::None).then_some(max_sessions);
    Settings {
        max_sessions,
        max_per_owner: limits.max_sessions_per_principal.or(all),
        max_in_flight: limits.max_in_flight,
        event_log: limits.event_log,
        idle: limits.session_idle,
        request_timeout: limits.request_timeout,
        start_timeout: limits.start_timeout,
        input_timeout: limits.input_timeout,
        max_line: limits.max_line,
        shared: config.shared,
        memory,
        offload,
    }
}

fn modern_settings(
    config: &Config,
    max_sessions: usize,
    memory: Memory,
    offload: Arc<Offload>,
) -> modern::Settings {
    let limits = &config.limits;
    modern::Settings {
        is_per_caller: config.has_placeholders(),
        max_children: max_sessions,
        max_in_flight: limits.max_in_flight,
        event_log: limits.event_log,
        idle: limits.session_idle,
        request_timeout: limits.request_timeout,
        start_timeout: limits.start_timeout,
        max_line: limits.max_line,
        list_cache: limits.list_cache,
        memory,
        offload,
    }
}

fn translation(
    config: &Config,
    sessions: &Arc<Sessions>,
    random: Random,
    offload: Arc<Offload>,
) -> Arc<ModernToLegacy> {
    let settings = translate::Settings {
        max_seats: config.limits.translate_sessions,
        input_timeout: config.limits.input_timeout,
        request_timeout: config.limits.request_timeout,
        max_asked: config.limits.max_line,
        idle: config.limits.session_idle,
        offload,
    };
    ModernToLegacy::new(settings, Arc::clone(sessions), random)
}

fn authenticator(config: &Config, clock: Clock) -> anyhow::Result<Authenticator> {
    let fetch = match &config.identity {
        Identity::Assertion { jwks_url, .. } => {
            http_fetch(jwks_url).context("the HTTP client for JWKS_URL cannot be created")?
        }
        Identity::None | Identity::Headers => {
            Arc::new(|| Box::pin(async { Err(FetchError("no JWKS_URL".to_owned())) }) as _)
        }
    };
    Ok(Authenticator::new(&config.identity, fetch, clock))
}

fn ready(sessions: Arc<Sessions>, authenticator: Arc<Authenticator>, open: Arc<Open>) -> Ready {
    Arc::new(move || {
        let (sessions, authenticator) = (Arc::clone(&sessions), Arc::clone(&authenticator));
        let is_full = open.is_full();
        Box::pin(async move {
            if let Some(why) = sessions.why_not_ready().await {
                return Err(why);
            }
            if is_full {
                return Err(
                    "all connections are in use, so new ones wait until one is closed. If this continues, raise \
                     MAX_CONNECTIONS, or find out which client opens so many",
                );
            }
            if authenticator.is_ready().await {
                Ok(())
            } else {
                Err("the keys of JWKS_URL have not been read yet")
            }
        })
    })
}

fn mcp_server(
    config: &Config,
    endpoint: Endpoint,
    draining: web::Data<Draining>,
    (per_worker, open): (usize, &Arc<Open>),
) -> anyhow::Result<(Server, SocketAddr, Socket)> {
    let endpoint = web::Data::new(endpoint);
    let (path, legacy_sse) = (config.mcp_path.clone(), config.legacy_sse);
    let app = move || {
        let routes = http::routes(endpoint.clone(), &path, legacy_sse);
        App::new()
            .app_data(draining.clone())
            .wrap(from_fn(connection::end_with_answer))
            .wrap(from_fn(close_unread))
            .wrap(from_fn(connection::count))
            .configure(routes)
    };
    let limits = Limits {
        workers: config.workers,
        // The limit is divided among the workers. Further connections wait, and the operating system refuses
        // them when too many are waiting.
        connections: per_worker,
        keep_alive: KeepAlive::default(),
        head_timeout: HEAD_TIMEOUT,
        close_timeout: CLOSE_TIMEOUT,
        half_closed: true,
        shutdown_timeout: 1,
    };
    let cannot_listen = cannot_listen("LISTEN", config.listen);
    let (listener, socket) = Socket::listen(config.listen, BACKLOG).map_err(&cannot_listen)?;
    let address = listener.local_addr()?;
    let server = listener::serve(listener, limits, connection::setup(open), app).map_err(cannot_listen)?;
    Ok((server, address, socket))
}

fn cannot_listen(name: &str, address: SocketAddr) -> impl Fn(std::io::Error) -> anyhow::Error {
    move |error| {
        anyhow::anyhow!(
            "{name} is {address}, which cannot be used: {error}. Free the port, or set {name} to another address"
        )
    }
}

fn ops_server(config: &Config, metrics: Arc<Metrics>, ready: Ready) -> anyhow::Result<Server> {
    let app = move || {
        let routes = ops::routes(Arc::clone(&metrics), Arc::clone(&ready));
        App::new()
            .wrap(from_fn(close_unread))
            .wrap(from_fn(connection::count))
            .wrap(from_fn(connection::only_one))
            .configure(routes)
    };
    let limits = Limits {
        workers: 1,
        connections: MAX_OPS_CONNECTIONS,
        keep_alive: KeepAlive::Disabled,
        head_timeout: HEAD_TIMEOUT,
        close_timeout: CLOSE_TIMEOUT,
        half_closed: true,
        shutdown_timeout: 1,
    };
    let open = Open::new(MAX_OPS_CONNECTIONS, config.ops_listen.ip());
    let cannot_listen = cannot_listen("OPS_LISTEN", config.ops_listen);
    let socket = listener::bind(config.ops_listen, OPS_BACKLOG).map_err(&cannot_listen)?;
    let address = socket.local_addr()?;
    let server = listener::serve(socket, limits, connection::setup(&open), app).map_err(cannot_listen)?;
    tracing::info!(%address, "health, readiness and metrics");
    Ok(server)
}
