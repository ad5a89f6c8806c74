//! Fuzzes event ids and the encoding of events. Encoded data must be decoded unchanged, and an id must be
//! accepted only in the form in which it is encoded.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use stdio_wrapper::protocol::{EventId, encode_event, rewrite};

fuzz_target!(|input: (u64, u64, &str)| {
    let (stream, sequence, text) = input;
    let id = EventId { stream, sequence };
    assert_eq!(EventId::parse(&id.to_string()), Some(id));
    if let Some(taken) = EventId::parse(text) {
        assert_eq!(taken.to_string(), text);
    }
    let data = rewrite(text.as_bytes(), &mut []);
    let event = encode_event(Some(id), "message", &Bytes::clone(&data).into());
    let lines: Vec<&[u8]> = event.split(|byte| matches!(byte, b'\n' | b'\r')).collect();
    assert_eq!(lines.len(), 5, "three fields and the blank line");
    assert_eq!(lines[2].strip_prefix(b"data: "), Some(&data[..]));
});
