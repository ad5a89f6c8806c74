//! The identifier of a grant. It is part of refresh tokens, of access tokens and of the names of rows.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};

use super::account::short_id;

const PREFIX: &str = "grt_";

/// Identifier of a grant (`gid` in access tokens), with which it can be revoked: `grt_` and 16 bytes in base64url.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct GrantId(String);

impl GrantId {
    /// Creates an identifier from random bytes.
    pub fn new(random: [u8; 32]) -> Self {
        Self(format!("{PREFIX}{}", short_id(random)))
    }

    /// Encodes an identifier from its 16 bytes.
    pub(super) fn of(bytes: [u8; 16]) -> Self {
        Self(format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(bytes)))
    }

    /// The 16 bytes of the identifier. Decoding cannot fail, because the format was checked at construction.
    pub(super) fn bytes(&self) -> [u8; 16] {
        decode(&self.0).unwrap_or_default()
    }

    /// The identifier as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

fn decode(text: &str) -> Option<[u8; 16]> {
    let bytes = URL_SAFE_NO_PAD.decode(text.strip_prefix(PREFIX)?).ok()?;
    bytes.try_into().ok()
}

impl TryFrom<String> for GrantId {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        decode(&text).map(|_| Self(text)).ok_or("expected the identifier of a grant")
    }
}

impl From<GrantId> for String {
    fn from(id: GrantId) -> Self {
        id.0
    }
}

impl fmt::Display for GrantId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_identifier_of_a_grant_has_one_form() {
        let id = GrantId::new([7; 32]);
        assert_eq!(GrantId::of(id.bytes()), id);
        assert_eq!(serde_json::from_value::<GrantId>(serde_json::json!(id.as_str())).unwrap(), id);
        for other in ["", "grt_", "grt_AA", "AAAAAAAAAAAAAAAAAAAAAA", "grt_AAAAAAAAAAAAAAAAAAAAAAA", "grt_*"]
        {
            assert!(GrantId::try_from(other.to_owned()).is_err(), "{other}");
        }
    }
}
