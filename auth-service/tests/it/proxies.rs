//! Tests of the check in the format of each proxy. The same request gets the same response, and the same attacks
//! are refused.

use std::time::Duration;

use reqwest::{RequestBuilder, Response, StatusCode};

use super::app::{EDGE_SECRET, TestApp};

/// The proxies, and the check of Traefik's entry point. The result for a request to a service is the same in all
/// of these formats.
const PROXIES: [&str; 5] = ["traefik", "traefik/entry-point", "caddy", "nginx", "envoy"];

/// The service, and a token of a user with access.
async fn app_and_token() -> (TestApp, String) {
    let app = TestApp::start().await;
    let client = app.client().await;
    let token = app.tokens(&client).await.access;
    (app, token)
}

async fn status(request: RequestBuilder) -> u16 {
    request.send().await.unwrap().status().as_u16()
}

fn header(response: &Response, name: &str) -> Option<String> {
    response.headers().get(name).map(|value| value.to_str().unwrap().to_owned())
}

#[actix_web::test]
async fn a076_every_proxy_gets_every_identity_header_with_a_yes() {
    let (app, token) = app_and_token().await;
    for proxy in PROXIES {
        for method in ["GET", "POST", "DELETE"] {
            let response = app.check_by(proxy, method, "mcp.example", "/mcp").bearer_auth(&token).send();
            let response = response.await.unwrap();
            assert_eq!(response.status(), StatusCode::OK, "{proxy} {method}");
            for name in &auth_service::forward_auth::IDENTITY {
                assert_eq!(response.headers().get_all(name.as_str()).iter().count(), 1, "{proxy}: {name}");
            }
        }
    }
}

#[actix_web::test]
async fn blanks_between_scheme_and_token_are_as_many_as_the_client_likes() {
    let (app, token) = app_and_token().await;
    for proxy in PROXIES {
        for blanks in [" ", "  ", "     "] {
            let request = app.check_by(proxy, "POST", "mcp.example", "/mcp");
            let request = request.header("authorization", format!("Bearer{blanks}{token}"));
            assert_eq!(status(request).await, 200, "{proxy} {blanks:?}");
        }
        for odd in ["\t", " \t", "\u{a0}", ", ", ""] {
            let request = app.check_by(proxy, "POST", "mcp.example", "/mcp");
            let request = request.header("authorization", format!("Bearer{odd}{token}").as_bytes());
            assert_eq!(status(request).await, 401, "{proxy} {odd:?}");
        }
    }
}

#[actix_web::test]
async fn a_challenge_is_the_same_through_every_proxy_on_every_method() {
    let (app, token) = app_and_token().await;
    for proxy in PROXIES {
        for method in ["GET", "POST", "DELETE", "HEAD"] {
            let response = app.check_by(proxy, method, "mcp.example", "/mcp").send().await.unwrap();
            assert_eq!(response.status(), StatusCode::UNAUTHORIZED, "{proxy} {method}");
            let expected = "Bearer resource_metadata=\"https://mcp.example/.well-known/oauth-protected-resource/mcp\", scope=\"mcp\"";
            assert_eq!(header(&response, "www-authenticate").unwrap(), expected);
            assert_eq!(header(&response, "cache-control").unwrap(), "no-store");
        }
        let elsewhere = app.check_by(proxy, "POST", "other.example", "/mcp").bearer_auth(&token).send().await;
        let challenge = header(&elsewhere.unwrap(), "www-authenticate").unwrap();
        assert!(challenge.starts_with("Bearer error=\"invalid_token\""), "{proxy}: {challenge}");
    }
}

#[actix_web::test]
async fn a069_a_stranger_is_refused_on_every_route() {
    let (app, token) = app_and_token().await;
    for proxy in PROXIES {
        for secrets in [&[][..], &["wrong"], &[EDGE_SECRET, EDGE_SECRET], &[""]] {
            let request = app.check_by(proxy, "POST", "mcp.example", "/mcp").bearer_auth(&token);
            let mut request = request.build().unwrap();
            request.headers_mut().remove("x-edge-secret");
            for secret in secrets {
                request.headers_mut().append("x-edge-secret", secret.parse().unwrap());
            }
            let response = app.http.execute(request).await.unwrap();
            assert_eq!(response.status(), StatusCode::FORBIDDEN, "{proxy} {secrets:?}");
        }
    }
}

