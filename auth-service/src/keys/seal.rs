//! Authenticated encryption of data that leaves the process, such as stored values, form tokens and refresh
//! token successors.

use std::fmt;

use aws_lc_rs::aead::{AES_256_GCM_SIV, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::error::{KeyRejected, Unspecified};
use aws_lc_rs::hkdf::{self, HKDF_SHA256, Salt};
use aws_lc_rs::rand::{SecureRandom, SystemRandom};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use zeroize::Zeroizing;

use crate::domain::clock::{Random, RandomUnavailable};

/// The master secret of a deployment (`STORE_KEY`), 32 bytes. All other encryption keys are derived from it,
/// one for each purpose. While it is being replaced, it includes the previous key (`STORE_KEY_PREVIOUS`),
/// which only decrypts.
#[derive(Clone)]
pub struct StoreKey {
    current: Zeroizing<[u8; 32]>,
    previous: Option<Zeroizing<[u8; 32]>>,
}

/// The string is not a valid store key.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("a store key is 32 random bytes in base64, as `openssl rand -base64 32` prints them")]
pub struct InvalidStoreKey;

impl StoreKey {
    /// Creates a key from these random bytes.
    pub fn new(random: [u8; 32]) -> Self {
        Self { current: Zeroizing::new(random), previous: None }
    }

    /// The same key, with a previous key that can only decrypt.
    #[must_use]
    pub fn with_previous(self, previous: Option<&Self>) -> Self {
        Self { previous: previous.map(|key| key.current.clone()), ..self }
    }

    /// Reads a key from its base64 form.
    pub fn parse(text: &str) -> Result<Self, InvalidStoreKey> {
        let bytes = Zeroizing::new(STANDARD.decode(text.trim()).map_err(|_| InvalidStoreKey)?);
        let bytes: [u8; 32] = bytes.as_slice().try_into().map_err(|_| InvalidStoreKey)?;
        Ok(Self { current: Zeroizing::new(bytes), previous: None })
    }

    /// A name for `text`. Without this key, the name cannot be computed, and the text cannot be found from it.
    ///
    /// # Errors
    /// Fails if the cryptography library fails.
    pub fn name_of(&self, text: &str) -> Result<[u8; 32], CryptoFailure> {
        let mut name = [0_u8; 32];
        Salt::new(HKDF_SHA256, b"mcp-gate")
            .extract(self.current.as_slice())
            .expand(&[b"mcp-gate name v1".as_slice(), text.as_bytes()], KeyLength)
            .and_then(|okm| okm.fill(&mut name))
            .map_err(|_| CryptoFailure)?;
        Ok(name)
    }

    /// Writes the key in base64, for the key file.
    pub fn encode(&self) -> Zeroizing<String> {
        Zeroizing::new(STANDARD.encode(self.current.as_slice()))
    }
}

impl fmt::Debug for StoreKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("StoreKey(…)")
    }
}

/// The purpose of encrypted data. Each has its own key, which cannot decrypt data of another purpose.
#[derive(Debug, Clone, Copy)]
pub enum Purpose {
    /// Values that are kept in the store.
    StoredValue,
    /// Form tokens in this server's HTML forms.
    FormToken,
    /// Nonces for DPoP proofs (RFC 9449 §8).
    DpopNonce,
    /// The content of a store, exported to a file.
    Dump,
}

impl Purpose {
    const fn label(self) -> &'static [u8] {
        match self {
            Self::StoredValue => b"mcp-gate stored value v1",
            Self::FormToken => b"mcp-gate form token v1",
            Self::DpopNonce => b"mcp-gate dpop nonce v1",
            Self::Dump => b"mcp-gate store dump v1",
        }
    }
}

/// Encrypts and decrypts for one purpose with AES-256-GCM-SIV, which stays safe if a random nonce is ever repeated
/// (RFC 8452). It can also decrypt data that was encrypted with the previous store key.
pub struct Sealer {
    current: LessSafeKey,
    previous: Option<LessSafeKey>,
}

impl fmt::Debug for Sealer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sealer(…)")
    }
}

/// The cryptography library refused an operation that cannot fail on valid input.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the cryptography library failed")]
pub struct CryptoFailure;

impl From<Unspecified> for CryptoFailure {
    fn from(_: Unspecified) -> Self {
        Self
    }
}

impl From<KeyRejected> for CryptoFailure {
    fn from(_: KeyRejected) -> Self {
        Self
    }
}

/// The data was not encrypted with this key for this name, or it has been altered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the data was not encrypted with this key, or was altered")]
pub struct CannotOpen;

impl Sealer {
    /// Derives the sealer for `purpose`.
    pub fn new(key: &StoreKey, purpose: Purpose) -> Result<Self, CryptoFailure> {
        let derive = |key: &Zeroizing<[u8; 32]>| derive(key.as_slice(), purpose.label());
        Ok(Self { current: derive(&key.current)?, previous: key.previous.as_ref().map(derive).transpose()? })
    }

    /// Derives a sealer from `secret`, which must have 256 random bits. The data cannot be decrypted without that
    /// secret.
    pub fn from_secret(secret: &[u8]) -> Result<Self, CryptoFailure> {
        Ok(Self { current: derive(secret, b"mcp-gate refresh successor v1")?, previous: None })
    }

