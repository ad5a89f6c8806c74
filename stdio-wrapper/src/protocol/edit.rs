//! Replaces members of an object, while the values of all other members stay unchanged.

use std::borrow::Cow;
use std::fmt::{self, Write as _};

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

/// The members of an object, in order. Each value is JSON text.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Members<'a>(Vec<(Cow<'a, str>, Cow<'a, str>)>);

impl<'a> Members<'a> {
    /// Parses JSON text. Returns `None` if it is not an object.
    pub fn parse(text: &'a str) -> Option<Self> {
        serde_json::from_str(text).ok()
    }

    /// The value of a member. If several members have this name, it is the last one, as in most parsers.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().rev().find(|(known, _)| known == name).map(|(_, value)| value.as_ref())
    }

    /// Removes a member. Returns its value.
    pub fn remove(&mut self, name: &str) -> Option<Cow<'a, str>> {
        let found = self.0.iter().rposition(|(known, _)| known == name)?;
        let (_, value) = self.0.remove(found);
        self.0.retain(|(known, _)| known != name);
        Some(value)
    }

    /// Keeps only the members for which `keep` is true.
    pub fn retain(&mut self, mut keep: impl FnMut(&str) -> bool) {
        self.0.retain(|(name, _)| keep(name));
    }

    /// Sets the value of a member, which is JSON text.
    pub fn set(&mut self, name: &'a str, value: impl Into<Cow<'a, str>>) {
        let value = value.into();
        match self.0.iter_mut().find(|(known, _)| known == name) {
            Some(slot) => slot.1 = value,
            None => self.0.push((Cow::Borrowed(name), value)),
        }
    }

    /// Sets the value of a member, which is JSON text, if the member is missing.
    pub fn set_default(&mut self, name: &'a str, value: impl Into<Cow<'a, str>>) {
        if self.get(name).is_none() {
            self.set(name, value);
        }
    }

    /// The names and values of all members, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_ref(), value.as_ref()))
    }

    /// The number of members.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are no members.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Rewrites an object, with its members kept, replaced or omitted. `edit` gets the name and the value of each
/// member, and returns its new value or `None`. Values are JSON text. Returns `None` if the text is not an
/// object. Even a large object is copied only once.
pub fn edit_members<'a>(
    text: &'a str,
    edit: impl FnMut(&str, &'a str) -> Option<Cow<'a, str>>,
) -> Option<String> {
    let mut reader = serde_json::Deserializer::from_str(text);
    let out = reader.deserialize_map(Edited { out: String::with_capacity(text.len()), edit }).ok()?;
    reader.end().is_ok().then_some(out)
}

/// Adds a member, whose value is JSON text, to an object.
pub fn add_member(object: &mut String, name: &str, value: &str) {
    object.truncate(object.trim_end().len());
    if object.pop() == Some('}') {
        put_member(object, name, value);
        object.push('}');
    }
}

/// Writes a member at the end of an unfinished object.
fn put_member(out: &mut String, name: &str, value: &str) {
    if !out.ends_with('{') {
        out.push(',');
    }
    // Writing to a string cannot fail.
    let _ = write!(out, "{}:{value}", serde_json::Value::from(name));
}

/// Rewrites an object while it is being parsed.
struct Edited<F> {
    out: String,
    edit: F,
}

impl<'de, F: FnMut(&str, &'de str) -> Option<Cow<'de, str>>> Visitor<'de> for Edited<F> {
    type Value = String;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<M: MapAccess<'de>>(mut self, mut map: M) -> Result<String, M::Error> {
        self.out.push('{');
        while let Some((name, value)) = map.next_entry::<Cow<'de, str>, &'de RawValue>()? {
            if let Some(value) = (self.edit)(&name, value.get()) {
                put_member(&mut self.out, &name, &value);
            }
        }
        self.out.push('}');
        Ok(self.out)
    }
}

impl fmt::Display for Members<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("{")?;
        for (index, (name, value)) in self.0.iter().enumerate() {
            let comma = if index > 0 { "," } else { "" };
            write!(f, "{comma}{}:{value}", serde_json::Value::from(name.as_ref()))?;
        }
        f.write_str("}")
    }
}

impl<'de> Deserialize<'de> for Members<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct MembersVisitor;
        impl<'de> Visitor<'de> for MembersVisitor {
            type Value = Members<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Self::Value, M::Error> {
                let mut out = Vec::new();
                while let Some(name) = map.next_key::<String>()? {
                    let value: &'de RawValue = map.next_value()?;
                    out.push((Cow::Owned(name), Cow::Borrowed(value.get())));
                }
                Ok(Members(out))
            }
        }
        deserializer.deserialize_map(MembersVisitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_touched_stays_as_it_was_written() {
        let mut members = Members::parse(r#"{ "a" : 1E400, "b":{"x" : [1 , 2]}, "\u0063":"d" }"#).unwrap();
        assert_eq!(members.get("c"), Some("\"d\""));
        members.remove("a");
        members.set("b", "2");
        members.set_default("c", "3");
        members.set_default("e", "[1 , 2]");
        assert_eq!(members.to_string(), r#"{"b":2,"c":"d","e":[1 , 2]}"#);
        assert!(Members::parse("[]").is_none());
    }

    #[test]
    fn an_object_is_edited_while_it_is_read() {
        let text = r#" { "a" : 1E400, "b":{"x" : [1 , 2]}, "\u0063\n":"d", "e":{} } "#;
        let edited = edit_members(text, |name, value| match name {
            "a" => None,
            "b" => Some("2".into()),
            _ => Some(value.into()),
        });
        let mut edited = edited.unwrap();
        assert_eq!(edited, r#"{"b":2,"c\n":"d","e":{}}"#);
        add_member(&mut edited, "f", "[]");
        assert_eq!(edited, r#"{"b":2,"c\n":"d","e":{},"f":[]}"#);
        let mut empty = edit_members("{}", |_, value| Some(value.into())).unwrap();
        add_member(&mut empty, "f", "[]");
        assert_eq!(empty, r#"{"f":[]}"#);
        for text in ["[]", "{", "{} {}", "1"] {
            assert_eq!(edit_members(text, |_, value| Some(value.into())), None, "{text}");
        }
    }
}
