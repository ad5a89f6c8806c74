//! People: local accounts and their login sessions.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};

use super::clock::UnixTime;
use super::opaque_token::TokenHash;

/// The stable identifier of a person (`sub`, RFC 7519 §4.1.2); never reused, unlike a name.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Subject(String);

impl Subject {
    /// A new subject of these random bytes.
    pub fn new(random: [u8; 32]) -> Self {
        Self(format!("usr_{}", short_id(random)))
    }

    /// A machine is its client (RFC 9068 §2.2). No client identifier begins as a person's subject does.
    pub fn of_client(id: &super::client::ClientId) -> Self {
        Self(id.as_str().to_owned())
    }

    /// Its text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// 128 of the bits in base64url: unique without coordination, short enough to read in a log.
pub(crate) fn short_id(random: [u8; 32]) -> String {
    URL_SAFE_NO_PAD.encode(random.get(..16).unwrap_or_default())
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A login name in its one spelling: lower case, without blanks around it. A person who types `Ana ` means `ana`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Username(String);

/// Not a login name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a user name is 1 to 64 characters out of letters, digits and . _ - + with at most one @")]
pub struct InvalidUsername;

impl Username {
    /// The name's text.
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

/// A group name: what policy speaks of. No comma, because a list of them travels in one header.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Group(String);

/// Not a group name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a group name is 1 to 64 characters out of letters, digits and . _ - : / @ +")]
pub struct InvalidGroup;

impl Group {
    /// The name's text.
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

/// A password in the store.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredPassword {
    /// Argon2id in PHC string format.
    pub phc: String,
    /// Good for one login only, in which the person chooses another.
    pub one_time: bool,
}

impl StoredPassword {
    /// What no password matches: it is not the text of any hash.
    pub fn none() -> Self {
        Self { phc: "!".to_owned(), one_time: false }
    }
}

impl fmt::Debug for StoredPassword {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StoredPassword").field("one_time", &self.one_time).finish_non_exhaustive()
    }
}

/// Who an account is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AccountKind {
    /// Somebody who logs in.
    #[default]
    Person,
    /// A client that acts for itself. It never logs in, and is in no group that an operator did not put it in.
    Machine,
}

/// A local account.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Account {
    /// Who it is, for ever.
    pub subject: Subject,
    /// Person or machine.
    #[serde(default)]
    pub kind: AccountKind,
    /// What the person types to log in.
    pub username: Username,
    /// Where to reach the person.
    pub email: Option<String>,
    /// What policy knows the person by.
    pub groups: Vec<Group>,
    /// How the person proves it.
    pub password: StoredPassword,
    /// Logins before this moment do not count any more.
    pub logins_from: UnixTime,
    /// A disabled account cannot log in, and its tokens open nothing.
    pub disabled: bool,
    /// When it was made.
    pub created_at: UnixTime,
}

impl Account {
    /// Whether a password may open it.
    pub fn may_log_in(&self) -> bool {
        !self.disabled && self.kind == AccountKind::Person
    }

    /// Whether `session` still logs this person in.
    pub fn is_logged_in_by(&self, session: &LoginSession) -> bool {
        self.may_log_in() && self.subject == session.subject && session.authenticated_at >= self.logins_from
    }
}

/// A browser in which a person has logged in.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct LoginSession {
    /// SHA-256 of the cookie's value.
    pub id: TokenHash,
    /// Who logged in.
    pub subject: Subject,
    /// When.
    pub authenticated_at: UnixTime,
    /// When it ends.
    pub expires_at: UnixTime,
    /// SHA-256 of the query of the authorization request that the login was for, if it was for one.
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
