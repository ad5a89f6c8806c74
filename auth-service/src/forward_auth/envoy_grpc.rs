//! Envoy's `ext_authz` over gRPC. One message describes the whole request, and the answer can remove headers from
//! it. This module does no I/O: see [`service`].

pub mod peer;
pub mod places;
pub mod service;

use actix_web::http::StatusCode;
use actix_web::http::header::{
    AUTHORIZATION, COOKIE, HeaderMap, HeaderName, HeaderValue, PROXY_AUTHORIZATION,
};
use envoy_types::pb::envoy::config::core::v3 as core;
use envoy_types::pb::envoy::config::core::v3::header_value_option::HeaderAppendAction;
use envoy_types::pb::envoy::service::auth::v3::attribute_context::HttpRequest;
use envoy_types::pb::envoy::service::auth::v3::check_response::HttpResponse;
use envoy_types::pb::envoy::service::auth::v3::{
    CheckRequest, CheckResponse, DeniedHttpResponse, OkHttpResponse,
};
use envoy_types::pb::envoy::r#type::v3::HttpStatus;
use envoy_types::pb::google::rpc;

use super::answer::{Answer, IDENTITY};
use super::check_headers::{CheckHeaders, Field};
use super::error::CheckError;
use super::headers::{host, method, path_and_query, scheme};
use super::request::{AccessRequest, Target};

/// Headers with credentials for auth-service. They must not reach a service behind the edge.
const CREDENTIALS: [HeaderName; 5] = [
    AUTHORIZATION,
    PROXY_AUTHORIZATION,
    COOKIE,
    HeaderName::from_static("dpop"),
    HeaderName::from_static("x-edge-secret"),
];

/// Reads a check. `headers` must be the result of [`headers`] for the same check. Anything ambiguous is an error.
pub fn parse<'a>(check: &'a CheckRequest, headers: &'a HeaderMap) -> Result<AccessRequest<'a>, CheckError> {
    let (http, sent) = (http(check)?, CheckHeaders::of(headers));
    // The header comes from a proxy in front of Envoy, and Envoy keeps it only if it trusts this proxy. Without
    // the header, the scheme is the one of the connection to Envoy.
    let proto = sent.single(Field::XForwardedProto)?.unwrap_or(&http.scheme);
    let (path, query) = path_and_query(&http.path)?;
    let target = Target {
        scheme: Some(scheme(proto, "X-Forwarded-Proto")?),
        host: host(&http.host)?,
        path,
        query,
        method: method(&http.method)?,
    };
    AccessRequest::read(target, &sent)
}

fn http(check: &CheckRequest) -> Result<&HttpRequest, CheckError> {
    let request = check.attributes.as_ref().and_then(|attributes| attributes.request.as_ref());
    request.and_then(|request| request.http.as_ref()).ok_or(CheckError::Missing("attributes.request.http"))
}

/// Returns the client's headers without the pseudo-headers of HTTP/2.
///
/// # Errors
/// Fails if Envoy is configured without `encode_raw_headers`. Envoy would then join repeated headers with a
/// comma, so that two headers would look like one.
pub fn headers(check: &CheckRequest) -> Result<HeaderMap, CheckError> {
    let sent = http(check)?
        .header_map
        .as_ref()
        .ok_or(CheckError::Missing("header_map (set encode_raw_headers: true)"))?;
    let mut headers = HeaderMap::with_capacity(sent.headers.len());
    for core::HeaderValue { key, value, raw_value } in &sent.headers {
        if key.starts_with(':') {
            continue;
        }
        let name = HeaderName::try_from(key.as_str()).map_err(|_| CheckError::ReservedHeader)?;
        let bytes = if raw_value.is_empty() { value.as_bytes() } else { raw_value };
        headers.append(name, HeaderValue::from_bytes(bytes).map_err(|_| CheckError::ReservedHeader)?);
    }
    Ok(headers)
}

