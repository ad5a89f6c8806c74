//! Plain counters that every room may add to; the ops room prints them.

use std::sync::atomic::{AtomicU64, Ordering};

/// One number that only grows, or a gauge when both `add` and `sub` are used.
#[derive(Debug, Default)]
pub struct Number(AtomicU64);

impl Number {
    /// Adds one.
    pub fn add(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// Takes one away (gauges).
    pub fn sub(&self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }

    /// Adds several.
    pub fn add_many(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    /// The value now.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

macro_rules! numbers {
    ($($(#[doc = $doc:literal])+ $kind:literal $name:ident,)+) => {
        /// Every number of the wrapper. Field docs are the help texts of `/metrics`.
        #[derive(Debug, Default)]
        pub struct Metrics {
            $($(#[doc = $doc])+ pub $name: Number,)+
        }

        impl Metrics {
            /// Name, kind, help and value of each.
            pub fn all(&self) -> Vec<(&'static str, &'static str, &'static str, u64)> {
                vec![$((stringify!($name), $kind, concat!($($doc),+), self.$name.get()),)+]
            }
        }
    };
}

numbers! {
    /// HTTP requests to the MCP endpoints.
    "counter" http_requests_total,
    /// HTTP requests answered with a status of 400 or more.
    "counter" http_refused_total,
    /// JSON-RPC requests handed to a child.
    "counter" requests_total,
    /// JSON-RPC requests that the wrapper had to answer with an error of its own.
    "counter" requests_failed_total,
    /// JSON-RPC requests that ran out of time.
    "counter" requests_timed_out_total,
    /// Requests of the stateless revision whose client went away before the answer.
    "counter" requests_cancelled_total,
    /// Requests for lists answered with what the child has said may be said again.
    "counter" list_cache_hits_total,
    /// Requests for lists that went to the child.
    "counter" list_cache_misses_total,
    /// JSON-RPC requests waiting for a child now.
    "gauge" requests_in_flight,
    /// tools/call requests refused by a tool rule.
    "counter" tool_calls_refused_total,
    /// Sessions opened.
    "counter" sessions_opened_total,
    /// Sessions refused by a ceiling or during back-off.
    "counter" sessions_refused_total,
    /// Sessions ended because nobody used them.
    "counter" sessions_reaped_total,
    /// Sessions now.
    "gauge" sessions,
    /// SSE streams open now.
    "gauge" streams,
    /// Streams cut because the client did not read.
    "counter" streams_cut_total,
    /// Streams resumed with Last-Event-ID.
    "counter" streams_resumed_total,
    /// Children started.
    "counter" children_started_total,
    /// Children that could not be started.
    "counter" children_failed_total,
    /// Children that ended although nobody asked them to.
    "counter" children_crashed_total,
    /// Children that had to be killed after the grace period.
    "counter" children_killed_total,
    /// Processes that children left behind and that were killed.
    "counter" orphans_killed_total,
    /// Children now, spares included.
    "gauge" children,
    /// Lines on a child's standard output that are no MCP message.
    "counter" child_junk_lines_total,
    /// Lines on a child's standard output over the size limit.
    "counter" child_oversized_lines_total,
    /// Messages from a child that belong to no caller and were dropped.
    "counter" child_messages_dropped_total,
    /// Lines on a child's standard error that the rate limit kept out of the log.
    "counter" child_stderr_suppressed_total,
}
