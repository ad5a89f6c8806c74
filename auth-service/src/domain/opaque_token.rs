//! Opaque credentials: codes, session ids, client secrets. ([Refresh tokens](super::refresh_token) say a little more.)
//!
//! Text form: a prefix that names the kind, then base64url of 32 random bytes and a CRC-32 over prefix and
//! bytes. The prefix lets secret scanners find a leaked token and keeps one kind from being used as another;
//! the checksum lets us refuse a mistyped or truncated one without asking the store. Only the SHA-256 of the
//! text is ever stored.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

/// What an opaque token is good for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenKind {
    /// Authorization code (RFC 6749 §1.3.1).
    AuthorizationCode,
    /// Refresh token (RFC 6749 §1.5) of the first release; today's are [`super::refresh_token`].
    RefreshToken,
    /// Client secret (RFC 6749 §2.3.1).
    ClientSecret,
    /// Registration access token (RFC 7592 §1.2).
    RegistrationAccess,
    /// A browser's login session.
    Session,
    /// A browser before login: binds the login form to the browser that asked for it.
    LoginAttempt,
    /// Device code (RFC 8628 §3.2).
    DeviceCode,
    /// The end of a `request_uri` (RFC 9126 §2.2).
    PushedRequest,
}

impl TokenKind {
    /// The prefix of the text form.
    pub const fn prefix(self) -> &'static str {
        match self {
            Self::AuthorizationCode => "mgc_",
            Self::RefreshToken => "mgr_",
            Self::ClientSecret => "mgk_",
            Self::RegistrationAccess => "mgm_",
            Self::Session => "mgs_",
            Self::LoginAttempt => "mgl_",
            Self::DeviceCode => "mgd_",
            Self::PushedRequest => "mgp_",
        }
    }
}

/// An opaque credential in clear. It exists only on its way in or out and never prints.
#[derive(Clone)]
pub struct OpaqueToken(SecretString);

impl OpaqueToken {
    /// Makes the token of these random bytes.
    pub fn new(kind: TokenKind, random: [u8; 32]) -> Self {
        let mut payload = [0_u8; 36];
        let (body, checksum) = payload.split_at_mut(32);
        body.copy_from_slice(&random);
        checksum.copy_from_slice(&crc(kind, &random).to_be_bytes());
        let text = format!("{}{}", kind.prefix(), URL_SAFE_NO_PAD.encode(payload));
        Self(SecretString::from(text))
    }

    /// Reads a token of this kind.
    ///
    /// # Errors
    /// When prefix, length, alphabet or checksum is off: such a token was never issued.
    pub fn parse(kind: TokenKind, text: &str) -> Result<Self, MalformedToken> {
        let encoded = text.strip_prefix(kind.prefix()).ok_or(MalformedToken)?;
        if encoded.len() != 48 {
            return Err(MalformedToken);
        }
        let payload = URL_SAFE_NO_PAD.decode(encoded).map_err(|_| MalformedToken)?;
        let (body, checksum) = payload.split_at_checked(32).ok_or(MalformedToken)?;
        if checksum != crc(kind, body).to_be_bytes() {
            return Err(MalformedToken);
        }
        Ok(Self(SecretString::from(text)))
    }

    /// The text to hand to its owner.
    pub fn expose(&self) -> &str {
        self.0.expose_secret()
    }

    /// What the store keeps of it.
    pub fn hash(&self) -> TokenHash {
        TokenHash::of(self.expose().as_bytes())
    }
}

impl fmt::Debug for OpaqueToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OpaqueToken(…)")
    }
}

/// The checksum that a credential of that kind ends with.
pub(super) fn crc(kind: TokenKind, body: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(kind.prefix().as_bytes());
    hasher.update(body);
    hasher.finalize()
}

/// The text is not a token of the expected kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("malformed token")]
pub struct MalformedToken;

/// SHA-256 of a credential's text. Comparing two takes the same time whatever they hold.
#[derive(Clone, Copy, Serialize, Deserialize)]
#[serde(transparent)]
pub struct TokenHash(#[serde(with = "base64_bytes")] [u8; 32]);

impl TokenHash {
    /// Hashes a credential.
    pub fn of(text: &[u8]) -> Self {
        Self(Sha256::digest(text).into())
    }

    /// The hash itself.
    pub const fn bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The hash in base64url: a store key.
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
        // Eight characters tell two apart in a log and are no help in finding the token.
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
            let token = OpaqueToken::new(TokenKind::RefreshToken, random);
            let read = OpaqueToken::parse(TokenKind::RefreshToken, token.expose()).unwrap();
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
