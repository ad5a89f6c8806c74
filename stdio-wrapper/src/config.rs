//! Settings: read once at start, checked together, never read again.

mod child;
mod command;
mod files;
mod limits;
mod options;
mod read;
mod values;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

pub use options::Options;
use url::Url;

use crate::policy::ToolRules;

/// Everything the operator can choose.
#[expect(clippy::struct_excessive_bools, reason = "each is a setting of its own")]
#[derive(Debug, Clone)]
pub struct Config {
    /// Where MCP clients connect.
    pub listen: SocketAddr,
    /// Where `/health`, `/ready` and `/metrics` are.
    pub ops_listen: SocketAddr,
    /// Threads that answer HTTP.
    pub workers: usize,
    /// Path of the MCP endpoint.
    pub mcp_path: String,
    /// Whether the 2024-11-05 endpoints `/sse` and `/messages` exist.
    pub legacy_sse: bool,
    /// Which `Host` and `Origin` values are taken.
    pub sites: Sites,
    /// How the caller is known.
    pub identity: Identity,
    /// Which group fills `{group}`, in order of preference.
    pub groups: Vec<String>,
    /// Which scopes a tool needs.
    pub tool_rules: Option<ToolRules>,
    /// The command and what it gets.
    pub child: Child,
    /// Ceilings and times.
    pub limits: Limits,
    /// Whether all sessions share one child.
    pub shared: bool,
    /// Whether clients and servers of different eras are translated for each other.
    pub translate: bool,
    /// Children kept ready for the next session.
    pub prewarm: usize,
    /// Filter of the log (`info`, `stdio_wrapper=debug`, …).
    pub log: String,
    /// Whether log lines are JSON.
    pub log_json: bool,
}

/// Hosts and origins that requests may name (attack 104).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sites {
    /// `None`: any host.
    pub hosts: Option<Vec<String>>,
    /// Origins, `scheme://host[:port]`; `*` for any.
    pub origins: Vec<String>,
    /// Whether loopback names pass without being listed.
    pub loopback: bool,
}

/// How the caller is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Identity {
    /// Nobody is told apart.
    None,
    /// `X-Auth-*` headers that the edge sets.
    Headers,
    /// `X-Auth-Assertion`, signed by the authorization service.
    Assertion {
        /// Where its keys are.
        jwks_url: Url,
        /// `iss` that must be in it.
        issuer: String,
        /// `aud` that must be in it.
        resource: String,
    },
}

/// The command behind the wrapper. It comes from the command line and from nowhere else (attack 103).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Child {
    /// Program and arguments; arguments may hold placeholders.
    pub command: Vec<String>,
    /// Environment, complete; values may hold placeholders.
    pub env: Vec<(String, String)>,
    /// Working directory; may hold placeholders.
    pub cwd: Option<String>,
    /// Address space, in bytes.
    pub max_memory: Option<u64>,
    /// Processor time, in seconds.
    pub max_cpu: Option<u64>,
    /// Processes of the same user.
    pub max_processes: Option<u64>,
    /// Open files.
    pub max_files: Option<u64>,
    /// Whether it is kept from other children and from the wrapper.
    pub isolation: Isolation,
    /// Lines of standard error that are logged per second.
    pub stderr_rate: u32,
    /// How long a child may take to end by itself, and again after SIGTERM.
    pub stop_grace: Duration,
}

/// Whether a child is kept from other children and from the wrapper.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Isolation {
    /// Where the kernel can.
    Auto,
    /// Nothing is started where the kernel cannot.
    Required,
    /// Nowhere.
    Off,
}

/// Ceilings and times.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Sessions at the same time; `None`: as many as the container has room for.
    pub max_sessions: Option<usize>,
    /// Sessions of one principal at the same time; `None`: a share of all.
    pub max_sessions_per_principal: Option<usize>,
    /// Requests of one session at the same time.
    pub max_in_flight: usize,
    /// How long an unused session lives.
    pub session_idle: Duration,
    /// How long a request may take without a sign of progress.
    pub request_timeout: Duration,
    /// How long a child may take to answer `initialize`.
    pub start_timeout: Duration,
    /// How long an answer may take before the response becomes a stream.
    pub stream_after: Duration,
    /// How long a stream may stay open before the client has to connect again.
    pub stream_max_age: Duration,
    /// Time between two comments on a silent stream.
    pub keep_alive: Duration,
    /// Server sessions that one principal's stateless calls may be spread over.
    pub translate_sessions: usize,
    /// How long a translated call waits for its client.
    pub input_timeout: Duration,
    /// How long a stream may outlive the token that it was opened with.
    pub stream_grace: Duration,
    /// What clients are told to wait before they connect again.
    pub retry: Duration,
    /// Connections of clients at the same time.
    pub max_connections: usize,
    /// Largest POST body, in bytes.
    pub max_body: usize,
    /// Longest line of a child, in bytes.
    pub max_line: usize,
    /// Most messages in a batch.
    pub max_batch: usize,
    /// Memory for events that a client may ask for again, per session, in bytes.
    pub event_log: usize,
    /// `LIST_CACHE`: bytes per stateless child of lists that may be given again.
    pub list_cache: usize,
    /// How long shutting down may take.
    pub shutdown_timeout: Duration,
}

impl Config {
    /// Checks every option. The error is the list of all that is wrong, one sentence each.
    pub fn new(options: &Options, environment: &dyn Fn(&str) -> Option<String>) -> Result<Self, Vec<String>> {
        read::config(options, environment)
    }

    /// Whether the command names the caller.
    pub fn has_placeholders(&self) -> bool {
        let has = |text: &String| PLACEHOLDERS.iter().any(|name| text.contains(name));
        self.child.command.iter().any(has)
            || self.child.env.iter().any(|(_, value)| has(value))
            || self.child.cwd.as_ref().is_some_and(has)
    }
}

/// What arguments, environment and working directory may contain.
pub const PLACEHOLDERS: [&str; 3] = ["{subject}", "{user}", "{group}"];

/// The directories of a `PATH`.
pub(crate) fn search_path(path: &str) -> impl Iterator<Item = PathBuf> {
    std::env::split_paths(path).collect::<Vec<_>>().into_iter()
}
