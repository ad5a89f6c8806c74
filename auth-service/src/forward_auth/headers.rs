//! Reads headers so strictly that no server can interpret them differently. The module does no I/O.

use std::borrow::Cow;
use std::fmt;

use actix_web::http::Method;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::domain::host::{HostName, split_authority};
use crate::domain::origin::Origin;
use crate::domain::path::UnambiguousPath;
use crate::domain::resource::Scheme;

use super::check_headers::{CheckHeaders, Field, Times};
use super::error::CheckError;

/// The content of the `Authorization` header of a request.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Bearer<'a> {
    /// There is no `Authorization` header.
    None,
    /// There are several `Authorization` headers, or one that does not contain exactly one token.
    Malformed,
    /// A token with the scheme `Bearer` (RFC 6750 §2.1).
    Token(&'a str),
    /// A token with the scheme `DPoP` (RFC 9449 §7.1). It is not known yet whether the token is bound to a key.
    Bound(&'a str),
}

impl fmt::Debug for Bearer<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "None",
            Self::Malformed => "Malformed",
            Self::Token(_) => "Token(…)",
            Self::Bound(_) => "Bound(…)",
        })
    }
}

/// Reads a host that the edge proxy has sent.
pub(super) fn host(text: &str) -> Result<HostName, CheckError> {
    split_authority(text).map(|(host, _)| host).map_err(|_| CheckError::BadHost)
}

/// Reads a request target. Returns its path, and its query as it was sent, which is empty if there is none.
pub(super) fn path_and_query(target: &str) -> Result<(UnambiguousPath, &str), CheckError> {
    // A target is ASCII (RFC 9112 §3.2). Envoy can forward other bytes, which servers interpret differently.
    if !target.is_ascii() {
        return Err(CheckError::AmbiguousPath);
    }
    let path = UnambiguousPath::of_target(target).map_err(|_| CheckError::AmbiguousPath)?;
    Ok((path, target.split_once('?').map_or("", |(_, query)| query)))
}

/// Reads a scheme that the edge proxy has sent. `ws` and `wss` are the schemes of a request that opens a
/// WebSocket.
pub(super) fn scheme(text: &str, header: &'static str) -> Result<Scheme, CheckError> {
    match text {
        "http" | "ws" => Ok(Scheme::Http),
        "https" | "wss" => Ok(Scheme::Https),
        _ => Err(CheckError::BadHeader(header)),
    }
}

/// Reads a method that an MCP endpoint supports, or OPTIONS. Names are case-sensitive (RFC 9110 §9.1).
pub(super) fn method(name: &str) -> Result<Method, CheckError> {
    match name {
        "GET" => Ok(Method::GET),
        "POST" => Ok(Method::POST),
        "DELETE" => Ok(Method::DELETE),
        "OPTIONS" => Ok(Method::OPTIONS),
        "HEAD" => Ok(Method::HEAD),
        _ => Err(CheckError::Method),
    }
}

/// Reads `Authorization` (RFC 6750 §2.1, RFC 9449 §7.1). Tokens in the query or the body are ignored.
pub(super) fn bearer<'a>(sent: &CheckHeaders<'a>) -> Bearer<'a> {
    let value = match sent.times(Field::Authorization) {
        Times::Never => return Bearer::None,
        Times::Once(value) => value,
        Times::More => return Bearer::Malformed,
    };
    let bytes = value.as_bytes();
    let Some((scheme, rest)) = bytes.iter().position(|byte| *byte == b' ').map(|at| bytes.split_at(at))
    else {
        return Bearer::Malformed;
    };
    // One or more spaces separate scheme and token (RFC 9110 §11.4).
    let blanks = rest.iter().take_while(|byte| **byte == b' ').count();
    let token = rest.get(blanks..).filter(|token| is_b64token(token));
    let Some(token) = token.and_then(|token| std::str::from_utf8(token).ok()) else {
        return Bearer::Malformed;
    };
    match scheme {
        bearer if bearer.eq_ignore_ascii_case(b"bearer") => Bearer::Token(token),
        dpop if dpop.eq_ignore_ascii_case(b"dpop") => Bearer::Bound(token),
        _ => Bearer::Malformed,
    }
}

/// Whether the string is a `b64token` (RFC 6750 §2.1). All tokens of this server are. The loop does not stop at the
/// first invalid byte, so that the compiler can vectorize it. This matters because a token is the longest value in
/// a request.
fn is_b64token(text: &[u8]) -> bool {
    // Each range takes time for every byte, so there are only a few: one for letters in both cases, one for `-./`
    // and digits.
    let is_of_token =
        |b: u8| (b | 0x20).is_ascii_lowercase() | matches!(b, b'-'..=b'9' | b'_' | b'~' | b'+' | b'=');
    !text.is_empty() && text.iter().fold(true, |all, byte| all & is_of_token(*byte))
}

