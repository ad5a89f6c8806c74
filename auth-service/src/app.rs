//! The listeners, and the routes that each of them serves.

mod bounds;
mod browsers;
mod connections;
mod cross_origin;
mod edge_grpc;
mod grpc_connections;
mod open_files;
mod unread;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::time::Duration;

use actix_http::{ConnectionType, Request};
use actix_web::dev::{Extensions, Server, fn_service};
use actix_web::http::{KeepAlive, Method};
use actix_web::middleware::from_fn;
use actix_web::web::{self, Data, ServiceConfig};
use actix_web::{App, HttpResponse, Route, guard};
use contract::listener::{self, Limits, Socket};
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::net::TcpStream;
use tracing_actix_web::TracingLogger;

use crate::config::Listeners;
use crate::domain::error_code::ERRORS_PATH;
use crate::domain::resource::WELL_KNOWN;
use crate::forward_auth::{self, cors};
use crate::guard::in_flight::InFlight;
use crate::guard::waiting::Waiting;
use crate::oauth::after_form::MESSAGE_PATH;
use crate::oauth::register::{self, manage};
use crate::oauth::{
    after_form, authorize, consent, device, device_authorization, errors, fallback, introspect, login,
    metadata, protected_resource, pushed_request, responses, revoke, token,
};
use crate::ops::endpoints;
use crate::ops::telemetry::RequestSpan;
use crate::state::AppState;
use crate::threads::{self, NoThread};

use cross_origin::for_web_pages;

pub use edge_grpc::EdgeGrpc;

/// Maximum numbers of open connections. Each takes up to 128 kB while its request head is received.
const PUBLIC_CONNECTIONS: usize = 1024;
const EDGE_CONNECTIONS: usize = 2048;
const OPS_CONNECTIONS: usize = 64;
/// Maximum number of open connections from one address to the public listener. The same limit applies to the edge
/// listener. It does not apply to trusted proxies.
const CONNECTIONS_OF_ONE: u32 = 128;
/// Maximum number of connections waiting to be accepted. Some proxies open a connection for each check, so many
/// can arrive at the same time.
const PUBLIC_BACKLOG: i32 = 2048;
const EDGE_BACKLOG: i32 = 4096;
const OPS_BACKLOG: i32 = 2048;
/// Maximum numbers of connections to the ops listener with an incomplete request head: from one address, and in
/// total.
const OPS_HEADS_AWAITED: (usize, usize) = (16, 32);
/// Time limit for receiving a request head, so that slow clients cannot keep connections open.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// How long the edge listener keeps an idle connection open for its proxy.
const EDGE_KEEP_ALIVE: Duration = Duration::from_secs(90);
/// Time limit for a connection to the edge listener without a complete request. It is needed because
/// [`HEAD_TIMEOUT`] applies only to the first request head of a connection. It is longer than [`EDGE_KEEP_ALIVE`].
const EDGE_SILENCE: Duration = Duration::from_secs(100);
/// Time limit for closing a connection.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);
/// Time limit in seconds for requests that are in progress when the service begins to shut down.
pub const SHUTDOWN_TIMEOUT: u64 = 10;

/// Why the service cannot listen.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// An address cannot be bound.
    #[error(
        "{variable}: cannot listen on {address}: {cause}. Free the port, or set {variable} to another address"
    )]
    Bind {
        /// The name of the setting that contains the address.
        variable: &'static str,
        /// The address that could not be bound.
        address: SocketAddr,
        /// The error from the operating system.
        cause: std::io::Error,
    },
    /// The operating system cannot start enough threads.
    #[error("WORKERS ({workers}): {cause}")]
    Threads {
        /// The number of workers.
        workers: NonZeroUsize,
        /// Why the threads cannot be started.
        cause: NoThread,
    },
}

/// The servers, which have bound their addresses and are ready to run.
pub struct Servers {
    /// The server for OAuth endpoints and pages.
    pub public: Server,
    /// The server for checks over HTTP.
    pub edge: Server,
    /// The server for checks over gRPC, which is already running.
    pub edge_grpc: Option<EdgeGrpc>,
    /// The server for health and metrics.
    pub ops: Server,
    /// The addresses of the public, edge and ops servers, in this order. If a configured port is 0, the operating
    /// system has chosen the port.
    pub addresses: [SocketAddr; 3],
    /// Second handles to the listening sockets of the public and the edge server.
    pub sockets: [Socket; 2],
}

