//! The keys that sign tokens, and their public half as a JWK set (RFC 7517, RFC 8037).

use std::fmt;

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use crate::domain::clock::UnixTime;

use super::seal::CryptoFailure;

/// A signing key as the store keeps it (encrypted, like every value there).
#[derive(Clone, Serialize, Deserialize)]
pub struct StoredSigningKey {
    /// RFC 7638 thumbprint of the public key.
    pub kid: String,
    /// The private key, PKCS #8 DER, base64url.
    pkcs8: Zeroizing<String>,
    /// When it was made.
    pub created_at: UnixTime,
}

impl fmt::Debug for StoredSigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StoredSigningKey").field("kid", &self.kid).finish_non_exhaustive()
    }
}

impl StoredSigningKey {
    /// Makes a new Ed25519 key.
    pub fn generate(now: UnixTime) -> Result<Self, CryptoFailure> {
        let rng = aws_lc_rs::rand::SystemRandom::new();
        let document = Ed25519KeyPair::generate_pkcs8(&rng).map_err(|_| CryptoFailure)?;
        let pair = Ed25519KeyPair::from_pkcs8(document.as_ref()).map_err(|_| CryptoFailure)?;
        Ok(Self {
            kid: thumbprint(pair.public_key().as_ref()),
            pkcs8: Zeroizing::new(URL_SAFE_NO_PAD.encode(document.as_ref())),
            created_at: now,
        })
    }
}

/// RFC 7638 §3 with the members that RFC 8037 §2 requires, in lexical order.
fn thumbprint(public: &[u8]) -> String {
    let canonical = format!(r#"{{"crv":"Ed25519","kty":"OKP","x":"{}"}}"#, URL_SAFE_NO_PAD.encode(public));
    URL_SAFE_NO_PAD.encode(Sha256::digest(canonical))
}

/// Signs tokens and verifies our own. The algorithm belongs to the key; what a token's header says is only compared.
pub struct KeyRing {
    kid: String,
    signing: EncodingKey,
    verifying: DecodingKey,
    jwks: Value,
}

impl fmt::Debug for KeyRing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyRing").field("kid", &self.kid).finish_non_exhaustive()
    }
}

/// A token whose header, signature or claims are not those of a token of ours of the expected type.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a valid signature of ours over a token of the expected type")]
pub struct InvalidSignature;

impl KeyRing {
    /// The ring with this key.
    pub fn new(stored: &StoredSigningKey) -> Result<Self, CryptoFailure> {
        let pkcs8 =
            Zeroizing::new(URL_SAFE_NO_PAD.decode(stored.pkcs8.as_bytes()).map_err(|_| CryptoFailure)?);
        let pair = Ed25519KeyPair::from_pkcs8(&pkcs8).map_err(|_| CryptoFailure)?;
        let public = pair.public_key().as_ref();
        let jwk = json!({
            "kty": "OKP", "crv": "Ed25519", "alg": "EdDSA", "use": "sig",
            "kid": stored.kid, "x": URL_SAFE_NO_PAD.encode(public),
        });
        Ok(Self {
            kid: stored.kid.clone(),
            signing: EncodingKey::from_ed_der(&pkcs8),
            verifying: DecodingKey::from_ed_der(public),
            jwks: json!({ "keys": [jwk] }),
        })
    }

    /// The public keys (RFC 7517 §5).
    pub fn jwks(&self) -> &Value {
        &self.jwks
    }

    /// Signs `claims` as a token of type `typ`.
    pub fn sign(&self, typ: &str, claims: &impl Serialize) -> Result<String, CryptoFailure> {
        let mut header = Header::new(Algorithm::EdDSA);
        header.typ = Some(typ.to_owned());
        header.kid = Some(self.kid.clone());
        jsonwebtoken::encode(&header, claims, &self.signing).map_err(|_| CryptoFailure)
    }