/// Encodes the answer for Envoy. `check` contains the headers that the client sent.
pub(super) fn respond(answer: Answer, check: &CheckRequest) -> CheckResponse {
    // Codes of google.rpc.Code: 0 is OK, 7 is PERMISSION_DENIED.
    let (code, response) = if answer.status == StatusCode::OK {
        let headers_to_remove = unwanted(check);
        // Envoy puts these headers into the request, so they must be about the caller only. For example, `Cache-Control`
        // would replace the client's.
        let headers =
            answer.identity_headers().map(|(name, value)| overwrite(name.as_str(), value)).collect();
        (0, HttpResponse::OkResponse(OkHttpResponse { headers, headers_to_remove, ..Default::default() }))
    } else {
        let status = Some(HttpStatus { code: i32::from(answer.status.as_u16()) });
        let headers = answer.headers().map(|(name, value)| overwrite(name.as_str(), value)).collect();
        let body = answer.body.unwrap_or_default();
        (7, HttpResponse::DeniedResponse(DeniedHttpResponse { status, headers, body }))
    };
    CheckResponse {
        status: Some(rpc::Status { code, ..Default::default() }),
        http_response: Some(response),
        ..Default::default()
    }
}

fn overwrite(name: &str, value: &HeaderValue) -> core::HeaderValueOption {
    // The value is printable ASCII, so this cannot fail.
    let value = value.to_str().unwrap_or_default().to_owned();
    core::HeaderValueOption {
        header: Some(core::HeaderValue { key: name.to_owned(), value, ..Default::default() }),
        append_action: HeaderAppendAction::OverwriteIfExistsOrAdd.into(),
        // Even an empty identity header must replace the client's header with that name.
        keep_empty_value: true,
        ..Default::default()
    }
}

