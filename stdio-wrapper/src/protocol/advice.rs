//! Describes what is wrong with a line that a child has written, and how to fix it.

use super::malformed::Malformed;

/// Why a message of `length` bytes is dropped if the maximum is `limit` (`MAX_LINE`).
pub fn too_long(length: usize, limit: usize) -> String {
    format!(
        "It has {length} bytes, which is over the limit of {limit}. Request less data, or ask the operator to raise MAX_LINE."
    )
}

/// Why a line was not accepted unchanged. `is_in_pieces` is true if the line is part of a message that spans
/// several lines.
pub(super) fn advice(line: &[u8], error: &Malformed, is_in_pieces: bool) -> String {
    if is_in_pieces {
        return "The server writes a message over several lines. One message is one line: print it without indentation and without raw line breaks."
            .to_owned();
    }
    let first = line.iter().find(|byte| !byte.is_ascii_whitespace());
    match error {
        _ if !matches!(first, Some(b'{' | b'[')) => {
            format!("{error} It looks like a log line. Standard output is for messages only: log to stderr.")
        }
        Malformed::Envelope(_) => {
            format!("{error} If it is a log line: standard output is for messages only, so log to stderr.")
        }
        Malformed::Json(_) => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::envelope::parse_line;
    use super::*;

    #[test]
    fn a_reason_names_the_cause_and_what_to_do() {
        for (line, is_in_pieces, words) in [
            ("Listening on port 3000", false, "log to stderr"),
            ("\u{1b}[32mok", false, "log to stderr"),
            (r#"{"level":"info"}"#, false, "log to stderr"),
            ("{", true, "print it without indentation"),
            (r#""jsonrpc": "2.0","#, true, "print it without indentation"),
        ] {
            let error = parse_line(line.as_bytes()).unwrap_err();
            assert!(advice(line.as_bytes(), &error, is_in_pieces).contains(words), "{line}");
        }
        let nan = br#"{"jsonrpc":"2.0","id":1,"result":{"x":NaN}}"#;
        assert_eq!(
            advice(nan, &parse_line(nan).unwrap_err(), false),
            parse_line(nan).unwrap_err().to_string()
        );
    }
}
