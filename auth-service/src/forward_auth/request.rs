//! What a check is about, the same whichever proxy asks. Made by the parsers only.

use std::borrow::Cow;

use actix_web::http::Method;

use crate::domain::host::HostName;
use crate::domain::origin::Origin;
use crate::domain::path::UnambiguousPath;
use crate::domain::resource::{ProtectedHosts, Scheme};
use crate::domain::resource_query::ResourceQuery;
use crate::store::StoreError;

use super::headers;
use super::sent::{Field, MAX_LEN, Sent};

/// A request that waits at the edge. What is the client's own stays where it came: a check allocates next to nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccessRequest<'a> {
    /// What the edge says of the scheme, when it does.
    pub scheme: Option<Scheme>,
    /// Whom the client addressed.
    pub host: HostName,
    /// What it asked for.
    pub path: UnambiguousPath,
    /// The query of what it asked for, as it came; empty when there is none. It decides nothing.
    pub query: &'a str,
    /// How.
    pub method: Method,
    /// The web page that made the request, if one did.
    pub origin: Option<Origin>,
    /// The credentials.
    pub bearer: Bearer<'a>,
    /// A proof of possession (RFC 9449 §4), as it came.
    pub dpop: Option<&'a str>,
    /// Whether it is a browser that asks leave for a request, with the headers that it wants to send
    /// (`Access-Control-Request-*`; Fetch standard, "CORS-preflight request").
    pub preflight: Option<&'a str>,
    /// `Mcp-Method`, the JSON-RPC method (MCP 2026-07-28).
    pub mcp_method: Option<&'a str>,
    /// `Mcp-Name`, decoded: the tool, prompt or resource.
    pub mcp_name: Option<Cow<'a, str>>,
    /// `MCP-Protocol-Version`, as it came.
    pub mcp_protocol_version: Option<&'a str>,
}

/// What a proxy says of the request in its own way: the rest is in the client's headers, the same for all.
pub(super) struct Target<'a> {
    pub(super) scheme: Option<Scheme>,
    pub(super) host: HostName,
    pub(super) path: UnambiguousPath,
    pub(super) query: &'a str,
    pub(super) method: Method,
}

impl<'a> AccessRequest<'a> {
    /// Completes a request by the client's own headers.
    pub(super) fn read(target: Target<'a>, sent: &Sent<'a>) -> Result<Self, CheckError> {
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
    /// Where the client learns how to get a token for what it asked for. A query that no header could carry is left out.
    pub(super) fn metadata_url(&self, hosts: &ProtectedHosts) -> String {
        let query = ResourceQuery::parse(self.query).unwrap_or_default();
        hosts.metadata_url(&self.host, &self.path, query)
    }
}

/// The request's credentials.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Bearer<'a> {
    /// There is no Authorization header.
    None,
    /// There is one, or several, but not one Bearer token.
    Malformed,
    /// A token.
    Token(&'a str),
    /// A token that is bound to a key, or so the client says (`Authorization: DPoP`, RFC 9449 §7.1).
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

/// Why a check has no decision. Every one of them is a denial.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    /// Not from the edge.
    #[error("this check does not come from a trusted edge proxy; see TRUSTED_PROXIES and EDGE_SECRET")]
    Untrusted,
    /// No such route.
    #[error(
        "no proxy is served under this path; there are /verify/traefik, /verify/traefik/entry-point, /verify/caddy, /verify/nginx and, with the original path after it, /verify/envoy"
    )]
    UnknownProxy,
    /// The proxy's configuration leaves out what we cannot do without.
    #[error("the edge proxy did not send {0}; see docs/forward-auth.md")]
    Missing(&'static str),
    /// More than one reading.
    #[error("the request's path can be read in more than one way")]
    AmbiguousPath,
    /// More than one reading, or none.
    #[error("the request's host is missing, doubled or malformed")]
    BadHost,
    /// Not ours.
    #[error("the request's host is not a protected one; see PROTECTED_HOSTS")]
    UnknownHost,
    /// Plain HTTP where there is TLS, or the other way round.
    #[error("the request did not come over the scheme of this deployment; see ISSUER")]
    Scheme,
    /// Not one that an MCP endpoint answers.
    #[error("the request's method is not one that MCP uses")]
    Method,
    /// A web page of another origin.
    #[error("pages of this origin may not call the service; see ALLOWED_ORIGINS")]
    Origin,
    /// More than one reading.
    #[error("the header {0} is doubled or malformed")]
    BadHeader(&'static str),
    /// Longer than anything that has a meaning.
    #[error("the header {0} is longer than {MAX_LEN} bytes")]
    TooLong(&'static str),
    /// A header that another server could take for one of ours.
    #[error("a header could be taken for one that only the edge proxy may send")]
    ReservedHeader,
    /// The path was rewritten before the check.
    #[error(
        "X-Forwarded-Prefix says that the path was rewritten before the check; the check has to come first"
    )]
    Rewritten,
    /// It cannot be known now.
    #[error(transparent)]
    Store(StoreError),
}

impl CheckError {
    /// Name in metrics.
    pub(super) const fn label(&self) -> &'static str {
        match self {
            Self::Untrusted => "untrusted",
            Self::Store(_) => "unavailable",
            Self::Origin => "foreign_origin",
            _ => "malformed",
        }
    }
}
