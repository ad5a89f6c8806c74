//! Log lines about refused requests for which the operator might have to change something. Their rate is limited,
//! because a refused client might retry any number of times.

use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};

use tokio::time::Instant;

use crate::child::{Pass, RateLimit};
use crate::identity::{Caller, Refused};

/// Maximum number of lines per second about callers that cannot be identified.
const CALLERS_RATE: u32 = 1;
/// Maximum number of lines per second about calls that the tool rules refuse.
const CALLS_RATE: u32 = 5;
/// Maximum number of characters of a name from a client that are logged.
const SHOWN: usize = 128;

/// Logs refused requests. Each kind has its own limit, so that strangers cannot suppress lines about users.
#[derive(Debug)]
pub(super) struct RefusalLog {
    callers: Mutex<RateLimit>,
    calls: Mutex<RateLimit>,
}

impl RefusalLog {
    pub(super) fn new() -> Self {
        let limit = |rate| Mutex::new(RateLimit::new(rate, Instant::now()));
        Self { callers: limit(CALLERS_RATE), calls: limit(CALLS_RATE) }
    }

    /// Logs why a caller could not be identified.
    pub(super) fn caller(&self, refused: &Refused, peer: Option<SocketAddr>) {
        // These reasons have their own log lines, which say more.
        if matches!(refused, Refused::Early(_) | Refused::Late(_) | Refused::Unavailable) {
            return;
        }
        let Pass::Yes { suppressed } = take(&self.callers) else { return };
        let left_out = nonzero(suppressed);
        let peer = peer.map(|peer| tracing::field::display(peer.ip()));
        tracing::warn!(why = %refused, peer, left_out, "a request was refused, because its caller is not identified");
    }

    /// Logs why the rules refuse a message. `tool` is the name of the tool, if the message is a call.
    pub(super) fn call(&self, caller: &Caller, method: &str, tool: Option<&str>, why: &str) {
        let Pass::Yes { suppressed } = take(&self.calls) else { return };
        let left_out = nonzero(suppressed);
        let user = if caller.username.is_empty() { &caller.subject } else { &caller.username };
        // Method and tool are fields, which are escaped, because clients choose them.
        let (method, tool) = (shown(method), tool.map(shown));
        tracing::info!(
            user,
            client = caller.client_id,
            method,
            tool,
            why,
            left_out,
            "a call was refused by the rules"
        );
    }
}

fn take(limit: &Mutex<RateLimit>) -> Pass {
    limit.lock().unwrap_or_else(PoisonError::into_inner).take(Instant::now())
}

fn nonzero(count: u64) -> Option<u64> {
    (count > 0).then_some(count)
}

fn shown(name: &str) -> &str {
    name.char_indices().nth(SHOWN).map_or(name, |(end, _)| name.get(..end).unwrap_or_default())
}
