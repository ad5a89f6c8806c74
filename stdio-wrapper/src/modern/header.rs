//! Header values that mirror the body (2026-07-28, "Streamable HTTP", SEP-2243).

use std::borrow::Cow;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// One header of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Field<'a> {
    /// Not there.
    Absent,
    /// Once, as text, without white space around it (RFC 9110 §5.5).
    One(&'a str),
    /// More than once, or not text: two readers could see different values.
    Ambiguous,
}

/// The headers that say what the body says.
#[derive(Debug, Clone)]
pub struct Fields<'a> {
    /// `MCP-Protocol-Version`.
    pub version: Field<'a>,
    /// `Mcp-Method`.
    pub method: Field<'a>,
    /// `Mcp-Name`.
    pub name: Field<'a>,
    /// Every `Mcp-Param-…`, by what follows the prefix in lower case.
    pub params: Vec<(String, Field<'a>)>,
}

/// The text that a value stands for; `None`: it is marked as base64 and is none, or not of text.
pub(super) fn decode(value: &str) -> Option<Cow<'_, str>> {
    let Some(inner) = value.strip_prefix("=?base64?").and_then(|rest| rest.strip_suffix("?=")) else {
        return Some(Cow::Borrowed(value));
    };
    // This reader takes only the one canonical spelling.
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
