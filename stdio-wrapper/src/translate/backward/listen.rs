//! What a server announces, on the GET stream of a session: one subscription feeds it.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde_json::{Value, json};

use super::Peer;
use crate::legacy::Session;
use crate::protocol::{Kind, Members, parse_line};
use crate::stream::{Next, Stream};

/// Pause before a subscription that ended is opened again.
const AGAIN: Duration = Duration::from_secs(1);

impl Peer {
    /// Subscribes to everything that the client would be told, in place of what was subscribed before.
    pub(super) fn listen(self: &Arc<Self>, session: &Arc<Session>) {
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
            wanted.insert("resourceSubscriptions".to_owned(), json!(resources));
        }
        let wanted = (!wanted.is_empty()).then(|| Value::Object(wanted).to_string());
        let task = wanted.map(|wanted| {
            let (peer, session) = (Arc::clone(self), Arc::downgrade(session));
            tokio::spawn(async move {
                while let Some(session) = session.upgrade().filter(|session| session.is_alive()) {
                    peer.listen_once(&session, &wanted).await;
                    drop(session);
                    tokio::time::sleep(AGAIN).await;
                }
            })
            .abort_handle()
        });
        if let Some(before) = std::mem::replace(&mut self.state().listening, task) {
            before.abort();
        }
    }

    async fn listen_once(&self, session: &Arc<Session>, wanted: &str) {
        let params = format!(r#"{{"notifications":{wanted}}}"#);
        let stream = Stream::endless(1, 1 << 20);
        let consumer = stream.connect();
        let Ok(Some(_ticket)) = self.send(session, "subscriptions/listen", &params, "0", &stream).await
        else {
            return;
        };
        loop {
            match consumer.next() {
                Next::Event(_, text) => {
                    let text = text.into_bytes();
                    let Ok(message) = parse_line(&text) else { continue };
                    match &message.kind {
                        Kind::Notification { method }
                            if method != "notifications/subscriptions/acknowledged" =>
                        {
                            let mut params =
                                message.params_text().and_then(Members::parse).unwrap_or_default();
                            params.remove("_meta");
                            let text =
                                format!(r#"{{"jsonrpc":"2.0","method":"{method}","params":{params}}}"#);
                            session.get_stream().push(Bytes::from(text).into(), false);
                        }
                        Kind::Notification { .. } | Kind::Request { .. } => {}
                        Kind::Response { .. } => return,
                    }
                }
                Next::End => return,
                Next::Wait => stream.changed().await,
            }
        }
    }
}
