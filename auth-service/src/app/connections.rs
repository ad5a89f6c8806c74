//! A ceiling on the connections of a listener, and a time until each has said something.

use std::io::{Error, ErrorKind, Result};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::{Stream, StreamExt};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Sleep;
use tonic::transport::server::{Connected, TcpConnectInfo};

/// Bytes of what a client of HTTP/2 sends first (RFC 9113 §3.4).
const PREFACE: usize = 24;

/// Accepts at most `most` connections at a time; further ones wait. Each has `patience` to send its preface.
pub(super) fn limited(
    incoming: impl Stream<Item = Result<TcpStream>>,
    most: usize,
    patience: Duration,
) -> impl Stream<Item = Result<Connection>> {
    let places = Arc::new(Semaphore::new(most));
    incoming.then(move |accepted| {
        let places = Arc::clone(&places);
        async move {
            let place = places.acquire_owned().await.map_err(Error::other)?;
            let silent_until = Some(Box::pin(tokio::time::sleep(patience)));
            Ok(Connection { stream: accepted?, heard: 0, silent_until, _place: place })
        }
    })
}

/// See [`limited`].
pub(super) struct Connection {
    stream: TcpStream,
    heard: usize,
    /// None once the preface has come.
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

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    /// Connections to a listener, as it accepts them.
    async fn listener(
        most: usize,
        patience: Duration,
    ) -> (String, Pin<Box<dyn Stream<Item = Result<Connection>>>>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let incoming = futures_util::stream::unfold(listener, async |listener| {
            Some((listener.accept().await.map(|(stream, _)| stream), listener))
        });
        (address, Box::pin(limited(incoming, most, patience)))
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
}
