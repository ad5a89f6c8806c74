//! Pushed authorization requests (RFC 9126): the client sends its request to the server before it opens the
//! browser.

use serde::{Deserialize, Serialize};

#[cfg(doc)]
use super::client::Client;
use super::client::{ClientId, RegistrationId};
use super::clock::UnixTime;
use super::grant_id::GrantId;
use super::opaque_token::TokenHash;

/// The pool in which a pushed request waits. A request occupies a slot only in its own pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PushedPool {
    /// Requests from clients that no account has used.
    #[default]
    Strangers,
    /// Requests in the name of public clients that are in use. Anyone can send one.
    Public,
    /// Requests from clients in use that have authenticated.
    Proven,
}

impl PushedPool {
    /// All pools, in the order of their declaration.
    pub const ALL: [Self; 3] = [Self::Strangers, Self::Public, Self::Proven];

    /// The number of requests that can wait in this pool.
    pub const fn places(self) -> usize {
        match self {
            Self::Strangers | Self::Public => 2000,
            Self::Proven => 4000,
        }
    }
}

/// The data of a pushed request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PushedRequest {
    /// The client that pushed the request. No other client can use it.
    pub client_id: ClientId,
    /// The client's registration at the time of the request.
    pub registration: RegistrationId,
    /// Digest of the client's metadata at the time of the request. It identifies a client that has a metadata
    /// document and is not stored yet ([`Client::has_left`]).
    pub metadata: Option<TokenHash>,
    /// The grant that is created if the user approves. Its identifier is chosen in advance, so that one request
    /// creates at most one grant.
    pub grant_id: GrantId,
    /// The pool in which the request waits.
    pub pool: PushedPool,
    /// The accounts, the client or the network to which the request is charged. In a full pool, it cannot displace
    /// a request from another account, client or network that has fewer requests.
    pub counts_for: Vec<String>,
    /// The parameters of the request, encoded as a form.
    pub query: String,
    /// The time at which the request expires.
    pub expires_at: UnixTime,
}
