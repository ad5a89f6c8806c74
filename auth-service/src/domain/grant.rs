//! Authorization codes and grants: what a person allowed a client to do, and the refresh tokens that keep it alive.

use std::fmt;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};

use super::account::{Subject, short_id};
use super::client::{Client, ClientId, RegistrationId};
use super::clock::UnixTime;
use super::key_thumbprint::KeyThumbprint;
use super::opaque_token::TokenHash;
use super::pkce::CodeChallenge;
use super::redirect_uri::RedirectUri;
use super::refresh_token::{Line, Presented};
use super::resource::ResourceUri;
use super::scope::Scope;

const PREFIX: &str = "grt_";

/// Identifies a grant: what is revoked (`gid` in access tokens). `grt_` and 16 bytes in base64url.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct GrantId(String);

impl GrantId {
    /// A new identifier of these random bytes.
    pub fn new(random: [u8; 32]) -> Self {
        Self(format!("{PREFIX}{}", short_id(random)))
    }

    /// The identifier of these bytes.
    pub(super) fn of(bytes: [u8; 16]) -> Self {
        Self(format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(bytes)))
    }

    /// The bytes that it is made of. Its form has been checked.
    pub(super) fn bytes(&self) -> [u8; 16] {
        decode(&self.0).unwrap_or_default()
    }

    /// Its text.
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

/// What an authorization code stands for (RFC 6749 §4.1.2); bound to everything that it was asked with.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct AuthorizationCode {
    /// The grant that redeeming it makes.
    pub grant_id: GrantId,
    /// Who asked.
    pub client_id: ClientId,
    /// In which registration.
    pub registration: RegistrationId,
    /// Where the code was sent.
    pub redirect_uri: RedirectUri,
    /// PKCE.
    pub challenge: CodeChallenge,
    /// The key whose holder alone may redeem it (`dpop_jkt`, RFC 9449 §10).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bound_to: Option<KeyThumbprint>,
    /// What the token will be for.
    pub resources: Vec<ResourceUri>,
    /// What it will allow.
    pub scope: Scope,
    /// Who said yes.
    pub subject: Subject,
    /// When that person logged in.
    pub authenticated_at: UnixTime,
    /// When the code ends.
    pub expires_at: UnixTime,
}

/// What a person allowed a client: user × client × resources × scope.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Grant {
    /// Its identifier.
    pub id: GrantId,
    /// Who said yes.
    pub subject: Subject,
    /// To whom.
    pub client_id: ClientId,
    /// In which registration.
    pub registration: RegistrationId,
    /// For which resources.
    pub resources: Vec<ResourceUri>,
    /// What is allowed.
    pub scope: Scope,
    /// When the person logged in for it.
    pub authenticated_at: UnixTime,
    /// When it was made.
    pub created_at: UnixTime,
    /// When it ends unless refreshed before.
    pub expires_at: UnixTime,
    /// The key that refresh tokens are bound to, for a public client that uses DPoP (RFC 9449 §5).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bound_to: Option<KeyThumbprint>,
    /// The live refresh token, when the client may refresh.
    pub refresh: Option<RefreshState>,
    /// The grant on whose behalf the client acts (RFC 8693): this one never outlives it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<GrantId>,
}

/// The one live branch of a grant's refresh tokens.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RefreshState {
    /// The token that may be used next.
    pub current: TokenHash,
    /// The token that `current` replaced.
    pub replaced: Option<ReplacedToken>,
    /// What used tokens are known by. None as long as `current` is a token of the first release.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub line: Option<Line>,
}

/// A refresh token that was used, and what its owner needs should the answer have been lost.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ReplacedToken {
    /// The token that was used.
    pub hash: TokenHash,
    /// When.
    pub at: UnixTime,
    /// Its successor, encrypted so that only the replaced token itself opens it. Whoever repeats the request
    /// gets the same successor, so that no second branch ever lives.
    #[serde(with = "sealed_bytes")]
    pub sealed_successor: Vec<u8>,
}

