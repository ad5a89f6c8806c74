//! Readable texts for the errors of the Redis library. The library passes on an operating system error only as Rust
//! debug output, such as `Os { code: 111, kind: ConnectionRefused, message: "Connection refused" }`.

use std::io;

use fred::error::{Error, ErrorKind};

/// The text of an error. The kind of the error is omitted if it is unknown, or is obvious from the rest, as for a
/// connection error.
pub(super) fn words_of(error: &Error) -> String {
    match error.kind() {
        ErrorKind::Unknown => error.details().to_owned(),
        ErrorKind::IO | ErrorKind::Tls => plain(error.details()),
        _ if is_debug_output(error.details()) => plain(error.details()),
        _ => error.to_string(),
    }
}

/// Whether a text looks like a struct in Rust debug output.
fn is_debug_output(text: &str) -> bool {
    text.split_once(" { ").is_some_and(|(name, _)| !name.is_empty() && name.bytes().all(is_of_name))
}

fn is_of_name(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

/// Converts the debug output of an [`io::Error`] to plain words. Returns any other text unchanged.
fn plain(details: &str) -> String {
    let Some(inner) = inside(details) else { return details.to_owned() };
    if let Some(code) = inner.strip_prefix("code: ").and_then(number) {
        return io::Error::from_raw_os_error(code).to_string();
    }
    match inner.split_once("error: ") {
        // The error has its own text.
        Some((_, text)) if text.starts_with('"') => {
            text.trim_start_matches('"').split('"').next().unwrap_or_default().to_owned()
        }
        Some((_, cause)) => match cause.split_once('(') {
            Some((of, reason)) if of.bytes().all(is_of_name) => {
                format!("{}: {}", in_words(of), in_words(reason))
            }
            _ => in_words(cause),
        },
        None => in_words(inner.trim_start_matches("kind: ")),
    }
}

/// The part of the debug output inside the outer braces or parentheses.
fn inside(details: &str) -> Option<&str> {
    ["Os { ", "Custom { ", "Kind("].iter().find_map(|start| details.strip_prefix(start))
}

fn number(text: &str) -> Option<i32> {
    text.split(|letter: char| !letter.is_ascii_digit()).next()?.parse().ok()
}

/// The name at the beginning of `text`, such as `UnknownIssuer`, as separate words.
fn in_words(text: &str) -> String {
    let name = text.bytes().take_while(|byte| is_of_name(*byte)).map(char::from);
    let mut words = String::new();
    for letter in name {
        if letter.is_ascii_uppercase() && !words.is_empty() {
            words.push(' ');
        }
        words.push(letter.to_ascii_lowercase());
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_output_becomes_words() {
        let of = |error: io::Error| words_of(&Error::from(error));
        assert_eq!(of(io::Error::from_raw_os_error(111)), "Connection refused (os error 111)");
        assert_eq!(of(io::Error::other("no address for this name")), "no address for this name");
        assert_eq!(of(io::ErrorKind::UnexpectedEof.into()), "unexpected eof");
        for (details, words) in [
            (
                "Custom { kind: InvalidData, error: InvalidCertificate(UnknownIssuer) }",
                "invalid certificate: unknown issuer",
            ),
            (
                "Custom { kind: InvalidData, error: InvalidCertificate(NotValidForNameContext { expected: DnsName(\"a\") }) }",
                "invalid certificate: not valid for name context",
            ),
            ("Custom { kind: InvalidData, error: HandshakeNotComplete }", "handshake not complete"),
            ("Connection closed.", "Connection closed."),
        ] {
            assert_eq!(words_of(&Error::new(ErrorKind::IO, details)), words);
        }
        let custom = "Custom { kind: Other, error: \"no route\" }";
        assert_eq!(words_of(&Error::new(ErrorKind::Protocol, custom)), "no route");
        assert!(words_of(&Error::new(ErrorKind::Auth, "WRONGPASS no { user }")).contains("no { user }"));
    }
}
