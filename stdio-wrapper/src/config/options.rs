//! The command line. All option values are strings here. `read` parses them, and reports all mistakes together.

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{CommandFactory as _, Parser};
use contract::settings::{Misspelt, misspelt, perhaps_misspelt};

/// Serves an MCP server that uses standard input and output over Streamable HTTP.
///
/// Every option can also be set with the environment variable in its description. The command line takes
/// precedence. Times and sizes have a unit (500ms, 30s, 5m, 1h; 64KiB, 16MiB).
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
    /// Number of threads that serve HTTP. 0 means one fewer than the number of processors, but at least 1 and
    /// at most 4.
    #[arg(long, env = "WORKERS", default_value = "0", value_name = "N")]
    pub workers: String,
    /// Also serve the deprecated 2024-11-05 endpoints GET /sse and POST /messages.
    #[arg(long, env = "LEGACY_SSE", default_value = "false", num_args = 0..=1, default_missing_value = "true", value_name = "BOOL")]
    pub legacy_sse: String,

    /// Host names that are allowed in the Host header, comma-separated and without port; * allows any. The
    /// default is the loopback names if LISTEN is a loopback address, and otherwise any name.
    #[arg(long, env = "ALLOWED_HOSTS", default_value = "", hide_default_value = true, value_name = "LIST")]
    pub allowed_hosts: String,
    /// Origins of browser clients that are allowed, comma-separated (<https://app.example.com>). The default is
    /// loopback origins if LISTEN is a loopback address, and otherwise none.
    #[arg(long, env = "ALLOWED_ORIGINS", default_value = "", hide_default_value = true, value_name = "LIST")]
    pub allowed_origins: String,

    /// How callers are identified: none, headers (X-Auth-* set by the edge) or assertion (signed
    /// X-Auth-Assertion).
    #[arg(long, env = "IDENTITY", default_value = "none", value_name = "MODE")]
    pub identity: String,
    /// URL of the signing keys for IDENTITY=assertion.
    #[arg(long, env = "JWKS_URL", default_value = "", hide_default_value = true, value_name = "URL")]
    pub jwks_url: String,
    /// Issuer that assertions must have.
    #[arg(long, env = "ISSUER", default_value = "", hide_default_value = true, value_name = "URL")]
    pub issuer: String,
    /// This server's resource identifier (RFC 8707), which must be the audience of assertions:
    /// <https://host/path>.
    #[arg(long, env = "RESOURCE", default_value = "", hide_default_value = true, value_name = "URL")]
    pub resource: String,
    /// TOML file with the scopes and groups that tools require.
    #[arg(long, env = "TOOL_RULES", default_value = "", hide_default_value = true, value_name = "FILE")]
    pub tool_rules: String,
    /// Groups that can replace {group}, comma-separated. The first one that the caller belongs to is used.
    /// The default is the caller's only group.
    #[arg(
        long = "group-order",
        env = "GROUP_ORDER",
        default_value = "",
        hide_default_value = true,
        value_name = "LIST"
    )]
    pub group_order: String,

    /// Use one child for all sessions, for servers that keep no state.
    #[arg(long, env = "SHARED", default_value = "false", num_args = 0..=1, default_missing_value = "true", value_name = "BOOL")]
    pub shared: String,
    /// Number of children that are started in advance, so that a new session does not have to wait for one.
    #[arg(long, env = "PREWARM", default_value = "0", value_name = "N")]
    pub prewarm: String,
    /// NAME passes this variable of the wrapper on to the child, and NAME=VALUE sets a variable. The option can
    /// be repeated; `CHILD_ENV` contains one entry per line. The child gets no other variables except PATH,
    /// HOME, LANG and TZ.
    #[arg(long = "env", env = "CHILD_ENV", value_delimiter = '\n', value_name = "NAME[=VALUE]")]
    pub child_env: Vec<String>,
    /// Working directory of the child. It is created if it contains a placeholder.
    #[arg(
        long = "cwd",
        env = "CHILD_CWD",
        default_value = "",
        hide_default_value = true,
        value_name = "DIR"
    )]
    pub child_cwd: String,
    /// Limit for a child's address space; 0 means no limit. Node and Java reserve much more than they use.
    #[arg(long, env = "CHILD_MEMORY", default_value = "0", value_name = "SIZE")]
    pub child_memory: String,
    /// Limit for a child's processor time in seconds; 0 means no limit.
    #[arg(long, env = "CHILD_CPU", default_value = "0", value_name = "SECONDS")]
    pub child_cpu: String,
    /// Limit for the number of processes of the child's user (the kernel does not apply it to root); 0 means no
    /// limit.
    #[arg(long, env = "CHILD_PROCESSES", default_value = "0", value_name = "N")]
    pub child_processes: String,
    /// Limit for the number of a child's open files; 0 means no limit.
    #[arg(long, env = "CHILD_FILES", default_value = "0", value_name = "N")]
    pub child_files: String,
    /// Whether the kernel prevents a child from reading, tracing and signalling other children and the wrapper
    /// (Landlock and a system call filter). auto: if the kernel supports it. required: do not start if the
    /// kernel does not support it. off: never.
    #[arg(long, env = "CHILD_ISOLATION", default_value = "auto", value_name = "MODE")]
    pub child_isolation: String,
    /// Maximum number of lines from a child's standard error that are logged per second.
    #[arg(long, env = "STDERR_RATE", default_value = "100", value_name = "N")]
    pub stderr_rate: String,
    /// Time that a child has to exit after its input is closed, and again after SIGTERM.
    #[arg(long, env = "STOP_GRACE", default_value = "3s", value_name = "TIME")]
    pub stop_grace: String,

    /// Maximum number of sessions. auto means as many as fit into the memory and process limits of the
    /// container, or 100 if there are no limits.
    #[arg(long, env = "MAX_SESSIONS", default_value = "auto", value_name = "N")]
    pub max_sessions: String,
    /// Maximum number of sessions of one user. auto means half of all sessions, but at least 4; 0 means no
    /// limit.
    #[arg(long, env = "MAX_SESSIONS_PER_PRINCIPAL", default_value = "auto", value_name = "N")]
    pub max_sessions_per_principal: String,
    /// Maximum number of requests in progress in one session.
    #[arg(long, env = "MAX_IN_FLIGHT", default_value = "512", value_name = "N")]
    pub max_in_flight: String,
    /// A session ends when it has been unused for this long.
    #[arg(long, env = "SESSION_IDLE", default_value = "30m", value_name = "TIME")]
    pub session_idle: String,
    /// A request fails if the child sends neither a response nor progress for this long.
    #[arg(long, env = "REQUEST_TIMEOUT", default_value = "5m", value_name = "TIME")]
    pub request_timeout: String,
    /// How long a child can take to respond to initialize, counted from its start.
    #[arg(long, env = "START_TIMEOUT", default_value = "45s", value_name = "TIME")]
    pub start_timeout: String,
    /// Maximum number of children that are starting at the same time; auto means two for each processor.
    /// Further starts wait for their turn.
    #[arg(long, env = "MAX_STARTS", default_value = "auto", value_name = "N")]
    pub max_starts: String,
    /// Time after which the response to a call becomes an event stream. Before that, the client does not
    /// receive the response headers either, and some clients send no other request until then.
    #[arg(long, env = "STREAM_AFTER", default_value = "100ms", value_name = "TIME")]
    pub stream_after: String,
    /// Maximum age of a GET stream, after which the client must reconnect and is checked again.
    #[arg(long, env = "STREAM_MAX_AGE", default_value = "1h", value_name = "TIME")]
    pub stream_max_age: String,
    /// Translate between clients and servers of different eras.
    #[arg(long, env = "TRANSLATE", default_value = "true", num_args = 0..=1, default_missing_value = "true", value_name = "BOOL")]
    pub translate: String,
    /// Maximum number of server sessions that the stateless clients of one user can use for calls in which the
    /// server can ask questions. Each session has its own child. Clients with different capabilities do not
    /// share sessions, and each set of capabilities can always have one. With 1, all such calls with the same
    /// capabilities go to one child, one after the other.
    #[arg(long, env = "TRANSLATE_SESSIONS", default_value = "8", value_name = "COUNT")]
    pub translate_sessions: String,
    /// Maximum time for which a translated call waits for each response from its client. While a child waits for a
    /// response from its client, `REQUEST_TIMEOUT` is paused for at most this long.
    #[arg(long, env = "INPUT_TIMEOUT", default_value = "10m", value_name = "TIME")]
    pub input_timeout: String,
    /// How long a stream stays open after the expiry of the access token that was used to open it
    /// (IDENTITY=assertion).
    #[arg(long, env = "STREAM_GRACE", default_value = "60s", value_name = "TIME")]
    pub stream_grace: String,
    /// Time between two comment lines on a stream without messages.
    #[arg(long, env = "KEEP_ALIVE", default_value = "15s", value_name = "TIME")]
    pub keep_alive: String,
    /// Time that clients are told to wait before they reconnect.
    #[arg(long, env = "RETRY", default_value = "1s", value_name = "TIME")]
    pub retry: String,
    /// Maximum number of open client connections, including idle streams. Further connections wait until one is
    /// closed.
    #[arg(long, env = "MAX_CONNECTIONS", default_value = "10000", value_name = "N")]
    pub max_connections: String,
    /// Maximum size of a POST body.
    #[arg(long, env = "MAX_BODY", default_value = "4MiB", value_name = "SIZE")]
    pub max_body: String,
    /// Maximum length of a line from a child.
    #[arg(long, env = "MAX_LINE", default_value = "16MiB", value_name = "SIZE")]
    pub max_line: String,
    /// Maximum number of messages in a batch (2025-03-26 only).
    #[arg(long, env = "MAX_BATCH", default_value = "100", value_name = "N")]
    pub max_batch: String,
    /// Memory for events that are kept for clients that reconnect: for each stream, and for all finished
    /// streams of a session.
    #[arg(long, env = "EVENT_LOG", default_value = "1MiB", value_name = "SIZE")]
    pub event_log: String,
    /// Memory of each stateless child for lists that it allows to be cached (`ttlMs`); 0 disables the cache.
    #[arg(long, env = "LIST_CACHE", default_value = "8MiB", value_name = "SIZE")]
    pub list_cache: String,
    /// Maximum time for shutting down.
    #[arg(long, env = "SHUTDOWN_TIMEOUT", default_value = "10s", value_name = "TIME")]
    pub shutdown_timeout: String,

    /// Log level: error, warn, info, debug, or a tracing filter.
    #[arg(long, env = "LOG", default_value = "info", value_name = "FILTER")]
    pub log: String,
    /// Log format: text or json.
    #[arg(long, env = "LOG_FORMAT", default_value = "text", value_name = "FORMAT")]
    pub log_format: String,

    /// Ask the running wrapper at the same `OPS_LISTEN` whether it is healthy, and exit with 0 if it is, or
    /// with 1 otherwise. This is for the health check of a container and starts no MCP server.
    #[arg(long)]
    pub healthcheck: bool,

    /// The MCP server to run, after --.
    #[arg(last = true, value_name = "COMMAND")]
    pub command: Vec<String>,
}

