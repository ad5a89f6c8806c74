//! Reads single members of JSON objects, and elements of arrays. Repeated keys, and keys that differ only in case,
//! are refused, because decisions depend on the members (attack 106).

use std::borrow::Cow;

use serde::Deserializer as _;
use serde::de::{DeserializeSeed, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::envelope_key::folds_to;
use super::malformed::Malformed;

/// Returns the text if it is an object.
pub fn object(text: Option<&str>) -> Option<&str> {
    text.filter(|text| text.starts_with('{'))
}

/// Returns the value of a JSON string.
pub fn string(text: &str) -> Option<Cow<'_, str>> {
    match text.strip_prefix('"')?.strip_suffix('"')? {
        plain if !plain.contains('\\') => Some(Cow::Borrowed(plain)),
        _ => serde_json::from_str::<String>(text).ok().map(Cow::Owned),
    }
}

/// The values of some members of an object, as JSON text. A name that is repeated or differs only in case is an
/// error.
pub fn members<'a, const N: usize>(
    text: &'a str,
    names: [&str; N],
) -> Result<[Option<&'a str>; N], Malformed> {
    let mut reader = serde_json::Deserializer::from_str(text);
    reader.deserialize_map(Members(names)).map_err(|error| Malformed::in_part(&error))
}

/// At most `most` elements of an array, as JSON text. Returns an empty list if the text is not an array.
pub fn elements(text: &str, most: usize) -> Vec<&str> {
    let mut reader = serde_json::Deserializer::from_str(text);
    reader.deserialize_seq(Elements(most)).unwrap_or_default()
}

struct Elements(usize);

impl<'de> Visitor<'de> for Elements {
    type Value = Vec<&'de str>;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("an array")
    }

    fn visit_seq<S: SeqAccess<'de>>(self, mut all: S) -> Result<Self::Value, S::Error> {
        let mut out = Vec::new();
        while out.len() < self.0
            && let Some(element) = all.next_element::<&'de RawValue>()?
        {
            out.push(element.get());
        }
        while all.next_element::<IgnoredAny>()?.is_some() {}
        Ok(out)
    }
}

struct Members<'n, const N: usize>([&'n str; N]);

impl<'de, const N: usize> Visitor<'de> for Members<'_, N> {
    type Value = [Option<&'de str>; N];

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Self::Value, M::Error> {
        let mut out = [None; N];
        while let Some(named) = map.next_key_seed(which(&self.0))? {
            let slot = match named {
                Named::Exactly(index) => out.get_mut(index),
                Named::Refolded(index) => {
                    let name = self.0.get(index).unwrap_or(&"");
                    let why = format!("a key differs from `{name}` only in upper and lower case");
                    return Err(M::Error::custom(why));
                }
                Named::Otherwise => None,
            };
            let Some(slot) = slot else {
                map.next_value::<IgnoredAny>()?;
                continue;
            };
            if slot.replace(map.next_value::<&'de RawValue>()?.get()).is_some() {
                return Err(M::Error::custom("a key is repeated"));
            }
        }
        Ok(out)
    }
}

/// The result of comparing a key with several names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Named {
    /// The name with this index.
    Exactly(usize),
    /// A key that differs from the name with this index only in case.
    Refolded(usize),
    /// A key that differs from all names.
    Otherwise,
}

/// Reads a key, and compares it with these names.
pub(super) fn which<'n>(names: &'n [&'n str]) -> WhichKey<'n> {
    WhichKey(names)
}

pub(super) struct WhichKey<'n>(&'n [&'n str]);

impl<'de> DeserializeSeed<'de> for WhichKey<'_> {
    type Value = Named;
    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_identifier(self)
    }
}

impl Visitor<'_> for WhichKey<'_> {
    type Value = Named;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E: serde::de::Error>(self, key: &str) -> Result<Self::Value, E> {
        let position = |is_it: &dyn Fn(&str) -> bool| self.0.iter().position(|name| is_it(name));
        Ok(match (position(&|name| name == key), position(&|name| folds_to(key, name))) {
            (Some(index), _) => Named::Exactly(index),
            (None, Some(index)) => Named::Refolded(index),
            (None, None) => Named::Otherwise,
        })
    }
}
