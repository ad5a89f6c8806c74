//! Tests of headers with which a client impersonates the edge, auth-service or another user.

use reqwest::Method;
use serde_json::Value;
use tests::places::has_ipv6_loopback;
use tests::raw;
use tests::{Answer, Edge};

use crate::world::{World, arrived};

each_edge!(
    a067_a_token_in_the_query_counts_for_nothing,
    a069_forwarding_headers_of_a_client_count_for_nothing,
    a069_a_check_without_the_edge_secret_is_refused,
    a073_an_alias_of_an_identity_header_does_not_pass,
    a073_a_trailer_is_no_header,
    a074_connection_does_not_drop_an_identity_header,
    a075_half_trusted_forwarding_headers_change_nothing,
    a076_identity_headers_of_the_client_never_survive,
    a076_the_ipv6_loopback_address_is_checked_and_cleaned_alike,
    a076_names_by_which_other_proxies_say_who_calls_do_not_survive,
    a077_no_user_agent_or_address_opens_anything,
    a087_no_line_break_makes_a_header,
    two_authorization_headers_are_no_token,
);

pub(crate) async fn a067_a_token_in_the_query_counts_for_nothing(edge: Edge) {
    let world = World::start(edge).await;
    let target = format!("/mcp?access_token={}", world.token);
    let answer = world.raw_without_token("POST", &target, &[("Content-Length", "0")]).await.unwrap();
    assert_eq!(answer.status, 401, "{answer:?}");
    world.assert_nothing_passed("a token in the query");
    assert!(!world.stack.log_of(edge.name()).contains(&world.token), "the edge logs queries");
}

const ELSEWHERE: &str = "/.well-known/oauth-protected-resource";

pub(crate) async fn a069_forwarding_headers_of_a_client_count_for_nothing(edge: Edge) {
    let world = World::start(edge).await;
    let other = format!("other.{}", world.host);
    let open_url = format!("http://{}{ELSEWHERE}", world.host);
    let claims = [
        [("X-Forwarded-Uri", ELSEWHERE), ("X-Forwarded-Method", "OPTIONS")],
        [("X-Original-URL", open_url.as_str()), ("X-Original-Method", "OPTIONS")],
        [("X-Original-URI", ELSEWHERE), ("X-Rewrite-URL", ELSEWHERE)],
        [("X-Forwarded-Host", "evil.example"), ("X-Forwarded-Proto", "https")],
        [("X-Forwarded-Host", &other), ("Forwarded", "host=evil.example;proto=https")],
        [("X-Edge-Secret", &world.stack.edge_secret), ("X-Forwarded-For", "127.0.0.1")],
    ];
    for claim in claims {
        // Without a token, the challenge must be the same as without the forged headers.
        let answer = world.raw_without_token("POST", "/mcp", &claim).await.unwrap();
        assert_eq!(answer.status, 401, "{claim:?}: {answer:?}");
        assert_eq!(answer.values("www-authenticate"), [world.challenge()], "{claim:?}");
    }
    world.assert_nothing_passed("a request with forged forwarding headers");
    // A token for another host is refused here, whatever the headers contain.
    let foreign =
        format!("Bearer {}", world.stack.log_in_for(&format!("http://{other}/mcp")).await.access_token);
    for name in ["X-Forwarded-Host", "X-Original-URL", "X-Host", "X-Forwarded-Server", "Forwarded"] {
        let value = match name {
            "X-Original-URL" => format!("http://{other}/mcp"),
            "Forwarded" => format!("host=\"{other}\""),
            _ => other.clone(),
        };
        let answer = world.ask(Method::POST, &[("authorization", &foreign), (name, &value)]).await;
        assert_eq!(answer.status, 401, "{name}: {answer:?}");
    }
    world.assert_nothing_passed("a token of another host");
    // With a valid token, the headers have no effect and do not reach the wrapper.
    for claim in claims {
        let answer = world.raw_with_token("POST", "/mcp", &claim).await.unwrap();
        assert_eq!(answer.status, 200, "{claim:?}: {answer:?}");
        assert!(!answer.body.contains("evil.example"), "{claim:?}: {answer:?}");
        assert!(!answer.body.contains(ELSEWHERE), "{claim:?}: {answer:?}");
        assert!(!answer.body.contains(&world.stack.edge_secret), "{claim:?}: {answer:?}");
        assert_eq!(arrived(&answer.body, "x-auth-username"), ["ana"]);
        assert_eq!(arrived(&answer.body, "x-forwarded-for"), ["127.0.0.1"], "{claim:?}");
    }
    // The service gets the client's address from the edge, and nothing that the client claims.
    let answer = world.raw_with_token("POST", "/mcp", &[("X-Forwarded-For", "192.0.2.7")]).await.unwrap();
    assert_eq!(arrived(&answer.body, "x-forwarded-for"), ["127.0.0.1"], "{answer:?}");
}

