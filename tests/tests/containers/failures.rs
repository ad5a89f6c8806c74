//! Tests of containers that are killed.

use std::time::{Duration, Instant};

use reqwest::header::HeaderMap;
use serde_json::json;
use tests::{Gate, Tokens};

use crate::stack::{Containers, SOON, echo, tell, until_it_works};

/// Kills each container in turn. Checks which responses a client gets, and that its token works again afterwards.
pub(crate) async fn every_container_is_killed_once(
    stack: &Containers,
    gate: &Gate,
    tokens: &Tokens,
    edge: &str,
) {
    let token = &tokens.access_token;
    let message = json!({ "jsonrpc": "2.0", "id": 1, "method": "ping" });
    let bearer: HeaderMap = [("authorization".parse().unwrap(), format!("Bearer {token}").parse().unwrap())]
        .into_iter()
        .collect();
    for (service, wanted) in [
        ("everything", if edge == "traefik" { &[502, 503, 504][..] } else { &[503] }),
        ("auth-service", if edge == "traefik" { &[500][..] } else { &[503] }),
        ("redis", &[503]),
        ("edge", &[0]),
        ("docker-api", &[200]),
    ] {
        let Some(id) = stack.containers(false).get(service).map(|ids| ids[0].clone()) else { continue };
        stack.docker(&["kill", &id]);
        let killed = Instant::now();
        let mut seen = Vec::new();
        // Repeats the call until it gets the expected status. Before that, other errors are possible, but neither
        // success nor a challenge, which would make the client discard its login.
        loop {
            let status = if wanted == [200] {
                echo(gate, token).await.map_or(1, |_| 200)
            } else {
                gate.post_mcp(&message, bearer.clone()).await.map_or(0, |answer| answer.status)
            };
            if seen.last() != Some(&status) {
                seen.push(status);
            }
            if wanted.contains(&status) {
                break;
            }
            assert!(
                [0, 500, 502, 503, 504].contains(&status),
                "{service} killed: {seen:?}\n{}",
                stack.logs()
            );
            assert!(killed.elapsed() < SOON, "{service} killed: {seen:?}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        stack.docker(&["start", &id]);
        let back = until_it_works(stack, gate, token).await;
        tell(&format!(
            "FIGURE {service} killed: a client sees {seen:?} (0: no connection); started, {:.1} s to the next tool call",
            back.as_secs_f32()
        ));
    }
}
