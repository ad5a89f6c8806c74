//! Client identifiers (RFC 6749 §2.2).

use std::fmt;

use serde::{Deserialize, Serialize};

use super::account::{Subject, short_id};

/// A client identifier: visible ASCII (RFC 6749 Appendix A.1), without spaces.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ClientId(String);

impl ClientId {
    /// An identifier that this server issues, made of 128 bits of a hash or of random bytes. It cannot be
    /// mistaken for the URL of a client metadata document.
    pub fn issued(digest: [u8; 32]) -> Self {
        Self(format!("mcp_{}", short_id(digest)))
    }

    /// The identifier as it is sent.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The subject of a client that acts for itself: its client identifier (RFC 9068 §2.2). No client
    /// identifier starts with the prefix of a user's subject.
    pub fn subject(&self) -> Subject {
        Subject::identified_by(&self.0)
    }
}

impl fmt::Display for ClientId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The string is not a valid client identifier.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a client_id is 1 to 2048 characters of visible ASCII")]
pub struct InvalidClientId;

impl TryFrom<String> for ClientId {
    type Error = InvalidClientId;

    fn try_from(text: String) -> Result<Self, InvalidClientId> {
        let valid = (1..=2048).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic());
        if valid { Ok(Self(text)) } else { Err(InvalidClientId) }
    }
}

impl From<ClientId> for String {
    fn from(id: ClientId) -> Self {
        id.0
    }
}