pub(crate) async fn a069_a_check_without_the_edge_secret_is_refused(edge: Edge) {
    let world = World::start(edge).await;
    let port = world.stack.auth_edge_port;
    let bearer = world.bearer();
    let wrong = "x".repeat(world.stack.edge_secret.len());
    for secret in [None, Some(""), Some(wrong.as_str())] {
        for target in ["/verify/traefik", "/verify/caddy", "/verify/nginx", "/verify/envoy/mcp"] {
            let url = format!("http://{}/mcp", world.host);
            let mut headers = vec![
                ("Host", world.host.as_str()),
                ("Authorization", &bearer),
                ("X-Forwarded-Host", &world.host),
                ("X-Forwarded-Method", "GET"),
                ("X-Forwarded-Uri", "/mcp"),
                ("X-Forwarded-Proto", "http"),
                ("X-Original-Method", "GET"),
                ("X-Original-URL", &url),
            ];
            headers.extend(secret.map(|secret| ("X-Edge-Secret", secret)));
            let answer = raw::ask(port, "GET", target, &headers).await.unwrap();
            assert_eq!(answer.status, 403, "{target} with {secret:?}: {answer:?}");
            assert!(answer.values("x-auth-subject").is_empty(), "{answer:?}");
        }
    }
}

/// Whether a server that treats all punctuation as hyphens would read this name as `x-auth-…`.
fn reads_as_identity(name: &str) -> bool {
    let read: String = name
        .chars()
        .map(|char| if char.is_ascii_alphanumeric() { char.to_ascii_lowercase() } else { '-' })
        .collect();
    read.starts_with("x-auth-")
}

pub(crate) async fn a073_an_alias_of_an_identity_header_does_not_pass(edge: Edge) {
    let world = World::start(edge).await;
    let aliases = [
        "X_Auth_Subject",
        "x-auth_subject",
        "X-Auth-Subject_",
        "x_auth-subject",
        "X.Auth.Subject",
        "X!Auth!Subject",
        "X-Auth.Subject",
        "X~Auth~Subject",
        "X|Auth|Subject",
        "x-AUTH-subject",
        "X-Auth-Subject",
        "X^Auth^Subject",
    ];
    for alias in aliases {
        let answer = world.raw_with_token("POST", "/mcp", &[(alias, "forged")]).await;
        // The request is either refused, or passes without this header.
        for head in world.upstream.take_heads() {
            let lines = head.lines().skip(1).filter_map(|line| line.split_once(':'));
            for (name, value) in lines.filter(|(name, _)| reads_as_identity(name)) {
                assert!(!value.contains("forged"), "{alias} arrived as {name}: {head}");
            }
        }
        let answer = answer.unwrap_or_else(|| panic!("{alias}: no answer"));
        assert!([200, 400].contains(&answer.status), "{alias}: {answer:?}");
    }
}

