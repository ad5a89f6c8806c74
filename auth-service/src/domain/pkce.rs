//! Proof Key for Code Exchange (RFC 7636), S256 only.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

/// A `code_challenge` of method S256: base64url of a SHA-256 (RFC 7636 §4.2).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct CodeChallenge(String);

impl CodeChallenge {
    /// Reads the `code_challenge` parameter.
    pub fn parse(text: &str) -> Option<Self> {
        let is_digest = text.len() == 43 && URL_SAFE_NO_PAD.decode(text).is_ok();
        is_digest.then(|| Self(text.to_owned()))
    }

    /// The challenge as the client sent it.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether `verifier` matches this challenge (RFC 7636 §4.6). A verifier that breaks the grammar of §4.1 (43
    /// to 128 unreserved characters) never matches.
    pub fn is_met_by(&self, verifier: &str) -> bool {
        let well_formed = (43..=128).contains(&verifier.len())
            && verifier.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._~".contains(&b));
        let digest = URL_SAFE_NO_PAD.encode(Sha256::digest(verifier));
        well_formed && bool::from(digest.as_bytes().ct_eq(self.0.as_bytes()))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_example_of_rfc_7636_appendix_b_is_met() {
        let challenge = CodeChallenge::parse("E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM").unwrap();
        assert!(challenge.is_met_by("dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk"));
        assert!(!challenge.is_met_by("dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXl"));
        // The unsupported method `plain` would compare the two strings directly.
        assert!(!challenge.is_met_by("E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM"));
    }

    #[test]
    fn malformed_challenges_are_refused() {
        for text in ["", "short", &"A".repeat(44), &"=".repeat(43), &"+".repeat(43)] {
            assert_eq!(CodeChallenge::parse(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn a_verifier_meets_its_own_challenge_and_no_other(
            one in "[A-Za-z0-9._~-]{43,128}",
            other in "[A-Za-z0-9._~-]{43,128}",
        ) {
            let challenge = CodeChallenge::parse(&URL_SAFE_NO_PAD.encode(Sha256::digest(&one))).unwrap();
            prop_assert!(challenge.is_met_by(&one));
            prop_assert_eq!(challenge.is_met_by(&other), one == other);
        }
    }
}
