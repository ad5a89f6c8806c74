//! Limits of each connection in addition to those of the HTTP server: the time that a client has to read a
//! response, and to send the head of its next request. When the wrapper stops, the next response of a
//! connection is its last one.

use std::any::Any;
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
use rustix::net::Shutdown;
use rustix::net::sockopt::set_tcp_user_timeout;
use socket2::SockRef;
use tokio::sync::watch;
use tokio::time::timeout;

use crate::holding::hold;

/// Time within which a client must read a part of the data that it is sent, in milliseconds. A client that
/// does not read uses memory and a connection.
const READ_TIMEOUT: u32 = 30_000;
/// Maximum number of bytes of a response that the kernel buffers before they are sent. By default, it would
/// buffer megabytes, which the wrapper does not count and which belong to the memory of the container.
const MAX_UNSENT: u32 = 64 << 10;
/// Time for which a connection can be without a request, even if a part of a head has arrived. The HTTP
/// server closes idle connections earlier, and limits the first head itself, but not the others.
const HEAD_TIMEOUT: Duration = Duration::from_secs(15);

/// A client's connection, which is closed if the client is too slow.
pub struct Connection {
    /// A second handle of its socket.
    pub socket: Arc<OwnedFd>,
    /// The number of requests in progress.
    under_way: Rc<watch::Sender<usize>>,
}

/// The number of connections of a listener.
#[derive(Debug)]
pub struct Open {
    count: AtomicUsize,
    /// With this number of connections, no more are accepted.
    max: usize,
}

impl Open {
    /// Makes a count for a listener that accepts this number of connections.
    pub fn new(max: usize) -> Arc<Self> {
        Arc::new(Self { count: AtomicUsize::new(0), max })
    }

    /// Whether further connections have to wait until another one ends.
    pub fn is_full(&self) -> bool {
        self.count.load(Ordering::Relaxed) >= self.max
    }
}

/// A connection that counts until it ends.
struct Counted(Arc<Open>);

impl Counted {
    fn new(open: &Arc<Open>) -> Self {
        open.count.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(open))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.count.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Makes the function that sets up each new connection of a listener. It must run on the thread that serves
/// the connection.
pub fn setup(open: &Arc<Open>) -> impl Fn(&dyn Any, &mut Extensions) + Clone + Send + Sync + use<> {
    let open = Arc::clone(open);
    move |connection, extensions| {
        extensions.insert(Counted::new(&open));
        accept(connection, extensions);
    }
}

fn accept(connection: &dyn Any, extensions: &mut Extensions) {
    let Some(stream) = connection.downcast_ref::<TcpStream>() else { return };
    // A connection works without this option, too.
    let _ = set_tcp_user_timeout(stream, READ_TIMEOUT);
    let _ = SockRef::from(stream).set_tcp_notsent_lowat(MAX_UNSENT);
    let Ok(socket) = stream.as_fd().try_clone_to_owned() else { return };
    let socket = Arc::new(socket);
    let (sender, receiver) = watch::channel(0);
    actix_web::rt::spawn(close_when_idle(Arc::downgrade(&socket), receiver));
    extensions.insert(Connection { socket, under_way: Rc::new(sender) });
}

/// Closes the connection if it has had no request for [`HEAD_TIMEOUT`]. Ends with the connection.
async fn close_when_idle(socket: Weak<OwnedFd>, mut under_way: watch::Receiver<usize>) {
    while under_way.wait_for(|count| *count == 0).await.is_ok() {
        match timeout(HEAD_TIMEOUT, under_way.wait_for(|count| *count > 0)).await {
            Ok(Ok(_)) => {}
            Ok(Err(_)) => return,
            Err(_) => {
                if let Some(socket) = socket.upgrade() {
                    // The connection might just have been closed.
                    let _ = rustix::net::shutdown(&socket, Shutdown::Both);
                }
                return;
            }
        }
    }
}

/// A middleware that counts the requests of each connection that are in progress, each until its response was
/// sent.
pub async fn count<B: MessageBody + 'static>(
    request: ServiceRequest,
    next: Next<B>,
) -> Result<ServiceResponse<BoxBody>, Error> {
    let under_way = request.conn_data::<Connection>().map(|connection| UnderWay::new(&connection.under_way));
    let response = next.call(request).await?;
    Ok(response.map_body(|_, inner| hold(inner, under_way)))
}

/// Whether the wrapper is about to stop.
#[derive(Debug, Default)]
pub struct Draining(AtomicBool);

impl Draining {
    /// From now on, every answer is the last one of its connection.
    pub fn begin(&self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// A middleware that ends each connection with an answer as soon as the wrapper is about to stop. If the
/// wrapper closed an idle connection while an edge sends a request on it, that request would be lost. An edge
/// loses nothing if it is told not to use a connection again.
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
