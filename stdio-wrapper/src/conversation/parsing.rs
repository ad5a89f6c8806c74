//! Parses messages that have passed through a stream of the wrapper.

use bytestring::ByteString;

use crate::offload::Offload;
use crate::protocol::{Parts, Text, parse_owned};

/// Parses a message on behalf of this principal. Large messages are parsed on other threads, because this takes
/// long enough to delay other users. Returns `None` if the text is not a message.
pub(crate) async fn parsed(offload: &Offload, owner: &str, text: Text) -> Option<(ByteString, Parts)> {
    let parse = move |text: Text| parse_owned(&text.into_bytes()).ok();
    offload.run_if_large(owner, text.len(), move || parse(text)).await?
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::offload::LARGE;

    #[tokio::test]
    async fn a109_a_large_message_waits_for_the_threads_for_large_texts_and_a_small_one_does_not() {
        let offload = Offload::start().unwrap();
        // Other users keep all threads busy.
        let occupied = offload.occupy().await;
        let message = |size| {
            let params = format!(r#"{{"text":"{}"}}"#, "x".repeat(size));
            let text = format!(r#"{{"jsonrpc":"2.0","method":"notifications/message","params":{params}}}"#);
            Text::from(Bytes::from(text))
        };
        assert!(parsed(&offload, "eve", message(10)).await.is_some());
        let mut large = Box::pin(parsed(&offload, "eve", message(LARGE)));
        assert!(futures_util::poll!(large.as_mut()).is_pending());
        drop(occupied);
        let (text, parts) = large.await.unwrap();
        assert!(parts.of(&text).has_method("notifications/message"));
        assert_eq!(parsed(&offload, "eve", Text::from(Bytes::from("no"))).await, None);
    }
}
