//! CORS preflights (Fetch standard, "CORS-preflight request"), which determine the requests that a script in a
//! browser can send.

use actix_web::http::header::{self, HeaderMap};
use actix_web::{HttpRequest, HttpResponse};

use super::Endpoint;
use super::guard::RequestHeaders;
use super::problem::Problem;

/// Headers of all revisions.
const ALLOWED: &str = "authorization, content-type, accept, last-event-id, mcp-session-id, mcp-protocol-version, mcp-method, mcp-name";
/// Prefix of the headers for tool arguments. Each tool chooses the rest of the names, so they cannot be listed.
const PARAM: &str = "mcp-param-";
/// Maximum number of `Mcp-Param-…` headers that one preflight can request.
const MAX_PARAMS: usize = 64;
/// Maximum length of the name of an `Mcp-Param-…` header, in bytes.
const MAX_NAME: usize = 128;

/// Responds to a preflight. The caller is not checked, because browsers send no credentials with a preflight.
pub(super) fn preflight(request: &HttpRequest, endpoint: &Endpoint) -> Result<HttpResponse, Problem> {
    RequestHeaders::new(request).check_site(&endpoint.sites)?;
    Ok(HttpResponse::NoContent()
        .insert_header((header::ACCESS_CONTROL_ALLOW_METHODS, "GET, POST, DELETE"))
        .insert_header((header::ACCESS_CONTROL_ALLOW_HEADERS, allowed_headers(request.headers())))
        .insert_header((header::ACCESS_CONTROL_MAX_AGE, "600"))
        .insert_header((header::VARY, "Access-Control-Request-Headers"))
        .finish())
}

/// The headers that are always allowed, and those of the requested headers that can only be tool arguments. `*`
/// would not work, because it does not include `Authorization`, and it would allow many unnecessary headers.
fn allowed_headers(headers: &HeaderMap) -> String {
    let asked =
        headers.get_all(header::ACCESS_CONTROL_REQUEST_HEADERS).filter_map(|value| value.to_str().ok());
    let names = asked.flat_map(|value| value.split(',')).map(|name| name.trim().to_ascii_lowercase());
    let mut allowed = ALLOWED.to_owned();
    for name in names.filter(|name| is_param(name)).take(MAX_PARAMS) {
        allowed.push_str(", ");
        allowed.push_str(&name);
    }
    allowed
}

/// Whether a name is `Mcp-Param-` followed by a token (RFC 9110 §5.6.2).
fn is_param(name: &str) -> bool {
    let token = name.strip_prefix(PARAM).unwrap_or_default();
    let is_token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    !token.is_empty() && name.len() <= MAX_NAME && token.bytes().all(is_token)
}

#[cfg(test)]
mod tests {
    use actix_web::http::header::HeaderValue;

    use super::*;

    fn allowed(asked: &[&str]) -> String {
        let mut headers = HeaderMap::new();
        for value in asked {
            let value = HeaderValue::from_str(value).unwrap();
            headers.append(header::ACCESS_CONTROL_REQUEST_HEADERS, value);
        }
        allowed_headers(&headers).strip_prefix(ALLOWED).unwrap().to_owned()
    }

    #[test]
    fn a_tools_arguments_are_allowed_by_their_names_and_nothing_else_is_repeated() {
        assert_eq!(allowed(&[]), "");
        assert_eq!(
            allowed(&["content-type, Mcp-Param-Region,mcp-param-shard"]),
            ", mcp-param-region, mcp-param-shard"
        );
        assert_eq!(allowed(&["mcp-param-a", "mcp-param-b"]), ", mcp-param-a, mcp-param-b");
        for bad in
            ["mcp-param-", "x-auth-subject", "cookie", "*", "mcp-param-a b", "mcp-param-(x)", "x-mcp-param-a"]
        {
            assert_eq!(allowed(&[bad]), "", "{bad}");
        }
        let many: Vec<String> = (0..500).map(|number| format!("mcp-param-{number}")).collect();
        assert_eq!(allowed(&[&many.join(",")]).matches("mcp-param-").count(), MAX_PARAMS);
        assert_eq!(allowed(&[&format!("mcp-param-{}", "x".repeat(500))]), "");
    }
}
