//! Detects when the client of a response disconnects. The HTTP server itself detects it only when it writes. A
//! disconnect cancels a stateless request.

use std::pin::Pin;

use actix_web::HttpRequest;
use actix_web::rt::net::TcpStream;
use tokio::io::Interest;

use crate::connection::Connection;

/// Completes when the client has closed its side of the connection.
pub(super) type Disconnect = Pin<Box<dyn Future<Output = ()>>>;

/// Watches the connection of a request.
pub(super) fn watch(request: &HttpRequest) -> Disconnect {
    let socket = request.conn_data::<Connection>().and_then(|connection| connection.socket.try_clone().ok());
    Box::pin(async move {
        match socket.map(|socket| TcpStream::from_std(socket.into())) {
            Some(Ok(socket)) => closed(&socket).await,
            _ => std::future::pending().await,
        }
    })
}

async fn closed(socket: &TcpStream) {
    while let Ok(ready) = socket.ready(Interest::READABLE).await {
        if ready.is_read_closed() {
            return;
        }
        // The data might be the next request. It is read elsewhere, so only the readiness is cleared here.
        let forget = || Err::<(), _>(std::io::ErrorKind::WouldBlock.into());
        let _ = socket.try_io(Interest::READABLE, forget);
    }
}
