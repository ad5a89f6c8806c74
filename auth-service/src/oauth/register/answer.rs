//! The response to a registration (RFC 7591 §3.2.1, RFC 7592 §3). It contains the registered metadata, which can
//! differ from the metadata in the request.

use serde::Serialize;

use crate::domain::client::{Client, ClientAuthMethod, ClientDisplay, ClientId, ClientMetadata, GrantType};
use crate::domain::clock::UnixTime;
use crate::domain::issuer::Issuer;
use crate::domain::opaque_token::OpaqueToken;

use super::Credentials;

#[derive(Serialize)]
pub(super) struct Registered {
    client_id: ClientId,
    client_id_issued_at: UnixTime,
    #[serde(skip_serializing_if = "Option::is_none")]
    client_secret: Option<String>,
    /// Unix time, or 0 for a secret that does not expire. It is REQUIRED if there is a secret.
    #[serde(skip_serializing_if = "Option::is_none")]
    client_secret_expires_at: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    registration_access_token: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    registration_client_uri: Option<String>,
    redirect_uris: Vec<String>,
    token_endpoint_auth_method: ClientAuthMethod,
    grant_types: Vec<GrantType>,
    response_types: Vec<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    scope: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    application_type: Option<String>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    dpop_bound_access_tokens: bool,
    #[serde(flatten)]
    display: ClientDisplay,
}

impl Registered {
    /// The response to a registration of `client`. `credentials` are the newly issued credentials, or `None` if
    /// the client was already registered.
    pub(super) fn new(
        client: &Client,
        metadata: ClientMetadata,
        issuer: &Issuer,
        credentials: Option<&Credentials>,
    ) -> Self {
        let secret = credentials.and_then(|credentials| credentials.secret.as_ref());
        let mut registered = Self::without_credentials(client, metadata);
        registered.client_secret = secret.map(|token| token.expose().to_owned());
        if let Some(credentials) = credentials {
            registered.add_management(issuer, &credentials.management);
        }
        registered
    }

    /// The response to a client that authenticated with the registration access token `management`.
    pub(super) fn managed(client: &Client, issuer: &Issuer, management: &OpaqueToken) -> Self {
        let mut registered = Self::without_credentials(client, client.metadata.clone());
        registered.add_management(issuer, management);
        registered
    }

    fn add_management(&mut self, issuer: &Issuer, token: &OpaqueToken) {
        self.registration_access_token = Some(token.expose().to_owned());
        self.registration_client_uri = Some(issuer.endpoint(&format!("/register/{}", self.client_id)));
    }

    fn without_credentials(client: &Client, metadata: ClientMetadata) -> Self {
        let codes = metadata.grant_types.contains(&GrantType::AuthorizationCode);
        let response_types = codes.then_some("code").into_iter().collect();
        Self {
            client_id: client.id.clone(),
            client_id_issued_at: client.issued_at,
            client_secret: None,
            client_secret_expires_at: client
                .secret
                .as_ref()
                .map(|secret| secret.expires_at.map_or(0, |at| at.0)),
            registration_access_token: None,
            registration_client_uri: None,
            redirect_uris: metadata.redirect_uris.into_iter().map(String::from).collect(),
            token_endpoint_auth_method: metadata.auth_method,
            grant_types: metadata.grant_types,
            response_types,
            scope: metadata.scope.map(|scope| scope.to_string()),
            application_type: metadata.application_type,
            dpop_bound_access_tokens: metadata.dpop_bound_access_tokens,
            display: metadata.display,
        }
    }
}
