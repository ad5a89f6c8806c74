//! Recognizes parts that would make an SDK silently drop a message ([`super::tidy()`] removes them).

use super::object::members;
use super::params::RELATED_TASK;

/// Members of `_meta` for which SDKs do not accept `null`.
pub(super) const OPTIONAL: [&str; 2] = ["progressToken", RELATED_TASK];

/// Whether the `_meta` of a result contains something that [`super::tidy()`] removes.
pub(super) fn is_untidy_result(result: &str) -> bool {
    let is_null = |value: Option<&str>| value == Some("null");
    has_null_meta(result)
        && members(result, ["_meta"]).is_ok_and(|[meta]| {
            is_null(meta)
                || meta
                    .and_then(|meta| members(meta, OPTIONAL).ok())
                    .is_some_and(|found| found.into_iter().any(is_null))
        })
}

pub(super) fn has_null(text: &str) -> bool {
    memchr::memmem::find(text.as_bytes(), b"null").is_some()
}

/// Results are often large and often contain `null`, so this first searches for `_meta`.
pub(super) fn has_null_meta(text: &str) -> bool {
    memchr::memmem::find(text.as_bytes(), b"\"_meta\"").is_some() && has_null(text)
}
