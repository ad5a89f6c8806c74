//! Device authorization (RFC 8628): a person in a browser allows what a device without one asks for.

use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::account::Subject;
#[cfg(doc)]
use super::client::Client;
use super::client::{ClientId, RegistrationId};
use super::clock::UnixTime;
use super::grant::GrantId;
use super::opaque_token::TokenHash;
use super::resource::ResourceUri;
use super::scope::Scope;

/// What a person types: eight letters that cannot be mistaken for one another and form no words (RFC 8628 §6.1), 34
/// bits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UserCode(String);

/// Not a user code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a code has eight letters, such as BCDF-GHJK")]
pub struct InvalidUserCode;

impl UserCode {
    const ALPHABET: &[u8; 20] = b"BCDFGHJKLMNPQRSTVWXZ";

    /// A new code of these random bytes: the first eight that fall evenly on the alphabet; none when there are not so
    /// many, which happens once in 10^20 times.
    pub fn new(random: [u8; 32]) -> Option<Self> {
        // 240 is the largest multiple of 20 below 256: above it some letters would come more often.
        let even = random.iter().filter(|byte| **byte < 240);
        let letters = even.filter_map(|byte| Self::ALPHABET.get(usize::from(byte % 20)));
        let code: String = letters.take(8).map(|letter| char::from(*letter)).collect();
        (code.len() == 8).then_some(Self(code))
    }

    /// Reads what a person typed: in any case, with any punctuation in between (RFC 8628 §6.1).
    pub fn parse(typed: &str) -> Result<Self, InvalidUserCode> {
        if typed.len() > 64 {
            return Err(InvalidUserCode);
        }
        let code: String =
            typed.chars().filter(char::is_ascii_alphanumeric).map(|c| c.to_ascii_uppercase()).collect();
        let valid = code.len() == 8 && code.bytes().all(|letter| Self::ALPHABET.contains(&letter));
        if valid { Ok(Self(code)) } else { Err(InvalidUserCode) }
    }

    /// The letters alone: a store key.
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

/// What a device asked for, and how far it has come.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceAuthorization {
    /// The grant that allowing it makes.
    pub grant_id: GrantId,
    /// Who asked.
    pub client_id: ClientId,
    /// In which registration.
    pub registration: RegistrationId,
    /// With what metadata ([`Client::has_left`]).
    #[serde(default)]
    pub metadata: Option<TokenHash>,
    /// What the token will be for.
    pub resources: Vec<ResourceUri>,
    /// What it will allow.
    pub scope: Scope,
    /// When it asked.
    pub asked_at: UnixTime,
    /// From where: what the person is shown, since the device stands in their own network or is somebody else's.
    pub asked_from: Option<IpAddr>,
    /// When the codes end.
    pub expires_at: UnixTime,
    /// Seconds that the device has to let pass between two questions.
    pub interval: u64,
    /// When it asked last.
    pub polled_at: Option<UnixTime>,
    /// What has become of it.
    pub state: DeviceState,
}

/// What has become of a device authorization.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum DeviceState {
    /// Nobody has answered.
    Pending,
    /// A person said yes.
    Allowed {
        /// Who.
        subject: Subject,
        /// When that person had logged in.
        authenticated_at: UnixTime,
    },
    /// A person said no.
    Denied,
    /// The device has its tokens.
    Redeemed,
}

/// What a question of the device is answered with (RFC 8628 §3.5).
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(clippy::large_enum_variant, reason = "there is one at a time, for a moment")]
pub enum Poll {
    /// `slow_down`: from now on it has to wait longer.
    TooFast,
    /// `authorization_pending`.
    Pending,
    /// `access_denied`.
    Denied,
    /// It may have its tokens.
    Allowed(DeviceAuthorization),
    /// It has had them. Somebody else has the code too.
    Redeemed(GrantId),
    /// `expired_token`, or never issued.
    Unknown,
}

impl DeviceAuthorization {
    /// How much longer a device has to wait after each `slow_down` (RFC 8628 §3.5).
    const SLOWER: u64 = 5;
    /// Clocks count whole seconds, so a wait may look one shorter than it was.
    const ROUNDING: u64 = 1;

    /// Whether its codes are over.
    pub fn is_expired(&self, now: UnixTime) -> bool {
        self.expires_at <= now
    }

    /// Judges a question, and notes it.
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

    /// Takes a person's answer; whether it was still wanted.
    pub fn decide(&mut self, decision: DeviceState, now: UnixTime) -> bool {
        let open = self.state == DeviceState::Pending && !self.is_expired(now);
        if open {
            self.state = decision;
        }
        open
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
        // Nor does it get its tokens by asking faster.
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
