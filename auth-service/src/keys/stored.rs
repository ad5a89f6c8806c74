//! Signing keys as the store keeps them, and their public parts as JWKs (RFC 7517, RFC 7518 §6, RFC 8037 §2).

use std::fmt;

use aws_lc_rs::encoding::AsDer;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair, RsaKeyPair,
};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{DecodingKey, EncodingKey};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use crate::domain::clock::UnixTime;

use super::algorithm::SigningAlgorithm;
use super::seal::CryptoFailure;

/// A signing key as the store keeps it. It is encrypted there, like every stored value.
#[derive(Clone, Serialize, Deserialize)]
pub struct StoredSigningKey {
    /// RFC 7638 thumbprint of the public key.
    pub kid: String,
    /// The algorithm of the key.
    pub algorithm: SigningAlgorithm,
    /// The private key in PKCS #8 DER, encoded in base64url.
    pkcs8: Zeroizing<String>,
    /// Time at which the key was created.
    pub created_at: UnixTime,
    /// Time from which the key signs; before that, it is only published.
    pub signs_from: UnixTime,
    /// Time at which a successor takes over, if there is one. The key keeps verifying until its last token
    /// has expired.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signs_until: Option<UnixTime>,
}

impl fmt::Debug for StoredSigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StoredSigningKey")
            .field("kid", &self.kid)
            .field("algorithm", &self.algorithm)
            .field("signs_from", &self.signs_from)
            .field("signs_until", &self.signs_until)
            .finish_non_exhaustive()
    }
}

/// The forms of a key for signing, for verification and for publication.
pub(super) struct Material {
    pub(super) signing: EncodingKey,
    pub(super) verifying: DecodingKey,
    pub(super) jwk: Value,
}

impl StoredSigningKey {
    /// Creates a new key that signs from `signs_from`.
    pub fn generate(
        algorithm: SigningAlgorithm,
        now: UnixTime,
        signs_from: UnixTime,
    ) -> Result<Self, CryptoFailure> {
        let rng = SystemRandom::new();
        let pkcs8 = match algorithm {
            SigningAlgorithm::EdDsa => text(Ed25519KeyPair::generate_pkcs8(&rng)?.as_ref()),
            SigningAlgorithm::Es256 => {
                text(EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &rng)?.as_ref())
            }
            SigningAlgorithm::Rs256 => text(RsaKeyPair::generate(KeySize::Rsa2048)?.as_der()?.as_ref()),
        };
        let mut key =
            Self { kid: String::new(), algorithm, pkcs8, created_at: now, signs_from, signs_until: None };
        key.kid = thumbprint(&Public::of(algorithm, &key.der()?)?);
        Ok(key)
    }

    fn der(&self) -> Result<Zeroizing<Vec<u8>>, CryptoFailure> {
        URL_SAFE_NO_PAD.decode(self.pkcs8.as_bytes()).map(Zeroizing::new).map_err(|_| CryptoFailure)
    }

    pub(super) fn material(&self) -> Result<Material, CryptoFailure> {
        let der = self.der()?;
        let public = Public::of(self.algorithm, &der)?;
        let (signing, verifying) = match &public {
            Public::Ed25519(point) => (EncodingKey::from_ed_der(&der), DecodingKey::from_ed_der(point)),
            Public::P256 { point, .. } => (EncodingKey::from_ec_der(&der), DecodingKey::from_ec_der(point)),
            Public::Rsa { modulus, exponent } => {
                let inner = rsa_private_key(&der).ok_or(CryptoFailure)?;
                (EncodingKey::from_rsa_der(inner), DecodingKey::from_rsa_raw_components(modulus, exponent))
            }
        };
        Ok(Material { signing, verifying, jwk: self.jwk(&public) })
    }

    fn jwk(&self, public: &Public) -> Value {
        let mut jwk = public.members();
        if let Some(members) = jwk.as_object_mut() {
            members.insert("alg".to_owned(), self.algorithm.name().into());
            members.insert("use".to_owned(), "sig".into());
            members.insert("kid".to_owned(), self.kid.as_str().into());
        }
        jwk
    }
}

fn text(der: &[u8]) -> Zeroizing<String> {
    Zeroizing::new(URL_SAFE_NO_PAD.encode(der))
}