/// Names of the headers that Envoy must remove from the request: credentials, and all other `X-Auth-…` headers of
/// the client, because a service might trust a name that this program does not use.
fn unwanted(check: &CheckRequest) -> Vec<String> {
    let sent = http(check).ok().and_then(|http| http.header_map.as_ref());
    let names = sent.into_iter().flat_map(|map| &map.headers).map(|header| header.key.to_ascii_lowercase());
    let foreign = names
        .filter(|name| name.starts_with("x-auth-") && IDENTITY.iter().all(|known| known != name.as_str()));
    CREDENTIALS.iter().map(|name| name.as_str().to_owned()).chain(foreign).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use envoy_types::pb::envoy::service::auth::v3::AttributeContext;
    use envoy_types::pb::envoy::service::auth::v3::attribute_context::Request;

    use super::super::headers::Bearer;
    use super::super::outcome::Outcome;
    use super::*;

    fn check(method: &str, host: &str, path: &str, headers: &[(&str, &str)]) -> CheckRequest {
        let headers = headers.iter().map(|(key, value)| core::HeaderValue {
            key: (*key).to_owned(),
            raw_value: value.as_bytes().to_vec(),
            ..Default::default()
        });
        let http = HttpRequest {
            method: method.to_owned(),
            host: host.to_owned(),
            path: path.to_owned(),
            scheme: "https".to_owned(),
            header_map: Some(core::HeaderMap { headers: headers.collect() }),
            ..Default::default()
        };
        let request = Some(Request { http: Some(http), ..Default::default() });
        CheckRequest { attributes: Some(AttributeContext { request, ..Default::default() }) }
    }

    fn is_read(check: &CheckRequest) -> bool {
        headers(check).is_ok_and(|headers| parse(check, &headers).is_ok())
    }

    #[test]
    fn a_check_is_read_whole() {
        let check = check(
            "POST",
            "MCP.example:443",
            "/mcp?x=1",
            &[(":path", "/mcp?x=1"), ("authorization", "Bearer abc"), ("mcp-name", "=?base64?YWI=?=")],
        );
        let headers = headers(&check).unwrap();
        let asked = parse(&check, &headers).unwrap();
        assert_eq!((asked.host.as_str(), asked.path.as_str()), ("mcp.example", "/mcp"));
        assert_eq!(asked.query, "x=1");
        assert_eq!(asked.bearer, Bearer::Token("abc"));
        assert_eq!(asked.mcp_name.as_deref(), Some("ab"));
    }

    #[test]
    fn a072_a073_a074_a075_a081_what_is_doubled_or_ambiguous_is_no_check() {
        for path in ["", "mcp", "//mcp", "/a/../b", "/%2e%2e/mcp", "/mcp;x", "/mcp%00", "*"] {
            assert!(!is_read(&check("POST", "mcp.example", path, &[])), "{path}");
        }
        for method in ["", "post", "CONNECT", "PUT", "FOO"] {
            assert!(!is_read(&check(method, "mcp.example", "/mcp", &[])), "{method}");
        }
        for host in ["", "a b", "a,b", "a@b"] {
            assert!(!is_read(&check("POST", host, "/mcp", &[])), "{host}");
        }
        for headers in [
            &[("mcp-name", "a"), ("mcp-name", "b")][..],
            &[("Origin", "https://a"), ("origin", "https://a")],
            &[("x-forwarded-proto", "https"), ("x-forwarded-proto", "https")],
            &[("x-forwarded-proto", "https, http")],
            &[("x_auth_subject", "admin")],
            &[("x-forwarded-prefix", "/x")],
            &[("connection", "x-auth-subject")],
            &[("b\u{e4}d", "x")],
            &[("x", "a\r\nx-auth-subject: admin")],
        ] {
            assert!(!is_read(&check("POST", "mcp.example", "/mcp", headers)), "{headers:?}");
        }
        assert!(is_read(&check("POST", "mcp.example", "/mcp", &[])));
        assert!(!is_read(&CheckRequest::default()));
        let mut joined = check("POST", "mcp.example", "/mcp", &[]);
        joined.attributes.as_mut().unwrap().request.as_mut().unwrap().http.as_mut().unwrap().header_map =
            None;
        assert!(matches!(headers(&joined), Err(CheckError::Missing(_))));
    }

    #[test]
    fn a076_a_yes_takes_credentials_and_foreign_identity_away() {
        let check =
            check("POST", "mcp.example", "/mcp", &[("X-Auth-Role", "admin"), ("x-auth-subject", "x")]);
        let identity = Some(Arc::new(IDENTITY.each_ref().map(|_| HeaderValue::from_static(""))));
        let answer = Answer {
            status: StatusCode::OK,
            identity,
            headers: vec![],
            body: None,
            outcome: Outcome::Malformed,
            refusal: None,
        };
        let Some(HttpResponse::OkResponse(ok)) = respond(answer, &check).http_response else {
            panic!("the check was not allowed")
        };
        for name in ["authorization", "cookie", "dpop", "x-edge-secret", "x-auth-role"] {
            assert!(ok.headers_to_remove.iter().any(|removed| removed == name), "{name}");
        }
        assert!(!ok.headers_to_remove.iter().any(|removed| removed == "x-auth-subject"));
        // Any other header would replace the client's header with that name.
        let names: Vec<_> =
            ok.headers.iter().filter_map(|option| Some(option.header.as_ref()?.key.as_str())).collect();
        assert_eq!(names, IDENTITY.each_ref().map(HeaderName::as_str));
        for option in &ok.headers {
            assert_eq!(option.append_action, i32::from(HeaderAppendAction::OverwriteIfExistsOrAdd));
            assert!(option.keep_empty_value);
        }
    }

    #[test]
    fn a_no_is_never_a_yes_by_another_name() {
        for status in 100..600_u16 {
            let status = StatusCode::from_u16(status).unwrap();
            let answer = Answer::bare(status);
            let response = respond(answer, &CheckRequest::default());
            assert_eq!(response.status.unwrap().code == 0, status == 200);
            assert_eq!(matches!(response.http_response, Some(HttpResponse::OkResponse(_))), status == 200);
        }
    }
}
