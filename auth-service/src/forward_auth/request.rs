//! What a check is about, the same whichever proxy asks. Made by the parsers only.

use actix_web::http::Method;
use actix_web::http::header::{AUTHORIZATION, HeaderMap};

use crate::domain::host::{HostName, split_authority};
use crate::domain::path::UnambiguousPath;
use crate::domain::resource::Scheme;
use crate::store::StoreError;

/// A request that waits at the edge.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct AccessRequest {
    /// What the edge says of the scheme, when it does.
    pub(super) scheme: Option<Scheme>,
    pub(super) host: HostName,
    pub(super) path: UnambiguousPath,
    pub(super) method: Method,
    pub(super) bearer: Bearer,
}

/// The request's credentials.
#[derive(Clone, PartialEq, Eq)]
pub(super) enum Bearer {
    /// There is no Authorization header.
    None,
    /// There is one, or several, but not one Bearer token.
    Malformed,
    /// A token.
    Token(String),
}

impl std::fmt::Debug for Bearer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::None => "None",
            Self::Malformed => "Malformed",
            Self::Token(_) => "Token(…)",
        })
    }
}

/// Why a check has no decision. Every one of them is a denial.
#[derive(Debug, thiserror::Error)]
pub(super) enum CheckError {
    #[error("this check does not come from a trusted edge proxy; see TRUSTED_PROXIES and EDGE_SECRET")]
    Untrusted,
    #[error("no proxy is served under this path; Envoy's path_prefix is /verify/envoy")]
    UnknownProxy,
    #[error("the request's path can be read in more than one way")]
    AmbiguousPath,
    #[error("the request's host is missing, doubled or malformed")]
    BadHost,
    #[error("the request's host is not a protected one; see PROTECTED_HOSTS")]
    UnknownHost,
    #[error("the request did not come over the scheme of this deployment; see ISSUER")]
    Scheme,
    #[error("the request's method is not one that MCP uses")]
    Method,
    #[error("a header that decides about the request is doubled or malformed")]
    BadHeader,
    #[error(transparent)]
    Store(StoreError),
}

impl CheckError {
    /// Name in metrics.
    pub(super) const fn label(&self) -> &'static str {
        match self {
            Self::Untrusted => "untrusted",
            Self::Store(_) => "unavailable",
            _ => "malformed",
        }
    }
}

/// The one value of a header, or none; two are an attempt to be read differently by two parsers.
pub(super) fn single<'a>(headers: &'a HeaderMap, name: &str) -> Result<Option<&'a str>, CheckError> {
    let mut values = headers.get_all(name);
    let Some(first) = values.next() else {
        return Ok(None);
    };
    if values.next().is_some() {
        return Err(CheckError::BadHeader);
    }
    first.to_str().map(Some).map_err(|_| CheckError::BadHeader)
}

/// Reads a host as the edge passes it on.
pub(super) fn host(text: Option<&str>) -> Result<HostName, CheckError> {
    let (host, _) = split_authority(text.ok_or(CheckError::BadHost)?).map_err(|_| CheckError::BadHost)?;
    Ok(host)
}

/// Reads a scheme as the edge passes it on.
pub(super) fn scheme(text: Option<&str>) -> Result<Option<Scheme>, CheckError> {
    match text {
        None => Ok(None),
        Some("http") => Ok(Some(Scheme::Http)),
        Some("https") => Ok(Some(Scheme::Https)),
        Some(_) => Err(CheckError::BadHeader),
    }
}

/// Methods that an MCP endpoint answers; names are case-sensitive (RFC 9110 §9.1).
pub(super) fn method(name: &Method) -> Result<Method, CheckError> {
    match *name {
        Method::GET | Method::POST | Method::DELETE | Method::OPTIONS | Method::HEAD => Ok(name.clone()),
        _ => Err(CheckError::Method),
    }
}

/// Reads `Authorization` (RFC 6750 §2.1). Tokens in the query or the body are never looked at.
pub(super) fn bearer(headers: &HeaderMap) -> Bearer {
    let mut values = headers.get_all(AUTHORIZATION);
    let Some(first) = values.next() else {
        return Bearer::None;
    };
    if values.next().is_some() {
        return Bearer::Malformed;
    }
    let token = first.to_str().ok().and_then(|text| text.split_once(' ')).and_then(|(scheme, token)| {
        // b64token of RFC 6750 §2.1, which every token of ours is.
        let plain =
            !token.is_empty() && token.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._~+/=".contains(&b));
        (scheme.eq_ignore_ascii_case("bearer") && plain).then(|| token.to_owned())
    });
    token.map_or(Bearer::Malformed, Bearer::Token)
}