#[actix_web::test]
async fn a069_an_address_that_is_no_edge_is_refused() {
    let app = TestApp::start_with(&[("TRUSTED_PROXIES", "192.0.2.0/24")]).await;
    for proxy in PROXIES {
        assert_eq!(status(app.check_by(proxy, "POST", "mcp.example", "/mcp")).await, 403, "{proxy}");
    }
}

#[actix_web::test]
async fn a070_a071_a072_a089_ambiguous_targets_are_refused_by_every_parser() {
    let (app, token) = app_and_token().await;
    for target in [
        "//mcp",
        "//admin/mcp",
        "/mcp/../mcp",
        "/./mcp",
        "/%2e%2e/mcp",
        "/mcp%2fx",
        "/mcp%5cx",
        "/mcp\\x",
        "/mcp;x=1",
        "/mcp%3bx",
        "/mcp%00",
        "/mcp%0d%0ax",
        "/mcp%252e",
        "/mcp%c0%ae",
        "/mcp#x",
        "/mcp%23x",
        "/mcp%3fx",
        "",
        "mcp",
        "*",
        "http://mcp.example/mcp",
        "/.well-known/../mcp",
        "/.well-known/oauth-protected-resource/../../mcp",
        "/.well-known//mcp",
    ] {
        for proxy in ["traefik", "caddy", "nginx"] {
            let got = status(app.check_by(proxy, "POST", "mcp.example", target).bearer_auth(&token)).await;
            let expected: &[u16] = if proxy == "nginx" { &[403] } else { &[400] };
            assert!(expected.contains(&got), "{proxy} {target}: {got}");
        }
        if !target.contains('#') {
            // actix refuses invalid request targets before our code sees them.
            assert!([400, 404].contains(&app.raw_check(target).await), "envoy {target}");
        }
    }
    for proxy in PROXIES {
        for target in ["/mcp?/../x", "/mcp?x=//;#", "/mcp?http://evil.example/", "/mcp??", "/mcp/"] {
            let target = if proxy == "envoy" { target.trim_end_matches('#') } else { target };
            let got = status(app.check_by(proxy, "POST", "mcp.example", target).bearer_auth(&token)).await;
            assert_eq!(got, 200, "{proxy} {target}: a query must not be treated as a path");
        }
    }
}

#[actix_web::test]
async fn a078_a_host_has_one_meaning_in_every_spelling() {
    let (app, token) = app_and_token().await;
    for proxy in PROXIES {
        for host in ["mcp.example", "MCP.Example", "mcp.example.", "mcp.example:443", "mcp.example:8443"] {
            let got = status(app.check_by(proxy, "POST", host, "/mcp").bearer_auth(&token)).await;
            assert_eq!(got, 200, "{proxy} {host}");
        }
        for host in [
            "",
            "evil.example",
            "mcp.example.evil.example",
            "evil-mcp.example",
            "mcp.example@evil.example",
            "evil.example@mcp.example",
            "mcp.example, evil.example",
            "mcp.example:443:1",
            "mcp.example..",
            "mcp%2eexample",
            "mcp.example\\",
        ] {
            let got = status(app.check_by(proxy, "POST", host, "/mcp").bearer_auth(&token)).await;
            assert!([400, 403].contains(&got), "{proxy} {host}: {got}");
        }
    }
}