/// Binds the addresses of all listeners.
pub fn listen(
    listeners: Listeners,
    state: &Data<AppState>,
    metrics: PrometheusHandle,
) -> Result<Servers, ListenError> {
    let Listeners { public, edge, edge_grpc, ops, workers } = listeners;
    threads::try_listeners(workers, edge_grpc.is_some())
        .map_err(|cause| ListenError::Threads { workers, cause })?;
    let ceilings = open_files::ceilings(workers);
    let (public_share, edge_share) =
        (open_files::share(ceilings.public, workers), open_files::share(ceilings.edge, workers));
    let (connecting, checking) = (state.clone(), state.clone());
    let [public_peers, edge_peers] = [(); 2].map(|()| InFlight::new(CONNECTIONS_OF_ONE));
    let (public_state, edge_state, ops_state) = (state.clone(), state.clone(), state.clone());
    let metrics = Data::new(metrics);
    let (public_listener, public_socket) =
        Socket::listen(public, PUBLIC_BACKLOG).map_err(cannot_bind("PUBLIC_LISTEN", public))?;
    let (edge_listener, edge_socket) =
        Socket::listen(edge, EDGE_BACKLOG).map_err(cannot_bind("EDGE_LISTEN", edge))?;
    let ops_listener = listener::bind(ops, OPS_BACKLOG).map_err(cannot_bind("OPS_LISTEN", ops))?;
    let public_app = move || {
        App::new()
            .wrap(from_fn(browsers::with_pages))
            .wrap(from_fn(bounds::bounded))
            .wrap(from_fn(cross_origin::let_pages_read))
            .wrap(from_fn(connections::one_request))
            .wrap(TracingLogger::<RequestSpan>::new())
            .app_data(web::PayloadConfig::new(responses::BODY_LIMIT))
            .app_data(public_state.clone())
            .configure(|config| public_routes(config, public_state.config.site.issuer.path()))
    };
    let public_connection = move |stream: &TcpStream, extensions: &mut Extensions| {
        if !connections::is_proxy(stream, &connecting) {
            connections::count(stream, extensions, &public_peers);
            connections::await_head(stream, extensions, &connecting.heads);
        }
    };
    let public_limits = Limits {
        workers: public_share.workers,
        connections: public_share.connections,
        // The HTTP library limits the time only for the first request head of a connection. With keep-alive, a
        // client could keep the connection open forever with an incomplete second head.
        keep_alive: KeepAlive::Disabled,
        head_timeout: HEAD_TIMEOUT,
        close_timeout: CLOSE_TIMEOUT,
        // The server notices a disconnect immediately, and not only when it writes the response.
        half_closed: false,
        shutdown_timeout: SHUTDOWN_TIMEOUT,
    };
    let edge_app = move || {
        let state = edge_state.clone();
        fn_service(move |request| checked(request, state.clone()))
    };
    let edge_connection = move |stream: &TcpStream, extensions: &mut Extensions| {
        if !connections::is_proxy(stream, &checking) {
            connections::count(stream, extensions, &edge_peers);
        }
        connections::watch(stream, extensions, EDGE_SILENCE);
    };
    let edge_limits = Limits {
        workers: edge_share.workers,
        connections: edge_share.connections,
        // Some proxies open a connection for each check. Others reuse connections, so idle connections are kept.
        keep_alive: KeepAlive::Timeout(EDGE_KEEP_ALIVE),
        half_closed: true,
        ..public_limits
    };
    let ops_heads = Waiting::new(OPS_HEADS_AWAITED.0, OPS_HEADS_AWAITED.1);
    let ops_app = move || {
        App::new()
            .wrap(from_fn(unread::close_unread))
            .wrap(from_fn(connections::one_request))
            .app_data(ops_state.clone())
            .app_data(metrics.clone())
            .configure(ops_routes)
    };
    let ops_connection = move |stream: &TcpStream, extensions: &mut Extensions| {
        connections::await_head(stream, extensions, &ops_heads);
    };
    let ops_limits = Limits {
        workers: 1,
        connections: OPS_CONNECTIONS,
        keep_alive: KeepAlive::Disabled,
        half_closed: true,
        shutdown_timeout: 1,
        ..public_limits
    };
    let edge_grpc = edge_grpc
        .map(|address| {
            EdgeGrpc::listen(address, workers, state).map_err(cannot_bind("EDGE_GRPC_LISTEN", address))
        })
        .transpose()?;
    let addresses = [
        public_listener.local_addr().unwrap_or(public),
        edge_listener.local_addr().unwrap_or(edge),
        ops_listener.local_addr().unwrap_or(ops),
    ];
    Ok(Servers {
        public: listener::serve(public_listener, public_limits, public_connection, public_app)
            .map_err(cannot_bind("PUBLIC_LISTEN", public))?,
        edge: listener::serve(edge_listener, edge_limits, edge_connection, edge_app)
            .map_err(cannot_bind("EDGE_LISTEN", edge))?,
        edge_grpc,
        ops: listener::serve(ops_listener, ops_limits, ops_connection, ops_app)
            .map_err(cannot_bind("OPS_LISTEN", ops))?,
        addresses,
        sockets: [public_socket, edge_socket],
    })
}

