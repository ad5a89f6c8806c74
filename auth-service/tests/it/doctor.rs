//! `auth-service doctor` in front of a healthy stack, and of stacks that are broken on purpose.

use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use actix_web::http::StatusCode;
use actix_web::http::header::{HeaderName, HeaderValue};
use actix_web::web::{self, Data, Payload};
use actix_web::{App, HttpRequest, HttpResponse, HttpServer};
use auth_service::doctor::{Examination, Finding, Outcome, examine};
use auth_service::domain::clock::{Clock, SystemClock};

use futures_util::stream::{self, StreamExt};

use super::app::{EDGE_SECRET, TestApp};

/// Longer than any machine is busy: an answer that comes late is an answer, and every answer here comes.
const PATIENT: Duration = Duration::from_secs(120);

/// What is wrong with the edge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    None,
    /// The service's route does not go through the check.
    Unchecked,
    /// GET does not.
    UncheckedGet,
    /// A request with `X-Auth-Subject` counts as checked.
    BelievesIdentity,
    /// The check hears the client's `X-Forwarded-Host`.
    BelievesHost,
    /// Routing resolves dot segments, the check is for the plain path only.
    ResolvesDots,
    /// The challenge is dropped.
    NoChallenge,
    /// The resource metadata is not routed.
    NoMetadata,
    /// Something else answers at that path.
    WrongMetadata,
    /// The authorization server metadata is another's.
    WrongIssuer,
    /// OPTIONS goes through the check.
    PreflightChecked,
    /// CORS headers are dropped.
    NoCors,
    /// Cookies of any origin.
    CorsCredentials,
    /// Registration is not routed.
    NoRegistration,
    /// The deletion of clients is not routed.
    NoDeletion,
    /// auth-service is gone.
    NoAuthService,
    /// The clock is an hour ahead.
    Clock,
    /// The key set is not routed.
    NoKeys,
}

struct Edge {
    fault: Fault,
    public: String,
    checks: String,
    origin: String,
    http: reqwest::Client,
}

/// A small edge proxy with a fault.
async fn edge(request: HttpRequest, body: Payload, edge: Data<Edge>) -> HttpResponse {
    let target = request.uri().path_and_query().map_or("/", |target| target.as_str()).to_owned();
    let path = request.uri().path();
    let method = request.method().as_str();
    let fault = edge.fault;
    let resolves = fault == Fault::ResolvesDots && path.ends_with("/mcp") && path.contains("..");
    let mut response = if resolves || (path == "/mcp" && passes(&edge, &request)) {
        HttpResponse::Ok().json(serde_json::json!({ "jsonrpc": "2.0", "id": 1, "result": {} }))
    } else if path == "/mcp" && (method != "OPTIONS" || fault == Fault::PreflightChecked) {
        check(&edge, &request, &target).await
    } else if is_missing(fault, method, path) {
        HttpResponse::NotFound().finish()
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
        Fault::UncheckedGet => request.method() == "GET",
        Fault::BelievesIdentity => request.headers().contains_key("x-auth-subject"),
        _ => false,
    }
}

