//! Forged and malformed requests that have bypassed similar checks in other products. Without a token, all of them
//! must be refused.

use futures_util::stream::{self, StreamExt};

use super::Notes;
use super::challenge::Answers;
use super::network::Target;
use super::raw::{self, ProbeResponse, Reply};

/// Forged headers for requests to the service's own path, each with a label.
const HEADERS: [(&str, &str); 24] = [
    (
        "a forged X-Auth-Subject",
        "X-Auth-Subject: admin\r\nX-Auth-Username: admin\r\nX-Auth-Groups: admin\r\nX-Auth-Scope: mcp\r\n",
    ),
    ("a forged X-Auth-Assertion", "X-Auth-Assertion: eyJhbGciOiJub25lIn0.e30.\r\n"),
    ("x_auth_subject, with underscores", "x_auth_subject: admin\r\n"),
    ("a forged X-Forwarded-Host", "X-Forwarded-Host: evil.example\r\n"),
    ("a forged X-Forwarded-Host of this machine", "X-Forwarded-Host: evil.localhost\r\n"),
    ("a forged X-Forwarded-Proto", "X-Forwarded-Proto: http\r\n"),
    ("a forged X-Forwarded-Uri", "X-Forwarded-Uri: /.well-known/oauth-protected-resource\r\n"),
    ("a forged X-Forwarded-Method", "X-Forwarded-Method: OPTIONS\r\n"),
    ("a forged X-Forwarded-Prefix", "X-Forwarded-Prefix: /evil\r\n"),
    ("a forged X-Forwarded-For", "X-Forwarded-For: 127.0.0.1\r\nX-Real-IP: 127.0.0.1\r\n"),
    ("a forged X-Original-URL", "X-Original-URL: /health\r\nX-Original-Method: OPTIONS\r\n"),
    ("a forged X-Rewrite-URL", "X-Rewrite-URL: /health\r\n"),
    ("a forged Forwarded", "Forwarded: for=127.0.0.1;host=evil.example;proto=https\r\n"),
    ("X-HTTP-Method-Override", "X-HTTP-Method-Override: OPTIONS\r\n"),
    ("X-HTTP-Method", "X-HTTP-Method: OPTIONS\r\n"),
    ("X-Method-Override", "X-Method-Override: OPTIONS\r\n"),
    ("a guessed X-Edge-Secret", "X-Edge-Secret: secret\r\n"),
    ("Connection: X-Auth-Subject", "Connection: close, X-Auth-Subject, Authorization\r\n"),
    ("two Authorization headers", "Authorization: Bearer a\r\nAuthorization: Bearer b\r\n"),
    ("a Basic Authorization", "Authorization: Basic YWRtaW46YWRtaW4=\r\n"),
    ("the user agent of a health check", "User-Agent: kube-probe/1.31\r\n"),
    (
        "a WebSocket upgrade",
        "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n",
    ),
    ("a header folded over two lines", "X-Auth-Subject: a\r\n admin\r\n"),
    ("both Content-Length and Transfer-Encoding", "Transfer-Encoding: chunked\r\n"),
];

/// Request targets, in which `{}` stands for the service's path.
const TARGETS: [&str; 15] = [
    "/{}",
    "/.{}",
    "/x/..{}",
    "/%2e{}",
    "/x%2f..{}",
    "{}%2f",
    "{};x=1",
    "{}%00",
    "{}\\",
    "/.well-known/..{}",
    "/.well-known/oauth-protected-resource/../..{}",
    "/.well-known/oauth-protected-resource/..;/..;{}",
    "{}?access_token=x",
    "{}#x",
    "http://localhost{}",
];

/// Methods that MCP does not use.
const METHODS: [&str; 7] = ["post", "PUT", "PATCH", "TRACE", "CONNECT", "PROPFIND", "X-POST"];

/// Maximum number of requests in progress at a time.
const AT_ONCE: usize = 16;

