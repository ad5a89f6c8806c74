//! The command line: the name, type, range, default and meaning of each option. `read` checks the options against each
//! other.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{CommandFactory as _, Parser, ValueEnum};
use clap_complete::Shell;
use contract::log_filter::LogFilter;
use contract::settings::{Misspelt, Names, misspelt, perhaps_misspelt};

use super::Isolation;
use super::given::{Given, choice};
use super::types::{
    Address, address, boolean, endpoint_path, hosts, list, log_filter, number, number_or_auto, origins, path,
    size, size_or_zero, text, time, url,
};

/// Smallest value of `CHILD_MEMORY`, in bytes. With less, not even the libraries of a program can be loaded. A signal
/// then ends the program, and does not show the cause.
const MIN_CHILD_MEMORY: u64 = 16 << 20;

/// The first words of environment variables that are meant for the wrapper. A variable for the child must be named
/// with --env, so a name with such words is no variable of the child.
const PREFIXES: &[&str] = &["ALLOWED", "CHILD", "MAX_SESSIONS", "TOOL_RULES", "TRANSLATE"];

/// The settings of auth-service that begin with these words.
const OF_AUTH_SERVICE: &[&str] = &["ALLOWED_EMAIL_DOMAINS", "ALLOWED_GROUPS", "ALLOWED_USERS"];

const fn ms(count: u64) -> Duration {
    Duration::from_millis(count)
}

const fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

const fn hours(count: u64) -> Duration {
    seconds(count * 3600)
}

/// How callers are identified.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum IdentityMode {
    /// Callers are not distinguished.
    #[default]
    None,
    /// X-Auth-* headers, which the edge sets.
    Headers,
    /// The signed X-Auth-Assertion.
    Assertion,
}

/// The format of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum LogFormat {
    /// Text for human readers.
    #[default]
    Text,
    /// One JSON object in each line.
    Json,
}

/// Serves an MCP server that uses standard input and output over Streamable HTTP.
///
/// Every option can also be set with the environment variable in its description. The command line takes
/// precedence. Times and sizes have a unit (500ms, 30s, 5m, 1h; 64KiB, 16MiB).
#[derive(Debug, Clone, Parser)]
#[command(version, max_term_width = 110, args_override_self = true)]
pub struct Options {
    /// Address and port for MCP clients.
    #[arg(long, env = "LISTEN", default_value = "127.0.0.1:8080", value_name = "ADDR:PORT", value_parser = address(8080))]
    pub listen: Given<SocketAddr>,
    /// Address and port for /health, /ready and /metrics.
    #[arg(long, env = "OPS_LISTEN", default_value = "127.0.0.1:8081", value_name = "ADDR:PORT", value_parser = address(8081))]
    pub ops_listen: Given<SocketAddr>,
    /// Path of the MCP endpoint.
    #[arg(long, env = "MCP_PATH", default_value = "/mcp", value_name = "PATH", value_parser = endpoint_path())]
    pub mcp_path: Given<String>,
    /// Number of threads that serve HTTP. 0 means one fewer than the number of processors, but at least 1 and
    /// at most 4.
    #[arg(long, env = "WORKERS", default_value = "0", value_name = "N", value_parser = number::<usize>(0..=256))]
    pub workers: Given<usize>,
    /// Also serve the deprecated 2024-11-05 endpoints GET /sse and POST /messages.
    #[arg(long, env = "LEGACY_SSE", default_value = "false", num_args = 0..=1, default_missing_value = "true", value_name = "BOOL", value_parser = boolean())]
    pub legacy_sse: Given<bool>,

    /// Host names that are allowed in the Host header, comma-separated and without port; * allows any. The
    /// default is the loopback names if LISTEN is a loopback address, and otherwise any name.
    #[arg(long, env = "ALLOWED_HOSTS", default_value = "", hide_default_value = true, value_name = "LIST", value_parser = hosts())]
    pub allowed_hosts: Given<Vec<String>>,
    /// Origins of browser clients that are allowed, comma-separated (<https://app.example.com>), or none. Loopback
    /// origins are always allowed if LISTEN is a loopback address. The default is none.
    #[arg(long, env = "ALLOWED_ORIGINS", default_value = "", hide_default_value = true, value_name = "LIST", value_parser = origins())]
    pub allowed_origins: Given<Vec<String>>,