pub(crate) async fn a073_a_trailer_is_no_header(edge: Edge) {
    let world = World::start(edge).await;
    let bearer = world.bearer();
    let head = raw::head(
        "POST",
        "/mcp",
        &[
            ("Host", &world.host),
            ("Authorization", &bearer),
            ("Transfer-Encoding", "chunked"),
            ("Trailer", "X-Auth-Subject"),
            ("Connection", "close"),
        ],
    );
    let bytes = format!("{head}2\r\n{{}}\r\n0\r\nX-Auth-Subject: forged\r\n\r\n");
    let answers = raw::talk(world.stack.port, bytes.as_bytes(), 1).await;
    for answer in &answers {
        assert!(!answer.body.contains("forged"), "{answer:?}");
        assert!([200, 400].contains(&answer.status), "{answer:?}");
    }
    assert!(!answers.is_empty(), "no answer\n{}", world.stack.logs());
}

pub(crate) async fn a074_connection_does_not_drop_an_identity_header(edge: Edge) {
    let world = World::start(edge).await;
    let subject = arrived(&world.raw_with_token("POST", "/mcp", &[]).await.unwrap().body, "x-auth-subject");
    assert_eq!(subject.len(), 1);
    let drops =
        ["close, X-Auth-Subject", "close, X-Auth-Subject, X-Auth-Assertion, X-Auth-Scope", "X-Auth-Subject"];
    let bearer = world.bearer();
    for value in drops {
        let headers = [("Host", world.host.as_str()), ("Authorization", &bearer), ("Connection", value)];
        let answer = raw::ask(world.stack.port, "GET", "/mcp", &headers).await.unwrap();
        if answer.status == 200 {
            assert_eq!(arrived(&answer.body, "x-auth-subject"), subject, "{value}: {answer:?}");
            assert_eq!(arrived(&answer.body, "x-auth-assertion").len(), 1, "{value}: {answer:?}");
        } else {
            assert_eq!(answer.status, 400, "{value}: {answer:?}");
        }
    }
    // A `Connection` header must not remove the headers that the check needs. Otherwise, the check would
    // evaluate another request.
    for value in ["X-Edge-Secret", "X-Forwarded-Uri, X-Forwarded-Host", "X-Original-URL", "Host"] {
        let headers = [("Host", world.host.as_str()), ("Connection", value)];
        let answer = raw::ask(world.stack.port, "GET", "/mcp", &headers).await.unwrap();
        assert!((400..500).contains(&answer.status), "{value}: {answer:?}");
        let headers = [("Host", world.host.as_str()), ("Authorization", &bearer), ("Connection", value)];
        let answer = raw::ask(world.stack.port, "GET", "/mcp", &headers).await.unwrap();
        assert!([200, 400].contains(&answer.status), "{value}: {answer:?}");
    }
}

pub(crate) async fn a075_half_trusted_forwarding_headers_change_nothing(edge: Edge) {
    let world = World::start(edge).await;
    let claims = [
        ("X-Forwarded-Prefix", "/.well-known"),
        ("X-Forwarded-Prefix", "/../mcp-other"),
        ("X-Forwarded-Port", "443"),
        ("X-Forwarded-Proto", "https"),
        ("X-Forwarded-Proto", "javascript"),
        ("X-Forwarded-Proto", "http, https"),
        ("X-Forwarded-Scheme", "https"),
        ("X-Forwarded-Ssl", "on"),
        ("X-Scheme", "https"),
        ("X-Forwarded-Host", "evil.example:80"),
    ];
    for claim in claims {
        let answer = world.raw_without_token("GET", "/mcp", &[claim]).await.unwrap();
        assert_eq!(answer.status, 401, "{claim:?}: {answer:?}");
        assert_eq!(answer.values("www-authenticate"), [world.challenge()], "{claim:?}");
        let document = world.raw_without_token("GET", ELSEWHERE, &[claim]).await.unwrap();
        let document: Value = serde_json::from_str(&document.body).unwrap();
        assert!(
            document["resource"].as_str().unwrap().starts_with(&format!("http://{}", world.host)),
            "{document}"
        );
        let passed = world.raw_with_token("GET", "/mcp", &[claim]).await.unwrap();
        assert_eq!(passed.status, 200, "{claim:?}: {passed:?}");
    }
}

