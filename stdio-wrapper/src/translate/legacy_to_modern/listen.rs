//! Sends the notifications from a server on the GET stream of a session. They come from a single subscription.

use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use serde_json::{Value, json};
use tokio::sync::watch;

use super::peer::{LISTEN, Listening, Peer};
use crate::budget::Kept;
use crate::legacy::Client;
use crate::policy::Gate;
use crate::protocol::{Kind, Members, Outgoing, parse_line};
use crate::stream::{Next, Stream};

/// Pause before a subscription that has ended is opened again.
const AGAIN: Duration = Duration::from_secs(1);
/// Minimum time between two replacements of a subscription, even if the client changes its watched resources
/// more often.
const CHANGE: Duration = Duration::from_millis(250);

/// The meaning of a message that the server sends on the subscription.
enum Heard {
    /// A notification, in the form for a client with a session.
    Notification(Bytes),
    /// The subscription has ended.
    End,
}

impl Heard {
    /// Reads a message. Returns `None` if the client does not need it.
    fn read(text: &[u8]) -> Option<Self> {
        let message = parse_line(text).ok()?;
        match &message.kind {
            Kind::Notification { method } if method != "notifications/subscriptions/acknowledged" => {
                let mut params = message.params_text().and_then(Members::parse).unwrap_or_default();
                params.remove("_meta");
                let params = params.to_string();
                Some(Self::Notification(Outgoing::Notification { method, params: Some(&params) }.bytes()))
            }
            Kind::Notification { .. } | Kind::Request { .. } => None,
            Kind::Response { .. } => Some(Self::End),
        }
    }
}

impl Peer {
    /// Subscribes to all notifications that the client wants and is allowed to receive. If they differ from
    /// those of the previous subscription, the new one replaces it. Returns false if there is no memory for it.
    pub(super) fn listen(self: &Arc<Self>, client: &Arc<Client>, gate: &Gate) -> bool {
        self.state().gate = gate.clone();
        let has = |pointer: &str| self.offers.pointer(pointer) == Some(&Value::Bool(true));
        let resources = self.state().resources.clone();
        let mut wanted = serde_json::Map::new();
        for (name, pointer) in [
            ("toolsListChanged", "/capabilities/tools/listChanged"),
            ("promptsListChanged", "/capabilities/prompts/listChanged"),
            ("resourcesListChanged", "/capabilities/resources/listChanged"),
        ] {
            if has(pointer) {
                wanted.insert(name.to_owned(), Value::Bool(true));
            }
        }
        if !resources.is_empty() {
            let resources: Vec<&str> = resources.iter().map(|uri| &**uri).collect();
            wanted.insert("resourceSubscriptions".to_owned(), json!(resources));
        }
        let reservation = self.servers.answers().reservation(&self.owner);
        let wanted = (!wanted.is_empty()).then(|| reservation.keep(Value::Object(wanted).to_string()));
        let wanted = match wanted {
            Some(None) => return false,
            wanted => wanted.flatten(),
        };
        let mut state = self.state();
        let Some(listening) = &state.listening else {
            let (sender, receiver) = watch::channel(wanted);
            let task = tokio::spawn(Arc::clone(self).feed(Arc::downgrade(client), receiver));
            state.listening = Some(Listening { wanted: sender, task: task.abort_handle() });
            return true;
        };
        listening.wanted.send_if_modified(|before| {
            let is_other = *before != wanted;
            *before = wanted;
            is_other
        });
        true
    }

    /// Keeps a subscription to the requested notifications until the session ends.
    async fn feed(self: Arc<Self>, client: Weak<Client>, mut wanted: watch::Receiver<Option<Kept>>) {
        while let Some(client) = client.upgrade().filter(|client| !client.is_ended()) {
            let now = wanted.borrow_and_update().clone();
            let subscribed = async {
                if let Some(now) = &now {
                    self.listen_once(&client, now).await;
                    tokio::time::sleep(AGAIN).await;
                } else {
                    std::future::pending::<()>().await;
                }
            };
            let changed = async {
                let ((), changed) = tokio::join!(tokio::time::sleep(CHANGE), wanted.changed());
                changed
            };
            tokio::select! {
                () = subscribed => {}
                changed = changed => if changed.is_err() { return },
            }
        }
    }

    async fn listen_once(self: &Arc<Self>, client: &Client, wanted: &str) {
        let stream = Stream::endless(1, 1 << 20, self.servers.answers().reservation(&client.owner));
        let consumer = stream.connect();
        let gate = self.state().gate.clone();
        let Ok(permit) = gate.pass(LISTEN, None) else { return std::future::pending().await };
        let mut params = Members::default();
        params.set("notifications", wanted);
        let params = params.to_string();
        let Ok(Some(_ticket)) = self.send(client, &permit, (params, None), "0", &stream).await else {
            return;
        };
        loop {
            match consumer.next() {
                Next::Event(_, text) => {
                    let (owner, length) = (&client.owner, text.len());
                    let read = move || Heard::read(&text.into_bytes());
                    match self.servers.offload().run_if_large(owner, length, read).await.flatten() {
                        Some(Heard::Notification(text)) => {
                            client.get_stream().tell(text.into());
                        }
                        Some(Heard::End) => return,
                        None => {}
                    }
                }
                Next::End => return,
                Next::Wait => stream.changed().await,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_notification_is_passed_on_without_meta_and_with_its_method_whatever_that_contains() {
        let odd = r#"{"jsonrpc":"2.0","method":"a\",\"id\":7,\"b","params":{"_meta":{"x":1},"y":1.0}}"#;
        let Some(Heard::Notification(text)) = Heard::read(odd.as_bytes()) else { unreachable!() };
        let message = parse_line(&text).unwrap();
        assert!(matches!(&message.kind, Kind::Notification { method } if method == r#"a","id":7,"b"#));
        assert_eq!(message.params_text(), Some(r#"{"y":1.0}"#));
        assert!(matches!(Heard::read(br#"{"jsonrpc":"2.0","id":0,"result":{}}"#), Some(Heard::End)));
    }
}
