//! Determines the operation that a request will perform from headers that can be trusted.

/// The first protocol revision that requires servers to compare the headers with the body (2026-07-28, "Server
/// Validation").
const FIRST_MIRRORED: &str = "2026-07-28";

/// The operation that the headers name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation<'a> {
    /// Any method other than `tools/call`.
    Method(&'a str),
    /// `tools/call` of the tool with this name.
    Tool(&'a str),
    /// The headers do not name the operation, or the server does not have to compare them with the body. It could
    /// be any operation.
    Unknown,
}

impl<'a> Operation<'a> {
    /// Reads `MCP-Protocol-Version`, `Mcp-Method` and the decoded `Mcp-Name`. If one is missing, the operation is
    /// unknown, and is not assumed to be harmless (attack 92).
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

    /// The MCP method, if the operation is known.
    pub(super) fn method(self) -> Option<&'a str> {
        match self {
            Self::Method(method) => Some(method),
            Self::Tool(_) => Some("tools/call"),
            Self::Unknown => None,
        }
    }
}

/// Whether servers of this revision must compare headers with the body. Revisions are dates, so any other text is
/// not a known revision.
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
