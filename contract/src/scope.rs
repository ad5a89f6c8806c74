//! The hierarchy of scopes: a scope includes those below it.

/// Whether the scope `held` includes the scope `needed`: both are equal, or `needed` is `held` followed by `:` and
/// more text. For example, `mcp` includes `mcp:read` (MCP 2026-07-28, "Scope Challenge Handling", requires that
/// hierarchies are respected).
pub fn includes(held: &str, needed: &str) -> bool {
    needed.strip_prefix(held).is_some_and(|rest| rest.is_empty() || rest.starts_with(':'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scope_includes_those_below_it_and_not_its_namesakes() {
        for (held, needed) in [("mcp", "mcp"), ("mcp", "mcp:write"), ("mcp", "mcp:write:all")] {
            assert!(includes(held, needed), "{held} {needed}");
        }
        for held in ["mc", "mcp:", "mcp:writer", "mcp:write:all", ""] {
            assert!(!includes(held, "mcp:write"), "{held}");
        }
    }
}