pub(crate) async fn a076_identity_headers_of_the_client_never_survive(edge: Edge) {
    let world = World::start(edge).await;
    // The account has no email address and no groups. Even if auth-service sets no value for a header, the
    // client's header must be removed.
    for name in ["Subject", "Username", "Email", "Groups", "Client-Id", "Scope", "Assertion"] {
        let name = format!("X-Auth-{name}");
        for forged in
            [vec![(name.as_str(), "forged")], vec![(name.as_str(), "forged"), (name.as_str(), "forged")]]
        {
            let answer = world.raw_with_token("POST", "/mcp", &forged).await.unwrap();
            assert!([200, 400].contains(&answer.status), "{name}: {answer:?}");
            assert!(!answer.body.contains("forged"), "{name} passed: {answer:?}");
            assert!(arrived_or_empty(&answer.body, &name).len() <= 1, "{name} is doubled: {answer:?}");
        }
    }
}

pub(crate) async fn a076_the_ipv6_loopback_address_is_checked_and_cleaned_alike(edge: Edge) {
    // The configuration contains this address only on a machine that has it.
    if !has_ipv6_loopback() {
        return;
    }
    let world = World::start(edge).await;
    let post = async |more: &[(&str, &str)]| {
        let request = world.stack.http.post(format!("http://[::1]:{}/mcp", world.stack.port));
        let request = request.header("Host", &world.host);
        let request = more.iter().fold(request, |request, (name, value)| request.header(*name, *value));
        Answer::read(request.send().await.unwrap()).await.unwrap()
    };
    let stranger = post(&[("X-Auth-Subject", "forged"), ("X-Forwarded-Uri", ELSEWHERE)]).await;
    assert_eq!(stranger.status, 401, "{stranger:?}");
    assert_eq!(stranger.headers["www-authenticate"], world.challenge());
    world.assert_nothing_passed("a request without a token, at ::1");

    let user =
        post(&[("Authorization", &world.bearer()), ("Remote-User", "forged"), ("X-Auth-Email", "forged")])
            .await;
    assert_eq!(user.status, 200, "{user:?}");
    assert!(!user.body.contains("forged"), "{user:?}");
    assert_eq!(arrived(&user.body, "X-Auth-Subject").len(), 1, "{user:?}");
}

