//! Tests of targets, hosts and methods that the edge, auth-service and the wrapper could interpret in different
//! ways. Only `/mcp` on a protected host with a method of MCP may pass.

use std::time::Duration;

use tests::raw;
use tests::{Edge, Setup};
use tokio::task::JoinSet;

use crate::world::{World, arrived, is_here};

each_edge!(
    a070_what_follows_the_path_is_not_the_path,
    a071_two_slashes_are_no_authority,
    a072_a_path_that_reads_in_two_ways_does_not_pass,
    a078_a_host_is_one_of_the_protected_ones_however_it_is_written,
    a080_what_is_malformed_is_never_answered_200,
    a081_a_method_is_the_one_on_the_request_line,
    a089_well_known_paths_are_open_exactly,
);

/// Sends a target without and with a token. Without a token, nothing may pass. With a token, a target may pass
/// only if every program reads its path as `/mcp`.
async fn probe(world: &World, target: &str) {
    if let Some(answer) = world.raw_without_token("GET", target, &[]).await {
        assert!(answer.status >= 400 || is_of_auth_service(&answer.body), "{target}: {answer:?}");
    }
    world.assert_nothing_passed(&format!("{target} without a token"));
    world.raw_with_token("GET", target, &[]).await;
    for head in world.upstream.take_heads() {
        let arrived = head.split(' ').nth(1).unwrap_or_default();
        let path = arrived.split('?').next().unwrap_or_default();
        assert_eq!(path, "/mcp", "{target} arrived as {arrived}");
    }
}

/// Whether `body` is a public document or a page of auth-service.
fn is_of_auth_service(body: &str) -> bool {
    body.contains("\"authorization_servers\"")
        || body.contains("\"issuer\"")
        || body.contains("<!doctype html>")
}

pub(crate) async fn a070_what_follows_the_path_is_not_the_path(edge: Edge) {
    let world = World::start(edge).await;
    for target in [
        "/mcp?/.well-known/oauth-protected-resource",
        "/mcp?x=/../.well-known/oauth-protected-resource",
        "/mcp#/.well-known/oauth-protected-resource",
        "/mcp?#/.well-known/jwks",
        "/mcp??",
        "/mcp?x=%00",
        "/mcp?x=http://evil.example/",
        "/mcp&x=1",
        "/.well-known/oauth-protected-resource?/../../mcp",
        "/.well-known/oauth-protected-resource#/mcp",
        "/nothing?/mcp",
        "/nothing#/mcp",
    ] {
        probe(&world, target).await;
    }
    // The query belongs to the client, and passes unchanged.
    let answer = world.raw_with_token("GET", "/mcp?a=1&b=%2f%2e", &[]).await.unwrap();
    assert!(answer.body.contains("GET /mcp?a=1&b=%2f%2e HTTP/1.1"), "{answer:?}");
}

pub(crate) async fn a071_two_slashes_are_no_authority(edge: Edge) {
    let world = World::start(edge).await;
    let absolute = format!("http://{}/mcp", world.host);
    for target in [
        "//mcp",
        "///mcp",
        "//localhost/mcp",
        "//evil.example/mcp",
        "/\\mcp",
        "\\mcp",
        "/mcp//",
        "/.//mcp",
        "//",
        absolute.as_str(),
    ] {
        probe(&world, target).await;
    }
    // The absolute form of a target (RFC 9112 §3.2.2) contains the host, which overrides the `Host` header.
    for target in [
        "http://evil.example/mcp",
        "https://evil.example/mcp",
        "http://x@evil.example/mcp",
        "evil.example:80",
    ] {
        let answer = world.raw_with_token("GET", target, &[]).await;
        let passed = world.upstream.take_heads();
        for head in &passed {
            // A request that passes must reach the wrapper with the host that was checked.
            assert!(head.to_lowercase().contains(&format!("host: {}", world.host)), "{target}: {head}");
            assert!(!head.contains("evil.example"), "{target}: {head}");
        }
        assert!(!passed.is_empty() || answer.is_none_or(|answer| answer.status >= 400), "{target}");
    }
}

