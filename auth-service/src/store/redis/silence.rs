//! The periods in which a Redis server does not respond. The other nodes of a cluster can respond in the meantime, so
//! each silent server is asked until it responds.

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use crate::domain::replaced_token::Grace;
use crate::store::outage::Outages;

/// The interval at which silent servers are asked.
const RETRY: Duration = Duration::from_millis(250);
/// Maximum number of slots that are asked. Several of them can belong to the same server. Further slots that are
/// still silent are added as soon as others have responded.
const MAX_SLOTS: usize = 16;

/// The most recent outages, and the slots whose servers are currently silent.
#[derive(Default)]
pub(super) struct Silence {
    outages: Outages,
    slots: Mutex<BTreeSet<u16>>,
    begun: Notify,
}

impl Silence {
    /// Records that the server of this slot did not respond to a command that was sent at `from`.
    pub(super) fn noticed(&self, slot: u16, from: Instant) {
        let mut slots = self.slots();
        if slots.len() < MAX_SLOTS {
            slots.insert(slot);
        }
        self.outages.failed(from);
        self.begun.notify_one();
    }

    /// Waits until a server is silent and the next attempt is due. Returns the silent slots.
    pub(super) async fn next_try(&self) -> Vec<u16> {
        loop {
            let slots: Vec<_> = self.slots().iter().copied().collect();
            if !slots.is_empty() {
                tokio::time::sleep(RETRY).await;
                return slots;
            }
            self.begun.notified().await;
        }
    }

    /// Records that the server of this slot responded.
    pub(super) fn ended(&self, slot: u16) {
        let mut slots = self.slots();
        slots.remove(&slot);
        if slots.is_empty() {
            self.outages.succeeded();
        }
    }

    /// The danger that operators should know of, if a server of a cluster is silent.
    pub(super) fn danger(&self) -> Option<&'static str> {
        (!self.slots().is_empty()).then_some(
            "a server of the Redis cluster does not respond: every request that needs a row on it gets 503. Start this \
             server, or let a replica take its place",
        )
    }

    /// The grace period of refresh tokens, with the recent outages of all servers, which do not count.
    pub(super) fn grace(&self, period: Duration) -> Grace {
        self.outages.grace(period)
    }

    fn slots(&self) -> MutexGuard<'_, BTreeSet<u16>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_outage_lasts_until_every_silent_server_responds() {
        let (silence, second) = (Silence::default(), Duration::from_secs(1));
        let Some(from) = Instant::now().checked_sub(second * 30) else { return };
        silence.noticed(7, from);
        silence.noticed(9, from + second);
        assert_eq!(silence.next_try().await, [7, 9]);
        silence.ended(7);
        assert_eq!(silence.next_try().await, [9]);
        assert!(silence.danger().is_some());
        let before = Instant::now();
        silence.ended(9);
        assert_eq!(silence.danger(), None);
        let outage = *silence.grace(second).outages.last().unwrap();
        assert!(outage.began >= second * 30 && outage.ended <= before.elapsed(), "{outage:?}");
        for slot in 0..16384 {
            silence.noticed(slot, Instant::now());
        }
        assert_eq!(silence.next_try().await.len(), MAX_SLOTS);
    }
}
