//! Finds out which revisions a child speaks, by its answer to `server/discover` (2026-07-28, "stdio",
//! "Backward Compatibility").

use super::VERSION;
use crate::protocol::{Code, elements, members, string};

/// Maximum number of revisions in an answer that are looked at. There are five.
const MAX_VERSIONS: usize = 64;

/// The result of a probe, according to the child's answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shows {
    /// The child speaks this revision.
    Modern,
    /// The child does not speak it. There is no error code for this, so every answer that does not show this
    /// revision counts as a sign of the earlier ones.
    Legacy,
}

/// Reads the answer, which can be as large as a line. No tree is made of it.
pub(super) fn read(answer: &[u8]) -> Shows {
    let is_ours = std::str::from_utf8(answer).ok().and_then(names_this_revision).unwrap_or_default();
    if is_ours { Shows::Modern } else { Shows::Legacy }
}

/// Returns `None` if a part that counts is missing or ambiguous.
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
