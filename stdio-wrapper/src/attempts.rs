//! Attempts that many callers wait for, such as the start of a child that they share. Only one attempt runs at
//! a time. If it fails, all callers that waited for it receive its error. Otherwise each of them would make
//! another attempt, and if a child hangs, the last of k callers would wait k times as long as the first.

use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::{Mutex, MutexGuard};

/// Attempts at the same operation. `E` is the error of a failed attempt.
#[derive(Debug)]
pub(crate) struct Attempts<E> {
    /// The error of the last failed attempt. Locked while an attempt is in progress.
    why: Mutex<Option<E>>,
    /// The number of failed attempts. If it changes while a caller waits, the caller has waited for an attempt
    /// that failed.
    failures: AtomicUsize,
}

impl<E> Default for Attempts<E> {
    fn default() -> Self {
        Self { why: Mutex::default(), failures: AtomicUsize::new(0) }
    }
}

/// The right to make an attempt.
#[derive(Debug)]
pub(crate) struct Turn<'a, E> {
    why: MutexGuard<'a, Option<E>>,
    failures: &'a AtomicUsize,
    has_failed: bool,
}

impl<E: Clone> Attempts<E> {
    /// Waits for the attempt in progress, if there is one. After that, the caller must first check for its
    /// result, then check [`Turn::failure`], and otherwise make another attempt.
    pub(crate) async fn turn(&self) -> Turn<'_, E> {
        let failures = self.failures.load(Ordering::Acquire);
        let why = self.why.lock().await;
        let has_failed = self.failures.load(Ordering::Acquire) != failures;
        Turn { why, failures: &self.failures, has_failed }
    }
}

impl<E: Clone> Turn<'_, E> {
    /// The error of the attempt that this caller has waited for, if it failed.
    pub(crate) fn failure(&self) -> Option<E> {
        self.why.as_ref().filter(|_| self.has_failed).cloned()
    }

    /// Makes the attempt fail for all callers that are waiting for it.
    pub(crate) fn failed(mut self, why: E) {
        *self.why = Some(why);
        self.failures.fetch_add(1, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::AtomicUsize;

    use super::*;

    #[tokio::test]
    async fn a_failure_is_told_to_those_who_waited_and_not_to_those_who_come_later() {
        let attempts = Arc::new(Attempts::default());
        let made = Arc::new(AtomicUsize::new(0));
        let attempt = || {
            let (attempts, made) = (Arc::clone(&attempts), Arc::clone(&made));
            tokio::spawn(async move {
                let turn = attempts.turn().await;
                if let Some(why) = turn.failure() {
                    return why;
                }
                let number = made.fetch_add(1, Ordering::Relaxed);
                // The other callers arrive at this point.
                tokio::task::yield_now().await;
                turn.failed(number);
                number
            })
        };
        for told in [attempt(), attempt(), attempt()] {
            assert_eq!(told.await.unwrap(), 0);
        }
        assert_eq!(attempt().await.unwrap(), 1);
    }

    #[tokio::test]
    async fn an_attempt_that_was_given_up_has_not_failed() {
        let attempts = Attempts::<()>::default();
        let given_up = attempts.turn().await;
        let next = attempts.turn();
        tokio::pin!(next);
        assert!(futures_util::poll!(next.as_mut()).is_pending());
        drop(given_up);
        assert_eq!(next.await.failure(), None);
    }
}
