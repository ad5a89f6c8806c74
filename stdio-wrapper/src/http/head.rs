//! Decides when the head of a response can be sent.

use std::time::Duration;

use tokio::time::Instant;

use crate::protocol::Text;

/// Minimum time between a request and the start of a response that does not fit into one piece with its head.
///
/// When a proxy that uses Go's HTTP library (Traefik, Caddy) passes on the head of the response, it closes the
/// request body that it is reading. The part of the proxy that writes this request to the wrapper might not
/// have detected the end of the body yet, which takes microseconds, or milliseconds on a loaded machine. In
/// that case, it treats this as an error and closes the connection in the middle of the response (golang/go
/// issue 40747, traefik/traefik issue 11767). The data that has arrived by then is passed on.
const PAUSE: Duration = Duration::from_millis(5);

/// Number of bytes that a proxy with Go's HTTP library reads together with the head: 4 KiB minus the head.
const WITH_HEAD: usize = 3 * 1024;

/// The time at which a request was completely read.
#[derive(Debug, Clone, Copy)]
pub(super) struct Received(Instant);

impl Received {
    pub(super) fn now() -> Self {
        Self(Instant::now())
    }

    /// Waits until a response that is sent in pieces can start.
    pub(super) async fn before_events(self) {
        tokio::time::sleep_until(self.0 + PAUSE).await;
    }

    /// Waits until the head of these responses can be sent.
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