    /// Checks type, key and signature, and reads the claims. Time is for the caller to check: it is not read here.
    ///
    /// `jku`, `x5u` and `jwk` are never looked at; `crit` is refused, since we understand no extension
    /// (RFC 7515 §4.1.11).
    pub fn verify<C: DeserializeOwned>(&self, typ: &str, token: &str) -> Result<C, InvalidSignature> {
        // Our own tokens have a few hundred bytes; nobody else's need parsing.
        if token.len() > 8192 {
            return Err(InvalidSignature);
        }
        let header = jsonwebtoken::decode_header(token).map_err(|_| InvalidSignature)?;
        let ours = header.alg == Algorithm::EdDSA
            && header.kid.as_deref() == Some(&self.kid)
            && header.typ.is_some_and(|said| said.eq_ignore_ascii_case(typ))
            && header.crit.is_none();
        if !ours {
            return Err(InvalidSignature);
        }
        let mut validation = Validation::new(Algorithm::EdDSA);
        validation.required_spec_claims.clear();
        validation.validate_exp = false;
        validation.validate_aud = false;
        let data = jsonwebtoken::decode::<C>(token, &self.verifying, &validation);
        data.map(|data| data.claims).map_err(|_| InvalidSignature)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ring() -> KeyRing {
        KeyRing::new(&StoredSigningKey::generate(UnixTime(0)).unwrap()).unwrap()
    }

    fn part(value: &Value) -> String {
        URL_SAFE_NO_PAD.encode(value.to_string())
    }

    #[test]
    fn a_signed_token_verifies_with_its_own_type_and_key() {
        let ring = ring();
        let token = ring.sign("at+jwt", &json!({ "sub": "x" })).unwrap();
        assert_eq!(ring.verify::<Value>("at+jwt", &token).unwrap(), json!({ "sub": "x" }));
        assert!(self::ring().verify::<Value>("at+jwt", &token).is_err());
    }

    #[test]
    fn a059_another_type_of_token_is_refused() {
        let ring = ring();
        let token = ring.sign("mcp-assertion+jwt", &json!({})).unwrap();
        assert!(ring.verify::<Value>("at+jwt", &token).is_err());
    }

    #[test]
    fn a054_a055_a056_a058_header_tricks_are_refused() {
        let ring = ring();
        let token = ring.sign("at+jwt", &json!({ "sub": "x" })).unwrap();
        let [header, claims, signature] = token.split('.').collect::<Vec<_>>()[..] else { panic!() };
        let kid = &ring.kid;
        let forged_headers = [
            json!({ "alg": "none", "typ": "at+jwt", "kid": kid }),
            json!({ "alg": "HS256", "typ": "at+jwt", "kid": kid }),
            json!({ "alg": "EdDSA", "typ": "at+jwt", "kid": "../../etc/passwd" }),
            json!({ "alg": "EdDSA", "typ": "at+jwt" }),
            json!({ "alg": "EdDSA", "typ": "at+jwt", "kid": kid, "crit": ["exp"] }),
            json!({ "alg": "EdDSA", "typ": "at+jwt", "kid": kid, "jku": "http://evil.example/" }),
            json!({ "alg": "EdDSA", "typ": "JWT", "kid": kid }),
        ];
        for forged in &forged_headers {
            for sig in [signature, "", "AAAA"] {
                let token = format!("{}.{claims}.{sig}", part(forged));
                assert!(ring.verify::<Value>("at+jwt", &token).is_err(), "{forged}");
            }
        }
        for odd in [
            format!("{token}."),
            format!(".{token}"),
            format!("{header}.{claims}"),
            format!("{header}..{signature}"),
            format!("{header}=.{claims}.{signature}"),
            format!("{header}.{}.{signature}", part(&json!({ "sub": "y" }))),
            String::new(),
        ] {
            assert!(ring.verify::<Value>("at+jwt", &odd).is_err(), "{odd}");
        }
        // The last character of an Ed25519 signature carries four unused bits: another spelling is another token.
        let last = token.chars().last().unwrap();
        let twin = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
            .chars()
            .filter(|c| *c != last)
            .map(|c| format!("{}{c}", &token[..token.len() - 1]));
        for token in twin {
            assert!(ring.verify::<Value>("at+jwt", &token).is_err());
        }
    }
}
