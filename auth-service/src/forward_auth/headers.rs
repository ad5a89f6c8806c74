//! Reading headers so that nobody else can read them otherwise. Pure.

use std::borrow::Cow;

use actix_web::http::Method;
use actix_web::http::header::{AUTHORIZATION, CONNECTION, HeaderMap, HeaderName};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::domain::host::{HostName, split_authority};
use crate::domain::origin::Origin;
use crate::domain::resource::Scheme;

use super::names;
use super::request::{Bearer, CheckError};

/// The one value of a header, or none; two are an attempt to be read differently by two parsers.
pub(super) fn single<'a>(
    headers: &'a HeaderMap,
    name: &'static HeaderName,
) -> Result<Option<&'a str>, CheckError> {
    let mut values = headers.get_all(name);
    let Some(first) = values.next() else {
        return Ok(None);
    };
    if values.next().is_some() {
        return Err(CheckError::BadHeader(name.as_str()));
    }
    first.to_str().map(Some).map_err(|_| CheckError::BadHeader(name.as_str()))
}

/// The one value of a header that the proxy has to send.
pub(super) fn required<'a>(headers: &'a HeaderMap, name: &'static HeaderName) -> Result<&'a str, CheckError> {
    single(headers, name)?.ok_or(CheckError::Missing(name.as_str()))
}

/// Reads a host as the edge passes it on.
pub(super) fn host(text: &str) -> Result<HostName, CheckError> {
    split_authority(text).map(|(host, _)| host).map_err(|_| CheckError::BadHost)
}

/// Reads a scheme as the edge passes it on. A WebSocket's is that of the request that opens it.
pub(super) fn scheme(text: &str, header: &'static str) -> Result<Scheme, CheckError> {
    match text {
        "http" | "ws" => Ok(Scheme::Http),
        "https" | "wss" => Ok(Scheme::Https),
        _ => Err(CheckError::BadHeader(header)),
    }
}

/// Methods that an MCP endpoint answers, and OPTIONS; names are case-sensitive (RFC 9110 §9.1).
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

/// Reads `Authorization` (RFC 6750 §2.1). Tokens in the query or the body are never looked at.
pub(super) fn bearer(headers: &HeaderMap) -> Bearer<'_> {
    let mut values = headers.get_all(AUTHORIZATION);
    let Some(first) = values.next() else {
        return Bearer::None;
    };
    if values.next().is_some() {
        return Bearer::Malformed;
    }
    let Some((scheme, token)) =
        std::str::from_utf8(first.as_bytes()).ok().and_then(|text| text.split_once(' '))
    else {
        return Bearer::Malformed;
    };
    match scheme {
        _ if !is_b64token(token) => Bearer::Malformed,
        bearer if bearer.eq_ignore_ascii_case("bearer") => Bearer::Token(token),
        dpop if dpop.eq_ignore_ascii_case("dpop") => Bearer::Bound(token),
        _ => Bearer::Malformed,
    }
}

/// `b64token` of RFC 6750 §2.1, which every token of ours is. All bytes are looked at, since a loop that can stop early
/// cannot look at sixteen at once, and a token is the longest thing in a request.
fn is_b64token(text: &str) -> bool {
    let is_of_token = |b: u8| matches!(b, b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-'..=b'/' | b'_' | b'~' | b'+' | b'=');
    !text.is_empty() && text.bytes().fold(true, |all, byte| all & is_of_token(byte))
}

/// Reads `Origin`.
pub(super) fn origin(headers: &HeaderMap) -> Result<Option<Origin>, CheckError> {
    let text = single(headers, &names::ORIGIN).map_err(|_| CheckError::BadHeader("Origin"))?;
    text.map(str::parse).transpose().map_err(|_| CheckError::BadHeader("Origin"))
}

/// Reads `Access-Control-Request-Method`, for being there, and `Access-Control-Request-Headers`.
pub(super) fn preflight(headers: &HeaderMap) -> Result<Option<&str>, CheckError> {
    let method = single(headers, &names::ACCESS_CONTROL_REQUEST_METHOD)?;
    let wanted = single(headers, &names::ACCESS_CONTROL_REQUEST_HEADERS)?;
    Ok(method.map(|_| wanted.unwrap_or_default()))
}

/// Reads `Mcp-Name`: text that no header can carry comes as `=?base64?…?=` (MCP 2026-07-28, Streamable HTTP).
pub(super) fn mcp_name(headers: &HeaderMap) -> Result<Option<Cow<'_, str>>, CheckError> {
    single(headers, &names::MCP_NAME)?.map(decode_sentinel).transpose()
}

