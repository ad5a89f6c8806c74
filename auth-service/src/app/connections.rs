//! Limits the number of connections of a listener, and the time for which a connection can be silent.

use std::any::Any;
use std::cell::Cell;
use std::io::{Error, ErrorKind, Result};
use std::net::Shutdown;
use std::os::fd::AsFd;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use actix_http::Request;
use actix_web::HttpRequest;
use actix_web::body::MessageBody;
use actix_web::dev::{Extensions, ServiceRequest, ServiceResponse};
use actix_web::middleware::Next;
use actix_web::rt::task::JoinHandle;
use futures_util::future::ready;
use futures_util::{Stream, StreamExt};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, Sleep};
use tonic::transport::server::{Connected, TcpConnectInfo};

use crate::guard::waiting::Waiting;
use crate::state::AppState;

/// Number of bytes in the preface that an HTTP/2 client sends first (RFC 9113 §3.4).
const PREFACE: usize = 24;

/// Accepts at most `most` connections at a time, and lets further ones wait. Those that are not `welcome` are closed.
/// Each has to send its preface within `patience`.
pub(super) fn limited(
    incoming: impl Stream<Item = Result<TcpStream>>,
    welcome: impl Fn(&TcpStream) -> bool,
    most: usize,
    patience: Duration,
) -> impl Stream<Item = Result<Connection>> {
    let places = Arc::new(Semaphore::new(most));
    let known = incoming.filter(move |accepted| ready(accepted.as_ref().map_or(true, &welcome)));
    known.then(move |accepted| {
        let places = Arc::clone(&places);
        async move {
            let place = places.acquire_owned().await.map_err(Error::other)?;
            let silent_until = Some(Box::pin(tokio::time::sleep(patience)));
            Ok(Connection { stream: accepted?, heard: 0, silent_until, _place: place })
        }
    })
}

/// A connection that was accepted by [`limited`].
pub(super) struct Connection {
    stream: TcpStream,
    heard: usize,
    /// The time limit for the preface. None once it has been received.
    silent_until: Option<Pin<Box<Sleep>>>,
    _place: OwnedSemaphorePermit,
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(context, buffer);
        self.heard = self.heard.saturating_add(buffer.filled().len() - before);
        if self.heard >= PREFACE {
            self.silent_until = None;
        }
        match self.silent_until.as_mut().map(|silent_until| silent_until.as_mut().poll(context)) {
            Some(Poll::Ready(())) => Poll::Ready(Err(ErrorKind::TimedOut.into())),
            _ => read,
        }
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

impl Connected for Connection {
    type ConnectInfo = TcpConnectInfo;

    fn connect_info(&self) -> TcpConnectInfo {
        self.stream.connect_info()
    }
}

/// A task that waits for the request head of a connection. It is stopped when the head has arrived or the
/// connection ends.
struct AwaitedHead(Cell<Option<JoinHandle<()>>>);

impl Drop for AwaitedHead {
    fn drop(&mut self) {
        if let Some(waiter) = self.0.take() {
            waiter.abort();
        }
    }
}

/// Closes the connection if its request head is incomplete while another connection needs its place. It is
/// called from `HttpServer::on_connect`.
pub(super) fn await_head(stream: &dyn Any, extensions: &mut Extensions, heads: &Waiting) {
    let Some(stream) = stream.downcast_ref::<TcpStream>() else { return };
    let Ok(peer) = stream.peer_addr() else { return };
    let Ok(stream) = stream.as_fd().try_clone_to_owned() else {
        tracing::error!("a connection cannot be watched");
        return;
    };
    let mut wait = heads.enter(Some(peer.ip().to_canonical()));
    let waiter = actix_web::rt::spawn(async move {
        wait.given_up().await;
        // The peer might have closed the connection at the same time.
        let _ = std::net::TcpStream::from(stream).shutdown(Shutdown::Both);
    });
    extensions.insert(AwaitedHead(Cell::new(Some(waiter))));
}

/// Whether the peer is a trusted proxy. These always send complete heads.
pub(super) fn is_proxy(stream: &dyn Any, state: &AppState) -> bool {
    let peer = stream.downcast_ref::<TcpStream>().and_then(|stream| stream.peer_addr().ok());
    peer.is_some_and(|peer| state.config.trusted_edge.is_known(peer.ip().to_canonical()))
}

/// A middleware that records the arrival of a request head.
pub(super) async fn noting_heads<B: MessageBody>(
    request: ServiceRequest,
    next: Next<B>,
) -> std::result::Result<ServiceResponse<B>, actix_web::Error> {
    note_head(request.request());
    next.call(request).await
}

/// Records that the request head has arrived.
pub(super) fn note_head(request: &HttpRequest) {
    if let Some(waiter) = request.conn_data::<AwaitedHead>().and_then(|head| head.0.take()) {
        waiter.abort();
    }
}

/// Watches one connection of an HTTP server until the server drops it.
struct Watch {
    last_request: Rc<Cell<Instant>>,
    watcher: JoinHandle<()>,
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.watcher.abort();
    }
}

