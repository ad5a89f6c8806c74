//! The entries of the writer's queue.

use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::store::StoreError;

use super::super::writable::Writable;

/// A queued write. It can run more than once: if one write makes its transaction fail, the others are run
/// again.
pub(super) trait QueuedWrite: Send {
    fn run(&mut self, rows: &Writable<'_>) -> Result<(), StoreError>;
    /// Whether the rows of this write take access away, for example by disabling an account.
    fn takes_away(&self) -> bool;
    /// Whether this write must no longer be made, because its caller has stopped waiting.
    fn is_late(&self) -> bool {
        self.given_up().is_some()
    }
    /// If the caller of a [`Kind::InTime`] write has stopped waiting, the time at which it began to wait.
    fn given_up(&self) -> Option<std::time::Instant>;
    fn finish(self: Box<Self>, committed: Result<(), StoreError>);
}

/// How the queue treats a write if its caller stops waiting or the database cannot be written.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// It is made only while its caller waits.
    InTime,
    /// It is made even if its caller has stopped waiting.
    EvenLate,
    /// Like [`Kind::EvenLate`], for a write that takes access away by writing rows.
    TakesAway,
}

pub(super) struct Write<T, F> {
    pub(super) work: F,
    pub(super) kind: Kind,
    /// The time at which the caller began to wait.
    pub(super) queued: Instant,
    /// The time at which the caller stops waiting.
    pub(super) deadline: Instant,
    pub(super) outcome: Option<T>,
    pub(super) reply: oneshot::Sender<Result<T, StoreError>>,
}

impl<T, F> QueuedWrite for Write<T, F>
where
    T: Send,
    F: Fn(&Writable<'_>) -> Result<T, StoreError> + Send,
{
    fn run(&mut self, rows: &Writable<'_>) -> Result<(), StoreError> {
        self.outcome = Some((self.work)(rows)?);
        Ok(())
    }

    fn takes_away(&self) -> bool {
        self.kind == Kind::TakesAway
    }

    fn given_up(&self) -> Option<std::time::Instant> {
        let is_late = self.kind == Kind::InTime && Instant::now() >= self.deadline;
        is_late.then(|| self.queued.into_std())
    }

    fn finish(self: Box<Self>, committed: Result<(), StoreError>) {
        let Self { outcome, reply, .. } = *self;
        // The caller might no longer be waiting, but its write is nevertheless in effect.
        let _ = reply.send(committed.and_then(|()| outcome.ok_or_else(stopped)));
    }
}

pub(super) fn stopped() -> StoreError {
    StoreError::Unavailable("the store's writer has stopped".to_owned())
}