pub(crate) async fn a072_a_path_that_reads_in_two_ways_does_not_pass(edge: Edge) {
    let world = World::start(edge).await;
    for target in [
        "/mcp/",
        "/mcp/.",
        "/mcp/..",
        "/mcp/../mcp",
        "/./mcp",
        "/x/../mcp",
        "/x/..%2fmcp",
        "/%2e/mcp",
        "/%2e%2e/mcp",
        "/x/%2e%2e/mcp",
        "/x%2f..%2fmcp",
        "/%2fmcp",
        "/mcp%2f",
        "/mcp%2f..",
        "/%5cmcp",
        "/mcp%5c",
        "/mcp;x",
        "/mcp;/../x",
        "/mcp%3bx",
        "/;x/mcp",
        "/mcp%00",
        "/mcp%00.json",
        "/mcp%20",
        "/mcp%09",
        "/mcp%0a",
        "/mcp%0d%0aX-Auth-Subject:forged",
        "/%6dcp",
        "/%6Dcp",
        "/m%63p",
        "/%256dcp",
        "/%252e%252e/mcp",
        "/mcp%c0%af",
        "/%c0%ae%c0%ae/mcp",
        "/mcp%ff",
        "/mcp%",
        "/mcp%2",
        "/mcp%zz",
        "/MCP",
        "/Mcp",
        "/mcp.json",
        "/mcp%23",
        "/mcp%3f",
        "/mcp/%2e%2e/.well-known/oauth-protected-resource",
        "/authorize/../mcp",
        "/authorize/..%2fmcp",
        "/token/..;/mcp",
        "/\u{ff0f}mcp",
        "/mc\u{0440}",
        "mcp",
        "*",
        "",
    ] {
        probe(&world, target).await;
    }
}

pub(crate) async fn a078_a_host_is_one_of_the_protected_ones_however_it_is_written(edge: Edge) {
    let world = World::start(edge).await;
    let port = world.stack.port;
    let bearer = world.bearer();
    let ask = async |hosts: &[&str], token: bool| {
        let mut headers: Vec<_> = hosts.iter().map(|host| ("Host", *host)).collect();
        headers.push(("Connection", "close"));
        if token {
            headers.push(("Authorization", &bearer));
        }
        raw::ask(port, "GET", "/mcp", &headers).await
    };
    // Other spellings of the same host are treated as this host or refused, but never as a different host.
    for host in [format!("LOCALHOST:{port}"), format!("LocalHost:{port}"), format!("localhost.:{port}")] {
        let answer = ask(&[&host], false).await.unwrap();
        assert!([400, 401, 403].contains(&answer.status), "{host}: {answer:?}");
        let answer = ask(&[&host], true).await.unwrap();
        assert!([200, 400, 403].contains(&answer.status), "{host}: {answer:?}");
    }
    world.upstream.take_heads();
    let userinfo = format!("localhost:{port}@evil.example");
    let good = world.host.as_str();
    let strangers: [&[&str]; 12] = [
        &["evil.example"],
        &["localhost.evil.example"],
        &["evillocalhost"],
        &[&userinfo],
        &["x@localhost"],
        &[""],
        &["xn--lcalhost-8ya"],
        &["localh\u{f6}st"],
        &[],
        &[good, "evil.example"],
        &["evil.example", good],
        &["127.0.0.1"],
    ];
    for hosts in strangers {
        for token in [false, true] {
            if let Some(answer) = ask(hosts, token).await {
                assert!(answer.status >= 400, "{hosts:?}: {answer:?}");
            }
        }
        world.assert_nothing_passed(&format!("a request for the hosts {hosts:?}"));
    }
    // A token for one host is refused at another.
    let answer = ask(&[&format!("other.{good}")], true).await.unwrap();
    assert_eq!(answer.status, 401, "{answer:?}");
    world.assert_nothing_passed("a token of another host");
}

