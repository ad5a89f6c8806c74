//! Checks whether auth-service can be reached, and reports what was not examined.

use std::net::SocketAddr;

use reqwest::Response;
use reqwest::header::CONTENT_TYPE;

use super::Notes;
use super::inside;
use super::network::Target;

/// What the edge returns instead of auth-service's response, if it cannot reach auth-service. Two requests show
/// this: one for a public document, which auth-service can serve without its store, and one without a token.
pub(super) async fn in_place_of_auth_service(target: &Target) -> Option<String> {
    let url = format!("{}/.well-known/oauth-protected-resource{}", target.origin, target.path);
    let seen = match target.http.get(&url).send().await {
        Ok(response) if response.status().is_server_error() && !is_json(&response) => {
            format!("{url} returns {}", response.status().as_u16())
        }
        Ok(_) => return None,
        Err(_) => format!("{url} gives no response"),
    };
    match target.http.post(&target.url).send().await {
        Ok(response) if matches!(response.status().as_u16(), 200..=399 | 401) => None,
        _ => Some(seen),
    }
}

/// Whether the response is in JSON. The error pages of edge proxies are not.
fn is_json(response: &Response) -> bool {
    response
        .headers()
        .get(CONTENT_TYPE)
        .is_some_and(|value| value.as_bytes().starts_with(b"application/json"))
}

/// Reports that auth-service cannot be reached, and the cause if its readiness endpoint reveals it.
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
            format!("the edge responds, but auth-service does not: {seen}"),
            MEANING,
            "make sure that auth-service runs (its log shows why it stopped) and that the edge can reach its PUBLIC_LISTEN and EDGE_LISTEN (the log of the edge names the address that failed). To learn more, run the doctor where auth-service runs, with its settings",
        );
    };
    match inside::ask(ops, target.patience).await {
        None => notes.problem(
            "auth-service",
            format!("auth-service does not respond, neither at the edge ({seen}) nor on OPS_LISTEN ({})", inside::reachable_form(ops)),
            MEANING,
            "start auth-service; if it stops again, its log shows why. If it runs, run the doctor with its own settings",
        ),
        Some(response) => {
            notes.problem(
                "auth-service",
                format!("auth-service responds on OPS_LISTEN, but the edge does not reach it: {seen}"),
                MEANING,
                "give the edge the addresses of PUBLIC_LISTEN and EDGE_LISTEN, and make sure that both are in one network (the log of the edge names the address that failed)",
            );
            inside::judge(response, notes).await;
        }
    }
}

/// Reports what was not examined for this reason.
pub(super) fn note_unexamined(reason: &str, notes: &mut Notes<'_>) {
    notes.unexamined(
        "examination",
        format!(
            "{reason}, so these were not examined: the challenge, the documents about the login, browsers, registration, forged requests, and the service itself"
        ),
        "fix the problems above, and run the doctor again",
    );
}

/// Reports that the service behind the check was not examined.
pub(super) fn note_service(notes: &mut Notes<'_>) {
    notes.unexamined(
        "service",
        "the MCP server behind the check was not examined, because the doctor has no token: it is unknown whether it runs",
        "call it with a client that is signed in, or request /ready at OPS_LISTEN of its wrapper, which reports \
         whether the server works (`stdio-wrapper --healthcheck` only reports that the wrapper runs)",
    );
}
