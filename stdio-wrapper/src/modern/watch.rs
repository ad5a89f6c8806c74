//! The wrapper's own subscription to changes in a child's lists, for as long as the child runs.

use std::sync::Arc;
use std::time::Duration;

use super::link::Link;
use crate::budget::Reservation;
use crate::conversation;
use crate::protocol::{Text, members, string};
use crate::stream::{Next, Stream};

/// All notifications about lists. A child grants those that it supports.
const WANTED: &str =
    r#"{"notifications":{"toolsListChanged":true,"promptsListChanged":true,"resourcesListChanged":true}}"#;

/// The meaning of a message from the subscription.
#[derive(Debug, PartialEq, Eq)]
enum Heard {
    /// The subscription starts. `tools` is true if it includes changes to the tools.
    Granted { tools: bool },
    /// A change, which has already been handled.
    Change,
    /// The subscription has ended, or was refused.
    End,
}

impl Link {
    /// Reads a message from the subscription, which can be as large as a line.
    async fn heard(&self, text: Text) -> Heard {
        let (owner, length) = (conversation::Link::owner(self), text.len());
        let read = move || heard(&text.into_bytes());
        self.offload.run_if_large(&owner, length, read).await.unwrap_or(Heard::Change)
    }

    /// Requests announcements of changes from the child, and listens until the subscription ends.
    pub(super) async fn watch(self: Arc<Self>) {
        let stream = Stream::endless(1, 1 << 16, Reservation::unlimited());
        let consumer = stream.connect();
        let Ok(_ticket) =
            self.open("subscriptions/listen", WANTED, "{}", Duration::from_secs(3600), &stream).await
        else {
            return;
        };
        let mut was_granted = false;
        loop {
            match consumer.next() {
                Next::Event(_, text) => match self.heard(text).await {
                    Heard::Granted { tools } => {
                        was_granted = true;
                        if tools {
                            self.tools.set_watched(true);
                        }
                        self.lists.open();
                    }
                    Heard::Change => {}
                    Heard::End => break,
                },
                Next::End => break,
                Next::Wait => stream.changed().await,
            }
        }
        self.tools.set_watched(false);
        if was_granted {
            // From now on, changes would not be noticed.
            self.lists.close();
        } else {
            // The child announces no changes, so the validity of a result depends only on `ttlMs`.
            self.lists.open();
        }
    }
}

/// Reads a message. It can be as large as a line, so it is not parsed into a tree.
fn heard(text: &[u8]) -> Heard {
    let text = std::str::from_utf8(text).unwrap_or_default();
    let Some(method) = member(text, "method").and_then(string) else { return Heard::End };
    if method != "notifications/subscriptions/acknowledged" {
        return Heard::Change;
    }
    let granted = member(text, "params").and_then(|params| member(params, "notifications"));
    let tools = granted.and_then(|granted| member(granted, "toolsListChanged"));
    Heard::Granted { tools: tools == Some("true") }
}

/// The member of an object (JSON text), as JSON text. Returns `None` if it is missing or ambiguous.
fn member<'a>(object: &'a str, name: &str) -> Option<&'a str> {
    let [found] = members(object, [name]).ok()?;
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_acknowledgement_grants_and_only_a_response_ends() {
        let acknowledged = |granted: &str| {
            heard(
                format!(
                    r#"{{"method":"notifications/subscriptions/acknowledged","params":{{"notifications":{granted}}}}}"#
                )
                .as_bytes(),
            )
        };
        assert_eq!(acknowledged(r#"{"toolsListChanged":true}"#), Heard::Granted { tools: true });
        assert_eq!(acknowledged("{}"), Heard::Granted { tools: false });
        assert_eq!(acknowledged(r#"{"toolsListChanged":"true"}"#), Heard::Granted { tools: false });
        assert_eq!(heard(br#"{"method":"notifications/tools/list_changed"}"#), Heard::Change);
        assert_eq!(heard(br#"{"id":0,"error":{"code":-32601,"message":""}}"#), Heard::End);
    }
}
