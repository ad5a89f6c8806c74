//! Tests that check what every edge must do for an honest client.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use reqwest::Method;
use reqwest::header::HeaderMap;
use serde_json::{Value, json};
use tests::browser::{Person, authorize_in};
use tests::oauth::REDIRECT_URI;
use tests::places::{everything_server, recorder};
use tests::setup::ACCOUNT;
use tests::upstream::DOWNLOAD;
use tests::{Answer, Edge, Setup};

use crate::world::{World, arrived};

const IDENTITY: [&str; 7] = ["subject", "username", "email", "groups", "client-id", "scope", "assertion"];

each_edge!(
    a_good_token_passes_and_the_wrapper_is_told_who_calls,
    headers_that_are_too_long_are_refused_as_such,
    without_a_token_every_method_is_challenged_exactly,
    a_bad_token_is_told_so,
    a_browser_gets_its_preflight_answered_and_may_read_a_challenge,
    discovery_documents_are_open,
    a_url_with_a_query_is_described_as_the_client_wrote_it,
    the_doctor_finds_nothing_wrong,
    every_endpoint_that_the_metadata_names_is_open,
    a_failed_login_is_logged_with_the_address_of_its_client,
    events_arrive_one_by_one,
    eight_mebibytes_pass_each_way,
    the_child_sees_no_credential,
    a_real_server_works_with_progress_as_it_happens,
);

pub(crate) async fn a_good_token_passes_and_the_wrapper_is_told_who_calls(edge: Edge) {
    let world = World::start(edge).await;
    for method in [Method::POST, Method::GET, Method::DELETE] {
        let bearer = world.bearer();
        let headers = [
            ("authorization", bearer.as_str()),
            ("cookie", "session=x"),
            ("dpop", "proof"),
            ("cache-control", "max-age=0"),
        ];
        let answer = world.ask(method.clone(), &headers).await;
        assert_eq!(answer.status, 200, "{method}: {answer:?}\n{}", world.stack.logs());
        let line = answer.json().unwrap()["line"].as_str().unwrap().to_owned();
        assert_eq!(line, format!("{method} /mcp HTTP/1.1"));
        assert_eq!(arrived(&answer.body, "host"), [world.host.as_str()]);
        assert_eq!(arrived(&answer.body, "cache-control"), ["max-age=0"]);
        assert_eq!(arrived(&answer.body, "x-auth-username"), ["ana"]);
        assert_eq!(arrived(&answer.body, "x-auth-scope"), ["mcp"]);
        assert_eq!(arrived(&answer.body, "x-auth-assertion").first().unwrap().split('.').count(), 3);
        for name in IDENTITY {
            // Some edges, such as nginx, omit a header whose value is empty.
            let values = arrived(&answer.body, &format!("x-auth-{name}"));
            assert!(values.len() <= 1, "{name}: {values:?}");
        }
        for gone in ["authorization", "cookie", "dpop", "x-edge-secret"] {
            assert!(arrived(&answer.body, gone).is_empty(), "{gone} passed: {}", answer.body);
        }
    }
}

pub(crate) async fn headers_that_are_too_long_are_refused_as_such(edge: Edge) {
    let world = World::start(edge).await;
    // nginx has no status of its own for this.
    let refusal = if edge == Edge::Nginx { 400 } else { 431 };
    let mut refused = 0;
    // The headers that the edge adds after the check are also counted.
    for length in (14_000..17_000).step_by(250).chain([40_000]) {
        let long = "x".repeat(length);
        let answer = world.raw_with_token("POST", "/mcp", &[("X-Long", &long)]).await.unwrap();
        assert!([200, refusal].contains(&answer.status), "{length}: {answer:?}\n{}", world.stack.logs());
        refused += usize::from(answer.status == refusal);
    }
    // nginx does not limit the number, and auth-service reads no check with more than 96.
    let refusal = 431;
    for number in 85..110 {
        let names: Vec<String> = (0..number).map(|number| format!("X-Many-{number}")).collect();
        let many: Vec<_> = names.iter().map(|name| (name.as_str(), "x")).collect();
        let answer = world.raw_with_token("POST", "/mcp", &many).await.unwrap();
        assert!([200, refusal].contains(&answer.status), "{number}: {answer:?}\n{}", world.stack.logs());
    }
    assert!(refused > 0, "{edge} has no limit");
}

