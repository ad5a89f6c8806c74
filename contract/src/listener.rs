//! The HTTP/1.1 listeners of both programs. They work like `actix_web::HttpServer`, but read each connection only
//! as fast as the server can respond.

mod holding;
mod paced;
pub mod pipelining;
mod socket;

use std::fmt::Debug;
use std::future::ready;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use actix_http::error::DispatchError;
use actix_http::header::{CONTENT_LENGTH, TRANSFER_ENCODING};
use actix_http::{ConnectionType, Extensions, HttpMessage as _, HttpService, KeepAlive, Request, Response};
use actix_server::Server;
use actix_service::{
    IntoServiceFactory, Service as _, ServiceFactory, ServiceFactoryExt as _, apply_fn_factory,
};
use actix_service::{fn_service, map_config};
use actix_web::body::MessageBody;
use actix_web::dev::AppConfig;
use actix_web::{Error, HttpResponse};
use rustix::io::Errno;
use rustix::net::{RecvFlags, recv};
use tokio::net::TcpStream;

pub use holding::hold;
use paced::{Activity, Paced, UnderWay};
pub use socket::Socket;

/// The limits of a listener.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// The number of threads that serve connections.
    pub workers: usize,
    /// The maximum number of concurrent connections per thread. Further ones wait to be accepted.
    pub connections: usize,
    /// How long an idle connection stays open after a response.
    pub keep_alive: KeepAlive,
    /// Time within which the first request head of a connection must arrive.
    pub head_timeout: Duration,
    /// Time limit for closing a connection.
    pub close_timeout: Duration,
    /// Whether a client can close its side of a connection and still get the response.
    pub half_closed: bool,
    /// Time limit in seconds for requests that are in progress when the listener is stopped.
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

/// Listens on an address. At most `backlog` connections can wait to be accepted. The operating system refuses
/// further ones.
///
/// # Errors
/// Fails if the address cannot be used.
pub fn bind(address: SocketAddr, backlog: i32) -> io::Result<TcpListener> {
    let socket = TcpListener::bind(address)?;
    // Calling listen(2) on a listening socket changes its backlog.
    rustix::net::listen(&socket, backlog)?;
    Ok(socket)
}

/// Starts to serve on a listening socket. `on_connect` is called for each connection, on the thread that serves
/// it.
///
/// # Errors
/// Fails if the socket cannot be used.
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
        let app = app().into_factory().map_err(|error: S::Error| error.into().error_response());
        let app = apply_fn_factory(map_config(app, |()| AppConfig::default()), |request: Request, app| {
            // A client can send a request before it learns that the previous one was the last on this connection. It
            // must then assume that the request was not processed (RFC 9112 §9.6), and might send it again on another
            // connection. Therefore, the request is refused.
            let activity = request.conn_data::<Activity>().cloned().unwrap_or_default();
            let begun = (!activity.has_ended()).then(|| (begin(&request, &activity), app.call(request)));
            async move {
                let Some((under_way, response)) = begun else {
                    let mut refused = HttpResponse::BadRequest().finish();
                    refused.head_mut().set_connection_type(ConnectionType::Close);
                    return Err(refused);
                };
                let mut response: Result<Response<B>, HttpResponse> = response.await.map(Into::into);
                let head = match &mut response {
                    Ok(response) => response.head_mut(),
                    Err(error) => error.head_mut(),
                };
                if head.connection_type() == ConnectionType::Close {
                    activity.end();
                }
                if activity.has_ended() {
                    head.set_connection_type(ConnectionType::Close);
                }
                response.map(|response| response.map_body(|_, body| hold(body, under_way)))
            }
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
                extensions.insert(connection.activity());
                pipelining::expect_requests(extensions);
                on_connect(connection.stream(), extensions);
            })
            .h1(app);
        fn_service(|stream: TcpStream| {
            if has_left(&stream) {
                return ready(Err(DispatchError::DisconnectTimeout));
            }
            // Small parts of a response must not wait until the peer has acknowledged earlier ones.
            let _ = stream.set_nodelay(true);
            let peer = stream.peer_addr().ok();
            ready(Ok((Paced::new(stream), peer)))
        })
        .and_then(http)
    })?;
    Ok(server.run())
}

/// Whether the peer has already closed the connection without sending anything. Setting up such a connection takes
/// much more time than this check, and connections that arrive later wait for it.
fn has_left(stream: &TcpStream) -> bool {
    let peeked = recv(stream, &mut [0; 1][..], RecvFlags::PEEK | RecvFlags::DONTWAIT);
    match peeked {
        Ok((_, count)) => count == 0,
        Err(error) => error != Errno::AGAIN,
    }
}

