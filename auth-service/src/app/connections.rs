//! Limits the connections to the HTTP listeners: how long one can be silent, how many one address can have, and
//! how many can have an incomplete request head.

use std::cell::Cell;
use std::net::{IpAddr, Shutdown};
use std::os::fd::AsFd;
use std::rc::Rc;
use std::time::Duration;

use actix_http::Request;
use actix_web::HttpRequest;
use actix_web::body::{BoxBody, MessageBody};
use actix_web::dev::{Extensions, ServiceRequest, ServiceResponse};
use actix_web::middleware::Next;
use actix_web::rt::task::JoinHandle;
use contract::listener::pipelining;
use socket2::SockRef;
use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::guard::in_flight::{InFlight, NoPlace, Place};
use crate::guard::waiting::Waiting;
use crate::state::AppState;

/// Closes a connection if another one needs its slot.
struct Closer {
    peer: IpAddr,
    stream: Rc<std::net::TcpStream>,
    /// The slot among the connections from this peer.
    place: Option<Rc<Cell<Option<Place>>>>,
    /// Runs while the server waits for the peer.
    waiter: Cell<Option<JoinHandle<()>>>,
}

impl Closer {
    /// Closes the connection when it is displaced from `waiting`.
    fn wait(&self, waiting: &Waiting) {
        let mut wait = waiting.enter(Some(self.peer));
        let (place, stream) = (self.place.clone(), Rc::clone(&self.stream));
        let waiter = actix_web::rt::spawn(async move {
            let _ = wait.given_up().await;
            // The server drops the connection only a moment later, but the new connection needs its slot now.
            drop(place.and_then(|place| place.take()));
            // The peer might have closed the connection at the same time.
            let _ = stream.shutdown(Shutdown::Both);
        });
        self.waiter.set(Some(waiter));
    }

    /// Called when the server no longer waits for the peer.
    fn has_waited(&self) {
        if let Some(waiter) = self.waiter.take() {
            waiter.abort();
        }
    }
}

impl Drop for Closer {
    fn drop(&mut self) {
        self.has_waited();
    }
}

/// Called for each new connection. Closes the connection if its request head is still incomplete when another
/// connection needs its slot.
pub(super) fn await_head(stream: &TcpStream, extensions: &mut Extensions, heads: &Waiting) {
    let Ok(peer) = stream.peer_addr() else { return };
    let Ok(stream) = stream.as_fd().try_clone_to_owned() else {
        tracing::error!("a connection cannot be watched");
        return;
    };
    let closer = Closer {
        peer: peer.ip().to_canonical(),
        stream: Rc::new(stream.into()),
        place: extensions.get::<Counted>().map(|counted| Rc::clone(&counted.0)),
        waiter: Cell::default(),
    };
    closer.wait(heads);
    extensions.insert(closer);
}

/// Called when a request is refused before its body has arrived. After the response, the server waits for the peer
/// to close the connection, so that the peer can read the response. Closes the connection if another one needs its
/// slot by then.
pub(super) fn await_close(request: &HttpRequest, closing: &Waiting) {
    if let Some(closer) = request.conn_data::<Closer>() {
        closer.wait(closing);
    }
}

/// The slot that a connection occupies among the connections from its address.
struct Counted(Rc<Cell<Option<Place>>>);

/// Called for each new connection. Counts the connection for its peer address, and closes it if the address has
/// too many.
///
/// The limit is needed because the server keeps several requests and responses for each connection from a peer
/// that sends requests without reading the responses.
pub(super) fn count(stream: &TcpStream, extensions: &mut Extensions, peers: &InFlight) {
    match peers.enter(peer(stream)) {
        Ok(place) => {
            extensions.insert(Counted(Rc::new(Cell::new(Some(place)))));
        }
        Err(NoPlace) => {
            let _ = SockRef::from(stream).shutdown(Shutdown::Both);
        }
    }
}

/// Whether the peer is a trusted proxy. Trusted proxies always send complete request heads, and read every
/// response.
pub(super) fn is_proxy(stream: &TcpStream, state: &AppState) -> bool {
    peer(stream).is_some_and(|peer| state.config.trusted_edge.is_known(peer))
}