pub(crate) async fn a080_what_is_malformed_is_never_answered_200(edge: Edge) {
    let world = World::start(edge).await;
    let host = &world.host;
    let bearer = world.bearer();
    let malformed = [
        format!("GET /mcp\r\nHost: {host}\r\n\r\n"),
        format!("GET /mcp HTTP/9.9\r\nHost: {host}\r\nAuthorization: {bearer}\r\n\r\n"),
        format!("GET  /mcp HTTP/1.1\r\nHost: {host}\r\n\r\n"),
        format!("GET /mcp x HTTP/1.1\r\nHost: {host}\r\nAuthorization: {bearer}\r\n\r\n"),
        format!("GET\t/mcp\tHTTP/1.1\r\nHost: {host}\r\n\r\n"),
        format!("GET /mcp HTTP/1.1\r\nHost {host}\r\nAuthorization: {bearer}\r\n\r\n"),
        format!("GET /mcp HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer\r\n\r\n"),
        format!("GET /mcp HTTP/1.1\r\nHost: {host}\r\nAuthorization: {}\r\n\r\n", "x".repeat(200_000)),
        format!(
            "GET /mcp HTTP/1.1\r\nHost: {host}\r\nMcp-Method: a\r\nMcp-Method: b\r\nMcp-Name: =?base64?!!?=\r\n\r\n"
        ),
        format!(
            "POST /mcp HTTP/1.1\r\nHost: {host}\r\nAuthorization: {bearer}\r\nContent-Length: -1\r\n\r\n"
        ),
        "\r\n\r\n\r\n".to_owned(),
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\nXX".to_owned(),
        "\x16\x03\x01\x02\x00\x01\x00\x01".to_owned(),
    ];
    for request in malformed {
        let shown: String = request.chars().take(60).collect();
        for answer in raw::talk(world.stack.port, request.as_bytes(), 1).await {
            assert!(answer.status >= 400, "{shown:?}: {answer:?}");
        }
        world.assert_nothing_passed(&format!("{shown:?}"));
    }
}

pub(crate) async fn a081_a_method_is_the_one_on_the_request_line(edge: Edge) {
    let world = World::start(edge).await;
    let overrides = [
        ("X-HTTP-Method-Override", "OPTIONS"),
        ("X-HTTP-Method", "OPTIONS"),
        ("X-Method-Override", "OPTIONS"),
        ("X-Forwarded-Method", "OPTIONS"),
        ("X-Original-Method", "OPTIONS"),
        ("X-Http-Method-Override", "GET"),
    ];
    for claim in overrides {
        for method in ["GET", "POST", "DELETE"] {
            let answer = world.raw_without_token(method, "/mcp", &[claim]).await.unwrap();
            assert_eq!(answer.status, 401, "{method} with {claim:?}: {answer:?}");
        }
        let target = format!("/mcp?_method={}", claim.1);
        assert_eq!(world.raw_without_token("POST", &target, &[]).await.unwrap().status, 401);
    }
    for method in
        ["get", "Post", "options", "PUT", "PATCH", "TRACE", "CONNECT", "PROPFIND", "FOO", "GETX", "G\u{e9}T"]
    {
        for token in [false, true] {
            let answer = if token {
                world.raw_with_token(method, "/mcp", &[]).await
            } else {
                world.raw_without_token(method, "/mcp", &[]).await
            };
            assert!(answer.as_ref().is_none_or(|answer| answer.status >= 400), "{method}: {answer:?}");
        }
        world.assert_nothing_passed(method);
    }
    // OPTIONS requests never reach the service, with or without a token, and whether or not they are preflights.
    for headers in
        [&[][..], &[("Origin", "https://evil.example")], &[("Access-Control-Request-Method", "POST")]]
    {
        world.raw_with_token("OPTIONS", "/mcp", headers).await.unwrap();
        world.raw_without_token("OPTIONS", "/mcp", headers).await.unwrap();
        world.assert_nothing_passed("OPTIONS");
    }
    // Headers that request a different method do not reach the wrapper either.
    for claim in overrides {
        let answer = world.raw_with_token("POST", "/mcp", &[claim]).await.unwrap();
        assert_eq!((answer.status, arrived(&answer.body, claim.0)), (200, vec![]), "{claim:?}");
    }
}

