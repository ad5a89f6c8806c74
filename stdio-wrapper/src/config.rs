//! Settings, which are read once at startup and checked together.

mod child;
mod command;
mod doubts;
mod given;
mod limits;
mod options;
mod placeholders;
mod read;
mod reader;
mod types;
mod values;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::ValueEnum;
use contract::log_filter::LogFilter;
pub use given::Given;
pub use options::Options;
pub(crate) use placeholders::{ESCAPE, GROUP, PLACEHOLDERS, SUBJECT, USER, is_in, is_plain, replace};
use url::Url;

use crate::policy::ToolRules;

/// All settings of the operator.
#[expect(clippy::struct_excessive_bools, reason = "each is a setting of its own")]
#[derive(Debug, Clone)]
pub struct Config {
    /// The address for MCP clients.
    pub listen: SocketAddr,
    /// The address for `/health`, `/ready` and `/metrics`.
    pub ops_listen: SocketAddr,
    /// Number of threads that handle HTTP requests.
    pub workers: usize,
    /// Path of the MCP endpoint.
    pub mcp_path: String,
    /// Whether the 2024-11-05 endpoints `/sse` and `/messages` exist.
    pub legacy_sse: bool,
    /// The `Host` and `Origin` values that are accepted.
    pub sites: Sites,
    /// How callers are identified.
    pub identity: Identity,
    /// The groups that can fill `{group}`, in order of preference.
    pub groups: Vec<String>,
    /// The scopes and groups that tools require.
    pub tool_rules: Option<ToolRules>,
    /// The command, its environment and its limits.
    pub child: Child,
    /// Limits for numbers, sizes and times.
    pub limits: Limits,
    /// Whether all sessions share one child.
    pub shared: bool,
    /// Whether clients and servers of different eras are translated for each other.
    pub translate: bool,
    /// Number of children that are kept ready for further sessions.
    pub prewarm: usize,
    /// The log filter (`info`, `stdio_wrapper=debug`, …).
    pub log: LogFilter,
    /// Whether log lines are JSON.
    pub log_json: bool,
}

/// Hosts and origins that are accepted in requests (attack 104).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sites {
    /// The accepted host names. `None` accepts any host.
    pub hosts: Option<Vec<String>>,
    /// The accepted origins, as `scheme://host[:port]`, or `*` for any.
    pub origins: Vec<String>,
    /// Whether loopback names are accepted without being listed.
    pub loopback: bool,
}

/// How callers are identified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Identity {
    /// Callers are not distinguished.
    None,
    /// Callers are identified by the `X-Auth-*` headers that the edge sets.
    Headers,
    /// Callers are identified by `X-Auth-Assertion`, which the authorization service signs.
    Assertion {
        /// The URL of the signing keys.
        jwks_url: Url,
        /// The `iss` that an assertion must have.
        issuer: String,
        /// The `aud` that an assertion must have.
        resource: String,
    },
}

/// The wrapped command. It comes only from the command line (attack 103).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Child {
    /// The program and its arguments. Arguments can contain placeholders.
    pub command: Vec<String>,
    /// The whole environment. Values can contain placeholders.
    pub env: Vec<(String, String)>,
    /// The working directory. It can contain placeholders.
    pub cwd: Option<String>,
    /// Limit for the address space of a child, in bytes.
    pub max_memory: Option<u64>,
    /// Limit for the processor time of a child, in seconds.
    pub max_cpu: Option<u64>,
    /// Limit for the number of processes of the child's user.
    pub max_processes: Option<u64>,
    /// Limit for the number of open files of a child.
    pub max_files: Option<u64>,
    /// Whether a child is isolated from other children and from the wrapper.
    pub isolation: Isolation,
    /// Maximum number of lines of standard error that are logged per second.
    pub stderr_rate: u32,
    /// Time for a child to exit after its input is closed, and again after SIGTERM.
    pub stop_grace: Duration,
}

/// Whether a child is isolated from other children and from the wrapper.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum Isolation {
    /// Children are isolated if the kernel supports this.
    #[default]
    Auto,
    /// Children are always isolated. The wrapper does not start if the kernel does not support this.
    Required,
    /// Children are not isolated.
    Off,
}

/// Limits for numbers, sizes and times.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Maximum number of sessions. `None` means as many as fit into the container.
    pub max_sessions: Option<usize>,
    /// Maximum number of sessions of one principal. If it is `None` and callers are identified, one principal can
    /// have half of the sessions for which there is room, and at least 4.
    pub max_sessions_per_principal: Option<usize>,
    /// Maximum number of requests in progress in one session.
    pub max_in_flight: usize,
    /// Time after which an unused session ends.
    pub session_idle: Duration,
    /// A request fails if the child sends neither a response nor progress for this long.
    pub request_timeout: Duration,
    /// Maximum time for a child to respond to `initialize`.
    pub start_timeout: Duration,
    /// Maximum number of children that are starting at the same time. `None` means two for each processor.
    pub max_starts: Option<usize>,
    /// Time after which the response to a call becomes a stream.
    pub stream_after: Duration,
    /// Maximum age of a stream, after which the client must reconnect.
    pub stream_max_age: Duration,
    /// Interval between comments on an idle stream.
    pub keep_alive: Duration,
    /// Maximum number of server sessions for the translated calls of one principal's stateless clients.
    pub translate_sessions: usize,
    /// Maximum time for which a translated call waits for its client.
    pub input_timeout: Duration,
    /// How long a stream stays open after the expiry of the token that was used to open it.
    pub stream_grace: Duration,
    /// Time that clients are told to wait before they reconnect.
    pub retry: Duration,
    /// Maximum number of client connections.
    pub max_connections: usize,
    /// Maximum size of a POST body, in bytes.
    pub max_body: usize,
    /// Maximum length of a line from a child, in bytes.
    pub max_line: usize,
    /// Maximum number of messages in a batch.
    pub max_batch: usize,
    /// Memory for events that are kept for clients that reconnect, in bytes.
    pub event_log: usize,
    /// Size of the list cache of each stateless child, in bytes.
    pub list_cache: usize,
    /// Maximum time for shutting down.
    pub shutdown_timeout: Duration,
}

impl Child {
    /// Whether an argument, the environment or the working directory contains this placeholder.
    pub fn has(&self, placeholder: &str) -> bool {
        let has = |text: &String| text.contains(placeholder);
        self.command.iter().any(has)
            || self.env.iter().any(|(_, value)| has(value))
            || self.cwd.as_ref().is_some_and(has)
    }
}

impl Config {
    /// Checks every option. The error contains one sentence for each problem.
    pub fn new(options: &Options, environment: &dyn Fn(&str) -> Option<String>) -> Result<Self, Vec<String>> {
        read::config(options, environment)
    }

    /// Returns a sentence for each combination of settings that is allowed, but is probably a mistake.
    pub fn doubts(&self, options: &Options) -> Vec<String> {
        doubts::of(self, options)
    }

    /// Whether the command, the environment or the working directory depends on the caller.
    pub fn has_placeholders(&self) -> bool {
        PLACEHOLDERS.iter().any(|name| self.child.has(name))
    }
}

/// The directories of a `PATH`.
pub(crate) fn search_path(path: &str) -> impl Iterator<Item = PathBuf> {
    std::env::split_paths(path).collect::<Vec<_>>().into_iter()
}
