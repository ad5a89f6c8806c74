//! The thumbprint of a key to which tokens are bound (`jkt`, RFC 9449 §6.1; RFC 7638 with SHA-256).

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};

/// A SHA-256 thumbprint: 32 bytes in base64url.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct KeyThumbprint(String);

impl KeyThumbprint {
    /// Reads a thumbprint, such as the `dpop_jkt` parameter (RFC 9449 §10).
    pub fn parse(text: &str) -> Option<Self> {
        let bytes = URL_SAFE_NO_PAD.decode(text).ok()?;
        (bytes.len() == 32).then(|| Self(text.to_owned()))
    }

    /// The thumbprint in base64url.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for KeyThumbprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thumbprint_is_one_of_sha_256() {
        assert!(KeyThumbprint::parse("NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs").is_some());
        for text in ["", "NzbLsXh8uDCcd", "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs=", "a b"] {
            assert!(KeyThumbprint::parse(text).is_none(), "{text}");
        }
    }
}
