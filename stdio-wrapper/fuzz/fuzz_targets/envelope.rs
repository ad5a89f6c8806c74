//! Fuzzes the message parsers. They must not panic, and after the id of a line is replaced, the parsed line
//! must have the new id.
#![no_main]

use libfuzzer_sys::fuzz_target;
use stdio_wrapper::protocol::{
    Kind, Patch, is_too_deep, parse_body, parse_line, peek_call, peek_cancelled, peek_initialize_result,
    peek_progress, peek_requested_version, rewrite_line,
};

fuzz_target!(|bytes: &[u8]| {
    let _ = parse_body(bytes, 16);
    let _ = is_too_deep(bytes);
    let Ok(message) = parse_line(bytes) else { return };
    let _ = peek_call(&message);
    let _ = peek_cancelled(&message);
    let _ = peek_progress(&message);
    let _ = peek_requested_version(&message);
    let _ = peek_initialize_result(&message);
    if let Kind::Request { id, .. } = &message.kind {
        let line = rewrite_line(bytes, &mut [Patch { span: id.clone(), with: b"7" }]);
        assert_eq!(line.iter().filter(|byte| **byte == b'\n').count(), 1);
        let again = parse_line(&line).expect("a line with another id is a message");
        let Kind::Request { id, .. } = &again.kind else { panic!("a request with another id is a request") };
        assert_eq!(again.at(id), "7");
    }
});
