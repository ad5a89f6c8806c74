//! Fuzzes the checks of a stateless request: its headers, its body and the schema of a tool. They must not
//! panic, and the headers and the body of an accepted request must match. The input has one line each for the
//! version, the method, the name, the `Mcp-Param-…` headers (`token:value;…`), the schema and the body.
//! `seeds/modern` contains examples.
#![no_main]

use libfuzzer_sys::fuzz_target;
use stdio_wrapper::modern::{Era, Field, Fields, ParamHeaders, VERSION, check, era};
use stdio_wrapper::protocol::{Members, parse_line};

fuzz_target!(|input: &str| {
    let lines: Vec<&str> = input.splitn(6, '\n').collect();
    let [version, method, name, params, schema, body] = lines[..] else { return };
    let params = params.split(';').filter(|text| !text.is_empty()).map(|text| match text.split_once(':') {
        Some((token, value)) => (token.to_ascii_lowercase(), Field::One(value)),
        None => (text.to_ascii_lowercase(), Field::Repeated),
    });
    let fields = Fields {
        version: Field::One(version),
        method: Field::One(method),
        name: Field::One(name),
        params: params.collect(),
    };
    let Ok(message) = parse_line(body.as_bytes()) else { return };
    let era = era(&message, Field::One(version));
    match check(&message, &fields) {
        Ok(request) => {
            assert_eq!(era, Ok(Era::Modern), "an accepted request is of the stateless era");
            assert_eq!(request.method, method);
            assert_eq!(version, VERSION);
            if let Some(named) = &request.name {
                assert!(named.as_ref() == name || name.starts_with("=?base64?"));
            }
        }
        Err(fault) => {
            let (status, _) = fault.status();
            assert!(status == 400 || status == 404);
            let _ = fault.data();
        }
    }
    // A child can send any schema, and a client can send any arguments.
    let params = message.params_text().and_then(Members::parse).unwrap_or_default();
    if let Ok(schema) = serde_json::from_str(schema) {
        let headers = ParamHeaders::of(&schema);
        if headers.check(params.get("arguments"), &fields).is_err() {
            assert!(!headers.is_empty(), "a schema without rules refuses nothing");
        }
    }
});
