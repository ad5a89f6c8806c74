//! Finds out which revisions a child speaks, by its answer to `server/discover` (2026-07-28, "stdio",
//! "Backward Compatibility").

use serde_json::Value;

use super::VERSION;
use crate::protocol::Code;

/// The result of a probe, according to the child's answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shows {
    /// The child speaks this revision.
    Modern,
    /// The child does not speak it. There is no error code for this, so every answer that does not show this
    /// revision counts as a sign of the earlier ones.
    Legacy,
}

pub(super) fn read(answer: &[u8]) -> Shows {
    let Ok(answer) = serde_json::from_slice::<Value>(answer) else { return Shows::Legacy };
    let names_ours = |versions: Option<&Value>| {
        versions.and_then(Value::as_array).is_some_and(|all| all.iter().any(|version| version == VERSION))
    };
    let is_ours = match (answer.get("result"), answer.get("error")) {
        (Some(result), _) => names_ours(result.get("supportedVersions")),
        (None, Some(error)) => {
            error.get("code").and_then(Value::as_i64) == Some(i64::from(Code::UnsupportedVersion.number()))
                && names_ours(error.pointer("/data/supported"))
        }
        (None, None) => false,
    };
    if is_ours { Shows::Modern } else { Shows::Legacy }
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
            "no",
        ] {
            assert_eq!(read(text.as_bytes()), Shows::Legacy, "{text}");
        }
    }
}
