//! Device authorization (RFC 8628): a user approves in a browser what a device without a browser requests.

use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::account::Subject;
#[cfg(doc)]
use super::client::Client;
use super::client::{ClientId, RegistrationId};
use super::clock::UnixTime;
use super::grant_id::GrantId;
use super::opaque_token::TokenHash;
use super::resource::ResourceUri;
use super::scope::Scope;

/// The code that the user types: eight letters that are hard to confuse and form no words (RFC 8628 §6.1). It
/// has 34 bits of entropy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UserCode(String);

/// The string is not a valid user code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a code has eight letters, such as BCDF-GHJK")]
pub struct InvalidUserCode;

impl UserCode {
    const ALPHABET: &[u8; 20] = b"BCDFGHJKLMNPQRSTVWXZ";

    /// Creates a code from random bytes. It uses the first eight bytes that map evenly onto the alphabet.
    /// There is no code if fewer than eight do, which has a probability below 10^-20.
    pub fn new(random: [u8; 32]) -> Option<Self> {
        // 240 is the largest multiple of 20 below 256. Larger bytes would make some letters more likely than
        // others.
        let even = random.iter().filter(|byte| **byte < 240);
        let letters = even.filter_map(|byte| Self::ALPHABET.get(usize::from(byte % 20)));
        let code: String = letters.take(8).map(|letter| char::from(*letter)).collect();
        (code.len() == 8).then_some(Self(code))
    }

    /// Reads what a user typed, in upper or lower case and with any punctuation (RFC 8628 §6.1).
    pub fn parse(typed: &str) -> Result<Self, InvalidUserCode> {
        if typed.len() > 64 {
            return Err(InvalidUserCode);
        }
        let code: String =
            typed.chars().filter(char::is_ascii_alphanumeric).map(|c| c.to_ascii_uppercase()).collect();
        let valid = code.len() == 8 && code.bytes().all(|letter| Self::ALPHABET.contains(&letter));
        if valid { Ok(Self(code)) } else { Err(InvalidUserCode) }
    }

    /// The letters without the hyphen, which are the key in the store.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for UserCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (first, second) = self.0.split_at_checked(4).unwrap_or((&self.0, ""));
        write!(f, "{first}-{second}")
    }
}

/// The request from a device, and its progress.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceAuthorization {
    /// The grant that is created when the user approves.
    pub grant_id: GrantId,
    /// The client that made the request.
    pub client_id: ClientId,
    /// The client's registration at the time of the request.
    pub registration: RegistrationId,
    /// Digest of the client's metadata at the time of the request. It identifies a client that has a metadata
    /// document and is not stored yet ([`Client::has_left`]).
    pub metadata: Option<TokenHash>,
    /// The resources for which the token is requested.
    pub resources: Vec<ResourceUri>,
    /// The scope that is requested.
    pub scope: Scope,
    /// The time of the request.
    pub asked_at: UnixTime,
    /// The IP address from which the request came. The page shows it, so that the user can tell whether the
    /// device is their own.
    pub asked_from: Option<IpAddr>,
    /// The time at which the device code and the user code expire.
    pub expires_at: UnixTime,
    /// The number of seconds that the device must wait between two polls.
    pub interval: u64,
    /// The time of the last poll.
    pub polled_at: Option<UnixTime>,
    /// The progress of the request.
    pub state: DeviceState,
}

/// The progress of a device authorization.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum DeviceState {
    /// No user has decided yet.
    Pending,
    /// A user approved the request.
    Allowed {
        /// The user who approved.
        subject: Subject,
        /// The time at which that user logged in.
        authenticated_at: UnixTime,
    },
    /// A user denied the request.
    Denied,
    /// The device has received its tokens.
    Redeemed,
}

/// The result of a poll of the token endpoint by the device (RFC 8628 §3.5).
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(clippy::large_enum_variant, reason = "there is one at a time, for a moment")]
pub enum Poll {
    /// `slow_down`: the device polled too early, and its interval grows.
    TooFast,
    /// `authorization_pending`: no user has decided yet.
    Pending,
    /// `access_denied`: a user denied the request.
    Denied,
    /// The user approved, and the device gets its tokens.
    Allowed(DeviceAuthorization),
    /// The tokens have already been issued, so another party also has the device code.
    Redeemed(GrantId),
    /// `expired_token`: the code has expired or was never issued.
    Unknown,
}