fn peer(stream: &TcpStream) -> Option<IpAddr> {
    stream.peer_addr().ok().map(|peer| peer.ip().to_canonical())
}

/// Middleware for listeners that close each connection after one request. It records that the request head has
/// arrived, and closes the connection if a second request arrives. Otherwise, a client that sends requests without
/// reading the responses could make the server keep a response for each of them.
pub(super) async fn one_request<B: MessageBody + 'static>(
    request: ServiceRequest,
    next: Next<B>,
) -> Result<ServiceResponse<BoxBody>, actix_web::Error> {
    if let Some(closer) = request.request().conn_data::<Closer>() {
        closer.has_waited();
    }
    if pipelining::is_further(request.request()) {
        return Ok(pipelining::end_connection(request));
    }
    next.call(request).await.map(ServiceResponse::map_into_boxed_body)
}

/// Watches one connection to the edge listener until the server drops it.
struct Watch {
    last_request: Rc<Cell<Instant>>,
    watcher: JoinHandle<()>,
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.watcher.abort();
    }
}

/// Called for each new connection. Closes the connection if no complete request arrives for `patience`.
pub(super) fn watch(stream: &TcpStream, extensions: &mut Extensions, patience: Duration) {
    let Ok(stream) = stream.as_fd().try_clone_to_owned() else {
        tracing::error!("a connection cannot be watched");
        return;
    };
    let stream = std::net::TcpStream::from(stream);
    let last_request = Rc::new(Cell::new(Instant::now()));
    let last = Rc::clone(&last_request);
    let watcher = actix_web::rt::spawn(async move {
        while last.get().elapsed() < patience {
            tokio::time::sleep_until(last.get() + patience).await;
        }
        // The peer might have closed the connection at the same time.
        let _ = stream.shutdown(Shutdown::Both);
    });
    extensions.insert(Watch { last_request, watcher });
}

/// Records that a complete request has arrived.
pub(super) fn note_request(request: &Request) {
    if let Some(watch) = request.conn_data::<Watch>() {
        watch.last_request.set(Instant::now());
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use actix_web::HttpResponse;
    use actix_web::dev::fn_service;
    use actix_web::http::KeepAlive;
    use contract::listener::{self, Limits};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[actix_web::test]
    async fn a100_half_of_a_second_head_holds_no_connection_and_one_in_use_stays() {
        let patience = Duration::from_millis(500);
        let answer = async |request: Request| {
            note_request(&request);
            Ok::<_, Infallible>(HttpResponse::Ok().finish())
        };
        let limits = Limits { keep_alive: KeepAlive::Timeout(Duration::from_secs(90)), ..Limits::default() };
        let on_connect =
            move |stream: &TcpStream, extensions: &mut Extensions| watch(stream, extensions, patience);
        let socket = listener::bind("127.0.0.1:0".parse().unwrap(), 128).unwrap();
        let address = socket.local_addr().unwrap();
        let server = listener::serve(socket, limits, on_connect, move || fn_service(answer)).unwrap();
        actix_web::rt::spawn(server);
        let whole = b"GET / HTTP/1.1\r\nHost: l\r\n\r\n";
        let mut buffer = [0; 1024];
        for half in [&b""[..], b"GET /", b"GET / HTTP/1.1\r\nHost:"] {
            let mut stream = TcpStream::connect(address).await.unwrap();
            // The connection is in use for three times as long as the time limit.
            for _ in 0..15 {
                stream.write_all(whole).await.unwrap();
                assert!(
                    stream.read(&mut buffer).await.unwrap() > 0,
                    "the connection was closed while in use"
                );
                tokio::time::sleep(patience / 5).await;
            }
            // Half a request after a complete one does not keep the connection open.
            stream.write_all(&[whole, half].concat()).await.unwrap();
            let closed = tokio::time::timeout(patience * 10, stream.read_to_end(&mut Vec::new())).await;
            assert!(closed.is_ok(), "the connection is still open");
        }
    }
}
