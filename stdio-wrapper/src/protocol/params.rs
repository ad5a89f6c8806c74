//! The members of `params` and its `_meta` that decisions depend on. They are located when a message is parsed,
//! so that a large message is not searched again for each decision.

use serde::Deserializer as _;
use serde::de::{IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::malformed::Malformed;
use super::object::{Named, which};
use super::span::{Span, span_in};

/// The member of `_meta` that identifies the task to which a message belongs.
pub(super) const RELATED_TASK: &str = "io.modelcontextprotocol/related-task";
/// The member of `_meta` with the minimum level of the log messages that the client wants for a request (2026-07-28).
pub const LOG_LEVEL: &str = "io.modelcontextprotocol/logLevel";
/// The members of `params` that the wrapper uses.
const PARAMS: [&str; 10] = [
    "_meta",
    "name",
    "uri",
    "taskId",
    "arguments",
    "requestId",
    "progressToken",
    "protocolVersion",
    "level",
    "mode",
];
/// The members of `_meta` that the wrapper uses.
const META: [&str; 6] = [
    "progressToken",
    RELATED_TASK,
    "io.modelcontextprotocol/protocolVersion",
    "io.modelcontextprotocol/clientCapabilities",
    LOG_LEVEL,
    "io.modelcontextprotocol/subscriptionId",
];

/// The state of a member.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
enum Found {
    #[default]
    Missing,
    /// The member's value is at this position of the message.
    At(Span),
    /// The member occurs more than once.
    Repeated,
    /// A key differs from the member's name only in case.
    Refolded,
}

/// The members of one object, in the order of the names in `PARAMS` or `META`.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Table<const N: usize> {
    found: [Found; N],
    /// The error if the object cannot be parsed completely.
    fault: Option<Malformed>,
}

impl<const N: usize> Default for Table<N> {
    fn default() -> Self {
        Self { found: std::array::from_fn(|_| Found::Missing), fault: None }
    }
}

/// The members of `params` and of `_meta`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Params {
    params: Table<{ PARAMS.len() }>,
    meta: Table<{ META.len() }>,
}

impl Params {
    /// Locates the members of `params`, which is a part of `text`.
    pub(super) fn read(text: &str, params: &str) -> Self {
        let params = Table::read(text, params, &PARAMS);
        let meta = match params.found.first() {
            Some(Found::At(span)) => text.get(span.clone()).filter(|meta| meta.starts_with('{')),
            _ => None,
        };
        let meta = meta.map(|meta| Table::read(text, meta, &META)).unwrap_or_default();
        Self { params, meta }
    }

    /// The positions of some members of `params`. A name that is repeated or differs only in case is an error.
    /// Returns `None` if `PARAMS` does not contain one of the names.
    pub(super) fn members<const N: usize>(
        &self,
        names: [&str; N],
    ) -> Option<Result<[Option<Span>; N], Malformed>> {
        self.params.get(&PARAMS, names)
    }

    /// Like [`Params::members`], for `_meta`.
    pub(super) fn meta<const N: usize>(
        &self,
        names: [&str; N],
    ) -> Option<Result<[Option<Span>; N], Malformed>> {
        self.meta.get(&META, names)
    }
}

impl<const N: usize> Table<N> {
    fn read(text: &str, object: &str, names: &[&str; N]) -> Self {
        let mut table = Self::default();
        let mut reader = serde_json::Deserializer::from_str(object);
        let read = reader.deserialize_map(Reader { text, names, found: &mut table.found });
        table.fault = read.err().map(|error| Malformed::in_part(&error));
        table
    }

