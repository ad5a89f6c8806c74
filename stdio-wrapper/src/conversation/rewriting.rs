//! Rewrites messages between clients and a child. Each byte of a message is examined or copied, so large messages are
//! rewritten on other threads on behalf of their principals. Otherwise, they would delay other users (attack 109).

use std::sync::Arc;

use bytes::Bytes;

use crate::budget::Reservation;
use crate::child::Framing;
use crate::offload::{LARGE, Offload};
use crate::protocol::{Message, Patch, Patches, Relayed, Span, relay, rewrite};

/// Creates the line of a message for a child, with some values replaced, in the reserved memory. Returns `None` if this
/// fails.
pub(super) async fn line(
    (framing, offload): (&Arc<dyn Framing>, &Offload),
    owner: &str,
    message: &Message<'_>,
    patches: &mut [Patch<'_>],
    reservation: Reservation,
) -> Option<Bytes> {
    if message.text.len() < LARGE {
        return Some(reservation.holding(framing.encode(message.text, patches)));
    }
    let (text, patches, framing) = (message.shared_text(), Patches::of(patches), Arc::clone(framing));
    // The line keeps its memory reserved even if its caller has stopped waiting.
    let encode = move || reservation.holding(framing.encode(&text, &mut patches.borrowed()));
    offload.run(owner, encode).await
}

/// Copies a message from a child, with some values replaced. Returns `None` if this fails.
pub(crate) async fn rewritten(
    offload: &Offload,
    owner: &str,
    message: &Message<'_>,
    patches: &mut [Patch<'_>],
) -> Option<Bytes> {
    if message.text.len() < LARGE {
        return Some(rewrite(message.text.as_bytes(), patches));
    }
    let (text, patches) = (message.shared_text(), Patches::of(patches));
    offload.run(owner, move || rewrite(text.as_bytes(), &mut patches.borrowed())).await
}

/// Creates the response for a caller whose request had the id `with` from a response of the child, whose id is at `id`.
/// Returns `None` if this fails.
pub(super) async fn relayed(
    offload: &Offload,
    owner: &str,
    response: &Message<'_>,
    id: &Span,
    with: &[u8],
) -> Option<Relayed> {
    let text = response.shared_text();
    if text.len() < LARGE {
        return Some(relay(text.as_bytes(), response, id, with));
    }
    let (parts, id, with) = (response.clone().into_parts(), id.clone(), Box::<[u8]>::from(with));
    offload.run(owner, move || relay(text.as_bytes(), &parts.of(&text), &id, &with)).await
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use bytestring::ByteString;

    use super::*;
    use crate::child::{Decoder, LineFraming};
    use crate::protocol::{Kind, Parts, parse_owned};

    /// Records the names of the threads that encode messages.
    #[derive(Debug, Default)]
    struct Recording(Mutex<Vec<Option<String>>>);

    impl Framing for Recording {
        fn encode(&self, text: &str, patches: &mut [Patch<'_>]) -> Bytes {
            self.0.lock().unwrap().push(std::thread::current().name().map(str::to_owned));
            LineFraming.encode(text, patches)
        }

        fn decoder(&self, max_frame: usize) -> Box<dyn Decoder> {
            LineFraming.decoder(max_frame)
        }
    }

    fn response(size: usize) -> (ByteString, Parts) {
        let text = format!(r#"{{"jsonrpc":"2.0","id":7,"result":{{"x":"{}"}}}}"#, r"\u0041".repeat(size / 6));
        parse_owned(&text.into()).unwrap()
    }

    #[tokio::test]
    async fn a109_the_line_of_a_large_message_is_created_on_another_thread() {
        let (recording, offload) = (Arc::new(Recording::default()), Offload::start().unwrap());
        let framing: Arc<dyn Framing> = Arc::<Recording>::clone(&recording);
        for size in [60, LARGE] {
            let (text, parts) = response(size);
            let message = parts.of(&text);
            let Kind::Response { id: Some(id), .. } = message.kind.clone() else { unreachable!() };
            let mut patches = [Patch { span: id, with: b"123" }];
            let expected = LineFraming.encode(&text, &mut patches);
            let reservation = Reservation::unlimited();
            let line = line((&framing, &offload), "ana", &message, &mut patches, reservation).await;
            assert_eq!(line, Some(expected));
        }
        let here = std::thread::current().name().map(str::to_owned);
        assert_eq!(*recording.0.lock().unwrap(), [here, Some("large-texts".to_owned())]);
    }

    #[tokio::test]
    async fn a109_a_large_message_for_a_client_is_rewritten_on_another_thread() {
        let offload = Offload::start().unwrap();
        let occupied = offload.occupy().await;
        let ((small, small_parts), (large, large_parts)) = (response(60), response(LARGE));
        let (small, large) = (small_parts.of(&small), large_parts.of(&large));
        let id_of = |message: &Message<'_>| {
            let Kind::Response { id: Some(id), .. } = message.kind.clone() else { unreachable!() };
            id
        };
        let id = id_of(&small);
        let patches = || [Patch { span: id.clone(), with: b"123" }];
        assert!(rewritten(&offload, "eve", &small, &mut patches()).await.is_some());
        assert!(relayed(&offload, "eve", &small, &id, b"123").await.is_some());
        let mut patches = patches();
        let mut rewriting = Box::pin(rewritten(&offload, "eve", &large, &mut patches));
        let mut relaying = Box::pin(relayed(&offload, "eve", &large, &id, b"123"));
        assert!(futures_util::poll!(rewriting.as_mut()).is_pending());
        assert!(futures_util::poll!(relaying.as_mut()).is_pending());
        drop(occupied);
        let (rewritten, relayed) = (rewriting.await.unwrap(), relaying.await.unwrap());
        assert!(rewritten.starts_with(br#"{"jsonrpc":"2.0","id":123,"#));
        assert_eq!((relayed.text.into_bytes(), relayed.fault), (rewritten, None));
    }
}
