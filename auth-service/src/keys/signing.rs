//! Signs tokens, and verifies this server's own tokens, with the currently valid keys.

use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{DecodingKey, EncodingKey, Header, Validation};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::domain::clock::Clock;

use super::algorithm::SigningAlgorithm;
use super::seal::CryptoFailure;
use super::set::KeySet;
use super::stored::{Material, StoredSigningKey};

/// Signs tokens and verifies this server's own tokens. The key determines the algorithm, and the header of a token
/// must name the same algorithm.
pub struct KeyRing {
    ring: RwLock<Arc<Ring>>,
    clock: Arc<dyn Clock>,
}

/// One revision of the key set, ready for use.
struct Ring {
    generation: u64,
    set: KeySet,
    keys: Vec<LiveKey>,
    jwks: Jwks,
}

struct LiveKey {
    kid: String,
    algorithm: SigningAlgorithm,
    signing: EncodingKey,
    verifying: DecodingKey,
}

/// The public keys in the form in which they are served.
#[derive(Debug, Clone)]
pub struct Jwks {
    /// The JWK set in JSON (RFC 7517 §5).
    pub text: Arc<str>,
    /// Entity tag of the set, including its quotation marks (RFC 9110 §8.8.3).
    pub etag: Arc<str>,
}

impl fmt::Debug for KeyRing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyRing").field("set", &self.ring().set).finish_non_exhaustive()
    }
}

/// The token is not one of this server with the expected type: its header, signature or claims are wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a token of the expected type with a valid signature of this server")]
pub struct InvalidSignature;

/// Maximum length in bytes of a token that is verified. Tokens of this server have a few hundred bytes, or up to
/// two thousand with many groups.
pub(crate) const MAX_TOKEN_LEN: usize = 8192;

impl KeyRing {
    /// Creates a ring with the keys of this set.
    pub fn new(set: KeySet, clock: Arc<dyn Clock>) -> Result<Self, CryptoFailure> {
        Ok(Self { ring: RwLock::new(Arc::new(Ring::new(set)?)), clock })
    }

