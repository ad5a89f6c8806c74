//! Header values that repeat parts of the body (2026-07-28, "Streamable HTTP", SEP-2243).

use std::borrow::Cow;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// A header of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Field<'a> {
    /// The header is missing.
    Absent,
    /// The header occurs once, and is text. White space around it is removed (RFC 9110 §5.5).
    One(&'a str),
    /// The header occurs more than once, so two parsers could use different values.
    Repeated,
    /// The header contains a byte that is not ASCII.
    NotText,
}

/// The error text for a header that occurs more than once, to be written after the name of the header.
pub(super) const REPEATED: &str = "must occur exactly once";
/// The error text for a header that is not text, to be written after the name of the header.
pub(super) const NOT_TEXT: &str =
    "has a byte that is not ASCII. Write such a value as =?base64?...?=, with the base64 of its UTF-8";

/// The headers that repeat parts of the body.
#[derive(Debug, Clone)]
pub struct Fields<'a> {
    /// `MCP-Protocol-Version`, which repeats the revision in `_meta`.
    pub version: Field<'a>,
    /// `Mcp-Method`, which repeats the method of the request.
    pub method: Field<'a>,
    /// `Mcp-Name`, which repeats the name of the tool, prompt, resource or task.
    pub name: Field<'a>,
    /// All `Mcp-Param-…` headers, by their names without the prefix, in lower case.
    pub params: Vec<(String, Field<'a>)>,
}

/// `Mcp-Param-…` headers that own their values, for another thread.
#[derive(Debug)]
pub(super) struct OwnedParams(Vec<(String, Result<String, Field<'static>>)>);

impl OwnedParams {
    pub(super) fn of(fields: &Fields<'_>) -> Self {
        let owned = |field: &Field<'_>| match *field {
            Field::One(value) => Ok(value.to_owned()),
            Field::Absent => Err(Field::Absent),
            Field::Repeated => Err(Field::Repeated),
            Field::NotText => Err(Field::NotText),
        };
        Self(fields.params.iter().map(|(name, field)| (name.clone(), owned(field))).collect())
    }

    /// Borrows the `Mcp-Param-…` headers. The result contains no other headers.
    pub(super) fn fields(&self) -> Fields<'_> {
        let borrowed = self.0.iter().map(|(name, field)| match field {
            Ok(value) => (name.clone(), Field::One(value)),
            Err(field) => (name.clone(), *field),
        });
        let params = borrowed.collect();
        Fields { version: Field::Absent, method: Field::Absent, name: Field::Absent, params }
    }
}

/// Decodes a value. Returns `None` if the value is marked as base64 but is not base64, or is not the base64 of
/// text.
pub(super) fn decode(value: &str) -> Option<Cow<'_, str>> {
    let Some(inner) = value.strip_prefix("=?base64?").and_then(|rest| rest.strip_suffix("?=")) else {
        return Some(Cow::Borrowed(value));
    };
    // Only canonical base64 is accepted.
    String::from_utf8(STANDARD.decode(inner).ok()?).ok().map(Cow::Owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_complete_mark_makes_base64_of_a_value() {
        assert_eq!(decode("=?base64?SGVsbG8=?=").as_deref(), Some("Hello"));
        assert_eq!(decode("SGVsbG8=").as_deref(), Some("SGVsbG8="));
        assert_eq!(decode("=?base64?SGVsbG8=").as_deref(), Some("=?base64?SGVsbG8="));
        for bad in ["=?base64?SGVsbG8?=", "=?base64?SGVs!!!bG8=?=", "=?base64?SGVsbG9=?=", "=?base64?/w==?="]
        {
            assert_eq!(decode(bad), None, "{bad}");
        }
    }
}
