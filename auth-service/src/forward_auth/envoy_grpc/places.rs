//! Limits the number of calls in progress at the gRPC listener, over all connections. HTTP/2 limits only the
//! streams of each connection, and a stream with an incomplete message uses memory until its time limit.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use actix_web::web::Data;
use http_body_util::{BodyExt, Full};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::{Bytes, Service, http};
use tonic::server::NamedService;

use crate::forward_auth::{EDGE_SECRET, trust};
use crate::state::AppState;

use super::peer::Peer;

/// Maximum number of calls in progress from edge proxies. Further calls are refused.
const OF_EDGES: usize = 960;
/// Maximum number of calls in progress without the edge secret, from other programs in the networks of the edge
/// proxies. These can only call the health service.
const OF_OTHERS: usize = 64;
/// An empty gRPC message: the flag "not compressed", and the length zero.
const EMPTY: &[u8; 5] = &[0; 5];

/// The slots for calls, which all services of the listener share.
#[derive(Clone)]
pub struct Places {
    of_edges: Arc<Semaphore>,
    of_others: Arc<Semaphore>,
    state: Arc<AppState>,
}

/// A service whose calls need a slot.
#[derive(Clone)]
pub struct Bounded<S> {
    service: S,
    reads_from: Callers,
    places: Places,
}

/// The callers whose messages a service reads.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Callers {
    Edges,
    All,
}

type Request = http::Request<Body>;
type Response = http::Response<Body>;
type Called = Pin<Box<dyn Future<Output = Result<Response, Infallible>> + Send>>;

impl Places {
    /// Creates the slots, all of which are free.
    pub fn new(state: &Data<AppState>) -> Self {
        let places = |number| Arc::new(Semaphore::new(number));
        Self {
            of_edges: places(OF_EDGES),
            of_others: places(OF_OTHERS),
            state: Data::clone(state).into_inner(),
        }
    }

    /// Wraps a service that reads a message only if an edge proxy has sent it.
    pub fn for_edges<S>(&self, service: S) -> Bounded<S> {
        Bounded { service, reads_from: Callers::Edges, places: self.clone() }
    }

    /// Wraps a service that reads messages from all programs in the networks of the edge proxies.
    pub fn for_all<S>(&self, service: S) -> Bounded<S> {
        Bounded { service, reads_from: Callers::All, places: self.clone() }
    }

    /// Whether the request comes from an edge proxy, according to its address and headers.
    fn is_of_edge(&self, request: &Request) -> bool {
        let address = peer_of(request).and_then(|peer| peer.address);
        let secrets = request.headers().get_all(EDGE_SECRET.as_str()).iter();
        trust(address, secrets.map(http::HeaderValue::as_bytes), &self.state).is_ok()
    }

    fn take(&self, is_of_edge: bool) -> Option<OwnedSemaphorePermit> {
        let places = if is_of_edge { &self.of_edges } else { &self.of_others };
        Arc::clone(places).try_acquire_owned().ok()
    }
}

impl<S: NamedService> NamedService for Bounded<S> {
    const NAME: &'static str = S::NAME;
}

impl<S> Service<Request> for Bounded<S>
where
    S: Service<Request, Response = Response, Error = Infallible>,
    S::Future: Send + 'static,
{
    type Response = Response;
    type Error = Infallible;
    type Future = Called;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.service.poll_ready(context)
    }

    fn call(&mut self, request: Request) -> Self::Future {
        // A `Watch` call does not end, so it would keep its slot forever.
        if request.uri().path().ends_with("/Watch") {
            return refused(Status::unimplemented("only Check reports the health"));
        }
        let is_of_edge = self.places.is_of_edge(&request);
        let peer = peer_of(&request).cloned();
        if let Some(peer) = peer.as_ref().filter(|_| is_of_edge) {
            peer.has_shown_the_secret();
        }
        let Some(place) = self.places.take(is_of_edge) else {
            metrics::counter!("mcp_gate_edge_grpc_refused_total").increment(1);
            return refused(Status::unavailable("too many checks are in progress"));
        };
        // Without the edge secret, the result of a check does not depend on the message. The service then receives
        // an empty message, so that it does not wait for the real one.
        let is_read = is_of_edge || self.reads_from == Callers::All;
        let request =
            if is_read { request } else { request.map(|_| Body::new(Full::from(Bytes::from_static(EMPTY)))) };
        let called = self.service.call(request);
        Box::pin(async move {
            // The slot is kept until the response has been sent, because a peer can delay reading it. If a peer
            // does not read its responses for some time, its connection is closed.
            called.await.map(|response| {
                let held = (place, peer.map(|peer| peer.answer()));
                response.map(|body| {
                    Body::new(body.map_frame(move |frame| {
                        let _held = &held;
                        frame
                    }))
                })
            })
        })
    }
}

fn peer_of(request: &Request) -> Option<&Peer> {
    request.extensions().get()
}

fn refused(status: Status) -> Called {
    Box::pin(std::future::ready(Ok(status.into_http())))
}
