//! Checks what a client that runs in a browser needs (Fetch standard, "HTTP-CORS protocol").

use reqwest::{Method, Response};

use super::Notes;
use super::challenge::Answers;
use super::network::Target;

/// The origin of a page that is unknown to the service.
const ORIGIN: &str = "https://mcp-gate-doctor.example";

/// Sends a preflight and a request, as a page of an unknown origin would.
pub(super) async fn examine(target: &Target, answers: &Answers, notes: &mut Notes<'_>) {
    let preflight = target
        .http
        .request(Method::OPTIONS, &target.url)
        .header("origin", ORIGIN)
        .header("access-control-request-method", "POST")
        .header("access-control-request-headers", "authorization,content-type,mcp-protocol-version");
    // A status that ordinary requests also get has the same cause, which has already been reported.
    if let Ok(response) = preflight.send().await
        && !answers.refused.contains_key(&response.status().as_u16())
    {
        judge_preflight(&response, notes);
    }
    let Ok(denied) = target.http.post(&target.url).header("origin", ORIGIN).send().await else { return };
    refuse_credentials(&denied, notes);
    if denied.status() != 401 {
        return;
    }
    let exposed = header(&denied, "access-control-expose-headers").to_ascii_lowercase();
    if header(&denied, "access-control-allow-origin").is_empty() || !exposed.contains("www-authenticate") {
        notes.warning(
            "browser",
            "a page cannot read the challenge: the 401 lacks Access-Control-Allow-Origin or -Expose-Headers",
            "clients that run in a browser cannot learn where to log in",
            "make the edge forward these headers of the check's response; nginx needs auth_request_set and add_header … always",
        );
    } else {
        notes.fine("browser", "a page can read the challenge");
    }
}

fn judge_preflight(response: &Response, notes: &mut Notes<'_>) {
    refuse_credentials(response, notes);
    let status = response.status();
    let headers = header(response, "access-control-allow-headers").to_ascii_lowercase();
    let methods = header(response, "access-control-allow-methods");
    if status == 429 {
        notes.limited("browser", "a preflight");
    } else if status == 403 && header(response, "access-control-allow-origin").is_empty() {
        notes.fine(
            "browser",
            "pages of unknown origins are not allowed to call the service (ALLOWED_ORIGINS)",
        );
    } else if !status.is_success() {
        notes.warning(
            "browser",
            format!("a preflight returns {}", status.as_u16()),
            "clients that run in a browser cannot call the service",
            "route OPTIONS on this path to PUBLIC_LISTEN of auth-service; see docs/forward-auth.md",
        );
    } else if !headers.contains("authorization") || !methods.contains("POST") {
        notes.warning(
            "browser",
            "the response to a preflight does not allow POST with authorization",
            "clients that run in a browser cannot call the service, or the preflight reached the service itself",
            "route OPTIONS on this path to PUBLIC_LISTEN of auth-service; see docs/forward-auth.md",
        );
    } else {
        notes.fine("browser", "preflights work");
    }
}

fn refuse_credentials(response: &Response, notes: &mut Notes<'_>) {
    if header(response, "access-control-allow-credentials") == "true" {
        notes.problem(
            "browser",
            "a page of an unknown origin is allowed to send cookies",
            "any web page can act with the cookies in a user's browser",
            "remove Access-Control-Allow-Credentials from the edge's configuration: MCP needs no cookies",
        );
    }
}

fn header<'r>(response: &'r Response, name: &str) -> &'r str {
    response.headers().get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
}
