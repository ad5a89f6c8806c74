//! Finds clients. The metadata of a client is in the store, or in a document at the URL that is the client's
//! identifier.

pub mod document;
pub mod documents;
pub mod fetch_rate;
pub mod hosts;

use std::sync::Arc;

use crate::domain::client::{Client, ClientId, ClientOrigin, RegistrationId};
use crate::domain::clock::{RandomUnavailable, UnixTime};
use crate::store::{ClientStore, StoreError};

use documents::{DocumentError, Documents};
use fetch_rate::Caller;

/// Finds clients in the store, and fetches client ID metadata documents.
pub struct Clients {
    store: Arc<dyn ClientStore>,
    documents: Documents,
}

/// Why a client cannot be found or used.
#[derive(Debug, thiserror::Error)]
pub enum UnknownClient {
    /// The client is not registered, and its identifier is not the URL of a document.
    #[error("the client is unknown and might have been removed; register again")]
    Unregistered,
    /// The operator has disabled the client.
    #[error("the operator of this server has disabled the client")]
    Disabled,
    /// The client's metadata document cannot be used.
    #[error("the client metadata document cannot be used: {0}")]
    Document(DocumentError),
    /// The client's metadata document cannot be fetched at the moment. The client itself might be valid.
    #[error(transparent)]
    Away(DocumentError),
    /// The store could not be read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The operating system returned no random bytes.
    #[error(transparent)]
    Random(#[from] RandomUnavailable),
}

impl Clients {
    /// Looks in `store` for registered clients, and in `documents` for clients with a metadata document.
    pub fn new(store: Arc<dyn ClientStore>, documents: Documents) -> Self {
        Self { store, documents }
    }

    /// The metadata documents and key sets of clients.
    pub fn documents(&self) -> &Documents {
        &self.documents
    }

    /// Returns the client with this identifier and its current metadata. `caller` determines the limits that apply
    /// if a document must be fetched. `now` must be the earliest possible current time, so that a fast clock does
    /// not make a client expire too early.
    pub async fn find(&self, caller: Caller, id: &ClientId, now: UnixTime) -> Result<Client, UnknownClient> {
        let known = self.store.client(id, now).await?;
        if known.as_ref().is_some_and(|client| client.disabled) {
            return Err(UnknownClient::Disabled);
        }
        match known {
            Some(client) if client.origin != ClientOrigin::MetadataDocument => Ok(client),
            // A client with a document is stored when a user first allows it, so this one is in use.
            Some(client) if is_url(id) => self.by_document(id, Some(client), Caller::Known, now).await,
            None if is_url(id) => self.by_document(id, None, caller, now).await,
            _ => Err(UnknownClient::Unregistered),
        }
    }

    /// Takes the metadata from the document, and everything else from the store if the client is in use.
    async fn by_document(
        &self,
        id: &ClientId,
        known: Option<Client>,
        caller: Caller,
        now: UnixTime,
    ) -> Result<Client, UnknownClient> {
        let metadata = self.documents.metadata(id, caller, now).await.map_err(|error| {
            if error.is_temporary(known.is_some()) {
                UnknownClient::Away(error)
            } else {
                UnknownClient::Document(error)
            }
        })?;
        Ok(match known {
            Some(client) if client.metadata.drops_credentials(&metadata) => {
                // The client had to authenticate until now. A new registration invalidates its earlier codes and
                // tokens, so that they cannot be used without authentication.
                let registration = RegistrationId::new(self.documents.random_bytes()?);
                Client { registration, metadata, ..client }
            }
            Some(client) => Client { metadata, ..client },
            None => Client {
                id: id.clone(),
                registration: RegistrationId::new(self.documents.random_bytes()?),
                origin: ClientOrigin::MetadataDocument,
                issued_at: now,
                last_used_at: None,
                users: None,
                further_users: Vec::new(),
                kept_until: None,
                disabled: false,
                fingerprint: None,
                management: None,
                secret: None,
                metadata,
                operator: None,
            },
        })
    }
}

fn is_url(id: &ClientId) -> bool {
    id.as_str().starts_with("https://")
}