/// Returns a function that creates the error for an address that cannot be bound.
fn cannot_bind(variable: &'static str, address: SocketAddr) -> impl FnOnce(std::io::Error) -> ListenError {
    move |cause| ListenError::Bind { variable, address, cause }
}

/// The path at which edge proxies find out whether this process responds. The answer depends on nothing else, so no
/// request of a stranger, and no failure of the store, makes an edge leave out a replica. The status is 404, because
/// with 200, an edge that sends its checks to a wrong path would allow requests.
const EDGE_HEALTH_PATH: &str = "/health";

/// Answers one check, and closes the connection afterwards if the service is about to stop.
async fn checked(mut request: Request, state: Data<AppState>) -> Result<HttpResponse, Infallible> {
    connections::note_request(&request);
    let unread = request.take_payload();
    let is_last = state.is_leaving();
    let mut answer = if request.path() == EDGE_HEALTH_PATH {
        HttpResponse::NotFound().finish()
    } else {
        forward_auth::check(request, state).await
    };
    if is_last {
        // Without this header, the proxy might send a request on the idle connection just when it is closed, and
        // the request would be lost.
        answer.head_mut().set_connection_type(ConnectionType::Close);
    }
    Ok(answer.map_body(|_, body| unread::holding(unread, body)))
}

