//! Log lines about checks that are refused before they are decided: usually because of a mistake in the
//! configuration of an edge proxy, or because somebody else than the edge sends checks.

use std::net::IpAddr;
use std::sync::LazyLock;

use crate::guard::log_rate::LogRate;

use super::answer::Answer;
use super::outcome::Outcome;

/// Rate limits of the log lines. Any client of the edge can cause the first kind with a single request. These must
/// not suppress the lines about senders that are not the edge. The metrics count every refusal.
static OF_CLIENTS: LazyLock<LogRate> = LazyLock::new(LogRate::default);
static OF_STRANGERS: LazyLock<LogRate> = LazyLock::new(LogRate::default);

/// Maximum number of bytes of a host that are logged. This is the longest name in the DNS (RFC 1035 §2.3.4).
const MAX_HOST_LEN: usize = 255;

/// The sender of a check, and the host that its request is for.
pub(super) struct RefusedCheck<'a> {
    pub(super) peer: Option<IpAddr>,
    /// As it was sent. It can be anything.
    pub(super) host: Option<&'a [u8]>,
}

impl RefusedCheck<'_> {
    /// Logs the reason of a refusal, if the answer is one.
    pub(super) fn log(&self, answer: &Answer) {
        let Some(reason) = &answer.refusal else { return };
        let rate = if answer.outcome == Outcome::Untrusted { &OF_STRANGERS } else { &OF_CLIENTS };
        if let Some(left_out) = rate.admit() {
            let host = self
                .host
                .map(|host| String::from_utf8_lossy(host.get(..MAX_HOST_LEN).unwrap_or(host)).into_owned());
            let (peer, host) = (self.peer.map(tracing::field::display), host.as_deref());
            tracing::warn!(reason, host, peer, left_out, "a check was refused");
        }
    }
}
