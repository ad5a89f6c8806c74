//! Names of the headers that a check is read from. Looking one up by its text would make a name of it on every check.

use actix_web::http::header::{self, HeaderName};

pub(super) static ACCESS_CONTROL_REQUEST_HEADERS: HeaderName = header::ACCESS_CONTROL_REQUEST_HEADERS;
pub(super) static ACCESS_CONTROL_REQUEST_METHOD: HeaderName = header::ACCESS_CONTROL_REQUEST_METHOD;
pub(super) static DPOP: HeaderName = HeaderName::from_static("dpop");
pub(super) static HOST: HeaderName = header::HOST;
pub(super) static MCP_METHOD: HeaderName = HeaderName::from_static("mcp-method");
pub(super) static MCP_NAME: HeaderName = HeaderName::from_static("mcp-name");
pub(super) static MCP_PROTOCOL_VERSION: HeaderName = HeaderName::from_static("mcp-protocol-version");
pub(super) static ORIGIN: HeaderName = header::ORIGIN;
pub(super) static X_EDGE_SECRET: HeaderName = HeaderName::from_static("x-edge-secret");
pub(super) static X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
pub(super) static X_FORWARDED_METHOD: HeaderName = HeaderName::from_static("x-forwarded-method");
pub(super) static X_FORWARDED_PREFIX: HeaderName = HeaderName::from_static("x-forwarded-prefix");
pub(super) static X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
pub(super) static X_FORWARDED_URI: HeaderName = HeaderName::from_static("x-forwarded-uri");
pub(super) static X_ORIGINAL_METHOD: HeaderName = HeaderName::from_static("x-original-method");
pub(super) static X_ORIGINAL_URL: HeaderName = HeaderName::from_static("x-original-url");
