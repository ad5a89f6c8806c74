//! Who a client is, wherever its metadata comes from: the store, or the document behind its identifier.

pub mod document;
pub mod documents;
pub mod fetch_rate;
pub mod hosts;

use std::sync::Arc;

use crate::domain::client::{Client, ClientId, ClientOrigin, RegistrationId};
use crate::domain::clock::{RandomUnavailable, UnixTime};
use crate::store::{Store, StoreError};

use documents::{DocumentError, Documents};
use fetch_rate::Caller;

/// Finds clients.
pub struct Clients {
    store: Arc<dyn Store>,
    documents: Documents,
}

/// Why a client is not known.
#[derive(Debug, thiserror::Error)]
pub enum UnknownClient {
    /// Neither registered, nor the URL of a document.
    #[error("the client is unknown; it may have been removed, register again")]
    Unregistered,
    /// Switched off.
    #[error("the operator of this server has disabled the client")]
    Disabled,
    /// Its document does not do.
    #[error("the client metadata document cannot be used: {0}")]
    Document(DocumentError),
    /// Its document cannot be had at the moment, which says nothing of the client.
    #[error(transparent)]
    Away(DocumentError),
    /// Ours to mend.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Ours to mend.
    #[error(transparent)]
    Random(#[from] RandomUnavailable),
}

impl Clients {
    /// Clients of this store, and of documents fetched by `documents`.
    pub fn new(store: Arc<dyn Store>, documents: Documents) -> Self {
        Self { store, documents }
    }

    /// Documents of clients, and of their keys.
    pub fn documents(&self) -> &Documents {
        &self.documents
    }

    /// The client of that identifier, as its metadata is now.
    pub async fn find(&self, caller: Caller, id: &ClientId, now: UnixTime) -> Result<Client, UnknownClient> {
        let known = self.store.client(id, now).await?;
        if known.as_ref().is_some_and(|client| client.disabled) {
            return Err(UnknownClient::Disabled);
        }
        match known {
            Some(client) if client.origin != ClientOrigin::MetadataDocument => Ok(client),
            // Stored when a user allowed it first: it is in use.
            Some(client) if is_url(id) => self.by_document(id, Some(client), Caller::Known, now).await,
            None if is_url(id) => self.by_document(id, None, caller, now).await,
            _ => Err(UnknownClient::Unregistered),
        }
    }

    /// What the document says counts; of what is stored, only which registration it is and when it was used.
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
                // What was given to a client that proves who it is must not be usable without that proof.
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
