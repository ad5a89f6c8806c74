//! Determines which revisions a child supports from its response to `server/discover` (2026-07-28, "stdio",
//! "Backward Compatibility").

use super::VERSION;
use crate::protocol::{Code, elements, members, string};

/// Maximum number of revisions in a response that are examined. Five exist.
const MAX_VERSIONS: usize = 64;

/// The result of a probe, according to the child's response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shows {
    /// The child supports this revision.
    Modern,
    /// The child does not support it. There is no error code for this, so every response that does not list
    /// this revision means that the child supports only earlier ones.
    Legacy,
}

/// Reads the response. It can be as large as a line, so it is not parsed into a tree.
pub(super) fn read(answer: &[u8]) -> Shows {
    let is_ours = std::str::from_utf8(answer).ok().and_then(names_this_revision).unwrap_or_default();
    if is_ours { Shows::Modern } else { Shows::Legacy }
}

/// Returns `None` if a relevant member is missing or ambiguous.
fn names_this_revision(answer: &str) -> Option<bool> {
    let names_ours = |versions: &str| {
        elements(versions, MAX_VERSIONS)
            .into_iter()
            .any(|version| string(version).as_deref() == Some(VERSION))
    };
    let [result, error] = members(answer, ["result", "error"]).ok()?;
    if let Some(result) = result {
        let [versions] = members(result, ["supportedVersions"]).ok()?;
        return versions.map(names_ours);
    }
    let [code, data] = members(error?, ["code", "data"]).ok()?;
    let [supported] = members(data?, ["supported"]).ok()?;
    let is_about_versions = code?.parse::<i32>().ok()? == Code::UnsupportedVersion.number();
    Some(is_about_versions && supported.is_some_and(names_ours))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_clear_sign_makes_a_child_modern() {
        for text in [
            r#"{"result":{"supportedVersions":["2025-11-25","2026-07-28"]}}"#,
            r#"{"error":{"code":-32022,"message":"","data":{"supported":["2026-07-28"]}}}"#,
        ] {
            assert_eq!(read(text.as_bytes()), Shows::Modern, "{text}");
        }
        for text in [
            r#"{"result":{"supportedVersions":["2025-11-25"]}}"#,
            r#"{"result":{}}"#,
            r#"{"error":{"code":-32601,"message":""}}"#,
            r#"{"error":{"code":-32022,"message":"","data":{"supported":["2025-11-25"]}}}"#,
            r#"{"error":{"code":-32601,"message":"","data":{"supported":["2026-07-28"]}}}"#,
            r#"{"result":{"supportedVersions":"2026-07-28"}}"#,
            r#"{"result":["2026-07-28"]}"#,
            "no",
        ] {
            assert_eq!(read(text.as_bytes()), Shows::Legacy, "{text}");
        }
    }
}
