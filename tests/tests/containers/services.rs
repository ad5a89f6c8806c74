//! Tests a service that is added while the stack runs.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use reqwest::header::{HOST, HeaderMap};
use serde_json::json;
use tests::browser::Person;
use tests::{Gate, Tokens};

use crate::PASSWORD;
use crate::stack::{Containers, call, tell};

/// The start time of every container, by its service and ID.
pub(crate) fn starts(stack: &Containers) -> BTreeMap<String, String> {
    let all = stack
        .containers(false)
        .into_iter()
        .flat_map(|(service, ids)| ids.into_iter().map(move |id| (id, service.clone())).collect::<Vec<_>>());
    all.map(|(id, service)| {
        let about = stack.engine.inspect(&id).unwrap();
        (format!("{service} {id}"), about["State"]["StartedAt"].as_str().unwrap().to_owned())
    })
    .collect()
}

/// Asserts that all these containers are running and were not restarted.
pub(crate) fn nobody_was_restarted(before: &BTreeMap<String, String>, stack: &Containers) {
    let after = starts(stack);
    for (part, start) in before {
        assert_eq!(after.get(part), Some(start), "{part} was restarted");
    }
}

pub(crate) async fn a_service_appears_and_nobody_else_notices(stack: &Containers, tokens: &Tokens) {
    let before = starts(stack);
    let gate = stack.gate("everything");
    let mut session = gate.open_session(&tokens.access_token, HeaderMap::new()).await.unwrap();
    stack.script(&[
        "add-service",
        "clock",
        "--internet",
        "--",
        "uvx",
        "mcp-server-time==2026.10.19",
        "--local-timezone",
        "UTC",
    ]);
    let clock = stack.gate("clock");
    let person = Person::new("admin", PASSWORD);
    let (_, for_clock) = clock.log_in_as(&person, &clock.mcp_url).await.unwrap();
    let time =
        call(&clock, &for_clock.access_token, "get_current_time", json!({ "timezone": "Europe/Rome" })).await;
    assert!(time.as_ref().is_ok_and(|text| text.contains("Europe/Rome")), "{time:?}");
    // A token is valid only for the service that it was requested for.
    let other = call(&clock, &tokens.access_token, "get_current_time", json!({ "timezone": "UTC" })).await;
    assert!(other.is_err_and(|error| format!("{error:#}").contains("401")));

    if stack.setting("COMPOSE_FILE").contains("traefik") {
        a_service_at_a_host_of_its_own(stack).await;
    }
    nobody_was_restarted(&before, stack);
    assert_eq!(session.call("echo", json!({ "message": "still" })).await.unwrap(), "Echo: still");
    tell(&format!(
        "  a service was added: {} other containers unchanged, an open session continues",
        before.len()
    ));
}

pub(crate) async fn a_service_at_a_host_of_its_own(stack: &Containers) {
    let package = "@modelcontextprotocol/server-everything@2026.8.31";
    stack.script(&["add-service", "own", "--host", "own", "--", "npx", "-y", package, "stdio"]);
    let resource = format!("http://own.localhost:{}/mcp", stack.port);
    let person = Person::new("admin", PASSWORD);
    let anywhere = stack.gate("everything");
    let (_, tokens) = anywhere.log_in_as(&person, &resource).await.unwrap();
    // Not every machine resolves names below localhost, so the request is sent to localhost with the name in the
    // `Host` header.
    let gate = Gate::at(&anywhere.issuer, &format!("http://localhost:{}/mcp", stack.port));
    let host: HeaderMap =
        [(HOST, format!("own.localhost:{}", stack.port).parse().unwrap())].into_iter().collect();
    let mut session = gate.open_session(&tokens.access_token, host).await.unwrap();
    assert_eq!(session.call("echo", json!({ "message": "own" })).await.unwrap(), "Echo: own");
}

/// Starts containers that claim this project's name, with labels for a separate path and for `/login`. The
/// container with the stack's own label is served, which shows that the other labels are right. The container
/// without it is not served. Neither of them receives requests for the pages of auth-service.
pub(crate) async fn a_container_of_somebody_else_is_not_served(stack: &Containers) {
    let ours = stack.setting("STACK_LABEL");
    assert!(ours.len() >= 24, "scripts/up made no STACK_LABEL: {ours:?}");
    let gate = stack.gate("everything");
    let own = format!("mcp-gate.stack={ours}");
    // The container with the wrong label starts first. Once the other one is served, Traefik has seen both.
    let claims = [("foreign", "mcp-gate.stack=guessed"), ("known", own.as_str())];
    for (name, label) in claims {
        let labels = [
            label.to_owned(),
            format!("com.docker.compose.project={}", stack.project),
            "traefik.enable=true".to_owned(),
            format!("traefik.http.routers.{name}.entrypoints=edge"),
            format!("traefik.http.routers.{name}.rule=PathPrefix(`/{name}`) || PathPrefix(`/login`)"),
            format!("traefik.http.routers.{name}.priority=9000000000000000000"),
            format!("traefik.http.services.{name}.loadbalancer.server.url=http://mcp-everything:9"),
        ];
        let container = format!("{}-{name}", stack.project);
        let image = stack.setting("PYTHON_IMAGE");
        let mut words = vec!["run", "-d", "--rm", "--network=none", "--name", &container];
        words.extend(labels.iter().flat_map(|label| ["--label", label.as_str()]));
        words.extend([image.as_str(), "sleep", "600"]);
        stack.docker(&words);
    }
    let at = |path: &str| format!("http://localhost:{}/{path}", stack.port);
    let deadline = Instant::now() + Duration::from_secs(60);
    while gate.get(&at("known")).await.unwrap().status == 404 {
        assert!(Instant::now() < deadline, "Traefik does not see the container with the stack's own label");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    assert_eq!(gate.get(&at("foreign")).await.unwrap().status, 404);
    // The routers of these containers point to an address without a listener. If one of them received the request,
    // the status would be 502.
    let login = gate.get(&at("login")).await.unwrap();
    assert!(login.status < 500, "{login:?}");
    for (name, _) in claims {
        stack.docker(&["rm", "-f", &format!("{}-{name}", stack.project)]);
    }
    tell("  a foreign container with the name of this project is not served");
}
