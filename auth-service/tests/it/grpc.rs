//! Tests of the check over gRPC, as Envoy sends it.

use envoy_types::pb::envoy::config::core::v3::{HeaderMap, HeaderValue};
use envoy_types::pb::envoy::service::auth::v3::attribute_context::{HttpRequest, Request};
use envoy_types::pb::envoy::service::auth::v3::authorization_client::AuthorizationClient;
use envoy_types::pb::envoy::service::auth::v3::check_response::HttpResponse;
use envoy_types::pb::envoy::service::auth::v3::{AttributeContext, CheckRequest, CheckResponse};
use http_body_util::channel::{Channel as Bytewise, Sender};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tonic::body::Body;
use tonic::codegen::{Bytes, Service, http};
use tonic::transport::Channel;

use super::app::{EDGE_SECRET, TestApp};

async fn start() -> TestApp {
    TestApp::start_with(&[("EDGE_GRPC_LISTEN", "127.0.0.1:0")]).await
}

async fn envoy(app: &TestApp) -> AuthorizationClient<Channel> {
    let address = app.edge_grpc.as_ref().unwrap().address;
    AuthorizationClient::connect(format!("http://{address}")).await.unwrap()
}

fn asked(method: &str, host: &str, path: &str, headers: &[(&str, &str)]) -> CheckRequest {
    let headers = headers.iter().map(|(key, value)| HeaderValue {
        key: (*key).to_owned(),
        raw_value: value.as_bytes().to_vec(),
        ..Default::default()
    });
    let http = HttpRequest {
        method: method.to_owned(),
        host: host.to_owned(),
        path: path.to_owned(),
        scheme: "https".to_owned(),
        header_map: Some(HeaderMap { headers: headers.collect() }),
        ..Default::default()
    };
    let request = Some(Request { http: Some(http), ..Default::default() });
    CheckRequest { attributes: Some(AttributeContext { request, ..Default::default() }) }
}

/// The response to a check that carries these secrets in its metadata.
async fn answer(app: &TestApp, check: CheckRequest, secrets: &[&str]) -> CheckResponse {
    let mut request = tonic::Request::new(check);
    for secret in secrets {
        request.metadata_mut().append("x-edge-secret", secret.parse().unwrap());
    }
    envoy(app).await.check(request).await.unwrap().into_inner()
}

/// The status and the headers of the response. An allowed check has status 200.
fn told(response: CheckResponse) -> (i32, Vec<(String, String)>) {
    let (status, headers) = match response.http_response.unwrap() {
        HttpResponse::OkResponse(ok) => (200, ok.headers),
        HttpResponse::DeniedResponse(denied) => (denied.status.unwrap().code, denied.headers),
        HttpResponse::ErrorResponse(_) => panic!("an error"),
    };
    assert_eq!(response.status.unwrap().code == 0, status == 200);
    let headers = headers.into_iter().filter_map(|option| option.header);
    (status, headers.map(|header| (header.key, header.value)).collect())
}

#[actix_web::test]
async fn a076_over_grpc_the_answer_is_the_one_over_http() {
    let app = start().await;
    let client = app.client().await;
    let token = app.tokens(&client).await.access;
    for credentials in [Some(token.as_str()), Some("wrong"), None] {
        for (method, origin) in [("POST", None), ("GET", Some("https://app.example")), ("OPTIONS", None)] {
            let bearer = credentials.map(|token| format!("Bearer {token}"));
            let mut headers = vec![];
            headers.extend(bearer.as_deref().map(|value| ("authorization", value)));
            headers.extend(origin.map(|value| ("origin", value)));
            let (status, mut over_grpc) =
                told(answer(&app, asked(method, "mcp.example", "/mcp?x", &headers), &[EDGE_SECRET]).await);
            let request = app.check_by("envoy", method, "mcp.example", "/mcp?x");
            let request =
                headers.iter().fold(request, |request, (name, value)| request.header(*name, *value));
            let response = request.send().await.unwrap();
            assert_eq!(i32::from(response.status().as_u16()), status);
            let mut over_http: Vec<_> = response
                .headers()
                .iter()
                .map(|(name, value)| (name.to_string(), value.to_str().unwrap().to_owned()))
                .filter(|(name, _)| name != "date" && name != "content-length")
                // Over gRPC, the headers of an allowed request are those that Envoy puts into it.
                .filter(|(name, _)| status != 200 || name != "cache-control")
                .collect();
            over_http.sort();
            over_grpc.sort();
            assert_eq!(over_http, over_grpc);
        }
    }
}

