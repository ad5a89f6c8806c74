//! The refresh token grant (RFC 6749 §6) with rotation (OAuth 2.1 §4.3.1, RFC 9700 §4.14.2).
//!
//! Hosted clients refresh from several machines at the same time, and responses can be lost. Therefore the
//! response to a token that was recently replaced contains the *same* successor again, as long as the successor is
//! unused. As a result, no client is logged out, and only one successor is valid at a time. Any other reuse
//! indicates that the token has been copied.

use crate::domain::client::{Client, GrantType};
use crate::domain::refresh_token::{Line, RefreshToken};
use crate::keys::seal::Sealer;
use crate::oauth::params::Params;
use crate::oauth::proof::ProofOfPossession;
use crate::ops::audit;
use crate::state::AppState;
use crate::store::{Rotation, Successor};

use super::{Part, TokenError, TokenResponse, account_of, expired, issue};

const UNKNOWN: &str = "the refresh token is unknown, expired, revoked, or was issued to another client";
const REUSED: &str = "the refresh token has already been used, so the grant was revoked; connect again";
const SEALED_AS: &[u8] = b"successor";

pub(super) async fn refresh(
    state: &AppState,
    client: &Client,
    params: &Params,
    proof: &ProofOfPossession,
) -> Result<TokenResponse, TokenError> {
    if !client.may_use(GrantType::RefreshToken) {
        return Err(TokenError::UnauthorizedClient);
    }
    let now = state.now();
    let text = params.one("refresh_token")?.ok_or(TokenError::Missing("refresh_token"))?;
    let presented = RefreshToken::parse(text).map_err(|_| TokenError::InvalidGrant(UNKNOWN))?;
    let grant = state
        .store
        .grant_of_refresh(&presented.presented(), state.earliest())
        .await?
        .ok_or(TokenError::InvalidGrant(UNKNOWN))?;
    // Either the client made a mistake, or the token was stolen. In both cases, the grant is not changed.
    let Some(refresh) = grant.refresh.as_ref().filter(|_| grant.is_held_by(client)) else {
        return Err(TokenError::InvalidGrant(UNKNOWN));
    };
    if grant.is_expired(now) {
        return Err(expired(state, UNKNOWN));
    }
    // A public client that received its refresh token with a proof needs a proof with the same key to use it (RFC
    // 9449 §5).
    if grant.bound_to.is_some() && grant.bound_to != proof.key() {
        return Err(TokenError::InvalidGrant(
            "the DPoP proof was not made with the key to which the refresh token is bound",
        ));
    }
    let part = Part::read(state, params, &grant.scope, &grant.resources)?.bound_to(proof.key());
    let account = account_of(state, &grant.subject).await?;
    proof.spend(state, &grant.subject, client).await?;

    // If no token can be issued for this request, the refresh token must stay valid.
    issue(state, &grant, &account, part.clone(), None, now)?;
    let sealer = Sealer::from_secret(presented.expose().as_bytes())?;
    let line = Line { key: refresh.line.key.clone(), number: presented.next_number() };
    let new = RefreshToken::new(&grant.id, &line, state.random_bytes()?);
    let successor = Successor {
        hash: new.hash(),
        line,
        sealed: sealer.seal(SEALED_AS, new.expose().as_bytes())?,
        expires_at: now.plus(state.config.lifetimes.refresh_token),
    };
    let grace = state.config.lifetimes.refresh_grace;
    let used = state.client_use(client.clone(), &grant.subject);
    match state.store.rotate_refresh(&presented.presented(), &successor, &used, grace).await? {
        Rotation::Rotated(grant) => issue(state, &grant, &account, part, Some(&new), now),
        Rotation::Repeated { grant, sealed_successor } => {
            let successor = unseal(&sealer, &sealed_successor)?;
            issue(state, &grant, &account, part, Some(&successor), now)
        }
        Rotation::Reused(grant_id) => {
            // Another party might have a copy of the token, so the user must consent again.
            state.store.forget_consent(&grant.subject, &client.id).await?;
            let (grant_id, client_id) = (&grant_id, &client.id);
            audit::Event::RefreshTokenReused { grant_id, user: (&account).into(), client_id }.emit();
            Err(TokenError::InvalidGrant(REUSED))
        }
        Rotation::Undatable => {
            tracing::warn!(grant_id = %grant.id, "a refresh token was presented again, but it is unknown when it was used, because the clock is or was wrong");
            Err(TokenError::Unavailable)
        }
        Rotation::Unknown => Err(TokenError::InvalidGrant(UNKNOWN)),
    }
}

fn unseal(sealer: &Sealer, successor: &[u8]) -> Result<RefreshToken, TokenError> {
    let text = sealer.open(SEALED_AS, successor).ok().and_then(|bytes| String::from_utf8(bytes).ok());
    let token = text.and_then(|text| RefreshToken::parse(&text).ok());
    token.ok_or_else(|| {
        tracing::error!("a sealed refresh token successor cannot be opened");
        TokenError::Unavailable
    })
}