    fn ring(&self) -> Arc<Ring> {
        Arc::clone(&self.ring.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Adopts the set from the store. Returns whether this removed a key.
    pub fn install(&self, set: KeySet) -> Result<bool, CryptoFailure> {
        let before = self.ring();
        if before.set.is_same(&set) {
            return Ok(false);
        }
        let mut ring = Ring::new(set)?;
        ring.generation = before.generation.wrapping_add(1);
        let is_gone = before.keys.iter().any(|key| ring.key(&key.kid).is_none());
        *self.ring.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(ring);
        Ok(is_gone)
    }

    /// A number that changes whenever the keys change. The ring has its own counter, because the numbering of
    /// revisions restarts after the store has been emptied.
    pub fn generation(&self) -> u64 {
        self.ring.read().unwrap_or_else(PoisonError::into_inner).generation
    }

    /// The revision of the set that is in use.
    pub fn revision(&self) -> u64 {
        self.ring().set.revision()
    }

    /// The public keys, as they are served.
    pub fn jwks(&self) -> Jwks {
        self.ring().jwks.clone()
    }

    /// Signs `claims` as a token whose `typ` header is `typ`.
    pub fn sign(&self, typ: &str, claims: &impl Serialize) -> Result<String, CryptoFailure> {
        let ring = self.ring();
        let current = ring.set.current(self.clock.now()).ok_or(CryptoFailure)?;
        let key = ring.key(&current.kid).ok_or(CryptoFailure)?;
        let mut header = Header::new(key.algorithm.of_library());
        header.typ = Some(typ.to_owned());
        header.kid = Some(key.kid.clone());
        jsonwebtoken::encode(&header, claims, &key.signing).map_err(|_| CryptoFailure)
    }

    /// Checks the type, the key and the signature, and returns the claims. The caller must check the time.
    ///
    /// The key is always one of this server's own, so an unknown `kid` causes no fetch. `jku`, `x5u` and `jwk` are
    /// ignored. A token with `crit` is refused, because no extension is supported (RFC 7515 §4.1.11).
    pub fn verify<C: DeserializeOwned>(&self, typ: &str, token: &str) -> Result<C, InvalidSignature> {
        if token.len() > MAX_TOKEN_LEN {
            return Err(InvalidSignature);
        }
        let header = jsonwebtoken::decode_header(token).map_err(|_| InvalidSignature)?;
        let ring = self.ring();
        let key = header.kid.as_deref().and_then(|kid| ring.key(kid)).ok_or(InvalidSignature)?;
        let algorithm = key.algorithm.of_library();
        let ours = header.alg == algorithm
            && header.typ.is_some_and(|said| said.eq_ignore_ascii_case(typ))
            && header.crit.is_none();
        if !ours {
            return Err(InvalidSignature);
        }
        let mut validation = Validation::new(algorithm);
        validation.required_spec_claims.clear();
        validation.validate_exp = false;
        validation.validate_aud = false;
        let data = jsonwebtoken::decode::<C>(token, &key.verifying, &validation);
        data.map(|data| data.claims).map_err(|_| InvalidSignature)
    }
}

impl Ring {
    fn new(set: KeySet) -> Result<Self, CryptoFailure> {
        let ready: Vec<(LiveKey, Value)> = set.keys().iter().map(ready).collect::<Result<_, _>>()?;
        let (keys, public): (Vec<_>, Vec<_>) = ready.into_iter().unzip();
        let text = json!({ "keys": public }).to_string();
        let etag = format!("\"{}\"", URL_SAFE_NO_PAD.encode(Sha256::digest(&text)));
        Ok(Self { generation: 0, set, keys, jwks: Jwks { text: text.into(), etag: etag.into() } })
    }

    fn key(&self, kid: &str) -> Option<&LiveKey> {
        self.keys.iter().find(|key| key.kid == kid)
    }
}

fn ready(stored: &StoredSigningKey) -> Result<(LiveKey, Value), CryptoFailure> {
    let Material { signing, verifying, jwk } = stored.material()?;
    Ok((LiveKey { kid: stored.kid.clone(), algorithm: stored.algorithm, signing, verifying }, jwk))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use crate::domain::clock::UnixTime;
    use crate::keys::set::RotationTerms;

    use super::*;

    const ALL: [SigningAlgorithm; 3] =
        [SigningAlgorithm::EdDsa, SigningAlgorithm::Es256, SigningAlgorithm::Rs256];

    struct Now(u64);

    impl Clock for Now {
        fn now(&self) -> UnixTime {
            UnixTime(self.0)
        }
    }

    fn terms(algorithm: SigningAlgorithm) -> RotationTerms {
        RotationTerms { algorithm, period: None, lead: Duration::from_secs(600) }
    }

    fn ring_of(set: KeySet, now: u64) -> KeyRing {
        KeyRing::new(set, Arc::new(Now(now))).unwrap()
    }

    fn ring_with(algorithm: SigningAlgorithm) -> KeyRing {
        ring_of(KeySet::first(&terms(algorithm), UnixTime(0)).unwrap(), 0)
    }

    fn ring() -> KeyRing {
        ring_with(SigningAlgorithm::EdDsa)
    }

    fn kid(ring: &KeyRing) -> String {
        ring.ring().keys[0].kid.clone()
    }

    fn part(value: &Value) -> String {
        URL_SAFE_NO_PAD.encode(value.to_string())
    }

    #[test]
    fn a_signed_token_verifies_with_its_own_type_and_key() {
        for algorithm in ALL {
            let ring = ring_with(algorithm);
            let token = ring.sign("at+jwt", &json!({ "sub": "x" })).unwrap();
            assert_eq!(ring.verify::<Value>("at+jwt", &token).unwrap(), json!({ "sub": "x" }));
            assert!(ring_with(algorithm).verify::<Value>("at+jwt", &token).is_err());
        }
    }

    #[test]
    fn anyone_verifies_a_token_with_the_published_key() {
        for algorithm in ALL {
            let ring = ring_with(algorithm);
            let token = ring.sign("at+jwt", &json!({ "sub": "x" })).unwrap();
            let published: jsonwebtoken::jwk::JwkSet = serde_json::from_str(&ring.jwks().text).unwrap();
            let header = jsonwebtoken::decode_header(&token).unwrap();
            let jwk = published.find(&header.kid.unwrap()).unwrap();
            let mut validation = Validation::new(header.alg);
            validation.required_spec_claims.clear();
            validation.validate_exp = false;
            let key = DecodingKey::from_jwk(jwk).unwrap();
            assert!(jsonwebtoken::decode::<Value>(&token, &key, &validation).is_ok(), "{algorithm}");
            assert!(!ring.jwks().text.contains("\"d\""));
        }
    }

    #[test]
    fn a_retired_and_a_coming_key_verify_and_the_current_one_signs() {
        let first = KeySet::first(&terms(SigningAlgorithm::EdDsa), UnixTime(0)).unwrap();
        let rotating = first.rotated(&terms(SigningAlgorithm::Rs256), UnixTime(0)).unwrap();
        let (before, after) = (ring_of(rotating.clone(), 599), ring_of(rotating, 600));
        let (old, new) =
            (before.sign("at+jwt", &json!({})).unwrap(), after.sign("at+jwt", &json!({})).unwrap());
        let kids = [&old, &new].map(|token| jsonwebtoken::decode_header(token).unwrap().kid.unwrap());
        assert_ne!(kids[0], kids[1]);
        for ring in [&before, &after] {
            assert!(ring.verify::<Value>("at+jwt", &old).is_ok());
            assert!(ring.verify::<Value>("at+jwt", &new).is_ok());
        }
        // A key ring with only the first key adopts the new set, and notices when a key is removed.
        let late = ring_of(first, 600);
        assert!(late.verify::<Value>("at+jwt", &new).is_err());
        let tag = late.jwks().etag;
        assert!(!late.install(before.ring().set.clone()).unwrap());
        assert!(late.verify::<Value>("at+jwt", &new).is_ok());
        assert_ne!(late.jwks().etag, tag);
        let emergency =
            before.ring().set.without(&kids[0], &terms(SigningAlgorithm::EdDsa), UnixTime(600)).unwrap();
        assert!(late.install(emergency).unwrap());
        assert!(late.verify::<Value>("at+jwt", &old).is_err());
        assert!(late.verify::<Value>("at+jwt", &new).is_ok());
    }

    #[test]
    fn a054_the_algorithm_is_that_of_the_key() {
        for one in ALL {
            let ring = ring_with(one);
            let token = ring.sign("at+jwt", &json!({ "sub": "x" })).unwrap();
            let [_, claims, signature] = token.split('.').collect::<Vec<_>>()[..] else { panic!() };
            let others = ALL.into_iter().filter(|other| *other != one).map(SigningAlgorithm::name);
            for said in others.chain(["none", "HS256", "RS512", "PS256", "ES384", "eddsa"]) {
                let forged = json!({ "alg": said, "typ": "at+jwt", "kid": kid(&ring) });
                let forged = format!("{}.{claims}.{signature}", part(&forged));
                assert!(ring.verify::<Value>("at+jwt", &forged).is_err(), "{one} {said}");
            }
            // A token with HS256 that uses the public key as the secret, in each encoding in which the key is
            // published.
            let jwks: Value = serde_json::from_str(&ring.jwks().text).unwrap();
            for secret in [jwks["keys"][0]["x"].as_str(), jwks["keys"][0]["n"].as_str()].into_iter().flatten()
            {
                for bytes in [secret.as_bytes().to_vec(), URL_SAFE_NO_PAD.decode(secret).unwrap()] {
                    let mut header = Header::new(jsonwebtoken::Algorithm::HS256);
                    (header.typ, header.kid) = (Some("at+jwt".to_owned()), Some(kid(&ring)));
                    let key = EncodingKey::from_secret(&bytes);
                    let forged = jsonwebtoken::encode(&header, &json!({ "sub": "x" }), &key).unwrap();
                    assert!(ring.verify::<Value>("at+jwt", &forged).is_err());
                }
            }
        }
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
        let kid = &kid(&ring);
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
        // The last character of an Ed25519 signature has four unused bits. A different spelling must be refused.
        let last = token.chars().last().unwrap();
        let twin = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
            .chars()
            .filter(|c| *c != last)
            .map(|c| format!("{}{c}", &token[..token.len() - 1]));
        for token in twin {
            assert!(ring.verify::<Value>("at+jwt", &token).is_err());
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]

        #[test]
        fn any_text_is_refused_and_so_is_any_change_to_a_token(
            text in ".{0,120}",
            at in any::<prop::sample::Index>(),
            with in any::<char>(),
        ) {
            let ring = ring();
            prop_assert!(ring.verify::<Value>("at+jwt", &text).is_err());
            let token = ring.sign("at+jwt", &json!({ "sub": "x" })).unwrap();
            let mut changed: Vec<char> = token.chars().collect();
            let at = at.index(changed.len());
            if changed[at] != with {
                changed[at] = with;
                let changed: String = changed.into_iter().collect();
                prop_assert!(ring.verify::<Value>("at+jwt", &changed).is_err());
            }
            prop_assert!(ring.verify::<Value>("at+jwt", &token[..at]).is_err());
        }
    }
}
