//! Decisions that all stores share, as pure functions: how the row that was read must be changed and written.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::domain::account::{Account, Subject};
use crate::domain::client::{Client, ClientOrigin};
use crate::domain::client_use::{ClientUse, NewUser};
use crate::domain::clock::UnixTime;
use crate::domain::consent::{Approval, Consent};
use crate::domain::device::{DeviceAuthorization, DeviceState};
use crate::domain::grant::{AuthorizationCode, Grant};
use crate::domain::opaque_token::TokenHash;
use crate::domain::scope::Scope;

use super::Denial;

/// How long used codes and answered consent forms are remembered after their expiry. A consent form can be
/// answered for a quarter of an hour. A code that is presented again after this time is refused as unknown, but
/// its grant stays valid (RFC 6749 §4.1.2 recommends a revocation only "when possible").
const REMEMBERED: Duration = Duration::from_secs(3600);

/// How long an unredeemed device code is kept after its expiry, for devices that poll late.
const LATE: Duration = Duration::from_secs(600);

/// An authorization code, and whether it has been redeemed.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct CodeRow {
    pub(super) code: AuthorizationCode,
    pub(super) redeemed: bool,
}

impl CodeRow {
    /// A new code, with the current registration of `client`.
    pub(super) fn new(code: &AuthorizationCode, client: &Client) -> Self {
        let code = AuthorizationCode { registration: client.registration.clone(), ..code.clone() };
        Self { code, redeemed: false }
    }

    /// The row of the same code once it has been redeemed. It keeps only what is needed to recognize a repeated
    /// request from the client to which the code was issued.
    pub(super) fn redeemed(&self) -> Self {
        let code = AuthorizationCode { resources: Vec::new(), scope: Scope::default(), ..self.code.clone() };
        Self { code, redeemed: true }
    }

    /// The time at which the code is deleted. An unredeemed code is deleted when it expires.
    pub(super) fn forget_at(&self) -> UnixTime {
        if self.redeemed { self.approval_kept_until() } else { self.code.expires_at }
    }

    /// The time until which the approval of the code is kept, so that it creates no other code.
    pub(super) fn approval_kept_until(&self) -> UnixTime {
        self.code.expires_at.plus(REMEMBERED)
    }
}

/// Stored instead of the name of a code if the approval was denied.
pub(super) const DENIED: &str = "";

/// The outcome of denying an approval that was answered before. `made` is what is stored for it.
pub(super) fn denial_of(made: &str) -> Denial {
    if made == DENIED { Denial::Denied } else { Denial::CodeIssued }
}

/// The time until which a device authorization is kept. A redeemed one is kept as long as other codes, so that a
/// replay is noticed. Any other is kept for a few minutes longer, for devices that poll late.
pub(super) fn device_kept_until(device: &DeviceAuthorization) -> UnixTime {
    device.expires_at.plus(match device.state {
        DeviceState::Pending | DeviceState::Denied | DeviceState::Allowed { .. } => LATE,
        DeviceState::Redeemed => REMEMBERED,
    })
}

/// The consent after this approval. An earlier consent is dropped if the client has changed since it
/// was given.
pub(super) fn with_consent(
    known: Option<Consent>,
    subject: &Subject,
    client: &Client,
    approval: &Approval,
) -> Consent {
    let known = known.filter(|consent| consent.is_to(client));
    let mut consent = known.unwrap_or_else(|| Consent::new(subject.clone(), client));
    consent.add(approval);
    consent
}

/// Returns the grant and the account if the grant belongs to the account and the client still holds it.
pub(super) fn held(
    grant: Option<Grant>,
    client: Option<&Client>,
    account: Option<Account>,
) -> Option<(Grant, Account)> {
    let (grant, client, account) = (grant?, client?, account?);
    (grant.is_held_by(client) && grant.subject == account.subject).then_some((grant, account))
}