/// The `RSAPrivateKey` (RFC 8017 §A.1.2) inside a PKCS #8 structure (RFC 5208 §5). The JWT library expects it
/// without the structure.
fn rsa_private_key(pkcs8: &[u8]) -> Option<&[u8]> {
    const INTEGER: u8 = 0x02;
    const OCTET_STRING: u8 = 0x04;
    const SEQUENCE: u8 = 0x30;
    let (info, _) = der_element(SEQUENCE, pkcs8)?;
    let (_version, rest) = der_element(INTEGER, info)?;
    let (_algorithm, rest) = der_element(SEQUENCE, rest)?;
    der_element(OCTET_STRING, rest).map(|(key, _)| key)
}

/// The content of the element at the start of `input`, and the rest of `input` after it (X.690 §8.1, definite
/// form).
fn der_element(tag: u8, input: &[u8]) -> Option<(&[u8], &[u8])> {
    let (first, rest) = input.split_first()?;
    let (length, rest) = rest.split_first()?;
    let (length, rest) = match length {
        0..=0x7f => (usize::from(*length), rest),
        0x81..=0x84 => {
            let (bytes, rest) = rest.split_at_checked(usize::from(length & 0x7f))?;
            (bytes.iter().fold(0, |sum, byte| sum << 8 | usize::from(*byte)), rest)
        }
        _ => return None,
    };
    if *first == tag { rest.split_at_checked(length) } else { None }
}

/// A public key, split into the parts that make up its JWK.
enum Public {
    Ed25519(Vec<u8>),
    P256 { point: Vec<u8>, x: Vec<u8>, y: Vec<u8> },
    Rsa { modulus: Vec<u8>, exponent: Vec<u8> },
}

/// Length in bytes of a coordinate on P-256.
const COORDINATE: usize = 32;

impl Public {
    fn of(algorithm: SigningAlgorithm, der: &[u8]) -> Result<Self, CryptoFailure> {
        Ok(match algorithm {
            SigningAlgorithm::EdDsa => {
                Self::Ed25519(Ed25519KeyPair::from_pkcs8(der)?.public_key().as_ref().to_vec())
            }
            SigningAlgorithm::Es256 => {
                let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, der)?;
                let point = pair.public_key().as_ref().to_vec();
                // SEC 1 §2.3.3: the byte 0x04, then both coordinates.
                let (x, y) = match point.split_first() {
                    Some((4, both)) => both.split_at_checked(COORDINATE).ok_or(CryptoFailure)?,
                    _ => return Err(CryptoFailure),
                };
                Self::P256 { x: x.to_vec(), y: y.to_vec(), point }
            }
            SigningAlgorithm::Rs256 => {
                let pair = RsaKeyPair::from_pkcs8(der)?;
                let public = pair.public_key();
                Self::Rsa {
                    modulus: public.modulus().big_endian_without_leading_zero().to_vec(),
                    exponent: public.exponent().big_endian_without_leading_zero().to_vec(),
                }
            }
        })
    }

    /// The members that RFC 7638 §3.2 requires, and RFC 8037 §2 for Ed25519, in lexical order.
    fn members(&self) -> Value {
        let encode = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        match self {
            Self::Ed25519(point) => json!({ "crv": "Ed25519", "kty": "OKP", "x": encode(point) }),
            Self::P256 { x, y, .. } => {
                json!({ "crv": "P-256", "kty": "EC", "x": encode(x), "y": encode(y) })
            }
            Self::Rsa { modulus, exponent } => {
                json!({ "e": encode(exponent), "kty": "RSA", "n": encode(modulus) })
            }
        }
    }
}

/// The thumbprint of a public key (RFC 7638 §3). The members keep their order, and `serde_json` writes no
/// spaces.
fn thumbprint(public: &Public) -> String {
    URL_SAFE_NO_PAD.encode(Sha256::digest(public.members().to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thumbprint_is_that_of_rfc_8037_and_rfc_7638() {
        let x = URL_SAFE_NO_PAD.decode("11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo").unwrap();
        assert_eq!(thumbprint(&Public::Ed25519(x)), "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k");
        let modulus = URL_SAFE_NO_PAD
            .decode("0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRXjBZCiFV4n3oknjhMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQvRL5hajrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzKnqDKgw")
            .unwrap();
        let rsa = Public::Rsa { modulus, exponent: vec![1, 0, 1] };
        assert_eq!(thumbprint(&rsa), "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs");
    }

    #[test]
    fn a_key_does_not_print() {
        let key = StoredSigningKey::generate(SigningAlgorithm::Es256, UnixTime(7), UnixTime(7)).unwrap();
        assert!(!format!("{key:?}").contains(key.pkcs8.as_str()));
        assert!(!key.material().unwrap().jwk.to_string().contains("\"d\""));
    }
}
