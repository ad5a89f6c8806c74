//! Names of keys. The part in braces determines the slot in a Redis Cluster, so keys that change in one step share
//! it. Every part that comes from outside is hashed, so that no name can be chosen to form a different key, a
//! pattern or a very long key.

use crate::domain::account::{Subject, Username};
use crate::domain::client::ClientId;
use crate::domain::device::UserCode;
use crate::domain::grant_id::GrantId;
use crate::domain::opaque_token::TokenHash;
use crate::domain::pushed_request::PushedPool;
use crate::store::changes::About;
use crate::store::holdings::Holding;
use crate::store::records::{Kind, SIGNING};

/// Builds and parses keys with a common prefix.
#[derive(Clone)]
pub(super) struct Keys {
    prefix: String,
}

/// The sorted sets that index the clients. They are all in one slot.
pub(super) struct ClientIndex {
    /// All client ids, in order.
    pub(super) all: String,
    /// Ids of clients that have never been used, by the time from which they can be evicted.
    pub(super) unused: String,
    /// Ids of all clients, by the time at which they expire.
    pub(super) ends: String,
}

/// The meaning of a key.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Named<'a> {
    /// The key of a record. The name is the record's name, or the hash of that name for clients, accounts and
    /// grants.
    Record(Kind, &'a str),
    /// The key of a row that points to a record, or of the store's own data.
    Pointer,
    /// The key of a set or number, which is not encrypted.
    Index,
}

fn hashed(text: &str) -> String {
    TokenHash::of(text.as_bytes()).text()
}

/// The name of a consent's record.
pub(super) fn consent_name(subject: &Subject, client: &ClientId) -> String {
    hashed(&format!("{subject}\n{client}"))
}

impl Keys {
    pub(super) fn new(prefix: &str) -> Self {
        Self { prefix: prefix.to_owned() }
    }

    fn key(&self, tag: &str, rest: &str) -> String {
        format!("{}:{{{tag}}}:{rest}", self.prefix)
    }

    /// The prefixes of keys whose changes are followed: the rows that are cached, the signing keys, and the rows
    /// that show whether the store has its latest data.
    pub(super) fn tracked(&self) -> Vec<String> {
        let cached = ["g", "c", "s"].map(|kind| format!("{}:{{{kind}:", self.prefix));
        cached
            .into_iter()
            .chain([self.signing_keys(), self.identity(), self.taken_away(), self.history(), self.claim()])
            .collect()
    }

    /// Whether `key` is the key of a row that shows whether the store has its latest data.
    pub(super) fn tells_age(&self, key: &str) -> bool {
        [self.identity(), self.taken_away(), self.history(), self.claim()].iter().any(|known| known == key)
    }

    /// Whether a key has one of the prefixes in [`Keys::tracked`].
    pub(super) fn is_tracked(&self, key: &str) -> bool {
        self.tracked().iter().any(|start| key.starts_with(start))
    }

