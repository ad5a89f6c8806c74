//! Form tokens. A form token ensures that only the browser to which the form was shown can send it, unchanged and
//! before the form token expires.
//!
//! A form token is encrypted, so that only this server can read or create one, and it is bound to the hash of a
//! cookie. This prevents cross-site request forgery. It also prevents a consent page for one request from being
//! used to allow another request. When a stranger opens a page, the server stores nothing.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::domain::clock::UnixTime;
use crate::domain::opaque_token::TokenHash;
use crate::keys::seal::{CryptoFailure, Purpose, Sealer, StoreKey};

/// The purpose of a form token. A form token is not valid for any other purpose.
#[derive(Debug, Clone, Copy)]
pub enum Form {
    /// The login form, with user name and password.
    Login,
    /// The message above the login form when it is shown again. This is not a form.
    LoginAgain,
    /// The form in which the user replaces a one-time password.
    NewPassword,
    /// The form in which the user allows or denies a client.
    Consent,
    /// The form for the code that a device shows.
    UserCode,
    /// The message above the code form when it is shown again. This is not a form.
    UserCodeAgain,
    /// The form in which the user allows or denies a device.
    DeviceConsent,
    /// The message about the result of a form. This is not a form.
    Message,
    /// The cookie of a browser in which a user has already logged in, bound to the user name. This is not a form.
    Device,
}

impl Form {
    const fn name(self) -> &'static [u8] {
        match self {
            Self::Login => b"login",
            Self::LoginAgain => b"login-again",
            Self::NewPassword => b"new-password",
            Self::Consent => b"consent",
            Self::UserCode => b"user-code",
            Self::UserCodeAgain => b"user-code-again",
            Self::DeviceConsent => b"device-consent",
            Self::Message => b"message",
            Self::Device => b"device",
        }
    }
}

/// Issues form tokens, and reads them when a form is sent.
#[derive(Debug)]
pub struct FormTokens(Sealer);

#[derive(Serialize, Deserialize)]
struct Sealed<T> {
    bound_to: TokenHash,
    expires_at: UnixTime,
    content: T,
}

/// Why a form token is not valid.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadFormToken {
    /// The form token has been altered, belongs to a different form or browser, or is older than the user's last
    /// login.
    #[error("the form was shown in another browser, or before you signed in again")]
    Foreign,
    /// The form token has expired, because the form was open for too long.
    #[error("the form was open for too long")]
    Expired,
}

impl FormTokens {
    /// Derives the encryption key from `key`, so that all replicas with this key can read each other's form
    /// tokens.
    pub fn new(key: &StoreKey) -> Result<Self, CryptoFailure> {
        Sealer::new(key, Purpose::FormToken).map(Self)
    }

    /// Issues a form token for the browser whose cookie has the hash `bound_to`.
    pub fn issue<T: Serialize>(
        &self,
        form: Form,
        bound_to: TokenHash,
        expires_at: UnixTime,
        content: &T,
    ) -> Result<String, CryptoFailure> {
        let plain =
            serde_json::to_vec(&Sealed { bound_to, expires_at, content }).map_err(|_| CryptoFailure)?;
        Ok(URL_SAFE_NO_PAD.encode(self.0.seal(form.name(), &plain)?))
    }

    /// Reads a form token that was sent with a form, and checks that it is valid.
    pub fn read<T: DeserializeOwned>(
        &self,
        form: Form,
        bound_to: TokenHash,
        now: UnixTime,
        text: &str,
    ) -> Result<T, BadFormToken> {
        let form_token: Sealed<T> = self.open(form, text).ok_or(BadFormToken::Foreign)?;
        if form_token.bound_to != bound_to {
            return Err(BadFormToken::Foreign);
        }
        if form_token.expires_at <= now {
            return Err(BadFormToken::Expired);
        }
        Ok(form_token.content)
    }

    /// The content of a form token, even if it was issued for a different browser or has expired. It proves
    /// nothing about the sender. It only identifies the request for which the page was shown, so that an expired
    /// page can be replaced by a new one.
    pub fn content<T: DeserializeOwned>(&self, form: Form, text: &str) -> Option<T> {
        self.open(form, text).map(|form_token: Sealed<T>| form_token.content)
    }

    fn open<T: DeserializeOwned>(&self, form: Form, text: &str) -> Option<Sealed<T>> {
        let sealed = URL_SAFE_NO_PAD.decode(text).ok()?;
        let plain = self.0.open(form.name(), &sealed).ok()?;
        serde_json::from_slice(&plain).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a016_a_ticket_counts_for_its_form_browser_and_time_only() {
        let form_tokens = FormTokens::new(&StoreKey::new([1; 32])).unwrap();
        let (mine, other) = (TokenHash::of(b"mine"), TokenHash::of(b"other"));
        let form_token = form_tokens.issue(Form::Consent, mine, UnixTime(100), &"content").unwrap();
        let read =
            |form, cookie, now, text: &str| form_tokens.read::<String>(form, cookie, UnixTime(now), text);
        assert_eq!(read(Form::Consent, mine, 99, &form_token).unwrap(), "content");
        assert_eq!(read(Form::Consent, mine, 100, &form_token), Err(BadFormToken::Expired));
        assert_eq!(read(Form::Consent, other, 99, &form_token), Err(BadFormToken::Foreign));
        assert_eq!(read(Form::Login, mine, 99, &form_token), Err(BadFormToken::Foreign));
        assert_eq!(read(Form::Consent, mine, 99, "AAAA"), Err(BadFormToken::Foreign));
        // The content is still readable after the form token has expired, but only for the same form.
        assert_eq!(form_tokens.content::<String>(Form::Consent, &form_token).as_deref(), Some("content"));
        assert_eq!(form_tokens.content::<String>(Form::Login, &form_token), None);
        let others = FormTokens::new(&StoreKey::new([2; 32])).unwrap();
        assert_eq!(others.content::<String>(Form::Consent, &form_token), None);
    }
}
