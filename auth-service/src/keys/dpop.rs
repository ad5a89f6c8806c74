//! DPoP proofs (RFC 9449 §4): a client shows that it holds the key to which its tokens are bound. These are pure
//! functions without I/O. The caller queries the store to find out whether a proof has already been used.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, ThumbprintHash};
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use url::Url;

use crate::domain::clock::UnixTime;
use crate::domain::key_thumbprint::KeyThumbprint;

use super::seal::{CryptoFailure, Purpose, Sealer, StoreKey};

/// The `typ` header of a proof.
const PROOF_TYPE: &str = "dpop+jwt";
/// Accepted signature algorithms of proofs (`dpop_signing_alg_values_supported`). All are asymmetric.
pub const ALGORITHMS: [&str; 4] = ["EdDSA", "ES256", "RS256", "PS256"];
/// Maximum difference between the time of a proof and the time of this server, in seconds.
const WINDOW: u64 = 300;
/// How long a nonce from this server can be used, in seconds.
const NONCE_LIFE: u64 = 300;
/// Maximum length of a proof, in bytes.
const MAX_PROOF_LEN: usize = 8192;
/// Maximum length of a `jti`, in bytes.
const MAX_JTI_LEN: usize = 256;

/// The `cnf` claim of an access token (RFC 9449 §6.1).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Confirmation {
    /// The thumbprint of the key that must sign the proof sent with the token.
    pub jkt: KeyThumbprint,
}

/// The request that a proof must match.
#[derive(Debug, Clone, Copy)]
pub struct Expected<'a> {
    /// HTTP method of the request.
    pub method: &'a str,
    /// URL of the request, without query and fragment.
    pub url: &'a str,
    /// The access token in the request, if there is one.
    pub access_token: Option<&'a str>,
    /// The time against which the proof is checked.
    pub now: UnixTime,
}

/// A proof that has passed [`check`]. It is not known yet whether it has already been used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proof {
    /// The thumbprint of the key that signed the proof.
    pub thumbprint: KeyThumbprint,
    /// The nonce in the proof, if it has one.
    pub nonce: Option<String>,
    /// The name under which the store records the proof. It consists of the key's thumbprint and the `jti`.
    pub name: String,
    /// The time until which the proof is valid and must therefore stay recorded.
    pub until: UnixTime,
}

/// Why a proof is not valid (`invalid_dpop_proof`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidProof {
    /// The proof is malformed, or its type, algorithm or key is not accepted (RFC 9449 §4.3, points 2 to 5
    /// and 7).
    #[error(
        "the DPoP proof is malformed, has a different type, or uses an algorithm or key that is not accepted"
    )]
    Malformed,
    /// The signature was not made with the key in the proof (RFC 9449 §4.3, point 6).
    #[error("the DPoP proof is not signed by the key that it names")]
    Signature,
    /// The proof is for a different method or URL (RFC 9449 §4.3, points 8 and 9).
    #[error("the DPoP proof is for another method or URL")]
    Target,
    /// The proof is too old, or its time is in the future (RFC 9449 §4.3, point 11).
    #[error("the DPoP proof is too old, or from the future")]
    Time,
    /// The proof is not for this access token (RFC 9449 §4.3, point 12).
    #[error("the DPoP proof is not for this access token")]
    Token,
}

#[derive(Deserialize)]
struct Claims {
    jti: String,
    htm: String,
    htu: String,
    iat: u64,
    #[serde(default)]
    ath: Option<String>,
    #[serde(default)]
    nonce: Option<String>,
}

