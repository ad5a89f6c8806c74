//! Refresh tokens. A token names its grant and its number within that grant. Therefore, the store does not have to
//! keep used tokens: a genuine token that is not the current one has already been used.
//!
//! The text is `mgr_`, followed by base64url of the grant identifier (16 bytes), the number (4 bytes,
//! big-endian), 32 random bytes, a MAC over these three (16 bytes), and a CRC-32 as in other credentials. The
//! MAC's key is stored with the grant; RFC 9700 §4.14.2 requires integrity protection for a token that names
//! its grant. Only the SHA-256 of the text is stored.

use std::fmt;

use aws_lc_rs::hmac;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use subtle::ConstantTimeEq;

use super::grant_id::GrantId;
use super::opaque_token::{MalformedToken, TokenHash, crc};

const PREFIX: &str = "mgr_";
const GRANT: usize = 16;
const NUMBER: usize = 4;
const RANDOM: usize = 32;
const MAC: usize = 16;
const CRC: usize = 4;
/// Length in bytes of the data that the MAC covers.
const SIGNED: usize = GRANT + NUMBER + RANDOM;
const ENCODED: usize = (SIGNED + MAC + CRC) / 3 * 4;

/// The key of the MAC in the tokens of one grant. An attacker who learns it can cause the grant to be revoked, but
/// cannot get tokens.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct LineKey([u8; 32]);

impl LineKey {
    /// Creates a key from random bytes.
    pub const fn new(random: [u8; 32]) -> Self {
        Self(random)
    }

    fn mac(&self, signed: &[u8]) -> [u8; MAC] {
        let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &self.0), signed);
        let mut mac = [0; MAC];
        // An HMAC can be truncated (RFC 2104 §5).
        mac.iter_mut().zip(tag.as_ref()).for_each(|(to, from)| *to = *from);
        mac
    }
}

impl fmt::Debug for LineKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LineKey(…)")
    }
}

impl TryFrom<String> for LineKey {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let bytes = URL_SAFE_NO_PAD.decode(text).ok().and_then(|bytes| bytes.try_into().ok());
        bytes.map(Self).ok_or("expected 32 bytes in base64url")
    }
}

impl From<LineKey> for String {
    fn from(key: LineKey) -> Self {
        URL_SAFE_NO_PAD.encode(key.0)
    }
}

/// The state of a grant's sequence of refresh tokens.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Line {
    /// The key of the MAC in these tokens.
    pub key: LineKey,
    /// The number of tokens that were issued before the current one.
    pub number: u32,
}

/// A refresh token in clear text. It is never stored, and its `Debug` output does not show it.
#[derive(Clone)]
pub struct RefreshToken {
    text: SecretString,
    place: Place,
}

/// The grant, number and MAC that a token contains.
#[derive(Debug, Clone)]
struct Place {
    grant: GrantId,
    number: u32,
    signed: [u8; SIGNED],
    mac: [u8; MAC],
}

/// A refresh token as the store receives it. It contains the hash, but not the text.
#[derive(Debug, Clone)]
pub struct HashedRefreshToken {
    hash: TokenHash,
    place: Place,
}

impl RefreshToken {
    /// Creates the token of a grant at this position of its sequence.
    pub fn new(grant: &GrantId, line: &Line, random: [u8; 32]) -> Self {
        let mut signed = [0_u8; SIGNED];
        let parts = grant.bytes().into_iter().chain(line.number.to_be_bytes()).chain(random);
        signed.iter_mut().zip(parts).for_each(|(to, from)| *to = from);
        let mac = line.key.mac(&signed);
        let body = [&signed[..], &mac].concat();
        let checksum = crc(PREFIX, &body).to_be_bytes();
        let text = format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode([&body[..], &checksum].concat()));
        let place = Place { grant: grant.clone(), number: line.number, signed, mac };
        Self { text: SecretString::from(text), place }
    }

    /// Reads a token.
    ///
    /// # Errors
    /// Fails if the prefix, length, alphabet or checksum is wrong, in which case this server has never issued the
    /// token.
    pub fn parse(text: &str) -> Result<Self, MalformedToken> {
        let encoded = text.strip_prefix(PREFIX).ok_or(MalformedToken)?;
        if encoded.len() != ENCODED {
            return Err(MalformedToken);
        }
        let payload = URL_SAFE_NO_PAD.decode(encoded).map_err(|_| MalformedToken)?;
        let (body, checksum) = payload.split_last_chunk::<CRC>().ok_or(MalformedToken)?;
        if *checksum != crc(PREFIX, body).to_be_bytes() {
            return Err(MalformedToken);
        }
        let (signed, mac) = body.split_first_chunk::<SIGNED>().ok_or(MalformedToken)?;
        let (grant, rest) = signed.split_first_chunk::<GRANT>().ok_or(MalformedToken)?;
        let (number, _) = rest.split_first_chunk::<NUMBER>().ok_or(MalformedToken)?;
        let place = Place {
            grant: GrantId::of(*grant),
            number: u32::from_be_bytes(*number),
            signed: *signed,
            mac: mac.try_into().map_err(|_| MalformedToken)?,
        };
        Ok(Self { text: SecretString::from(text), place })
    }

    /// The clear text, to be sent to its owner.
    pub fn expose(&self) -> &str {
        self.text.expose_secret()
    }

    /// The SHA-256 hash, which is what the store keeps.
    pub fn hash(&self) -> TokenHash {
        TokenHash::of(self.expose().as_bytes())
    }

    /// The form that is passed to the store.
    pub fn presented(&self) -> HashedRefreshToken {
        HashedRefreshToken { hash: self.hash(), place: self.place.clone() }
    }

    /// The number of the token that follows this one.
    pub fn next_number(&self) -> u32 {
        self.place.number.saturating_add(1)
    }
}

