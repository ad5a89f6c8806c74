//! The gRPC listener for Envoy. It runs alongside the HTTP servers, on separate threads.

use std::net::{SocketAddr, TcpListener};
use std::num::NonZeroUsize;
use std::time::Duration;

use actix_web::web::Data;
use contract::listener::Socket;
use envoy_types::pb::envoy::service::auth::v3::authorization_server::AuthorizationServer;
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;

use crate::config::TrustedEdge;
use crate::forward_auth::envoy_grpc::places::{Bounded, Places};
use crate::forward_auth::envoy_grpc::service::Authorizer;
use crate::state::AppState;

use super::grpc_connections::{Limits, limited};

/// Maximum size of a check in bytes. A check contains the headers of one request, without its body.
const CHECK_LIMIT: usize = 256 * 1024;
/// Maximum size in bytes of a request to the health service. It contains only the name of a service.
const HEALTH_LIMIT: usize = 1024;
/// Time limit for one check.
const CHECK_TIMEOUT: Duration = Duration::from_secs(10);
/// Maximum number of concurrent checks on one connection. Envoy opens one connection for each of its threads, and
/// a further one when all streams are in use.
const STREAMS: u32 = 512;
/// HTTP/2 flow control windows in bytes, for one stream and for one connection.
const WINDOWS: (u32, u32) = (64 * 1024, 128 * 1024);
/// Maximum number of checks on one connection that Envoy has reset before they were read. Envoy resets a check if
/// the client closes its connection. Beyond this number, the connection is closed, and all its checks fail. With
/// the default of 20, a stranger who opens and closes a few dozen connections at the same time could make the checks
/// of other users fail.
const RESETS: usize = 1024;
/// Maximum size in bytes of the HTTP/2 headers of a check. The headers of the client's request are in the message
/// instead.
const HEADERS_LIMIT: u32 = 4 * 1024;
/// The limits on connections. After the preface, [`KEEP_ALIVE`] detects silent connections.
const LIMITS: Limits = Limits { connections: 256, strangers: 64, patience: Duration::from_secs(10) };
/// Maximum number of connections waiting to be accepted.
const BACKLOG: i32 = 128;
/// The idle time after which a connection receives an HTTP/2 ping, and the time limit for the acknowledgement.
const KEEP_ALIVE: (Duration, Duration) = (Duration::from_secs(30), Duration::from_secs(10));

/// The running gRPC listener.
pub struct EdgeGrpc {
    /// The address on which it listens.
    pub address: SocketAddr,
    socket: Socket,
    stop: oneshot::Sender<()>,
    stopped: oneshot::Receiver<()>,
}

impl EdgeGrpc {
    /// Listens on `address`, and starts the threads.
    pub(super) fn listen(
        address: SocketAddr,
        workers: NonZeroUsize,
        state: &Data<AppState>,
    ) -> std::io::Result<Self> {
        let (listener, socket) = Socket::listen(address, BACKLOG)?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(workers.get())
            .thread_name("edge-grpc")
            .enable_all()
            .build()?;
        let (stop, asked_to_stop) = oneshot::channel();
        let (done, stopped) = oneshot::channel();
        let places = Places::new(state);
        let service = AuthorizationServer::new(Authorizer::new(state)).max_decoding_message_size(CHECK_LIMIT);
        let service = places.for_edges(service);
        let edges = state.config.trusted_edge.clone();
        std::thread::Builder::new().name("edge-grpc".to_owned()).spawn(move || {
            if let Err(error) = runtime.block_on(serve((listener, edges), service, places, asked_to_stop)) {
                tracing::error!(%error, "the gRPC listener failed");
            }
            // Sending fails only if the receiver has already been dropped.
            let _ = done.send(());
        })?;
        Ok(Self { address, socket, stop, stopped })
    }

    /// Stops accepting checks, and waits at most `within` for those in progress.
    pub async fn stop(self, within: Duration) {
        self.socket.ignore_newcomers().await;
        if self.stop.send(()).is_ok() && tokio::time::timeout(within, self.stopped).await.is_err() {
            tracing::warn!("checks over gRPC were aborted");
        }
    }
}

async fn serve(
    (listener, edges): (TcpListener, TrustedEdge),
    service: Bounded<AuthorizationServer<Authorizer>>,
    places: Places,
    asked_to_stop: oneshot::Receiver<()>,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let incoming = TcpIncoming::from(tokio::net::TcpListener::from_std(listener)?).with_nodelay(Some(true));
    let is_known = move |stream: &TcpStream| stream.peer_addr().is_ok_and(|peer| edges.is_known(peer.ip()));
    let incoming = limited(incoming, is_known, LIMITS);
    let (health, health_service) = tonic_health::server::health_reporter();
    let health_service = places.for_all(health_service.max_decoding_message_size(HEALTH_LIMIT));
    health.set_serving::<AuthorizationServer<Authorizer>>().await;
    let (interval, timeout) = KEEP_ALIVE;
    Server::builder()
        .timeout(CHECK_TIMEOUT)
        .max_concurrent_streams(STREAMS)
        .http2_max_pending_accept_reset_streams(Some(RESETS))
        .initial_stream_window_size(WINDOWS.0)
        .initial_connection_window_size(WINDOWS.1)
        .http2_max_header_list_size(HEADERS_LIMIT)
        .http2_keepalive_interval(Some(interval))
        .http2_keepalive_timeout(Some(timeout))
        .add_service(health_service)
        .add_service(service)
        .serve_with_incoming_shutdown(incoming, async move {
            // An error means that the sender has been dropped. The listener stops in this case as well.
            let _ = asked_to_stop.await;
            health.set_not_serving::<AuthorizationServer<Authorizer>>().await;
        })
        .await?;
    Ok(())
}