pub(crate) async fn without_a_token_every_method_is_challenged_exactly(edge: Edge) {
    let world = World::start(edge).await;
    for method in ["POST", "GET", "DELETE"] {
        let answer = world.raw_without_token(method, "/mcp", &[]).await.unwrap();
        assert_eq!(answer.status, 401, "{method}: {answer:?}");
        assert_eq!(answer.values("www-authenticate"), [world.challenge()], "{method}");
        assert_eq!(answer.values("cache-control"), ["no-store"], "{method}");
    }
    world.assert_nothing_passed("a request without a token");
}

pub(crate) async fn a_bad_token_is_told_so(edge: Edge) {
    let world = World::start(edge).await;
    let other = world.stack.log_in_for(&format!("http://other.{}/mcp", world.host)).await.access_token;
    for token in ["garbage", &other] {
        let answer = world.ask(Method::POST, &[("authorization", &format!("Bearer {token}"))]).await;
        assert_eq!(answer.status, 401, "{answer:?}");
        assert!(answer.challenge().starts_with("Bearer error=\"invalid_token\""), "{}", answer.challenge());
        assert!(answer.challenge().contains("resource_metadata="), "{}", answer.challenge());
    }
    world.assert_nothing_passed("a bad token");
}

pub(crate) async fn a_browser_gets_its_preflight_answered_and_may_read_a_challenge(edge: Edge) {
    let world = World::start(edge).await;
    let origin = ("origin", "http://localhost:6274");
    let preflight = [
        origin,
        ("access-control-request-method", "POST"),
        ("access-control-request-headers", "authorization,content-type,mcp-protocol-version"),
    ];
    let answer = world.ask(Method::OPTIONS, &preflight).await;
    assert!((200..300).contains(&answer.status), "a browser accepts no other status: {answer:?}");
    let allowed = answer.header("access-control-allow-origin");
    assert!(["*", origin.1].contains(&allowed), "{answer:?}");
    let headers = answer.header("access-control-allow-headers").to_lowercase();
    for name in ["authorization", "content-type", "mcp-protocol-version"] {
        assert!(headers.contains(name), "{name} is not in {headers:?}");
    }
    assert!(answer.header("access-control-allow-methods").contains("POST"), "{answer:?}");
    assert_eq!(answer.header("access-control-allow-credentials"), "", "{answer:?}");
    world.assert_nothing_passed("a preflight");

    let refused = world.ask(Method::POST, &[origin]).await;
    assert_eq!(refused.status, 401);
    assert!(["*", origin.1].contains(&refused.header("access-control-allow-origin")), "{refused:?}");
    let exposed = refused.header("access-control-expose-headers").to_lowercase();
    assert!(exposed.contains("www-authenticate"), "{refused:?}");
}

pub(crate) async fn discovery_documents_are_open(edge: Edge) {
    let world = World::start(edge).await;
    let site = format!("http://{}", world.host);
    for path in ["/.well-known/oauth-protected-resource/mcp", "/.well-known/oauth-protected-resource"] {
        let document = world.stack.get_json(&format!("{site}{path}")).await.unwrap();
        assert_eq!(document["authorization_servers"], json!([world.stack.issuer]), "{path}");
    }
    for name in ["oauth-authorization-server", "openid-configuration"] {
        let document = world.stack.get_json(&format!("{site}/.well-known/{name}")).await.unwrap();
        assert_eq!(document["issuer"], world.stack.issuer.as_str(), "{name}");
    }
    let keys = world.stack.get_json(&world.stack.endpoint("jwks")).await.unwrap();
    assert!(keys["keys"].as_array().is_some_and(|keys| !keys.is_empty()));
    // Some clients send a HEAD request before they fetch a document (RFC 9110 §9.3.2).
    for target in [
        "/.well-known/oauth-protected-resource/mcp",
        "/.well-known/oauth-authorization-server",
        "/.well-known/openid-configuration",
        "/jwks",
    ] {
        let answer = world.stack.http.head(format!("{site}{target}")).send().await.unwrap();
        assert_eq!(answer.status(), 200, "{target}");
    }
    let explained = world.stack.get(&world.stack.endpoint("errors")).await.unwrap();
    assert!(explained.status == 200 && explained.body.contains("invalid_grant"), "{explained:?}");
    let nothing = world.stack.get(&format!("{site}/nothing")).await.unwrap();
    assert_eq!(nothing.status, 404);
    world.assert_nothing_passed("a discovery document");
}

