//! A call that its client has abandoned, although the child might still be processing it. Some servers continue
//! after a cancellation, and a question on standard output does not identify its call. A question of an
//! abandoned call must not be sent to the user of another call.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::group::{Group, Lease, PooledSession, take};
use super::questions::Question;
use crate::conversation::parsed;
use crate::stream::{Consumer, Next};

/// Maximum number of abandoned calls of one session that are followed until they end. Further calls are only
/// cancelled in the child. The session counts as doubtful in any case.
const MAX_FOLLOWED: usize = 64;

/// An abandoned call. While it exists, questions in its session are refused.
#[derive(Debug)]
pub(super) struct GivenUp {
    pooled: Arc<PooledSession>,
    group: Arc<Group>,
    /// The id of the call in the session.
    number: u64,
    is_followed: bool,
}

impl GivenUp {
    /// Creates the record for a call that uses `lease`. It is followed only if the call might ask questions,
    /// because other calls do not make the session doubtful.
    pub(super) fn new(lease: &Lease, group: &Arc<Group>, number: u64) -> Self {
        let (pooled, group) = (Arc::clone(&lease.pooled), Arc::clone(group));
        let is_followed = lease.is_exclusive && pooled.given_up.load(Ordering::Acquire) < MAX_FOLLOWED;
        if is_followed {
            pooled.given_up.fetch_add(1, Ordering::AcqRel);
        }
        Self { pooled, group, number, is_followed }
    }

    /// Cancels the call in the child. Then waits until the child responds anyway, or until the request times
    /// out.
    pub(super) async fn follow(self, open: Vec<Question>, consumer: Consumer) {
        let number = self.number;
        if !self.is_followed {
            self.pooled.cancel(number, "the client has disconnected").await;
            return self.pooled.refuse(open).await;
        }
        self.pooled.session.abandon(&number.to_string()).await;
        self.pooled.refuse(open).await;
        loop {
            match consumer.next() {
                Next::Event(_, text) => {
                    let owner = &self.pooled.session.owner;
                    let Some(parsed) = parsed(&self.group.offload, owner, text).await else { continue };
                    if parsed.1.is_response() {
                        return;
                    }
                    take(&self.group, &self.pooled, parsed).await;
                }
                Next::End => return,
                Next::Wait => consumer.stream().changed().await,
            }
        }
    }
}

impl Drop for GivenUp {
    fn drop(&mut self) {
        if self.is_followed {
            self.pooled.given_up.fetch_sub(1, Ordering::AcqRel);
            self.group.freed.notify_one();
        }
    }
}
