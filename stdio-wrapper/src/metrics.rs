//! Simple counters that every module can change. `ops` prints them.

use std::sync::atomic::{AtomicU64, Ordering};

/// A counter, or a gauge if both `add` and `sub` are used.
#[derive(Debug, Default)]
pub struct Number(AtomicU64);

impl Number {
    /// Adds one to the value.
    pub fn add(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// Subtracts one (gauges only).
    pub fn sub(&self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }

    /// Adds `count` to the value.
    pub fn add_many(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    /// The current value. Values of different metrics are not read at the same moment.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

macro_rules! numbers {
    ($($(#[doc = $doc:literal])+ $kind:literal $name:ident,)+) => {
        /// All metrics of the wrapper. The doc comment of a field is its help text in `/metrics`.
        #[derive(Debug, Default)]
        pub struct Metrics {
            $($(#[doc = $doc])+ pub $name: Number,)+
        }

        impl Metrics {
            /// The name, type, help text and value of each metric.
            pub fn all(&self) -> Vec<(&'static str, &'static str, &'static str, u64)> {
                vec![$((stringify!($name), $kind, concat!($($doc),+), self.$name.get()),)+]
            }
        }
    };
}

numbers! {
    /// HTTP requests to the MCP endpoints.
    "counter" http_requests_total,
    /// HTTP requests that got a response with a status of 400 or more.
    "counter" http_refused_total,
    /// JSON-RPC requests that were sent to a child.
    "counter" requests_total,
    /// JSON-RPC requests to which the wrapper responded with its own error.
    "counter" requests_failed_total,
    /// JSON-RPC requests that timed out.
    "counter" requests_timed_out_total,
    /// Requests in the stateless revision whose client disconnected before the response.
    "counter" requests_cancelled_total,
    /// Requests for lists that were answered from the cache.
    "counter" list_cache_hits_total,
    /// Requests for lists that were sent to the child.
    "counter" list_cache_misses_total,
    /// JSON-RPC requests waiting for a child.
    "gauge" requests_in_flight,
    /// tools/call requests refused by a tool rule.
    "counter" tool_calls_refused_total,
    /// Sessions that were opened.
    "counter" sessions_opened_total,
    /// Sessions that were refused because of a limit or a back-off.
    "counter" sessions_refused_total,
    /// Sessions that were ended because they were unused.
    "counter" sessions_reaped_total,
    /// Number of open sessions.
    "gauge" sessions,
    /// Number of open SSE streams.
    "gauge" streams,
    /// Streams that were cut because the client did not read.
    "counter" streams_cut_total,
    /// Streams that were resumed with Last-Event-ID.
    "counter" streams_resumed_total,
    /// Children that were started.
    "counter" children_started_total,
    /// Children that could not be started.
    "counter" children_failed_total,
    /// Children that exited without being stopped by the wrapper.
    "counter" children_crashed_total,
    /// Children that had to be killed after the grace period.
    "counter" children_killed_total,
    /// Children that were stopped because they used most of the memory of the container.
    "counter" children_ended_for_memory_total,
    /// Children that were stopped because they used most of the processes of the container.
    "counter" children_ended_for_processes_total,
    /// Children that were stopped because they used most of the epoll watches of the machine.
    "counter" children_ended_for_watches_total,
    /// Processes that children left behind and that were killed.
    "counter" orphans_killed_total,
    /// Starts of children waiting for a slot.
    "gauge" starts_waiting,
    /// Running children, including spares.
    "gauge" children,
    /// Lines on a child's standard output that are not MCP messages.
    "counter" child_junk_lines_total,
    /// Lines on a child's standard output that exceed the size limit.
    "counter" child_oversized_lines_total,
    /// Messages from a child that belonged to no caller and were dropped.
    "counter" child_messages_dropped_total,
    /// Lines on a child's standard error that were not logged because of the rate limit.
    "counter" child_stderr_suppressed_total,
}
