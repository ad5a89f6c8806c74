//! Pushed authorization requests (RFC 9126): the client sends its request to the server before it opens the
//! browser.

use serde::{Deserialize, Serialize};

#[cfg(doc)]
use super::client::Client;
use super::client::{ClientId, RegistrationId};
use super::clock::UnixTime;
use super::grant::GrantId;
use super::opaque_token::TokenHash;

/// The data of a pushed request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PushedRequest {
    /// The client that pushed the request. No other client can use it.
    pub client_id: ClientId,
    /// The client's registration at the time of the request.
    pub registration: RegistrationId,
    /// Digest of the client's metadata at the time of the request ([`Client::has_left`]).
    #[serde(default)]
    pub metadata: Option<TokenHash>,
    /// The grant that is created if the user approves. It is fixed now, so that one request creates at most
    /// one grant.
    pub grant_id: GrantId,
    /// The parameters of the request, encoded as a form.
    pub query: String,
    /// The time at which the request expires.
    pub expires_at: UnixTime,
}
