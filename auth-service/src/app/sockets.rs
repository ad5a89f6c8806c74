//! The listening sockets of the HTTP servers. They can be closed to new connections while the servers still
//! answer on the connections that they have.
//!
//! The servers cannot do this themselves: when one stops, connections that it has accepted and not yet looked
//! at are dropped together with the listening socket. A proxy that has just sent a request on such a
//! connection cannot tell whether it was processed, and many do not repeat it.
//!
//! The system does the same to connections that wait to be accepted when their listening socket is closed. So
//! the socket ignores attempts to connect for a moment before that, until those that wait have been accepted.
//! A client repeats such an attempt after one second (RFC 6298 §2), and is refused then.

use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

use actix_web::dev::ServerHandle;
use rustix::net::{Shutdown, shutdown};
use socket2::{SockFilter, SockRef};

/// How long the server has to accept the connections that wait, while further ones are ignored.
const LAST_ACCEPTED: Duration = Duration::from_millis(200);

/// Time that the thread that accepts connections might need to notice that it is paused.
const PAUSE: Duration = Duration::from_millis(1);

/// A second handle to a listening socket.
pub struct Socket(TcpListener);

impl Socket {
    /// Listens on an address. `backlog` is the maximum number of connections that wait to be accepted.
    /// Returns the listener for the server, and the second handle to its socket.
    pub(super) fn listen(address: SocketAddr, backlog: i32) -> std::io::Result<(TcpListener, Self)> {
        let listener = contract::listener::bind(address, backlog)?;
        let second = listener.try_clone()?;
        Ok((listener, Self(second)))
    }

    /// From now on, the system ignores attempts to connect. Returns when the server has accepted the
    /// connections that wait.
    pub(super) async fn ignore_newcomers(&self) {
        match SockRef::from(&self.0).attach_filter(&without_new_connections()) {
            Ok(()) => tokio::time::sleep(LAST_ACCEPTED).await,
            Err(error) => tracing::debug!(%error, "connections that wait to be accepted might be lost"),
        }
    }

    /// After this, the system refuses new connections, so that a proxy turns to another replica at once. The
    /// server still answers on the connections that it has.
    pub async fn close(&self, server: &ServerHandle) {
        self.ignore_newcomers().await;
        // Without the pause, the server would report an error because the socket does not listen.
        server.pause().await;
        tokio::time::sleep(PAUSE).await;
        if let Err(error) = shutdown(&self.0, Shutdown::Read) {
            tracing::debug!(%error, "a socket stays open to new connections until its server stops");
        }
    }
}

/// A program for a listening socket that drops the first packet of each new connection, and lets the others
/// pass. It reads the flags of the TCP header (RFC 9293 §3.1), where the kernel's programs for sockets start.
fn without_new_connections() -> [SockFilter; 4] {
    const FLAGS_AT: u32 = 13;
    const SYN: u32 = 2;
    // See "Linux Socket Filtering aka Berkeley Packet Filter" in the kernel's documentation.
    const LOAD_BYTE: u16 = 0x30;
    const SKIP_UNLESS_SET: u16 = 0x45;
    const RETURN: u16 = 0x06;
    const NOTHING: u32 = 0;
    const ALL: u32 = u32::MAX;
    [
        SockFilter::new(LOAD_BYTE, 0, 0, FLAGS_AT),
        SockFilter::new(SKIP_UNLESS_SET, 0, 1, SYN),
        SockFilter::new(RETURN, 0, 0, NOTHING),
        SockFilter::new(RETURN, 0, 0, ALL),
    ]
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::net::TcpStream;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    use actix_web::{App, web};
    use contract::listener::{self, Limits};

    use super::*;

    /// Connects and sends a request, again and again, until the connection is refused. Returns how many
    /// were answered, and the errors of those that were not.
    fn ask_until_refused(address: SocketAddr, is_over: &AtomicBool) -> (usize, Vec<std::io::Error>) {
        let (mut answered, mut failed) = (0, Vec::new());
        while !is_over.load(Ordering::Relaxed) {
            let Ok(mut stream) = TcpStream::connect(address) else { break };
            let mut answer = Vec::new();
            let sent = stream.write_all(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
            match sent.and_then(|()| stream.read_to_end(&mut answer)) {
                Ok(_) if answer.starts_with(b"HTTP/1.1 404") => answered += 1,
                Ok(_) => failed.push(std::io::ErrorKind::UnexpectedEof.into()),
                Err(error) => failed.push(error),
            }
        }
        (answered, failed)
    }

    #[actix_web::test]
    async fn whoever_connected_before_the_socket_closed_gets_an_answer() {
        for _ in 0..10 {
            let address = SocketAddr::from(([127, 0, 0, 1], 0));
            let (waiting, socket) = Socket::listen(address, 128).unwrap();
            let address = waiting.local_addr().unwrap();
            let server = listener::serve(waiting, Limits::default(), |_, _| {}, App::new).unwrap();
            let handle = server.handle();
            let server = actix_web::rt::spawn(server);
            let is_over = Arc::new(AtomicBool::new(false));
            let clients: Vec<_> = (0..8)
                .map(|_| {
                    let is_over = Arc::clone(&is_over);
                    web::block(move || ask_until_refused(address, &is_over))
                })
                .collect();
            tokio::time::sleep(Duration::from_millis(50)).await;
            socket.close(&handle).await;
            let mut all = 0;
            for client in clients {
                let (answered, failed) = client.await.unwrap();
                assert!(failed.is_empty(), "{failed:?}");
                all += answered;
            }
            assert!(all > 0, "nobody asked");
            is_over.store(true, Ordering::Relaxed);
            handle.stop(true).await;
            server.await.unwrap().unwrap();
        }
    }
}
