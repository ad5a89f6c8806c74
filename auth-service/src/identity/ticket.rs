//! Form tickets: what a form carries so that only the browser that was shown it can send it, once, in time,
//! with nothing changed.
//!
//! A ticket is sealed (nobody reads or makes one but us) and bound to a cookie's hash. That stops cross-site
//! forms, and a consent that was shown for one request from approving another, without a write to the store
//! for every page that a stranger opens.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::domain::clock::UnixTime;
use crate::domain::opaque_token::TokenHash;
use crate::keys::seal::{CryptoFailure, Purpose, Sealer, StoreKey};

/// Which form a ticket is for.
#[derive(Debug, Clone, Copy)]
pub enum Form {
    /// User name and password.
    Login,
    /// No form: what is said above the login form when it is shown again.
    LoginAgain,
    /// A password of one's own, after the one-time password.
    NewPassword,
    /// Allow or deny.
    Consent,
    /// The code that a device shows.
    UserCode,
    /// No form: what is said above that form when it is shown again.
    UserCodeAgain,
    /// Allow or deny what a device asks for.
    DeviceConsent,
    /// No form: what became of one.
    Message,
    /// No form: a browser in which a person has logged in before, bound to the person's name.
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

/// Issues and reads tickets.
#[derive(Debug)]
pub struct Tickets(Sealer);

#[derive(Serialize, Deserialize)]
struct Sealed<T> {
    bound_to: TokenHash,
    expires_at: UnixTime,
    content: T,
}

/// Why a ticket does not count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadTicket {
    /// Altered, of another form, shown to another browser, or before the user signed in again.
    #[error("the form was shown in another browser, or before you signed in again")]
    Foreign,
    /// It was open for too long.
    #[error("the form was open for too long")]
    Expired,
}

impl Tickets {
    /// Tickets under this deployment's key: any replica reads another's.
    pub fn new(key: &StoreKey) -> Result<Self, CryptoFailure> {
        Sealer::new(key, Purpose::FormTicket).map(Self)
    }

    /// Makes a ticket for the browser that has the cookie `bound_to`.
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

    /// Reads a ticket that came back.
    pub fn read<T: DeserializeOwned>(
        &self,
        form: Form,
        bound_to: TokenHash,
        now: UnixTime,
        text: &str,
    ) -> Result<T, BadTicket> {
        let ticket: Sealed<T> = self.open(form, text).ok_or(BadTicket::Foreign)?;
        if ticket.bound_to != bound_to {
            return Err(BadTicket::Foreign);
        }
        if ticket.expires_at <= now {
            return Err(BadTicket::Expired);
        }
        Ok(ticket.content)
    }

    /// What is in a ticket of ours, whichever browser it was made for and however long ago. It proves nothing about who
    /// sends it: it only says what the page was about, so that one which cannot be used leads to one that can.
    pub fn content<T: DeserializeOwned>(&self, form: Form, text: &str) -> Option<T> {
        self.open(form, text).map(|ticket: Sealed<T>| ticket.content)
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
        let tickets = Tickets::new(&StoreKey::new([1; 32])).unwrap();
        let (mine, other) = (TokenHash::of(b"mine"), TokenHash::of(b"other"));
        let ticket = tickets.issue(Form::Consent, mine, UnixTime(100), &"content").unwrap();
        let read = |form, cookie, now, text: &str| tickets.read::<String>(form, cookie, UnixTime(now), text);
        assert_eq!(read(Form::Consent, mine, 99, &ticket).unwrap(), "content");
        assert_eq!(read(Form::Consent, mine, 100, &ticket), Err(BadTicket::Expired));
        assert_eq!(read(Form::Consent, other, 99, &ticket), Err(BadTicket::Foreign));
        assert_eq!(read(Form::Login, mine, 99, &ticket), Err(BadTicket::Foreign));
        assert_eq!(read(Form::Consent, mine, 99, "AAAA"), Err(BadTicket::Foreign));
        // What it was about can be told for ever, and by its own form only.
        assert_eq!(tickets.content::<String>(Form::Consent, &ticket).as_deref(), Some("content"));
        assert_eq!(tickets.content::<String>(Form::Login, &ticket), None);
        let others = Tickets::new(&StoreKey::new([2; 32])).unwrap();
        assert_eq!(others.content::<String>(Form::Consent, &ticket), None);
    }
}