pub(crate) async fn a_url_with_a_query_is_described_as_the_client_wrote_it(edge: Edge) {
    let world = World::start(edge).await;
    let site = format!("http://{}", world.host);
    for query in ["?toolset=a", "?a=1&b=%22&c=x/y?z"] {
        let answer = world.raw_without_token("POST", &format!("/mcp{query}"), &[]).await.unwrap();
        let url = format!("{site}/.well-known/oauth-protected-resource/mcp{query}");
        let challenge = format!("Bearer resource_metadata=\"{url}\", scope=\"mcp\"");
        assert_eq!((answer.status, answer.values("www-authenticate")), (401, vec![challenge.as_str()]));
        let document = world.stack.get_json(&url).await.unwrap();
        assert_eq!(document["resource"], format!("{site}/mcp{query}"));
    }
    world.assert_nothing_passed("a request without a token");
    let tokens = world.stack.log_in_for(&format!("{site}/mcp?toolset=a")).await;
    let bearer = format!("Bearer {}", tokens.access_token);
    for target in ["/mcp?toolset=a", "/mcp?toolset=b", "/mcp"] {
        let headers = [("Authorization", bearer.as_str())];
        let answer = world.raw_without_token("POST", target, &headers).await.unwrap();
        assert_eq!(answer.status, 200, "{target}: {answer:?}");
        let arrived = world.upstream.take_heads();
        assert!(arrived.iter().any(|head| head.contains(&format!("POST {target} HTTP"))), "{arrived:?}");
    }
}

pub(crate) async fn the_doctor_finds_nothing_wrong(edge: Edge) {
    // This stack has a real wrapper, because the doctor sends the same requests as a client.
    let stack = Setup::as_shipped().through(edge).wrapping(recorder()).start().await;
    let output = stack.operator(&["doctor", "--outside-only", "--json", &stack.mcp_url]);
    let report: Value = serde_json::from_str(&output).unwrap();
    assert_eq!((&report["problems"], &report["warnings"]), (&json!(0), &json!(0)), "{report:#}");
}

pub(crate) async fn every_endpoint_that_the_metadata_names_is_open(edge: Edge) {
    let world = World::start(edge).await;
    let site = format!("http://{}", world.host);
    let metadata =
        world.stack.get_json(&format!("{site}/.well-known/oauth-authorization-server")).await.unwrap();
    let named = metadata.as_object().unwrap().iter();
    let urls: Vec<&str> = named
        .filter(|(name, _)| name.ends_with("_endpoint") || name.ends_with("_uri"))
        .filter_map(|(_, url)| url.as_str().filter(|url| url.starts_with(&world.stack.issuer)))
        .collect();
    assert!(urls.len() >= 4, "{metadata}");
    for url in urls.into_iter().chain([format!("{site}/login/password").as_str()]) {
        let answer = world.stack.get(url).await.unwrap();
        // A 404 as plain text is the proxy's own response for an unknown path.
        let of_proxy = answer.status == 404 && answer.header("content-type").starts_with("text/plain");
        assert!(!of_proxy && answer.challenge() == "", "{url}: {answer:?}");
    }
    world.assert_nothing_passed("a request to the authorization server");
}

pub(crate) async fn a_failed_login_is_logged_with_the_address_of_its_client(edge: Edge) {
    let world = World::start(edge).await;
    let browser = reqwest::Client::builder()
        .redirect(reqwest::redirect::Policy::none())
        .cookie_store(true)
        .local_address(IpAddr::from([127, 0, 0, 7]))
        // The loopback address of IPv6 has no neighbours.
        .resolve("localhost", SocketAddr::from(([127, 0, 0, 1], 0)))
        .build()
        .unwrap();
    let client = world.stack.register().await.unwrap();
    let url = world.stack.authorization_url(&client, &world.stack.mcp_url);
    let stranger = Person::new(ACCOUNT.0, "not the password");
    let refused = authorize_in(&browser, url, REDIRECT_URI, &stranger).await.unwrap_err();
    assert!(refused.to_string().contains("answered 403"), "{refused:#}");
    let log = world.stack.log_of("auth-service");
    let told = log.lines().find(|line| line.contains("login_failed"));
    assert!(told.is_some_and(|line| line.contains("address=127.0.0.7")), "{told:?}");
}

