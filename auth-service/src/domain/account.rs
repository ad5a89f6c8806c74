//! Local user accounts and their login sessions.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};

use super::clock::UnixTime;
use super::clock_watch::TimeBounds;
use super::opaque_token::TokenHash;

/// The stable identifier of a user (`sub`, RFC 7519 §4.1.2). Unlike a user name, it is never reused.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Subject(String);

impl Subject {
    /// Creates the subject of a new user from random bytes.
    pub fn new(random: [u8; 32]) -> Self {
        Self(format!("usr_{}", short_id(random)))
    }

    /// The subject with the identifier of something that is not a user.
    pub(super) fn identified_by(id: &str) -> Self {
        Self(id.to_owned())
    }

    /// The value of the `sub` claim.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Encodes the first 128 bits in base64url. This is long enough to be unique, and short enough to read in a log.
pub(crate) fn short_id(random: [u8; 32]) -> String {
    URL_SAFE_NO_PAD.encode(random.get(..16).unwrap_or_default())
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A login name in lower case, without surrounding whitespace. `Ana ` and `ana` are the same name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Username(String);

/// The string is not a valid user name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a user name is 1 to 64 characters: letters, digits and . _ - + with at most one @")]
pub struct InvalidUsername;

impl Username {
    /// The normalized name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for Username {
    type Error = InvalidUsername;

    fn try_from(text: String) -> Result<Self, InvalidUsername> {
        let name = text.trim().to_ascii_lowercase();
        let valid = (1..=64).contains(&name.len())
            && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-+@".contains(&b))
            && name.matches('@').count() <= 1;
        if valid { Ok(Self(name)) } else { Err(InvalidUsername) }
    }
}

impl From<Username> for String {
    fn from(name: Username) -> Self {
        name.0
    }
}

impl fmt::Display for Username {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The name of a group, to which policy rules refer. It has no comma, because a list of groups is sent in one
/// header.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Group(String);

/// The string is not a valid group name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a group name is 1 to 64 characters: letters, digits and . _ - : / @ +")]
pub struct InvalidGroup;

impl Group {
    /// The name as configured.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for Group {
    type Error = InvalidGroup;

    fn try_from(name: String) -> Result<Self, InvalidGroup> {
        let valid = (1..=64).contains(&name.len())
            && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-:/@+".contains(&b));
        if valid { Ok(Self(name)) } else { Err(InvalidGroup) }
    }
}

impl From<Group> for String {
    fn from(group: Group) -> Self {
        group.0
    }
}

/// The stored form of a password.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredPassword {
    /// The Argon2id hash in PHC string format.
    pub phc: String,
    /// Whether this is a one-time password. It is valid for one login, in which the user chooses a new one.
    pub one_time: bool,
}

impl StoredPassword {
    /// A value that no password matches, because it is not a valid hash.
    pub fn none() -> Self {
        Self { phc: "!".to_owned(), one_time: false }
    }
}

impl fmt::Debug for StoredPassword {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StoredPassword").field("one_time", &self.one_time).finish_non_exhaustive()
    }
}

/// The kind of an account.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AccountKind {
    /// A user who logs in.
    #[default]
    Person,
    /// A client that acts for itself. It never logs in, and only an operator adds it to groups.
    Machine,
}

/// A local account of a user, or of a client that acts for itself.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Account {
    /// The identifier, which never changes.
    pub subject: Subject,
    /// Whether the account is a user's or a client's.
    pub kind: AccountKind,
    /// The name that the user types to log in.
    pub username: Username,
    /// The user's email address, if it is known.
    pub email: Option<String>,
    /// The groups of the account, to which policy rules refer.
    pub groups: Vec<Group>,
    /// The password with which the user logs in.
    pub password: StoredPassword,
    /// How many times all login sessions of the account have been ended, because its password was replaced or the
    /// account was disabled. It is a counter and not a time, because a clock can be set back.
    pub logins_ended: u64,
    /// Whether the account is disabled. The user of a disabled account cannot log in, and tokens of the
    /// account are refused.
    pub disabled: bool,
    /// The time at which the account was created.
    pub created_at: UnixTime,
}

impl Account {
    /// Whether a user can log in to this account with a password.
    pub fn may_log_in(&self) -> bool {
        !self.disabled && self.kind == AccountKind::Person
    }

    /// Whether `session` is a valid login to this account. A login time in the future means that the session was
    /// created while the clock was ahead, so it would be valid for too long. The expiry is not checked here,
    /// because the store never returns an expired session.
    pub fn is_logged_in_by(&self, session: &LoginSession, time: TimeBounds) -> bool {
        self.may_log_in()
            && self.subject == session.subject
            && self.logins_ended == session.logins_ended
            && !time.is_before(session.authenticated_at)
    }

    /// Ends all login sessions of the account, in all browsers: they contain the previous value of `logins_ended`,
    /// so they are no longer valid.
    pub fn end_logins(&mut self) {
        self.logins_ended = self.logins_ended.saturating_add(1);
    }

    /// Replaces the password, and ends all login sessions.
    pub fn set_password(&mut self, new: &StoredPassword) {
        self.password.clone_from(new);
        self.end_logins();
    }

    /// Disables or enables the account. Disabling it ends all login sessions.
    pub fn set_disabled(&mut self, disabled: bool) {
        if disabled {
            self.end_logins();
        }
        self.disabled = disabled;
    }
}

/// The login of a user in one browser.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct LoginSession {
    /// SHA-256 of the value of the session cookie.
    pub id: TokenHash,
    /// The user who logged in.
    pub subject: Subject,
    /// [`Account::logins_ended`] at the time of the login.
    pub logins_ended: u64,
    /// The time of the login.
    pub authenticated_at: UnixTime,
    /// The time at which the session ends.
    pub expires_at: UnixTime,
    /// SHA-256 of the query of the authorization request for which the user logged in, if there was one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub asked_by: Option<TokenHash>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a079_a_name_has_one_spelling() {
        let name = |text: &str| Username::try_from(text.to_owned());
        assert_eq!(name(" Ana "), name("ana"));
        assert_eq!(name("Ana@Example.com").unwrap().as_str(), "ana@example.com");
        for text in ["", " ", "a b", "a@b@c", "ana\r\nX-Auth-Groups: admin", "an\u{430}", &"a".repeat(65)] {
            assert!(name(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a085_a_group_is_never_empty_and_never_two() {
        for text in ["", "a,b", "a b", "a\n"] {
            assert!(Group::try_from(text.to_owned()).is_err(), "{text:?}");
        }
    }
}
