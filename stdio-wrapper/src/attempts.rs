//! Attempts that many callers wait for, such as the start of a child that they share. There is one at a time, and the
//! failure of one is told to all who have waited for it: otherwise each of them would make the next one, and with a child
//! that hangs the last of k callers would wait k times as long as the first.

use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::{Mutex, MutexGuard};

/// Attempts at one thing. `E` says why one failed.
#[derive(Debug)]
pub(crate) struct Attempts<E> {
    /// Held by the attempt that is made. Why the last one that failed did.
    why: Mutex<Option<E>>,
    /// How many failed. A caller that sees this number change while it waits has waited for a failed attempt.
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
    /// Waits for the attempt that is made, if there is one. Look for its result first, then at [`Turn::failure`], and only then
    /// make another one.
    pub(crate) async fn turn(&self) -> Turn<'_, E> {
        let failures = self.failures.load(Ordering::Acquire);
        let why = self.why.lock().await;
        let has_failed = self.failures.load(Ordering::Acquire) != failures;
        Turn { why, failures: &self.failures, has_failed }
    }
}

impl<E: Clone> Turn<'_, E> {
    /// Why an attempt failed for which this caller has waited.
    pub(crate) fn failure(&self) -> Option<E> {
        self.why.as_ref().filter(|_| self.has_failed).cloned()
    }

    /// Tells all who wait that the attempt has failed.
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
                // The others come in the meantime.
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
