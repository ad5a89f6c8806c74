//! Authorization codes and grants. A grant is what a user allowed a client to do. Refresh tokens extend its
//! lifetime.

use serde::{Deserialize, Serialize};

use super::account::Subject;
use super::client::{Client, ClientId, RegistrationId};
use super::clock::UnixTime;
use super::grant_id::GrantId;
use super::key_thumbprint::KeyThumbprint;
use super::opaque_token::TokenHash;
use super::pkce::CodeChallenge;
use super::redirect_uri::RedirectUri;
use super::refresh_token::{HashedRefreshToken, Line};
use super::replaced_token::{Grace, RefreshUse, ReplacedToken, UseTime};
use super::resource::ResourceUri;
use super::scope::Scope;

/// The data behind an authorization code (RFC 6749 §4.1.2), which is bound to all parameters of its request.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct AuthorizationCode {
    /// The grant that is created when the code is redeemed.
    pub grant_id: GrantId,
    /// The client that made the request.
    pub client_id: ClientId,
    /// The client's registration at the time of the request.
    pub registration: RegistrationId,
    /// The redirect URI to which the code was sent.
    pub redirect_uri: RedirectUri,
    /// The PKCE challenge of the request.
    pub challenge: CodeChallenge,
    /// If present, only the holder of this key can redeem the code (`dpop_jkt`, RFC 9449 §10).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bound_to: Option<KeyThumbprint>,
    /// The resources for which the token will be valid.
    pub resources: Vec<ResourceUri>,
    /// The scope that the token will have.
    pub scope: Scope,
    /// The user who consented.
    pub subject: Subject,
    /// The time at which that user logged in.
    pub authenticated_at: UnixTime,
    /// The time at which the code expires.
    pub expires_at: UnixTime,
}

/// What a user allowed a client: a scope for some resources.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Grant {
    /// The identifier of the grant.
    pub id: GrantId,
    /// The user who consented, or the client itself for a grant without a user.
    pub subject: Subject,
    /// The client that received the grant.
    pub client_id: ClientId,
    /// The client's registration at the time when the grant was created.
    pub registration: RegistrationId,
    /// The resources for which the grant is valid.
    pub resources: Vec<ResourceUri>,
    /// The scope that was granted.
    pub scope: Scope,
    /// The time at which the user logged in for this grant.
    pub authenticated_at: UnixTime,
    /// The time at which the grant was created.
    pub created_at: UnixTime,
    /// The time at which the grant expires unless it is refreshed.
    pub expires_at: UnixTime,
    /// The key to which refresh tokens are bound, for a public client that uses DPoP (RFC 9449 §5).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bound_to: Option<KeyThumbprint>,
    /// The current refresh token, if the client can refresh.
    pub refresh: Option<RefreshState>,
    /// The grant whose token was exchanged for this one (RFC 8693). This grant never outlives it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<GrantId>,
}

/// The refresh tokens of a grant. Only one of them is valid at any time.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RefreshState {
    /// Hash of the token that can be used next.
    pub current: TokenHash,
    /// The token that `current` replaced.
    pub replaced: Option<ReplacedToken>,
    /// The MAC key and the position in the sequence of tokens. With them, used tokens are recognized.
    pub line: Line,
}

impl Grant {
    /// Decides what happens when a refresh token that names this grant is presented.
    pub fn judge_refresh(&self, presented: &HashedRefreshToken, time: UseTime, grace: &Grace) -> RefreshUse {
        let Some(refresh) = &self.refresh else {
            return RefreshUse::Foreign;
        };
        if refresh.current == *presented.hash() {
            return RefreshUse::Current;
        }
        // While the successor is the current token, it has not been used.
        match &refresh.replaced {
            Some(replaced) if replaced.hash == *presented.hash() => replaced.judge(time, grace),
            // Anyone can write the identifier of a grant into a token, but only this server can compute its
            // MAC.
            _ if self.has_issued(presented) => RefreshUse::Reused,
            _ => RefreshUse::Foreign,
        }
    }

    /// Whether this grant issued the refresh token. The token can be current or already used.
    pub fn has_issued(&self, presented: &HashedRefreshToken) -> bool {
        self.refresh.as_ref().is_some_and(|refresh| presented.is_of(&refresh.line))
    }

    /// Replaces the current refresh token with `current`, whose position in the sequence is `line`, and keeps the
    /// old one as the replaced token.
    pub fn rotate(
        &mut self,
        (current, line): (TokenHash, Line),
        sealed_successor: Vec<u8>,
        time: UseTime,
        expires_at: UnixTime,
    ) {
        let replaced = self.refresh.take().map(|old| ReplacedToken {
            hash: old.current,
            at: time.bounds.latest,
            by_store: time.by_store,
            by_uptime: time.by_uptime,
            sealed_successor,
        });
        self.refresh = Some(RefreshState { current, replaced, line });
        self.expires_at = expires_at;
    }

    /// Whether the grant still belongs to `client`: its registration is the same, and it is not disabled.
    pub fn is_held_by(&self, client: &Client) -> bool {
        self.client_id == client.id && self.registration == client.registration && !client.disabled
    }

    /// The time at which the grant was created or last refreshed.
    pub fn last_used_at(&self) -> UnixTime {
        let replaced = self.refresh.as_ref().and_then(|refresh| refresh.replaced.as_ref());
        replaced.map_or(self.created_at, |replaced| replaced.at)
    }

    /// Whether the grant has expired.
    pub fn is_expired(&self, now: UnixTime) -> bool {
        self.expires_at <= now
    }
}