impl fmt::Debug for RefreshToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RefreshToken(…)")
    }
}

impl HashedRefreshToken {
    /// SHA-256 of the token's text.
    pub const fn hash(&self) -> &TokenHash {
        &self.hash
    }

    /// The grant that the token names.
    pub const fn grant(&self) -> &GrantId {
        &self.place.grant
    }

    /// Whether the token was issued in this sequence and is not newer than the current one. A newer token was
    /// issued after the backup from which the store was later restored.
    pub(super) fn is_of(&self, line: &Line) -> bool {
        let place = &self.place;
        bool::from(line.key.mac(&place.signed).ct_eq(&place.mac)) && place.number <= line.number
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn line(key: u8, number: u32) -> Line {
        Line { key: LineKey::new([key; 32]), number }
    }

    proptest! {
        #[test]
        fn a_token_reads_back_with_its_grant_and_number(id: [u8; 32], random: [u8; 32], number: u32) {
            let (grant, line) = (GrantId::new(id), line(1, number));
            let token = RefreshToken::new(&grant, &line, random);
            let read = RefreshToken::parse(token.expose()).unwrap();
            prop_assert_eq!(read.hash(), token.hash());
            prop_assert!(read.presented().grant() == &grant);
            prop_assert_eq!(read.next_number(), number.saturating_add(1));
            prop_assert!(read.presented().is_of(&line));
        }

        #[test]
        fn a042_a_truncated_extended_or_altered_token_is_malformed(random: [u8; 32], at in 4_usize..100) {
            let text = RefreshToken::new(&GrantId::new([1; 32]), &line(1, 0), random).expose().to_owned();
            prop_assert!(RefreshToken::parse(&text[..at]).is_err());
            let extended = format!("{text}A");
            prop_assert!(RefreshToken::parse(&extended).is_err());
            let mut altered = text.into_bytes();
            altered[at] = if altered[at] == b'A' { b'B' } else { b'A' };
            prop_assert!(RefreshToken::parse(&String::from_utf8(altered).unwrap()).is_err());
        }

        /// After the change, the checksum is corrected, as an attacker would do.
        #[test]
        fn a031_nobody_but_us_makes_a_token_of_a_line(at in 0_usize..SIGNED + MAC, change in 1_u8..) {
            let grant = GrantId::new([1; 32]);
            let token = RefreshToken::new(&grant, &line(1, 3), [7; 32]);
            let payload = URL_SAFE_NO_PAD.decode(token.expose().strip_prefix(PREFIX).unwrap()).unwrap();
            let mut body = payload[..SIGNED + MAC].to_vec();
            body[at] ^= change;
            let checksum = crc(PREFIX, &body).to_be_bytes();
            let forged = format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode([&body[..], &checksum].concat()));
            prop_assert!(!RefreshToken::parse(&forged).unwrap().presented().is_of(&line(1, u32::MAX)));
        }
    }

    #[test]
    fn a_token_is_of_its_own_line_until_a_later_one_lives() {
        let token = RefreshToken::new(&GrantId::new([1; 32]), &line(1, 3), [7; 32]).presented();
        assert!(token.is_of(&line(1, 3)) && token.is_of(&line(1, 4)));
        assert!(!token.is_of(&line(1, 2)) && !token.is_of(&line(2, 3)));
    }

    #[test]
    fn a095_neither_token_nor_key_prints() {
        let token = RefreshToken::new(&GrantId::new([1; 32]), &line(1, 3), [7; 32]);
        assert!(!format!("{token:?}").contains(token.expose()));
        assert_eq!(format!("{:?}", line(1, 3).key), "LineKey(…)");
    }
}
