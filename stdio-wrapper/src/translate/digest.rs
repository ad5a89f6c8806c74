//! A digest of a JSON value. Different spellings of the same value have the same digest. The value is read as a
//! stream, because a tree would need many times the memory of its text. This module is pure.

use std::borrow::Cow;
use std::fmt;

use aws_lc_rs::digest::{Context, SHA256};
use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

/// The SHA-256 of a value. The order of the members of an object does not matter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Digest([u8; 32]);

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl Digest {
    /// The digest of an object (JSON text) without the given members. A member that cannot be parsed is
    /// digested as raw text.
    pub(super) fn of_members(text: &str, without: &[&str]) -> Self {
        let mut digests = Vec::new();
        let mut reader = serde_json::Deserializer::from_str(text);
        // Text that is not an object has no members.
        let _ = reader.deserialize_map(Each { without, digests: &mut digests });
        digests.sort_unstable();
        let mut context = Context::new(&SHA256);
        for digest in digests {
            context.update(&digest.0);
        }
        Self::finish(context)
    }

    /// The digest of JSON text. Text that cannot be parsed is digested as raw text.
    pub(super) fn of_json(text: &str) -> Self {
        let mut context = Context::new(&SHA256);
        let mut reader = serde_json::Deserializer::from_str(text);
        if Part(&mut context).deserialize(&mut reader).and_then(|()| reader.end()).is_err() {
            context = Context::new(&SHA256);
            put(&mut context, b'x', text.as_bytes());
        }
        Self::finish(context)
    }

    fn finish(context: Context) -> Self {
        let mut bytes = [0; 32];
        bytes.iter_mut().zip(context.finish().as_ref()).for_each(|(to, from)| *to = *from);
        Self(bytes)
    }
}

/// Collects the digests of an object's members.
struct Each<'a> {
    without: &'a [&'a str],
    digests: &'a mut Vec<Digest>,
}

impl<'de> Visitor<'de> for Each<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<(), A::Error> {
        while let Some((name, value)) = members.next_entry::<Cow<'de, str>, &'de RawValue>()? {
            if !self.without.contains(&name.as_ref()) {
                let mut context = Context::new(&SHA256);
                put(&mut context, b's', name.as_bytes());
                context.update(&Digest::of_json(value.get()).0);
                self.digests.push(Digest::finish(context));
            }
        }
        Ok(())
    }
}

/// Digests a value together with its kind and its length, so that different values never result in the same
/// bytes.
fn put(context: &mut Context, kind: u8, bytes: &[u8]) {
    context.update(&[kind]);
    context.update(&(bytes.len() as u64).to_be_bytes());
    context.update(bytes);
}

/// Adds a value to the digest of the value that contains it.
struct Part<'c>(&'c mut Context);

impl<'de> DeserializeSeed<'de> for Part<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, reader: D) -> Result<(), D::Error> {
        reader.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Part<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E: Error>(self) -> Result<(), E> {
        put(self.0, b'n', b"");
        Ok(())
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<(), E> {
        put(self.0, b'b', &[u8::from(value)]);
        Ok(())
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<(), E> {
        put(self.0, b'u', &value.to_be_bytes());
        Ok(())
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<(), E> {
        put(self.0, b'i', &value.to_be_bytes());
        Ok(())
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<(), E> {
        put(self.0, b'f', &value.to_bits().to_be_bytes());
        Ok(())
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<(), E> {
        put(self.0, b's', value.as_bytes());
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        put(self.0, b'[', b"");
        while items.next_element_seed(Part(self.0))?.is_some() {}
        put(self.0, b']', b"");
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<(), A::Error> {
        let mut digests = Vec::new();
        loop {
            let mut context = Context::new(&SHA256);
            if members.next_key_seed(Part(&mut context))?.is_none() {
                break;
            }
            members.next_value_seed(Part(&mut context))?;
            digests.push(Digest::finish(context));
        }
        digests.sort_unstable();
        put(self.0, b'{', b"");
        for digest in digests {
            self.0.update(&digest.0);
        }
        put(self.0, b'}', b"");
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_members_of_an_object_count_without_those_that_are_left_out() {
        let of = |text: &str| Digest::of_members(text, &["_meta", "requestState"]);
        let params = of(r#"{"name":"x","arguments":{"a":1,"b":1E400}}"#);
        assert_eq!(
            params,
            of(r#"{"_meta":{"c":2},"arguments": {"a":1,"b":1E400},"requestState":"y","name":"\u0078"}"#)
        );
        assert_ne!(params, of(r#"{"name":"x","arguments":{"a":1,"b":1E401}}"#));
        assert_ne!(of(r#"{"a":1}"#), of(r#"{"a":1,"a":1}"#));
        assert_ne!(of(r#"{"a":1}"#), of("{}"));
        let many = format!("{{\"a\":1{}}}", ",\"a\":1".repeat(10_000));
        assert_eq!(of(&many).to_string().len(), 64, "the length does not depend on the number of members");
    }

    #[test]
    fn two_spellings_of_one_value_are_equal_and_other_values_are_not() {
        let same = |one: &str, other: &str| Digest::of_json(one) == Digest::of_json(other);
        assert!(same(
            r#"{"a":[1,{"x":null,"y":"\u00e9"}],"b":{}}"#,
            r#" {"b":{}, "a":[1, {"y":"é","x":null}]}"#
        ));
        for (one, other) in [
            ("[1,2]", "[2,1]"),
            ("[[1],2]", "[[1,2]]"),
            (r#"["ab","c"]"#, r#"["a","bc"]"#),
            ("1", "1.0"),
            ("1", r#""1""#),
            (r#"{"a":1,"b":2}"#, r#"{"a":2,"b":1}"#),
            (r#"{"a":{"b":1}}"#, r#"{"b":{"a":1}}"#),
            ("[]", "{}"),
            ("[null]", "[]"),
            ("[1E400]", "[1E401]"),
            (r#"{"a":1}"#, r#"{"a":1,"a":1}"#),
        ] {
            assert!(!same(one, other), "{one} and {other}");
        }
        assert!(same("[1E400]", "[1E400]"));
    }
}