/// Closes the connection if no complete request arrives for `patience`. It is called from
/// `HttpServer::on_connect`.
pub(super) fn watch(stream: &dyn Any, extensions: &mut Extensions, patience: Duration) {
    let stream = stream.downcast_ref::<TcpStream>().map(|stream| stream.as_fd().try_clone_to_owned());
    let Some(Ok(stream)) = stream else {
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

    use actix_web::dev::fn_service;
    use actix_web::{HttpResponse, HttpServer};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    /// Returns the address of a new listener and the stream of connections that it accepts.
    async fn listener(
        most: usize,
        patience: Duration,
    ) -> (String, Pin<Box<dyn Stream<Item = Result<Connection>>>>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let incoming = futures_util::stream::unfold(listener, async |listener| {
            Some((listener.accept().await.map(|(stream, _)| stream), listener))
        });
        (address, Box::pin(limited(incoming, |_| true, most, patience)))
    }

    #[tokio::test]
    async fn a100_further_connections_wait_until_one_is_closed() {
        let (address, mut accepted) = listener(2, Duration::from_secs(60)).await;
        let _clients = [
            TcpStream::connect(&address).await.unwrap(),
            TcpStream::connect(&address).await.unwrap(),
            TcpStream::connect(&address).await.unwrap(),
        ];
        let first = accepted.next().await.unwrap().unwrap();
        let _second = accepted.next().await.unwrap().unwrap();
        assert!(tokio::time::timeout(Duration::from_millis(50), accepted.next()).await.is_err());
        drop(first);
        assert!(accepted.next().await.unwrap().is_ok());
    }

    #[tokio::test]
    async fn a100_a_connection_that_says_nothing_is_closed_and_one_that_spoke_stays() {
        let (address, mut accepted) = listener(2, Duration::from_millis(50)).await;
        let mut silent = TcpStream::connect(&address).await.unwrap();
        silent.write_all(b"PRI").await.unwrap();
        let mut connection = accepted.next().await.unwrap().unwrap();
        let mut buffer = [0; 64];
        assert_eq!(connection.read(&mut buffer).await.unwrap(), 3);
        assert_eq!(connection.read(&mut buffer).await.unwrap_err().kind(), ErrorKind::TimedOut);
        let mut speaking = TcpStream::connect(&address).await.unwrap();
        let mut connection = accepted.next().await.unwrap().unwrap();
        speaking.write_all(&[b'x'; PREFACE]).await.unwrap();
        connection.read_exact(&mut [0; PREFACE]).await.unwrap();
        let later = tokio::time::timeout(Duration::from_millis(200), connection.read(&mut buffer)).await;
        assert!(later.is_err(), "it is waited for");
    }

    #[actix_web::test]
    async fn a100_half_of_a_second_head_holds_no_connection_and_one_in_use_stays() {
        let patience = Duration::from_millis(500);
        let answer = async |request: Request| {
            note_request(&request);
            Ok::<_, Infallible>(HttpResponse::Ok().finish())
        };
        let server = HttpServer::new(move || fn_service(answer))
            .workers(1)
            .keep_alive(Duration::from_secs(90))
            .on_connect(move |stream, extensions| watch(stream, extensions, patience))
            .disable_signals()
            .bind("127.0.0.1:0")
            .unwrap();
        let address = server.addrs()[0];
        actix_web::rt::spawn(server.run());
        let whole = b"GET / HTTP/1.1\r\nHost: l\r\n\r\n";
        let mut buffer = [0; 1024];
        for half in [&b""[..], b"GET /", b"GET / HTTP/1.1\r\nHost:"] {
            let mut stream = TcpStream::connect(address).await.unwrap();
            // The connection is used for three times its patience.
            for _ in 0..15 {
                stream.write_all(whole).await.unwrap();
                assert!(stream.read(&mut buffer).await.unwrap() > 0, "it is closed while it is in use");
                tokio::time::sleep(patience / 5).await;
            }
            // Half a request that follows a complete one does not hold the connection either.
            stream.write_all(&[whole, half].concat()).await.unwrap();
            let closed = tokio::time::timeout(patience * 10, stream.read_to_end(&mut Vec::new())).await;
            assert!(closed.is_ok(), "it is held");
        }
    }
}