    /// Encrypts `plain`. It can be decrypted only with the same `name`.
    pub fn seal(&self, name: &[u8], plain: &[u8]) -> Result<Vec<u8>, CryptoFailure> {
        let mut nonce = [0_u8; NONCE_LEN];
        SystemRandom::new().fill(&mut nonce).map_err(|_| CryptoFailure)?;
        let mut body = plain.to_vec();
        self.current
            .seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::from(name), &mut body)
            .map_err(|_| CryptoFailure)?;
        let mut sealed = nonce.to_vec();
        sealed.append(&mut body);
        Ok(sealed)
    }

    /// Decrypts data that [`Sealer::seal`] encrypted for the same `name`, with the current or the previous key.
    pub fn open(&self, name: &[u8], sealed: &[u8]) -> Result<Vec<u8>, CannotOpen> {
        open(&self.current, name, sealed).or_else(|error| match &self.previous {
            Some(previous) => open(previous, name, sealed),
            None => Err(error),
        })
    }

    /// Whether the data was encrypted with the current key.
    pub fn is_current(&self, name: &[u8], sealed: &[u8]) -> bool {
        open(&self.current, name, sealed).is_ok()
    }
}

fn derive(secret: &[u8], label: &[u8]) -> Result<LessSafeKey, CryptoFailure> {
    let mut bytes = Zeroizing::new([0_u8; 32]);
    Salt::new(HKDF_SHA256, b"mcp-gate")
        .extract(secret)
        .expand(&[label], KeyLength)
        .and_then(|okm| okm.fill(bytes.as_mut_slice()))
        .map_err(|_| CryptoFailure)?;
    let key = UnboundKey::new(&AES_256_GCM_SIV, bytes.as_slice()).map_err(|_| CryptoFailure)?;
    Ok(LessSafeKey::new(key))
}

fn open(key: &LessSafeKey, name: &[u8], sealed: &[u8]) -> Result<Vec<u8>, CannotOpen> {
    let (nonce, body) = sealed.split_at_checked(NONCE_LEN).ok_or(CannotOpen)?;
    let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| CannotOpen)?;
    let mut body = body.to_vec();
    let plain = key.open_in_place(nonce, Aad::from(name), &mut body).map_err(|_| CannotOpen)?.len();
    body.truncate(plain);
    Ok(body)
}

struct KeyLength;

impl hkdf::KeyType for KeyLength {
    fn len(&self) -> usize {
        32
    }
}

/// The random source of the operating system, used through the cryptography library.
#[derive(Debug, Clone, Copy)]
pub struct SystemRandomSource;

impl Random for SystemRandomSource {
    fn bytes(&self) -> Result<[u8; 32], RandomUnavailable> {
        let mut bytes = [0_u8; 32];
        SystemRandom::new().fill(&mut bytes).map_err(|_| RandomUnavailable)?;
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sealer(purpose: Purpose) -> Sealer {
        Sealer::new(&StoreKey::new([1; 32]), purpose).unwrap()
    }

    #[test]
    fn sealed_data_opens_with_its_key_name_and_purpose_only() {
        let sealed = sealer(Purpose::StoredValue).seal(b"clients/a", b"value").unwrap();
        assert_eq!(sealer(Purpose::StoredValue).open(b"clients/a", &sealed).unwrap(), b"value");
        assert!(sealer(Purpose::StoredValue).open(b"clients/b", &sealed).is_err());
        assert!(sealer(Purpose::FormToken).open(b"clients/a", &sealed).is_err());
        let other = Sealer::new(&StoreKey::new([2; 32]), Purpose::StoredValue).unwrap();
        assert!(other.open(b"clients/a", &sealed).is_err());
        for at in 0..sealed.len() {
            let mut altered = sealed.clone();
            altered[at] ^= 1;
            assert!(sealer(Purpose::StoredValue).open(b"clients/a", &altered).is_err());
            assert!(sealer(Purpose::StoredValue).open(b"clients/a", &sealed[..at]).is_err());
        }
    }

    #[test]
    fn while_a_key_is_replaced_the_one_before_opens_and_does_not_seal() {
        let (old, new) = (StoreKey::new([1; 32]), StoreKey::new([2; 32]));
        let sealer = |key: &StoreKey| Sealer::new(key, Purpose::StoredValue).unwrap();
        let both = sealer(&new.clone().with_previous(Some(&old)));
        let (of_old, of_both) = (sealer(&old).seal(b"a", b"x").unwrap(), both.seal(b"a", b"y").unwrap());
        assert_eq!(both.open(b"a", &of_old).unwrap(), b"x");
        assert!(!both.is_current(b"a", &of_old) && both.is_current(b"a", &of_both));
        assert_eq!(sealer(&new).open(b"a", &of_both).unwrap(), b"y");
        assert!(sealer(&old).open(b"a", &of_both).is_err() && both.open(b"b", &of_old).is_err());
    }

    #[test]
    fn a_store_key_reads_back_and_does_not_print() {
        let key = StoreKey::new([3; 32]);
        assert_eq!(StoreKey::parse(&key.encode()).unwrap().current, key.current);
        assert!(StoreKey::parse("c2hvcnQ=").is_err() && StoreKey::parse("not base64").is_err());
        assert_eq!(format!("{key:?}"), "StoreKey(…)");
    }
}