/// Whether a registration is for the public client that is already stored.
pub(super) fn is_same(known: &Client, asked: &Client) -> bool {
    known.fingerprint.is_some() && known.fingerprint == asked.fingerprint
}

/// The minimum number of seconds by which `kept_until` must grow for the change to be written.
const KEPT_RESOLUTION: u64 = 600;

/// Whether a client is protected for longer now that it is registered again. This applies to clients that only a
/// few accounts, or none, have used. A stranger might have registered the client first, while the user who
/// registers it now is about to log in.
pub(super) fn is_kept_longer(known: &Client, asked: &Client) -> bool {
    let longer = |until: UnixTime| until.0 >= known.makes_room_from().0.saturating_add(KEPT_RESOLUTION);
    known.origin == ClientOrigin::Registration
        && !known.stays()
        && (known.last_used_at.is_none() || known.few_users().next().is_some())
        && asked.kept_until.is_some_and(longer)
}

/// The effect of a use on the stored client.
pub(super) enum UseOfClient {
    /// The client has been deleted, disabled or registered again since the caller read it.
    Refused,
    /// The use changes nothing that is stored.
    Noted(Client),
    /// The client must be written, and kept until the `keep_until` of the use.
    News(Client),
    /// Like [`Self::News`]. Because of this use, the client has so many users that it is no longer counted towards
    /// any of them.
    CountsForNobody(Client),
}

/// Decides how a use changes the stored client with that identifier, which is `known`.
///
/// A client with many users is not counted towards the limit of any account. `can_free` states whether this use can be
/// the one that gives the client so many users. Each account has a limit on such uses (`SoleClients::free`). If it is
/// reached, the user is not recorded, and the client still counts towards the limits of its first users.
pub(super) fn judge_use(known: Option<Client>, used: &ClientUse, can_free: bool) -> UseOfClient {
    let before = known.as_ref().map(|known| known.registration.clone());
    let mut client = match (known, used.client.origin) {
        (Some(known), ClientOrigin::MetadataDocument) => {
            let registration = if known.metadata.drops_credentials(&used.client.metadata) {
                used.client.registration.clone()
            } else {
                known.registration
            };
            Client { metadata: used.client.metadata.clone(), registration, ..known }
        }
        (Some(known), ClientOrigin::Registration | ClientOrigin::Operator)
            if known.registration == used.client.registration =>
        {
            known
        }
        (None, ClientOrigin::MetadataDocument) => {
            Client { last_used_at: None, users: None, further_users: Vec::new(), ..used.client.clone() }
        }
        (_, ClientOrigin::Registration | ClientOrigin::Operator) => return UseOfClient::Refused,
    };
    if client.disabled {
        return UseOfClient::Refused;
    }
    let is_changed = used.is_news_to(&client) || before.is_some_and(|before| before != client.registration);
    let new_user = match used.new_user_of(&client) {
        NewUser::OneMoreThanFew if !can_free => NewUser::No,
        new_user => new_user,
    };
    if !is_changed && new_user == NewUser::No {
        return UseOfClient::Noted(client);
    }
    used.add_user_to(&mut client, new_user);
    client.last_used_at = Some(used.at);
    // Clients that the operator has added are never counted towards an account's limit.
    if new_user == NewUser::OneMoreThanFew && client.origin != ClientOrigin::Operator {
        UseOfClient::CountsForNobody(client)
    } else {
        UseOfClient::News(client)
    }
}

/// Replaces the parts of a client that an update can change (RFC 7592 §2.2). Returns false if `management` is
/// no longer its registration access token.
pub(super) fn update(client: &mut Client, management: &TokenHash, updated: &Client) -> bool {
    let may = client.management == Some(*management);
    if may {
        client.registration = updated.registration.clone();
        client.fingerprint = updated.fingerprint;
        client.management = updated.management;
        client.secret.clone_from(&updated.secret);
        client.metadata = updated.metadata.clone();
    }
    may
}
