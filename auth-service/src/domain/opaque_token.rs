//! Opaque credentials such as codes, session identifiers and client secrets. [Refresh
//! tokens](super::refresh_token) have their own format.
//!
//! The text is a prefix that names the kind, followed by base64url of 32 random bytes and a CRC-32 over prefix and
//! bytes. The prefix lets secret scanners find a leaked token, and prevents a token of one kind from being used as
//! another. With the checksum, a mistyped or truncated token is refused without a query to the store. The store
//! keeps only the SHA-256 of the text.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

/// The purpose of an opaque token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenKind {
    /// An authorization code (RFC 6749 §1.3.1).
    AuthorizationCode,
    /// A client secret (RFC 6749 §2.3.1).
    ClientSecret,
    /// A registration access token (RFC 7592 §1.2).
    RegistrationAccess,
    /// The login session of a browser.
    Session,
    /// A browser before login. It binds the login form to the browser that requested it.
    LoginAttempt,
    /// A device code (RFC 8628 §3.2).
    DeviceCode,
    /// The last part of a `request_uri` (RFC 9126 §2.2).
    PushedRequest,
}

impl TokenKind {
    /// The prefix of the token's text.
    pub const fn prefix(self) -> &'static str {
        match self {
            Self::AuthorizationCode => "mgc_",
            Self::ClientSecret => "mgk_",
            Self::RegistrationAccess => "mgm_",
            Self::Session => "mgs_",
            Self::LoginAttempt => "mgl_",
            Self::DeviceCode => "mgd_",
            Self::PushedRequest => "mgp_",
        }
    }
}

/// An opaque credential in clear text. It is never stored, and its `Debug` output does not show it.
#[derive(Clone)]
pub struct OpaqueToken(SecretString);

impl OpaqueToken {
    /// Creates a token from random bytes.
    pub fn new(kind: TokenKind, random: [u8; 32]) -> Self {
        let mut payload = [0_u8; 36];
        let (body, checksum) = payload.split_at_mut(32);
        body.copy_from_slice(&random);
        checksum.copy_from_slice(&crc(kind.prefix(), &random).to_be_bytes());
        let text = format!("{}{}", kind.prefix(), URL_SAFE_NO_PAD.encode(payload));
        Self(SecretString::from(text))
    }

    /// Reads a token of this kind.
    ///
    /// # Errors
    /// Fails if the prefix, length, alphabet or checksum is wrong, in which case this server has never issued the
    /// token.
    pub fn parse(kind: TokenKind, text: &str) -> Result<Self, MalformedToken> {
        let encoded = text.strip_prefix(kind.prefix()).ok_or(MalformedToken)?;
        if encoded.len() != 48 {
            return Err(MalformedToken);
        }
        let payload = URL_SAFE_NO_PAD.decode(encoded).map_err(|_| MalformedToken)?;
        let (body, checksum) = payload.split_at_checked(32).ok_or(MalformedToken)?;
        if checksum != crc(kind.prefix(), body).to_be_bytes() {
            return Err(MalformedToken);
        }
        Ok(Self(SecretString::from(text)))
    }

    /// The clear text, to be sent to its owner.
    pub fn expose(&self) -> &str {
        self.0.expose_secret()
    }

    /// The SHA-256 hash, which is what the store keeps.
    pub fn hash(&self) -> TokenHash {
        TokenHash::of(self.expose().as_bytes())
    }
}

impl fmt::Debug for OpaqueToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OpaqueToken(…)")
    }
}

/// The CRC-32 at the end of a credential with this prefix.
pub(super) fn crc(prefix: &str, body: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(prefix.as_bytes());
    hasher.update(body);
    hasher.finalize()
}

/// The string is not a token of the expected kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("malformed token")]
pub struct MalformedToken;

/// SHA-256 of a credential's text. Two hashes are compared in constant time.
#[derive(Clone, Copy, Serialize, Deserialize)]
#[serde(transparent)]
pub struct TokenHash(#[serde(with = "base64_bytes")] [u8; 32]);

impl TokenHash {
    /// Hashes the text of a credential.
    pub fn of(text: &[u8]) -> Self {
        Self(Sha256::digest(text).into())
    }

    /// The hash as bytes.
    pub const fn bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The hash in base64url, used as a key in the store.
    pub fn text(&self) -> String {
        URL_SAFE_NO_PAD.encode(self.0)
    }
}

impl PartialEq for TokenHash {
    fn eq(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl Eq for TokenHash {}

impl fmt::Debug for TokenHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Eight characters are enough to distinguish hashes in a log, but do not help an attacker to find the
        // token.
        write!(f, "TokenHash({}…)", self.text().get(..8).unwrap_or_default())
    }
}

mod base64_bytes {
    use base64::Engine;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(super) fn serialize<S: Serializer>(bytes: &[u8; 32], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&URL_SAFE_NO_PAD.encode(bytes))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<[u8; 32], D::Error> {
        let bytes = URL_SAFE_NO_PAD.decode(String::deserialize(deserializer)?).map_err(D::Error::custom)?;
        bytes.try_into().map_err(|_| D::Error::custom("expected 32 bytes in base64url"))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_token_reads_back_as_its_own_kind_only(random: [u8; 32]) {
            let token = OpaqueToken::new(TokenKind::ClientSecret, random);
            let read = OpaqueToken::parse(TokenKind::ClientSecret, token.expose()).unwrap();
            prop_assert_eq!(read.hash(), token.hash());
            prop_assert!(OpaqueToken::parse(TokenKind::AuthorizationCode, token.expose()).is_err());
        }

        #[test]
        fn a042_truncated_extended_or_altered_token_is_malformed(random: [u8; 32], at in 4_usize..52) {
            let text = OpaqueToken::new(TokenKind::AuthorizationCode, random).expose().to_owned();
            let extended = format!("{text}A");
            prop_assert!(OpaqueToken::parse(TokenKind::AuthorizationCode, &text[..at]).is_err());
            prop_assert!(OpaqueToken::parse(TokenKind::AuthorizationCode, &extended).is_err());
            let mut altered = text.into_bytes();
            altered[at] = if altered[at] == b'A' { b'B' } else { b'A' };
            let altered = String::from_utf8(altered).unwrap();
            prop_assert!(OpaqueToken::parse(TokenKind::AuthorizationCode, &altered).is_err());
        }
    }

    #[test]
    fn a095_a_token_does_not_print() {
        let token = OpaqueToken::new(TokenKind::Session, [7; 32]);
        assert!(!format!("{token:?}").contains(token.expose()));
    }
}
