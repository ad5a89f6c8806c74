//! When the head of an answer may go out.

use std::time::Duration;

use tokio::time::Instant;

use crate::protocol::Text;

/// How long after the request, at the earliest, an answer begins that does not come whole with its head.
///
/// A proxy on Go's HTTP library (Traefik, Caddy) closes what it reads a request from when it passes on the head of the
/// answer. If what writes that request to us has not yet looked for its end, which takes microseconds and on a loaded machine
/// milliseconds, it takes that for an error and cuts our connection in the middle of the answer (golang/go issue 40747,
/// traefik/traefik issue 11767). What has arrived by then is passed on.
const PAUSE: Duration = Duration::from_millis(5);

/// What such a proxy reads together with the head: 4 KiB, less the head.
const WITH_HEAD: usize = 3 * 1024;

/// A request that was read to its end.
#[derive(Debug, Clone, Copy)]
pub(super) struct Received(Instant);

impl Received {
    pub(super) fn now() -> Self {
        Self(Instant::now())
    }

    /// Waits until an answer may begin that comes piece by piece.
    pub(super) async fn before_events(self) {
        tokio::time::sleep_until(self.0 + PAUSE).await;
    }

    /// Waits until these answers may begin.
    pub(super) async fn before_answers(self, answers: &[Text]) {
        if !comes_with_head(answers) {
            self.before_events().await;
        }
    }
}

fn comes_with_head(answers: &[Text]) -> bool {
    answers.iter().map(Text::len).sum::<usize>() <= WITH_HEAD
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    #[test]
    fn only_an_answer_that_does_not_come_with_its_head_waits() {
        let answer = |length| Text::from(Bytes::from(vec![b'x'; length]));
        assert!(comes_with_head(&[answer(WITH_HEAD - 1), answer(1)]));
        assert!(!comes_with_head(&[answer(WITH_HEAD), answer(1)]));
    }
}