pub(crate) async fn a089_well_known_paths_are_open_exactly(edge: Edge) {
    let world = World::start(edge).await;
    for target in [
        "/.well-known/../mcp",
        "/.well-known/oauth-protected-resource/../../mcp",
        "/.well-known/oauth-protected-resource/..%2f..%2fmcp",
        "/.well-known/oauth-protected-resource/%2e%2e/%2e%2e/mcp",
        "/.well-known/oauth-protected-resource%2f..%2f..%2fmcp",
        "/.well-known/oauth-protected-resourceX",
        "/.well-known/oauth-protected-resource;/mcp",
        "/.well-known/oauth-authorization-server/../mcp",
        "/.well-known/oauth-authorization-server/%2e%2e/%2e%2e/mcp",
        "/.well-known//mcp",
        "/.well-known",
        "/.well-known/",
        "/.WELL-KNOWN/oauth-protected-resource/../../mcp",
        "/authorize/../mcp",
        "/token/%2e%2e/mcp",
        "/jwks/..%5cmcp",
        "/register/..;/mcp",
        "/x/.well-known/oauth-protected-resource",
        "/mcp/.well-known/oauth-protected-resource",
        "/mcp/.well-known/openid-configuration",
    ] {
        probe(&world, target).await;
    }
    let document =
        world.raw_without_token("GET", "/.well-known/oauth-protected-resource/mcp", &[]).await.unwrap();
    assert_eq!(document.status, 200, "{document:?}");
}

/// In nginx, `return` runs before the limits.
#[tokio::test]
async fn a100_what_nginx_answers_by_itself_is_limited_like_everything_else() {
    if !is_here(Edge::Nginx, "paths::a100_what_nginx_answers_by_itself_is_limited_like_everything_else") {
        return;
    }
    let setup = Setup::as_shipped()
        .through(Edge::Nginx)
        .edge_changed("rate=@REQUESTS_PER_SECOND@r/s", "rate=20r/s")
        .edge_changed("burst=@REQUESTS_IN_A_ROW@ delay=@REQUESTS_PER_SECOND@", "burst=40 nodelay");
    let world = World::of(setup).await;
    for (target, expected) in
        [("/nothing", 404), ("/check", 404), ("/.check", 404), ("/x/../mcp", 400), ("/%6dcp", 400)]
    {
        tokio::time::sleep(Duration::from_secs(3)).await;
        let (port, host) = (world.stack.port, world.host.clone());
        let mut requests = JoinSet::new();
        for _ in 0..120 {
            let host = host.clone();
            requests.spawn(async move {
                raw::ask(port, "GET", target, &[("Host", &host), ("Connection", "close")]).await
            });
        }
        let answers = requests.join_all().await;
        let (refused, answered): (Vec<_>, Vec<_>) =
            answers.into_iter().flatten().partition(|answer| answer.status == 429);
        assert!(answered.iter().all(|answer| answer.status == expected), "{target}: {answered:?}");
        assert!(!answered.is_empty() && refused.len() > 20, "{target}: {} are refused", refused.len());
        let is_told = |answer: &raw::RawAnswer| {
            answer.body.contains("too many requests") && answer.values("access-control-allow-origin") == ["*"]
        };
        assert!(refused.iter().all(is_told), "{target}: {refused:?}");
    }
}

/// Traefik and Caddy get this response from auth-service.
#[tokio::test]
async fn a_web_page_can_read_that_it_has_sent_too_many_requests_through_envoy() {
    let name = "paths::a_web_page_can_read_that_it_has_sent_too_many_requests_through_envoy";
    for edge in [Edge::EnvoyHttp, Edge::EnvoyGrpc] {
        if !is_here(edge, name) {
            return;
        }
        let world = World::of(Setup::as_shipped().through(edge).with_rate(20)).await;
        let mut requests = JoinSet::new();
        for _ in 0..120 {
            let (port, host) = (world.stack.port, world.host.clone());
            requests.spawn(async move {
                let headers =
                    [("Host", host.as_str()), ("Connection", "close"), ("Origin", "https://app.example")];
                raw::ask(port, "POST", "/mcp", &headers).await
            });
        }
        let answers = requests.join_all().await;
        let mut refused = answers.into_iter().flatten().filter(|answer| answer.status == 429);
        let refused = refused.next().expect("no request was refused");
        assert_eq!(refused.values("access-control-allow-origin"), ["*"], "{refused:?}");
        assert_eq!(refused.values("access-control-expose-headers"), ["retry-after"], "{refused:?}");
        assert_eq!(refused.values("retry-after"), ["1"], "{refused:?}");
    }
}
