//! Tests of request boundaries: request smuggling, kept-alive connections and upgrades.

use tests::Edge;
use tests::raw;

use crate::world::{World, arrived};

each_edge!(
    a086_a_websocket_upgrade_makes_no_tunnel,
    a090_no_second_request_hides_in_a_first,
    a091_a_kept_alive_connection_mixes_nobody_up,
);

pub(crate) async fn a086_a_websocket_upgrade_makes_no_tunnel(edge: Edge) {
    let world = World::start(edge).await;
    let upgrade = [
        ("Upgrade", "websocket"),
        ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
        ("Sec-WebSocket-Version", "13"),
    ];
    let mut headers = vec![("Host", world.host.as_str()), ("Connection", "Upgrade")];
    headers.extend_from_slice(&upgrade);
    let answer = raw::ask(world.stack.port, "GET", "/mcp", &headers).await.unwrap();
    assert!((400..500).contains(&answer.status), "{answer:?}");
    world.assert_nothing_passed("an upgrade without a token");

    let bearer = world.bearer();
    headers.push(("Authorization", &bearer));
    for protocol in ["websocket", "h2c", "tcp"] {
        headers[2] = ("Upgrade", protocol);
        let answer = raw::ask(world.stack.port, "GET", "/mcp", &headers).await.unwrap();
        assert_ne!(answer.status, 101, "{protocol}: {answer:?}");
        for head in world.upstream.take_heads() {
            assert!(!head.to_lowercase().contains("\r\nupgrade:"), "{protocol} arrived: {head}");
        }
    }
}

/// Each trick hides a second request in the first one. The second request has no token, and its target is
/// `/mcp?smuggled`.
pub(crate) async fn a090_no_second_request_hides_in_a_first(edge: Edge) {
    let world = World::start(edge).await;
    let (host, bearer) = (&world.host, world.bearer());
    let inner = format!("GET /mcp?smuggled HTTP/1.1\r\nHost: {host}\r\nX-Auth-Subject: forged\r\nX: ");
    let length = inner.len();
    let tricks = [
        // Content-Length contradicts Transfer-Encoding, in both orders.
        (
            "CL.TE",
            format!("Content-Length: {}\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{inner}", length + 5),
        ),
        (
            "TE.CL",
            format!(
                "Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n{length:x}\r\n{inner}\r\n0\r\n\r\n"
            ),
        ),
        // Two servers could disagree on whether they support this Transfer-Encoding.
        (
            "TE.TE",
            format!(
                "Transfer-Encoding: chunked\r\nTransfer-Encoding: x\r\nContent-Length: 4\r\n\r\n0\r\n\r\n{inner}"
            ),
        ),
        ("xchunked", format!("Transfer-Encoding: xchunked\r\nContent-Length: {length}\r\n\r\n{inner}")),
        (
            "space before the colon",
            format!("Transfer-Encoding : chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n{inner}"),
        ),
        ("tab", format!("Transfer-Encoding:\tchunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n{inner}")),
        (
            "vertical tab",
            format!("Transfer-Encoding: \u{b}chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n{inner}"),
        ),
        ("bare LF", format!("X: y\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n{inner}")),
        ("folded", format!("Transfer-Encoding:\r\n chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n{inner}")),
        ("identity", format!("Transfer-Encoding: identity\r\nContent-Length: 0\r\n\r\n{inner}")),
        (
            "chunked, identity",
            format!("Transfer-Encoding: chunked, identity\r\nContent-Length: 5\r\n\r\n0\r\n\r\n{inner}"),
        ),
        // Lengths that can be read in two ways.
        ("two lengths", format!("Content-Length: 0\r\nContent-Length: {length}\r\n\r\n{inner}")),
        ("a list of lengths", format!("Content-Length: 0, {length}\r\n\r\n{inner}")),
        ("a sign", format!("Content-Length: +{length}\r\n\r\n{inner}")),
        ("a hexadecimal length", format!("Content-Length: 0x{length:x}\r\n\r\n{inner}")),
        ("a huge length", format!("Content-Length: 99999999999999999999999\r\n\r\n{inner}")),
        // Chunks that can be read in two ways.
        (
            "a chunk extension with a line feed",
            format!("Transfer-Encoding: chunked\r\n\r\n2;x\nxx\r\n{{}}\r\n0\r\n\r\n{inner}"),
        ),
        ("a negative chunk", format!("Transfer-Encoding: chunked\r\n\r\n-1\r\n{inner}")),
        (
            "a chunk too long for 64 bits",
            format!("Transfer-Encoding: chunked\r\n\r\n10000000000000000\r\n{inner}"),
        ),
        ("a chunk that ends early", format!("Transfer-Encoding: chunked\r\n\r\n1\r\nAB\r\n0\r\n\r\n{inner}")),
        ("no CRLF after the last chunk", format!("Transfer-Encoding: chunked\r\n\r\n0\r\n{inner}")),
    ];
    for (trick, rest) in tricks {
        let bytes =
            format!("POST /mcp HTTP/1.1\r\nHost: {host}\r\nAuthorization: {bearer}\r\n{rest}\r\n\r\n");
        let answers = raw::talk(world.stack.port, bytes.as_bytes(), 2).await;
        for head in world.upstream.take_heads() {
            assert!(!head.contains("smuggled"), "{trick}: a second request arrived: {head}\n{answers:?}");
            assert!(!head.contains("forged"), "{trick}: a header arrived: {head}");
        }
        // If the second request is read as a request, it is refused because it has no token.
        assert!(answers.iter().skip(1).all(|answer| answer.status >= 400), "{trick}: {answers:?}");
    }
    // HTTP/1.0 has no chunked encoding.
    let bytes = format!(
        "POST /mcp HTTP/1.0\r\nHost: {host}\r\nAuthorization: {bearer}\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n{inner}\r\n\r\n"
    );
    raw::talk(world.stack.port, bytes.as_bytes(), 2).await;
    assert!(world.upstream.take_heads().iter().all(|head| !head.contains("smuggled")));
    // The edge must still work.
    assert_eq!(world.raw_with_token("GET", "/mcp", &[]).await.unwrap().status, 200);
}

