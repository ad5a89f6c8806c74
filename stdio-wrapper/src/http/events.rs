//! The body of an event stream.

use std::sync::Arc;
use std::time::Duration;

use actix_web::HttpResponse;
use actix_web::http::header;
use bytes::Bytes;
use futures_util::stream;
use tokio::time::Instant;

use super::body::SLICE;
use super::disconnect::Disconnect;
use crate::metrics::Metrics;
use crate::protocol::{Event, Text, encode_event, encode_priming, encode_retry};
use crate::stream::{Consumer, Next};
use crate::turns::Copies;

/// The timing of streams; see `KEEP_ALIVE`, `STREAM_MAX_AGE` and `RETRY`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Timing {
    pub(super) keep_alive: Duration,
    pub(super) max_age: Duration,
    pub(super) retry: Duration,
}

/// The properties that differ between streams.
#[derive(Default)]
pub(super) struct Options {
    /// Whether the stream starts with an event that has an id and no data.
    pub(super) priming: bool,
    /// Whether events have ids.
    pub(super) ids: bool,
    /// Whether the stream ends after `max_age`, so that the client is checked again.
    pub(super) ends_with_age: bool,
    /// The first event of the 2024-11-05 transport.
    pub(super) preamble: Option<Bytes>,
    /// The time at which the stream must end, because the caller's token has expired (attack 86).
    pub(super) until: Option<Instant>,
    /// The last message of a stream that ends because of its age or token. Without one, the client is told when
    /// to reconnect.
    pub(super) farewell: Option<Text>,
    /// Completes when the client has disconnected. Set for streams that must end immediately in this case.
    pub(super) disconnected: Option<Disconnect>,
}

struct Body<G> {
    consumer: Consumer,
    timing: Timing,
    options: Options,
    started: Instant,
    is_done: bool,
    /// The event that is being sent. It holds its message, whose memory is counted.
    sending: Option<Event>,
    /// Counts the bytes that are sent, because large messages are sent in turns.
    copies: Copies,
    counted: Counted,
    /// Dropped when the client has disconnected.
    _guard: G,
}

/// Counts a stream in the gauge while it exists.
struct Counted(Arc<Metrics>);

impl Counted {
    fn new(metrics: &Arc<Metrics>) -> Self {
        metrics.streams.add();
        Self(Arc::clone(metrics))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.streams.sub();
    }
}

/// Creates an event stream for one client.
pub(super) fn response<G: 'static>(
    consumer: Consumer,
    timing: Timing,
    options: Options,
    metrics: &Arc<Metrics>,
    guard: G,
) -> HttpResponse {
    let counted = Counted::new(metrics);
    let body = Body {
        copies: Copies::of(consumer.stream().owner()),
        consumer,
        timing,
        options,
        started: Instant::now(),
        is_done: false,
        sending: None,
        counted,
        _guard: guard,
    };
    HttpResponse::Ok()
        .content_type("text/event-stream")
        // With "no-cache", a browser could write parts of the stream to its disk.
        .insert_header((header::CACHE_CONTROL, "no-store, no-transform"))
        .insert_header(("X-Accel-Buffering", "no"))
        .streaming(stream::unfold(body, |mut body| async move {
            let piece = body.next().await?;
            Some((Ok::<_, std::io::Error>(piece), body))
        }))
}

impl<G> Body<G> {
    async fn next(&mut self) -> Option<Bytes> {
        if self.is_done {
            return None;
        }
        if let Some(preamble) = self.options.preamble.take() {
            return Some(preamble);
        }
        if std::mem::take(&mut self.options.priming) {
            return Some(encode_priming(self.consumer.position(), self.timing.retry.as_millis()));
        }
        loop {
            if let Some(part) = self.sending.as_mut().and_then(|event| event.part(SLICE)) {
                // A client that reads as quickly as the event is written would keep the thread busy.
                self.copies.spend(part.len()).await;
                return Some(part);
            }
            self.sending = None;
            match self.consumer.next() {
                Next::Event(id, data) => {
                    self.sending = Some(Event::new(self.options.ids.then_some(id), "message", &data));
                    continue;
                }
                Next::End => return None,
                Next::Wait => {}
            }
            let rest = self.rest();
            if rest.is_zero() {
                self.is_done = true;
                if let Some(farewell) = self.options.farewell.take() {
                    return Some(encode_event(None, "message", &farewell));
                }
                return Some(encode_retry(self.timing.retry.as_millis()));
            }
            let wait = self.timing.keep_alive.min(rest);
            let disconnected = async {
                match &mut self.options.disconnected {
                    Some(disconnected) => disconnected.await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = self.consumer.changed() => {}
                () = disconnected => return None,
                () = tokio::time::sleep(wait) => {
                    if wait == self.timing.keep_alive {
                        return Some(Bytes::from_static(b": keep-alive\n\n"));
                    }
                }
            }
        }
    }

    /// The time until the stream must end.
    fn rest(&self) -> Duration {
        let age = if self.options.ends_with_age {
            self.timing.max_age.saturating_sub(self.started.elapsed())
        } else {
            Duration::MAX
        };
        let token = self.options.until.map(|until| until.saturating_duration_since(Instant::now()));
        token.map_or(age, |token| token.min(age))
    }
}

impl<G> std::fmt::Debug for Body<G> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let _ = &self.counted;
        f.write_str("Body")
    }
}

#[cfg(test)]
mod tests {
    use super::super::body::tests::are_sent_in_turns;
    use super::*;
    use crate::budget::Budget;
    use crate::stream::Stream;

    #[tokio::test]
    async fn a100_large_events_are_sent_a_piece_at_a_time_between_the_work_of_others() {
        let (budget, second) = (Budget::new(usize::MAX, usize::MAX), Duration::from_secs(1));
        let timing = Timing { keep_alive: second, max_age: second, retry: second };
        let text: Text = Bytes::from(vec![b'x'; 32 * SLICE]).into();
        let metrics = Arc::new(Metrics::default());
        let body = |number| {
            let stream =
                Stream::for_post(number, 1, usize::MAX, budget.reservation("mallory of large events"));
            let consumer = stream.connect();
            stream.push(text.clone(), true);
            response(consumer, timing, Options::default(), &metrics, ()).into_body()
        };
        are_sent_in_turns((0..8).map(body).collect()).await;
    }
}
