//! Authorization codes and grants. A grant is what a user allowed a client to do. Refresh tokens extend its
//! lifetime.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::account::Subject;
use super::client::{Client, ClientId, RegistrationId};
use super::clock::UnixTime;
use super::clock_watch::TimeBounds;
use super::grant_id::GrantId;
use super::key_thumbprint::KeyThumbprint;
use super::opaque_token::TokenHash;
use super::pkce::CodeChallenge;
use super::redirect_uri::RedirectUri;
use super::refresh_token::{HashedRefreshToken, Line};
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
    /// The key and the number by which used tokens are recognized.
    pub line: Line,
}

/// A refresh token that has been used. It is kept in case the response with its successor was lost.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ReplacedToken {
    /// Hash of the token that was used.
    pub hash: TokenHash,
    /// The time at which it was used ([`TimeBounds::latest`]).
    pub at: UnixTime,
    /// The successor, encrypted with the replaced token. A repeated request gets this same successor, so that
    /// there is never a second valid token.
    #[serde(with = "sealed_bytes")]
    pub sealed_successor: Vec<u8>,
}

impl ReplacedToken {
    /// Decides whether the response with the successor can be repeated. The token counts as stolen only if the
    /// grace period has certainly ended, and as repeated only if it has certainly not ended.
    ///
    /// The time of the first use is recorded as [`TimeBounds::latest`], which can be far ahead of the correct
    /// time. While the clock is steady, the difference between the recorded and the current value of `latest` is
    /// correct nevertheless.
    fn judge(&self, time: TimeBounds, grace: Duration) -> RefreshUse {
        let is_over = |now: UnixTime| now.since(self.at) > grace;
        if is_over(time.earliest) || time.is_steady && is_over(time.latest) {
            RefreshUse::Reused
        } else if time.latest.since(self.at) <= grace && !time.is_before(self.at) {
            RefreshUse::Repeated { sealed_successor: self.sealed_successor.clone() }
        } else {
            RefreshUse::Undatable
        }
    }
}

/// Serializes bytes as base64, because a list of numbers would be three times as long.
mod sealed_bytes {
    use base64::Engine;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(super) fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&URL_SAFE_NO_PAD.encode(bytes))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
        URL_SAFE_NO_PAD.decode(String::deserialize(deserializer)?).map_err(D::Error::custom)
    }
}

/// The result of presenting a refresh token for a grant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RefreshUse {
    /// The token is the current one, and is replaced.
    Current,
    /// The token is the previous one, repeated within the grace period while its successor is unused. The
    /// client gets the same successor again.
    Repeated {
        /// The encrypted successor ([`ReplacedToken::sealed_successor`]).
        sealed_successor: Vec<u8>,
    },
    /// The token had already been used, so another party has it. The grant must be revoked (OAuth 2.1 §4.3.1).
    Reused,
    /// The token is the previous one, but the clock is wrong, or was wrong when the token was used. It is
    /// therefore unknown whether the grace period is over. The token is refused, and the grant stays valid.
    Undatable,
    /// The token names this grant but was not issued for it.
    Foreign,
}

impl Grant {
    /// Decides what happens when a refresh token that names this grant is presented.
    pub fn judge_refresh(
        &self,
        presented: &HashedRefreshToken,
        time: TimeBounds,
        grace: Duration,
    ) -> RefreshUse {
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
        latest: UnixTime,
        expires_at: UnixTime,
    ) {
        let replaced =
            self.refresh.take().map(|old| ReplacedToken { hash: old.current, at: latest, sealed_successor });
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

#[cfg(test)]
mod tests {
    use super::super::clock_watch::TOLERANCE;
    use super::*;

    #[test]
    fn a_used_token_is_repeated_or_stolen_only_if_the_time_is_certain() {
        let (at, grace) = (UnixTime(1_000_000), Duration::from_secs(120));
        let used = ReplacedToken { hash: TokenHash::of(b"used"), at, sealed_successor: vec![1] };
        let repeated = RefreshUse::Repeated { sealed_successor: vec![1] };
        let after = |seconds: i64| UnixTime(at.0.saturating_add_signed(seconds));
        let judged = |earliest, latest, is_steady| {
            used.judge(TimeBounds { earliest: after(earliest), latest: after(latest), is_steady }, grace)
        };
        let judge = |earliest, latest| judged(earliest, latest, false);
        assert_eq!(judge(0, 0), repeated);
        assert_eq!(judge(120, 120), repeated);
        assert_eq!(judge(121, 121), RefreshUse::Reused);
        assert_eq!(judge(1, 86_400), RefreshUse::Undatable, "the clock is ahead");
        assert_eq!(judge(-86_400, 1), repeated, "the clock is behind");
        assert_eq!(judge(-86_400, 121), RefreshUse::Undatable, "the clock is behind");
        let tolerance = i64::try_from(TOLERANCE.as_secs()).unwrap();
        assert_eq!(judge(-tolerance, -tolerance), repeated, "the clocks of replicas differ");
        assert_eq!(judge(-86_400, -86_400), RefreshUse::Undatable, "the clock was ahead");
        assert_eq!(judged(-86_400, 120, true), repeated, "the latest time is a day ahead");
        assert_eq!(judged(-86_400, 121, true), RefreshUse::Reused, "the latest time is a day ahead");
    }

    #[test]
    fn a_sealed_successor_is_stored_as_base64() {
        let hash = TokenHash::of(b"used");
        let token = ReplacedToken { hash, at: UnixTime(1), sealed_successor: vec![0, 1, 250] };
        let written = serde_json::to_value(&token).unwrap();
        assert_eq!(written["sealed_successor"], "AAH6");
        let read: ReplacedToken = serde_json::from_value(written).unwrap();
        assert_eq!(read.sealed_successor, token.sealed_successor);
    }
}
