//! Tests that no proxy uses HTTP/2 with clients. One HTTP/2 connection can carry hundreds of requests at a
//! time, which the calculation of memory in docs/limits.md does not include.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tests::edge::{REQUESTS_PER_SECOND, Surroundings};
use tests::flood::Kind;
use tests::places::free_port;
use tests::process::Process;
use tests::{Edge, raw};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::{AlertDescription, ClientConfig, Error, RootCertStore};

use crate::floods::survives;
use crate::world::{World, is_here};

each_edge!(a100_nobody_speaks_http2_without_tls);
each_edge!(@through traefik_flood Traefik a100_streams_that_are_reset_do_not_end_the_edge);
each_edge!(@through caddy_flood Caddy a100_streams_that_are_reset_do_not_end_the_edge);
each_edge!(@through envoy_flood EnvoyHttp a100_streams_that_are_reset_do_not_end_the_edge);

/// The first bytes of an HTTP/2 client (RFC 9113 §3.4), with an empty SETTINGS frame.
const START: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

/// Frame types (RFC 9113 §6).
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;

pub(crate) async fn a100_nobody_speaks_http2_without_tls(edge: Edge) {
    let world = World::start(edge).await;
    let mut stream = TcpStream::connect(("127.0.0.1", world.stack.port)).await.unwrap();
    stream.write_all(START).await.unwrap();
    // A server that supports HTTP/2 sends its settings before anything else, and keeps the connection open.
    let mut answer = Vec::new();
    let read = stream.read_to_end(&mut answer);
    let ended = tokio::time::timeout(Duration::from_secs(20), read).await;
    assert_ne!(answer.get(3), Some(&SETTINGS), "{edge}: {answer:?}");
    assert!(ended.is_ok(), "the connection stays open: {answer:?}");

    let upgrade =
        [("Connection", "Upgrade, HTTP2-Settings"), ("Upgrade", "h2c"), ("HTTP2-Settings", "AAMAAABk")];
    let headers = [("Host", world.host.as_str())].into_iter().chain(upgrade).collect::<Vec<_>>();
    let answer = raw::ask(world.stack.port, "GET", "/login", &headers).await;
    assert_ne!(answer.map(|answer| answer.status), Some(101), "{edge}");
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

pub(crate) async fn a100_streams_that_are_reset_do_not_end_the_edge(edge: Edge) {
    // `POST /token` in HPACK, literally (RFC 7541 §6.2.2), with the flag END_HEADERS.
    let head = b"\x83\x86\x04\x06/token\x01\x09localhost";
    let streams = (0..5000_u32).flat_map(|number| {
        let stream = 2 * number + 1;
        [frame(HEADERS, 4, stream, head), frame(RST_STREAM, 0, stream, &[0, 0, 0, 8])].concat()
    });
    let bytes = START.iter().copied().chain(streams).collect();
    let kinds = [(Kind::Bytes(bytes), 200)];
    survives(edge, "a100_streams_that_are_reset_do_not_end_the_edge", &kinds).await;
}

/// The error with which a TLS handshake ends if the client offers only this protocol (RFC 7301).
async fn offered(port: u16, protocol: &[u8]) -> Error {
    let mut config =
        ClientConfig::builder().with_root_certificates(RootCertStore::empty()).with_no_client_auth();
    config.alpn_protocols = vec![protocol.to_vec()];
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        if let Ok(stream) = TcpStream::connect(("127.0.0.1", port)).await {
            let name = ServerName::try_from("localhost").unwrap();
            let error = TlsConnector::from(Arc::new(config.clone())).connect(name, stream).await.unwrap_err();
            let error = error.into_inner().and_then(|error| error.downcast::<Error>().ok());
            // While the proxy starts, it closes connections or has no certificate.
            match error.map(|error| *error) {
                Some(error) if error != Error::AlertReceived(AlertDescription::InternalError) => {
                    return error;
                }
                _ => {}
            }
        }
        assert!(Instant::now() < deadline, "there is no TLS on port {port}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

async fn offers_http1_only(edge: Edge, name: &str, port: u16, changes: &[(&str, String)]) {
    if !is_here(edge, name) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let around = Surroundings {
        dir: dir.path().to_owned(),
        port,
        secret: "edge-secret-0123456789abcdef-0123456789".to_owned(),
        issuer_path: String::new(),
        auth_address: "127.0.0.1".to_owned(),
        wrapper_address: "127.0.0.1".to_owned(),
        auth_public_port: free_port(),
        auth_edge_port: free_port(),
        auth_edge_grpc_port: free_port(),
        wrapper_port: free_port(),
        requests_per_second: REQUESTS_PER_SECOND,
    };
    let changes: Vec<_> = changes.iter().map(|(from, to)| ((*from).to_owned(), to.clone())).collect();
    let process = Process::start(edge.name(), &mut edge.command(&around, &changes), dir.path());
    // The client does not trust the certificate that the proxy has created. It detects this after the protocol
    // has been negotiated.
    let error = offered(port, b"http/1.1").await;
    assert!(matches!(error, Error::InvalidCertificate(_)), "{error}\n{}", process.log_tail());
    // Traefik reads its dynamic configuration shortly after it has started to listen, and serves nothing before
    // that.
    let refused = Error::AlertReceived(AlertDescription::NoApplicationProtocol);
    let deadline = Instant::now() + Duration::from_secs(10);
    let mut error = offered(port, b"h2").await;
    while error != refused && Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(100)).await;
        error = offered(port, b"h2").await;
    }
    assert_eq!(error, refused, "{}", process.log_tail());
}

#[tokio::test]
async fn a100_traefik_does_not_offer_http2_with_tls() {
    let name = "http2::a100_traefik_does_not_offer_http2_with_tls";
    offers_http1_only(Edge::Traefik, name, free_port(), &[("@TLS@", "tls: {}".to_owned())]).await;
}

#[tokio::test]
async fn a100_caddy_does_not_offer_http2_with_tls() {
    let (name, port) = ("http2::a100_caddy_does_not_offer_http2_with_tls", free_port());
    let changes = [
        ("\tauto_https off\n", "\tauto_https disable_redirects\n\tskip_install_trust\n".to_owned()),
        ("@EDGE_SITE@ {\n", format!("https://localhost:{port} {{\n\ttls internal\n")),
    ];
    offers_http1_only(Edge::Caddy, name, port, &changes).await;
}
