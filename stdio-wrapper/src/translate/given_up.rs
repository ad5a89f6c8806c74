//! A call that nobody waits for any more, although its child may still work on it: not every server stops when it is told,
//! and a question on standard output names no call. What such a call asks must not be put to the user of another one.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::group::{Group, Lease, Seat, take};
use super::questions::Question;
use crate::protocol::{Kind, parse_line};
use crate::stream::{Consumer, Next};

/// Calls of one session that are waited for after they were given up. More than that are told to the child and forgotten;
/// the session is in doubt all the same.
const MAX_FOLLOWED: usize = 64;

/// Such a call. While it exists, questions of its session are refused.
#[derive(Debug)]
pub(super) struct GivenUp {
    seat: Arc<Seat>,
    group: Arc<Group>,
    /// Its id in the session.
    number: u64,
    is_followed: bool,
}

impl GivenUp {
    /// Only a call that may ask puts its session in doubt.
    pub(super) fn new(lease: &Lease, group: &Arc<Group>, number: u64) -> Self {
        let (seat, group) = (Arc::clone(&lease.seat), Arc::clone(group));
        let is_followed = lease.is_exclusive && seat.given_up.load(Ordering::Acquire) < MAX_FOLLOWED;
        if is_followed {
            seat.given_up.fetch_add(1, Ordering::AcqRel);
        }
        Self { seat, group, number, is_followed }
    }

    /// Tells the child, and waits until it has answered all the same or the request is out of time.
    pub(super) async fn follow(self, open: Vec<Question>, consumer: Consumer) {
        let number = self.number;
        if !self.is_followed {
            self.seat.cancel(number, "the client has gone").await;
            return self.seat.refuse(open).await;
        }
        self.seat.session.abandon(&number.to_string()).await;
        self.seat.refuse(open).await;
        loop {
            match consumer.next() {
                Next::Event(_, text) => {
                    let text = text.into_bytes();
                    let Ok(message) = parse_line(&text) else { continue };
                    if matches!(message.kind, Kind::Response { .. }) {
                        return;
                    }
                    take(&self.group, &self.seat, &message).await;
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
            self.seat.given_up.fetch_sub(1, Ordering::AcqRel);
            self.group.freed.notify_one();
        }
    }
}
