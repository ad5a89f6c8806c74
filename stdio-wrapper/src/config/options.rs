//! The command line. Every option is a text here; `read` turns the texts into values and reports all mistakes at once.

use clap::Parser;

/// Serves a stdio MCP server over Streamable HTTP.
///
/// Every option can also be set by the environment variable in its description; the command line wins. Times take a unit
/// (500ms, 30s, 5m, 1h), sizes too (64KiB, 16MiB).
#[derive(Debug, Clone, Parser)]
#[command(version, max_term_width = 110, args_override_self = true)]
pub struct Options {
    /// Address and port for MCP clients.
    #[arg(long, env = "LISTEN", default_value = "127.0.0.1:8080", value_name = "ADDR:PORT")]
    pub listen: String,
    /// Address and port for /health, /ready and /metrics.
    #[arg(long, env = "OPS_LISTEN", default_value = "127.0.0.1:8081", value_name = "ADDR:PORT")]
    pub ops_listen: String,
    /// Path of the MCP endpoint.
    #[arg(long, env = "MCP_PATH", default_value = "/mcp", value_name = "PATH")]
    pub mcp_path: String,
    /// Threads that answer HTTP; 0: one per processor but one, at most 4.
    #[arg(long, env = "WORKERS", default_value = "0", value_name = "N")]
    pub workers: String,
    /// Also serve the deprecated 2024-11-05 endpoints GET /sse and POST /messages.
    #[arg(long, env = "LEGACY_SSE", default_value = "false", num_args = 0..=1, default_missing_value = "true", value_name = "BOOL")]
    pub legacy_sse: String,

    /// Host names that requests may name, comma-separated, without port; * for any. Default: loopback names when LISTEN
    /// is loopback, else any.
    #[arg(long, env = "ALLOWED_HOSTS", default_value = "", hide_default_value = true, value_name = "LIST")]
    pub allowed_hosts: String,
    /// Origins of browser clients, comma-separated (<https://app.example.com>). Default: loopback origins when LISTEN is
    /// loopback, else none.
    #[arg(long, env = "ALLOWED_ORIGINS", default_value = "", hide_default_value = true, value_name = "LIST")]
    pub allowed_origins: String,

