//! Connection limits in addition to those of the HTTP server: the time in which a client must read a response
//! and send the head of its next request, and the number of connections from the same machine. When the wrapper stops, each connection is closed after its
//! next response.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use actix_web::body::{BoxBody, MessageBody};
use actix_web::dev::{Extensions, ServiceRequest, ServiceResponse};
use actix_web::http::ConnectionType;
use actix_web::middleware::Next;
use actix_web::rt::net::TcpStream;
use actix_web::{Error, web};
use contract::listener::{hold, pipelining};
use rustix::net::Shutdown;
use rustix::net::sockopt::set_tcp_user_timeout;
use socket2::SockRef;
use tokio::sync::watch;
use tokio::time::timeout;

/// Time within which a client must read some of the data that was sent to it, in milliseconds. A client that
/// does not read uses memory and a connection.
const READ_TIMEOUT: u32 = 30_000;
/// Maximum number of bytes of a response that the kernel buffers before it sends them. By default, it would
/// buffer megabytes, which the wrapper does not count although they use memory of the container. What the kernel does
/// not take stays in the wrapper, and counts for the user.
const MAX_UNSENT: u32 = 16 << 10;
/// Maximum time for a connection without a complete request, even if a part of a head has arrived. The HTTP
/// server closes idle connections earlier, but limits the time only for the first head.
const HEAD_TIMEOUT: Duration = Duration::from_secs(15);

/// 1/`LOCAL_SHARE` of the connections can come from the same machine.
const LOCAL_SHARE: usize = 4;

/// A client's connection, which is closed if the client is too slow.
pub struct Connection {
    /// A second handle of its socket.
    pub socket: Arc<OwnedFd>,
    /// The number of requests in progress.
    under_way: Rc<watch::Sender<usize>>,
}

/// The number of connections to a listener.
#[derive(Debug)]
pub struct Open {
    count: AtomicUsize,
    /// Maximum number of connections, after which no more are accepted.
    max: usize,
    /// The connections from the same machine.
    local: AtomicUsize,
    /// Maximum number of open connections from the same machine.
    max_local: usize,
    /// Whether the log already contains a line about a connection that was closed because too many came from
    /// the same machine.
    has_told: AtomicBool,
}

impl Open {
    /// Creates the count for a listener at this address that accepts `max` connections.
    ///
    /// If the listener can be reached from other machines, the edge proxy is expected on another machine.
    /// Connections from the same machine then come from the servers that the wrapper has started, and they must
    /// not prevent connections from the proxy. If the listener is on loopback, the proxy is on the same machine
    /// and cannot be distinguished from the servers.
    pub fn new(max: usize, listener: IpAddr) -> Arc<Self> {
        let max_local = if listener.is_loopback() { usize::MAX } else { (max / LOCAL_SHARE).max(1) };
        Arc::new(Self {
            count: AtomicUsize::new(0),
            max,
            local: AtomicUsize::new(0),
            max_local,
            has_told: AtomicBool::new(false),
        })
    }

    /// Whether further connections must wait until another one is closed.
    pub fn is_full(&self) -> bool {
        self.count.load(Ordering::Relaxed) >= self.max
    }
}

/// A connection that counts until it is closed.
struct Counted {
    open: Arc<Open>,
    is_local: bool,
}

impl Counted {
    fn new(open: &Arc<Open>, is_local: bool) -> Self {
        open.count.fetch_add(1, Ordering::Relaxed);
        open.local.fetch_add(usize::from(is_local), Ordering::Relaxed);
        Self { open: Arc::clone(open), is_local }
    }

    /// Whether there are too many connections from the same machine, including this one.
    fn is_too_many(&self) -> bool {
        self.is_local && self.open.local.load(Ordering::Relaxed) > self.open.max_local
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.open.count.fetch_sub(1, Ordering::Relaxed);
        self.open.local.fetch_sub(usize::from(self.is_local), Ordering::Relaxed);
    }
}