#[actix_web::test]
async fn a073_a074_a075_headers_of_the_edge_are_not_half_trusted() {
    let (app, token) = app_and_token().await;
    let good = |proxy| app.check_by(proxy, "POST", "mcp.example", "/mcp").bearer_auth(&token);
    for proxy in PROXIES {
        for (name, value) in [
            ("x_auth_subject", "admin"),
            ("x_forwarded_host", "other.example"),
            ("x-forwarded-prefix", "/x"),
            ("connection", "close, X-Auth-Subject"),
            ("connection", "x-forwarded-host"),
        ] {
            let got = status(good(proxy).header(name, value)).await;
            assert!([400, 403].contains(&got), "{proxy} {name}: {got}");
        }
        // Headers that only the other proxies set have no effect.
        let others = good(proxy)
            .header("x-forwarded-port", "1")
            .header("x-rewrite-url", "/elsewhere")
            .header("forwarded", "host=other.example;proto=http")
            .header("x-http-method-override", "OPTIONS")
            .header("x-auth-subject", "admin");
        assert_eq!(status(others).await, 200, "{proxy}");
    }
    for (proxy, name) in [
        ("traefik", "x-forwarded-method"),
        ("traefik", "x-forwarded-proto"),
        ("traefik", "x-forwarded-host"),
        ("traefik", "x-forwarded-uri"),
        ("caddy", "x-forwarded-method"),
        ("caddy", "x-forwarded-proto"),
        ("caddy", "x-forwarded-host"),
        ("caddy", "x-forwarded-uri"),
        ("nginx", "x-original-method"),
        ("nginx", "x-original-url"),
    ] {
        let mut without = good(proxy).build().unwrap();
        let value = without.headers_mut().remove(name).unwrap();
        let refused: &[u16] = if proxy == "nginx" { &[403] } else { &[400] };
        assert!(
            refused.contains(&app.http.execute(without).await.unwrap().status().as_u16()),
            "{proxy}: no {name}"
        );
        let doubled = status(good(proxy).header(name, value)).await;
        assert!(refused.contains(&doubled), "{proxy}: two {name}");
    }
    for (proxy, name) in
        [("traefik", "x-forwarded-proto"), ("caddy", "x-forwarded-proto"), ("envoy", "x-forwarded-proto")]
    {
        for value in ["http", "https, http", "HTTPS", "ftp", "", "ws"] {
            let mut request = good(proxy).build().unwrap();
            request.headers_mut().insert(name, value.parse().unwrap());
            assert_eq!(
                app.http.execute(request).await.unwrap().status(),
                StatusCode::BAD_REQUEST,
                "{proxy} {value}"
            );
        }
        let mut upgrade = good(proxy).build().unwrap();
        upgrade.headers_mut().insert(name, "wss".parse().unwrap());
        assert_eq!(app.http.execute(upgrade).await.unwrap().status(), StatusCode::OK, "{proxy}");
    }
}

#[actix_web::test]
async fn a077_no_path_user_agent_or_address_is_exempt() {
    let (app, _) = app_and_token().await;
    for proxy in PROXIES {
        for path in ["/health", "/healthz", "/ready", "/ping", "/metrics", "/robots.txt", "/favicon.ico"] {
            let probe = app
                .check_by(proxy, "GET", "mcp.example", path)
                .header("user-agent", "kube-probe/1.31")
                .header("x-forwarded-for", "127.0.0.1");
            assert_eq!(status(probe).await, 401, "{proxy} {path}");
        }
    }
    for path in
        ["/health", "/ready", "/metrics", "/", "/verify", "/verify/", "/verify/traefik/x", "/verify/Caddy"]
    {
        let request = app.http.get(format!("{}{path}", app.edge)).header("x-edge-secret", EDGE_SECRET);
        assert_eq!(status(request).await, 404, "{path}");
    }
}

#[actix_web::test]
async fn a080_a_malformed_check_is_never_200() {
    let (app, token) = app_and_token().await;
    let head =
        format!("Host: mcp.example\r\nX-Edge-Secret: {EDGE_SECRET}\r\nAuthorization: Bearer {token}\r\n");
    for bytes in [
        String::new(),
        "\0\0\0\0\r\n\r\n".to_owned(),
        "GET\r\n\r\n".to_owned(),
        format!("GET /verify/traefik HTTP/1.1\r\n{head}\r\n"),
        format!("GET /verify/traefik HTTP/9.9\r\n{head}\r\n"),
        format!("GET /verify/nginx HTTP/1.0\r\n{head}X-Original-URL: \r\n\r\n"),
        format!("GET /verify/nginx HTTP/1.1\r\n{head}X-Original-URL : https://mcp.example/mcp\r\n\r\n"),
        format!("POST /verify/envoy/mcp HTTP/1.1\r\nHost: other.example\r\n{head}\r\n"),
        format!(
            "POST /verify/envoy/mcp HTTP/1.1\r\n{head}Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n0\r\n\r\n"
        ),
        format!("POST /verify/envoy/mcp HTTP/1.1\r\n {head}\r\n"),
        format!("POST http://other.example/verify/envoy/mcp HTTP/1.1\r\n{head}X-A\r\n\r\n"),
    ] {
        let status = app.raw(&bytes).await;
        assert_ne!(status, Some(200), "{bytes}");
    }
    let good = format!("POST /verify/envoy/mcp HTTP/1.1\r\n{head}Connection: close\r\n\r\n");
    assert_eq!(app.raw(&good).await, Some(200), "the unmodified request must pass");
}

