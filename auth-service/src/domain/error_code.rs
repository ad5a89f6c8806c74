//! The error codes that clients are told, and where each is explained.

use std::fmt;

use super::issuer::Issuer;

macro_rules! error_codes {
    ($($(#[$doc:meta])* $name:ident = $text:literal,)*) => {
        /// An error code. Its text is what RFC 6749 and its extensions registered.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        pub enum ErrorCode {
            $($(#[$doc])* $name,)*
        }

        impl ErrorCode {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// As it is sent.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)*
                }
            }
        }
    };
}

error_codes! {
    /// RFC 6749 §4.1.2.1, §5.2.
    InvalidRequest = "invalid_request",
    /// RFC 6749 §5.2.
    InvalidClient = "invalid_client",
    /// RFC 6749 §5.2.
    InvalidGrant = "invalid_grant",
    /// RFC 6749 §4.1.2.1, §5.2.
    UnauthorizedClient = "unauthorized_client",
    /// RFC 6749 §5.2.
    UnsupportedGrantType = "unsupported_grant_type",
    /// RFC 6749 §4.1.2.1.
    UnsupportedResponseType = "unsupported_response_type",
    /// RFC 6749 §4.1.2.1, §5.2.
    InvalidScope = "invalid_scope",
    /// RFC 8707 §2.
    InvalidTarget = "invalid_target",
    /// RFC 6749 §4.1.2.1, RFC 8628 §3.5.
    AccessDenied = "access_denied",
    /// `OpenID` Connect Core §3.1.2.6.
    LoginRequired = "login_required",
    /// `OpenID` Connect Core §3.1.2.6.
    ConsentRequired = "consent_required",
    /// RFC 6749 §4.1.2.1.
    TemporarilyUnavailable = "temporarily_unavailable",
    /// RFC 9101 §7.
    RequestNotSupported = "request_not_supported",
    /// RFC 9101 §7.
    InvalidRequestUri = "invalid_request_uri",
    /// RFC 8628 §3.5.
    AuthorizationPending = "authorization_pending",
    /// RFC 8628 §3.5.
    SlowDown = "slow_down",
    /// RFC 8628 §3.5.
    ExpiredToken = "expired_token",
    /// RFC 7591 §3.2.2.
    InvalidRedirectUri = "invalid_redirect_uri",
    /// RFC 7591 §3.2.2.
    InvalidClientMetadata = "invalid_client_metadata",
    /// RFC 7591 §3.2.2.
    UnapprovedSoftwareStatement = "unapproved_software_statement",
    /// RFC 9449 §5.
    InvalidDpopProof = "invalid_dpop_proof",
    /// RFC 9449 §8.
    UseDpopNonce = "use_dpop_nonce",
    /// RFC 6750 §3.1.
    InvalidToken = "invalid_token",
    /// RFC 6750 §3.1.
    InsufficientScope = "insufficient_scope",
    /// Of no specification: there is nothing here, or it is switched off.
    NotFound = "not_found",
}

/// Path of the page that explains them, below the issuer.
pub const ERRORS_PATH: &str = "/errors";

impl ErrorCode {
    /// Where the code is explained (`error_uri`, RFC 6749 §5.2): on a page of this very installation, so that it is there
    /// and of the same version whoever can reach what else.
    pub fn uri(self, issuer: &Issuer) -> String {
        format!("{}#{self}", issuer.endpoint(ERRORS_PATH))
    }
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
