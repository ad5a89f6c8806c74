//! HTTP/1.1 listeners of both programs. They do what `actix_web::HttpServer` does, but read each connection at the pace
//! at which the server can answer.

mod paced;
pub mod pipelining;

use std::fmt::Debug;
use std::future::ready;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use actix_http::header::{CONTENT_LENGTH, TRANSFER_ENCODING};
use actix_http::{Extensions, HttpMessage as _, HttpService, KeepAlive, Request, Response};
use actix_server::Server;
use actix_service::{
    IntoServiceFactory, Service as _, ServiceFactory, ServiceFactoryExt as _, apply_fn_factory,
};
use actix_service::{fn_service, map_config};
use actix_web::Error;
use actix_web::body::MessageBody;
use actix_web::dev::AppConfig;
use tokio::net::TcpStream;

use paced::{Expected, Paced};

/// The limits of a listener.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// The number of threads.
    pub workers: usize,
    /// The number of connections that a thread has at the same time. Further ones wait to be accepted.
    pub connections: usize,
    /// What becomes of a connection after a response.
    pub keep_alive: KeepAlive,
    /// Time within which the first request head of a connection must arrive.
    pub head_timeout: Duration,
    /// Time limit for closing a connection.
    pub close_timeout: Duration,
    /// Whether a client can close its side of a connection and still get the response.
    pub half_closed: bool,
    /// Time limit for requests in progress after the listener was told to stop, in seconds.
    pub shutdown_timeout: u64,
}

impl Default for Limits {
    /// The defaults of `HttpServer`, with one thread.
    fn default() -> Self {
        Self {
            workers: 1,
            connections: 25_600,
            keep_alive: KeepAlive::default(),
            head_timeout: Duration::from_secs(5),
            close_timeout: Duration::from_secs(1),
            half_closed: true,
            shutdown_timeout: 30,
        }
    }
}

/// Listens on an address. At most `backlog` connections wait to be accepted, and the system refuses further ones.
///
/// # Errors
/// If the address cannot be used.
pub fn bind(address: SocketAddr, backlog: i32) -> io::Result<TcpListener> {
    let socket = TcpListener::bind(address)?;
    // A socket that already listens accepts a new backlog (listen(2)).
    rustix::net::listen(&socket, backlog)?;
    Ok(socket)
}

/// Starts to serve on a socket that listens. `on_connect` is called for each connection, on the thread that serves it.
///
/// # Errors
/// If the socket cannot be used.
pub fn serve<A, I, S, B, C>(socket: TcpListener, limits: Limits, on_connect: C, app: A) -> io::Result<Server>
where
    A: Fn() -> I + Clone + Send + 'static,
    I: IntoServiceFactory<S, Request>,
    S: ServiceFactory<Request, Config = AppConfig> + 'static,
    S::Error: Into<Error> + 'static,
    S::InitError: Debug,
    S::Response: Into<Response<B>> + 'static,
    B: MessageBody + 'static,
    C: Fn(&TcpStream, &mut Extensions) + Send + Sync + 'static,
{
    let (address, on_connect) = (socket.local_addr()?, Arc::new(on_connect));
    let server = Server::build()
        .workers(limits.workers)
        .max_concurrent_connections(limits.connections)
        .shutdown_timeout(limits.shutdown_timeout)
        .disable_signals();
    let stopping = server.graceful_shutdown_signal();
    let server = server.listen(address.to_string(), socket, move || {
        let (on_connect, stopping) = (Arc::clone(&on_connect), stopping.clone());
        let app = app().into_factory().map_err(|error| error.into().error_response());
        let app = apply_fn_factory(map_config(app, |()| AppConfig::default()), |request: Request, app| {
            note_length(&request);
            app.call(request)
        });
        let http = HttpService::build()
            .keep_alive(limits.keep_alive)
            .client_request_timeout(limits.head_timeout)
            .client_disconnect_timeout(limits.close_timeout)
            .h1_allow_half_closed(limits.half_closed)
            .local_addr(address)
            .graceful_shutdown_signal(move || {
                let stopping = stopping.clone();
                async move { stopping.notified().await }
            })
            .on_connect_ext(move |connection: &Paced<TcpStream>, extensions: &mut Extensions| {
                extensions.insert(connection.expected());
                pipelining::expect_requests(extensions);
                on_connect(connection.stream(), extensions);
            })
            .h1(app);
        fn_service(|stream: TcpStream| {
            // Small parts of a response must not wait for the peer to acknowledge others.
            let _ = stream.set_nodelay(true);
            let peer = stream.peer_addr().ok();
            ready(Ok((Paced::new(stream), peer)))
        })
        .and_then(http)
    })?;
    Ok(server.run())
}

/// Records the length of the body that follows a request head, if it has one.
fn note_length(request: &Request) {
    let Some(expected) = request.conn_data::<Expected>() else { return };
    let length =
        request.headers().get(CONTENT_LENGTH).filter(|_| !request.headers().contains_key(TRANSFER_ENCODING));
    let length = length.and_then(|length| length.to_str().ok()?.parse().ok());
    expected.set(length.unwrap_or(0));
}