#[actix_web::test]
async fn a081_methods_are_exact_and_options_is_no_way_in() {
    let (app, token) = app_and_token().await;
    for proxy in PROXIES {
        for method in ["get", "Post", "CONNECT", "TRACE", "PATCH", "PUT", "PROPFIND", "FOO"] {
            if proxy == "envoy" && method == "CONNECT" {
                // An HTTP library sends CONNECT with an authority and without a path, so it does not reach our
                // route.
                continue;
            }
            let got = status(app.check_by(proxy, method, "mcp.example", "/mcp").bearer_auth(&token)).await;
            assert_eq!(got, if proxy == "nginx" { 403 } else { 405 }, "{proxy} {method}");
        }
        if proxy == "traefik/entry-point" {
            // The check of the entry point allows these requests, because auth-service itself responds to them
            // (`entry_point.rs`).
            continue;
        }
        for origin in [None, Some("https://app.example")] {
            let request = app.check_by(proxy, "OPTIONS", "mcp.example", "/mcp").bearer_auth(&token);
            let request = origin.iter().fold(request, |request, origin| request.header("origin", *origin));
            let got = status(request).await;
            assert_eq!(got, if proxy == "nginx" { 403 } else { 405 }, "{proxy} {origin:?}");
        }
        let preflight = app
            .check_by(proxy, "OPTIONS", "mcp.example", "/mcp")
            .bearer_auth(&token)
            .header("origin", "https://app.example")
            .header("access-control-request-method", "POST");
        // Envoy treats 204 as a denial and passes the response to the browser. For the other proxies, 204 would
        // mean that access is allowed.
        assert_eq!(status(preflight).await, if proxy == "envoy" { 204 } else { 403 }, "{proxy}");
    }
}

#[actix_web::test]
async fn an_edge_can_ask_whether_a_replica_responds_even_if_its_store_does_not() {
    let Some(mut app) = TestApp::start_on_redis().await else { return };
    app.kill_store();
    // Without the edge secret, every other path is refused with 403. No path is answered with success.
    for (path, expected) in [("/health", 404), ("/health/", 403), ("/verify/health", 403)] {
        let answer = app.http.get(format!("{}{path}", app.edge)).send().await.unwrap();
        assert_eq!(answer.status(), expected, "{path}");
        // Other answers are refusals of a check. They have a text, and are counted and logged.
        assert_eq!(answer.text().await.unwrap().is_empty(), path == "/health");
    }
}

