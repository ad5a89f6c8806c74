//! What a store keeps, independent of where it keeps it: what leaves one store in an export and enters another. Whatever
//! only leads to something else (a user name to its account, a code to its grant, an index) is no record: each store
//! makes its own.

use std::collections::BTreeMap;
use std::fmt;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tokio::sync::mpsc;

use crate::domain::clock::UnixTime;
use crate::keys::seal::StoreKey;

use super::StoreError;

/// What a record is about, and what its name is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// A client, by its identifier.
    Client,
    /// An account, by its subject.
    Account,
    /// A login, by the SHA-256 of its cookie.
    Session,
    /// That an approval has made a code, by the SHA-256 of the approval.
    Approval,
    /// A code, used or not, by its SHA-256.
    Code,
    /// A grant, by its identifier.
    Grant,
    /// The grant of a refresh token, used or not, by the token's SHA-256.
    RefreshToken,
    /// A device authorization, by the SHA-256 of the device code.
    Device,
    /// The device code of a user code, by the latter's SHA-256.
    UserCode,
    /// A pushed authorization request, by the SHA-256 of its handle.
    PushedRequest,
    /// What a person has allowed a client, by the SHA-256 of both.
    Consent,
    /// The account of a person of another issuer, by the SHA-256 of the two.
    Link,
    /// The way back, by the SHA-256 of issuer and account.
    LinkBack,
    /// That a name has come, by its SHA-256.
    Once,
    /// The signing keys.
    SigningKeys,
}

impl Kind {
    /// In words.
    pub const fn text(self) -> &'static str {
        match self {
            Self::Client => "clients",
            Self::Account => "accounts",
            Self::Session => "logins",
            Self::Approval => "answered consent forms",
            Self::Code => "codes",
            Self::Grant => "grants",
            Self::RefreshToken => "refresh tokens, used ones included",
            Self::Device => "device authorizations",
            Self::UserCode => "user codes",
            Self::PushedRequest => "pushed requests",
            Self::Consent => "remembered consents",
            Self::Link => "linked people",
            Self::LinkBack => "links back",
            Self::Once => "names that come once",
            Self::SigningKeys => "sets of signing keys",
        }
    }
}

/// The one name of the signing keys.
pub(super) const SIGNING: &str = "signing";

/// One thing that a store keeps. Its value is the JSON that the store has, byte for byte.
#[derive(Clone, Serialize, Deserialize)]
pub struct Record {
    /// What it is about.
    pub kind: Kind,
    /// Which one.
    pub name: String,
    /// When its time is over; none if never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<UnixTime>,
    /// The value.
    pub value: Box<RawValue>,
}

impl fmt::Debug for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Record").field("kind", &self.kind).field("until", &self.until).finish_non_exhaustive()
    }
}

impl Record {
    pub(super) fn new(
        kind: Kind,
        name: impl Into<String>,
        until: Option<UnixTime>,
        json: Vec<u8>,
    ) -> Result<Self, StoreError> {
        let json = String::from_utf8(json).map_err(|_| StoreError::Unreadable)?;
        let value = RawValue::from_string(json).map_err(|_| StoreError::Unreadable)?;
        Ok(Self { kind, name: name.into(), until, value })
    }

    /// The value as what it is.
    pub(super) fn read<T: serde::de::DeserializeOwned>(&self) -> Result<T, StoreError> {
        serde_json::from_str(self.value.get()).map_err(|_| StoreError::Unreadable)
    }
}

/// How many records of each kind.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Counts(pub BTreeMap<Kind, u64>);

impl Counts {
    /// Counts some more.
    pub fn add(&mut self, records: &[Record]) {
        for record in records {
            *self.0.entry(record.kind).or_default() += 1;
        }
    }

    /// Of all kinds together.
    pub fn total(&self) -> u64 {
        self.0.values().sum()
    }

    /// Of what there are fewer in `other`, and how many fewer.
    pub fn missing_in(&self, other: &Self) -> Option<(Kind, u64)> {
        self.0.iter().find_map(|(kind, count)| {
            let there = other.0.get(kind).copied().unwrap_or(0);
            (there < *count).then(|| (*kind, count - there))
        })
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} records", self.total())?;
        self.0.iter().try_for_each(|(kind, count)| write!(f, "\n  {count:>9} {}", kind.text()))
    }
}

/// Records go from hand to hand in batches of about so many.
pub const BATCH: usize = 512;

/// Where an export goes.
pub type Sink = mpsc::Sender<Vec<Record>>;

/// What became of the rows when the key was replaced.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resealed {
    /// All rows.
    pub rows: u64,
    /// Those that the key from before had sealed.
    pub changed: u64,
}

/// The part of the store that looks at all of it.
#[async_trait]
pub trait Portable: Send + Sync {
    /// Sends everything whose time is not over at `now`. The embedded store sends what there was when it began; Redis
    /// also some of what changes meanwhile.
    ///
    /// # Errors
    /// When something cannot be read or is of an unknown kind: an export that leaves something out is none. When nobody
    /// receives.
    async fn export(&self, now: UnixTime, to: Sink) -> Result<(), StoreError>;
    /// Seals again, with the key that seals now, whatever the one from before had sealed.
    async fn reseal(&self) -> Result<Resealed, StoreError>;
    /// What values are sealed with.
    fn key(&self) -> &StoreKey;
}

pub(super) fn nobody_receives<T>(_: T) -> StoreError {
    StoreError::Unavailable("whoever asked for the export has gone".to_owned())
}
