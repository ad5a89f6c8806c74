//! Tests with routers that other users of Traefik configure. The tests simulate these routers with additional
//! dynamic configuration, from the file or from another provider. `tests/tests/containers` tests real labels on
//! an engine.

use reqwest::Method;
use serde_json::json;
use tests::raw::{self, RawAnswer};
use tests::{Edge, Setup, Stack};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use crate::world::{self, World, arrived};

/// The start of the services in `traefik/service.yaml.in`. A test inserts a router before this text.
const SERVICES: &str = "  services:\n    stdio-wrapper:";

/// Endpoints of auth-service, and paths below them that are not endpoints but could belong to a service.
const OWN: [&str; 16] = [
    "authorize",
    "par",
    "token",
    "register",
    "register/x",
    "revoke",
    "introspect",
    "jwks",
    "device_authorization",
    "device",
    "device/again",
    "login",
    "login/done",
    "login/nothing",
    "consent",
    "errors",
];

macro_rules! on_traefik {
    ($test:ident) => {
        if !world::is_here(Edge::Traefik, concat!("routers::", stringify!($test))) {
            return;
        }
    };
}

/// The shipped configuration with an additional router for the wrapper.
fn with_router(router: &str) -> Setup {
    Setup::as_shipped().through(Edge::Traefik).edge_changed(SERVICES, &format!("{router}\n{SERVICES}"))
}

#[tokio::test]
async fn a076_a_router_without_any_middleware_is_behind_the_check_and_its_server_sees_no_token() {
    on_traefik!(a076_a_router_without_any_middleware_is_behind_the_check_and_its_server_sees_no_token);
    // The first router lacks three settings of the shipped router. The second one is written like the labels of
    // earlier blocks.
    let bare = "    bare: { rule: \"PathPrefix(`/bare`)\", service: stdio-wrapper }
    older: { entryPoints: [edge], rule: \"Path(`/older/mcp`) && !Method(`OPTIONS`)\", middlewares: [mcp], service: stdio-wrapper }";
    let world = World::of(with_router(bare)).await;
    for path in ["/bare/mcp", "/bare/login", "/older/mcp"] {
        let answer = world.raw_without_token("POST", path, &[("Content-Length", "0")]).await.unwrap();
        assert_eq!(answer.status, 401, "{path}: {answer:?}");
        assert!(answer.values("www-authenticate")[0].contains(path), "{answer:?}");
        let foreign = world.raw_with_token("POST", path, &[("Content-Length", "0")]).await.unwrap();
        assert_eq!(foreign.status, 401, "a token for /mcp must not be valid for {path}: {foreign:?}");
        world.assert_nothing_passed(path);

        let token = world.stack.log_in_for(&format!("http://{}{path}", world.host)).await.access_token;
        let bearer = format!("Bearer {token}");
        let before = allowed_checks(&world.stack).await;
        let secrets = [
            ("Authorization", bearer.as_str()),
            ("Cookie", "secret=1"),
            ("Cookie", "secret=2"),
            ("DPoP", "secret"),
            ("Proxy-Authorization", "secret"),
            ("X-Edge-Secret", "secret"),
            ("Forwarded", "for=secret"),
            ("X-Original-URL", "/secret"),
            ("X-Rewrite-URL", "/secret"),
            ("X-HTTP-Method", "SECRET"),
            ("X-HTTP-Method-Override", "SECRET"),
            ("X-Method-Override", "SECRET"),
            ("X-Auth-Subject", "secret"),
            ("Remote-User", "secret"),
            ("Content-Length", "0"),
            ("Connection", "close"),
            ("Host", &world.host),
        ];
        let answer = raw::ask(world.stack.port, "POST", path, &secrets).await.unwrap();
        assert_eq!(answer.status, 200, "{path}: {answer:?}");
        assert!(!answer.body.to_ascii_lowercase().contains("secret"), "{path}: {answer:?}");
        assert!(!answer.body.contains(&token), "{path}: {answer:?}");
        assert_eq!(arrived(&answer.body, "x-auth-username"), ["ana"], "{path}");
        assert_eq!(allowed_checks(&world.stack).await, before + 1, "{path} must be checked once");
        world.upstream.take_heads();
    }
    // Without a router for a path, the response is not a challenge.
    assert_eq!(world.raw_without_token("GET", "/nobody", &[]).await.unwrap().status, 404);
}

async fn allowed_checks(stack: &Stack) -> u64 {
    let metrics = stack.metrics().await;
    let line = metrics.lines().find(|line| line.starts_with("mcp_gate_checks_total{outcome=\"allowed\"}"));
    line.and_then(|line| line.rsplit(' ').next()?.parse().ok()).unwrap_or(0)
}

/// A router for all paths with this priority. It comes from a provider other than the file, like a router from
/// labels.
async fn foreign_router(priority: &str) -> (Setup, tests::upstream::Upstream) {
    let upstream = tests::upstream::Upstream::start().await;
    let servers = json!([{ "url": format!("http://127.0.0.1:{}", upstream.port) }]);
    let body = json!({ "http": {
        "routers": { "foreign": {
            // This rule is also longer than the rules of our routers.
            "rule": "PathPrefix(`/`) && (PathPrefix(`/`) || PathRegexp(`^/(login|token|authorize|register|consent|device|jwks|par|revoke)/?$`))",
            "priority": priority.parse::<u64>().unwrap(), "service": "foreign",
        } },
        "services": { "foreign": { "loadBalancer": { "servers": servers } } },
    } })
    .to_string();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let provider = format!("  http: {{ endpoint: \"http://{}\" }}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let asked = stream.read(&mut [0; 4096]).await;
            assert!(asked.is_ok_and(|count| count > 0), "Traefik does not poll the provider");
            let head =
                format!("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {}\r\n\r\n", body.len());
            stream.write_all((head + &body).as_bytes()).await.ok();
        }
    });
    let setup = Setup::as_shipped().through(Edge::Traefik).edge_changed("  @MORE_PROVIDERS@", &provider);
    (setup, upstream)
}