impl Options {
    /// Returns a sentence for each environment variable whose name is almost that of an option, and that is not
    /// passed on to the child.
    pub fn misspelt(&self, given: impl Iterator<Item = String>) -> Vec<String> {
        self.compared(given, misspelt)
    }

    /// Returns a sentence for each environment variable that could be a misspelt option or a variable of
    /// another program.
    pub fn perhaps_misspelt(&self, given: impl Iterator<Item = String>) -> Vec<String> {
        self.compared(given, perhaps_misspelt)
    }

    fn compared(
        &self,
        given: impl Iterator<Item = String>,
        compare: impl Fn(&[&str], Vec<String>) -> Vec<Misspelt>,
    ) -> Vec<String> {
        let command = Self::command();
        let known: Vec<&str> =
            command.get_arguments().filter_map(|option| option.get_env()?.to_str()).collect();
        let given = given.filter(|name| !self.child_env.contains(name)).collect();
        compare(&known, given).iter().map(ToString::to_string).collect()
    }

    /// Parses the command line. If there is an error, prints it and exits.
    pub fn of_command_line() -> Self {
        Self::try_parse().unwrap_or_else(|mut error| {
            // The library suggests writing `-- WORD` only for words that begin with a hyphen.
            let word = match error.get(ContextKind::InvalidArg) {
                Some(ContextValue::String(word)) if !word.starts_with('-') => Some(word.clone()),
                _ => None,
            };
            if let (ErrorKind::UnknownArgument, Some(word)) = (error.kind(), word) {
                let advice =
                    format!("the command of the MCP server goes after --, like: stdio-wrapper -- {word}");
                error.insert(ContextKind::Suggested, ContextValue::StyledStrs(vec![advice.into()]));
            }
            error.exit()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_variable_that_is_almost_an_option_is_a_problem_unless_it_is_for_the_child() {
        let options = Options::parse_from(["stdio-wrapper", "--env", "REQUEST_TIMEOUTS", "--", "server"]);
        let given = ["REQUEST_TIMOUT", "REQUEST_TIMEOUT", "REQUEST_TIMEOUTS", "PATH"].map(str::to_owned);
        let problems = options.misspelt(given.into_iter());
        assert_eq!(problems, ["REQUEST_TIMOUT: there is no such setting. Did you mean REQUEST_TIMEOUT?"]);
        let given = ["ISSUR", "PATH"].map(str::to_owned);
        let doubts = options.perhaps_misspelt(given.into_iter());
        assert_eq!(doubts, ["ISSUR: there is no such setting. Did you mean ISSUER?"]);
    }

    #[test]
    fn other_letters_and_the_name_of_a_file_are_problems_because_the_option_would_be_ignored() {
        let options = Options::parse_from(["stdio-wrapper", "--", "server"]);
        for (given, meant) in [
            ("allowed_hosts", "ALLOWED_HOSTS"),
            ("Tool_Rules", "TOOL_RULES"),
            ("identity", "IDENTITY"),
            ("TOOL_RULES_FILE", "TOOL_RULES"),
            ("TOOL_RULE_FILE", "TOOL_RULES"),
        ] {
            let told = format!("{given}: there is no such setting. Did you mean {meant}?");
            assert_eq!(options.misspelt([given.to_owned()].into_iter()), [told]);
        }
        for (given, meant) in
            [("issuer", "ISSUER"), ("ISSUER_FILE", "ISSUER"), ("GROUPS_ORDER", "GROUP_ORDER")]
        {
            let told = format!("{given}: there is no such setting. Did you mean {meant}?");
            let both = [
                options.misspelt([given.to_owned()].into_iter()),
                options.perhaps_misspelt([given.to_owned()].into_iter()),
            ];
            assert_eq!(both.concat(), [told]);
        }
        let others = [
            "HOSTNAME",
            "HTTP_PROXY",
            "http_proxy",
            "KUBERNETES_SERVICE_HOST",
            "LANG",
            "LOG_FILE",
            "LOG_LEVEL",
            "NODE_ENV",
            "PATH",
            "SSL_CERT_FILE",
            "EDGE_SECRET",
            "STORE_KEY_FILE",
            "TRUSTED_PROXIES",
        ];
        let others = || others.map(str::to_owned).into_iter();
        assert_eq!([options.misspelt(others()), options.perhaps_misspelt(others())].concat(), [""; 0]);
    }
}
