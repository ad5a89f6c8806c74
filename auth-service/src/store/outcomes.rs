//! The outcomes of store operations. If an operation might not make its change, its outcome has a name for each case.
//! With a `bool`, every caller would have to know which case is `true`.

use crate::domain::client::Client;
use crate::domain::grant::{AuthorizationCode, Grant};
use crate::domain::grant_id::GrantId;

/// The outcome of adding a client, an account or a device under a name that only one of them can have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use = "nothing has been added if the name is taken"]
pub enum Addition {
    /// It was added.
    Added,
    /// The name is taken. Nothing has changed.
    Taken,
}

/// The outcome of changing a property of a client or an account.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use = "nothing has changed if there is no such client or account"]
pub enum Change {
    /// It has the requested value now.
    Changed,
    /// There is no such client or account.
    Missing,
}

/// The outcome of deleting something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use = "it might not have existed"]
pub enum Deletion {
    /// It was deleted.
    Deleted,
    /// There was nothing to delete.
    Missing,
}

/// The outcome of replacing a value on the condition that it is still the one that the caller has seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use = "nothing has changed if another process was faster"]
pub enum Replacement {
    /// It was replaced.
    Replaced,
    /// Another process has changed it since the caller read it. Nothing has changed.
    Outdated,
}

/// The outcome of a request for one of a limited number of slots.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use = "no slot is reserved if all of them are taken"]
pub enum Admission {
    /// A slot was reserved.
    Admitted,
    /// All slots are taken, and none can be freed.
    Full,
}

/// The outcome of a change to a client at the request of the holder of its registration access token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use = "nothing has changed if the token is not valid"]
pub enum ManagedChange {
    /// The change was made.
    Made,
    /// The token is not, or no longer, the registration access token of the client.
    TokenInvalid,
}

/// The outcome of recording that the user denied a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use = "the request might already have been allowed"]
pub enum Denial {
    /// The request is denied, and cannot create a code.
    Denied,
    /// The request has already created a code.
    CodeIssued,
}

/// The outcome of creating a grant without a code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use = "there is no grant if its client is gone"]
pub enum DirectGrant {
    /// The grant was created.
    Created,
    /// The client was deleted, disabled or registered again since the caller read it.
    ClientGone,
}

/// The outcome of using a name that can be used only once, such as an assertion's `jti`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use = "a replay must be refused"]
pub enum OneTimeUse {
    /// The name was not in use, and is now.
    First,
    /// The name has been used before.
    Replayed,
}

/// The outcome of storing the user's decision on a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use = "the decision might have come too late"]
pub enum Decision {
    /// The decision is stored.
    Stored,
    /// The request has already been decided, or has expired.
    TooLate,
}

/// The outcome of linking an account to a user of another issuer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use = "nothing is linked if there is another link"]
pub enum Linking {
    /// The account and the user are linked.
    Linked,
    /// The account or the user already has a different link.
    OtherLink,
}

/// The outcome of a registration.
#[derive(Debug)]
pub enum Registration {
    /// The client is new and was added.
    Added(Client),
    /// The same public client was already registered. Its previous registration access token is now invalid,
    /// because a party that knows a client's metadata must not be able to delete the client for others.
    Known(Client),
    /// The maximum number of clients is reached, and none of them can be deleted.
    Full,
}

/// The outcome of storing an authorization code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Issuance {
    /// The code is stored.
    Issued,
    /// The user has already allowed or denied the same request.
    AnsweredBefore,
    /// The client was deleted, disabled or registered again since the caller read it.
    ClientGone,
}

/// The outcome of redeeming an authorization code or a device code.
#[derive(Debug)]
pub enum Redemption {
    /// The code was valid, and its grant was created.
    Redeemed {
        /// The grants of the same account that were deleted to make room for it.
        displaced: Vec<Grant>,
    },
    /// The code had already been used. The grant that it created is revoked (RFC 6749 §4.1.2).
    Replayed,
    /// The code is unknown or expired.
    Unknown,
}

/// The result of looking up an authorization code without redeeming it.
#[derive(Debug)]
pub enum FoundCode {
    /// The code is valid and unused.
    Live(AuthorizationCode),
    /// The code has already been used. The caller checks whether the request comes from the client to which it was
    /// issued.
    Used(AuthorizationCode),
    /// The code is unknown or expired.
    Unknown,
}

/// The outcome of presenting a refresh token.
#[derive(Debug)]
pub enum Rotation {
    /// The token was the current one, and has been replaced.
    Rotated(Grant),
    /// The token was replaced within the grace period, and its successor is unused. The client gets the same
    /// successor again.
    Repeated {
        /// The grant that the token belongs to.
        grant: Grant,
        /// The successor, which can be decrypted only with the presented token.
        sealed_successor: Vec<u8>,
    },
    /// The token had already been used. Its grant is revoked.
    Reused(GrantId),
    /// The clock is not reliable, so it is unknown whether the token was replaced within the grace period
    /// ([`RefreshUse::Undatable`]). Nothing has changed.
    ///
    /// [`RefreshUse::Undatable`]: crate::domain::replaced_token::RefreshUse::Undatable
    Undatable,
    /// The token belongs to no grant.
    Unknown,
}
