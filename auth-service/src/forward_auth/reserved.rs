//! The names of headers that only the edge proxy can send, and how a client could interfere with them.

use actix_web::http::header::HeaderValue;

/// Prefixes of reserved header names: those that only the edge or auth-service can set, or on which decisions
/// depend.
const RESERVED: [&str; 5] = ["x-auth-", "x-forwarded-", "x-original-", "x-edge-", "mcp-"];
/// Complete names of further reserved headers.
const RESERVED_WHOLE: [&str; 7] =
    ["authorization", "proxy-authorization", "cookie", "dpop", "host", "origin", "x-real-ip"];

/// Whether a server might treat `name`, which must be in lower case, as a reserved name although it is not one.
pub(super) fn is_alias(name: &str) -> bool {
    let odd = name.bytes().any(|byte| !matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-'));
    // A server chooses the names of its own parameter headers (MCP 2026-07-28, "x-mcp-header").
    odd && !name.starts_with("mcp-param-")
        && is_reserved(&name.replace(|c: char| !c.is_ascii_alphanumeric(), "-"))
}

/// Whether this value of `Connection` names a reserved header. The result is true for a value that is not text.
pub(super) fn drops_reserved(value: &HeaderValue) -> bool {
    let names_one = |options: &str| {
        options.split(',').any(|option| is_reserved(&option.trim().to_ascii_lowercase().replace('_', "-")))
    };
    value.to_str().map_or(true, names_one)
}

fn is_reserved(name: &str) -> bool {
    RESERVED.iter().any(|start| name.starts_with(start)) || RESERVED_WHOLE.contains(&name)
}
