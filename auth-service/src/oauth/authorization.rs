//! Credentials in the `Authorization` header of the public endpoints (RFC 9110 §11.4). The check for edge
//! proxies has its own parser, because it also accepts the scheme `DPoP` and has no actix-web request.

use actix_web::http::header::{AUTHORIZATION, HeaderMap, HeaderValue};
use actix_web_httpauth::headers::authorization::{Bearer, Scheme};

/// Maximum length of the credentials in bytes, without the name of the scheme.
pub(super) const MAX_CREDENTIALS_LEN: usize = 8192;

/// Reads credentials of the scheme `name`. Returns `None` if they are malformed or belong to a different scheme.
///
/// The library expects the exact name and one space after it. However, the name is case-insensitive (§11.1), and
/// several spaces are allowed, so the header is first converted to the form that the library expects.
pub(super) fn credentials<S: Scheme>(name: &'static str, header: &HeaderValue) -> Option<S> {
    let (scheme, rest) = header.to_str().ok()?.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case(name) || rest.len() > MAX_CREDENTIALS_LEN {
        return None;
    }
    S::parse(&HeaderValue::from_str(&format!("{name} {}", rest.trim_matches(' '))).ok()?).ok()
}

/// The Bearer token of a request (RFC 6750 §2.1). Returns `None` if there is more than one such header.
pub(super) fn bearer(headers: &HeaderMap) -> Option<Bearer> {
    let mut all = headers.get_all(AUTHORIZATION);
    let header = all.next()?;
    if all.next().is_some() { None } else { credentials("Bearer", header) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token_in(values: &[&'static str]) -> Option<String> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(AUTHORIZATION, HeaderValue::from_static(value));
        }
        bearer(&headers).map(|bearer| bearer.token().to_owned())
    }

    #[test]
    fn the_name_of_a_scheme_has_no_case_and_spaces_may_follow_it() {
        for value in ["Bearer abc", "bearer abc", "BEARER   abc"] {
            assert_eq!(token_in(&[value]).as_deref(), Some("abc"), "{value}");
        }
    }

    #[test]
    fn other_schemes_repeated_headers_and_empty_tokens_are_none() {
        for values in [
            &["Basic abc"][..],
            &["Bearer"],
            &["Bearer "],
            &["Bearer  "],
            &["abc"],
            &["Bearer a", "Bearer a"],
            &[],
        ] {
            assert_eq!(token_in(values), None, "{values:?}");
        }
    }
}
