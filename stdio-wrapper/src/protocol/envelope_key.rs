//! The keys of the JSON-RPC envelope, and keys that another parser might take for one of them (attack 106).

use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, Visitor};

/// The keys of the envelope, and one variant for all keys that are not similar to them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Key {
    JsonRpc,
    Id,
    Method,
    Params,
    Result,
    Error,
    Other,
}

impl Key {
    pub(super) fn of(name: &str) -> Result<Self, &'static str> {
        Ok(match name {
            "jsonrpc" => Self::JsonRpc,
            "id" => Self::Id,
            "method" => Self::Method,
            "params" => Self::Params,
            "result" => Self::Result,
            "error" => Self::Error,
            other => {
                if let Some(known) = ["jsonrpc", "id", "method", "params", "result", "error"]
                    .into_iter()
                    .find(|known| folds_to(other, known))
                {
                    return Err(known);
                }
                Self::Other
            }
        })
    }
}

/// Whether a case-insensitive parser would treat `name` as `known`. Go's parser also folds the long s and the
/// Kelvin sign, and other parsers fold the two Turkish letters i.
pub fn folds_to(name: &str, known: &str) -> bool {
    let fold = |letter: char| match letter {
        '\u{17f}' => 's',
        '\u{212a}' => 'k',
        '\u{130}' | '\u{131}' => 'i',
        other => other.to_ascii_lowercase(),
    };
    name.len() >= known.len()
        && name.len() <= known.len() * 3
        && name.chars().map(fold).eq(known.chars().map(fold))
}

impl<'de> Deserialize<'de> for Key {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct KeyVisitor;
        impl Visitor<'_> for KeyVisitor {
            type Value = Key;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a key")
            }
            fn visit_str<E: serde::de::Error>(self, name: &str) -> Result<Key, E> {
                Key::of(name).map_err(|known| {
                    E::custom(format!("a key differs from `{known}` only in upper and lower case"))
                })
            }
        }
        deserializer.deserialize_identifier(KeyVisitor)
    }
}
