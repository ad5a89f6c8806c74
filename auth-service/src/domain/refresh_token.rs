//! Refresh tokens. A token says which grant it belongs to and how many of the grant's tokens came before it, so that
//! nothing has to be kept about used ones: their reuse is noticed because they are genuine and not the live one.
//!
//! Text form: `mgr_`, then base64url of the grant's identifier (16 bytes), the number (4, big-endian), 32 random bytes, a
//! MAC over all of these with a key that only the grant knows (16; RFC 9700 §4.14.2 demands the integrity of a token
//! that names its grant), and a CRC-32 as other credentials have. Only the SHA-256 of the text is stored. Tokens of the
//! first release were 32 random bytes ([`OpaqueToken`]); the store keeps what leads from those to their grants.

use std::fmt;

use aws_lc_rs::hmac;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use subtle::ConstantTimeEq;

use super::grant::GrantId;
use super::opaque_token::{MalformedToken, OpaqueToken, TokenHash, TokenKind, crc};

const PREFIX: &str = TokenKind::RefreshToken.prefix();
const GRANT: usize = 16;
const NUMBER: usize = 4;
const RANDOM: usize = 32;
const MAC: usize = 16;
const CRC: usize = 4;
/// What the MAC is made of.
const SIGNED: usize = GRANT + NUMBER + RANDOM;
const ENCODED: usize = (SIGNED + MAC + CRC) / 3 * 4;

/// What the tokens of one grant are authenticated with. Who knows it can end the grant, and do nothing else.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct LineKey([u8; 32]);

impl LineKey {
    /// A key of these random bytes.
    pub const fn new(random: [u8; 32]) -> Self {
        Self(random)
    }

    fn mac(&self, signed: &[u8]) -> [u8; MAC] {
        let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &self.0), signed);
        let mut mac = [0; MAC];
        // A prefix of an HMAC is one (RFC 2104 §5).
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

/// The line of a grant's refresh tokens, as the grant knows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Line {
    /// What they are authenticated with.
    pub key: LineKey,
    /// How many came before the live one.
    pub number: u32,
}

/// A refresh token in clear: exists on its way in or out, and never prints.
#[derive(Clone)]
pub struct RefreshToken {
    text: SecretString,
    place: Option<Place>,
}

/// What a token says of itself.
#[derive(Debug, Clone)]
struct Place {
    grant: GrantId,
    number: u32,
    signed: [u8; SIGNED],
    mac: [u8; MAC],
}

/// A refresh token as the store gets it: all but the secret.
#[derive(Debug, Clone)]
pub struct Presented {
    hash: TokenHash,
    place: Option<Place>,
}

impl RefreshToken {
    /// The token of that grant and place in its line, of these random bytes.
    pub fn new(grant: &GrantId, line: &Line, random: [u8; 32]) -> Self {
        let mut signed = [0_u8; SIGNED];
        let parts = grant.bytes().into_iter().chain(line.number.to_be_bytes()).chain(random);
        signed.iter_mut().zip(parts).for_each(|(to, from)| *to = from);
        let mac = line.key.mac(&signed);
        let body = [&signed[..], &mac].concat();
        let checksum = crc(TokenKind::RefreshToken, &body).to_be_bytes();
        let text = format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode([&body[..], &checksum].concat()));
        let place = Place { grant: grant.clone(), number: line.number, signed, mac };
        Self { text: SecretString::from(text), place: Some(place) }
    }

    /// Reads a token, of this or of the first release.
    ///
    /// # Errors
    /// When prefix, length, alphabet or checksum is off: such a token was never issued.
    pub fn parse(text: &str) -> Result<Self, MalformedToken> {
        let encoded = text.strip_prefix(PREFIX).ok_or(MalformedToken)?;
        if encoded.len() != ENCODED {
            OpaqueToken::parse(TokenKind::RefreshToken, text)?;
            return Ok(Self { text: SecretString::from(text), place: None });
        }
        let payload = URL_SAFE_NO_PAD.decode(encoded).map_err(|_| MalformedToken)?;
        let (body, checksum) = payload.split_last_chunk::<CRC>().ok_or(MalformedToken)?;
        if *checksum != crc(TokenKind::RefreshToken, body).to_be_bytes() {
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
        Ok(Self { text: SecretString::from(text), place: Some(place) })
    }

    /// The text to hand to its owner.
    pub fn expose(&self) -> &str {
        self.text.expose_secret()
    }

    /// What the store keeps of it.
    pub fn hash(&self) -> TokenHash {
        TokenHash::of(self.expose().as_bytes())
    }

    /// What the store is asked with.
    pub fn presented(&self) -> Presented {
        Presented { hash: self.hash(), place: self.place.clone() }
    }

    /// How many came before its successor.
    pub fn next_number(&self) -> u32 {
        self.place.as_ref().map_or(1, |place| place.number.saturating_add(1))
    }
}

