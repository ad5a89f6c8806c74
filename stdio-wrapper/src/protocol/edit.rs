//! An object whose members are exchanged while the values of the others stay as they were written.

use std::borrow::Cow;
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

/// The members of an object, in order, each value as JSON text.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Members<'a>(Vec<(Cow<'a, str>, Cow<'a, str>)>);

impl<'a> Members<'a> {
    /// Of JSON text; `None` if it is no object.
    pub fn parse(text: &'a str) -> Option<Self> {
        serde_json::from_str(text).ok()
    }

    /// A member's value; of several with one name the last, as most readers see it.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().rev().find(|(known, _)| known == name).map(|(_, value)| value.as_ref())
    }

    /// Takes a member out.
    pub fn remove(&mut self, name: &str) -> Option<Cow<'a, str>> {
        let found = self.0.iter().rposition(|(known, _)| known == name)?;
        let (_, value) = self.0.remove(found);
        self.0.retain(|(known, _)| known != name);
        Some(value)
    }

    /// Keeps only some members.
    pub fn retain(&mut self, mut keep: impl FnMut(&str) -> bool) {
        self.0.retain(|(name, _)| keep(name));
    }

    /// Sets a member to JSON text.
    pub fn set(&mut self, name: &'a str, value: impl Into<Cow<'a, str>>) {
        let value = value.into();
        match self.0.iter_mut().find(|(known, _)| known == name) {
            Some(slot) => slot.1 = value,
            None => self.0.push((Cow::Borrowed(name), value)),
        }
    }

    /// Sets a member to JSON text if there is none.
    pub fn set_default(&mut self, name: &'a str, value: impl Into<Cow<'a, str>>) {
        if self.get(name).is_none() {
            self.set(name, value);
        }
    }

    /// Names and values.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_ref(), value.as_ref()))
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
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
}
