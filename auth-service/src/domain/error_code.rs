//! The error codes that are sent to clients, and the page that explains them.

use std::fmt;

use super::issuer::Issuer;

macro_rules! error_codes {
    ($($(#[$doc:meta])* $name:ident = $text:literal,)*) => {
        /// An error code. Its text is registered by RFC 6749 or one of its extensions.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        pub enum ErrorCode {
            $($(#[$doc])* $name,)*
        }

        impl ErrorCode {
            /// All error codes that can be sent.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// The value of the `error` parameter.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)*
                }
            }
        }
    };
}

error_codes! {
    /// The request is malformed or lacks a parameter (RFC 6749 §4.1.2.1, §5.2).
    InvalidRequest = "invalid_request",
    /// The client could not be authenticated (RFC 6749 §5.2).
    InvalidClient = "invalid_client",
    /// The code, assertion or refresh token is not valid (RFC 6749 §5.2).
    InvalidGrant = "invalid_grant",
    /// The client is not allowed to use this grant type or response type (RFC 6749 §4.1.2.1, §5.2).
    UnauthorizedClient = "unauthorized_client",
    /// The server does not support the grant type (RFC 6749 §5.2).
    UnsupportedGrantType = "unsupported_grant_type",
    /// The server does not support the response type (RFC 6749 §4.1.2.1).
    UnsupportedResponseType = "unsupported_response_type",
    /// The scope is malformed, unknown or more than was granted (RFC 6749 §4.1.2.1, §5.2).
    InvalidScope = "invalid_scope",
    /// The requested resource is not one that this server protects (RFC 8707 §2).
    InvalidTarget = "invalid_target",
    /// The user or the server denied the request (RFC 6749 §4.1.2.1, RFC 8628 §3.5).
    AccessDenied = "access_denied",
    /// The user must log in, but the request forbids it (`OpenID` Connect Core §3.1.2.6).
    LoginRequired = "login_required",
    /// The user must consent, but the request forbids it (`OpenID` Connect Core §3.1.2.6).
    ConsentRequired = "consent_required",
    /// The server is overloaded or under maintenance (RFC 6749 §4.1.2.1).
    TemporarilyUnavailable = "temporarily_unavailable",
    /// The server does not support the `request` parameter (RFC 9101 §7).
    RequestNotSupported = "request_not_supported",
    /// The `request_uri` is not valid (RFC 9101 §7).
    InvalidRequestUri = "invalid_request_uri",
    /// The user has not decided yet (RFC 8628 §3.5).
    AuthorizationPending = "authorization_pending",
    /// The device polled too early (RFC 8628 §3.5).
    SlowDown = "slow_down",
    /// The device code has expired (RFC 8628 §3.5).
    ExpiredToken = "expired_token",
    /// A redirect URI in a registration is not valid (RFC 7591 §3.2.2).
    InvalidRedirectUri = "invalid_redirect_uri",
    /// Other client metadata is not valid (RFC 7591 §3.2.2).
    InvalidClientMetadata = "invalid_client_metadata",
    /// The software statement is not approved (RFC 7591 §3.2.2).
    UnapprovedSoftwareStatement = "unapproved_software_statement",
    /// The DPoP proof is not valid (RFC 9449 §5).
    InvalidDpopProof = "invalid_dpop_proof",
    /// The DPoP proof must contain a nonce from the server (RFC 9449 §8).
    UseDpopNonce = "use_dpop_nonce",
    /// The access token is not valid (RFC 6750 §3.1).
    InvalidToken = "invalid_token",
    /// The access token lacks a scope (RFC 6750 §3.1).
    InsufficientScope = "insufficient_scope",
    /// There is nothing at this URL, or the feature is disabled. No specification defines this code.
    NotFound = "not_found",
}

/// Path of the page that explains the error codes, below the issuer.
pub const ERRORS_PATH: &str = "/errors";

impl ErrorCode {
    /// The URL that explains this code (`error_uri`, RFC 6749 §5.2). This installation serves the page, so the
    /// page matches the version, and everyone who can reach the server can reach the page.
    pub fn uri(self, issuer: &Issuer) -> String {
        format!("{}#{self}", issuer.endpoint(ERRORS_PATH))
    }
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
