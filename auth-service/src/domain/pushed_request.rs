//! Pushed authorization requests (RFC 9126): what a client asks for, left with us before the browser comes.

use serde::{Deserialize, Serialize};

#[cfg(doc)]
use super::client::Client;
use super::client::{ClientId, RegistrationId};
use super::clock::UnixTime;
use super::grant::GrantId;
use super::opaque_token::TokenHash;

/// A request that was pushed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PushedRequest {
    /// Who pushed it; nobody else can use it.
    pub client_id: ClientId,
    /// In which registration.
    pub registration: RegistrationId,
    /// With what metadata ([`Client::has_left`]).
    #[serde(default)]
    pub metadata: Option<TokenHash>,
    /// The grant that allowing it makes: fixed now, so that one request makes one grant at most.
    pub grant_id: GrantId,
    /// Its parameters in form encoding, as a browser would have brought them.
    pub query: String,
    /// When it ends.
    pub expires_at: UnixTime,
}
