//! The authorization code grant (RFC 6749 §4.1.3, RFC 7636 §4.5, OAuth 2.1 §4.1.3).

use crate::domain::account::Subject;
use crate::domain::client::{Client, GrantType};
use crate::domain::grant::AuthorizationCode;
use crate::domain::grant_id::GrantId;
use crate::domain::opaque_token::{OpaqueToken, TokenKind};
use crate::oauth::params::Params;
use crate::oauth::proof::ProofOfPossession;
use crate::ops::audit;
use crate::state::AppState;
use crate::store::{FoundCode, Redemption};

use super::{
    Allowed, Part, TokenError, TokenResponse, account_of, audit_displaced, expired, issue, new_grant,
    owned_by,
};

const UNKNOWN: &str = "the code is unknown, expired, or was issued to another client";
const REPLAYED: &str = "the code has already been used, so the tokens issued for it were revoked";

/// Exchanges a code for tokens. All checks come before the code is marked as used, so that an attacker who has
/// only the code cannot use it up.
pub(super) async fn redeem(
    state: &AppState,
    client: &Client,
    params: &Params,
    proof: &ProofOfPossession,
) -> Result<TokenResponse, TokenError> {
    if !client.may_use(GrantType::AuthorizationCode) {
        return Err(TokenError::UnauthorizedClient);
    }
    let now = state.now();
    let text = params.one("code")?.ok_or(TokenError::Missing("code"))?;
    let hash = OpaqueToken::parse(TokenKind::AuthorizationCode, text)
        .map_err(|_| TokenError::InvalidGrant(UNKNOWN))?
        .hash();
    let (code, is_used) = match state.store.find_code(&hash, state.earliest()).await? {
        FoundCode::Live(code) if code.expires_at <= now => return Err(expired(state, UNKNOWN)),
        FoundCode::Live(code) => (code, false),
        FoundCode::Used(code) => (code, true),
        FoundCode::Unknown => return Err(TokenError::InvalidGrant(UNKNOWN)),
    };
    check_binding(client, params, &code)?;
    if code.bound_to.is_some() && code.bound_to != proof.key() {
        return Err(TokenError::InvalidGrant(
            "the DPoP proof was not made with the key to which the code is bound",
        ));
    }
    // The code is in the history of the user's browser, and an attacker who reads it there must not be able to
    // revoke the grant. Only a request that passes all checks shows that another party might have received the
    // tokens (RFC 6749 §4.1.2).
    if is_used {
        return replayed(state, client, &code.subject, &code.grant_id).await;
    }
    let part = Part::read(state, params, &code.scope, &code.resources)?.bound_to(proof.key());
    let account = account_of(state, &code.subject).await?;
    proof.spend(state, &code.subject, client).await?;

    let allowed = Allowed {
        grant_id: code.grant_id,
        subject: code.subject,
        resources: code.resources,
        scope: code.scope,
        authenticated_at: code.authenticated_at,
        bound_to: proof.key().filter(|_| client.is_public()),
    };
    let (grant, refresh_token) = new_grant(state, client, allowed)?;
    let response = issue(state, &grant, &account, part, refresh_token.as_ref(), now)?;
    match state.store.redeem_code(&hash, &grant, &state.client_use(client.clone(), &grant.subject)).await? {
        Redemption::Redeemed { displaced } => {
            audit_displaced(&displaced, &account);
            Ok(response)
        }
        Redemption::Replayed => replayed(state, client, &grant.subject, &grant.id).await,
        Redemption::Unknown => Err(TokenError::InvalidGrant(UNKNOWN)),
    }
}

/// Revokes the grant of a code that has been presented a second time. Another party might have a copy of the code,
/// so the user must consent again.
async fn replayed(
    state: &AppState,
    client: &Client,
    subject: &Subject,
    grant_id: &GrantId,
) -> Result<TokenResponse, TokenError> {
    state.store.revoke_grant(grant_id).await?;
    state.store.forget_consent(subject, &client.id).await?;
    let account = state.store.account(subject).await.unwrap_or_default();
    let owner = audit::Owner::new(subject, account.as_ref());
    audit::Event::CodeReplayed { grant_id, owner, client_id: &client.id }.emit();
    Err(TokenError::InvalidGrant(REPLAYED))
}

fn check_binding(client: &Client, params: &Params, code: &AuthorizationCode) -> Result<(), TokenError> {
    owned_by(client, &code.client_id, UNKNOWN)?;
    // The client's registration or metadata document might have changed since its request.
    if client.registration != code.registration || !client.allows_redirect(&code.redirect_uri) {
        return Err(TokenError::InvalidGrant("the client has changed since the code was issued"));
    }
    // OAuth 2.1 has removed `redirect_uri` from this request. If an OAuth 2.0 client sends it, it is checked.
    if params.one("redirect_uri")?.is_some_and(|sent| sent != code.redirect_uri.as_str()) {
        return Err(TokenError::InvalidGrant("the redirect_uri is not the one to which the code was sent"));
    }
    let verifier = params.one("code_verifier")?.ok_or(TokenError::Missing("code_verifier"))?;
    if code.challenge.is_met_by(verifier) {
        Ok(())
    } else {
        Err(TokenError::InvalidGrant("the code_verifier does not match the code_challenge"))
    }
}