pub(super) fn origin(sent: &CheckHeaders<'_>) -> Result<Option<Origin>, CheckError> {
    let text = sent.short(Field::Origin)?;
    text.map(str::parse).transpose().map_err(|_| CheckError::BadHeader("Origin"))
}

/// Reads `Access-Control-Request-Headers`, and returns an empty string if it is missing. Returns `None` if the
/// request is not a preflight, because it has no `Access-Control-Request-Method`.
pub(super) fn preflight<'a>(sent: &CheckHeaders<'a>) -> Result<Option<&'a str>, CheckError> {
    let method = sent.short(Field::AccessControlRequestMethod)?;
    let wanted = sent.single(Field::AccessControlRequestHeaders)?;
    Ok(method.map(|_| wanted.unwrap_or_default()))
}

/// Reads `Mcp-Name`. Text that is not allowed in a header is encoded as `=?base64?…?=` (MCP 2026-07-28, Streamable
/// HTTP).
pub(super) fn mcp_name<'a>(sent: &CheckHeaders<'a>) -> Result<Option<Cow<'a, str>>, CheckError> {
    sent.short(Field::McpName)?.map(decode_sentinel).transpose()
}

fn decode_sentinel(text: &str) -> Result<Cow<'_, str>, CheckError> {
    const START: &str = "=?base64?";
    if !text.get(..START.len()).is_some_and(|start| start.eq_ignore_ascii_case(START)) {
        return Ok(Cow::Borrowed(text));
    }
    // A value that begins like encoded text but is not valid is refused, because one server might read it as a
    // name and another as encoded text.
    text.strip_prefix(START)
        .and_then(|rest| rest.strip_suffix("?="))
        .and_then(|code| STANDARD.decode(code).ok())
        .and_then(|bytes| String::from_utf8(bytes).ok())
        .map(Cow::Owned)
        .ok_or(CheckError::BadHeader("Mcp-Name"))
}

/// Refuses a header that a server behind the edge might confuse with a reserved one: CGI and its successors treat
/// `X_Auth_Subject` as `X-Auth-Subject`. Also refuses a `Connection` header that makes a proxy remove a reserved
/// header (RFC 9110 §7.6.1), and refuses `X-Forwarded-Prefix`.
pub(super) fn refuse_reserved(sent: &CheckHeaders<'_>) -> Result<(), CheckError> {
    match sent.times(Field::XForwardedPrefix) {
        _ if sent.alters_reserved => Err(CheckError::ReservedHeader),
        Times::Never => Ok(()),
        // The edge has rewritten the path, or the client has sent the header to make it look rewritten.
        Times::Once(_) | Times::More => Err(CheckError::Rewritten),
    }
}

#[cfg(test)]
mod tests {
    use actix_web::http::header::{HeaderMap, HeaderName, HeaderValue};

    use super::super::request::{AccessRequest, Target};
    use super::*;
    use crate::domain::path::UnambiguousPath;

