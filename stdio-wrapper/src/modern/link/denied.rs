//! Removes from a request what the rules deny although they allow its method. In the stateless revision, a request asks
//! for log messages in its `_meta`, and a subscription asks for updates of resources. In earlier revisions, each of these
//! has a method of its own, and rules contain the names of these methods.

use std::borrow::Cow;
use std::sync::Arc;

use super::{Link, Ticket};
use crate::budget::TOO_MANY_MESSAGES;
use crate::conversation::ROOM_PATIENCE;
use crate::modern::{LOG_LEVEL, Meta, Request};
use crate::policy::{Gate, Permit};
use crate::protocol::{Code, Kind, edit_members, error_message, folds_to, parse_owned, peek_call};
use crate::stream::Stream;

/// The method of a subscription.
const LISTEN: &str = "subscriptions/listen";

/// The parts of a request that the rules deny.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Denied {
    logs: bool,
    resources: bool,
}

impl Denied {
    /// Returns `None` if the request contains nothing that must be removed.
    pub(super) fn of(request: &Request<'_>, gate: &Gate) -> Option<Self> {
        let is_denied = |method| !gate.is_open() && gate.pass(method, None).is_err();
        // An error means that the key is repeated, or in other letters.
        let asks_for_logs = || !matches!(request.message.meta([LOG_LEVEL]), Ok([None]));
        let denied = Self {
            logs: is_denied("logging/setLevel") && asks_for_logs(),
            resources: request.method == LISTEN && is_denied("resources/subscribe"),
        };
        (denied.logs || denied.resources).then_some(denied)
    }

    /// Removes these parts from params, which are JSON text. Some servers ignore the case of keys.
    fn remove(self, params: &str) -> Option<String> {
        edit_members(params, |name, value| {
            Some(if self.logs && folds_to(name, "_meta") {
                without(value, LOG_LEVEL)
            } else if self.resources && folds_to(name, "notifications") {
                without(value, "resourceSubscriptions")
            } else {
                value.into()
            })
        })
    }
}

/// The object without this member. Other values stay as they are.
fn without<'a>(object: &'a str, member: &str) -> Cow<'a, str> {
    let edited = edit_members(object, |name, value| (!folds_to(name, member)).then(|| value.into()));
    edited.map_or(Cow::Borrowed(object), Cow::Owned)
}

impl Link {
    /// Like [`Link::call`], without the parts of the request that the rules deny.
    pub(super) async fn call_without(
        self: &Arc<Self>,
        denied: Denied,
        request: &Request<'_>,
        permit: &Permit<'_>,
        owner: Arc<str>,
        stream: &Arc<Stream>,
    ) -> Ticket {
        let refuse = |why: &str| {
            let answer = error_message(Some(request.id_text().as_bytes()), Code::Refused, why);
            stream.push(answer.into(), true);
            self.unsent()
        };
        let (text, params) = (request.message.shared_text(), request.message.params.clone());
        // The edited text stays in memory until the line for the child has been created.
        let Some(_reservation) = self.messages.reserve(&owner, text.len(), ROOM_PATIENCE).await else {
            return refuse(TOO_MANY_MESSAGES);
        };
        let length = text.len();
        let edit = move || {
            let params = params?;
            let edited = denied.remove(text.get(params.clone())?)?;
            let whole = [text.get(..params.start)?, &edited, text.get(params.end..)?].concat();
            parse_owned(&whole.into()).ok()
        };
        // Large requests are edited on other threads.
        let Some((text, parts)) = self.offload.run_if_large(&owner, length, edit).await.flatten() else {
            return refuse("The request could not be read.");
        };
        let message = parts.of(&text);
        let (Kind::Request { id, .. }, Ok(call)) = (&message.kind, peek_call(&message)) else {
            return refuse("The request could not be read.");
        };
        let log_level = request.meta.log_level.clone().filter(|_| !denied.logs);
        let allowed = Request {
            message: &message,
            method: request.method.clone(),
            id: id.clone(),
            meta: Meta {
                capabilities: request.meta.capabilities,
                log_level,
                progress_token: call.progress_token,
            },
            name: request.name.clone(),
            arguments: request.arguments,
        };
        self.call_as_it_is(&allowed, permit, owner, stream).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::modern::{Field, Fields, check};
    use crate::policy::UnmetRules;
    use crate::protocol::parse_line;

    #[test]
    fn a106_what_is_denied_is_removed_in_any_spelling_and_the_rest_stays_as_it_was_written() {
        let params = r#"{"_META":{"a" : 1E400,"IO.modelcontextprotocol/loglevel":"debug"},"_meta":{"io.modelcontextprotocol/\u006cogLevel":1},"notifications":{"toolsListChanged":true,"resource\u017fubscriptions":["x"]}}"#;
        let removed = |logs, resources| Denied { logs, resources }.remove(params).unwrap();
        let without_logs = removed(true, false);
        assert!(without_logs.starts_with(r#"{"_META":{"a":1E400},"_meta":{},"#), "{without_logs}");
        assert!(without_logs.contains(r#"["x"]"#));
        let without_resources = removed(false, true);
        assert!(without_resources.ends_with(r#""notifications":{"toolsListChanged":true}}"#));
        assert!(without_resources.contains(r#""debug""#));
    }

    #[test]
    fn a106_only_rules_for_the_earlier_methods_deny_a_part_of_a_request() {
        let of = |methods: &str, method: &str, level: &str| {
            let rule = format!(r#"[{{"methods":["{methods}"],"denied":true}}]"#);
            let gate = Gate::new(&UnmetRules(serde_json::from_str(&rule).unwrap()), None, &[], &[]);
            let text = format!(
                r#"{{"jsonrpc":"2.0","id":1,"method":"{method}","params":{{"_meta":{{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{{}}{level}}}}}}}"#
            );
            let message = parse_line(text.as_bytes()).unwrap();
            let fields = Fields {
                version: Field::One("2026-07-28"),
                method: Field::One(method),
                name: Field::Absent,
                params: Vec::new(),
            };
            let request = check(&message, &fields).unwrap();
            Denied::of(&request, &gate).map(|denied| (denied.logs, denied.resources))
        };
        let level = r#","io.modelcontextprotocol/logLevel":"info""#;
        assert_eq!(of("logging/*", "tools/list", level), Some((true, false)));
        assert_eq!(of("logging/*", "tools/list", ""), None);
        assert_eq!(of("prompts/*", LISTEN, level), None);
        assert_eq!(of("resources/subscribe", LISTEN, level), Some((false, true)));
        assert_eq!(of("resources/subscribe", "tools/list", ""), None);
    }
}
