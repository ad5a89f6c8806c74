//! What a request is about to do, as far as its headers may be believed.

/// The first revision whose servers must hold the headers against the body (2026-07-28, "Server Validation").
const FIRST_MIRRORED: &str = "2026-07-28";

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation<'a> {
    /// A method other than `tools/call`.
    Method(&'a str),
    /// `tools/call` of this tool.
    Tool(&'a str),
    /// The headers do not say, or nobody would hold them against the body: it may be anything.
    Unknown,
}

impl<'a> Operation<'a> {
    /// Reads `MCP-Protocol-Version`, `Mcp-Method` and the decoded `Mcp-Name`. What is missing makes it unknown, and
    /// never harmless (attack 92).
    pub fn of_headers(version: Option<&str>, method: Option<&'a str>, name: Option<&'a str>) -> Self {
        if !version.is_some_and(mirrors_the_body) {
            return Self::Unknown;
        }
        match (method, name) {
            (Some("tools/call"), Some(name)) if !name.is_empty() => Self::Tool(name),
            (Some("tools/call" | "") | None, _) => Self::Unknown,
            (Some(method), _) => Self::Method(method),
        }
    }

    /// The method, when it is known.
    pub(super) fn method(self) -> Option<&'a str> {
        match self {
            Self::Method(method) => Some(method),
            Self::Tool(_) => Some("tools/call"),
            Self::Unknown => None,
        }
    }
}

/// Revisions are dates; anything else is of nobody's making that we know.
fn mirrors_the_body(version: &str) -> bool {
    let is_date = version.len() == FIRST_MIRRORED.len()
        && version.bytes().enumerate().all(|(at, byte)| match at {
            4 | 7 => byte == b'-',
            _ => byte.is_ascii_digit(),
        });
    is_date && version >= FIRST_MIRRORED
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a092_headers_count_only_where_a_server_must_hold_them_against_the_body() {
        let of = |version, method, name| Operation::of_headers(version, method, name);
        for version in ["2026-07-28", "2026-12-01", "2030-01-01"] {
            assert_eq!(of(Some(version), Some("tools/call"), Some("x")), Operation::Tool("x"));
            assert_eq!(of(Some(version), Some("tools/list"), None), Operation::Method("tools/list"));
        }
        for version in [
            None,
            Some(""),
            Some("2025-11-25"),
            Some("2026-07-27"),
            Some("2026-7-28"),
            Some("2026-07-28 "),
            Some("2026-07-28-RC"),
            Some("9999"),
            Some("DRAFT-2027"),
            Some("zzzz-zz-zz"),
            Some("2026-07-28, 2025-11-25"),
        ] {
            assert_eq!(of(version, Some("tools/list"), None), Operation::Unknown, "{version:?}");
        }
        let version = Some("2026-07-28");
        assert_eq!(of(version, None, Some("x")), Operation::Unknown);
        assert_eq!(of(version, Some(""), Some("x")), Operation::Unknown);
        assert_eq!(of(version, Some("tools/call"), None), Operation::Unknown);
        assert_eq!(of(version, Some("tools/call"), Some("")), Operation::Unknown);
    }
}
