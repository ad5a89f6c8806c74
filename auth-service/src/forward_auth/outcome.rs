//! The results of checks, as the metric `mcp_gate_checks_total` counts them.

macro_rules! outcomes {
    ($($(#[doc = $doc:literal])+ $name:ident = $label:literal,)+) => {
        /// The result of a check.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Outcome {
            $($(#[doc = $doc])+ $name,)+
        }

        impl Outcome {
            /// All values of the label `outcome`.
            pub const LABELS: &[&'static str] = &[$($label),+];

            /// The value of the label `outcome`.
            pub const fn label(self) -> &'static str {
                match self {
                    $(Self::$name => $label,)+
                }
            }
        }
    };
}

outcomes! {
    /// The request was allowed.
    Allowed = "allowed",
    /// The request was allowed without a token, because auth-service answers it itself.
    OwnPage = "own_page",
    /// The request was a preflight, which the check answered.
    Preflight = "preflight",
    /// The request had no valid token.
    Unauthenticated = "unauthenticated",
    /// The token lacked a scope.
    InsufficientScope = "insufficient_scope",
    /// The rules did not allow the request.
    Forbidden = "forbidden",
    /// The request had no valid proof of possession of the token's key.
    Unproven = "unproven",
    /// The request came from a web page of an origin that is not allowed.
    ForeignOrigin = "foreign_origin",
    /// The address of the client had sent too many requests.
    TooManyRequests = "too_many_requests",
    /// The request could be read in more than one way, or a part of it was missing.
    Malformed = "malformed",
    /// The check did not come from a trusted edge proxy.
    Untrusted = "untrusted",
    /// The store could not be used, or the time was in doubt.
    Unavailable = "unavailable",
}