    /// How callers are identified.
    #[arg(long, env = "IDENTITY", default_value = "none", value_name = "MODE", value_parser = choice::<IdentityMode>())]
    pub identity: Given<IdentityMode>,
    /// URL of the signing keys for IDENTITY=assertion.
    #[arg(long, env = "JWKS_URL", default_value = "", hide_default_value = true, value_name = "URL", value_parser = url())]
    pub jwks_url: Given<Option<Address>>,
    /// Issuer that assertions must have.
    #[arg(long, env = "ISSUER", default_value = "", hide_default_value = true, value_name = "URL", value_parser = url())]
    pub issuer: Given<Option<Address>>,
    /// This server's resource identifier (RFC 8707), which must be the audience of assertions:
    /// <https://host/path>.
    #[arg(long, env = "RESOURCE", default_value = "", hide_default_value = true, value_name = "URL", value_parser = url())]
    pub resource: Given<Option<Address>>,
    /// TOML file with the scopes and groups that tools require.
    #[arg(long, env = "TOOL_RULES", default_value = "", hide_default_value = true, value_name = "FILE", value_parser = path())]
    pub tool_rules: Given<Option<PathBuf>>,
    /// Groups that can replace {group}, comma-separated. The first one that the caller belongs to is used.
    /// The default is the caller's only group.
    #[arg(
        long = "group-order",
        env = "GROUP_ORDER",
        default_value = "",
        hide_default_value = true,
        value_name = "LIST", value_parser = list())]
    pub group_order: Given<Vec<String>>,

    /// Use one child for all sessions, for servers that keep no state.
    #[arg(long, env = "SHARED", default_value = "false", num_args = 0..=1, default_missing_value = "true", value_name = "BOOL", value_parser = boolean())]
    pub shared: Given<bool>,
    /// Number of children that are started in advance, so that a new session does not have to wait for one.
    #[arg(long, env = "PREWARM", default_value = "0", value_name = "N", value_parser = number::<usize>(0..=1000))]
    pub prewarm: Given<usize>,
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
        value_name = "DIR", value_parser = text())]
    pub child_cwd: Given<Option<String>>,
    /// Limit for a child's address space, at least 16MiB; 0 means no limit. Node and Java reserve much more than
    /// they use.
    #[arg(long, env = "CHILD_MEMORY", default_value = "0", value_name = "SIZE", value_parser = size_or_zero(MIN_CHILD_MEMORY, 1 << 50))]
    pub child_memory: Given<u64>,
    /// Limit for a child's processor time in seconds; 0 means no limit.
    #[arg(long, env = "CHILD_CPU", default_value = "0", value_name = "SECONDS", value_parser = number::<u64>(0..=u64::from(u32::MAX)))]
    pub child_cpu: Given<u64>,
    /// Limit for the number of processes of the child's user (the kernel does not apply it to root); 0 means no
    /// limit.
    #[arg(long, env = "CHILD_PROCESSES", default_value = "0", value_name = "N", value_parser = number::<u64>(0..=1 << 22))]
    pub child_processes: Given<u64>,
    /// Limit for the number of a child's open files; 0 means no limit.
    #[arg(long, env = "CHILD_FILES", default_value = "0", value_name = "N", value_parser = number::<u64>(0..=1 << 20))]
    pub child_files: Given<u64>,
    /// Whether the kernel prevents a child from reading, tracing and signalling other children and the wrapper
    /// (Landlock and a system call filter).
    #[arg(long, env = "CHILD_ISOLATION", default_value = "auto", value_name = "MODE", value_parser = choice::<Isolation>())]
    pub child_isolation: Given<Isolation>,
    /// Maximum number of lines from a child's standard error that are logged per second.
    #[arg(long, env = "STDERR_RATE", default_value = "100", value_name = "N", value_parser = number::<u32>(0..=100_000))]
    pub stderr_rate: Given<u32>,
    /// Time that a child has to exit after its input is closed, and again after SIGTERM.
    #[arg(long, env = "STOP_GRACE", default_value = "3s", value_name = "TIME", value_parser = time(Duration::ZERO..=seconds(300)))]
    pub stop_grace: Given<Duration>,

    /// Maximum number of sessions. auto means as many as fit into the memory and process limits of the
    /// container, or 100 if there are no limits.
    #[arg(long, env = "MAX_SESSIONS", default_value = "auto", value_name = "N", value_parser = number_or_auto(1..=1_000_000))]
    pub max_sessions: Given<Option<usize>>,
    /// Maximum number of sessions of one user. auto means half of all sessions, but at least 4; 0 means no
    /// limit.
    #[arg(long, env = "MAX_SESSIONS_PER_PRINCIPAL", default_value = "auto", value_name = "N", value_parser = number_or_auto(0..=1_000_000))]
    pub max_sessions_per_principal: Given<Option<usize>>,
    /// Maximum number of requests in progress in one session.
    #[arg(long, env = "MAX_IN_FLIGHT", default_value = "512", value_name = "N", value_parser = number::<usize>(1..=1_000_000))]
    pub max_in_flight: Given<usize>,
    /// A session ends when it has been unused for this long.
    #[arg(long, env = "SESSION_IDLE", default_value = "30m", value_name = "TIME", value_parser = time(ms(100)..=hours(24 * 30)))]
    pub session_idle: Given<Duration>,
    /// A request fails if the child sends neither a response nor progress for this long.
    #[arg(long, env = "REQUEST_TIMEOUT", default_value = "5m", value_name = "TIME", value_parser = time(ms(100)..=hours(24)))]
    pub request_timeout: Given<Duration>,
    /// How long a child can take to respond to initialize, counted from its start.
    #[arg(long, env = "START_TIMEOUT", default_value = "45s", value_name = "TIME", value_parser = time(ms(100)..=hours(1)))]
    pub start_timeout: Given<Duration>,
    /// Maximum number of children that are starting at the same time; auto means two for each processor.
    /// Further starts wait for their turn.
    #[arg(long, env = "MAX_STARTS", default_value = "auto", value_name = "N", value_parser = number_or_auto(1..=1000))]
    pub max_starts: Given<Option<usize>>,
    /// Time after which the response to a call becomes an event stream. Before that, the client does not
    /// receive the response headers either, and some clients send no other request until then.
    #[arg(long, env = "STREAM_AFTER", default_value = "100ms", value_name = "TIME", value_parser = time(ms(1)..=hours(1)))]
    pub stream_after: Given<Duration>,
    /// Maximum age of a GET stream, after which the client must reconnect and is checked again.
    #[arg(long, env = "STREAM_MAX_AGE", default_value = "1h", value_name = "TIME", value_parser = time(ms(100)..=hours(24 * 30)))]
    pub stream_max_age: Given<Duration>,
    /// Translate between clients and servers of different eras.
    #[arg(long, env = "TRANSLATE", default_value = "true", num_args = 0..=1, default_missing_value = "true", value_name = "BOOL", value_parser = boolean())]
    pub translate: Given<bool>,
    /// Maximum number of server sessions that the stateless clients of one user can use for calls in which the
    /// server can ask questions. Each session has its own child. Clients with different capabilities do not
    /// share sessions, and each set of capabilities can always have one. With 1, all such calls with the same
    /// capabilities go to one child, one after the other.
    #[arg(long, env = "TRANSLATE_SESSIONS", default_value = "8", value_name = "COUNT", value_parser = number::<usize>(1..=1000))]
    pub translate_sessions: Given<usize>,
    /// Maximum time for which a translated call waits for each response from its client. While a child waits for a
    /// response from its client, `REQUEST_TIMEOUT` is paused for at most this long.
    #[arg(long, env = "INPUT_TIMEOUT", default_value = "10m", value_name = "TIME", value_parser = time(ms(100)..=hours(24)))]
    pub input_timeout: Given<Duration>,
    /// How long a stream stays open after the expiry of the access token that was used to open it
    /// (IDENTITY=assertion).
    #[arg(long, env = "STREAM_GRACE", default_value = "60s", value_name = "TIME", value_parser = time(Duration::ZERO..=hours(24)))]
    pub stream_grace: Given<Duration>,
    /// Time between two comment lines on a stream without messages.
    #[arg(long, env = "KEEP_ALIVE", default_value = "15s", value_name = "TIME", value_parser = time(ms(100)..=hours(1)))]
    pub keep_alive: Given<Duration>,
    /// Time that clients are told to wait before they reconnect.
    #[arg(long, env = "RETRY", default_value = "1s", value_name = "TIME", value_parser = time(ms(1)..=hours(1)))]
    pub retry: Given<Duration>,
    /// Maximum number of open client connections, including idle streams. Further connections wait until one is
    /// closed.
    #[arg(long, env = "MAX_CONNECTIONS", default_value = "10000", value_name = "N", value_parser = number::<usize>(10..=1_000_000))]
    pub max_connections: Given<usize>,
    /// Maximum size of a POST body.
    #[arg(long, env = "MAX_BODY", default_value = "4MiB", value_name = "SIZE", value_parser = size::<usize>(1024..=1 << 30))]
    pub max_body: Given<usize>,
    /// Maximum length of a line from a child.
    #[arg(long, env = "MAX_LINE", default_value = "16MiB", value_name = "SIZE", value_parser = size::<usize>(1024..=1 << 30))]
    pub max_line: Given<usize>,
    /// Maximum number of messages in a batch (2025-03-26 only).
    #[arg(long, env = "MAX_BATCH", default_value = "100", value_name = "N", value_parser = number::<usize>(1..=10_000))]
    pub max_batch: Given<usize>,
    /// Memory for events that are kept for clients that reconnect: for each stream, and for all finished
    /// streams of a session.
    #[arg(long, env = "EVENT_LOG", default_value = "1MiB", value_name = "SIZE", value_parser = size::<usize>(0..=1 << 30))]
    pub event_log: Given<usize>,
    /// Memory of each stateless child for lists that it allows to be cached (`ttlMs`); 0 disables the cache.
    #[arg(long, env = "LIST_CACHE", default_value = "8MiB", value_name = "SIZE", value_parser = size::<usize>(0..=1 << 30))]
    pub list_cache: Given<usize>,
    /// Maximum time for shutting down.
    #[arg(long, env = "SHUTDOWN_TIMEOUT", default_value = "10s", value_name = "TIME", value_parser = time(Duration::ZERO..=hours(1)))]
    pub shutdown_timeout: Given<Duration>,

    /// Log level: error, warn, info, debug, or a tracing filter.
    #[arg(long, env = "LOG", default_value = "info", value_name = "FILTER", value_parser = log_filter())]
    pub log: Given<Option<LogFilter>>,
    /// Log format.
    #[arg(long, env = "LOG_FORMAT", default_value = "text", value_name = "FORMAT", value_parser = choice::<LogFormat>())]
    pub log_format: Given<LogFormat>,

    /// Ask the running wrapper at the same `OPS_LISTEN` whether it is healthy, and exit with 0 if it is, or
    /// with 1 otherwise. This is for the health check of a container and starts no MCP server.
    #[arg(long)]
    pub healthcheck: bool,

    /// Print a completion script for this shell, and exit.
    #[arg(long, value_name = "SHELL")]
    pub completions: Option<Shell>,

    /// Print the manual page, and exit.
    #[arg(long)]
    pub man: bool,

    /// The MCP server to run, after --.
    #[arg(last = true, value_name = "COMMAND")]
    pub command: Vec<String>,
}

impl Options {
    /// Returns a sentence for each environment variable that was meant as an option but is none, and that is not
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
        compare: impl Fn(&Names<'_>, Vec<String>) -> Vec<Misspelt>,
    ) -> Vec<String> {
        let command = Self::command();
        let known: Vec<&str> =
            command.get_arguments().filter_map(|option| option.get_env()?.to_str()).collect();
        let given = given.filter(|name| !self.child_env.contains(name)).collect();
        let names = Names { known: &known, prefixes: PREFIXES, others: OF_AUTH_SERVICE };
        compare(&names, given).iter().map(ToString::to_string).collect()
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
            ("ALLOWED_SITES", "ALLOWED_HOSTS or ALLOWED_ORIGINS"),
            (
                "CHILD_RAM",
                "CHILD_ENV or CHILD_CWD or CHILD_MEMORY or CHILD_CPU or CHILD_PROCESSES or CHILD_FILES or CHILD_ISOLATION",
            ),
            ("STDIO_WRAPPER_IDENTITY", "IDENTITY"),
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
            "ALLOWED_GROUPS",
            "ALLOWED_USERS_FILE",
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