/// Headers in which other proxies and access services pass the user or the certificate of the client:
/// oauth2-proxy, Authelia, authentik, Grafana, CGI, Google, Amazon, Microsoft, Cloudflare, Tailscale, Pomerium,
/// Kong, Vouch, `mod_auth_openidc`, and proxies that verify certificates (RFC 9440). The service behind the edge
/// could trust them.
const IDENTITIES_ELSEWHERE: &str = "
    Remote-User Remote-Groups Remote-Name Remote-Email X-Remote-User X-Remote-Group X-Remote-Name
    X-Remote-Email X-Forwarded-User X-Forwarded-Email X-Forwarded-Groups
    X-Forwarded-Preferred-Username X-Forwarded-Access-Token X-Forwarded-Client-Cert
    X-Auth-Request-User X-Auth-Request-Email X-Auth-Request-Groups X-Auth-Request-Preferred-Username
    X-Auth-Request-Access-Token X-WEBAUTH-USER X-WEBAUTH-NAME X-WEBAUTH-EMAIL X-WEBAUTH-ROLE
    X-Authentik-Username X-Authentik-Groups X-Authentik-Email X-Authenticated-User
    X-Goog-Authenticated-User-Email X-Goog-Authenticated-User-Id X-Goog-Iap-Jwt-Assertion
    X-Amzn-Oidc-Identity X-Amzn-Oidc-Data X-Ms-Client-Principal X-Ms-Client-Principal-Name
    Cf-Access-Authenticated-User-Email Cf-Access-Jwt-Assertion Tailscale-User-Login
    X-Pomerium-Jwt-Assertion X-Forwarded-Tls-Client-Cert X-Forwarded-Tls-Client-Cert-Info
    X-Forwarded-Group X-Authenticated-Userid X-Authenticated-Scope X-Authenticated-Groups
    X-Authenticated-Email X-Authenticated-Name X-Consumer-Id X-Consumer-Custom-Id
    X-Consumer-Username X-Consumer-Groups X-Credential-Identifier X-Credential-Username
    X-Anonymous-Consumer X-Userinfo X-Endpoint-Api-Userinfo X-Apigateway-Api-Userinfo
    X-Ms-Token-Aad-Id-Token X-Ms-Token-Aad-Access-Token X-Ms-Token-Aad-Refresh-Token
    X-Ms-Token-Aad-Expires-On X-Ms-Token-Google-Id-Token X-Ms-Token-Google-Access-Token
    X-Ms-Token-Facebook-Access-Token X-Ms-Token-Github-Access-Token X-Ms-Token-Apple-Id-Token
    X-Vouch-User X-Vouch-Success X-Vouch-Token X-Vouch-Idp-Accesstoken X-Vouch-Idp-Idtoken
    X-Vouch-Idp-Claims-Email X-Vouch-Idp-Claims-Groups X-Vouch-Idp-Claims-Name
    X-Vouch-Idp-Claims-Sub Oidc-Claim-Sub Oidc-Claim-Email Oidc-Claim-Name Oidc-Claim-Groups
    Oidc-Claim-Roles Oidc-Claim-Upn Oidc-Claim-Oid Oidc-Claim-Iss Oidc-Claim-Preferred-Username
    Oidc-Access-Token Oidc-Id-Token Oidc-Id-Token-Payload Oidc-Refresh-Token Oidc-Userinfo
    Oidc-Userinfo-Json X-Ssl-Cert X-Ssl-Client-Cert X-Ssl-Client-Cn X-Ssl-Client-Dn
    X-Ssl-Client-S-Dn X-Ssl-Client-S-Dn-Cn X-Ssl-Client-S-Dn-Email X-Ssl-Client-I-Dn
    X-Ssl-Client-Subject X-Ssl-Client-Issuer X-Ssl-Client-Serial X-Ssl-Client-Fingerprint
    X-Ssl-Client-Sha1 X-Ssl-Client-Verify X-Ssl-Subject Ssl-Client-Cert Ssl-Client-S-Dn
    Ssl-Client-S-Dn-Cn Ssl-Client-Subject-Dn Ssl-Client-I-Dn Ssl-Client-Issuer-Dn Ssl-Client-Serial
    Ssl-Client-Fingerprint Ssl-Client-Verify Client-Cert Client-Cert-Chain X-Client-Cert
    X-Client-Cert-Chain X-Client-Cert-Dn X-Client-Cert-Subject X-Client-Certificate X-User
    X-Username X-User-Id X-User-Name X-User-Email X-User-Groups X-User-Roles X-Email X-Groups
    X-Roles X-Id-Token X-Access-Token X-Token-Subject X-Remote-Groups X-Webauth-Roles
    X-Webauth-Groups X-Authentik-Name X-Authentik-Uid X-Authentik-Jwt X-Amzn-Oidc-Accesstoken
    X-Ms-Client-Principal-Id X-Ms-Client-Principal-Idp Tailscale-User-Name";

/// The number of headers in one request. Envoy accepts a hundred.
const AT_ONCE: usize = 40;