impl fmt::Debug for RefreshToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RefreshToken(…)")
    }
}

/// A token of the first release, which does not say whose it is.
impl From<TokenHash> for Presented {
    fn from(hash: TokenHash) -> Self {
        Self { hash, place: None }
    }
}

impl Presented {
    /// SHA-256 of the text.
    pub const fn hash(&self) -> &TokenHash {
        &self.hash
    }

    /// The grant that it names; none if it is of the first release.
    pub fn grant(&self) -> Option<&GrantId> {
        self.place.as_ref().map(|place| &place.grant)
    }

    /// Whether it was issued in that line, and not after the live one: that would be a token which was issued after a
    /// backup that is now restored.
    pub(super) fn is_of(&self, line: &Line) -> bool {
        self.place.as_ref().is_some_and(|place| {
            bool::from(line.key.mac(&place.signed).ct_eq(&place.mac)) && place.number <= line.number
        })
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
            prop_assert!(read.presented().grant() == Some(&grant));
            prop_assert_eq!(read.next_number(), number.saturating_add(1));
            prop_assert!(read.presented().is_of(&line));
            prop_assert!(OpaqueToken::parse(TokenKind::RefreshToken, token.expose()).is_err());
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

        /// With the checksum put right, as who wants to be heard would.
        #[test]
        fn a031_nobody_but_us_makes_a_token_of_a_line(at in 0_usize..SIGNED + MAC, change in 1_u8..) {
            let grant = GrantId::new([1; 32]);
            let token = RefreshToken::new(&grant, &line(1, 3), [7; 32]);
            let payload = URL_SAFE_NO_PAD.decode(token.expose().strip_prefix(PREFIX).unwrap()).unwrap();
            let mut body = payload[..SIGNED + MAC].to_vec();
            body[at] ^= change;
            let checksum = crc(TokenKind::RefreshToken, &body).to_be_bytes();
            let forged = format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode([&body[..], &checksum].concat()));
            prop_assert!(!RefreshToken::parse(&forged).unwrap().presented().is_of(&line(1, u32::MAX)));
        }
    }

    #[test]
    fn a_token_is_of_its_own_line_until_a_later_one_lives() {
        let token = RefreshToken::new(&GrantId::new([1; 32]), &line(1, 3), [7; 32]).presented();
        assert!(token.is_of(&line(1, 3)) && token.is_of(&line(1, 4)));
        assert!(!token.is_of(&line(1, 2)) && !token.is_of(&line(2, 3)));
        assert!(!Presented::from(TokenHash::of(b"of the first release")).is_of(&line(1, 3)));
    }

    #[test]
    fn a095_neither_token_nor_key_prints() {
        let token = RefreshToken::new(&GrantId::new([1; 32]), &line(1, 3), [7; 32]);
        assert!(!format!("{token:?}").contains(token.expose()));
        assert_eq!(format!("{:?}", line(1, 3).key), "LineKey(…)");
    }

    #[test]
    fn a_token_of_the_first_release_is_read() {
        let old = OpaqueToken::new(TokenKind::RefreshToken, [7; 32]);
        let read = RefreshToken::parse(old.expose()).unwrap();
        assert!(read.hash() == old.hash() && read.presented().grant().is_none() && read.next_number() == 1);
    }
}