/// Creates the function that sets up each new connection to a listener. It must run on the thread that serves the
/// connection.
pub fn setup(open: &Arc<Open>) -> impl Fn(&TcpStream, &mut Extensions) + Send + Sync + use<> {
    let open = Arc::clone(open);
    move |stream, extensions| {
        // Without a limit for local connections, the origin does not need to be determined.
        let counted = Counted::new(&open, open.max_local < open.max && is_local(stream));
        if counted.is_too_many() {
            let _ = SockRef::from(stream).shutdown(std::net::Shutdown::Both);
            if !open.has_told.swap(true, Ordering::Relaxed) {
                tracing::warn!(
                    limit = open.max_local,
                    "connections from this machine take a quarter of all connections, so further ones are closed. If \
                     the edge proxy is on this machine, LISTEN should be a loopback address"
                );
            }
        }
        extensions.insert(counted);
        accept(stream, extensions);
    }
}

/// Whether the peer is on the same machine, or in the same container.
fn is_local(stream: &TcpStream) -> bool {
    let (Ok(from), Ok(to)) = (stream.peer_addr(), stream.local_addr()) else { return false };
    let (peer, here) = (from.ip().to_canonical(), to.ip().to_canonical());
    // A process can choose any address of its machine as the source address, even for a connection to loopback.
    peer.is_loopback() || here.is_loopback() || peer == here || is_own(from)
}

/// Whether this is an address of this machine or container, which can be in several networks. Only a local address can
/// be bound, unless the kernel also allows other addresses (`ip_nonlocal_bind`). To detect this, an address that is
/// reserved for documentation (RFC 5737, RFC 3849) is bound.
fn is_own(mut address: SocketAddr) -> bool {
    address.set_port(0);
    let foreign: IpAddr = match address {
        SocketAddr::V4(_) => Ipv4Addr::new(192, 0, 2, 1).into(),
        SocketAddr::V6(_) => Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1).into(),
    };
    UdpSocket::bind(address).is_ok() && UdpSocket::bind((foreign, 0)).is_err()
}

fn accept(stream: &TcpStream, extensions: &mut Extensions) {
    // If the option cannot be set, the connection works without it.
    let _ = set_tcp_user_timeout(stream, READ_TIMEOUT);
    let _ = SockRef::from(stream).set_tcp_notsent_lowat(MAX_UNSENT);
    let Ok(socket) = stream.as_fd().try_clone_to_owned() else { return };
    let socket = Arc::new(socket);
    let (sender, receiver) = watch::channel(0);
    actix_web::rt::spawn(close_when_idle(Arc::downgrade(&socket), receiver));
    extensions.insert(Connection { socket, under_way: Rc::new(sender) });
}

/// Closes the connection if it has had no request for [`HEAD_TIMEOUT`]. Returns when the connection is closed.
async fn close_when_idle(socket: Weak<OwnedFd>, mut under_way: watch::Receiver<usize>) {
    while under_way.wait_for(|count| *count == 0).await.is_ok() {
        match timeout(HEAD_TIMEOUT, under_way.wait_for(|count| *count > 0)).await {
            Ok(Ok(_)) => {}
            Ok(Err(_)) => return,
            Err(_) => {
                if let Some(socket) = socket.upgrade() {
                    // The connection might have been closed in the meantime.
                    let _ = rustix::net::shutdown(&socket, Shutdown::Both);
                }
                return;
            }
        }
    }
}

/// A middleware that counts the requests in progress on each connection. A request counts until its response
/// has been sent.
pub async fn count<B: MessageBody + 'static>(
    request: ServiceRequest,
    next: Next<B>,
) -> Result<ServiceResponse<BoxBody>, Error> {
    let under_way = request.conn_data::<Connection>().map(|connection| UnderWay::new(&connection.under_way));
    let response = next.call(request).await?;
    Ok(response.map_body(|_, inner| hold(inner, under_way)))
}

