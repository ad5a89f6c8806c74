//! Whether auth-service can be reached at all, and what was not examined.

use std::net::SocketAddr;

use reqwest::Response;
use reqwest::header::CONTENT_TYPE;

use super::Notes;
use super::inside;
use super::network::Target;

/// What the edge says in place of auth-service, if it cannot reach it. A document that everybody can read and
/// the answer to a request without a token come from auth-service, and the first of them needs no store.
pub(super) async fn in_place_of_auth_service(target: &Target) -> Option<String> {
    let url = format!("{}/.well-known/oauth-protected-resource{}", target.origin, target.path);
    let seen = match target.http.get(&url).send().await {
        Ok(response) if response.status().is_server_error() && !is_json(&response) => {
            format!("{url} is answered {}", response.status().as_u16())
        }
        Ok(_) => return None,
        Err(_) => format!("{url} is not answered"),
    };
    match target.http.post(&target.url).send().await {
        Ok(response) if matches!(response.status().as_u16(), 200..=399 | 401) => None,
        _ => Some(seen),
    }
}

/// Edges have no error pages in JSON.
fn is_json(response: &Response) -> bool {
    response
        .headers()
        .get(CONTENT_TYPE)
        .is_some_and(|value| value.as_bytes().starts_with(b"application/json"))
}

/// Says that auth-service cannot be reached, and why, as far as its readiness tells.
pub(super) async fn note_absence(
    target: &Target,
    seen: &str,
    ops: Option<SocketAddr>,
    notes: &mut Notes<'_>,
) {
    const MEANING: &str = "no client can log in, and every request is refused";
    let Some(ops) = ops else {
        return notes.problem(
            "auth-service",
            format!("the edge answers, but auth-service does not: {seen}"),
            MEANING,
            "see that auth-service runs (its log says why it ended) and that the edge reaches its PUBLIC_LISTEN and EDGE_LISTEN (the log of the edge names the address that failed). Run the doctor where auth-service runs, with its settings, to learn more",
        );
    };
    match inside::ask(ops, target.patience).await {
        None => notes.problem(
            "auth-service",
            format!("auth-service does not answer, neither at the edge ({seen}) nor on OPS_LISTEN ({})", inside::reachable_form(ops)),
            MEANING,
            "start auth-service; if it ends again, its log says why. If it runs, run the doctor with its own settings",
        ),
        Some(response) => {
            notes.problem(
                "auth-service",
                format!("auth-service answers on OPS_LISTEN, and the edge does not reach it: {seen}"),
                MEANING,
                "give the edge the addresses of PUBLIC_LISTEN and EDGE_LISTEN, and see that both are in one network (the log of the edge names the address that failed)",
            );
            inside::judge(response, notes).await;
        }
    }
}

/// Says what was not examined for this reason.
pub(super) fn note_unexamined(reason: &str, notes: &mut Notes<'_>) {
    notes.unexamined(
        "examination",
        format!(
            "{reason}, so these were not examined: the challenge, the documents about the login, browsers, registration, forged requests, and the service itself"
        ),
        "mend what is said above, and run the doctor again",
    );
}

/// Says that nothing is known of the service behind the check.
pub(super) fn note_service(notes: &mut Notes<'_>) {
    notes.unexamined(
        "service",
        "the MCP server behind the check was not examined, because the doctor has no token: whether it runs is not known",
        "call it with a client that is signed in, or ask its wrapper: `stdio-wrapper --healthcheck` in its container, or /ready at its OPS_LISTEN",
    );
}