    /// How callers are known: none, headers (X-Auth-* set by the edge) or assertion (signed X-Auth-Assertion).
    #[arg(long, env = "IDENTITY", default_value = "none", value_name = "MODE")]
    pub identity: String,
    /// Where the keys for IDENTITY=assertion are.
    #[arg(long, env = "JWKS_URL", default_value = "", hide_default_value = true, value_name = "URL")]
    pub jwks_url: String,
    /// Issuer that an assertion must name.
    #[arg(long, env = "ISSUER", default_value = "", hide_default_value = true, value_name = "URL")]
    pub issuer: String,
    /// This server's resource identifier (RFC 8707), which an assertion must be for: <https://host/path>.
    #[arg(long, env = "RESOURCE", default_value = "", hide_default_value = true, value_name = "URL")]
    pub resource: String,
    /// TOML file that says which scopes and groups a tool needs.
    #[arg(long, env = "TOOL_RULES", default_value = "", hide_default_value = true, value_name = "FILE")]
    pub tool_rules: String,
    /// Groups that may fill {group}, comma-separated; the first one that the caller is in counts. Default: the caller's
    /// only group.
    #[arg(
        long = "group-order",
        env = "GROUP_ORDER",
        default_value = "",
        hide_default_value = true,
        value_name = "LIST"
    )]
    pub group_order: String,

    /// One child for all sessions, for servers that keep no state.
    #[arg(long, env = "SHARED", default_value = "false", num_args = 0..=1, default_missing_value = "true", value_name = "BOOL")]
    pub shared: String,
    /// Children kept ready, so that a new session does not wait for one to start.
    #[arg(long, env = "PREWARM", default_value = "0", value_name = "N")]
    pub prewarm: String,
    /// NAME passes this variable of the wrapper to the child, NAME=VALUE sets one. May be repeated; in `CHILD_ENV` one
    /// per line. The child gets PATH, HOME, LANG, TZ and nothing else besides.
    #[arg(long = "env", env = "CHILD_ENV", value_delimiter = '\n', value_name = "NAME[=VALUE]")]
    pub child_env: Vec<String>,
    /// Working directory of the child. Made if it has a placeholder.
    #[arg(
        long = "cwd",
        env = "CHILD_CWD",
        default_value = "",
        hide_default_value = true,
        value_name = "DIR"
    )]
    pub child_cwd: String,
    /// Address space of a child; 0: no limit. Node and Java reserve much more than they use.
    #[arg(long, env = "CHILD_MEMORY", default_value = "0", value_name = "SIZE")]
    pub child_memory: String,
    /// Processor seconds of a child; 0: no limit.
    #[arg(long, env = "CHILD_CPU", default_value = "0", value_name = "SECONDS")]
    pub child_cpu: String,
    /// Processes that the child's user may have (the kernel does not hold root to it); 0: no limit.
    #[arg(long, env = "CHILD_PROCESSES", default_value = "0", value_name = "N")]
    pub child_processes: String,
    /// Files that a child may have open; 0: no limit.
    #[arg(long, env = "CHILD_FILES", default_value = "0", value_name = "N")]
    pub child_files: String,
    /// Whether a child is kept from reading, tracing and signalling other children and the wrapper, by Landlock: auto, where
    /// the kernel can; required, do not start where it cannot; off.
    #[arg(long, env = "CHILD_ISOLATION", default_value = "auto", value_name = "MODE")]
    pub child_isolation: String,
    /// Lines of a child's standard error that are logged per second.
    #[arg(long, env = "STDERR_RATE", default_value = "100", value_name = "N")]
    pub stderr_rate: String,
    /// How long a child may take to end after its input closes, and again after SIGTERM.
    #[arg(long, env = "STOP_GRACE", default_value = "3s", value_name = "TIME")]
    pub stop_grace: String,

    /// Sessions at the same time; auto: as many as the memory and process limits of the container leave room for, or 100
    /// without limits.
    #[arg(long, env = "MAX_SESSIONS", default_value = "auto", value_name = "N")]
    pub max_sessions: String,
    /// Sessions of one user at the same time; auto: half of all, and 4 in any case; 0: as many as there are.
    #[arg(long, env = "MAX_SESSIONS_PER_PRINCIPAL", default_value = "auto", value_name = "N")]
    pub max_sessions_per_principal: String,
    /// Requests of one session at the same time.
    #[arg(long, env = "MAX_IN_FLIGHT", default_value = "512", value_name = "N")]
    pub max_in_flight: String,
    /// How long an unused session lives.
    #[arg(long, env = "SESSION_IDLE", default_value = "30m", value_name = "TIME")]
    pub session_idle: String,
    /// How long a request may take without a sign of progress.
    #[arg(long, env = "REQUEST_TIMEOUT", default_value = "5m", value_name = "TIME")]
    pub request_timeout: String,
    /// How long a child may take to answer initialize.
    #[arg(long, env = "START_TIMEOUT", default_value = "45s", value_name = "TIME")]
    pub start_timeout: String,
    /// How long an answer may take before the response becomes an event stream.
    #[arg(long, env = "STREAM_AFTER", default_value = "2s", value_name = "TIME")]
    pub stream_after: String,
    /// How long a GET stream stays open before the client connects again, and is checked again.
    #[arg(long, env = "STREAM_MAX_AGE", default_value = "1h", value_name = "TIME")]
    pub stream_max_age: String,
    /// Translate between clients and servers of different eras.
    #[arg(long, env = "TRANSLATE", default_value = "true", num_args = 0..=1, default_missing_value = "true", value_name = "BOOL")]
    pub translate: String,
    /// Server sessions, each with a child of its own, that the stateless clients of one principal may fill with calls that
    /// ask back. Clients that can be asked different things share none, and have one of each kind in any case. 1 keeps all
    /// calls of clients of one kind in one child, one call after the other.
    #[arg(long, env = "TRANSLATE_SESSIONS", default_value = "8", value_name = "COUNT")]
    pub translate_sessions: String,
    /// How long a translated call waits for what its client was asked; and how long a child is not late because its client
    /// has not answered.
    #[arg(long, env = "INPUT_TIMEOUT", default_value = "10m", value_name = "TIME")]
    pub input_timeout: String,
    /// How long a stream may outlive the access token that it was opened with.
    #[arg(long, env = "STREAM_GRACE", default_value = "60s", value_name = "TIME")]
    pub stream_grace: String,
    /// Time between two comments on a silent stream.
    #[arg(long, env = "KEEP_ALIVE", default_value = "15s", value_name = "TIME")]
    pub keep_alive: String,
    /// What clients are told to wait before they connect again.
    #[arg(long, env = "RETRY", default_value = "1s", value_name = "TIME")]
    pub retry: String,
    /// Connections of clients at the same time; more wait until one closes. Idle streams count.
    #[arg(long, env = "MAX_CONNECTIONS", default_value = "10000", value_name = "N")]
    pub max_connections: String,
    /// Largest POST body.
    #[arg(long, env = "MAX_BODY", default_value = "4MiB", value_name = "SIZE")]
    pub max_body: String,
    /// Longest line that a child may write.
    #[arg(long, env = "MAX_LINE", default_value = "16MiB", value_name = "SIZE")]
    pub max_line: String,
    /// Most messages in a batch (2025-03-26 only).
    #[arg(long, env = "MAX_BATCH", default_value = "100", value_name = "N")]
    pub max_batch: String,
    /// Memory per session for events that a client may ask for again.
    #[arg(long, env = "EVENT_LOG", default_value = "1MiB", value_name = "SIZE")]
    pub event_log: String,
    /// Memory per stateless child for lists that it allows to be given again (`ttlMs`); 0: none are.
    #[arg(long, env = "LIST_CACHE", default_value = "8MiB", value_name = "SIZE")]
    pub list_cache: String,
    /// How long shutting down may take.
    #[arg(long, env = "SHUTDOWN_TIMEOUT", default_value = "10s", value_name = "TIME")]
    pub shutdown_timeout: String,

    /// What is logged: error, warn, info, debug, or a tracing filter.
    #[arg(long, env = "LOG", default_value = "info", value_name = "FILTER")]
    pub log: String,
    /// How it is logged: text or json.
    #[arg(long, env = "LOG_FORMAT", default_value = "text", value_name = "FORMAT")]
    pub log_format: String,

    /// Ask the wrapper that runs with the same `OPS_LISTEN` whether it lives, and end: 0 if it does, 1 if not. For the
    /// health check of a container; starts no MCP server.
    #[arg(long)]
    pub healthcheck: bool,

    /// The MCP server to run, after --.
    #[arg(last = true, value_name = "COMMAND")]
    pub command: Vec<String>,
}