/// A middleware for a listener that closes each connection after one request. It closes the connection if a
/// second request arrives.
pub async fn only_one<B: MessageBody + 'static>(
    request: ServiceRequest,
    next: Next<B>,
) -> Result<ServiceResponse<BoxBody>, Error> {
    if pipelining::is_further(request.request()) {
        return Ok(pipelining::end_connection(request));
    }
    next.call(request).await.map(ServiceResponse::map_into_boxed_body)
}

/// Whether the wrapper is about to stop.
#[derive(Debug, Default)]
pub struct Draining(AtomicBool);

impl Draining {
    /// Makes every response from now on the last one on its connection.
    pub fn begin(&self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// A middleware that closes each connection after a response while the wrapper is about to stop. If the wrapper
/// closed an idle connection while an edge sends a request on it, that request would be lost. No request is
/// lost if a response has told the edge not to reuse the connection.
pub async fn end_with_answer<B: MessageBody + 'static>(
    request: ServiceRequest,
    next: Next<B>,
) -> Result<ServiceResponse<B>, Error> {
    let draining = request.app_data::<web::Data<Draining>>().cloned();
    let mut response = next.call(request).await?;
    if draining.is_some_and(|draining| draining.0.load(Ordering::Relaxed)) {
        response.response_mut().head_mut().set_connection_type(ConnectionType::Close);
    }
    Ok(response)
}

/// A request in progress.
struct UnderWay(Rc<watch::Sender<usize>>);

impl UnderWay {
    fn new(all: &Rc<watch::Sender<usize>>) -> Self {
        all.send_modify(|count| *count += 1);
        Self(Rc::clone(all))
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.send_modify(|count| *count -= 1);
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, TcpStream};

    use actix_web::{App, HttpResponse};
    use contract::listener::{self, Limits};

    use super::*;

    const MAX: usize = 40;

    /// Opens connections to a server on this machine that listens on this address. Returns how many of them stay
    /// open.
    async fn kept(listener: Ipv4Addr) -> usize {
        let open = Open::new(MAX, listener.into());
        let app = || App::new().default_service(web::to(HttpResponse::Ok));
        let socket = listener::bind("127.0.0.1:0".parse().unwrap(), 128).unwrap();
        let address = socket.local_addr().unwrap();
        actix_web::rt::spawn(listener::serve(socket, Limits::default(), setup(&open), app).unwrap());
        let streams: Vec<_> = (0..MAX).map(|_| TcpStream::connect(address).unwrap()).collect();
        let mut kept = 0;
        for stream in &streams {
            stream.set_nonblocking(true).unwrap();
            let stream = tokio::net::TcpStream::from_std(stream.try_clone().unwrap()).unwrap();
            // A connection that stays open gets a response. The request on a closed connection can be lost.
            let _ = stream.try_write(b"GET / HTTP/1.1\r\n\r\n");
            stream.readable().await.unwrap();
            kept += usize::from(matches!(stream.try_read(&mut [0; 100]), Ok(1..)));
        }
        kept
    }

    #[actix_web::test]
    async fn a100_servers_cannot_take_all_connections_of_their_wrapper() {
        assert_eq!(kept(Ipv4Addr::UNSPECIFIED).await, MAX / LOCAL_SHARE);
    }

    /// Every address in 127.0.0.0/8 is local, even if no interface lists it.
    #[test]
    fn a100_an_address_of_this_machine_in_any_of_its_networks_is_an_own_one() {
        let own = |address: &str| is_own(address.parse().unwrap());
        assert_eq!([own("127.0.0.1:5"), own("127.8.0.3:5")], [true, true]);
        assert_eq!([own("192.0.2.1:5"), own("198.51.100.7:5"), own("[2001:db8::2]:5")], [false; 3]);
    }

    #[actix_web::test]
    async fn on_loopback_all_connections_are_for_the_edge() {
        assert_eq!(kept(Ipv4Addr::LOCALHOST).await, MAX);
    }
}
