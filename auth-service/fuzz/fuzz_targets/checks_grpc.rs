//! Fuzzes the parser of Envoy's gRPC checks. It must not panic, and must accept only unambiguous requests.
#![no_main]

use auth_service::forward_auth::envoy_grpc;
use envoy_types::pb::envoy::config::core::v3::{HeaderMap, HeaderValue};
use envoy_types::pb::envoy::service::auth::v3::attribute_context::{HttpRequest, Request};
use envoy_types::pb::envoy::service::auth::v3::{AttributeContext, CheckRequest};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (&str, &str, &str, &str, Vec<(&str, &[u8])>)| {
    let (method, scheme, host, path, lines) = input;
    let headers = lines.iter().map(|(key, value)| HeaderValue {
        key: (*key).to_owned(),
        raw_value: value.to_vec(),
        ..Default::default()
    });
    let http = HttpRequest {
        method: method.to_owned(),
        scheme: scheme.to_owned(),
        host: host.to_owned(),
        path: path.to_owned(),
        header_map: Some(HeaderMap { headers: headers.collect() }),
        ..Default::default()
    };
    let request = Some(Request { http: Some(http), ..Default::default() });
    let check = CheckRequest { attributes: Some(AttributeContext { request, ..Default::default() }) };
    let Ok(headers) = envoy_grpc::headers(&check) else { return };
    if let Ok(asked) = envoy_grpc::parse(&check, &headers) {
        assert_eq!(asked.method.as_str(), method);
        assert_eq!(Some(asked.path.as_str()), path.split('?').next());
    }
});