#[actix_web::test]
async fn a069_a_stranger_is_refused_over_grpc() {
    let app = start().await;
    let client = app.client().await;
    let bearer = format!("Bearer {}", app.tokens(&client).await.access);
    let check = asked("POST", "mcp.example", "/mcp", &[("authorization", &bearer)]);
    for secrets in [&[][..], &["wrong"], &[EDGE_SECRET, EDGE_SECRET], &[""]] {
        assert_eq!(told(answer(&app, check.clone(), secrets).await).0, 403, "{secrets:?}");
    }
    // A secret in the client's own headers has no effect.
    let smuggled =
        asked("POST", "mcp.example", "/mcp", &[("authorization", &bearer), ("x-edge-secret", EDGE_SECRET)]);
    assert_eq!(told(answer(&app, smuggled, &[]).await).0, 403);
    assert_eq!(told(answer(&app, check, &[EDGE_SECRET]).await).0, 200);
}

#[actix_web::test]
async fn a070_a071_a072_a078_a080_a081_over_grpc_what_has_two_readings_is_refused() {
    let app = start().await;
    let client = app.client().await;
    let bearer = format!("Bearer {}", app.tokens(&client).await.access);
    let good = ("authorization", bearer.as_str());
    for (method, host, path, header) in [
        ("POST", "mcp.example", "//mcp", good),
        ("POST", "mcp.example", "/mcp/../mcp", good),
        ("POST", "mcp.example", "/mcp%2fx", good),
        ("POST", "mcp.example", "/mcp#x", good),
        ("POST", "mcp.example", "", good),
        ("POST", "evil.example", "/mcp", good),
        ("POST", "mcp.example@evil.example", "/mcp", good),
        ("POST", "", "/mcp", good),
        ("PUT", "mcp.example", "/mcp", good),
        ("OPTIONS", "mcp.example", "/mcp", good),
        ("", "mcp.example", "/mcp", good),
        ("POST", "mcp.example", "/mcp", ("x_auth_subject", "admin")),
    ] {
        let check = asked(method, host, path, &[good, header]);
        let (status, _) = told(answer(&app, check, &[EDGE_SECRET]).await);
        assert!([400, 401, 403, 405].contains(&status), "{method} {host}{path} {header:?}: {status}");
    }
    assert_eq!(told(answer(&app, CheckRequest::default(), &[EDGE_SECRET]).await).0, 400);
}

#[actix_web::test]
async fn a040_a_check_of_any_size_is_answered_or_refused() {
    let app = start().await;
    let large = "x".repeat(300 * 1024);
    let mut request = tonic::Request::new(asked("POST", "mcp.example", "/mcp", &[("cookie", &large)]));
    request.metadata_mut().append("x-edge-secret", EDGE_SECRET.parse().unwrap());
    let refused = envoy(&app).await.check(request).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::OutOfRange);
    let many = "x".repeat(100 * 1024);
    let fits = asked("POST", "mcp.example", "/mcp", &[("cookie", &many)]);
    assert_eq!(told(answer(&app, fits, &[EDGE_SECRET]).await).0, 401);
}

#[actix_web::test]
async fn the_grpc_listener_says_that_it_is_well_and_stops_when_told() {
    let mut app = start().await;
    let listener = app.edge_grpc.take().unwrap();
    let url = format!("http://{}", listener.address);
    let channel = Channel::from_shared(url.clone()).unwrap().connect().await.unwrap();
    let mut health = tonic_health::pb::health_client::HealthClient::new(channel.clone());
    let service = "envoy.service.auth.v3.Authorization".to_owned();
    let status = health.check(tonic_health::pb::HealthCheckRequest { service }).await.unwrap().into_inner();
    assert_eq!(status.status(), tonic_health::pb::health_check_response::ServingStatus::Serving);
    listener.stop(std::time::Duration::from_secs(10)).await;
    assert!(AuthorizationClient::connect(url).await.is_err(), "the listener was not closed");
}

const CHECK: &str = "/envoy.service.auth.v3.Authorization/Check";
const HEALTH: &str = "/grpc.health.v1.Health/Check";