#[tokio::test]
async fn a_router_of_somebody_else_does_not_take_the_pages_of_auth_service() {
    on_traefik!(a_router_of_somebody_else_does_not_take_the_pages_of_auth_service);
    // The last value is the highest that Traefik accepts, and is also the priority of our own router. It is tested
    // several times, so that our router does not win by chance.
    for priority in
        ["9000000000000000000", "9223372036854774807", "9223372036854774807", "9223372036854774807"]
    {
        let (setup, upstream) = foreign_router(priority).await;
        // Our own router would send allowed requests to this server.
        let behind = tests::upstream::Upstream::start().await;
        let stack = setup.with_any_answer().in_front_of(behind.port).start().await;
        let host = format!("localhost:{}", stack.port);
        let headers = [("Host", host.as_str()), ("Connection", "close"), ("Content-Length", "0")];
        wait_for_router(&stack, &headers).await;
        for method in ["GET", "POST", "PUT", "HEAD", "OPTIONS"] {
            for page in OWN {
                let answer = raw::ask(stack.port, method, &format!("/{page}"), &headers).await.unwrap();
                assert!(answer.status < 500 && !is_challenge(&answer), "{method} {page}: {answer:?}");
            }
        }
        for target in ["/mcp", "/", "/elsewhere", "*"] {
            raw::ask(stack.port, "OPTIONS", target, &headers).await.unwrap();
        }
        // All other requests are sent to the foreign router, and are checked.
        for target in [
            "/",
            "/elsewhere",
            "/mcp",
            "/logins",
            "/login%2e",
            "/LOGIN",
            "/.well-known/x",
            "/login/../mcp",
            "//login",
        ] {
            let answer = raw::ask(stack.port, "POST", target, &headers).await.unwrap();
            assert!([400, 401].contains(&answer.status), "{target}: {answer:?}");
        }
        for upstream in [&upstream, &behind] {
            let heads = upstream.take_heads();
            assert!(heads.is_empty(), "{priority}: {heads:?}");
        }
        // A complete login also works.
        let token = stack.log_in_for(&format!("http://{host}/elsewhere")).await.access_token;
        let answer =
            stack.http.request(Method::POST, format!("http://{host}/elsewhere")).bearer_auth(token).send();
        assert_eq!(answer.await.unwrap().status(), 200, "the foreign router must serve this path");
        let heads = upstream.take_heads();
        assert!(heads.len() == 1 && !heads[0].to_ascii_lowercase().contains("\nauthorization:"), "{heads:?}");
    }
}

