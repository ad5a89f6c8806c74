//! Finds the parts of a message that the rules deny although they allow its method. In the stateless revision, a request
//! asks for log messages in its `_meta`, and a subscription asks for updates of resources. In earlier revisions, each of
//! these has a method of its own, and rules contain the names of these methods. A server can support both kinds of
//! revisions, and need not check which of them a request belongs to (attack 106).

use std::borrow::Cow;

use super::Gate;
use crate::protocol::{Kind, LOG_LEVEL, Message, edit_members, folds_to, object};

/// The method of a subscription.
const LISTEN: &str = "subscriptions/listen";

/// The parts of a message that the rules deny.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Denied {
    logs: bool,
    resources: bool,
}

impl Denied {
    /// Returns `None` if the message contains nothing that must be removed.
    pub(crate) fn of(message: &Message<'_>, gate: &Gate) -> Option<Self> {
        let is_denied = |method| !gate.is_open() && gate.pass(method, None).is_err();
        // An error means that the key is repeated, or in other letters. A server could find the level in any of them, or
        // in a value that is no object.
        let asks_for_logs = || match message.members(["_meta"]) {
            Ok([None | Some("null")]) => false,
            Ok([Some(meta)]) if object(Some(meta)).is_some() => {
                !matches!(message.meta([LOG_LEVEL]), Ok([None]))
            }
            _ => true,
        };
        let is_subscription = match &message.kind {
            Kind::Request { method, .. } | Kind::Notification { method } => folds_to(method, LISTEN),
            Kind::Response { .. } => false,
        };
        let denied = Self {
            logs: is_denied("logging/setLevel") && asks_for_logs(),
            resources: is_subscription && is_denied("resources/subscribe"),
        };
        (denied.logs || denied.resources).then_some(denied)
    }

    /// Whether log messages are denied.
    pub(crate) fn has_logs(self) -> bool {
        self.logs
    }

    /// Why a message of a session is refused. The revisions with sessions do not have these parts, so no client of a
    /// session needs the rest of the message.
    pub(crate) fn refusal(self) -> &'static str {
        if self.resources {
            "The rules deny resources/subscribe, so they also deny subscriptions/listen in a session."
        } else {
            "The rules deny logging/setLevel, so a message of a session must not ask for log messages. Remove io.modelcontextprotocol/logLevel from its `_meta`."
        }
    }

    /// Removes these parts from params, which are JSON text. Some servers ignore the case of keys.
    pub(crate) fn remove(self, params: &str) -> Option<String> {
        edit_members(params, |name, value| {
            if self.logs && folds_to(name, "_meta") {
                without(value, LOG_LEVEL)
            } else if self.resources && folds_to(name, "notifications") {
                without(value, "resourceSubscriptions")
            } else {
                Some(value.into())
            }
        })
    }
}

/// The object without this member. Returns `None` for any other value: it does not follow the schema, and a server might
/// still find the member in it, for example in an array.
fn without<'a>(value: &'a str, member: &str) -> Option<Cow<'a, str>> {
    let object = object(Some(value))?;
    edit_members(object, |name, value| (!folds_to(name, member)).then(|| value.into())).map(Cow::Owned)
}

#[cfg(test)]
mod tests {
    use super::*;
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
    fn a106_what_is_no_object_is_removed_if_a_part_of_it_could_be_denied() {
        let removed = |params: String| Denied { logs: true, resources: true }.remove(&params).unwrap();
        for value in [r#"[{"resourceSubscriptions":["x"]}]"#, r#""resourceSubscriptions""#, "null", "7"] {
            assert_eq!(removed(format!(r#"{{"notifications":{value},"a":[1]}}"#)), r#"{"a":[1]}"#);
            assert_eq!(removed(format!(r#"{{"_meta":{value},"a":[1]}}"#)), r#"{"a":[1]}"#);
        }
    }

    #[test]
    fn a106_only_rules_for_the_earlier_methods_deny_a_part_of_a_request() {
        let gate = |methods: &str| {
            let rule = format!(r#"[{{"methods":["{methods}"],"denied":true}}]"#);
            Gate::new(&UnmetRules(serde_json::from_str(&rule).unwrap()), None, &[], &[])
        };
        let of = |methods: &str, method: &str, level: &str| {
            let text =
                format!(r#"{{"jsonrpc":"2.0","id":1,"method":"{method}","params":{{"_meta":{{{level}}}}}}}"#);
            let message = parse_line(text.as_bytes()).unwrap();
            Denied::of(&message, &gate(methods)).map(|denied| (denied.logs, denied.resources))
        };
        let level = r#""io.modelcontextprotocol/logLevel":"info""#;
        assert_eq!(of("logging/*", "tools/list", level), Some((true, false)));
        assert_eq!(of("logging/*", "tools/list", ""), None);
        let with_meta = |meta: &str| {
            let text = format!(r#"{{"jsonrpc":"2.0","method":"notifications/x","params":{{{meta}}}}}"#);
            Denied::of(&parse_line(text.as_bytes()).unwrap(), &gate("logging/*")).is_some()
        };
        for hidden in [
            format!(r#""_Meta":{{{level}}}"#),
            format!(r#""_meta":{{{level}}},"_meta":{{}}"#),
            format!(r#""_meta":[{{{level}}}]"#),
            format!(r#""_meta":{{{level},{level}}}"#),
        ] {
            assert!(with_meta(&hidden), "{hidden}");
        }
        for harmless in [r#""_meta":null"#, r#""_meta":{"a":1}"#, r#""a":{}"#] {
            assert!(!with_meta(harmless), "{harmless}");
        }
        assert_eq!(of("prompts/*", LISTEN, level), None);
        assert_eq!(of("resources/subscribe", LISTEN, level), Some((false, true)));
        assert_eq!(of("resources/subscribe", "tools/list", ""), None);
    }
}