pub(crate) async fn a091_a_kept_alive_connection_mixes_nobody_up(edge: Edge) {
    let world = World::start(edge).await;
    let bob = world.second_person().await;
    let (ana, bob) = (world.bearer(), format!("Bearer {bob}"));
    let host = world.host.as_str();
    let order = [Some(&ana), Some(&bob), None, Some(&bob), Some(&ana), None, None, Some(&ana)];
    // Several client connections use the proxy at the same time, and share the proxy's own connections to the
    // services.
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..4 {
        let (host, ana, bob, port) = (host.to_owned(), ana.clone(), bob.clone(), world.stack.port);
        let requests: String = order
            .iter()
            .map(|token| {
                let mut headers = vec![("Host", host.as_str())];
                headers.extend(token.map(|token| ("Authorization", token.as_str())));
                raw::head("GET", "/mcp", &headers)
            })
            .collect();
        let expected: Vec<Option<&str>> =
            order.iter().map(|token| token.map(|token| if *token == ana { "ana" } else { "bob" })).collect();
        assert!(expected.contains(&Some("bob")) && bob != ana);
        tasks.spawn(async move { (raw::talk(port, requests.as_bytes(), 8).await, expected) });
    }
    while let Some(done) = tasks.join_next().await {
        let (answers, expected) = done.unwrap();
        assert_eq!(answers.len(), expected.len(), "{answers:?}");
        for (answer, expected) in answers.iter().zip(expected) {
            let Some(name) = expected else {
                assert_eq!(answer.status, 401, "{answer:?}");
                assert_eq!(answer.values("www-authenticate"), [world.challenge()]);
                continue;
            };
            assert_eq!(answer.status, 200, "{answer:?}");
            assert_eq!(arrived(&answer.body, "x-auth-username"), [name]);
        }
    }
}
