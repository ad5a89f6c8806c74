//! Fuzzes the header checks. They must not panic, and must accept only the configured host and origin.
#![no_main]

use actix_web::http::Uri;
use actix_web::http::header::{HOST, HeaderMap, HeaderName, HeaderValue, ORIGIN};
use libfuzzer_sys::fuzz_target;
use stdio_wrapper::config::Sites;
use stdio_wrapper::http::{Accepts, RequestHeaders};

fuzz_target!(|lines: Vec<(u8, &[u8])>| {
    let names = [
        "host",
        "origin",
        "accept",
        "content-type",
        "content-encoding",
        "mcp-protocol-version",
        "mcp-session-id",
        "last-event-id",
    ];
    let mut headers = HeaderMap::new();
    for (name, value) in lines {
        let Ok(value) = HeaderValue::from_bytes(value) else { continue };
        headers.append(HeaderName::from_static(names[usize::from(name) % names.len()]), value);
    }
    let sites = Sites {
        hosts: Some(vec!["mcp.example.com".to_owned()]),
        origins: vec!["https://app.example.com".to_owned()],
        loopback: false,
    };
    let uri = Uri::from_static("/mcp");
    let verdict = RequestHeaders::from_parts(&headers, &uri).verdict(&sites, Accepts::JsonAndEvents);
    if verdict.is_ok() {
        let host = headers.get(HOST).and_then(|host| host.to_str().ok()).expect("a host");
        assert!(host.trim().to_ascii_lowercase().starts_with("mcp.example.com"));
        assert!(headers.get_all(ORIGIN).count() <= 1);
        assert!(
            headers
                .get(ORIGIN)
                .is_none_or(|origin| origin.as_bytes().eq_ignore_ascii_case(b"https://app.example.com"))
        );
    }
});
