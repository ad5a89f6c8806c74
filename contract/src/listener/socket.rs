//! The listening sockets of the servers. They can stop accepting connections while the servers still answer
//! requests on existing connections.
//!
//! The HTTP library cannot do this. When a server stops, it drops the listening socket, and with it the
//! connections that it has accepted but not yet read. A proxy that has just sent a request on such a connection
//! cannot know whether the request has been processed, and many proxies do not repeat it.
//!
//! When a listening socket is closed, the kernel drops the connections waiting to be accepted. Therefore, the
//! socket first ignores new connection attempts until the waiting connections have been accepted. A client repeats
//! an ignored attempt after one second (RFC 6298 §2). By then the socket is closed, and the attempt is refused.

use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

use actix_server::ServerHandle;
use rustix::net::{Shutdown, shutdown};
use socket2::{SockFilter, SockRef};

/// How long the server has to accept the waiting connections while new attempts are ignored.
const LAST_ACCEPTED: Duration = Duration::from_millis(200);

/// The time that the thread that accepts connections gets to notice that it is paused. On a machine with busy
/// processors, a millisecond was too short in one of fifty cases, and the server then logged two errors.
const PAUSE: Duration = Duration::from_millis(100);

/// A second handle to a listening socket.
pub struct Socket(TcpListener);

impl Socket {
    /// Listens on an address. `backlog` is the maximum number of connections waiting to be accepted. Returns the
    /// listener for the server, and a second handle to its socket.
    ///
    /// # Errors
    /// Fails if the address cannot be used.
    pub fn listen(address: SocketAddr, backlog: i32) -> std::io::Result<(TcpListener, Self)> {
        let listener = super::bind(address, backlog)?;
        let second = listener.try_clone()?;
        Ok((listener, Self(second)))
    }

    /// Makes the kernel ignore new connection attempts. Returns when the server has accepted the waiting
    /// connections.
    pub async fn ignore_newcomers(&self) {
        match SockRef::from(&self.0).attach_filter(&without_new_connections()) {
            Ok(()) => tokio::time::sleep(LAST_ACCEPTED).await,
            Err(error) => tracing::debug!(%error, "connections that wait to be accepted might be lost"),
        }
    }

    /// Makes the kernel refuse new connections, so that a proxy immediately tries another replica. The server
    /// still answers requests on existing connections.
    pub async fn close(&self, server: &ServerHandle) {
        self.ignore_newcomers().await;
        // Without the pause, the server would report an error because the socket no longer listens.
        server.pause().await;
        tokio::time::sleep(PAUSE).await;
        if let Err(error) = shutdown(&self.0, Shutdown::Read) {
            tracing::debug!(%error, "a socket stays open to new connections until its server stops");
        }
    }
}

/// A socket filter that drops the first packet (SYN) of each new connection and accepts all other packets. Offsets
/// in a socket filter count from the TCP header (RFC 9293 §3.1).
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
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicBool, Ordering};

    use actix_web::{App, web};
    use tracing::{Event, Level, Subscriber};
    use tracing_subscriber::Layer;
    use tracing_subscriber::layer::{Context, SubscriberExt as _};

    use crate::listener::{self, Limits};

    use super::*;

    /// Repeatedly connects and sends a request until the connection is refused. Returns the number of requests
    /// that got a response, and the errors with which the others failed.
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

    /// Collects the errors that the HTTP library logs. Some of them come from its own threads.
    #[derive(Clone, Default)]
    struct Errors(Arc<Mutex<Vec<String>>>);

    impl<S: Subscriber> Layer<S> for Errors {
        fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
            if *event.metadata().level() == Level::ERROR && event.metadata().target().starts_with("actix") {
                self.0.lock().unwrap().push(format!("{event:?}"));
            }
        }
    }

    #[actix_web::test]
    async fn whoever_connected_before_the_socket_closed_gets_an_answer_and_no_error_is_logged() {
        let errors = Errors::default();
        tracing::subscriber::set_global_default(tracing_subscriber::registry().with(errors.clone())).unwrap();
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
        // An ordinary stop is not an error.
        assert_eq!(*errors.0.lock().unwrap(), [""; 0]);
    }
}