fn is_missing(fault: Fault, method: &str, path: &str) -> bool {
    match fault {
        Fault::NoMetadata => path.starts_with("/.well-known/oauth-protected-resource"),
        Fault::NoRegistration => path == "/register",
        Fault::NoDeletion => method == "DELETE",
        Fault::NoKeys => path == "/jwks",
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
    let mut ask = edge.http.get(format!("{}/verify/traefik", edge.checks));
    let forwarded = request.headers().get("x-forwarded-host").filter(|_| edge.fault == Fault::BelievesHost);
    let host = forwarded.or_else(|| request.headers().get("host")).unwrap().as_bytes();
    ask = ask
        .header("x-edge-secret", EDGE_SECRET)
        .header("x-forwarded-method", request.method().as_str())
        .header("x-forwarded-proto", "http")
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
    // Read here only: that of a WebSocket has no end.
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

/// What the doctor says of a stack with this fault and these settings.
async fn findings(fault: Fault, settings: &[(&str, &str)]) -> Vec<Finding> {
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    let authority = socket.local_addr().unwrap().to_string();
    let origin = format!("http://{authority}");
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
    let server = server.workers(1).disable_signals().listen(socket).unwrap().run();
    let handle = server.handle();
    actix_web::rt::spawn(server);
    let mut config = app.state.config.clone();
    config.listeners.ops = app.ops.strip_prefix("http://").unwrap().parse().unwrap();
    config.listeners.edge = app.edge.strip_prefix("http://").unwrap().parse().unwrap();
    let examination = Examination {
        url: format!("{origin}/mcp").parse().unwrap(),
        extra_roots: None,
        settings: Some(config),
        now: SystemClock.now(),
        patience: PATIENT,
    };
    let mut told = 0;
    let findings = examine(&examination, &mut |_| told += 1).await.unwrap();
    assert_eq!(told, findings.len(), "progress is told");
    handle.stop(false).await;
    findings
}

/// The checks that found a problem or a warning.
fn complaints(findings: &[Finding]) -> Vec<(&'static str, Outcome)> {
    let bad = findings.iter().filter(|finding| finding.outcome != Outcome::Fine);
    bad.map(|finding| (finding.check, finding.outcome)).collect()
}

#[actix_web::test]
async fn a_healthy_stack_has_no_findings() {
    let findings = findings(Fault::None, &[]).await;
    let complaints: Vec<_> = findings.iter().filter(|finding| finding.outcome != Outcome::Fine).collect();
    assert!(complaints.is_empty(), "{complaints:#?}");
    let checks = [
        "dns",
        "connection",
        "challenge",
        "clock",
        "resource metadata",
        "browser",
        "server metadata",
        "keys",
        "registration",
        "bypass",
        "store",
        "listeners",
    ];
    for check in checks {
        assert!(findings.iter().any(|finding| finding.check == check), "{check} was not looked at");
    }
}

#[actix_web::test]
async fn every_fault_is_found_and_nothing_else_is_blamed() {
    use Outcome::{Problem, Warning};
    let faults = [
        (Fault::Unchecked, "challenge", Problem),
        (Fault::UncheckedGet, "challenge", Problem),
        (Fault::BelievesIdentity, "bypass", Problem),
        (Fault::ResolvesDots, "bypass", Problem),
        (Fault::NoChallenge, "challenge", Problem),
        (Fault::NoMetadata, "resource metadata", Problem),
        (Fault::WrongMetadata, "resource metadata", Problem),
        (Fault::WrongIssuer, "server metadata", Problem),
        (Fault::PreflightChecked, "browser", Warning),
        (Fault::NoCors, "browser", Warning),
        (Fault::CorsCredentials, "browser", Problem),
        (Fault::NoRegistration, "registration", Problem),
        (Fault::NoDeletion, "registration", Warning),
        (Fault::NoAuthService, "challenge", Problem),
        (Fault::Clock, "clock", Problem),
        (Fault::NoKeys, "keys", Problem),
    ];
    let examined = stream::iter(faults)
        .map(async |(fault, check, outcome)| (fault, check, outcome, findings(fault, &[]).await));
    // Each is a stack of its own.
    let mut examined = std::pin::pin!(examined.buffer_unordered(4));
    while let Some((fault, check, outcome, findings)) = examined.next().await {
        assert!(complaints(&findings).contains(&(check, outcome)), "{fault:?}: {:?}", complaints(&findings));
        for finding in findings.iter().filter(|finding| finding.outcome != Outcome::Fine) {
            assert!(finding.meaning.is_some() && finding.fix.is_some(), "{fault:?}: {}", finding.what);
        }
    }
}

#[actix_web::test]
async fn a_host_that_a_client_may_choose_alters_the_challenge() {
    let findings = findings(Fault::BelievesHost, &[("PROTECTED_HOSTS", "{authority}, evil.localhost")]).await;
    assert!(complaints(&findings).contains(&("bypass", Outcome::Problem)), "{findings:#?}");
}

#[actix_web::test]
async fn settings_that_do_not_fit_are_found_from_inside() {
    let other = findings(Fault::None, &[("PROTECTED_HOSTS", "localhost:1")]).await;
    assert!(complaints(&other).contains(&("settings", Outcome::Problem)), "{other:#?}");
    let open = findings(Fault::None, &[("OPS_LISTEN", "0.0.0.0:0")]).await;
    let found = complaints(&open);
    assert_eq!(found, [("listeners", Outcome::Problem)], "{open:#?}");
}

#[actix_web::test]
async fn a_name_without_address_and_a_port_without_listener_are_told_apart() {
    for (url, check) in [("https://nowhere.invalid/mcp", "dns"), ("http://127.0.0.1:1/mcp", "connection")] {
        let url = url.parse().unwrap();
        let examination =
            Examination { url, extra_roots: None, settings: None, now: SystemClock.now(), patience: PATIENT };
        let findings = examine(&examination, &mut |_| {}).await.unwrap();
        assert_eq!(complaints(&findings), [(check, Outcome::Problem)]);
    }
}
