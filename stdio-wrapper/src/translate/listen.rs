//! `subscriptions/listen` for a server with sessions: notifications about changes to its lists and to watched
//! resources.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde_json::{Value, json};

use super::results::{Greeting, MAX_URI};
use crate::budget::{Kept, Reservation};
use crate::modern::{completion, subscription_meta};
use crate::protocol::{Members, Message, Outgoing, elements, members, string};
use crate::stream::Stream;

/// Notifications about lists: the name in the subscription, the method of the notification, and the required
/// capability of the child.
const LISTS: [(&str, &str, &str); 3] = [
    ("toolsListChanged", "notifications/tools/list_changed", "/tools/listChanged"),
    ("promptsListChanged", "notifications/prompts/list_changed", "/prompts/listChanged"),
    ("resourcesListChanged", "notifications/resources/list_changed", "/resources/listChanged"),
];
/// Maximum number of resources that one client can watch.
const MAX_RESOURCES: usize = 256;
const UPDATED: &str = "notifications/resources/updated";
/// Maximum length of the params of a notification about a resource, in bytes. They contain little more than the
/// URI.
const MAX_UPDATED: usize = 64 << 10;

/// The notifications that one client wants and that the child can send.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Filter {
    /// The methods of the notifications.
    methods: Vec<&'static str>,
    pub(super) resources: BTreeSet<Kept>,
}

impl Filter {
    /// Parses the params of a request. The error describes what is wrong with them.
    pub(super) fn parse(
        params: &str,
        greeting: &Greeting,
        reservation: &Reservation,
    ) -> Result<Option<Self>, String> {
        let [wanted] = members(params, ["notifications"]).map_err(|error| error.to_string())?;
        let wanted =
            wanted.and_then(Members::parse).ok_or_else(|| "`notifications` must be an object.".to_owned())?;
        let is_wanted = |name: &str| wanted.get(name) == Some("true");
        let methods = LISTS
            .iter()
            .filter(|(name, _, capability)| is_wanted(name) && greeting.has(capability))
            .map(|(_, method, _)| *method)
            .collect();
        let mut resources = BTreeSet::new();
        if greeting.has("/resources/subscribe") {
            let uris = wanted.get("resourceSubscriptions").unwrap_or("[]");
            if uris.len() > MAX_RESOURCES * MAX_URI {
                return Err("`resourceSubscriptions` is too large.".to_owned());
            }
            for uri in elements(uris, usize::MAX).into_iter().filter_map(string) {
                resources.insert(uri.into_owned());
                if resources.len() > MAX_RESOURCES {
                    break;
                }
            }
        }
        if resources.iter().any(|uri: &String| uri.len() > MAX_URI) {
            return Err(format!("The URI of a watched resource can have at most {MAX_URI} bytes."));
        }
        if resources.len() > MAX_RESOURCES {
            return Err(format!("At most {MAX_RESOURCES} resources can be watched on one stream."));
        }
        let kept = resources.into_iter().map(|uri| reservation.keep(uri)).collect::<Option<_>>();
        Ok(kept.map(|resources| Self { methods, resources }))
    }

    /// The first message of the stream. `id` is JSON text.
    pub(super) fn acknowledgement(&self, id: &str) -> String {
        let mut granted = serde_json::Map::new();
        for (name, method, _) in LISTS {
            if self.methods.contains(&method) {
                granted.insert(name.to_owned(), Value::Bool(true));
            }
        }
        if !self.resources.is_empty() {
            let resources: Vec<&str> = self.resources.iter().map(|uri| &**uri).collect();
            granted.insert("resourceSubscriptions".to_owned(), json!(resources));
        }
        let mut params = Members::default();
        params.set("notifications", Value::Object(granted).to_string());
        params.set("_meta", subscription_meta(id));
        let method = "notifications/subscriptions/acknowledged";
        Outgoing::Notification { method, params: Some(&params.to_string()) }.text()
    }

    /// Whether the client wants a notification with this method. `uri` identifies the resource of the
    /// notification, if any.
    fn wants(&self, method: &str, uri: Option<&str>) -> bool {
        if method != UPDATED {
            return self.methods.contains(&method);
        }
        uri.is_some_and(|uri| self.resources.contains(uri))
    }
}

/// All clients that listen to sessions of one group.
#[derive(Debug, Default)]
pub(super) struct Listeners {
    all: Mutex<Vec<Listener>>,
    /// The number of announced changes to the tools.
    tool_changes: AtomicU64,
}

#[derive(Debug)]
struct Listener {
    number: u64,
    /// The session that watches the listener's resources.
    session: String,
    filter: Filter,
    /// The client's id, as JSON text.
    id: String,
    stream: Arc<Stream>,
}

