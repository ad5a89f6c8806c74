//! What the stores decide alike: pure steps between reading a row and writing it.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::domain::account::{Account, Subject};
use crate::domain::client::{Client, ClientOrigin, ClientUse};
use crate::domain::clock::UnixTime;
use crate::domain::consent::{Approval, Consent};
use crate::domain::device::{DeviceAuthorization, DeviceState};
use crate::domain::grant::{AuthorizationCode, Grant};
use crate::domain::opaque_token::TokenHash;

use super::sole_clients::sole_user;

/// How long used codes and answered forms are remembered.
const DAY: Duration = Duration::from_secs(86_400);

/// How long a device that nobody allowed may still ask what became of its code.
const LATE: Duration = Duration::from_secs(600);

/// A code, before and after its use.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct CodeRow {
    pub(super) code: AuthorizationCode,
    pub(super) redeemed: bool,
}

impl CodeRow {
    /// A new code of `client`, as that client is now.
    pub(super) fn new(code: &AuthorizationCode, client: &Client) -> Self {
        let code = AuthorizationCode { registration: client.registration.clone(), ..code.clone() };
        Self { code, redeemed: false }
    }

    /// A used code, and the approval that made it, are remembered for a day: longer than any form may be answered,
    /// and so that a replay is noticed.
    pub(super) fn forget_at(&self) -> UnixTime {
        self.code.expires_at.plus(DAY)
    }
}

/// What stands in the place of a code's name where an approval was denied.
pub(super) const DENIED: &str = "";

/// A device code that a user has allowed is remembered for a day after its end, as other codes are, so that a replay is
/// noticed. Any other one is there for some minutes more, for a device that asks late.
pub(super) fn device_kept_until(device: &DeviceAuthorization) -> UnixTime {
    device.expires_at.plus(match device.state {
        DeviceState::Pending | DeviceState::Denied => LATE,
        DeviceState::Allowed { .. } | DeviceState::Redeemed => DAY,
    })
}

/// What is allowed once this approval is. Consent to what the client was before it changed is none to what it is now.
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

/// The live refresh token if it is of the first release, which does not say whose it is: a row of its own has to.
pub(super) fn leading(grant: &Grant) -> Option<&TokenHash> {
    grant.refresh.as_ref().filter(|refresh| refresh.line.is_none()).map(|refresh| &refresh.current)
}

/// The grant and the person, if the grant is theirs and the client still holds it.
pub(super) fn held(
    grant: Option<Grant>,
    client: Option<&Client>,
    account: Option<Account>,
) -> Option<(Grant, Account)> {
    let (grant, client, account) = (grant?, client?, account?);
    (grant.is_held_by(client) && grant.subject == account.subject).then_some((grant, account))
}

/// Whether a registration asks for the public client that is there already.
pub(super) fn is_same(known: &Client, asked: &Client) -> bool {
    known.fingerprint.is_some() && known.fingerprint == asked.fingerprint
}

/// How much longer a client has to be kept for that to be written.
const KEPT_RESOLUTION: u64 = 600;

/// Whether a client that nobody has used, or one account alone, is kept for longer now that somebody registers it again: it may
/// be one that a stranger has registered before, and who registers it now is about to sign in.
pub(super) fn is_kept_longer(known: &Client, asked: &Client) -> bool {
    let longer = |until: UnixTime| until.0 >= known.makes_room_from().0.saturating_add(KEPT_RESOLUTION);
    known.origin == ClientOrigin::Registration
        && (known.last_used_at.is_none() || sole_user(known).is_some())
        && asked.kept_until.is_some_and(longer)
}

/// What a use means for what is known of its client.
pub(super) enum UseOfClient {
    /// The client was removed or switched off, or changed hands, since the caller saw it.
    Refused,
    /// Nothing new.
    Noted(Client),
    /// To be written, and kept until the use's `keep_until`.
    News(Client),
}

/// Judges a use by the live client of that identifier.
pub(super) fn judge_use(known: Option<Client>, used: &ClientUse) -> UseOfClient {
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
            Client { last_used_at: None, users: None, ..used.client.clone() }
        }
        (_, ClientOrigin::Registration | ClientOrigin::Operator) => return UseOfClient::Refused,
    };
    if client.disabled {
        return UseOfClient::Refused;
    }
    if used.is_news_to(&client) || before.is_some_and(|before| before != client.registration) {
        client.users = used.users_of(&client);
        client.last_used_at = Some(used.at);
        UseOfClient::News(client)
    } else {
        UseOfClient::Noted(client)
    }
}

/// Replaces what an update may replace (RFC 7592 §2.2); false when `management` is not the client's registration
/// access token any more.
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
