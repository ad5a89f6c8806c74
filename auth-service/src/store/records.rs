//! The content of a store in a form that does not depend on the kind of store, for exports and imports. Rows that
//! only point to other rows (from a user name to its account, from a code to its grant, or an index) are not
//! records, because each store creates its own.

use std::collections::BTreeMap;
use std::fmt;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tokio::sync::mpsc;

use crate::domain::clock::UnixTime;
use crate::keys::seal::StoreKey;

use super::StoreError;

/// The kind of a record, which also determines the meaning of the record's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// A client, identified by its `client_id`.
    Client,
    /// An account, identified by its subject.
    Account,
    /// A login session, identified by the SHA-256 of its cookie.
    Session,
    /// An answered consent form, identified by the SHA-256 of the approval.
    Approval,
    /// An authorization code, used or not, identified by its SHA-256.
    Code,
    /// A grant, identified by its grant id.
    Grant,
    /// A device authorization, identified by the SHA-256 of the device code.
    Device,
    /// The device code of a user code, identified by the SHA-256 of the user code.
    UserCode,
    /// A pushed authorization request, identified by the SHA-256 of its handle.
    PushedRequest,
    /// The consent of a user to a client, identified by the SHA-256 of both.
    Consent,
    /// The account that is linked to a user of another issuer, identified by the SHA-256 of the issuer and the
    /// user's `sub` there.
    Link,
    /// The `sub` that another issuer uses for the user of an account, identified by the SHA-256 of the issuer and
    /// of the account's subject.
    LinkBack,
    /// A name that can be used only once, such as an assertion's `jti`, identified by its SHA-256.
    Once,
    /// The set of signing keys.
    SigningKeys,
}

impl Kind {
    /// The name of this kind, in the singular or plural as `count` requires.
    pub const fn text(self, count: u64) -> &'static str {
        let (one, many) = match self {
            Self::Client => ("client", "clients"),
            Self::Account => ("account", "accounts"),
            Self::Session => ("login", "logins"),
            Self::Approval => ("answered consent form", "answered consent forms"),
            Self::Code => ("code", "codes"),
            Self::Grant => ("grant", "grants"),
            Self::Device => ("device authorization", "device authorizations"),
            Self::UserCode => ("user code", "user codes"),
            Self::PushedRequest => ("pushed request", "pushed requests"),
            Self::Consent => ("remembered consent", "remembered consents"),
            Self::Link => ("account link", "account links"),
            Self::LinkBack => ("reverse account link", "reverse account links"),
            Self::Once => ("used assertion or proof", "used assertions and proofs"),
            Self::SigningKeys => ("set of signing keys", "sets of signing keys"),
        };
        if count == 1 { one } else { many }
    }
}

/// The record name of the set of signing keys, which exists only once.
pub(super) const SIGNING: &str = "signing";

/// One entry of a store. Its value is the stored JSON, byte for byte.
#[derive(Clone, Serialize, Deserialize)]
pub struct Record {
    /// The kind of the record.
    pub kind: Kind,
    /// The name, which is unique among the records of one kind.
    pub name: String,
    /// The time at which the record expires. It is `None` if the record does not expire.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<UnixTime>,
    /// The stored value as JSON.
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

    /// Parses the value as a domain type.
    pub(super) fn read<T: serde::de::DeserializeOwned>(&self) -> Result<T, StoreError> {
        serde_json::from_str(self.value.get()).map_err(|_| StoreError::Unreadable)
    }
}

/// The number of records of each kind.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Counts(pub BTreeMap<Kind, u64>);

impl Counts {
    /// Adds these records to the counts.
    pub fn add(&mut self, records: &[Record]) {
        for record in records {
            *self.0.entry(record.kind).or_default() += 1;
        }
    }

    /// The number of records of all kinds.
    pub fn total(&self) -> u64 {
        self.0.values().sum()
    }

    /// The first kind for which `other` has fewer records, and the difference.
    pub fn missing_in(&self, other: &Self) -> Option<(Kind, u64)> {
        self.0.iter().find_map(|(kind, count)| {
            let there = other.0.get(kind).copied().unwrap_or(0);
            (there < *count).then(|| (*kind, count - there))
        })
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let total = self.total();
        write!(f, "{total} {}", if total == 1 { "record" } else { "records" })?;
        self.0.iter().try_for_each(|(kind, count)| write!(f, "\n  {count:>9} {}", kind.text(*count)))
    }
}

/// The approximate number of records in a batch.
pub const BATCH: usize = 512;

/// The channel to which an export is sent, in batches.
pub type Sink = mpsc::Sender<Vec<Record>>;

/// The result of encrypting all rows with a new key.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resealed {
    /// The number of all rows.
    pub rows: u64,
    /// The number of rows that had been encrypted with the previous key.
    pub changed: u64,
}

/// The part of the store that processes all of its content.
#[async_trait]
pub trait Portable: Send + Sync {
    /// Sends all records that have not expired at `now`. The embedded store sends its state as of the start of the
    /// call. Redis might also send some later changes.
    ///
    /// # Errors
    /// Fails if a record cannot be read or is of an unknown kind (an export must be complete), or if the receiver
    /// was dropped.
    async fn export(&self, now: UnixTime, to: Sink) -> Result<(), StoreError>;
    /// Encrypts all rows with the current key that were encrypted with the previous one.
    async fn reseal(&self) -> Result<Resealed, StoreError>;
    /// The key with which values are encrypted.
    fn key(&self) -> &StoreKey;
}

pub(super) fn nobody_receives<T>(_: T) -> StoreError {
    StoreError::Unavailable("the client that requested the export has disconnected".to_owned())
}
