//! Checks the response to a client without a token or with a wrong one (RFC 6750 §3, RFC 9728 §5.1, MCP
//! "Error Handling").

use std::collections::BTreeMap;

use reqwest::{Method, Response};
use serde_json::Value;

use super::Notes;
use super::network::Target;

/// A challenge from a `WWW-Authenticate` header.
pub(super) struct Challenge {
    /// The whole text of the challenge.
    pub(super) text: String,
    /// The URL in its `resource_metadata` parameter.
    pub(super) metadata: Option<String>,
}

/// The results of sending requests without a token.
pub(super) struct Answers {
    /// The challenge, if there is one.
    pub(super) challenge: Option<Challenge>,
    /// Whether an ordinary request gets a server error (5xx).
    pub(super) is_closed: bool,
    /// The statuses other than 401 with which ordinary requests without a token are refused.
    pub(super) refused: BTreeMap<u16, Vec<Method>>,
}

/// The methods that MCP uses.
const METHODS: [Method; 3] = [Method::POST, Method::GET, Method::DELETE];

/// Sends a request without a token with each method, and one with a wrong token.
pub(super) async fn examine(target: &Target, notes: &mut Notes<'_>) -> Answers {
    let (mut challenge, mut closed) = (None, Vec::new());
    let mut refused: BTreeMap<u16, Vec<Method>> = BTreeMap::new();
    for method in METHODS {
        let Some(response) = send(target, &method).await else {
            notes.problem(
                "challenge",
                format!("{method} without a token gets no response"),
                "clients cannot learn where to log in",
                "look in the edge's log: it must return the 401 of the check before it waits for the service",
            );
            continue;
        };
        match response.status().as_u16() {
            401 => challenge = judge(&method, &response, target, notes).or(challenge),
            status @ 200..=399 => note_open(&method, status, notes),
            500.. => closed.push((method, response)),
            status => refused.entry(status).or_default().push(method),
        }
    }
    for (status, methods) in &refused {
        note_refused(*status, methods, notes);
    }
    let is_closed = !closed.is_empty();
    if is_closed {
        note_closed(closed, notes).await;
    }
    let answers = Answers { challenge, is_closed, refused };
    with_a_wrong_token(target, &answers, notes).await;
    answers
}

/// Checks only whether a request without a token is let through.
pub(super) async fn examine_without_auth_service(target: &Target, notes: &mut Notes<'_>) {
    let mut is_open = false;
    for method in METHODS {
        if let Some(response) = send(target, &method).await
            && matches!(response.status().as_u16(), 200..=399)
        {
            is_open = true;
            note_open(&method, response.status().as_u16(), notes);
        }
    }
    if !is_open {
        notes.fine("challenge", "without auth-service, the edge lets no request without a token through");
    }
}

async fn send(target: &Target, method: &Method) -> Option<Response> {
    let request = target.http.request(method.clone(), &target.url);
    request.header("accept", "application/json, text/event-stream").send().await.ok()
}

fn note_open(method: &Method, status: u16, notes: &mut Notes<'_>) {
    notes.problem(
        "challenge",
        format!("{method} without a token returns {status}"),
        "anyone can use the service: the check is not in front of it",
        "send this route through the check at the edge (ForwardAuth, forward_auth, auth_request, ext_authz), for every method",
    );
}

/// Reports, in one finding, that requests without a token get server errors.
async fn note_closed(closed: Vec<(Method, Response)>, notes: &mut Notes<'_>) {
    let (mut told, mut is_told_by_us) = (Vec::new(), true);
    for (method, response) in closed {
        told.push(format!("{method} {}", response.status().as_u16()));
        let body: Value = response.json().await.unwrap_or_default();
        is_told_by_us &= body.get("error").is_some_and(|error| error == "temporarily_unavailable");
    }
    let what = format!("requests without a token get server errors ({})", told.join(", "));
    if is_told_by_us {
        notes.problem(
            "challenge",
            what,
            "nobody can log in at the moment; it is unknown whether auth-service still accepts valid tokens",
            "fix its store: see `store`, or the response of /ready at OPS_LISTEN; docs/state.md lists the causes, such as a full disk",
        );
    } else {
        notes.problem(
            "challenge",
            what,
            "the edge refuses every request, usually because it cannot reach EDGE_LISTEN of auth-service, or because the store is unavailable",
            "make sure that the edge has the address of EDGE_LISTEN and that the store works (`store`, or /ready at OPS_LISTEN), and read both logs",
        );
    }
}

/// Reports the requests without a token that get this status instead of 401, as a single finding.
fn note_refused(status: u16, methods: &[Method], notes: &mut Notes<'_>) {
    let methods: Vec<&str> = methods.iter().map(Method::as_str).collect();
    if status == 429 {
        return notes.limited("challenge", &format!("{} without a token", methods.join(", ")));
    }
    let verb = if methods.len() == 1 { "returns" } else { "return" };
    notes.problem(
        "challenge",
        format!("{} without a token {verb} {status} instead of 401", methods.join(", ")),
        "clients cannot learn where to log in",
        fix_of(status),
    );
}