    fn get<const M: usize>(
        &self,
        known: &[&str; N],
        names: [&str; M],
    ) -> Option<Result<[Option<Span>; M], Malformed>> {
        let mut spans = [const { None }; M];
        for (name, span) in names.iter().zip(&mut spans) {
            let index = known.iter().position(|known| known == name)?;
            *span = match self.found.get(index)? {
                Found::Missing => None,
                Found::At(span) => Some(span.clone()),
                Found::Repeated => return Some(Err(Malformed::Envelope("a key is repeated".to_owned()))),
                Found::Refolded => {
                    let why = format!("a key differs from `{name}` only in upper and lower case");
                    return Some(Err(Malformed::Envelope(why)));
                }
            };
        }
        Some(self.fault.clone().map_or(Ok(spans), Err))
    }
}

struct Reader<'t, const N: usize> {
    text: &'t str,
    names: &'t [&'t str; N],
    found: &'t mut [Found; N],
}

impl<'de, const N: usize> Visitor<'de> for Reader<'_, N> {
    type Value = ();

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<(), M::Error> {
        while let Some(named) = map.next_key_seed(which(self.names))? {
            let (Named::Exactly(index) | Named::Refolded(index)) = named else {
                map.next_value::<IgnoredAny>()?;
                continue;
            };
            let value: &'de RawValue = map.next_value()?;
            let Some(slot) = self.found.get_mut(index) else { continue };
            *slot = match (named, &slot) {
                (Named::Refolded(_), _) | (_, Found::Refolded) => Found::Refolded,
                (_, Found::Missing) => Found::At(span_in(self.text, value.get())),
                _ => Found::Repeated,
            };
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::object::{members, object};
    use super::super::{Message, parse_line};
    use super::*;

    fn found<const N: usize>(text: &str, names: [&'static str; N]) -> Result<Vec<Option<String>>, Malformed> {
        let message: Message<'_> = parse_line(text.as_bytes()).unwrap();
        let known =
            message.members.as_ref().map_or(Ok([const { None }; N]), |known| known.members(names).unwrap());
        let found = known.map(|spans| spans.map(|span| span.map(|span| message.at(&span).to_owned())));
        // A search for all members at once has the same result as a separate search for each.
        let again = object(message.params_text()).map_or(Ok([None; N]), |params| members(params, names));
        let again = again.map(|found| found.map(|value| value.map(str::to_owned)));
        assert_eq!(found, again, "{text}");
        found.map(Vec::from)
    }

    #[test]
    fn a106_members_are_found_once_and_doubtful_ones_are_refused_where_they_count() {
        let of = |params: &str| format!(r#"{{"params":{params},"jsonrpc":"2.0","id":1,"method":"m"}}"#);
        let text = of(r#"{"name":"a\u0041", "x":[{"name":1}],"_meta":{"progressToken" : 7}}"#);
        assert_eq!(
            found(&text, ["name", "_meta", "uri"]).unwrap(),
            [Some(r#""a\u0041""#.to_owned()), Some(r#"{"progressToken" : 7}"#.to_owned()), None]
        );
        for doubled in [r#"{"name":1,"name":2}"#, r#"{"name":1,"n\u0061me":2}"#, r#"{"Name":1}"#] {
            assert!(found(&of(doubled), ["name"]).is_err(), "{doubled}");
            assert_eq!(found(&of(doubled), ["uri"]).unwrap(), [None], "another member");
        }
        assert!(found(&of(r#"{"a":1,"\ud800":2,"name":3}"#), ["uri"]).is_err());
        assert_eq!(found(r#"{"jsonrpc":"2.0","id":1,"method":"m"}"#, ["name"]).unwrap(), [None]);
        let meta = |text: &str| {
            parse_line(text.as_bytes()).unwrap().members.unwrap().meta(["progressToken"]).unwrap()
        };
        assert!(matches!(meta(&text), Ok([Some(_)])));
        assert!(meta(&of(r#"{"_meta":{"progressToken":1,"progresstoken":2}}"#)).is_err());
        assert_eq!(meta(&of(r#"{"_meta":"progressToken"}"#)), Ok([None]));
        assert!(parse_line(of("{}").as_bytes()).unwrap().members.unwrap().members(["unknown"]).is_none());
    }
}
