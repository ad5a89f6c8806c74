//! The stateless revision, 2026-07-28: checks requests, finds the child for each request, and finds the client
//! for each message from a child that serves many clients at the same time.

mod call_error;
mod check;
mod dispatch;
mod header;
mod link;
mod lists;
mod param_headers;
mod pending;
mod probe;
mod servers;
mod tools;
mod verdict;
mod watch;

pub use call_error::CallError;
pub use check::{Era, Fault, MAX_CAPABILITIES, Meta, Request, check, era, is_modern_version};
pub use header::{Field, Fields};
pub use link::Ticket;
pub use param_headers::ParamHeaders;
pub use pending::{completion, subscription_meta};
pub use servers::{Servers, Settings};
pub(crate) use tools::read_tools_with;

pub use crate::protocol::LOG_LEVEL;
use crate::protocol::Members;

/// The name of the revision in messages.
pub const VERSION: &str = "2026-07-28";

/// The prefix of names in `_meta` that the protocol reserves (2026-07-28, "`_meta`").
pub const META_PREFIX: &str = "io.modelcontextprotocol/";
/// The name in `_meta` for the client's capabilities.
pub const CAPABILITIES: &str = "io.modelcontextprotocol/clientCapabilities";
/// The name in `_meta` for the revision of a request.
pub const PROTOCOL_VERSION: &str = "io.modelcontextprotocol/protocolVersion";
/// The implementation of the client that sent the request.
pub const CLIENT_INFO: &str = "io.modelcontextprotocol/clientInfo";
/// The id of the `subscriptions/listen` request that a notification belongs to.
pub const SUBSCRIPTION: &str = "io.modelcontextprotocol/subscriptionId";
/// The implementation of the server that sent the response.
pub const SERVER_INFO: &str = "io.modelcontextprotocol/serverInfo";

/// The `_meta` of a request in this revision, with the members that every request must have. `given` is the
/// `_meta` that it has already, and `capabilities` are those of the client. Both are JSON text.
pub fn meta<'a>(given: &'a str, capabilities: &'a str) -> Members<'a> {
    let mut meta = Members::parse(given).unwrap_or_default();
    meta.set(PROTOCOL_VERSION, format!(r#""{VERSION}""#));
    meta.set(CAPABILITIES, capabilities);
    meta
}