/// Checks all points of RFC 9449 §4.3 except the nonce and whether the proof has already been used.
pub fn check(text: &str, expected: &Expected<'_>) -> Result<Proof, InvalidProof> {
    if text.len() > MAX_PROOF_LEN {
        return Err(InvalidProof::Malformed);
    }
    let (algorithm, jwk) = header(text).ok_or(InvalidProof::Malformed)?;
    let key = DecodingKey::from_jwk(&jwk).map_err(|_| InvalidProof::Malformed)?;
    let mut validation = Validation::new(algorithm);
    validation.required_spec_claims.clear();
    validation.validate_exp = false;
    validation.validate_aud = false;
    let claims = jsonwebtoken::decode::<Claims>(text, &key, &validation).map_err(|error| {
        use jsonwebtoken::errors::ErrorKind::{Base64, Json, Utf8};
        match error.kind() {
            Base64(_) | Json(_) | Utf8(_) => InvalidProof::Malformed,
            _ => InvalidProof::Signature,
        }
    })?;
    let Claims { jti, htm, htu, iat, ath, nonce } = claims.claims;
    if jti.is_empty() || jti.len() > MAX_JTI_LEN {
        return Err(InvalidProof::Malformed);
    }
    if htm != expected.method || !is_same_url(&htu, expected.url) {
        return Err(InvalidProof::Target);
    }
    if iat.abs_diff(expected.now.0) > WINDOW {
        return Err(InvalidProof::Time);
    }
    if let Some(token) = expected.access_token {
        let hash = URL_SAFE_NO_PAD.encode(Sha256::digest(token));
        let said = ath.ok_or(InvalidProof::Token)?;
        if !bool::from(said.as_bytes().ct_eq(hash.as_bytes())) {
            return Err(InvalidProof::Token);
        }
    }
    let thumbprint = jwk.thumbprint(ThumbprintHash::SHA256).map_err(|_| InvalidProof::Malformed)?;
    Ok(Proof {
        name: format!("dpop/{thumbprint}/{jti}"),
        thumbprint: KeyThumbprint::parse(&thumbprint).ok_or(InvalidProof::Malformed)?,
        nonce,
        until: UnixTime(iat.saturating_add(WINDOW + 1)),
    })
}

/// The algorithm and the public key in the header of a proof, if they match.
fn header(text: &str) -> Option<(Algorithm, Jwk)> {
    let (first, _) = text.split_once('.')?;
    let header: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(first).ok()?).ok()?;
    let jwk = header.get("jwk")?;
    // A private or a symmetric key proves nothing (RFC 9449 §4.3, point 7).
    let private = ["d", "p", "q", "dp", "dq", "qi", "oth", "k"];
    if private.iter().any(|member| jwk.get(member).is_some()) || header.get("crit").is_some() {
        return None;
    }
    if header.get("typ")?.as_str()? != PROOF_TYPE {
        return None;
    }
    let jwk: Jwk = serde_json::from_value(jwk.clone()).ok()?;
    let algorithm = match (header.get("alg")?.as_str()?, &jwk.algorithm) {
        ("EdDSA", AlgorithmParameters::OctetKeyPair(pair)) if pair.curve == EllipticCurve::Ed25519 => {
            Algorithm::EdDSA
        }
        ("ES256", AlgorithmParameters::EllipticCurve(point)) if point.curve == EllipticCurve::P256 => {
            Algorithm::ES256
        }
        ("RS256", AlgorithmParameters::RSA(_)) => Algorithm::RS256,
        ("PS256", AlgorithmParameters::RSA(_)) => Algorithm::PS256,
        _ => return None,
    };
    Some((algorithm, jwk))
}

/// Compares two URLs without query and fragment, after scheme-based normalization (RFC 9449 §4.3, point 9;
/// RFC 3986 §6.2.3).
fn is_same_url(said: &str, ours: &str) -> bool {
    let plain = |text: &str| {
        let mut url = Url::parse(text).ok()?;
        url.set_query(None);
        url.set_fragment(None);
        (url.username().is_empty() && url.password().is_none()).then_some(url)
    };
    match (plain(said), plain(ours)) {
        (Some(said), Some(ours)) => {
            // The resources of this server are written without a trailing slash, but a client might send one.
            said.origin() == ours.origin()
                && said.path().trim_end_matches('/') == ours.path().trim_end_matches('/')
        }
        _ => false,
    }
}

/// DPoP nonces (RFC 9449 §8). A nonce is its time of issue in encrypted form. Only this server's replicas can read
/// it, so nothing needs to be stored.
#[derive(Debug)]
pub struct Nonces(Sealer);

const NONCE_NAME: &[u8] = b"nonce";

impl Nonces {
    /// Creates nonces that are encrypted with the key of this deployment.
    pub fn new(key: &StoreKey) -> Result<Self, CryptoFailure> {
        Sealer::new(key, Purpose::DpopNonce).map(Self)
    }

