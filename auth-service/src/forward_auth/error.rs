//! The reasons for which a check cannot be decided.

use std::fmt;

use crate::guard::pace::TooManyRequests;
use crate::store::StoreError;

use super::outcome::Outcome;

/// Maximum length in bytes of a client's header that is read before the client is authenticated. The longest useful
/// one is an `Mcp-Name` with the URI of a resource.
pub(super) const MAX_LEN: usize = 1024;

/// Why a check is not trusted. Only the log contains this, because a stranger who sends checks must not learn it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Distrust {
    /// The sender's address is in no network of `TRUSTED_PROXIES`.
    UnknownPeer,
    /// The check has no `X-Edge-Secret`.
    MissingSecret,
    /// The check has another secret.
    WrongSecret,
    /// The check has more than one `X-Edge-Secret`.
    RepeatedSecret,
    /// The policy has allowed a request without a token, so there is no identity to send to the service.
    NoIdentity,
}

impl fmt::Display for Distrust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::UnknownPeer => "its address is unknown: it is in none of the networks of TRUSTED_PROXIES",
            Self::MissingSecret => "the header X-Edge-Secret is missing",
            Self::WrongSecret => "the header X-Edge-Secret is wrong: it is not EDGE_SECRET",
            Self::RepeatedSecret => "the header X-Edge-Secret is repeated",
            Self::NoIdentity => "the policy has allowed a request without a token",
        })
    }
}

/// Why a check cannot be decided. In each of these cases the request is denied.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    /// The check does not come from a trusted edge proxy.
    #[error("this check does not come from a trusted edge proxy; see TRUSTED_PROXIES and EDGE_SECRET")]
    Untrusted(Distrust),
    /// The edge listener has no check at this path.
    #[error(
        "there is no check at this path; the paths are /verify/traefik, /verify/traefik/entry-point, /verify/caddy, /verify/nginx, and /verify/envoy with the original path after it"
    )]
    UnknownProxy,
    /// The proxy did not send a header that a check needs.
    #[error("the edge proxy did not send {0}; see docs/forward-auth.md")]
    Missing(&'static str),
    /// The path can be read in more than one way.
    #[error("the request's path can be read in more than one way")]
    AmbiguousPath,
    /// The host cannot be read, or can be read in more than one way.
    #[error("the request's host is missing, repeated or malformed")]
    BadHost,
    /// The host is not protected.
    #[error("the request's host is not protected; see PROTECTED_HOSTS")]
    UnknownHost,
    /// The scheme of the request differs from the deployment's scheme: HTTP instead of HTTPS, or the reverse.
    #[error("the request's scheme is not that of this deployment; see ISSUER")]
    Scheme,
    /// MCP endpoints do not support this method.
    #[error("the request's method is not used in MCP")]
    Method,
    /// The request comes from a web page of an origin that is not allowed.
    #[error("web pages of this origin are not allowed to call the service; see ALLOWED_ORIGINS")]
    Origin,
    /// A header can be read in more than one way.
    #[error("the header {0} is repeated or malformed")]
    BadHeader(&'static str),
    /// A header is longer than any useful one.
    #[error("the header {0} is longer than {MAX_LEN} bytes")]
    TooLong(&'static str),
    /// A server might confuse a header with a reserved one.
    #[error("a header could be confused with one that only the edge proxy can send")]
    ReservedHeader,
    /// The path was rewritten before the check.
    #[error(
        "X-Forwarded-Prefix indicates that the path was rewritten before the check; the check must come first"
    )]
    Rewritten,
    /// The address of the client has sent more requests per second than allowed.
    #[error(transparent)]
    TooManyRequests(#[from] TooManyRequests),
    /// The clock is in doubt, so it is unknown whether the token has expired.
    #[error("the clock is in doubt, so it is unknown whether the access token has expired")]
    Undatable,
    /// The store failed, so it is unknown whether the token is valid.
    #[error(transparent)]
    Store(StoreError),
}

impl CheckError {
    /// The reason for the log, which says more than the answer.
    pub(super) fn in_log(&self) -> String {
        match self {
            Self::Untrusted(distrust) => format!("{self}: {distrust}"),
            other => other.to_string(),
        }
    }

    /// The result of a check that fails for this reason, for the metrics.
    pub(super) const fn outcome(&self) -> Outcome {
        match self {
            Self::Untrusted(_) => Outcome::Untrusted,
            Self::Undatable | Self::Store(_) => Outcome::Unavailable,
            Self::Origin => Outcome::ForeignOrigin,
            Self::TooManyRequests(_) => Outcome::TooManyRequests,
            Self::UnknownProxy
            | Self::Missing(_)
            | Self::AmbiguousPath
            | Self::BadHost
            | Self::UnknownHost
            | Self::Scheme
            | Self::Method
            | Self::BadHeader(_)
            | Self::TooLong(_)
            | Self::ReservedHeader
            | Self::Rewritten => Outcome::Malformed,
        }
    }
}