    fn of(headers: &[(&str, &str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(HeaderName::try_from(*name).unwrap(), HeaderValue::from_str(value).unwrap());
        }
        map
    }

    #[test]
    fn a067_only_one_bearer_token_in_the_header_counts() {
        let sent = |values: &[&str]| {
            let headers: Vec<_> = values.iter().map(|value| ("authorization", *value)).collect();
            of(&headers)
        };
        assert_eq!(bearer(&CheckHeaders::of(&sent(&[]))), Bearer::None);
        for value in ["bearer abc.def", "Bearer  abc.def", "BEARER     abc.def"] {
            assert_eq!(bearer(&CheckHeaders::of(&sent(&[value]))), Bearer::Token("abc.def"), "{value}");
        }
        assert_eq!(bearer(&CheckHeaders::of(&sent(&["DPoP  abc"]))), Bearer::Bound("abc"));
        for values in [
            &["Basic abc"][..],
            &["Bearer"],
            &["Bearer "],
            &["Bearer a b"],
            &["Bearer a,b"],
            &["Bearer a, Bearer a"],
            &["abc"],
            &["Bearer a", "Bearer a"],
            &["Bearer   "],
            &["Bearer \ta"],
            &["Bearer\ta"],
            &["Bearer a "],
            &[""],
        ] {
            assert_eq!(bearer(&CheckHeaders::of(&sent(values))), Bearer::Malformed, "{values:?}");
        }
    }

    #[test]
    fn a_token_is_made_of_the_characters_of_rfc_6750() {
        for byte in 0..=u8::MAX {
            let allowed = byte.is_ascii_alphanumeric() || b"-._~+/=".contains(&byte);
            assert_eq!(is_b64token(&[b'a', byte, b'a']), allowed, "{byte}");
        }
        assert!(!is_b64token(b""));
    }

    #[test]
    fn a092_a_name_is_decoded_before_it_is_compared() {
        let name = |text: &str| {
            mcp_name(&CheckHeaders::of(&of(&[("mcp-name", text)]))).map(|name| name.map(Cow::into_owned))
        };
        for (sent, meant) in [
            ("delete_all", "delete_all"),
            ("=?base64?ZGVsZXRlX2FsbA==?=", "delete_all"),
            ("=?base64?w6lkaXQ=?=", "édit"),
            ("=?base64??=", ""),
            ("=?base64?PT9iYXNlNjQ/eD89?=", "=?base64?x?="),
            ("=?utf-8?q?x?=", "=?utf-8?q?x?="),
        ] {
            assert_eq!(name(sent).unwrap().as_deref(), Some(meant));
        }
        for odd in [
            "=?base64?",
            "=?base64?ZGVsZXRl",
            "=?base64?%%?=",
            "=?base64?ZGVsZXRlX2FsbA?=",
            "=?base64?//8=?=",
            "=?BASE64?ZGVsZXRlX2FsbA==?=",
            "=?base64?ZGVs ZXRl?=",
        ] {
            assert!(name(odd).is_err(), "{odd}");
        }
        assert!(mcp_name(&CheckHeaders::of(&of(&[("mcp-name", "read"), ("mcp-name", "delete")]))).is_err());
    }

    #[test]
    fn a092_a_name_that_is_too_long_is_not_even_decoded() {
        let sent = |name: &str, len: usize| {
            let headers = of(&[(name, &"a".repeat(len))]);
            let target = Target {
                scheme: None,
                host: host("mcp.example").unwrap(),
                path: UnambiguousPath::of_target("/mcp").unwrap(),
                query: "",
                method: Method::POST,
            };
            AccessRequest::read(target, &CheckHeaders::of(&headers)).map(|_| ())
        };
        for name in ["mcp-name", "mcp-method", "mcp-protocol-version"] {
            assert!(sent(name, 1024).is_ok(), "{name}");
            assert!(matches!(sent(name, 1025), Err(CheckError::TooLong(told)) if told == name), "{name}");
        }
        assert!(matches!(sent("origin", 45_000), Err(CheckError::TooLong("origin"))));
    }

    #[test]
    fn a073_what_could_be_taken_for_a_reserved_header_is_refused() {
        for name in [
            "x_auth_subject",
            "x-auth_subject",
            "x.auth.subject",
            "x-auth!subject",
            "x_forwarded_host",
            "x_original_url",
            "x_edge_secret",
            "mcp_name",
            "mcp.method",
            "x_real_ip",
        ] {
            assert!(refuse_reserved(&CheckHeaders::of(&of(&[(name, "x")]))).is_err(), "{name}");
        }
        for name in ["x-auth-subject", "sentry_trace", "baggage.x", "x-forwarded-host", "mcp-param-user_id"] {
            assert!(refuse_reserved(&CheckHeaders::of(&of(&[(name, "x")]))).is_ok(), "{name}");
        }
    }

    #[test]
    fn a074_connection_drops_no_reserved_header() {
        for value in [
            "X-Auth-Subject",
            "close, x-auth-groups",
            "keep-alive,X-Forwarded-Host",
            "Authorization",
            "mcp-name",
            "X_Auth_Subject",
        ] {
            assert!(refuse_reserved(&CheckHeaders::of(&of(&[("connection", value)]))).is_err(), "{value}");
        }
        for value in ["close", "keep-alive", "Upgrade", "keep-alive, Upgrade", "HTTP2-Settings", ""] {
            assert!(refuse_reserved(&CheckHeaders::of(&of(&[("connection", value)]))).is_ok(), "{value}");
        }
    }

    #[test]
    fn a075_a_rewritten_path_is_not_half_trusted() {
        assert!(matches!(
            refuse_reserved(&CheckHeaders::of(&of(&[("x-forwarded-prefix", "/x")]))),
            Err(CheckError::Rewritten)
        ));
    }
}
