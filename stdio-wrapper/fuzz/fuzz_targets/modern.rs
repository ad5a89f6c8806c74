//! Headers and body of a stateless request: no panic, and what passes agrees.
#![no_main]

use libfuzzer_sys::fuzz_target;
use stdio_wrapper::modern::{Field, Fields, check};
use stdio_wrapper::protocol::parse_line;

fuzz_target!(|input: (&str, &str, &str, &[u8])| {
    let (version, method, name, body) = input;
    let fields =
        Fields { version: Field::One(version), method: Field::One(method), name: Field::One(name), params: Vec::new() };
    let Ok(message) = parse_line(body) else { return };
    if let Ok(request) = check(&message, &fields) {
        assert_eq!(request.method, method);
        assert_eq!(version, stdio_wrapper::modern::VERSION);
        if let Some(named) = &request.name {
            assert!(named.as_ref() == name || name.starts_with("=?base64?"));
        }
    }
});
