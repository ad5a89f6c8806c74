//! A question from a server to its client. In the earlier revisions, it is a request. In the stateless
//! revision, it is an entry in an input-required result. This module is pure.

use std::fmt::Write as _;

use serde_json::{Value, json};

use crate::budget::{Kept, Reservation};
use crate::protocol::{Members, Message, Outgoing, members, object, string};

/// The member of `_meta` in which a server of an earlier revision can suggest a name for its question.
const KEY_HINT: &str = "mcp-gate/inputKey";

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Question {
    /// The child's id, as JSON text.
    pub(super) id: Kept,
    pub(super) method: String,
    /// The params as JSON text, without `_meta`.
    pub(super) params: Kept,
    /// The name that the child suggests.
    pub(super) hint: Option<String>,
    /// Whether the user must visit a page.
    pub(super) is_url: bool,
}

/// The parts of a question that are read from its params.
#[derive(Debug)]
pub(super) struct QuestionParts {
    params: String,
    hint: Option<String>,
}

impl QuestionParts {
    /// Reads the params, which are JSON text.
    pub(super) fn read(params: &str) -> Self {
        let mut members = Members::parse(params).unwrap_or_default();
        let meta = members.remove("_meta");
        let hint = meta.and_then(|meta| {
            let [hint] = crate::protocol::members(&meta, [KEY_HINT]).ok()?;
            let hint = string(hint?)?;
            (!hint.is_empty() && hint.len() <= 64).then(|| hint.into_owned())
        });
        // Tasks are a different protocol in the stateless revision.
        members.remove("task");
        Self { params: members.to_string(), hint }
    }
}

