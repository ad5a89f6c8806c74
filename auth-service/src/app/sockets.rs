//! The listening sockets of the HTTP servers. They can be closed to new connections while the servers still
//! answer on the connections that they have.
//!
//! The servers cannot do this themselves: when one stops, connections that it has accepted and not yet looked at
//! are dropped together with the listening socket. A proxy that has just sent a request on such a connection
//! cannot tell whether it was processed, and many do not repeat it.

use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

use actix_web::dev::ServerHandle;
use rustix::net::{Shutdown, listen, shutdown};

/// Time that the thread that accepts connections might need to notice that it is paused.
const PAUSE: Duration = Duration::from_millis(1);

/// A second handle to a listening socket.
pub struct Socket(TcpListener);

impl Socket {
    /// Listens on an address. `backlog` is the maximum number of connections that wait to be accepted.
    /// Returns the listener for the server, and the second handle to its socket.
    pub(super) fn listen(address: SocketAddr, backlog: i32) -> std::io::Result<(TcpListener, Self)> {
        let listener = TcpListener::bind(address)?;
        // A socket that already listens accepts a new backlog (listen(2)).
        listen(&listener, backlog)?;
        let second = listener.try_clone()?;
        Ok((listener, Self(second)))
    }

    /// From now on, the system refuses new connections, so that a proxy turns to another replica at once. The
    /// server still answers on the connections that it has.
    pub async fn close(&self, server: &ServerHandle) {
        // Without the pause, the server would report an error because the socket does not listen.
        server.pause().await;
        tokio::time::sleep(PAUSE).await;
        if let Err(error) = shutdown(&self.0, Shutdown::Read) {
            tracing::debug!(%error, "a socket stays open to new connections until its server stops");
        }
    }
}
