//! Limits the connections to the gRPC listener: their number, the number of connections without the edge secret,
//! and how long a client can be silent or leave responses unread.

use std::collections::VecDeque;
use std::io::{Error, ErrorKind, Result};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::future::ready;
use futures_util::{Stream, StreamExt};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, Sleep};
use tonic::transport::server::Connected;

use crate::forward_auth::envoy_grpc::peer::{ConnectionState, Peer};

/// Number of bytes in the preface that an HTTP/2 client sends first (RFC 9113 §3.4).
const PREFACE: usize = 24;

/// The limits of connections.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// Maximum number of open connections. Further ones wait to be accepted.
    pub(super) connections: usize,
    /// Maximum number of connections on which the edge secret has not been sent. If this is exceeded, the oldest
    /// of them is closed. Otherwise, other programs in the networks of the edge could occupy all connections.
    pub(super) strangers: usize,
    /// Time limit for the client to send the preface of a connection, and to read a response.
    pub(super) patience: Duration,
}

/// Accepts connections within these limits. A connection for which `welcome` is false is closed.
pub(super) fn limited(
    incoming: impl Stream<Item = Result<TcpStream>>,
    welcome: impl Fn(&TcpStream) -> bool,
    limits: Limits,
) -> impl Stream<Item = Result<Connection>> {
    let places = Arc::new(Semaphore::new(limits.connections));
    let strangers = Arc::<Mutex<VecDeque<Weak<ConnectionState>>>>::default();
    let known = incoming.filter(move |accepted| ready(accepted.as_ref().map_or(true, &welcome)));
    known.then(move |accepted| {
        let (places, strangers) = (Arc::clone(&places), Arc::clone(&strangers));
        async move {
            let stream = accepted?;
            let peer = Peer::new(stream.peer_addr().ok().map(|address| address.ip()));
            make_room(&strangers, peer.connection(), limits.strangers);
            let place = places.acquire_owned().await.map_err(Error::other)?;
            let tick = Box::pin(tokio::time::sleep(limits.patience));
            let opened = Instant::now();
            Ok(Connection { stream, peer, heard: 0, opened, tick, patience: limits.patience, _place: place })
        }
    })
}

/// Adds a connection on which the secret has not been sent yet. If there are already `most` of them, closes the
/// oldest first.
fn make_room(strangers: &Mutex<VecDeque<Weak<ConnectionState>>>, new: &Arc<ConnectionState>, most: usize) {
    let mut all = strangers.lock().unwrap_or_else(PoisonError::into_inner);
    all.retain(|state| state.upgrade().is_some_and(|state| !state.is_of_edge()));
    while all.len() >= most {
        if let Some(oldest) = all.pop_front().and_then(|state| state.upgrade()) {
            metrics::counter!("mcp_gate_edge_grpc_displaced_total").increment(1);
            oldest.close();
        }
    }
    all.push_back(Arc::downgrade(new));
}

/// A connection accepted by [`limited`].
pub(super) struct Connection {
    stream: TcpStream,
    peer: Peer,
    heard: usize,
    opened: Instant,
    /// Fires when the time limits must be checked next.
    tick: Pin<Box<Sleep>>,
    patience: Duration,
    _place: OwnedSemaphorePermit,
}

impl Connection {
    fn is_overdue(&self) -> bool {
        let is_silent = self.heard < PREFACE && self.opened.elapsed() >= self.patience;
        is_silent || self.peer.connection().is_stalled(self.patience)
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<Result<()>> {
        if self.peer.connection().poll_closed(context).is_ready() {
            return Poll::Ready(Err(ErrorKind::ConnectionAborted.into()));
        }
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(context, buffer);
        self.heard = self.heard.saturating_add(buffer.filled().len() - before);
        while self.tick.as_mut().poll(context).is_ready() {
            if self.is_overdue() {
                return Poll::Ready(Err(ErrorKind::TimedOut.into()));
            }
            let next = Instant::now() + self.patience / 2;
            self.tick.as_mut().reset(next);
        }
        read
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
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer.clone()
    }
}

#[cfg(test)]
mod tests {
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
        (address, Box::pin(limited(incoming, |_| true, Limits { connections: most, strangers: 3, patience })))
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
        assert!(later.is_err(), "the connection waits to be accepted");
    }

    #[tokio::test]
    async fn a100_whoever_has_not_shown_the_secret_is_closed_for_the_next() {
        let (address, mut accepted) = listener(100, Duration::from_secs(60)).await;
        let mut clients = Vec::new();
        let mut connections = Vec::new();
        for _ in 0..4 {
            clients.push(TcpStream::connect(&address).await.unwrap());
            connections.push(accepted.next().await.unwrap().unwrap());
        }
        let mut buffer = [0; 64];
        let first = connections[0].read(&mut buffer).await.unwrap_err();
        assert_eq!(first.kind(), ErrorKind::ConnectionAborted);
        for connection in &mut connections[1..] {
            let read = tokio::time::timeout(Duration::from_millis(50), connection.read(&mut buffer)).await;
            assert!(read.is_err(), "the connection is open");
        }
    }
}
