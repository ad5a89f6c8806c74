//! The wrapper's own subscription to a child: it hears when lists change, for as long as the child lives.

use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;

use super::link::Link;
use crate::budget::Room;
use crate::stream::{Next, Stream};

/// Everything about lists; a child grants what it can announce.
const WANTED: &str =
    r#"{"notifications":{"toolsListChanged":true,"promptsListChanged":true,"resourcesListChanged":true}}"#;

/// What a message on the subscription says.
#[derive(Debug, PartialEq, Eq)]
enum Heard {
    /// It begins; whether changes of the tools are part of it.
    Granted { tools: bool },
    /// A change, which has been dealt with where it came in.
    Change,
    /// It ends, or was refused.
    End,
}

impl Link {
    /// Asks the child to announce changes.
    pub(super) async fn watch(self: Arc<Self>) {
        let stream = Stream::endless(1, 1 << 16, Room::unlimited());
        let consumer = stream.connect();
        let Ok(_ticket) =
            self.open("subscriptions/listen", WANTED, "{}", Duration::from_secs(3600), &stream).await
        else {
            return;
        };
        let mut was_granted = false;
        loop {
            match consumer.next() {
                Next::Event(_, text) => match heard(&text.into_bytes()) {
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
            // Changes would go unheard now.
            self.lists.close();
        } else {
            // A child that announces nothing: its own word on how long a result is good is all there is.
            self.lists.open();
        }
    }
}

fn heard(text: &[u8]) -> Heard {
    let message: Value = serde_json::from_slice(text).unwrap_or_default();
    match message.get("method").and_then(Value::as_str) {
        None => Heard::End,
        Some("notifications/subscriptions/acknowledged") => {
            let tools = message.pointer("/params/notifications/toolsListChanged").and_then(Value::as_bool);
            Heard::Granted { tools: tools == Some(true) }
        }
        Some(_) => Heard::Change,
    }
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
        assert_eq!(heard(br#"{"method":"notifications/tools/list_changed"}"#), Heard::Change);
        assert_eq!(heard(br#"{"id":0,"error":{"code":-32601,"message":""}}"#), Heard::End);
    }
}