fn decode_sentinel(text: &str) -> Result<Cow<'_, str>, CheckError> {
    const START: &str = "=?base64?";
    if !text.get(..START.len()).is_some_and(|start| start.eq_ignore_ascii_case(START)) {
        return Ok(Cow::Borrowed(text));
    }
    // What begins like it and is not exactly it could be a name to one reader and a code to the next.
    text.strip_prefix(START)
        .and_then(|rest| rest.strip_suffix("?="))
        .and_then(|code| STANDARD.decode(code).ok())
        .and_then(|bytes| String::from_utf8(bytes).ok())
        .map(Cow::Owned)
        .ok_or(CheckError::BadHeader("Mcp-Name"))
}

/// Beginnings of header names that only the edge, or this service, may say something by.
const RESERVED: [&str; 5] = ["x-auth-", "x-forwarded-", "x-original-", "x-edge-", "mcp-"];
/// Whole names of the same kind.
const RESERVED_WHOLE: [&str; 7] =
    ["authorization", "proxy-authorization", "cookie", "dpop", "host", "origin", "x-real-ip"];

/// Refuses headers that a server behind the edge may take for a reserved one, and a `Connection` header that asks a
/// proxy to drop one (RFC 9110 §7.6.1). CGI and its heirs read `X_Auth_Subject` as `X-Auth-Subject`.
pub(super) fn refuse_reserved_aliases(headers: &HeaderMap) -> Result<(), CheckError> {
    let is_alias = |name: &str| {
        // A name in a header map has no capitals.
        let odd = name.bytes().any(|byte| !matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-'));
        // A server chooses the names of its own parameter headers (MCP 2026-07-28, "x-mcp-header").
        odd && !name.starts_with("mcp-param-")
            && is_reserved(&name.replace(|c: char| !c.is_ascii_alphanumeric(), "-"))
    };
    if headers.keys().any(|name| is_alias(name.as_str())) {
        return Err(CheckError::ReservedHeader);
    }
    let drops_reserved = |options: &str| {
        options.split(',').any(|option| is_reserved(&option.trim().to_ascii_lowercase().replace('_', "-")))
    };
    let mut connection = headers.get_all(CONNECTION);
    if connection.any(|value| value.to_str().map_or(true, drops_reserved)) {
        return Err(CheckError::ReservedHeader);
    }
    // Also from a client that wants the path to be read otherwise than it is.
    if headers.contains_key(&names::X_FORWARDED_PREFIX) { Err(CheckError::Rewritten) } else { Ok(()) }
}

fn is_reserved(name: &str) -> bool {
    RESERVED.iter().any(|start| name.starts_with(start)) || RESERVED_WHOLE.contains(&name)
}

#[cfg(test)]
mod tests {
    use actix_web::http::header::{HeaderName, HeaderValue};

    use super::*;

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
        assert_eq!(bearer(&sent(&[])), Bearer::None);
        assert_eq!(bearer(&sent(&["bearer abc.def"])), Bearer::Token("abc.def"));
        for values in [
            &["Basic abc"][..],
            &["Bearer"],
            &["Bearer "],
            &["Bearer a b"],
            &["Bearer a,b"],
            &["Bearer a, Bearer a"],
            &["abc"],
            &["Bearer a", "Bearer a"],
            &["Bearer  a"],
            &[""],
        ] {
            assert_eq!(bearer(&sent(values)), Bearer::Malformed, "{values:?}");
        }
    }

    #[test]
    fn a092_a_name_is_decoded_before_it_is_compared() {
        let name = |text: &str| mcp_name(&of(&[("mcp-name", text)])).map(|name| name.map(Cow::into_owned));
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
        assert!(mcp_name(&of(&[("mcp-name", "read"), ("mcp-name", "delete")])).is_err());
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
            assert!(refuse_reserved_aliases(&of(&[(name, "x")])).is_err(), "{name}");
        }
        for name in ["x-auth-subject", "sentry_trace", "baggage.x", "x-forwarded-host", "mcp-param-user_id"] {
            assert!(refuse_reserved_aliases(&of(&[(name, "x")])).is_ok(), "{name}");
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
            assert!(refuse_reserved_aliases(&of(&[("connection", value)])).is_err(), "{value}");
        }
        for value in ["close", "keep-alive", "Upgrade", "keep-alive, Upgrade", "HTTP2-Settings", ""] {
            assert!(refuse_reserved_aliases(&of(&[("connection", value)])).is_ok(), "{value}");
        }
    }

    #[test]
    fn a075_a_rewritten_path_is_not_half_trusted() {
        assert!(matches!(
            refuse_reserved_aliases(&of(&[("x-forwarded-prefix", "/x")])),
            Err(CheckError::Rewritten)
        ));
    }
}
