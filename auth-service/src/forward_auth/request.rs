//! The client's request that a check describes, in the same form for all proxies. Only the parsers create it.

use std::borrow::Cow;

use actix_web::http::Method;

use crate::domain::host::HostName;
use crate::domain::origin::Origin;
use crate::domain::path::UnambiguousPath;
use crate::domain::resource::{ProtectedHosts, Scheme};
use crate::domain::resource_query::ResourceQuery;
use crate::guard::pace::TooManyRequests;
use crate::store::StoreError;

use super::check_headers::{CheckHeaders, Field, MAX_LEN};
use super::headers;

/// A client's request that is held at the edge until it is decided. It borrows from the check, so that a check
/// needs almost no allocations.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccessRequest<'a> {
    /// The scheme, if the edge proxy has sent it.
    pub scheme: Option<Scheme>,
    /// The host that the client addressed.
    pub host: HostName,
    /// The path that the client requested.
    pub path: UnambiguousPath,
    /// The query as the client sent it; empty if there is none. No decision depends on it.
    pub query: &'a str,
    /// The method of the request.
    pub method: Method,
    /// The origin of the web page that made the request, if one did.
    pub origin: Option<Origin>,
    /// The access token of the request, if there is one.
    pub bearer: Bearer<'a>,
    /// A DPoP proof (RFC 9449 §4), as it was sent.
    pub dpop: Option<&'a str>,
    /// The headers that a browser wants to send (`Access-Control-Request-Headers`), if the request is a
    /// preflight (Fetch standard, "CORS-preflight request").
    pub preflight: Option<&'a str>,
    /// `Mcp-Method`, the JSON-RPC method (MCP 2026-07-28).
    pub mcp_method: Option<&'a str>,
    /// `Mcp-Name`, decoded: the name of the tool, prompt or resource.
    pub mcp_name: Option<Cow<'a, str>>,
    /// `MCP-Protocol-Version`, as it was sent.
    pub mcp_protocol_version: Option<&'a str>,
}

/// The part of the request that each proxy describes differently. The rest comes from the client's headers, which
/// are read in the same way for all proxies.
pub(super) struct Target<'a> {
    pub(super) scheme: Option<Scheme>,
    pub(super) host: HostName,
    pub(super) path: UnambiguousPath,
    pub(super) query: &'a str,
    pub(super) method: Method,
}

impl<'a> AccessRequest<'a> {
    /// Completes a request with the client's own headers.
    pub(super) fn read(target: Target<'a>, sent: &CheckHeaders<'a>) -> Result<Self, CheckError> {
        headers::refuse_reserved(sent)?;
        let Target { scheme, host, path, query, method } = target;
        Ok(Self {
            scheme,
            host,
            path,
            query,
            origin: headers::origin(sent)?,
            bearer: headers::bearer(sent),
            dpop: sent.single(Field::Dpop)?,
            preflight: if method == Method::OPTIONS { headers::preflight(sent)? } else { None },
            method,
            mcp_method: sent.short(Field::McpMethod)?,
            mcp_name: headers::mcp_name(sent)?,
            mcp_protocol_version: sent.short(Field::McpProtocolVersion)?,
        })
    }
}

impl AccessRequest<'_> {
    /// The URL of the metadata that describes how to get a token for this request (RFC 9728 §3.1). A query that is
    /// not allowed in a header is omitted.
    pub(super) fn metadata_url(&self, hosts: &ProtectedHosts) -> String {
        let query = ResourceQuery::parse(self.query).unwrap_or_default();
        hosts.metadata_url(&self.host, &self.path, query)
    }
}

/// The content of the `Authorization` header of a request.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Bearer<'a> {
    /// There is no `Authorization` header.
    None,
    /// There are several `Authorization` headers, or one that does not contain exactly one token.
    Malformed,
    /// A token with the scheme `Bearer` (RFC 6750 §2.1).
    Token(&'a str),
    /// A token with the scheme `DPoP` (RFC 9449 §7.1). It is not known yet whether the token is bound to a key.
    Bound(&'a str),
}

impl std::fmt::Debug for Bearer<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::None => "None",
            Self::Malformed => "Malformed",
            Self::Token(_) => "Token(…)",
            Self::Bound(_) => "Bound(…)",
        })
    }
}

/// Why a check cannot be decided. In each of these cases the request is denied.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    /// The check does not come from a trusted edge proxy.
    #[error("this check does not come from a trusted edge proxy; see TRUSTED_PROXIES and EDGE_SECRET")]
    Untrusted,
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
    /// The value of the label `outcome` in the metric `mcp_gate_checks_total`.
    pub(super) const fn label(&self) -> &'static str {
        match self {
            Self::Untrusted => "untrusted",
            Self::Undatable | Self::Store(_) => "unavailable",
            Self::Origin => "foreign_origin",
            Self::TooManyRequests(_) => "too_many_requests",
            _ => "malformed",
        }
    }
}
