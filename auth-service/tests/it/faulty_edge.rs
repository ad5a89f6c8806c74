//! A stack behind a small edge proxy with one fault, which the doctor must find.

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;

use actix_web::dev::ServerHandle;
use actix_web::http::StatusCode;
use actix_web::http::header::{HeaderName, HeaderValue};
use actix_web::web::{self, Data, Payload};
use actix_web::{App, HttpRequest, HttpResponse, HttpServer};
use tokio_rustls::TlsAcceptor;

use super::app::{EDGE_SECRET, TestApp};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    None,
    /// The edge forwards requests to the service without a check.
    Unchecked,
    /// The edge forwards GET requests without a check.
    UncheckedGet,
    /// The edge skips the check if the request has the header `X-Auth-Subject`.
    BelievesIdentity,
    /// The edge passes the client's `X-Forwarded-Host` to the check.
    BelievesHost,
    /// The edge resolves dot segments for routing, but checks only the plain path.
    ResolvesDots,
    /// The edge removes the challenge.
    NoChallenge,
    /// The edge does not route requests for the resource metadata.
    NoMetadata,
    /// Another program responds at the path of the resource metadata.
    WrongMetadata,
    /// The metadata names a different authorization server.
    WrongIssuer,
    /// The edge sends a check for OPTIONS requests.
    PreflightChecked,
    /// The edge removes the CORS headers.
    NoCors,
    /// The edge allows credentials in cross-origin requests.
    CorsCredentials,
    /// The edge does not route registration requests.
    NoRegistration,
    /// The edge does not route requests that delete a client.
    NoDeletion,
    /// auth-service is not reachable.
    NoAuthService,
    /// auth-service is reachable neither for checks nor for its own pages.
    Down,
    /// Like `Down`, but GET requests are forwarded without a check.
    DownAndOpen,
    /// The store of auth-service is unavailable, so the status of every request without a token is 503.
    NoStore,
    /// The edge responds to every request with 403, like nginx while the store is unavailable.
    Refuses,
    /// The edge responds to every request with 429, as if the address had sent too many.
    TooMany,
    /// The `Date` header contains a time in 1994.
    Clock,
    /// The edge does not route requests for the key set.
    NoKeys,
    /// The edge does not route requests for the service, as if its path were misspelt.
    NoRoute,
}

struct Edge {
    fault: Fault,
    public: String,
    checks: String,
    origin: String,
    http: reqwest::Client,
}

/// Handles a request like an edge with this fault.
async fn edge(request: HttpRequest, body: Payload, edge: Data<Edge>) -> HttpResponse {
    let target = request.uri().path_and_query().map_or("/", |target| target.as_str()).to_owned();
    let path = request.uri().path();
    let method = request.method().as_str();
    let fault = edge.fault;
    let is_down = matches!(fault, Fault::Down | Fault::DownAndOpen);
    if is_down && !(path == "/mcp" && passes(&edge, &request)) {
        return HttpResponse::BadGateway().body("Bad Gateway");
    }
    if fault == Fault::TooMany {
        return HttpResponse::TooManyRequests().body("local_rate_limited");
    }
    let resolves = fault == Fault::ResolvesDots && path.ends_with("/mcp") && path.contains("..");
    let mut response = if resolves || (path == "/mcp" && passes(&edge, &request)) {
        HttpResponse::Ok().json(serde_json::json!({ "jsonrpc": "2.0", "id": 1, "result": {} }))
    } else if is_missing(fault, method, path) {
        HttpResponse::NotFound().finish()
    } else if path == "/mcp" && (method != "OPTIONS" || fault == Fault::PreflightChecked) {
        check(&edge, &request, &target).await
    } else {
        forward(&edge, &request, body, &target).await
    };
    let wrong = match (fault, path) {
        (Fault::WrongMetadata, "/.well-known/oauth-protected-resource/mcp") => Some(
            serde_json::json!({ "resource": "https://other.example/mcp", "authorization_servers": [edge.origin] }),
        ),
        (Fault::WrongIssuer, "/.well-known/oauth-authorization-server") => {
            Some(serde_json::json!({ "issuer": "https://other.example" }))
        }
        _ => None,
    };
    if let Some(wrong) = wrong {
        response = HttpResponse::Ok().json(wrong);
    }
    spoil(fault, &mut response);
    response
}

fn passes(edge: &Edge, request: &HttpRequest) -> bool {
    match edge.fault {
        Fault::Unchecked => true,
        Fault::UncheckedGet | Fault::DownAndOpen => request.method() == "GET",
        Fault::BelievesIdentity => request.headers().contains_key("x-auth-subject"),
        _ => false,
    }
}

fn is_missing(fault: Fault, method: &str, path: &str) -> bool {
    match fault {
        Fault::NoMetadata => path.starts_with("/.well-known/oauth-protected-resource"),
        Fault::NoRegistration => path == "/register",
        Fault::NoDeletion => method == "DELETE" && path != "/mcp",
        Fault::NoKeys => path == "/jwks",
        Fault::NoRoute => path == "/mcp",
        _ => false,
    }
}