pub(crate) async fn events_arrive_one_by_one(edge: Edge) {
    let world = World::start(edge).await;
    let request = world.stack.http.get(&world.stack.mcp_url).bearer_auth(&world.token);
    let begin = Instant::now();
    let mut response = request.header("x-please", "events").send().await.unwrap();
    assert_eq!(response.headers()["content-type"], "text/event-stream");
    let mut times = Vec::new();
    let mut text = String::new();
    while let Some(chunk) = response.chunk().await.unwrap() {
        text.push_str(&String::from_utf8_lossy(&chunk));
        times.resize(text.matches("\n\n").count(), begin.elapsed());
    }
    assert_eq!(text, "data: 0\n\ndata: 1\n\ndata: 2\n\ndata: 3\n\ndata: 4\n\n");
    // The events are sent at intervals of a third of a second. If the edge buffered them, they would arrive
    // together.
    let far_apart = times.windows(2).filter(|two| two[0] + Duration::from_millis(150) < two[1]).count();
    assert!(far_apart >= 3, "{times:?}");
}

pub(crate) async fn eight_mebibytes_pass_each_way(edge: Edge) {
    let world = World::start(edge).await;
    let request = world.stack.http.post(&world.stack.mcp_url).bearer_auth(&world.token);
    let answer = Answer::read(request.body(vec![b'u'; DOWNLOAD]).send().await.unwrap()).await.unwrap();
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(answer.json().unwrap()["body_bytes"], DOWNLOAD);
    let request = world.stack.http.get(&world.stack.mcp_url).bearer_auth(&world.token);
    let answer = Answer::read(request.header("x-please", "download").send().await.unwrap()).await.unwrap();
    assert_eq!(answer.body.len(), DOWNLOAD);
}

pub(crate) async fn the_child_sees_no_credential(edge: Edge) {
    let stack = Setup::as_shipped().through(edge).wrapping(recorder()).start().await;
    let tokens = stack.log_in().await;
    let forged: HeaderMap = [
        ("x-auth-subject", "forged-subject"),
        ("x-auth-assertion", "forged-assertion"),
        ("x-auth-groups", "forged-group"),
        ("cookie", "session=forged-cookie"),
        ("dpop", "forged-proof"),
    ]
    .into_iter()
    .map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()))
    .collect();
    let mut session = stack.open_session(&tokens.access_token, forged).await.unwrap();
    let seen = session.call("what_reached_you", json!({ "a": 1 })).await.unwrap();
    let parsed: Value = serde_json::from_str(&seen).unwrap();
    assert!(
        parsed["messages"].as_array().is_some_and(|messages| messages.len() >= 3),
        "no recording: {seen}"
    );
    let signature = tokens.access_token.rsplit('.').next().unwrap();
    for secret in [tokens.access_token.as_str(), signature, &stack.edge_secret, "Bearer ", "forged-"] {
        assert!(!seen.contains(secret), "`{secret}` reached the child: {seen}");
    }
}

pub(crate) async fn a_real_server_works_with_progress_as_it_happens(edge: Edge) {
    let stack = Setup::as_shipped().through(edge).wrapping(everything_server()).start().await;
    let token = stack.log_in().await.access_token;
    let page: HeaderMap =
        [("origin".parse().unwrap(), "http://localhost:6274".parse().unwrap())].into_iter().collect();
    let mut session = stack.open_session(&token, page).await.unwrap();
    let echoed = session.call("echo", json!({ "message": "grüße" })).await.unwrap();
    assert_eq!(echoed, "Echo: grüße");
    let call = json!({
        "jsonrpc": "2.0", "id": 7, "method": "tools/call",
        "params": {
            "name": "trigger-long-running-operation",
            "arguments": { "duration": 2, "steps": 2 },
            "_meta": { "progressToken": "p" },
        },
    });
    let begin = Instant::now();
    let mut response = session.send(&call).await.unwrap();
    // The response contains a single header that allows a web page to read it.
    let allowed: Vec<_> = response.headers().get_all("access-control-allow-origin").iter().collect();
    assert!(allowed == ["*"] || allowed == ["http://localhost:6274"], "{allowed:?}");
    let (mut text, mut first) = (String::new(), None);
    while let Some(chunk) = response.chunk().await.unwrap() {
        text.push_str(&String::from_utf8_lossy(&chunk));
        if first.is_none() && text.contains("notifications/progress") {
            first = Some(begin.elapsed());
        }
    }
    assert!(text.contains("Long running operation completed"), "{text}");
    let first = first.expect("there was progress");
    assert!(first + Duration::from_millis(600) < begin.elapsed(), "the first progress came after {first:?}");
}
