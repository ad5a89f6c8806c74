//! `subscriptions/listen` for a server with sessions: notifications about changes to its lists and to watched
//! resources.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde_json::{Value, json};

use super::results::{Greeting, MAX_URI};
use crate::budget::{Kept, Reservation};
use crate::modern::{completion, subscription_meta};
use crate::protocol::{Members, Message, Outgoing, elements, members, string};
use crate::stream::Stream;
use crate::turns::{COPIED, Copies};

/// Notifications about lists: the name in the subscription, the method of the notification, and the required
/// capability of the child.
const LISTS: [(&str, &str, &str); 3] = [
    ("toolsListChanged", "notifications/tools/list_changed", "/tools/listChanged"),
    ("promptsListChanged", "notifications/prompts/list_changed", "/prompts/listChanged"),
    ("resourcesListChanged", "notifications/resources/list_changed", "/resources/listChanged"),
];
/// Maximum number of resources that one listener can watch.
const MAX_RESOURCES: usize = 256;
const UPDATED: &str = "notifications/resources/updated";
/// Maximum length of the params of a notification about a resource, in bytes. They contain little more than the
/// URI.
const MAX_UPDATED: usize = 64 << 10;
/// The number of copied bytes that take as long as sending a notification to one listener, which is at least a
/// system call.
const PER_LISTENER: usize = COPIED / 4;

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
            // Repetitions count as well: reading thousands of them would take as long.
            let uris = elements(uris, MAX_RESOURCES + 1);
            if uris.len() > MAX_RESOURCES {
                return Err(format!("At most {MAX_RESOURCES} resources can be watched on one stream."));
            }
            resources.extend(uris.into_iter().filter_map(string).map(Cow::into_owned));
        }
        if resources.iter().any(|uri: &String| uri.len() > MAX_URI) {
            return Err(format!("The URI of a watched resource can have at most {MAX_URI} bytes."));
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
#[derive(Debug)]
pub(super) struct Listeners {
    all: Mutex<Vec<Listener>>,
    /// Counts the notifications that are sent to listeners, because they are sent in turns with the work for
    /// other users.
    copies: tokio::sync::Mutex<Copies>,
    /// The number of announced changes to the tools.
    tool_changes: AtomicU64,
}

#[derive(Debug)]
struct Listener {
    number: u64,
    /// The session that watches the listener's resources.
    session: String,
    filter: Filter,
    /// The sequence number of the newest notification about each of the [`LISTS`] in the stream.
    told: [u64; LISTS.len()],
    /// The client's id, as JSON text.
    id: String,
    stream: Arc<Stream>,
}

impl Listener {
    /// Sends a notification, unless the same notification about a list is still waiting to be read: whoever reads
    /// that one requests the list only afterwards. Returns whether the notification was sent.
    fn tell(&mut self, method: &str, params: &mut Members<'_>) -> bool {
        let list = LISTS.iter().position(|(_, known, _)| *known == method);
        let mut told = list.and_then(|list| self.told.get_mut(list));
        if told.as_ref().is_some_and(|told| self.stream.is_unread(**told)) {
            return false;
        }
        params.set("_meta", subscription_meta(&self.id));
        let text = Outgoing::Notification { method, params: Some(&params.to_string()) }.bytes();
        let is_told = self.stream.tell(text.into());
        if let Some(told) = told.as_mut().filter(|_| is_told) {
            **told = self.stream.newest();
        }
        is_told
    }
}

impl Listeners {
    /// Creates an empty list for the clients of `owner`.
    pub(super) fn of(owner: &str) -> Self {
        Self {
            all: Mutex::default(),
            copies: tokio::sync::Mutex::new(Copies::of(owner)),
            tool_changes: AtomicU64::new(0),
        }
    }

    /// The number of announced changes to the tools.
    pub(super) fn tool_changes(&self) -> u64 {
        self.tool_changes.load(Ordering::Acquire)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.all().is_empty()
    }

    pub(super) fn add(&self, number: u64, session: &str, filter: Filter, id: &str, stream: &Arc<Stream>) {
        let session = session.to_owned();
        let (id, stream, told) = (id.to_owned(), Arc::clone(stream), [0; LISTS.len()]);
        let listener = Listener { number, session, filter, told, id, stream };
        self.all().push(listener);
    }

    /// Removes a listener.
    pub(super) fn remove(&self, number: u64) {
        self.all().retain(|listener| listener.number != number);
    }

    /// Whether there is a listener with this number.
    pub(super) fn has(&self, number: u64) -> bool {
        self.all().iter().any(|listener| listener.number == number)
    }

    /// Sends a notification from the child to all listeners that want it. Returns when it is the turn of this
    /// user again.
    pub(super) async fn tell(&self, method: &str, message: &Message<'_>) {
        let told = self.tell_all(method, message);
        if told == 0 {
            return;
        }
        // Nothing is lost if the call during which the child sent the notification is cancelled here.
        let mut copies = self.copies.lock().await;
        for _ in 0..told {
            copies.spend(PER_LISTENER).await;
        }
    }

    /// Sends a notification to all listeners that want it. Returns their number.
    fn tell_all(&self, method: &str, message: &Message<'_>) -> usize {
        if method == "notifications/tools/list_changed" {
            self.tool_changes.fetch_add(1, Ordering::AcqRel);
        }
        let params = if method == UPDATED { message.params_text().unwrap_or("{}") } else { "{}" };
        // Many listeners can exist, so this is parsed only once. They receive only what the protocol defines,
        // because the child could add megabytes of other content (attack 100).
        let [uri] =
            if params.len() <= MAX_UPDATED { members(params, ["uri"]).unwrap_or_default() } else { [None] };
        let resource = uri.and_then(string);
        let wants = |listener: &&mut Listener| {
            listener.filter.wants(method, resource.as_deref()) && !listener.stream.is_complete()
        };
        let mut params = Members::default();
        if let Some(uri) = uri {
            params.set("uri", uri);
        }
        let mut all = self.all();
        let told = all.iter_mut().filter(wants).map(|listener| listener.tell(method, &mut params));
        told.filter(|is_told| *is_told).count()
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
        let listeners = Listeners::of("ana of listeners");
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
            listeners.tell_all(method, &parse_line(text.as_bytes()).unwrap());
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

    const CHANGED: &str = "notifications/tools/list_changed";

    fn listening(listeners: &Listeners, number: u64) -> crate::stream::Consumer {
        let stream = Stream::endless(number, 1 << 20, Reservation::unlimited());
        let consumer = stream.connect();
        let reservation = Reservation::unlimited();
        let resources = BTreeSet::from([reservation.keep("file:///a").unwrap()]);
        listeners.add(number, "session", Filter { methods: vec![CHANGED], resources }, "7", &stream);
        consumer
    }

    fn notification(method: &str) -> String {
        format!(r#"{{"jsonrpc":"2.0","method":"{method}","params":{{"uri":"file:///a"}}}}"#)
    }

    fn count(consumer: &crate::stream::Consumer) -> usize {
        std::iter::from_fn(|| matches!(consumer.next(), Next::Event(..)).then_some(())).count()
    }

    #[test]
    fn a100_a_change_to_a_list_is_not_told_again_before_it_has_been_read() {
        let listeners = Listeners::of("ana of changes");
        let consumer = listening(&listeners, 1);
        let tell = |method: &str| {
            let text = notification(method);
            listeners.tell_all(method, &parse_line(text.as_bytes()).unwrap())
        };
        assert_eq!([tell(CHANGED), tell(CHANGED), tell(UPDATED), tell(UPDATED)], [1, 0, 1, 1]);
        assert_eq!((count(&consumer), listeners.tool_changes()), (3, 2));
        assert_eq!((tell(CHANGED), count(&consumer)), (1, 1));
    }

    #[tokio::test]
    async fn a100_telling_many_listeners_takes_the_turns_of_their_user_and_loses_nothing_if_it_is_cancelled()
    {
        let listeners = Listeners::of("mallory of listeners");
        let consumers: Vec<_> = (0..32).map(|number| listening(&listeners, number)).collect();
        let text = notification(UPDATED);
        let message = parse_line(text.as_bytes()).unwrap();
        let mut turns = 0;
        let mut telling = Box::pin(listeners.tell(UPDATED, &message));
        while futures_util::poll!(&mut telling).is_pending() {
            turns += 1;
            tokio::task::yield_now().await;
        }
        drop(telling);
        assert!(turns >= 32 * PER_LISTENER / COPIED, "{turns} turns of other tasks");
        let mut cancelled = Box::pin(listeners.tell(UPDATED, &message));
        assert!(futures_util::poll!(&mut cancelled).is_pending());
        drop(cancelled);
        assert!(consumers.iter().all(|consumer| count(consumer) == 2));
    }
}
