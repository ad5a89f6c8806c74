//! Properties that must hold for every message.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

/// Any JSON value, with characters that are known to cause problems.
fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        "[ -~\n\r\u{0}\u{2028}é😀\"\\\\]{0,12}".prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 24, 5, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
            proptest::collection::vec(("[a-zA-Z_]{0,8}", inner), 0..5)
                .prop_map(|fields| Value::Object(fields.into_iter().collect())),
        ]
    })
}

fn any_id() -> impl Strategy<Value = Value> {
    prop_oneof![any::<i64>().prop_map(Value::from), "[ -~é\"\\\\\n]{0,12}".prop_map(Value::from)]
}

/// A parser for event streams, as specified in the HTML standard ("Interpreting an event stream").
fn read_events(stream: &[u8]) -> Vec<(Option<String>, String)> {
    let text = String::from_utf8_lossy(stream).replace("\r\n", "\n").replace('\r', "\n");
    let mut events = Vec::new();
    let (mut id, mut data) = (None, Vec::new());
    for line in text.split('\n') {
        if line.is_empty() {
            if !data.is_empty() {
                events.push((id.clone(), data.join("\n")));
            }
            data.clear();
        } else if let Some((field, value)) = line.split_once(':') {
            let value = value.strip_prefix(' ').unwrap_or(value).to_owned();
            match field {
                "id" => id = Some(value),
                "data" => data.push(value),
                _ => {}
            }
        }
    }
    events
}

proptest! {
    #[test]
    fn a_request_comes_back_under_its_own_id_and_is_otherwise_unchanged(
        id in any_id(), params in any_json(), extra in any_json(), is_pretty: bool,
    ) {
        let whole = json!({"x-extra": extra, "id": id, "jsonrpc": "2.0", "method": "m", "params": {"p": params}});
        let text = if is_pretty { serde_json::to_string_pretty(&whole).unwrap() } else { whole.to_string() };
        let message = parse_line(text.as_bytes()).unwrap();
        let Kind::Request { id: span, .. } = message.kind.clone() else { panic!("no request") };
        prop_assert_eq!(serde_json::from_str::<Value>(message.at(&span)).unwrap(), id);
        let line = rewrite_line(text.as_bytes(), &mut [Patch { span: span.clone(), with: b"77" }]);
        prop_assert_eq!(line.iter().filter(|byte| matches!(byte, b'\n' | b'\r')).count(), 1);
        prop_assert!(line.ends_with(b"\n"));
        let mut expected = whole.clone();
        expected["id"] = json!(77);
        prop_assert_eq!(serde_json::from_slice::<Value>(&line).unwrap(), expected);
        // Rewriting in the other direction restores the original message.
        let ours = parse_line(&line).unwrap();
        let Kind::Request { id: back, .. } = ours.kind.clone() else { panic!("no request") };
        let restored = Text::splice(&line, &back, message.at(&span).as_bytes()).into_bytes();
        prop_assert_eq!(serde_json::from_slice::<Value>(&restored).unwrap(), whole);
    }

    #[test]
    fn no_bytes_make_the_parser_panic_or_point_outside(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        if let Ok(message) = parse_line(&bytes) {
            prop_assert!(message.params_text().is_none_or(|text| bytes.len() >= text.len()));
        }
        let _ = parse_body(&bytes, 10);
        let _ = is_too_deep(&bytes);
    }

    #[test]
    fn broken_messages_are_refused_without_a_panic(
        mut text in any_json().prop_map(|params| json!({"jsonrpc": "2.0", "id": 1, "method": "m", "params": {"p": params}}).to_string().into_bytes()),
        at in any::<prop::sample::Index>(), byte: u8,
    ) {
        let place = at.index(text.len());
        text[place] = byte;
        if let Ok(message) = parse_line(&text) {
            let _ = peek_call(&message);
            let _ = peek_progress(&message);
            let _ = peek_cancelled(&message);
            let _ = peek_requested_version(&message);
            let _ = peek_initialize_result(&message);
        }
    }

    #[test]
    fn a_doubled_or_refolded_key_is_never_taken(
        key in prop_oneof![Just("jsonrpc"), Just("id"), Just("method"), Just("params"), Just("result"), Just("error")],
        flips in proptest::collection::vec(any::<bool>(), 8),
    ) {
        let folded: String = key.chars().zip(&flips).map(|(letter, flip)| if *flip { letter.to_ascii_uppercase() } else { letter }).collect();
        let text = format!(r#"{{"jsonrpc":"2.0","id":1,"method":"m","params":{{}},"{folded}":"2.0"}}"#);
        prop_assert!(parse_line(text.as_bytes()).is_err(), "{}", text);
    }

    #[test]
    fn an_event_reads_back_as_what_was_written(values in proptest::collection::vec(any_json(), 0..6), stream: u32) {
        let mut bytes = encode_priming(EventId { stream: stream.into(), sequence: 0 }, 5).to_vec();
        let mut expected = vec![(Some(format!("{stream}-0")), String::new())];
        for (value, sequence) in values.iter().zip(1..) {
            let id = EventId { stream: stream.into(), sequence };
            let text = rewrite(serde_json::to_string_pretty(value).unwrap().as_bytes(), &mut []);
            bytes.extend_from_slice(&encode_event(Some(id), "message", &text.clone().into()));
            expected.push((Some(id.to_string()), value.to_string()));
            prop_assert_eq!(EventId::parse(&id.to_string()), Some(id));
        }
        // Line separators are escaped in only one of the two strings, so the parsed values are compared instead.
        let same = |data: &str| serde_json::from_str::<Value>(data).map_or_else(|_| data.to_owned(), |value| value.to_string());
        let read: Vec<_> = read_events(&bytes).into_iter().map(|(id, data)| (id, same(&data))).collect();
        prop_assert_eq!(read, expected);
    }

    #[test]
    fn an_event_id_is_taken_in_the_written_form_only(text in "[0-9 +-]{0,12}") {
        if let Some(id) = EventId::parse(&text) {
            prop_assert_eq!(id.to_string(), text);
        }
    }
}