/// Whether a request from the child asks the user to visit a page. A request whose mode is ambiguous is treated as
/// one that does.
pub(super) fn is_url(message: &Message<'_>) -> bool {
    let [mode] = message.members(["mode"]).unwrap_or([Some(r#""url""#)]);
    mode.and_then(string).as_deref() == Some("url")
}

/// Whether a client can answer a question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Needs {
    /// The client can answer the question.
    Nothing,
    /// The client did not declare this capability, which is JSON text.
    Capability(String),
    /// No client of the stateless revision can answer this request.
    Unknown,
}

impl Question {
    /// Converts a request from the child into a question. Returns `None` if there is no memory for it.
    pub(super) fn of(
        parts: QuestionParts,
        (method, id): (&str, &str),
        is_url: bool,
        reservation: &Reservation,
    ) -> Option<Self> {
        let QuestionParts { params, hint } = parts;
        let (id, params) = (reservation.keep(id)?, reservation.keep(params)?);
        Some(Self { id, method: method.to_owned(), params, hint, is_url })
    }

    /// Creates a question from a page that the user must visit before the client repeats the call (2025-11-25,
    /// "URL Mode Elicitation"). The child has already ended that call, so the answer is not sent to it.
    /// `params` are JSON text. Returns `None` if there is no memory for it.
    pub(super) fn page(params: &str, reservation: &Reservation) -> Option<Self> {
        let (id, params) = (reservation.keep("null")?, reservation.keep(params)?);
        Some(Self { id, method: "elicitation/create".to_owned(), params, hint: None, is_url: true })
    }

    /// Whether a client with these capabilities can answer this question.
    pub(super) fn needs(&self, capabilities: &Value) -> Needs {
        needs(&self.method, self.is_url, capabilities)
    }

    /// Chooses a name that no other question has.
    pub(super) fn key<'k>(&self, mut taken: impl FnMut(&str) -> bool + 'k) -> String {
        let kind = self.method.split('/').next().unwrap_or("input");
        let base = self.hint.clone().unwrap_or_else(|| kind.to_owned());
        if !taken(&base) {
            return base;
        }
        (2..=u32::MAX).map(|count| format!("{base}_{count}")).find(|key| !taken(key)).unwrap_or(base)
    }

    /// Writes the entry for `inputRequests`, as JSON text.
    pub(super) fn write(&self, out: &mut String) {
        let method = Value::from(self.method.as_str());
        // Writing to a string cannot fail.
        let _ = write!(out, r#"{{"method":{method},"params":{}}}"#, &*self.params);
    }

    /// Whether `answer` is a valid answer to this question.
    pub(super) fn takes(&self, answer: &str) -> bool {
        let names = ["action", "role", "content", "roots"];
        let found = object(Some(answer)).and_then(|answer| members(answer, names).ok());
        let Some([action, role, content, roots]) = found else { return false };
        match self.method.as_str() {
            "elicitation/create" => action
                .and_then(string)
                .is_some_and(|action| ["accept", "decline", "cancel"].contains(&action.as_ref())),
            "sampling/createMessage" => role.is_some() && content.is_some(),
            "roots/list" => roots.is_some_and(|roots| roots.starts_with('[')),
            _ => false,
        }
    }

    /// The response for the child.
    pub(super) fn response(&self, answer: &str) -> String {
        Outgoing::Result { id: &self.id, result: answer }.text()
    }

    /// The error for the child if the client did not declare the capability that the question needs.
    pub(super) fn lacking(&self) -> String {
        lacking(&self.id)
    }

    /// An error for the child.
    pub(super) fn refusal(&self, code: i32, why: &str) -> String {
        refusal(&self.id, code, why)
    }
}

/// Whether a client with these capabilities can answer this request.
pub(super) fn needs(method: &str, is_url: bool, capabilities: &Value) -> Needs {
    let name = match method {
        "elicitation/create" => "elicitation",
        "sampling/createMessage" => "sampling",
        "roots/list" => "roots",
        _ => return Needs::Unknown,
    };
    let Some(declared) = capabilities.get(name) else {
        return Needs::Capability(json!({ name: {} }).to_string());
    };
    if name == "elicitation" && is_url && declared.get("url").is_none() {
        return Needs::Capability(json!({ "elicitation": {"url": {}} }).to_string());
    }
    Needs::Nothing
}

/// The error for a question that needs a capability that the client did not declare. `id` is JSON text.
pub(super) fn lacking(id: &str) -> String {
    refusal(id, -32601, "The client did not declare this capability.")
}

/// An error for the child's request with this id, which is JSON text.
pub(super) fn refusal(id: &str, code: i32, why: &str) -> String {
    let error = json!({ "code": code, "message": why }).to_string();
    Outgoing::Error { id, error: &error }.text()
}

/// Parses `inputResponses`: the answers by name, as JSON text. Returns `None` if the text is not an object.
pub(super) fn responses(text: Option<&str>) -> Option<Members<'_>> {
    match text {
        None => Some(Members::default()),
        Some(text) => Members::parse(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::{Kind, parse_line};

    fn question(text: &str) -> Question {
        let message = parse_line(text.as_bytes()).unwrap();
        let Kind::Request { method, id } = &message.kind else { unreachable!() };
        let parts = QuestionParts::read(message.params_text().unwrap_or_default());
        Question::of(parts, (method, message.at(id)), is_url(&message), &Reservation::unlimited()).unwrap()
    }

    #[test]
    fn a_question_names_what_it_needs_and_takes_only_what_fits() {
        let ask = question(
            r#"{"jsonrpc":"2.0","id":"q","method":"elicitation/create","params":{"_meta":{"mcp-gate/inputKey":"who","progressToken":3},"message":"Who?","requestedSchema":{}}}"#,
        );
        assert_eq!(&*ask.params, r#"{"message":"Who?","requestedSchema":{}}"#);
        assert_eq!(ask.key(|_| false), "who");
        assert_eq!(ask.key(|key| key == "who"), "who_2");
        assert_eq!(ask.needs(&json!({"elicitation": {}})), Needs::Nothing);
        assert_eq!(
            ask.needs(&json!({"sampling": {}})),
            Needs::Capability(r#"{"elicitation":{}}"#.to_owned())
        );
        assert!(ask.takes(r#"{"action":"accept","content":{}}"#));
        assert!(!ask.takes("12345") && !ask.takes(r#"{"action":"maybe"}"#));
        let url = question(
            r#"{"jsonrpc":"2.0","id":1,"method":"elicitation/create","params":{"mode":"url","url":"https://a.example"}}"#,
        );
        assert_eq!(
            url.needs(&json!({"elicitation": {}})),
            Needs::Capability(r#"{"elicitation":{"url":{}}}"#.to_owned())
        );
        let odd = question(r#"{"jsonrpc":"2.0","id":1,"method":"tasks/get"}"#);
        assert_eq!(odd.needs(&json!({})), Needs::Unknown);
    }
}