pub(crate) async fn a076_names_by_which_other_proxies_say_who_calls_do_not_survive(edge: Edge) {
    let world = World::start(edge).await;
    let names: Vec<_> = IDENTITIES_ELSEWHERE.split_whitespace().collect();
    let mut passed = Vec::new();
    for spelled in [str::to_owned, str::to_lowercase, |name: &str| name.replace('-', "_")] {
        for some in names.chunks(AT_ONCE) {
            let spelled: Vec<_> = some.iter().map(|name| spelled(name)).collect();
            let forged: Vec<_> = spelled.iter().map(|name| (name.as_str(), "forged")).collect();
            let answer = world.raw_with_token("POST", "/mcp", &forged).await.unwrap();
            assert!([200, 400].contains(&answer.status), "{spelled:?}: {answer:?}");
            assert!(answer.status == 200 || spelled[0].contains('_'), "{spelled:?}: {answer:?}");
            if answer.body.contains("forged") {
                passed.extend(spelled.into_iter().filter(|name| !arrived(&answer.body, name).is_empty()));
            }
        }
    }
    assert!(passed.is_empty(), "these headers reach the server: {passed:?}");
}

fn arrived_or_empty(body: &str, name: &str) -> Vec<String> {
    if body.starts_with('{') { arrived(body, name) } else { Vec::new() }
}

pub(crate) async fn a077_no_user_agent_or_address_opens_anything(edge: Edge) {
    let world = World::start(edge).await;
    for agent in ["kube-probe/1.30", "ELB-HealthChecker/2.0", "GoogleHC/1.0", "Envoy/HC", "curl/8", ""] {
        for target in
            ["/mcp", "/mcp/health", "/health", "/ready", "/healthz", "/metrics", "/ping", "/mcp/ping"]
        {
            let claims = [
                ("User-Agent", agent),
                ("X-Real-IP", "127.0.0.1"),
                ("X-Envoy-Internal", "true"),
                ("Via", "1.1 lb"),
            ];
            let answer = world.raw_without_token("GET", target, &claims).await.unwrap();
            assert!([401, 404].contains(&answer.status), "{agent} {target}: {answer:?}");
        }
    }
    world.assert_nothing_passed("a health check");
}

pub(crate) async fn a087_no_line_break_makes_a_header(edge: Edge) {
    let world = World::start(edge).await;
    let bearer = world.bearer();
    let broken = [
        "X-Note: a\nX-Auth-Subject: forged\r\n",
        "X-Note: a\rX-Auth-Subject: forged\r\n",
        "X-Note: a\r\n X-Auth-Subject: forged\r\n",
        "X-Note: a\0\r\nX-Auth-Subject: forged\r\n",
        "X-Note: a%0d%0aX-Auth-Subject: forged\r\n",
        "X-Note\r\nX-Auth-Subject: forged\r\n",
        "X-Auth-Subject : forged\r\n",
        "X-Auth-Subject\t: forged\r\n",
        ": forged\r\nX-Auth-Subject: forged\r\n",
        "\tX-Auth-Subject: forged\r\n",
    ];
    for lines in broken {
        let bytes = format!(
            "POST /mcp HTTP/1.1\r\nHost: {}\r\nAuthorization: {bearer}\r\nContent-Length: 0\r\nConnection: close\r\n{lines}\r\n",
            world.host
        );
        let answers = raw::talk(world.stack.port, bytes.as_bytes(), 1).await;
        for head in world.upstream.take_heads() {
            let forged = head
                .lines()
                .any(|line| line.to_lowercase().starts_with("x-auth-subject") && line.contains("forged"));
            assert!(!forged, "{lines:?} made a header: {head}");
        }
        assert!(answers.iter().all(|answer| [200, 400].contains(&answer.status)), "{lines:?}: {answers:?}");
    }
}

pub(crate) async fn two_authorization_headers_are_no_token(edge: Edge) {
    let world = World::start(edge).await;
    let good = world.bearer();
    for both in
        [[good.as_str(), "Bearer garbage"], ["Bearer garbage", &good], [&good, &good], ["Basic YTpi", &good]]
    {
        let headers = both.map(|value| ("Authorization", value));
        let answer = world.raw_without_token("POST", "/mcp", &headers).await.unwrap();
        assert!([400, 401].contains(&answer.status), "{both:?}: {answer:?}");
    }
    world.assert_nothing_passed("a request with two tokens");
}
