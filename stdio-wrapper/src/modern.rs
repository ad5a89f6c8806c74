//! The stateless revision, 2026-07-28: what a request must look like, which child answers it, and who gets which message
//! of a child that serves many clients at once.

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
mod watch;

pub use check::{Era, Fault, Meta, Request, check, era, is_modern_version};
pub use header::{Field, Fields};
pub use link::Ticket;
pub use param_headers::ParamHeaders;
pub use pending::completion;
pub use servers::{CallError, Native, Place, Servers, Settings};
pub use tools::read_tools;

/// The revision on the wire.
pub const VERSION: &str = "2026-07-28";

/// The names under `_meta` that the protocol keeps for itself begin so (2026-07-28, "`_meta`").
pub const META_PREFIX: &str = "io.modelcontextprotocol/";
/// The client's capabilities.
pub const CAPABILITIES: &str = "io.modelcontextprotocol/clientCapabilities";
/// The revision that a request is written in.
pub const PROTOCOL_VERSION: &str = "io.modelcontextprotocol/protocolVersion";
/// From which level on the client wants log messages of this request.
pub const LOG_LEVEL: &str = "io.modelcontextprotocol/logLevel";
/// The `subscriptions/listen` request that a notification belongs to.
pub const SUBSCRIPTION: &str = "io.modelcontextprotocol/subscriptionId";
/// Who answers.
pub const SERVER_INFO: &str = "io.modelcontextprotocol/serverInfo";