    /// Issues a nonce for the client's next proofs.
    pub fn issue(&self, now: UnixTime) -> Result<String, CryptoFailure> {
        Ok(URL_SAFE_NO_PAD.encode(self.0.seal(NONCE_NAME, &now.0.to_be_bytes())?))
    }

    /// Whether this deployment issued the nonce and it has not expired.
    pub fn is_good(&self, nonce: &str, now: UnixTime) -> bool {
        let sealed = URL_SAFE_NO_PAD.decode(nonce).ok();
        let plain = sealed.and_then(|sealed| self.0.open(NONCE_NAME, &sealed).ok());
        let made = plain.and_then(|bytes| bytes.as_slice().try_into().ok()).map(u64::from_be_bytes);
        made.is_some_and(|made| made.abs_diff(now.0) <= NONCE_LIFE)
    }
}

#[cfg(test)]
mod tests {
    use jsonwebtoken::{EncodingKey, Header};
    use proptest::prelude::*;
    use serde_json::json;

    use crate::keys::algorithm::SigningAlgorithm;
    use crate::keys::stored::{Material, StoredSigningKey};

    use super::*;

    const NOW: UnixTime = UnixTime(1_800_000_000);
    const URL: &str = "https://mcp.example/mcp";

    fn key(algorithm: SigningAlgorithm) -> Material {
        StoredSigningKey::generate(algorithm, NOW, NOW).unwrap().material().unwrap()
    }