/// Sends all forged requests, and judges the responses.
pub(super) async fn examine(target: &Target, answers: &Answers, notes: &mut Notes<'_>) {
    let (challenge, is_closed) = (answers.challenge.as_ref(), answers.is_closed);
    let own = target.request_path();
    let mut attacks: Vec<(String, Vec<u8>, Option<&str>)> = Vec::new();
    for (label, headers) in HEADERS {
        let expected = challenge.map(|challenge| challenge.text.as_str());
        attacks.push((label.to_owned(), request(target, "POST", own, headers), expected));
    }
    for pattern in TARGETS {
        let path = pattern.replace("{}", own);
        attacks.push((format!("the target {path}"), request(target, "POST", &path, ""), None));
    }
    for method in METHODS {
        attacks.push((format!("the method {method}"), request(target, method, own, ""), None));
    }
    let sent = attacks.len();
    let answers =
        stream::iter(attacks.into_iter().map(|(label, bytes, expected)| async move {
            (label, raw::send(target, &bytes).await, expected)
        }));
    let mut answers = answers.buffered(AT_ONCE);
    let (mut open, mut silent, mut failed) = (false, Vec::new(), Vec::new());
    while let Some((label, reply, expected)) = answers.next().await {
        match reply {
            Reply::Answered(told) if matches!(told.status, 500 | 502..=504) => {
                failed.push(format!("{label} ({})", told.status));
            }
            Reply::Answered(told) => open |= judge(&label, &told, expected, notes),
            // The edge has closed the connection, which is also a refusal.
            Reply::HungUp => {}
            Reply::Silent => silent.push(label),
        }
    }
    if !silent.is_empty() {
        notes.warning(
            "bypass",
            format!("no response within {} s to: {}", target.patience.as_secs(), silent.join(", ")),
            "it is unknown whether these requests got past the check",
            "try again when the edge is less busy; if this continues, look in its log for the reason",
        );
    }
    let is_unknown = is_closed && !failed.is_empty();
    if is_unknown {
        notes.unexamined(
            "bypass",
            format!(
                "{} of {sent} forged and malformed requests get server errors, as ordinary requests do, so it is unknown whether the check would stop them",
                failed.len()
            ),
            "fix the problem with the challenge, and run the doctor again",
        );
    } else if !failed.is_empty() {
        notes.warning(
            "bypass",
            format!("these requests get server errors: {}", failed.join(", ")),
            "something behind the edge does not accept these requests, and might have seen them",
            "look in the logs of the edge and of auth-service",
        );
    }
    if !open && silent.is_empty() && !is_unknown {
        notes.fine("bypass", format!("{sent} forged and malformed requests got no further than the check"));
    }
}

fn request(target: &Target, method: &str, path: &str, headers: &str) -> Vec<u8> {
    let body = "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"tools/list\"}";
    let (authority, length) = (&target.authority, body.len());
    // If the attack uses the `Connection` header, there must not be a second one.
    let close = if headers.starts_with("Connection") { "" } else { "Connection: close\r\n" };
    format!(
        "{method} {path} HTTP/1.1\r\nHost: {authority}\r\nAccept: application/json, text/event-stream\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n{close}{headers}\r\n{body}"
    )
    .into_bytes()
}

/// Whether the response shows a problem. `expected` is the challenge to an ordinary request, which no forged
/// request must change.
fn judge(label: &str, told: &ProbeResponse, expected: Option<&str>, notes: &mut Notes<'_>) -> bool {
    match told.status {
        100..=299 => {
            notes.problem(
                "bypass",
                format!("{label} returns {} without a token", told.status),
                "the request got past the check, or was answered as if it had",
                "compare the edge's configuration with the one that is shipped for it, header by header; see docs/forward-auth.md",
            );
            true
        }
        401 => {
            let altered =
                matches!((expected, &told.challenge), (Some(expected), Some(got)) if !same(expected, got));
            if altered {
                notes.problem(
                    "bypass",
                    format!(
                        "{label} alters the challenge: {}",
                        told.challenge.as_deref().unwrap_or_default()
                    ),
                    "an attacker can change the description of a request that the edge sends to the check",
                    "make the edge overwrite X-Forwarded-* and X-Original-*, and remove those that it does not set",
                );
            }
            altered
        }
        _ => false,
    }
}

/// Whether two challenges name the same metadata. The error code can differ, because it only shows that there was
/// an Authorization header.
fn same(expected: &str, got: &str) -> bool {
    let metadata = |text: &str| {
        text.split(',')
            .find_map(|part| part.split_once("resource_metadata="))
            .map(|(_, url)| url.trim().to_owned())
    };
    metadata(expected) == metadata(got)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(status: u16, challenge: Option<&str>) -> bool {
        let told = ProbeResponse { status, challenge: challenge.map(str::to_owned) };
        let mut ignore = |_: &super::super::Finding| {};
        let mut notes = Notes { progress: &mut ignore, findings: Vec::new() };
        judge("x", &told, Some("Bearer resource_metadata=\"https://a/\", scope=\"mcp\""), &mut notes)
    }

    #[test]
    fn only_a_refusal_that_stays_the_same_is_right() {
        assert!(judged(200, None) && judged(204, None) && judged(101, None));
        assert!(judged(401, Some("Bearer resource_metadata=\"https://evil/\", scope=\"mcp\"")));
        assert!(!judged(
            401,
            Some("Bearer error=\"invalid_token\", resource_metadata=\"https://a/\", scope=\"mcp\"")
        ));
        assert!(!judged(400, None) && !judged(403, None) && !judged(404, None) && !judged(503, None));
    }
}
