//! The request state, which identifies the waiting call that a retry belongs to. Only this process can create
//! and read it. It is encrypted with a key that exists only in this process, because the call waits in this
//! process, and it is bound to the caller and the request.

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::child::Random;

/// Encrypts and decrypts request states.
pub(super) struct Sealer {
    key: Option<LessSafeKey>,
    random: Random,
}

impl Sealer {
    /// Creates a new key. If no random numbers are available, no request state can be encrypted, so a call cannot
    /// be suspended while its client answers a question.
    pub(super) fn new(random: Random) -> Self {
        let mut bytes = [0; 32];
        let key = random(&mut bytes)
            .then(|| UnboundKey::new(&AES_256_GCM, &bytes).ok().map(LessSafeKey::new))
            .flatten();
        Self { key, random }
    }

    /// Encrypts the number of a waiting call as text. Opening it requires the same `bound_to`.
    pub(super) fn seal(&self, call: u64, bound_to: &str) -> Option<String> {
        let mut nonce = [0; NONCE_LEN];
        if !(self.random)(&mut nonce) {
            return None;
        }
        let mut text = call.to_be_bytes().to_vec();
        let aad = Aad::from(bound_to.as_bytes());
        self.key
            .as_ref()?
            .seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), aad, &mut text)
            .ok()?;
        let mut whole = nonce.to_vec();
        whole.append(&mut text);
        Some(URL_SAFE_NO_PAD.encode(whole))
    }

    /// Decrypts the number. Returns `None` if the text was not created by this process, was changed, or has a
    /// different `bound_to`.
    pub(super) fn open(&self, text: &str, bound_to: &str) -> Option<u64> {
        let whole = URL_SAFE_NO_PAD.decode(text).ok()?;
        let (nonce, sealed) = whole.split_at_checked(NONCE_LEN)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
        let mut sealed = sealed.to_vec();
        let opened =
            self.key.as_ref()?.open_in_place(nonce, Aad::from(bound_to.as_bytes()), &mut sealed).ok()?;
        Some(u64::from_be_bytes((&*opened).try_into().ok()?))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU8, Ordering};

    use super::*;

    fn sealer() -> Sealer {
        let count = AtomicU8::new(1);
        Sealer::new(Arc::new(move |buffer| {
            buffer.fill(count.fetch_add(1, Ordering::Relaxed));
            true
        }))
    }

    #[test]
    fn a_state_opens_only_unchanged_and_for_whom_it_was_made() {
        let sealer = sealer();
        let text = sealer.seal(7, "ana\ntools/call\nx").unwrap();
        assert_eq!(sealer.open(&text, "ana\ntools/call\nx"), Some(7));
        assert_eq!(sealer.open(&text, "bob\ntools/call\nx"), None);
        assert_eq!(sealer.open(&format!("{text}-TAMPERED"), "ana\ntools/call\nx"), None);
        assert_eq!(sealer.open("", "ana\ntools/call\nx"), None);
        let flipped: String = text.chars().rev().collect();
        assert_eq!(sealer.open(&flipped, "ana\ntools/call\nx"), None);
    }
}