fn spoil(fault: Fault, response: &mut HttpResponse) {
    let header = HeaderName::from_static;
    let headers = response.headers_mut();
    match fault {
        Fault::NoChallenge => drop(headers.remove("www-authenticate")),
        Fault::NoCors => {
            drop(headers.remove("access-control-allow-origin"));
            drop(headers.remove("access-control-allow-headers"));
        }
        Fault::CorsCredentials => {
            headers.insert(header("access-control-allow-credentials"), HeaderValue::from_static("true"));
        }
        Fault::Clock => {
            headers.insert(header("date"), HeaderValue::from_static("Sun, 06 Nov 1994 08:49:37 GMT"));
        }
        _ => {}
    }
}

async fn check(edge: &Edge, request: &HttpRequest, target: &str) -> HttpResponse {
    if edge.fault == Fault::NoAuthService {
        return HttpResponse::InternalServerError().finish();
    }
    if edge.fault == Fault::NoStore {
        let body = serde_json::json!({ "error": "temporarily_unavailable" });
        return HttpResponse::ServiceUnavailable().json(body);
    }
    if edge.fault == Fault::Refuses {
        return HttpResponse::Forbidden().finish();
    }
    let mut ask = edge.http.get(format!("{}/verify/traefik", edge.checks));
    let forwarded = request.headers().get("x-forwarded-host").filter(|_| edge.fault == Fault::BelievesHost);
    let host = forwarded.or_else(|| request.headers().get("host")).unwrap().as_bytes();
    ask = ask
        .header("x-edge-secret", EDGE_SECRET)
        .header("x-forwarded-method", request.method().as_str())
        .header("x-forwarded-proto", edge.origin.split(':').next().unwrap())
        .header("x-forwarded-host", host)
        .header("x-forwarded-uri", target);
    for name in ["authorization", "origin", "accept"] {
        for value in request.headers().get_all(name) {
            ask = ask.header(name, value.as_bytes());
        }
    }
    copied(ask).await
}

async fn forward(edge: &Edge, request: &HttpRequest, body: Payload, target: &str) -> HttpResponse {
    // The body is read only here, because the body of a WebSocket request never ends.
    let Ok(body) = body.to_bytes().await else { return HttpResponse::BadRequest().finish() };
    let method = reqwest::Method::from_bytes(request.method().as_str().as_bytes()).unwrap();
    let mut ask = edge.http.request(method, format!("{}{target}", edge.public)).body(body);
    for (name, value) in request.headers() {
        if !["connection", "content-length", "transfer-encoding", "upgrade"].contains(&name.as_str()) {
            ask = ask.header(name.as_str(), value.as_bytes());
        }
    }
    copied(ask).await
}

async fn copied(ask: reqwest::RequestBuilder) -> HttpResponse {
    let Ok(answer) = ask.send().await else { return HttpResponse::BadGateway().finish() };
    let status = StatusCode::from_u16(answer.status().as_u16()).unwrap();
    let mut response = HttpResponse::build(status);
    for (name, value) in answer.headers() {
        if name != "content-length" && name != "transfer-encoding" {
            response.append_header((name.as_str(), value.as_bytes()));
        }
    }
    response.body(answer.bytes().await.unwrap())
}

/// A stack whose edge proxy has a fault that the doctor must find.
pub(crate) struct Patient {
    pub(crate) app: TestApp,
    pub(crate) origin: String,
    pub(crate) server: ServerHandle,
}

/// Terminates TLS in front of the edge, which speaks plain HTTP.
async fn terminate(outside: tokio::net::TcpListener, acceptor: TlsAcceptor, inside: SocketAddr) {
    while let Ok((stream, _)) = outside.accept().await {
        let acceptor = acceptor.clone();
        actix_web::rt::spawn(async move {
            let Ok(mut stream) = acceptor.accept(stream).await else { return };
            let Ok(mut edge) = tokio::net::TcpStream::connect(inside).await else { return };
            // An error here means only that one side closed the connection.
            let _ = tokio::io::copy_bidirectional(&mut stream, &mut edge).await;
        });
    }
}

/// Starts a stack with this fault and these settings, over https if `tls` is given.
pub(crate) async fn patient(fault: Fault, settings: &[(&str, &str)], tls: Option<TlsAcceptor>) -> Patient {
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    let inside = socket.local_addr().unwrap();
    let (scheme, authority) = match tls {
        None => ("http", inside.to_string()),
        Some(acceptor) => {
            let outside = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            let port = outside.local_addr().unwrap().port();
            actix_web::rt::spawn(terminate(outside, acceptor, inside));
            ("https", format!("localhost:{port}"))
        }
    };
    let origin = format!("{scheme}://{authority}");
    let defaults = [("ISSUER", origin.as_str()), ("PROTECTED_HOSTS", authority.as_str())];
    let kept = defaults.iter().filter(|(name, _)| !settings.iter().any(|(other, _)| other == name));
    let owned: Vec<_> =
        kept.chain(settings).map(|(name, value)| (*name, value.replace("{authority}", &authority))).collect();
    let settings: Vec<_> = owned.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let app = TestApp::start_with(&settings).await;
    let http =
        reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).no_proxy().build().unwrap();
    let shared = Arc::new(Edge {
        fault,
        public: app.public.clone(),
        checks: app.edge.clone(),
        origin: origin.clone(),
        http,
    });
    let server = HttpServer::new(move || {
        App::new().app_data(Data::from(Arc::clone(&shared))).default_service(web::to(edge))
    });
    let running = server.workers(1).disable_signals().listen(socket).unwrap().run();
    let server = running.handle();
    actix_web::rt::spawn(running);
    Patient { app, origin, server }
}
