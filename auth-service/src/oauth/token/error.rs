//! The errors of the token endpoint, and the response for each of them. Other endpoints that authenticate clients
//! use them as well.

use actix_web::HttpResponse;
use actix_web::http::StatusCode;
use actix_web::http::header::{HeaderName, RETRY_AFTER};

use crate::clients::documents::{self, DocumentError};
use crate::domain::clock::RandomUnavailable;
use crate::domain::error_code::ErrorCode;
use crate::domain::issuer::Issuer;
use crate::dpop::ProofRefused;
use crate::guard::keyed_rate::TooFast;
use crate::keys::seal::CryptoFailure;
use crate::oauth::authorization_request::Refusal;
use crate::oauth::client_auth::ClientAuthError;
use crate::oauth::params::BadParams;
use crate::oauth::requested_scope::ScopeRefused;
use crate::oauth::responses;
use crate::store::StoreError;

/// Why a token request, or another request from a client, is refused.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// The parameters are malformed or repeated.
    #[error(transparent)]
    Params(#[from] BadParams),
    /// The parameter with this name is missing.
    #[error("{0} is missing")]
    Missing(&'static str),
    /// The client could not be authenticated.
    #[error(transparent)]
    Client(#[from] ClientAuthError),
    /// The grant type is unknown, or disabled on this server.
    #[error("the grant_type is not supported here; the server's metadata lists the supported ones")]
    UnsupportedGrantType,
    /// The client is not allowed to use this grant type.
    #[error("the client is not registered for this grant_type")]
    UnauthorizedClient,
    /// The code, the refresh token or the assertion is not valid, for this reason.
    #[error("{0}")]
    InvalidGrant(&'static str),
    /// The scope is malformed, or wider than the granted scope.
    #[error("the scope is malformed, or exceeds what was granted")]
    InvalidScope,
    /// The scope is empty, or exceeds the operator's limit for the client.
    #[error(transparent)]
    Scope(#[from] ScopeRefused),
    /// The resource was not granted, or does not exist (RFC 8707 §2.2).
    #[error("the resource was not granted")]
    InvalidTarget,
    /// The proof of possession is not valid (RFC 9449 §5).
    #[error(transparent)]
    Proof(ProofRefused),
    /// The request is not supported by the endpoint.
    #[error("{0}")]
    InvalidRequest(&'static str),
    /// The authorization endpoint would refuse the pushed request, or the device's request.
    #[error(transparent)]
    Authorization(#[from] Refusal),
    /// The user has not decided yet (RFC 8628 §3.5).
    #[error("the user has not answered yet; poll again after the interval")]
    AuthorizationPending,
    /// The device polls too often (RFC 8628 §3.5).
    #[error("too soon; from now on, wait five seconds longer between polls")]
    SlowDown,
    /// The user has denied the request (RFC 8628 §3.5).
    #[error("the user denied the request")]
    AccessDenied,
    /// The device code has expired (RFC 8628 §3.5).
    #[error("the device_code has expired; start again")]
    ExpiredToken,
    /// Too many devices have requested codes, from this network or in total.
    #[error("too many devices request codes from this network; try again in a minute")]
    TooMany(TooFast),
    /// There are too many requests that add rows to the store.
    #[error("too many requests from this client or network; try again in a minute")]
    TooFast(TooFast),
    /// The account's clients request tokens too often.
    #[error("too many tokens were issued for this account; use each until it expires, and try again later")]
    AccountTooFast(TooFast),
    /// The store contains the maximum number of requests waiting for their users.
    #[error(
        "this server already has the maximum number of requests waiting for their users; try again in a minute"
    )]
    Full,
    /// The clock is in doubt, so it is unknown whether a code, token or secret has expired.
    #[error("the clock of this server is in doubt, so it is unknown what has expired; try again in a minute")]
    Undatable,
    /// The server failed. The client does not learn the reason.
    #[error("the service cannot issue tokens at the moment; try again in a minute")]
    Unavailable,
}

impl From<ProofRefused> for TokenError {
    fn from(refused: ProofRefused) -> Self {
        match refused {
            ProofRefused::Store(error) => error.into(),
            ProofRefused::Crypto(error) => error.into(),
            refused => Self::Proof(refused),
        }
    }
}

impl From<StoreError> for TokenError {
    fn from(error: StoreError) -> Self {
        tracing::error!(%error, "the store failed at the token endpoint");
        Self::Unavailable
    }
}

impl From<CryptoFailure> for TokenError {
    fn from(error: CryptoFailure) -> Self {
        tracing::error!(%error, "a token could not be created");
        Self::Unavailable
    }
}

impl From<RandomUnavailable> for TokenError {
    fn from(error: RandomUnavailable) -> Self {
        tracing::error!(%error, "a token could not be created");
        Self::Unavailable
    }
}

impl TokenError {
    pub(in crate::oauth) fn response(&self, issuer: &Issuer) -> HttpResponse {
        let (status, code) = match self {
            Self::Client(ClientAuthError::Invalid { .. }) => {
                (StatusCode::UNAUTHORIZED, ErrorCode::InvalidClient)
            }
            Self::TooMany(_)
            | Self::TooFast(_)
            | Self::AccountTooFast(_)
            | Self::Proof(ProofRefused::TooFast(_))
            | Self::Client(ClientAuthError::TooFast(_) | ClientAuthError::Away(DocumentError::TooFast)) => {
                (StatusCode::TOO_MANY_REQUESTS, ErrorCode::TemporarilyUnavailable)
            }
            Self::Client(
                ClientAuthError::Away(_)
                | ClientAuthError::Undatable
                | ClientAuthError::Store(_)
                | ClientAuthError::Random(_),
            )
            | Self::Undatable
            | Self::Unavailable
            | Self::Full => (StatusCode::SERVICE_UNAVAILABLE, ErrorCode::TemporarilyUnavailable),
            Self::Params(_) | Self::Missing(_) | Self::Client(_) | Self::InvalidRequest(_) => {
                (StatusCode::BAD_REQUEST, ErrorCode::InvalidRequest)
            }
            Self::Authorization(refusal) => (StatusCode::BAD_REQUEST, refusal.code()),
            Self::AuthorizationPending => (StatusCode::BAD_REQUEST, ErrorCode::AuthorizationPending),
            Self::SlowDown => (StatusCode::BAD_REQUEST, ErrorCode::SlowDown),
            Self::AccessDenied => (StatusCode::BAD_REQUEST, ErrorCode::AccessDenied),
            Self::ExpiredToken => (StatusCode::BAD_REQUEST, ErrorCode::ExpiredToken),
            Self::UnsupportedGrantType => (StatusCode::BAD_REQUEST, ErrorCode::UnsupportedGrantType),
            Self::UnauthorizedClient => (StatusCode::BAD_REQUEST, ErrorCode::UnauthorizedClient),
            Self::Proof(refused) => (StatusCode::BAD_REQUEST, refused.code()),
            Self::InvalidGrant(_) => (StatusCode::BAD_REQUEST, ErrorCode::InvalidGrant),
            Self::InvalidScope | Self::Scope(_) => (StatusCode::BAD_REQUEST, ErrorCode::InvalidScope),
            Self::InvalidTarget => (StatusCode::BAD_REQUEST, ErrorCode::InvalidTarget),
        };
        let challenge = matches!(self, Self::Client(ClientAuthError::Invalid { basic: true, .. }))
            .then_some("Basic realm=\"token endpoint\"");
        // Errors from the store are logged, but not sent to the client.
        let is_the_clients = matches!(
            self,
            Self::Full
                | Self::Undatable
                | Self::Client(ClientAuthError::Away(_) | ClientAuthError::Undatable)
        );
        let description = if status == StatusCode::SERVICE_UNAVAILABLE && !is_the_clients {
            Self::Unavailable.to_string()
        } else {
            self.to_string()
        };
        let mut response = responses::error(issuer, status, code, &description, challenge);
        if let Self::Proof(ProofRefused::Nonce { fresh }) = self
            && let Ok(nonce) = fresh.parse()
        {
            response.headers_mut().insert(HeaderName::from_static("dpop-nonce"), nonce);
        }
        if let Some(seconds) = self.retry_after() {
            response.headers_mut().insert(RETRY_AFTER, seconds.into());
        }
        response
    }

    /// Value of `Retry-After` in seconds, if it is known.
    fn retry_after(&self) -> Option<u64> {
        match self {
            Self::TooMany(limit)
            | Self::TooFast(limit)
            | Self::AccountTooFast(limit)
            | Self::Client(ClientAuthError::TooFast(limit)) => Some(limit.retry_after_seconds),
            Self::Proof(ProofRefused::TooFast(seconds)) => Some(*seconds),
            Self::Full
            | Self::Unavailable
            | Self::Client(ClientAuthError::Store(_) | ClientAuthError::Random(_)) => Some(60),
            Self::Client(ClientAuthError::Away(_)) => Some(documents::RETRY_AFTER_SECONDS),
            Self::Undatable | Self::Client(ClientAuthError::Undatable) => Some(10),
            _ => None,
        }
    }
}