    /// The kind of a row that is cached, and the hash of its id.
    pub(super) fn about<'a>(&self, key: &'a str) -> Option<(About, &'a str)> {
        let (tag, rest) = key.strip_prefix(&self.prefix)?.strip_prefix(":{")?.split_once("}:")?;
        let (kind, hash) = tag.split_once(':')?;
        match (kind, rest) {
            ("g", "grant") => Some((About::Grant, hash)),
            ("c", "client") => Some((About::Client, hash)),
            ("s", "account") => Some((About::Account, hash)),
            _ => None,
        }
    }

    /// A pattern that matches all keys of this store and no others.
    pub(super) fn all(&self) -> String {
        format!("{}:{{*", self.prefix)
    }

    /// The meaning of a key. Returns `None` if it is not a key of this store.
    pub(super) fn named<'a>(&self, key: &'a str) -> Option<Named<'a>> {
        let (tag, rest) = key.strip_prefix(&self.prefix)?.strip_prefix(":{")?.split_once("}:")?;
        let (kind, hash) = tag.split_once(':').unwrap_or((tag, ""));
        Some(match (kind, rest) {
            ("c", "client") => Named::Record(Kind::Client, hash),
            ("s", "account") => Named::Record(Kind::Account, hash),
            ("l", "session") => Named::Record(Kind::Session, hash),
            ("a", "approval") => Named::Record(Kind::Approval, hash),
            ("g", "grant") => Named::Record(Kind::Grant, hash),
            ("u", "device") => Named::Record(Kind::UserCode, hash),
            ("p", "request") => Named::Record(Kind::PushedRequest, hash),
            ("y", "consent") => Named::Record(Kind::Consent, hash),
            ("i", "subject") => Named::Record(Kind::Link, hash),
            ("j", "sub") => Named::Record(Kind::LinkBack, hash),
            ("o", "once") => Named::Record(Kind::Once, hash),
            ("keys", SIGNING) => Named::Record(Kind::SigningKeys, SIGNING),
            ("g", _) => {
                let (kind, hash) = rest.split_once(':')?;
                match kind {
                    "code" => Named::Record(Kind::Code, hash),
                    "device" => Named::Record(Kind::Device, hash),
                    _ => return None,
                }
            }
            ("n", "subject")
            | ("w", "clients")
            | ("f", "client")
            | ("k" | "d", "grant")
            | ("meta", "key-check" | "writable" | "trial" | "identity" | "clock" | "keys") => Named::Pointer,
            ("h", _)
            | ("meta", "taken-away" | "history" | "claim" | "heartbeats" | "in-use")
            | ("clients", "all" | "unused" | "ends")
            | ("accounts", "all")
            | ("pool", "requests" | "requests-public" | "requests-proven" | "devices") => Named::Index,
            _ => return None,
        })
    }

    /// The key of a record. For codes and devices, it is the key of the row that points to their grant.
    pub(super) fn of(&self, kind: Kind, name: &str) -> String {
        let key = |tag: &str, rest| self.key(&format!("{tag}:{name}"), rest);
        match kind {
            Kind::Client => self.key(&format!("c:{}", hashed(name)), "client"),
            Kind::Account => self.key(&format!("s:{}", hashed(name)), "account"),
            Kind::Grant => self.key(&format!("g:{}", hashed(name)), "grant"),
            Kind::Session => key("l", "session"),
            Kind::Approval => key("a", "approval"),
            Kind::Code => self.of_code(name),
            Kind::Device => self.of_device(name),
            Kind::UserCode => key("u", "device"),
            Kind::PushedRequest => key("p", "request"),
            Kind::Consent => key("y", "consent"),
            Kind::Link => key("i", "subject"),
            Kind::LinkBack => key("j", "sub"),
            Kind::Once => key("o", "once"),
            Kind::SigningKeys => self.signing_keys(),
        }
    }

    /// Like [`Keys::grant_of_code`], but takes the hash as a string.
    pub(super) fn of_code(&self, hash: &str) -> String {
        self.key(&format!("k:{hash}"), "grant")
    }

    /// Like [`Keys::code`], but takes the hash as a string.
    pub(super) fn code_below(&self, grant: &GrantId, hash: &str) -> String {
        self.key(&format!("g:{}", hashed(grant.as_str())), &format!("code:{hash}"))
    }

    /// Like [`Keys::grant_of_device`], but takes the hash as a string.
    pub(super) fn of_device(&self, hash: &str) -> String {
        self.key(&format!("d:{hash}"), "grant")
    }

    /// Like [`Keys::device`], but takes the hash as a string.
    pub(super) fn device_below(&self, grant: &GrantId, hash: &str) -> String {
        self.key(&format!("g:{}", hashed(grant.as_str())), &format!("device:{hash}"))
    }

    /// The key of the list of clients that this account and few others have used.
    pub(super) fn sole_clients(&self, subject: &Subject) -> String {
        self.key(&format!("w:{}", hashed(subject.as_str())), "clients")
    }

    /// The key of the list of an account's rows of this kind.
    pub(super) fn holdings(&self, holding: Holding, subject: &Subject) -> String {
        self.key(&format!("h:{}", hashed(subject.as_str())), holding.name())
    }

    pub(super) fn client(&self, id: &ClientId) -> String {
        self.key(&format!("c:{}", hashed(id.as_str())), "client")
    }

    /// The key of the row that maps the fingerprint of a public client to its identifier. It exists if the
    /// identifier is not derived from the fingerprint.
    pub(super) fn fingerprint(&self, fingerprint: &TokenHash) -> String {
        self.key(&format!("f:{}", fingerprint.text()), "client")
    }

    pub(super) fn client_index(&self) -> ClientIndex {
        let key = |name| self.key("clients", name);
        ClientIndex { all: key("all"), unused: key("unused"), ends: key("ends") }
    }

    pub(super) fn account(&self, subject: &Subject) -> String {
        self.key(&format!("s:{}", hashed(subject.as_str())), "account")
    }

    /// The key of the row that maps a user name to its subject.
    pub(super) fn username(&self, name: &Username) -> String {
        self.key(&format!("n:{}", hashed(name.as_str())), "subject")
    }

    /// The key of the set of all subjects.
    pub(super) fn account_index(&self) -> String {
        self.key("accounts", "all")
    }

    pub(super) fn session(&self, id: &TokenHash) -> String {
        self.key(&format!("l:{}", id.text()), "session")
    }

    pub(super) fn approval(&self, approval: &str) -> String {
        self.key(&format!("a:{}", hashed(approval)), "approval")
    }

    /// The key of the row that maps a code to the grant that it will create. The grant determines the slot of
    /// both.
    pub(super) fn grant_of_code(&self, code: &TokenHash) -> String {
        self.of_code(&code.text())
    }

    /// The key of a code, in the slot of its grant.
    pub(super) fn code(&self, grant: &GrantId, code: &TokenHash) -> String {
        self.code_below(grant, &code.text())
    }

    pub(super) fn grant(&self, id: &GrantId) -> String {
        self.key(&format!("g:{}", hashed(id.as_str())), "grant")
    }

    /// The key of the row that maps a device code to the grant that it will create.
    pub(super) fn grant_of_device(&self, code: &TokenHash) -> String {
        self.of_device(&code.text())
    }

    /// The key of a device authorization, in the slot of its grant.
    pub(super) fn device(&self, grant: &GrantId, code: &TokenHash) -> String {
        self.device_below(grant, &code.text())
    }

    /// The key of the row that maps a user code to its device code.
    pub(super) fn device_of_user(&self, code: &UserCode) -> String {
        self.key(&format!("u:{}", hashed(code.as_str())), "device")
    }

    pub(super) fn pushed_request(&self, handle: &TokenHash) -> String {
        self.key(&format!("p:{}", handle.text()), "request")
    }

    pub(super) fn consent(&self, subject: &Subject, client: &ClientId) -> String {
        self.key(&format!("y:{}", consent_name(subject, client)), "consent")
    }

    /// The key of the row that maps a user of another issuer to the linked account.
    pub(super) fn link(&self, issuer: &str, sub: &str) -> String {
        self.key(&format!("i:{}", hashed(&format!("{issuer}\n{sub}"))), "subject")
    }

    /// The key of the row that maps an account to the linked user of another issuer.
    pub(super) fn link_back(&self, issuer: &str, subject: &Subject) -> String {
        self.key(&format!("j:{}", hashed(&format!("{issuer}\n{subject}"))), "sub")
    }

    pub(super) fn once(&self, name: &str) -> String {
        self.key(&format!("o:{}", hashed(name)), "once")
    }

    pub(super) fn signing_keys(&self) -> String {
        self.key("keys", SIGNING)
    }

    /// The key of the set of slots in a pool for pushed requests, by the time at which they expire.
    pub(super) fn pool(&self, pool: PushedPool) -> String {
        self.key(
            "pool",
            match pool {
                PushedPool::Strangers => "requests",
                PushedPool::Public => "requests-public",
                PushedPool::Proven => "requests-proven",
            },
        )
    }

    /// The key of the set of slots for devices, by the time at which they expire.
    pub(super) fn pool_of_devices(&self) -> String {
        self.key("pool", "devices")
    }

    /// The key of a row that is written to test whether Redis accepts writes.
    pub(super) fn writable(&self) -> String {
        self.key("meta", "writable")
    }

    /// The key on which the permissions of the Redis user are tried. It exists only during the test.
    pub(super) fn trial(&self) -> String {
        self.key("meta", "trial")
    }

    /// The key of the row with the identity of the store.
    pub(super) fn identity(&self) -> String {
        self.key("meta", "identity")
    }

    /// The key of the row with the last time at which the store was in use.
    pub(super) fn clock(&self) -> String {
        self.key("meta", "clock")
    }

    /// The key of the number of changes that took access away.
    pub(super) fn taken_away(&self) -> String {
        self.key("meta", "taken-away")
    }

    /// The key of the history of changes that took access away.
    pub(super) fn history(&self) -> String {
        self.key("meta", "history")
    }

    /// The key of the claim of a process that has seen later changes.
    pub(super) fn claim(&self) -> String {
        self.key("meta", "claim")
    }

    /// The key of the set of processes, sorted by the number of their last heartbeat.
    pub(super) fn heartbeats(&self) -> String {
        self.key("meta", "heartbeats")
    }

    /// The key of the row with the times between which the store has been in use.
    pub(super) fn times_of_use(&self) -> String {
        self.key("meta", "in-use")
    }

    /// The key of the record about the signing keys.
    pub(super) fn keys_mark(&self) -> String {
        self.key("meta", "keys")
    }

    /// The key of the row that shows whether `STORE_KEY` is correct.
    pub(super) fn key_check(&self) -> String {
        self.key("meta", "key-check")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a094_names_from_outside_cannot_shape_a_key() {
        let keys = Keys::new("mcp-gate");
        for text in ["a", "*", "{x}:y", "mcp-gate:{keys}:signing", "a\u{1f}b", &"long".repeat(500)] {
            let key = keys.once(text);
            assert_eq!(key.len(), keys.once("").len());
            assert!(key.bytes().all(|b| b.is_ascii_alphanumeric() || b":{}-_".contains(&b)), "{key}");
        }
    }

    #[test]
    fn rows_that_copies_are_made_from_are_known_by_their_names() {
        let keys = Keys::new("mcp-gate");
        let (grant, client, subject) =
            (GrantId::new([1; 32]), ClientId::issued([2; 32]), Subject::new([3; 32]));
        for (key, about, id) in [
            (keys.grant(&grant), About::Grant, grant.as_str()),
            (keys.client(&client), About::Client, client.as_str()),
            (keys.account(&subject), About::Account, subject.as_str()),
        ] {
            assert!(keys.is_tracked(&key));
            assert_eq!(keys.about(&key), Some((about, &*hashed(id))));
        }
        let code = keys.code(&grant, &TokenHash::of(b"code"));
        assert!(keys.is_tracked(&code) && keys.about(&code).is_none());
        for key in [keys.clock(), keys.key_check(), keys.writable(), keys.client_index().all, "x".to_owned()]
        {
            assert!(!keys.is_tracked(&key) && keys.about(&key).is_none(), "{key}");
        }
    }

    #[test]
    fn what_changes_in_one_step_is_in_one_slot() {
        let keys = Keys::new("mcp-gate");
        let tag = |key: &str| key.split(['{', '}']).nth(1).unwrap().to_owned();
        let (grant, code) = (GrantId::new([1; 32]), TokenHash::of(b"code"));
        assert_eq!(tag(&keys.code(&grant, &code)), tag(&keys.grant(&grant)));
        let index = keys.client_index();
        assert_eq!(tag(&index.all), tag(&index.unused));
        assert_eq!(tag(&index.all), tag(&index.ends));
    }
}
