//! Envoy's `ext_authz` over HTTP: the original path and query behind a prefix, the original method and Host.

use actix_web::HttpRequest;
use actix_web::http::Method;
use actix_web::http::header::{HOST, HeaderMap};

use crate::domain::path::UnambiguousPath;

use super::request::{AccessRequest, CheckError, bearer, host, method, scheme, single};

/// Envoy's `path_prefix`.
pub(super) const PREFIX: &str = "/verify/envoy";

pub(super) fn parse(request: &HttpRequest, original_target: &str) -> Result<AccessRequest, CheckError> {
    parse_parts(request.method(), original_target, request.headers())
}

fn parse_parts(
    asked: &Method,
    original_target: &str,
    headers: &HeaderMap,
) -> Result<AccessRequest, CheckError> {
    Ok(AccessRequest {
        scheme: scheme(single(headers, "x-forwarded-proto")?)?,
        host: host(single(headers, HOST.as_str()).map_err(|_| CheckError::BadHost)?)?,
        path: UnambiguousPath::of_target(original_target).map_err(|_| CheckError::AmbiguousPath)?,
        method: method(asked)?,
        bearer: bearer(headers),
    })
}

#[cfg(test)]
mod tests {
    use actix_web::http::header::{AUTHORIZATION, HeaderName, HeaderValue};
    use proptest::prelude::*;

    use super::super::request::Bearer;
    use super::*;

    fn parsed(method: &str, target: &str, headers: &[(&str, &str)]) -> Result<AccessRequest, CheckError> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(HeaderName::try_from(*name).unwrap(), HeaderValue::from_str(value).unwrap());
        }
        parse_parts(&Method::from_bytes(method.as_bytes()).unwrap(), target, &map)
    }

    #[test]
    fn a_check_is_read_whole() {
        let request = parsed(
            "POST",
            "/mcp?x=1",
            &[
                ("host", "MCP.example:443"),
                ("authorization", "bearer abc.def"),
                ("x-forwarded-proto", "https"),
            ],
        )
        .unwrap();
        assert_eq!(request.host.as_str(), "mcp.example");
        assert_eq!(request.path.as_str(), "/mcp");
        assert_eq!(request.bearer, Bearer::Token("abc.def".to_owned()));
    }

    #[test]
    fn a072_a073_a075_a081_what_is_doubled_or_ambiguous_is_no_check() {
        let host = ("host", "mcp.example");
        for target in ["", "/a/../b", "//mcp", "/%2e%2e/mcp", "/mcp;x", "mcp", "/mcp%00"] {
            assert!(parsed("GET", target, &[host]).is_err(), "{target}");
        }
        assert!(parsed("GET", "/mcp", &[]).is_err());
        assert!(parsed("GET", "/mcp", &[host, host]).is_err());
        assert!(
            parsed("GET", "/mcp", &[host, ("x-forwarded-proto", "https"), ("x-forwarded-proto", "http")])
                .is_err()
        );
        assert!(parsed("GET", "/mcp", &[host, ("x-forwarded-proto", "https, http")]).is_err());
        for method in ["get", "CONNECT", "TRACE", "PATCH", "PUT", "FOO"] {
            assert!(parsed(method, "/mcp", &[host]).is_err(), "{method}");
        }
    }

    #[test]
    fn a067_only_one_bearer_token_in_the_header_counts() {
        let bearer = |values: &[&str]| {
            let headers: Vec<_> = [("host", "a")]
                .into_iter()
                .chain(values.iter().map(|value| (AUTHORIZATION.as_str(), *value)))
                .collect();
            parsed("GET", "/mcp?access_token=x", &headers).unwrap().bearer
        };
        assert_eq!(bearer(&[]), Bearer::None);
        for values in [
            &["Basic abc"][..],
            &["Bearer"],
            &["Bearer "],
            &["Bearer a b"],
            &["Bearer a,b"],
            &["abc"],
            &["Bearer a", "Bearer a"],
            &["Bearer  a"],
            &[""],
        ] {
            assert_eq!(bearer(values), Bearer::Malformed, "{values:?}");
        }
    }

    proptest! {
        #[test]
        fn any_check_is_read_or_refused(target in ".{0,80}", host in "[ -~]{0,30}", authorization in "[ -~]{0,60}") {
            let _ = parsed("POST", &target, &[("host", &host), ("authorization", &authorization)]);
        }
    }
}
