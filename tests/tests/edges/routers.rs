//! Routers that others write, simulated as what they are to Traefik: more of its dynamic configuration. The labels themselves are
//! tried on a real engine, in `tests/tests/containers`.

use tests::{Edge, Setup};

use crate::world;

/// Everything, before everybody else, and without a check.
const TAKES_ALL: &str = "    everything:
      entryPoints: [edge]
      rule: \"PathPrefix(`/`)\"
      priority: 9000000000000000000
      service: stdio-wrapper

  services:
    stdio-wrapper:";

#[tokio::test]
async fn a_router_of_somebody_else_does_not_take_the_pages_of_auth_service() {
    if !world::is_here(
        Edge::Traefik,
        "routers::a_router_of_somebody_else_does_not_take_the_pages_of_auth_service",
    ) {
        return;
    }
    // It takes everything else, so the stack is asked about nothing until it is up.
    let setup =
        Setup::as_shipped().through(Edge::Traefik).edge_changed("  services:\n    stdio-wrapper:", TAKES_ALL);
    let upstream = tests::upstream::Upstream::start().await;
    let stack = setup.with_any_answer().in_front_of(upstream.port).start().await;
    upstream.take_heads();
    for page in ["login", "token", "authorize", "register", "consent", "account", "jwks", "device"] {
        let answer = stack.get(stack.endpoint(page).as_str()).await.unwrap();
        assert!(answer.status < 500, "{page}: {answer:?}");
    }
    let host = format!("localhost:{}", stack.port);
    let preflight = [("Host", host.as_str()), ("Connection", "close")];
    tests::raw::ask(stack.port, "OPTIONS", "/mcp", &preflight).await.unwrap();
    let heads = upstream.take_heads();
    assert!(heads.is_empty(), "{heads:?}");
}
