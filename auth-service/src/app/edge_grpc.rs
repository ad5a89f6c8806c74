//! The gRPC listener for Envoy. It runs beside the HTTP servers, on threads of its own.

use std::net::{SocketAddr, TcpListener};
use std::num::NonZeroUsize;
use std::time::Duration;

use actix_web::web::Data;
use envoy_types::pb::envoy::service::auth::v3::authorization_server::AuthorizationServer;
use tokio::sync::oneshot;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;

use crate::forward_auth::envoy_grpc::service::Authorizer;
use crate::state::AppState;

use super::connections::limited;

/// Bytes in the largest check: Envoy sends the headers of one request, and no body.
const CHECK_LIMIT: usize = 256 * 1024;
/// How long a check may take.
const CHECK_TIMEOUT: Duration = Duration::from_secs(10);
/// Checks at a time on one connection of Envoy's, of which it opens one a thread.
const STREAMS: u32 = 4096;
/// Connections that may be open at a time.
const CONNECTIONS: usize = 256;
/// How long a connection may take until it has shown that it speaks HTTP/2. From then on the probes below watch over it.
const PREFACE_TIMEOUT: Duration = Duration::from_secs(10);
/// When a connection on which nothing comes is probed, and how long the answer may take.
const KEEP_ALIVE: (Duration, Duration) = (Duration::from_secs(30), Duration::from_secs(10));

/// The running listener.
pub struct EdgeGrpc {
    /// Where it listens.
    pub address: SocketAddr,
    stop: oneshot::Sender<()>,
    stopped: oneshot::Receiver<()>,
}

impl EdgeGrpc {
    /// Listens on `address`.
    pub(super) fn listen(
        address: SocketAddr,
        workers: NonZeroUsize,
        state: &Data<AppState>,
    ) -> std::io::Result<Self> {
        let listener = TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(workers.get())
            .thread_name("edge-grpc")
            .enable_all()
            .build()?;
        let (stop, asked_to_stop) = oneshot::channel();
        let (done, stopped) = oneshot::channel();
        let service = AuthorizationServer::new(Authorizer::new(state)).max_decoding_message_size(CHECK_LIMIT);
        std::thread::Builder::new().name("edge-grpc".to_owned()).spawn(move || {
            if let Err(error) = runtime.block_on(serve(listener, service, asked_to_stop)) {
                tracing::error!(%error, "the gRPC listener failed");
            }
            // Nobody may be waiting any more.
            let _ = done.send(());
        })?;
        Ok(Self { address, stop, stopped })
    }

    /// Takes no new checks, and finishes those in flight, for at most so long.
    pub async fn stop(self, within: Duration) {
        if self.stop.send(()).is_ok() && tokio::time::timeout(within, self.stopped).await.is_err() {
            tracing::warn!("checks over gRPC were cut off");
        }
    }
}

async fn serve(
    listener: TcpListener,
    service: AuthorizationServer<Authorizer>,
    asked_to_stop: oneshot::Receiver<()>,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let incoming = TcpIncoming::from(tokio::net::TcpListener::from_std(listener)?).with_nodelay(Some(true));
    let incoming = limited(incoming, CONNECTIONS, PREFACE_TIMEOUT);
    let (health, health_service) = tonic_health::server::health_reporter();
    health.set_serving::<AuthorizationServer<Authorizer>>().await;
    let (interval, timeout) = KEEP_ALIVE;
    Server::builder()
        .timeout(CHECK_TIMEOUT)
        .max_concurrent_streams(STREAMS)
        .http2_keepalive_interval(Some(interval))
        .http2_keepalive_timeout(Some(timeout))
        .add_service(health_service)
        .add_service(service)
        .serve_with_incoming_shutdown(incoming, async move {
            // A sender that is gone means the same.
            let _ = asked_to_stop.await;
            health.set_not_serving::<AuthorizationServer<Authorizer>>().await;
        })
        .await?;
    Ok(())
}