impl Listeners {
    /// The number of announced changes to the tools.
    pub(super) fn tool_changes(&self) -> u64 {
        self.tool_changes.load(Ordering::Acquire)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.all().is_empty()
    }

    pub(super) fn add(&self, number: u64, session: &str, filter: Filter, id: &str, stream: &Arc<Stream>) {
        let session = session.to_owned();
        let listener = Listener { number, session, filter, id: id.to_owned(), stream: Arc::clone(stream) };
        self.all().push(listener);
    }

    /// Removes a listener, and returns the resources that it watched.
    pub(super) fn remove(&self, number: u64) -> BTreeSet<Kept> {
        let mut all = self.all();
        let at = all.iter().position(|listener| listener.number == number);
        at.map(|at| all.swap_remove(at).filter.resources).unwrap_or_default()
    }

    /// Whether there is a listener with this number.
    pub(super) fn has(&self, number: u64) -> bool {
        self.all().iter().any(|listener| listener.number == number)
    }

    /// Whether a listener watches a resource in a session.
    pub(super) fn is_watched(&self, session: &str, uri: &str) -> bool {
        let watches =
            |listener: &Listener| listener.session == session && listener.filter.resources.contains(uri);
        self.all().iter().any(watches)
    }

    /// Sends a notification from the child to all listeners that want it.
    pub(super) fn tell(&self, method: &str, message: &Message<'_>) {
        if method == "notifications/tools/list_changed" {
            self.tool_changes.fetch_add(1, Ordering::AcqRel);
        }
        let params = if method == UPDATED { message.params_text().unwrap_or("{}") } else { "{}" };
        // Many listeners can exist, so this is parsed only once. They receive only what the protocol defines,
        // because the child could add megabytes of other content (attack 100).
        let [uri] =
            if params.len() <= MAX_UPDATED { members(params, ["uri"]).unwrap_or_default() } else { [None] };
        let resource = uri.and_then(string);
        let wants = |listener: &&Listener| {
            listener.filter.wants(method, resource.as_deref()) && !listener.stream.is_complete()
        };
        let mut params = Members::default();
        if let Some(uri) = uri {
            params.set("uri", uri);
        }
        for listener in self.all().iter().filter(wants) {
            params.set("_meta", subscription_meta(&listener.id));
            let text = Outgoing::Notification { method, params: Some(&params.to_string()) }.bytes();
            listener.stream.tell(text.into());
        }
    }

    /// Ends the streams of all listeners of a session.
    pub(super) fn end(&self, session: &str) {
        for listener in self.all().extract_if(.., |listener| listener.session == session) {
            listener.stream.push(completion(&listener.id).into(), true);
        }
    }

    fn all(&self) -> MutexGuard<'_, Vec<Listener>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::modern::SUBSCRIPTION;
    use crate::protocol::parse_line;
    use crate::stream::Next;

    #[test]
    fn a100_listeners_get_only_what_the_protocol_defines_however_much_the_server_adds() {
        let listeners = Listeners::default();
        let reservation = Reservation::unlimited();
        let filter = Filter {
            methods: vec!["notifications/tools/list_changed"],
            resources: BTreeSet::from([reservation.keep("file:///a").unwrap()]),
        };
        let stream = Stream::endless(1, 1 << 20, Reservation::unlimited());
        let consumer = stream.connect();
        listeners.add(1, "session", filter, "7", &stream);
        let tell = |method: &str, pad: usize| {
            let pad = "1,".repeat(pad);
            let text = format!(
                r#"{{"jsonrpc":"2.0","method":"{method}","params":{{"pad":[{pad}1],"uri":"file:///a","_meta":{{"a":1}}}}}}"#
            );
            listeners.tell(method, &parse_line(text.as_bytes()).unwrap());
            match consumer.next() {
                Next::Event(_, text) => String::from_utf8(text.into_bytes().to_vec()).unwrap(),
                _ => String::new(),
            }
        };
        let meta = format!(r#""_meta":{{"{SUBSCRIPTION}":7}}"#);
        assert_eq!(
            tell("notifications/tools/list_changed", 100_000),
            format!(r#"{{"jsonrpc":"2.0","method":"notifications/tools/list_changed","params":{{{meta}}}}}"#)
        );
        let updated =
            format!(r#"{{"jsonrpc":"2.0","method":"{UPDATED}","params":{{"uri":"file:///a",{meta}}}}}"#);
        assert_eq!(tell(UPDATED, 100), updated);
        assert_eq!(tell(UPDATED, MAX_UPDATED), "");
    }
}