/// The routes of the public listener. `base` is the path of the issuer. All routes except the well-known documents
/// are below it.
pub fn public_routes(config: &mut ServiceConfig, base: &str) {
    let well_known = |name: &str| format!("/.well-known/{name}{base}");
    config
        .service(
            for_web_pages(
                web::resource(well_known("oauth-authorization-server")),
                &[Method::GET, Method::HEAD],
            )
            .route(reading().to(metadata::authorization_server)),
        )
        .service(
            for_web_pages(web::resource(well_known("openid-configuration")), &[Method::GET, Method::HEAD])
                .route(reading().to(metadata::openid_configuration)),
        )
        .service(
            for_web_pages(
                web::resource([WELL_KNOWN.to_owned(), format!("{WELL_KNOWN}/{{path:.*}}")]),
                &[Method::GET, Method::HEAD],
            )
            .route(reading().to(protected_resource::document)),
        )
        .service(
            for_web_pages(web::resource(format!("{base}/jwks")), &[Method::GET, Method::HEAD])
                .route(reading().to(metadata::jwks)),
        )
        .service(
            for_web_pages(web::resource(format!("{base}/token")), &[Method::POST])
                .route(web::post().to(token::token)),
        )
        .service(
            for_web_pages(web::resource(format!("{base}/revoke")), &[Method::POST])
                .route(web::post().to(revoke::revoke)),
        )
        .service(
            for_web_pages(web::resource(format!("{base}/device_authorization")), &[Method::POST])
                .route(web::post().to(device_authorization::start)),
        )
        .service(
            for_web_pages(web::resource(format!("{base}/par")), &[Method::POST])
                .route(web::post().to(pushed_request::push)),
        )
        .service(
            web::resource(format!("{base}/device"))
                .route(web::get().to(device::form))
                .route(web::post().to(device::look_up)),
        )
        .service(
            web::resource(format!("{base}/device/consent"))
                .route(web::get().to(device::question))
                .route(web::post().to(device::decide)),
        )
        .service(web::resource(format!("{base}/device/again")).route(web::get().to(device::form_again)))
        .service(web::resource(format!("{base}/login/device")).route(web::get().to(login::device_form)))
        .service(web::resource(format!("{base}{ERRORS_PATH}")).route(web::get().to(errors::show)))
        .service(web::resource(format!("{base}/introspect")).route(web::post().to(introspect::introspect)))
        .service(
            for_web_pages(web::resource(format!("{base}/register")), &[Method::POST])
                .route(web::post().to(register::register)),
        )
        .service(
            web::resource(format!("{base}/register/{{client_id}}"))
                .route(web::get().to(manage::read))
                .route(web::put().to(manage::update))
                .route(web::delete().to(manage::delete)),
        )
        .service(web::resource(format!("{base}/authorize")).route(web::get().to(authorize::authorize)))
        .service(web::resource(format!("{base}/consent")).route(web::post().to(consent::decide)))
        .service(web::resource(format!("{base}{MESSAGE_PATH}")).route(web::get().to(after_form::show)))
        .service(web::resource(format!("{base}/login/again")).route(web::get().to(login::repeated::form)))
        .service(web::resource(format!("{base}/login/done")).route(web::get().to(login::done)))
        .service(
            web::resource(format!("{base}/login"))
                .route(web::get().to(login::form))
                .route(web::post().to(login::log_in)),
        )
        .service(
            web::resource(format!("{base}/login/password"))
                .route(web::get().to(login::new_password::question))
                .route(web::post().to(login::new_password::choose_password)),
        )
        .default_service(web::to(cors::preflight_at_public_listener));
    if !base.is_empty() {
        // OpenID Connect Discovery §4 appends the well-known path to the issuer's path, and RFC 8414 inserts it
        // before that path. Clients try both.
        config.service(
            for_web_pages(
                web::resource(format!("{base}/.well-known/openid-configuration")),
                &[Method::GET, Method::HEAD],
            )
            .route(reading().to(metadata::openid_configuration)),
        );
        config.configure(root_of_mcp_hosts);
    }
}

/// The routes for MCP 2025-03-26 clients, which expect them at the root of the MCP server's host. They are served
/// only on hosts with a default resource.
fn root_of_mcp_hosts(config: &mut ServiceConfig) {
    config
        .service(
            for_web_pages(
                web::resource("/.well-known/oauth-authorization-server")
                    .guard(guard::fn_guard(fallback::applies)),
                &[Method::GET, Method::HEAD],
            )
            .route(reading().to(metadata::authorization_server)),
        )
        .service(
            web::resource("/authorize")
                .guard(guard::fn_guard(fallback::applies))
                .route(web::get().to(authorize::authorize)),
        )
        .service(
            for_web_pages(web::resource("/token").guard(guard::fn_guard(fallback::applies)), &[Method::POST])
                .route(web::post().to(token::token)),
        )
        .service(
            for_web_pages(
                web::resource("/register").guard(guard::fn_guard(fallback::applies)),
                &[Method::POST],
            )
            .route(web::post().to(register::register)),
        );
}

fn ops_routes(config: &mut ServiceConfig) {
    config
        .route("/health", reading().to(endpoints::health))
        .route("/ready", reading().to(endpoints::ready))
        .route("/metrics", reading().to(endpoints::metrics))
        .route("/version", reading().to(endpoints::version));
}

/// A route for GET and HEAD (RFC 9110 §9.3.2).
fn reading() -> Route {
    web::route().guard(guard::Any(guard::Get()).or(guard::Head()))
}
