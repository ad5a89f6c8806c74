//! Checks the response to a client without a token or with a wrong one (RFC 6750 §3, RFC 9728 §5.1, MCP
//! "Error Handling").

use reqwest::{Method, Response};

use super::Notes;
use super::network::Target;

/// A challenge from a `WWW-Authenticate` header.
pub(super) struct Challenge {
    /// The whole text of the challenge.
    pub(super) text: String,
    /// The URL in its `resource_metadata` parameter.
    pub(super) metadata: Option<String>,
}

/// Sends a request without a token with each method, and one with a wrong token.
pub(super) async fn examine(target: &Target, notes: &mut Notes<'_>) -> Option<Challenge> {
    let mut challenge = None;
    for method in [Method::POST, Method::GET, Method::DELETE] {
        let request = target
            .http
            .request(method.clone(), &target.url)
            .header("accept", "application/json, text/event-stream");
        let Ok(response) = request.send().await else {
            notes.problem(
                "challenge",
                format!("{method} without a token is not answered"),
                "clients cannot learn where to log in",
                "look in the edge's log: it must answer 401 from the check before it waits for the service",
            );
            continue;
        };
        challenge = judge(&method, &response, target, notes).or(challenge);
    }
    with_a_wrong_token(target, notes).await;
    challenge
}

fn judge(method: &Method, response: &Response, target: &Target, notes: &mut Notes<'_>) -> Option<Challenge> {
    let status = response.status().as_u16();
    match status {
        401 => {}
        200..=399 => {
            notes.problem(
                "challenge",
                format!("{method} without a token is answered {status}"),
                "anyone can use the service: the check is not in front of it",
                "send this route through the check at the edge (ForwardAuth, forward_auth, auth_request, ext_authz), for every method",
            );
            return None;
        }
        500..=599 => {
            notes.problem(
                "challenge",
                format!("{method} without a token is answered {status}"),
                "the edge is closed to everyone, most often because it cannot reach auth-service",
                "see that auth-service runs, that the edge has its EDGE_LISTEN address, and what both logs say",
            );
            return None;
        }
        _ => {
            notes.problem(
                "challenge",
                format!("{method} without a token is answered {status} instead of 401"),
                "clients cannot learn where to log in",
                "403: if auth-service is not ready (see `store`, or /ready at OPS_LISTEN), mend that first: nginx turns a failure of the store into 403. Otherwise put the edge's network into TRUSTED_PROXIES, give it EDGE_SECRET, and the host into PROTECTED_HOSTS. 404: examine the service's own path, such as /mcp. 400: compare the edge's configuration with docs/forward-auth.md",
            );
            return None;
        }
    }
    let text = response.headers().get("www-authenticate").and_then(|value| value.to_str().ok());
    let Some(text) = text.filter(|text| text.starts_with("Bearer ")) else {
        notes.problem(
            "challenge",
            format!("{method} is answered 401 without a WWW-Authenticate: Bearer header"),
            "clients cannot learn where to log in",
            "let the edge hand on the whole answer of the check; nginx needs auth_request_set and add_header … always",
        );
        return None;
    };
    let metadata = parameter(text, "resource_metadata");
    match &metadata {
        Some(url) if url.starts_with(&format!("{}/", target.origin)) => {
            notes.fine("challenge", format!("{method} without a token is answered 401 with a challenge"));
        }
        _ => notes.problem(
            "challenge",
            format!("the challenge to {method} names no resource_metadata on {}: {text}", target.origin),
            "clients look for the login in the wrong place",
            "let the edge pass on the Host that the client used, and see that PROTECTED_HOSTS names it with its port",
        ),
    }
    if parameter(text, "error").is_some() {
        notes.warning(
            "challenge",
            format!("the challenge to {method} without a token has an error code"),
            "some clients give up instead of logging in (RFC 6750 §3.1)",
            "see that the edge does not add an Authorization header of its own",
        );
    }
    if !response.headers().get("cache-control").is_some_and(|value| value.as_bytes().starts_with(b"no-store"))
    {
        notes.warning(
            "challenge",
            format!("the answer to {method} has no Cache-Control: no-store"),
            "a cache might repeat the refusal after the login",
            "let the edge hand on the Cache-Control header of the check",
        );
    }
    Some(Challenge { text: text.to_owned(), metadata })
}

async fn with_a_wrong_token(target: &Target, notes: &mut Notes<'_>) {
    let request = target.http.post(&target.url).bearer_auth("mcp-gate-doctor.is.no-token");
    let Ok(response) = request.send().await else { return };
    let text = response.headers().get("www-authenticate").and_then(|value| value.to_str().ok());
    let error = text.and_then(|text| parameter(text, "error"));
    let status = response.status().as_u16();
    if status == 401 && error.as_deref() == Some("invalid_token") {
        notes.fine("challenge", "a wrong token is answered 401 invalid_token");
    } else {
        notes.problem(
            "challenge",
            format!("a wrong token is answered {status}, error {}", error.as_deref().unwrap_or("none")),
            "2xx: anyone can use the service. Otherwise: clients do not know that they have to log in again",
            "let the edge send the Authorization header to the check, and hand on its answer whole",
        );
    }
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
