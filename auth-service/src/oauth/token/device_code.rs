//! The device code grant (RFC 8628 §3.4).

use crate::domain::client::{Client, GrantType};
use crate::domain::device::{DeviceState, Poll};
use crate::domain::opaque_token::{OpaqueToken, TokenKind};
use crate::oauth::params::Params;
use crate::oauth::proof::ProofOfPossession;
use crate::ops::audit;
use crate::state::AppState;
use crate::store::Redemption;

use super::{
    Allowed, Part, TokenError, TokenResponse, account_of, audit_displaced, issue, new_grant, owned_by,
};

const UNKNOWN: &str = "the device_code is unknown, expired, or was issued to another client";
const REPLAYED: &str = "the device_code has already been used, so the tokens issued for it were revoked";

/// Handles the request from a device that polls for its user's decision.
pub(super) async fn poll(
    state: &AppState,
    client: &Client,
    params: &Params,
    proof: &ProofOfPossession,
) -> Result<TokenResponse, TokenError> {
    if !client.may_use(GrantType::DeviceCode) {
        return Err(TokenError::UnauthorizedClient);
    }
    let now = state.now();
    let text = params.one("device_code")?.ok_or(TokenError::Missing("device_code"))?;
    let hash = OpaqueToken::parse(TokenKind::DeviceCode, text)
        .map_err(|_| TokenError::InvalidGrant(UNKNOWN))?
        .hash();
    // The owner of the code is checked first, so that polls from other clients do not count against the device.
    let asked = state.store.device(&hash, state.earliest()).await?;
    let asked = asked.ok_or(TokenError::InvalidGrant(UNKNOWN))?;
    owned_by(client, &asked.client_id, UNKNOWN)?;
    if !client.has_left(&asked.registration, asked.metadata.as_ref()) {
        return Err(TokenError::InvalidGrant("the client has changed since the code was issued"));
    }
    if asked.is_expired(now) && state.is_clock_in_doubt() {
        return Err(TokenError::Undatable);
    }
    let part = Part::read(state, params, &asked.scope, &asked.resources)?.bound_to(proof.key());
    let owner = match &asked.state {
        // The grant identifies the user who allowed the device. It must be read before the poll, because a second
        // redemption revokes it.
        DeviceState::Redeemed => {
            state.store.grant(&asked.grant_id, state.earliest()).await?.map(|grant| grant.subject)
        }
        _ => None,
    };
    let replayed = |grant_id, owner| {
        audit::Event::CodeReplayed { grant_id, owner, client_id: &client.id }.emit();
        TokenError::InvalidGrant(REPLAYED)
    };
    let device = match state.store.poll_device(&hash, now).await? {
        Poll::TooFast => return Err(TokenError::SlowDown),
        Poll::Pending => return Err(TokenError::AuthorizationPending),
        Poll::Denied => return Err(TokenError::AccessDenied),
        Poll::Unknown => return Err(TokenError::ExpiredToken),
        Poll::Redeemed(grant_id) => {
            let subject = owner.unwrap_or_else(|| client.id.subject());
            let account = state.store.account(&subject).await.unwrap_or_default();
            return Err(replayed(&grant_id, audit::Owner::new(&subject, account.as_ref())));
        }
        Poll::Allowed(device) => device,
    };
    let DeviceState::Allowed { subject, authenticated_at } = device.state else {
        return Err(TokenError::Unavailable);
    };
    let account = account_of(state, &subject).await?;
    proof.spend(state, &subject, client).await?;
    let allowed = Allowed {
        grant_id: device.grant_id,
        subject,
        resources: device.resources,
        scope: device.scope,
        authenticated_at,
        bound_to: proof.key().filter(|_| client.is_public()),
    };
    let (grant, refresh_token) = new_grant(state, client, allowed)?;
    let response = issue(state, &grant, &account, part, refresh_token.as_ref(), now)?;
    match state.store.redeem_device(&hash, &grant, &state.client_use(client.clone(), &grant.subject)).await? {
        Redemption::Redeemed { displaced } => {
            audit_displaced(&displaced, &account);
            Ok(response)
        }
        Redemption::Replayed => Err(replayed(&grant.id, audit::Owner::new(&grant.subject, Some(&account)))),
        Redemption::Unknown => Err(TokenError::InvalidGrant(UNKNOWN)),
    }
}