/// Records that a request has been received. It is in progress until its response has been sent. It is the last
/// request on its connection if its client says so, and if its body is chunked, because the length of such a body is
/// unknown, so it could not be distinguished from the requests that follow.
fn begin(request: &Request, activity: &Activity) -> UnderWay {
    let is_chunked = request.headers().contains_key(TRANSFER_ENCODING);
    if is_chunked || request.head().connection_type() == ConnectionType::Close {
        activity.end();
    }
    let length = request.headers().get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
    activity.begin(if is_chunked { None } else { Some(length.unwrap_or(0)) })
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::io::{ErrorKind, Write as _};
    use std::sync::atomic::{AtomicUsize, Ordering};

    use actix_web::error::InternalError;
    use rustix::net::sockopt::{set_socket_recv_buffer_size, set_socket_send_buffer_size};
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    /// Sends this request and two further ones at once. The response to a request for `/last` closes the connection,
    /// and a request for `/error` fails in the same way. Returns the number of requests that were processed.
    async fn processed(first: &str) -> usize {
        let socket = bind("127.0.0.1:0".parse().unwrap(), 16).unwrap();
        let address = socket.local_addr().unwrap();
        let calls = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&calls);
        let app = move || {
            let count = Arc::clone(&count);
            fn_service(move |request: Request| {
                count.fetch_add(1, Ordering::SeqCst);
                let mut response = HttpResponse::Ok();
                let is_error = request.path() == "/error";
                if is_error || request.path() == "/last" {
                    response.force_close();
                }
                let response = response.finish();
                let error = |response| InternalError::from_response("failed", response);
                ready(if is_error { Err(error(response)) } else { Ok(response) })
            })
        };
        actix_web::rt::spawn(serve(socket, Limits::default(), |_, _| {}, app).unwrap());
        let mut client = TcpStream::connect(address).await.unwrap();
        let further = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n";
        let last = "POST /last HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n";
        client.write_all(format!("{first}{further}{last}").as_bytes()).await.unwrap();
        let mut answers = String::new();
        client.read_to_string(&mut answers).await.unwrap();
        assert!(answers.starts_with("HTTP/1.") && answers.contains(" 200 OK"), "{answers}");
        calls.load(Ordering::SeqCst)
    }

    #[actix_web::test]
    async fn a090_no_request_after_one_with_a_chunked_body_is_processed() {
        let chunked = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n\r\n";
        assert_eq!(processed(chunked).await, 1);
    }

    /// A client can assume that such a request was not processed, and send it again (RFC 9112 §9.6).
    #[actix_web::test]
    async fn no_request_after_the_last_one_of_a_connection_is_processed() {
        let post = |path: &str, header: &str| {
            format!("POST {path} HTTP/1.1\r\nHost: a\r\n{header}Content-Length: 2\r\n\r\nab")
        };
        assert_eq!(processed(&post("/", "")).await, 3);
        assert_eq!(processed(&post("/last", "")).await, 1);
        assert_eq!(processed(&post("/error", "")).await, 1);
        assert_eq!(processed(&post("/", "Connection: close\r\n")).await, 1);
        assert_eq!(processed("GET / HTTP/1.0\r\n\r\n").await, 1);
    }

    #[actix_web::test]
    async fn a100_a_connection_that_has_been_closed_again_without_a_request_is_not_set_up() {
        let socket = bind("127.0.0.1:0".parse().unwrap(), 16).unwrap();
        let address = socket.local_addr().unwrap();
        let reset = TcpStream::connect(address).await.unwrap();
        reset.set_zero_linger().unwrap();
        drop(reset);
        drop(TcpStream::connect(address).await.unwrap());
        let mut half_closed = TcpStream::connect(address).await.unwrap();
        half_closed.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
        half_closed.shutdown().await.unwrap();
        let set_up = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&set_up);
        let on_connect = move |_: &TcpStream, _: &mut Extensions| {
            count.fetch_add(1, Ordering::SeqCst);
        };
        let app = || fn_service(async |_: Request| Ok::<_, Infallible>(HttpResponse::Ok().finish()));
        // The connections are accepted in the order in which they were opened.
        actix_web::rt::spawn(serve(socket, Limits::default(), on_connect, app).unwrap());
        let mut answer = String::new();
        half_closed.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        assert_eq!(set_up.load(Ordering::SeqCst), 1);
    }

    /// The kernel buffers a few kilobytes on both sides. The HTTP server on its own would read and decode 128 KiB.
    #[actix_web::test]
    async fn a100_requests_that_are_sent_ahead_stay_with_their_sender() {
        let socket = bind("127.0.0.1:0".parse().unwrap(), 16).unwrap();
        set_socket_recv_buffer_size(&socket, 4096).unwrap();
        let address = socket.local_addr().unwrap();
        let never = || {
            fn_service(async |_: Request| std::future::pending::<Result<HttpResponse, Infallible>>().await)
        };
        actix_web::rt::spawn(serve(socket, Limits::default(), |_, _| {}, never).unwrap());
        for head in
            ["GET / HTTP/1.1\r\nHost: a\r\n\r\n", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nab"]
        {
            let mut client = std::net::TcpStream::connect(address).unwrap();
            set_socket_send_buffer_size(&client, 4096).unwrap();
            client.set_nonblocking(true).unwrap();
            let (requests, mut sent) = (head.repeat(20_000), 0);
            for _ in 0..100 {
                loop {
                    match client.write(&requests.as_bytes()[sent..]) {
                        Ok(count) => sent += count,
                        Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                        Err(error) => panic!("{error}"),
                    }
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            assert!(sent < 64 << 10, "the server has read {sent} bytes of requests");
        }
    }
}