#[actix_web::test]
async fn a088_with_the_store_down_every_proxy_hears_no() {
    let Some(mut app) = TestApp::start_on_redis().await else { return };
    let client = app.client().await;
    let token = app.tokens(&client).await.access;
    for proxy in PROXIES {
        assert_eq!(status(app.check_by(proxy, "POST", "mcp.example", "/mcp").bearer_auth(&token)).await, 200);
    }
    app.kill_store();
    // Cached results are used until the loss of the connection is noticed, which takes at most a second.
    let seen = std::time::Instant::now();
    while app.state.store.changes().is_live() {
        assert!(seen.elapsed() < Duration::from_secs(1), "the loss of the store was not noticed");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    for proxy in PROXIES {
        let refused = app.check_by(proxy, "POST", "mcp.example", "/mcp").bearer_auth(&token).send().await;
        let refused = refused.unwrap();
        assert_eq!(refused.status().as_u16(), if proxy == "nginx" { 403 } else { 503 }, "{proxy}");
        assert!(!refused.headers().contains_key("x-auth-subject"));
    }
}

#[actix_web::test]
async fn a090_a091_on_one_connection_every_check_is_answered_for_itself() {
    let (app, token) = app_and_token().await;
    for proxy in PROXIES {
        for round in 0..20 {
            let request = app.check_by(proxy, "POST", "mcp.example", "/mcp");
            let request = if round % 2 == 0 { request.bearer_auth(&token) } else { request };
            assert_eq!(status(request).await, if round % 2 == 0 { 200 } else { 401 }, "{proxy}");
        }
    }
}

#[actix_web::test]
async fn a097_a_page_may_read_why_it_was_denied_and_no_cookie_ever_counts() {
    let (app, token) = app_and_token().await;
    for proxy in PROXIES {
        let ask = |token: &str| {
            app.check_by(proxy, "POST", "mcp.example", "/mcp")
                .header("origin", "https://app.example")
                .bearer_auth(token)
        };
        let denied = ask("wrong").send().await.unwrap();
        assert_eq!(header(&denied, "access-control-allow-origin").unwrap(), "*", "{proxy}");
        let exposed = header(&denied, "access-control-expose-headers").unwrap();
        assert!(exposed.contains("WWW-Authenticate") && exposed.contains("Mcp-Session-Id"), "{proxy}");
        let allowed = ask(&token).send().await.unwrap();
        assert_eq!(allowed.status(), StatusCode::OK);
        for response in [denied, allowed] {
            assert!(!response.headers().contains_key("access-control-allow-credentials"), "{proxy}");
        }
        for origin in ["https://app.example/x", "https://a, https://b", "evil"] {
            let odd = app.check_by(proxy, "POST", "mcp.example", "/mcp").header("origin", origin);
            let odd = odd.bearer_auth(&token).send().await.unwrap();
            assert!([400, 403].contains(&odd.status().as_u16()), "{proxy} {origin}");
            assert!(!odd.headers().contains_key("access-control-allow-origin"));
        }
    }
}

#[actix_web::test]
async fn a097_with_a_list_only_its_origins_and_the_services_own_may_call() {
    let app = TestApp::start_with(&[("ALLOWED_ORIGINS", "https://app.example, http://localhost:6274")]).await;
    let client = app.client().await;
    let token = app.tokens(&client).await.access;
    for proxy in PROXIES {
        let ask = |origin: &str| {
            app.check_by(proxy, "POST", "mcp.example", "/mcp").header("origin", origin).bearer_auth(&token)
        };
        for origin in ["https://app.example", "http://localhost:6274", "https://mcp.example"] {
            assert_eq!(status(ask(origin)).await, 200, "{proxy} {origin}");
        }
        for origin in ["https://evil.example", "http://app.example", "null", "https://app.example.evil.test"]
        {
            let refused = ask(origin).send().await.unwrap();
            assert_eq!(refused.status(), StatusCode::FORBIDDEN, "{proxy} {origin}");
            assert!(!refused.headers().contains_key("access-control-allow-origin"));
        }
        let denied =
            app.check_by(proxy, "POST", "mcp.example", "/mcp").header("origin", "https://app.example");
        let denied = denied.send().await.unwrap();
        assert_eq!(header(&denied, "access-control-allow-origin").unwrap(), "https://app.example");
        assert_eq!(header(&denied, "vary").unwrap(), "Origin");
    }
}

#[actix_web::test]
async fn a081_a097_the_public_listener_answers_preflights_of_protected_hosts_only() {
    let app = TestApp::start_with(&[("ALLOWED_ORIGINS", "https://app.example")]).await;
    let ask = |host: &str, path: &str, headers: &[(&str, &str)]| {
        let request = app.http.request(reqwest::Method::OPTIONS, format!("{}{path}", app.public));
        headers
            .iter()
            .fold(request.header("host", host), |request, (name, value)| request.header(*name, *value))
    };
    let origin = ("origin", "https://app.example");
    let method = ("access-control-request-method", "POST");
    let wanted = ("access-control-request-headers", "authorization,mcp-param-region,x-other");
    for (host, path) in [("mcp.example", "/mcp"), ("MCP.example:443", "/mcp"), ("other.example", "/a/b")] {
        let answer = ask(host, path, &[origin, method, wanted]).send().await.unwrap();
        assert_eq!(answer.status(), StatusCode::NO_CONTENT, "{host}{path}");
        assert_eq!(header(&answer, "access-control-allow-origin").unwrap(), "https://app.example");
        assert_eq!(header(&answer, "access-control-allow-methods").unwrap(), "GET, POST, DELETE");
        let allowed = header(&answer, "access-control-allow-headers").unwrap();
        for name in
            ["authorization", "mcp-protocol-version", "mcp-session-id", "mcp-name", "mcp-param-region"]
        {
            assert!(allowed.split(", ").any(|other| other == name), "{name}");
        }
        assert!(!allowed.contains("x-other"));
        assert!(header(&answer, "vary").unwrap().starts_with("Origin"));
    }
    for (host, path, headers, expected) in [
        ("evil.example", "/mcp", &[origin, method][..], 404),
        ("auth.example", "/mcp", &[origin, method], 404),
        ("mcp.example", "/mcp", &[("origin", "https://evil.example"), method], 403),
        ("mcp.example", "/mcp", &[method], 400),
        ("mcp.example", "/mcp", &[origin], 400),
        ("mcp.example", "/mcp", &[origin, origin, method], 400),
        ("mcp.example", "/a//b", &[origin, method], 400),
    ] {
        let answer = ask(host, path, headers).send().await.unwrap();
        assert_eq!(answer.status().as_u16(), expected, "{host}{path} {headers:?}");
        assert!(!answer.headers().contains_key("access-control-allow-origin"));
    }
    let get = app.http.get(format!("{}/mcp", app.public)).header("host", "mcp.example");
    assert_eq!(status(get).await, 404, "only OPTIONS requests are handled");
}
