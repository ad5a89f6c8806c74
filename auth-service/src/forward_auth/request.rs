//! The client's request that a check describes, in the same form for all proxies. Only the parsers create it.

use std::borrow::Cow;

use actix_web::http::Method;

use crate::domain::host::HostName;
use crate::domain::origin::Origin;
use crate::domain::path::UnambiguousPath;
use crate::domain::resource::{ProtectedHosts, Scheme};
use crate::domain::resource_query::ResourceQuery;

use super::check_headers::{CheckHeaders, Field};
use super::error::CheckError;
use super::headers::{self, Bearer};

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