/// A call that has sent only a part of its message. It stays open until `_sender` is dropped.
struct Unfinished {
    _sender: Sender<Bytes>,
    answer: tokio::task::JoinHandle<Result<http::Response<Body>, tonic::transport::Error>>,
}

async fn begin(channel: &Channel, method: &str, secret: Option<&str>) -> Unfinished {
    let (mut sender, body) = Bytewise::<Bytes>::new(1);
    let mut call =
        http::Request::post(method).header("content-type", "application/grpc").header("te", "trailers");
    if let Some(secret) = secret {
        call = call.header("x-edge-secret", secret);
    }
    let call = call.body(Body::new(body)).unwrap();
    let mut channel = channel.clone();
    let answer = tokio::spawn(async move {
        std::future::poll_fn(|context| channel.poll_ready(context)).await?;
        channel.call(call).await
    });
    // The prefix announces a message of 1000 bytes, of which only the first is sent.
    sender.send_data(Bytes::from_static(&[0, 0, 0, 3, 232, 1])).await.unwrap();
    tokio::task::yield_now().await;
    Unfinished { _sender: sender, answer }
}

async fn connection(app: &TestApp) -> Channel {
    let address = app.edge_grpc.as_ref().unwrap().address;
    Channel::from_shared(format!("http://{address}")).unwrap().connect().await.unwrap()
}