    fn expected(access_token: Option<&str>) -> Expected<'_> {
        Expected { method: "POST", url: URL, access_token, now: NOW }
    }

    fn claims() -> Value {
        json!({ "jti": "one", "htm": "POST", "htu": URL, "iat": NOW.0 })
    }

    fn with(mut base: Value, name: &str, value: Value) -> Value {
        if value.is_null() {
            base.as_object_mut().unwrap().remove(name);
        } else {
            base[name] = value;
        }
        base
    }

    fn sign(key: &Material, algorithm: Algorithm, header: &Value, claims: &Value) -> String {
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let signed = format!("{}.{}", part(header), part(claims));
        let signature = jsonwebtoken::crypto::sign(signed.as_bytes(), &key.signing, algorithm).unwrap();
        format!("{signed}.{signature}")
    }

    fn plain_header(key: &Material) -> Value {
        json!({ "typ": "dpop+jwt", "alg": key.jwk["alg"], "jwk": key.jwk })
    }

    fn proof(key: &Material, claims: &Value) -> String {
        sign(key, Algorithm::EdDSA, &plain_header(key), claims)
    }

    #[test]
    fn a_proof_of_each_algorithm_names_its_key() {
        for (ours, theirs) in [
            (SigningAlgorithm::EdDsa, Algorithm::EdDSA),
            (SigningAlgorithm::Es256, Algorithm::ES256),
            (SigningAlgorithm::Rs256, Algorithm::RS256),
        ] {
            let stored = StoredSigningKey::generate(ours, NOW, NOW).unwrap();
            let key = stored.material().unwrap();
            let text = sign(&key, theirs, &plain_header(&key), &claims());
            let proof = check(&text, &expected(None)).unwrap();
            assert_eq!(proof.thumbprint.as_str(), stored.kid);
            assert_eq!(proof.until.0, NOW.0 + 301);
        }
    }

    #[test]
    fn a068_htm_htu_iat_and_jti_are_checked() {
        let key = key(SigningAlgorithm::EdDsa);
        let refused = |name: &str, value: Value| {
            check(&proof(&key, &with(claims(), name, value)), &expected(None)).unwrap_err()
        };
        for method in ["GET", "post", "", "POST "] {
            assert_eq!(refused("htm", json!(method)), InvalidProof::Target, "{method}");
        }
        for url in [
            "https://mcp.example/mcp2",
            "https://mcp.example/mcp/x",
            "https://other.example/mcp",
            "http://mcp.example/mcp",
            "https://mcp.example:8443/mcp",
            "https://u@mcp.example/mcp",
            "/mcp",
            "",
        ] {
            assert_eq!(refused("htu", json!(url)), InvalidProof::Target, "{url}");
        }
        for url in
            ["HTTPS://MCP.example:443/mcp", "https://mcp.example/mcp?x=1#f", "https://mcp.example/mcp/"]
        {
            assert!(
                check(&proof(&key, &with(claims(), "htu", json!(url))), &expected(None)).is_ok(),
                "{url}"
            );
        }
        for time in [NOW.0 - 301, NOW.0 + 301, 0, u64::MAX] {
            assert_eq!(refused("iat", json!(time)), InvalidProof::Time);
        }
        for name in ["jti", "htm", "htu", "iat"] {
            assert_eq!(refused(name, Value::Null), InvalidProof::Malformed, "{name}");
        }
        assert_eq!(refused("jti", json!("")), InvalidProof::Malformed);
        assert_eq!(refused("jti", json!("x".repeat(257))), InvalidProof::Malformed);
        assert_eq!(refused("iat", json!(NOW.0.to_string())), InvalidProof::Malformed);
    }

    #[test]
    fn a068_ath_must_be_that_of_the_token() {
        let key = key(SigningAlgorithm::EdDsa);
        let ath = URL_SAFE_NO_PAD.encode(Sha256::digest("token"));
        let good = proof(&key, &with(claims(), "ath", json!(ath)));
        assert!(check(&good, &expected(Some("token"))).is_ok());
        assert_eq!(check(&good, &expected(Some("other"))), Err(InvalidProof::Token));
        assert_eq!(check(&proof(&key, &claims()), &expected(Some("token"))), Err(InvalidProof::Token));
    }

    #[test]
    fn a068_a054_header_tricks_are_refused() {
        let key = key(SigningAlgorithm::EdDsa);
        let other = self::key(SigningAlgorithm::EdDsa);
        let header = plain_header(&key);
        let mut private = key.jwk.clone();
        private["d"] = json!("AAAA");
        for (name, value) in [
            ("typ", json!("JWT")),
            ("typ", Value::Null),
            ("alg", json!("none")),
            ("alg", json!("HS256")),
            ("alg", json!("ES256")),
            ("alg", Value::Null),
            ("jwk", Value::Null),
            ("jwk", private),
            ("jwk", json!({ "kty": "oct", "k": "AAAA" })),
            ("crit", json!(["exp"])),
        ] {
            let text = sign(&key, Algorithm::EdDSA, &with(header.clone(), name, value.clone()), &claims());
            assert_eq!(check(&text, &expected(None)), Err(InvalidProof::Malformed), "{name} {value}");
        }
        let foreign = sign(&other, Algorithm::EdDSA, &header, &claims());
        assert_eq!(check(&foreign, &expected(None)), Err(InvalidProof::Signature));
        // A proof with HS256 that uses the public key as the secret.
        let mut hmac = Header::new(Algorithm::HS256);
        hmac.typ = Some("dpop+jwt".to_owned());
        hmac.jwk = serde_json::from_value(key.jwk.clone()).ok();
        let secret = EncodingKey::from_secret(key.jwk["x"].as_str().unwrap().as_bytes());
        let text = jsonwebtoken::encode(&hmac, &claims(), &secret).unwrap();
        assert_eq!(check(&text, &expected(None)), Err(InvalidProof::Malformed));
        for odd in ["", ".", "..", "a.b.c", &"x".repeat(9000)] {
            assert_eq!(check(odd, &expected(None)), Err(InvalidProof::Malformed), "{odd}");
        }
    }

    #[test]
    fn a_nonce_is_good_for_a_while_and_only_under_its_key() {
        let nonces = Nonces::new(&StoreKey::new([1; 32])).unwrap();
        let nonce = nonces.issue(NOW).unwrap();
        assert!(nonces.is_good(&nonce, UnixTime(NOW.0 + 300)));
        assert!(!nonces.is_good(&nonce, UnixTime(NOW.0 + 301)));
        assert!(!nonces.is_good("", NOW) && !nonces.is_good("AAAA", NOW));
        assert!(!Nonces::new(&StoreKey::new([2; 32])).unwrap().is_good(&nonce, NOW));
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in ".{0,200}", parts in prop::collection::vec("[A-Za-z0-9_-]{0,40}", 3)) {
            let _ = check(&text, &expected(None));
            prop_assert!(check(&parts.join("."), &expected(None)).is_err());
        }
    }
}