/// Waits until the configuration of the other provider is loaded, which happens shortly after the configuration in
/// the file.
async fn wait_for_router(stack: &Stack, headers: &[(&str, &str)]) {
    for _ in 0..200 {
        let answer = raw::ask(stack.port, "POST", "/elsewhere", headers).await;
        if answer.is_some_and(|answer| answer.status != 404) {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    panic!("the foreign router was not loaded\n{}", stack.logs());
}

/// Whether a response is the challenge of a service. Challenges of auth-service's own endpoints contain no
/// resource metadata URL.
fn is_challenge(answer: &RawAnswer) -> bool {
    answer.values("www-authenticate").iter().any(|challenge| challenge.contains("resource_metadata"))
}

/// The proxy trusts a load balancer's headers about the scheme, host and address. The load balancer also forwards
/// other headers from the client, which must have no effect.
pub(crate) async fn what_a_load_balancer_hands_on(edge: Edge) {
    let setup = Setup::as_shipped().through(edge);
    let world =
        World::of(setup.edge_changed("trustedIPs: [@TRUSTED_IPS@]", "trustedIPs: [127.0.0.1/32]")).await;
    for claim in [
        &[("X-Forwarded-Uri", "/login")][..],
        &[("X-Forwarded-Method", "OPTIONS")],
        &[("X-Forwarded-Uri", "/token"), ("X-Forwarded-Method", "OPTIONS")],
        &[("X-Forwarded-Uri", "/.well-known/oauth-protected-resource/mcp")],
        &[("X-Forwarded-Uri", "/login"), ("X-Forwarded-Uri", "/login")],
    ] {
        let answer = world.raw_without_token("POST", "/mcp", claim).await.unwrap();
        assert_eq!(answer.status, 401, "{claim:?}: {answer:?}");
        world.assert_nothing_passed("a request that claims to be another one");
        let answer = world.raw_with_token("POST", "/mcp", claim).await.unwrap();
        assert_eq!(answer.status, 200, "{claim:?}: {answer:?}");
        assert!(arrived(&answer.body, "authorization").is_empty(), "{claim:?}: {answer:?}");
        world.upstream.take_heads();
    }
}

#[tokio::test]
async fn a069_what_a_load_balancer_hands_on_makes_no_request_one_for_auth_service() {
    on_traefik!(a069_what_a_load_balancer_hands_on_makes_no_request_one_for_auth_service);
    what_a_load_balancer_hands_on(Edge::Traefik).await;
}

/// The check removes credentials from requests. Only auth-service receives them, with each header line unchanged.
#[tokio::test]
async fn endpoints_of_auth_service_get_the_credentials_that_clients_send() {
    on_traefik!(endpoints_of_auth_service_get_the_credentials_that_clients_send);
    let upstream = tests::upstream::Upstream::start().await;
    let setup = Setup::as_shipped().through(Edge::Traefik).with_any_answer().in_front_of(upstream.port);
    // The upstream also replaces auth-service.
    let to_upstream = format!("http://127.0.0.1:{}", upstream.port);
    let stack = setup.edge_changed("http://@AUTH_ADDRESS@:@AUTH_PUBLIC_PORT@", &to_upstream).start().await;
    let host = format!("localhost:{}", stack.port);
    let headers = [
        ("Host", host.as_str()),
        ("Authorization", "Basic a"),
        ("Authorization", "Basic b"),
        ("Cookie", "a=1"),
        ("Cookie", "b=2; c=\u{e9}"),
        ("DPoP", "p"),
        ("DPoP", "q"),
        ("X-Edge-Secret", "x"),
        ("X-Auth-Subject", "x"),
        ("Forwarded", "x"),
        ("Origin", "https://a.example"),
        ("Content-Length", "0"),
        ("Connection", "close"),
    ];
    for path in ["/token", "/login/done", "/.well-known/oauth-protected-resource/mcp", "/register/x"] {
        let answer = raw::ask(stack.port, "POST", path, &headers).await.unwrap();
        for (name, values) in [
            ("authorization", &["Basic a", "Basic b"][..]),
            ("cookie", &["a=1", "b=2; c=\u{e9}"]),
            ("dpop", &["p", "q"]),
            ("x-edge-secret", &[]),
            ("x-auth-subject", &[]),
            ("forwarded", &[]),
            ("origin", &["https://a.example"]),
        ] {
            assert_eq!(arrived(&answer.body, name), values, "{path}: {name}");
        }
    }
    let preflight = raw::ask(stack.port, "OPTIONS", "/anything", &headers).await.unwrap();
    for name in ["authorization", "cookie", "dpop", "x-edge-secret"] {
        assert!(arrived(&preflight.body, name).is_empty(), "{preflight:?}");
    }
}