/// Starts `calls` calls, 200 on each connection, until one of them is refused. Returns the other calls.
async fn until_refused(app: &TestApp, calls: usize, method: &str, secret: Option<&str>) -> Vec<Unfinished> {
    let mut under_way = Vec::new();
    while under_way.len() < calls {
        let channel = connection(app).await;
        for _ in 0..200 {
            under_way.push(begin(&channel, method, secret).await);
        }
    }
    for _ in 0..600 {
        while let Some(at) = under_way.iter().position(|call| call.answer.is_finished()) {
            let answer = under_way.swap_remove(at).answer.await.unwrap().unwrap();
            // A call that reached its time limit has a different status.
            if answer.headers().get("grpc-status").is_some_and(|status| status == "14") {
                return under_way;
            }
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    panic!("no call was refused");
}

#[actix_web::test]
async fn a100_calls_over_grpc_that_do_not_end_are_refused_beyond_their_places() {
    let app = start().await;
    // Calls without the edge secret do not occupy the slots reserved for the edge.
    let others = until_refused(&app, 200, HEALTH, None).await;
    let check = asked("POST", "mcp.example", "/mcp", &[]);
    assert_eq!(told(answer(&app, check.clone(), &[EDGE_SECRET]).await).0, 401);
    let of_edge = until_refused(&app, 2000, CHECK, Some(EDGE_SECRET)).await;
    drop((others, of_edge));
    // Closing the connections frees the slots.
    for _ in 0..600 {
        let mut request = tonic::Request::new(check.clone());
        request.metadata_mut().append("x-edge-secret", EDGE_SECRET.parse().unwrap());
        match envoy(&app).await.check(request).await {
            Ok(answer) => return assert_eq!(told(answer.into_inner()).0, 401),
            Err(status) => assert_eq!(status.code(), tonic::Code::Unavailable),
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    panic!("the slots were not freed");
}

/// An HTTP/2 client can keep the server from sending a response (flow control, RFC 9113 §5.2).
#[actix_web::test]
async fn a100_answers_over_grpc_that_are_not_taken_hold_no_places() {
    let app = start().await;
    let address = app.edge_grpc.as_ref().unwrap().address;
    let check = asked("POST", "mcp.example", "/mcp", &[]);
    let mut held = Vec::new();
    let mut is_full = false;
    for _ in 0..600 {
        if !is_full {
            let endpoint = Channel::from_shared(format!("http://{address}")).unwrap();
            let channel = endpoint.initial_stream_window_size(0).connect().await.unwrap();
            for _ in 0..200 {
                let mut request = tonic::Request::new(check.clone());
                request.metadata_mut().append("x-edge-secret", EDGE_SECRET.parse().unwrap());
                let mut client = AuthorizationClient::new(channel.clone());
                held.push(tokio::spawn(async move { client.check(request).await }));
            }
        }
        let mut request = tonic::Request::new(check.clone());
        request.metadata_mut().append("x-edge-secret", EDGE_SECRET.parse().unwrap());
        match envoy(&app).await.check(request).await {
            Ok(answer) => {
                assert_eq!(told(answer.into_inner()).0, 401);
                if is_full {
                    return;
                }
            }
            Err(status) => {
                assert_eq!(status.code(), tonic::Code::Unavailable);
                is_full = true;
            }
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    panic!("{}", if is_full { "the slots were not freed" } else { "the slots were never full" });
}

#[actix_web::test]
async fn a100_who_lacks_the_secret_is_answered_before_the_message_has_come() {
    let app = start().await;
    let channel = connection(&app).await;
    for secret in [None, Some("wrong")] {
        let call = begin(&channel, CHECK, secret).await;
        let answer = call.answer.await.unwrap().unwrap();
        // If the call had ended at its time limit, the headers would contain a `grpc-status`.
        assert_eq!(answer.headers().get("grpc-status"), None, "{answer:?}");
    }
    let watched = begin(&channel, "/grpc.health.v1.Health/Watch", None).await.answer.await.unwrap().unwrap();
    assert_eq!(watched.headers()["grpc-status"], "12", "a watch would never end");
}

#[actix_web::test]
async fn a069_a_connection_from_outside_the_networks_of_the_edge_is_closed() {
    let app =
        TestApp::start_with(&[("EDGE_GRPC_LISTEN", "127.0.0.1:0"), ("TRUSTED_PROXIES", "10.9.9.9/32")]).await;
    let address = app.edge_grpc.as_ref().unwrap().address;
    let mut stream = TcpStream::connect(address).await.unwrap();
    let read = tokio::io::AsyncReadExt::read_to_end(&mut stream, &mut Vec::new()).await;
    // The listener closes the connection immediately, before the client has sent any data.
    assert_eq!(read.unwrap_or(0), 0);
    let said = AuthorizationClient::connect(format!("http://{address}")).await;
    assert!(said.is_err() || said.unwrap().check(CheckRequest::default()).await.is_err());
}

/// If clients close their connections to Envoy before their requests have been checked, Envoy resets the checks. Other
/// checks on the same connection must not fail because of this.
#[actix_web::test]
async fn a100_checks_that_are_reset_end_no_other_check_on_their_connection() {
    const CHECKS: u32 = 900;
    let app = start().await;
    let mut stream = TcpStream::connect(app.edge_grpc.as_ref().unwrap().address).await.unwrap();
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    bytes.extend(frame(FrameKind::Settings, 0, 0, &[]));
    // The indexes of ":method: POST", ":scheme: http" and ":path: /" in the static table (RFC 7541, appendix A).
    let headers = [0x83, 0x86, 0x84];
    for stream in (0..CHECKS).map(|number| 2 * number + 1) {
        bytes.extend(frame(FrameKind::Headers, END_HEADERS, stream, &headers));
        bytes.extend(frame(FrameKind::RstStream, 0, stream, &CANCEL));
    }
    bytes.extend(frame(FrameKind::Ping, 0, 0, &[7; 8]));
    stream.write_all(&bytes).await.unwrap();
    loop {
        let mut head = [0; 9];
        stream.read_exact(&mut head).await.unwrap();
        let [_, a, b, kind, flags, ..] = head;
        let mut payload = vec![0; usize::from(u16::from_be_bytes([a, b]))];
        stream.read_exact(&mut payload).await.unwrap();
        assert_ne!(kind, FrameKind::GoAway as u8, "{payload:?}");
        if kind == FrameKind::Ping as u8 && flags == ACK {
            break;
        }
    }
}

/// Flags of an HTTP/2 frame, and an error code (RFC 9113 §6.2, §6.7 and §7).
const END_HEADERS: u8 = 4;
const ACK: u8 = 1;
const CANCEL: [u8; 4] = [0, 0, 0, 8];

/// The type of an HTTP/2 frame (RFC 9113 §6).
#[derive(Clone, Copy)]
enum FrameKind {
    Headers = 1,
    RstStream = 3,
    Settings = 4,
    Ping = 6,
    GoAway = 7,
}

/// An HTTP/2 frame (RFC 9113 §4.1).
fn frame(kind: FrameKind, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut frame = vec![length[1], length[2], length[3], kind as u8, flags];
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}