impl DeviceAuthorization {
    /// The number of seconds that each `slow_down` adds to the interval (RFC 8628 §3.5).
    const SLOWER: u64 = 5;
    /// Tolerance in seconds. Clocks count whole seconds, so a wait can appear one second shorter than it was.
    const ROUNDING: u64 = 1;

    /// Whether the device code and the user code have expired.
    pub fn is_expired(&self, now: UnixTime) -> bool {
        self.expires_at <= now
    }

    /// Whether a user can still approve or deny the request.
    pub fn is_open(&self, now: UnixTime) -> bool {
        self.state == DeviceState::Pending && !self.is_expired(now)
    }

    /// Decides on a poll, and records its time.
    pub fn poll(&mut self, now: UnixTime) -> Poll {
        if let DeviceState::Redeemed = self.state {
            return Poll::Redeemed(self.grant_id.clone());
        }
        if self.is_expired(now) {
            return Poll::Unknown;
        }
        let wait = Duration::from_secs(self.interval.saturating_sub(Self::ROUNDING));
        let too_fast = self.polled_at.is_some_and(|last| now.since(last) < wait);
        self.polled_at = Some(now);
        if too_fast {
            self.interval = self.interval.saturating_add(Self::SLOWER);
            return Poll::TooFast;
        }
        match &self.state {
            DeviceState::Pending => Poll::Pending,
            DeviceState::Denied => Poll::Denied,
            DeviceState::Allowed { .. } => Poll::Allowed(self.clone()),
            DeviceState::Redeemed => Poll::Redeemed(self.grant_id.clone()),
        }
    }

    /// Records the decision of a user. Returns false if the request has already been decided or has expired.
    pub fn decide(&mut self, decision: DeviceState, now: UnixTime) -> bool {
        let is_open = self.is_open(now);
        if is_open {
            self.state = decision;
        }
        is_open
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn asked() -> DeviceAuthorization {
        DeviceAuthorization {
            grant_id: GrantId::new([1; 32]),
            client_id: ClientId::try_from("c".to_owned()).unwrap(),
            registration: RegistrationId::new([2; 32]),
            metadata: None,
            resources: vec![],
            scope: Scope::default(),
            asked_at: UnixTime(100),
            asked_from: None,
            expires_at: UnixTime(700),
            interval: 5,
            polled_at: None,
            state: DeviceState::Pending,
        }
    }

    #[test]
    fn a_code_is_read_as_people_type_it() {
        let code = UserCode::new([7; 32]).unwrap();
        for text in [code.to_string(), code.to_string().to_lowercase(), format!(" {}. ", code.as_str())] {
            assert_eq!(UserCode::parse(&text), Ok(code.clone()), "{text}");
        }
        for text in ["", "BCDF-GHJ", "BCDF-GHJKL", "AAAA-AAAA", "BCDF-GHJ1", &"-".repeat(100)] {
            assert_eq!(UserCode::parse(text), Err(InvalidUserCode), "{text}");
        }
        assert_eq!(UserCode::new([255; 32]), None);
    }

    #[test]
    fn a043_a_device_that_asks_too_fast_has_to_slow_down_more_each_time() {
        let mut device = asked();
        assert_eq!(device.poll(UnixTime(101)), Poll::Pending);
        assert_eq!(device.poll(UnixTime(103)), Poll::TooFast);
        assert_eq!((device.interval, device.poll(UnixTime(108))), (10, Poll::TooFast));
        assert_eq!(device.interval, 15);
        assert_eq!(device.poll(UnixTime(123)), Poll::Pending);
        // A device that polls too fast gets the same response even after the decision.
        assert!(device.decide(DeviceState::Denied, UnixTime(124)));
        assert_eq!(device.poll(UnixTime(125)), Poll::TooFast);
    }

    #[test]
    fn a_question_has_one_answer_in_time() {
        let mut device = asked();
        assert!(!device.decide(DeviceState::Denied, UnixTime(700)));
        assert!(device.decide(DeviceState::Denied, UnixTime(699)));
        assert!(!device.decide(DeviceState::Pending, UnixTime(699)));
        assert_eq!(device.poll(UnixTime(699)), Poll::Denied);
        assert_eq!(device.poll(UnixTime(700)), Poll::Unknown);
    }

    proptest! {
        #[test]
        fn a_code_reads_back(random: [u8; 32]) {
            if let Some(code) = UserCode::new(random) {
                prop_assert_eq!(UserCode::parse(&code.to_string()), Ok(code));
            }
        }

        #[test]
        fn anything_typed_is_read_or_refused(typed in ".{0,80}") {
            let _ = UserCode::parse(&typed);
        }
    }
}