/// In base64. The first release wrote a list of numbers, which takes three times the room.
mod sealed_bytes {
    use base64::Engine;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Written {
        Text(String),
        Numbers(Vec<u8>),
    }

    pub(super) fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&URL_SAFE_NO_PAD.encode(bytes))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
        match Written::deserialize(deserializer)? {
            Written::Text(text) => URL_SAFE_NO_PAD.decode(text).map_err(D::Error::custom),
            Written::Numbers(bytes) => Ok(bytes),
        }
    }
}

/// What presenting a refresh token means for its grant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RefreshUse {
    /// The live token: it rotates.
    Current,
    /// The one before, repeated in time and with its successor unused: its owner gets the successor again.
    Repeated {
        /// See [`ReplacedToken::sealed_successor`].
        sealed_successor: Vec<u8>,
    },
    /// A token that was used up: someone else has it. The grant must be revoked (OAuth 2.1 §4.3.1).
    Reused,
    /// None of this grant's tokens, whatever it says of itself.
    Foreign,
}

impl Grant {
    /// Judges a refresh token that names this grant or, if it is of the first release, led here.
    pub fn judge_refresh(&self, presented: &Presented, now: UnixTime, grace: Duration) -> RefreshUse {
        let Some(refresh) = &self.refresh else {
            return RefreshUse::Foreign;
        };
        if refresh.current == *presented.hash() {
            return RefreshUse::Current;
        }
        // The successor is unused exactly as long as it is still the current token.
        match &refresh.replaced {
            Some(replaced) if replaced.hash == *presented.hash() && now.since(replaced.at) <= grace => {
                RefreshUse::Repeated { sealed_successor: replaced.sealed_successor.clone() }
            }
            // Anybody can write the name of a grant into a token. Ours cannot be made by others.
            _ if self.has_issued(presented) => RefreshUse::Reused,
            _ => RefreshUse::Foreign,
        }
    }

    /// Whether a refresh token that names this grant, or led here, is one of its own, used or not.
    pub fn has_issued(&self, presented: &Presented) -> bool {
        let Some(refresh) = &self.refresh else { return false };
        match (presented.grant(), &refresh.line) {
            (Some(_), Some(line)) => presented.is_of(line),
            (Some(_), None) => false,
            // Only the store's own row leads from such a token to its grant.
            (None, _) => true,
        }
    }

    /// Puts `current`, which has that place in the line, in the place of the live token.
    pub fn rotate(
        &mut self,
        (current, line): (TokenHash, Line),
        sealed_successor: Vec<u8>,
        now: UnixTime,
        expires_at: UnixTime,
    ) {
        let replaced =
            self.refresh.take().map(|old| ReplacedToken { hash: old.current, at: now, sealed_successor });
        self.refresh = Some(RefreshState { current, replaced, line: Some(line) });
        self.expires_at = expires_at;
    }

    /// Whether the client that holds the grant is still the one that it was given to, and not switched off.
    pub fn is_held_by(&self, client: &Client) -> bool {
        self.client_id == client.id && self.registration == client.registration && !client.disabled
    }

    /// Whether the grant is over.
    pub fn is_expired(&self, now: UnixTime) -> bool {
        self.expires_at <= now
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sealed_successor_is_read_as_this_and_as_the_first_release_wrote_it() {
        let hash = TokenHash::of(b"used");
        let token = ReplacedToken { hash, at: UnixTime(1), sealed_successor: vec![0, 1, 250] };
        let written = serde_json::to_value(&token).unwrap();
        assert_eq!(written["sealed_successor"], "AAH6");
        let mut earlier = written.clone();
        earlier["sealed_successor"] = serde_json::json!([0, 1, 250]);
        for written in [written, earlier] {
            let read: ReplacedToken = serde_json::from_value(written).unwrap();
            assert_eq!(read.sealed_successor, token.sealed_successor);
        }
    }

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