/// What to do if a request is refused with this status instead of 401.
fn fix_of(status: u16) -> &'static str {
    match status {
        400 => {
            "compare the edge's configuration with docs/forward-auth.md: it must describe the request to the check"
        }
        403 => {
            "if auth-service is not ready (see `store`, or /ready at OPS_LISTEN), fix that first: nginx turns a failure of the store into 403. Otherwise put the edge's network into TRUSTED_PROXIES, give it EDGE_SECRET, and put the host into PROTECTED_HOSTS"
        }
        404 => {
            "check the path of this URL: it must be the one that clients use, such as /mcp. If it is correct, add a route for it to the edge, and send that route through the check"
        }
        405 => {
            "check the path of this URL. If it is correct, send every method of its route through the check at the edge"
        }
        _ => "look in the log of the edge: it must return the 401 of the check for requests without a token",
    }
}

/// Judges a response with the status 401.
fn judge(method: &Method, response: &Response, target: &Target, notes: &mut Notes<'_>) -> Option<Challenge> {
    let text = response.headers().get("www-authenticate").and_then(|value| value.to_str().ok());
    let Some(text) = text.filter(|text| text.starts_with("Bearer ")) else {
        notes.problem(
            "challenge",
            format!("{method} returns 401 without a WWW-Authenticate: Bearer header"),
            "clients cannot learn where to log in",
            "make the edge forward the whole response of the check; nginx needs auth_request_set and add_header … always",
        );
        return None;
    };
    let metadata = parameter(text, "resource_metadata");
    match &metadata {
        Some(url) if url.starts_with(&format!("{}/", target.origin)) => {
            notes.fine("challenge", format!("{method} without a token returns 401 with a challenge"));
        }
        _ => notes.problem(
            "challenge",
            format!("the challenge to {method} names no resource_metadata on {}: {text}", target.origin),
            "clients look for the login in the wrong place",
            "make the edge forward the Host that the client used, and make sure that PROTECTED_HOSTS contains it with its port",
        ),
    }
    if parameter(text, "error").is_some() {
        notes.warning(
            "challenge",
            format!("the challenge to {method} without a token has an error code"),
            "some clients give up instead of logging in (RFC 6750 §3.1)",
            "make sure that the edge does not add an Authorization header of its own",
        );
    }
    if !response.headers().get("cache-control").is_some_and(|value| value.as_bytes().starts_with(b"no-store"))
    {
        notes.warning(
            "challenge",
            format!("the response to {method} has no Cache-Control: no-store"),
            "a cache might repeat the refusal after the login",
            "make the edge forward the Cache-Control header of the check's response",
        );
    }
    Some(Challenge { text: text.to_owned(), metadata })
}

/// Judges the response to a wrong token. A status that ordinary requests also get has the same cause, and is not
/// reported again.
async fn with_a_wrong_token(target: &Target, answers: &Answers, notes: &mut Notes<'_>) {
    let request = target.http.post(&target.url).bearer_auth("mcp-gate-doctor.is.no-token");
    let Ok(response) = request.send().await else { return };
    let text = response.headers().get("www-authenticate").and_then(|value| value.to_str().ok());
    let error = text.and_then(|text| parameter(text, "error"));
    let status = response.status().as_u16();
    if answers.refused.contains_key(&status) || (answers.is_closed && status >= 500) {
        return;
    }
    if status == 401 && error.as_deref() == Some("invalid_token") {
        return notes.fine("challenge", "a wrong token gets 401 invalid_token");
    }
    if status == 429 {
        return notes.limited("challenge", "a wrong token");
    }
    let error = error.as_deref().unwrap_or("none");
    let (meaning, fix) = match status {
        200..=399 => (
            "anyone can use the service: the check accepts any token, or is not in front of it",
            "send this route through the check at the edge, with the Authorization header of the request",
        ),
        401 => (
            "clients do not know that they must log in again",
            "make the edge send the Authorization header to the check, and forward the whole response",
        ),
        _ => ("clients do not know that they must log in again", fix_of(status)),
    };
    notes.problem("challenge", format!("a wrong token gets {status}, error {error}"), meaning, fix);
}

/// The value of a challenge's parameter (RFC 9110 §11.2).
fn parameter(challenge: &str, name: &str) -> Option<String> {
    let parameters = challenge.strip_prefix("Bearer ")?.split(',').map(str::trim);
    let mut found = parameters.filter_map(|parameter| parameter.split_once('='));
    found.find(|(key, _)| *key == name).map(|(_, value)| value.trim_matches('"').to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_of_a_challenge_are_told_apart() {
        let challenge = "Bearer error=\"invalid_token\", resource_metadata=\"https://a/b\", scope=\"mcp x\"";
        assert_eq!(parameter(challenge, "resource_metadata").as_deref(), Some("https://a/b"));
        assert_eq!(parameter(challenge, "error").as_deref(), Some("invalid_token"));
        assert_eq!(parameter(challenge, "metadata"), None);
        assert_eq!(parameter("Basic realm=\"x\"", "realm"), None);
    }
}
