//! Client ID metadata documents (draft-ietf-oauth-client-id-metadata-document; MCP authorization, "Client ID
//! Metadata Documents"): validates their URLs and their content, without I/O.

use serde::Deserialize;
use serde_json::Value;
use url::Url;

use crate::domain::client::{
    ClientAuthMethod, ClientDisplay, ClientId, ClientKeys, ClientMetadata, GrantType, said,
};
use crate::domain::redirect_uri::RedirectUri;
use crate::domain::scope::Scope;

/// Maximum size of a document in bytes (draft §6.6).
pub const LIMIT: usize = 5 * 1024;

/// Why a URL or a document is not acceptable.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidDocument {
    /// The URL breaks a rule of draft §3.
    #[error(
        "its URL must use https and have a path, be in its normal form, and have no user name, dot segments or fragment"
    )]
    Url,
    /// The document is not a JSON object, or a required member is missing or has the wrong type.
    #[error("it is not a JSON object with client_id, client_name and redirect_uris")]
    Json,
    /// The `client_id` differs from the URL of the document (draft §4.1).
    #[error("its client_id is not the URL from which it was fetched")]
    ClientId,
    /// The document contains a client secret, or an authentication method that needs one. A public document
    /// cannot keep a secret (draft §4.1).
    #[error("it contains a client secret, or an authentication method that needs one")]
    Secret,
    /// The method is `private_key_jwt`, but there is not exactly one source of keys.
    #[error("private_key_jwt needs either jwks or an https jwks_uri, and any other method neither")]
    Keys,
    /// None of the redirect URIs can be used.
    #[error("none of its redirect_uris can be used: they must use https, or http on loopback")]
    RedirectUris,
    /// The client does not use authorization codes.
    #[error("its grant_types and response_types do not include authorization_code and code")]
    Grants,
    /// The scope does not follow the grammar of RFC 6749 §3.3.
    #[error("its scope is malformed")]
    Scope,
}

#[derive(Deserialize)]
struct Document {
    client_id: String,
    client_name: String,
    redirect_uris: Vec<String>,
    token_endpoint_auth_method: Option<String>,
    grant_types: Option<Vec<String>>,
    response_types: Option<Vec<String>>,
    scope: Option<String>,
    application_type: Option<String>,
    dpop_bound_access_tokens: Option<bool>,
    jwks: Option<Value>,
    jwks_uri: Option<String>,
    client_secret: Option<Value>,
    client_secret_expires_at: Option<Value>,
    client_uri: Option<String>,
    software_id: Option<String>,
    software_version: Option<String>,
}

/// Parses the identifier as the URL of a document (draft §3).
pub fn url(id: &ClientId) -> Result<Url, InvalidDocument> {
    let url = Url::parse(id.as_str()).map_err(|_| InvalidDocument::Url)?;
    let plain = url.scheme() == "https"
        && url.as_str() == id.as_str()
        && url.path() != "/"
        && url.fragment().is_none()
        && url.username().is_empty()
        && url.password().is_none()
        && !url.path().to_ascii_lowercase().contains("%2e")
        && !url.host_str().unwrap_or_default().ends_with('.');
    if plain { Ok(url) } else { Err(InvalidDocument::Url) }
}

/// Reads and validates the document that was fetched from `id`.
pub fn read(id: &ClientId, body: &[u8]) -> Result<ClientMetadata, InvalidDocument> {
    let document: Document = serde_json::from_slice(body).map_err(|_| InvalidDocument::Json)?;
    if document.client_id != id.as_str() {
        return Err(InvalidDocument::ClientId);
    }
    if document.client_secret.is_some() || document.client_secret_expires_at.is_some() {
        return Err(InvalidDocument::Secret);
    }
    let (auth_method, keys) = authentication(&document)?;
    let scope = said(document.scope).map(|text| text.parse::<Scope>());
    Ok(ClientMetadata {
        redirect_uris: redirect_uris(document.redirect_uris)?,
        auth_method,
        grant_types: grant_types(document.grant_types.as_deref(), document.response_types.as_deref())?,
        scope: scope.transpose().map_err(|_| InvalidDocument::Scope)?,
        application_type: said(document.application_type),
        dpop_bound_access_tokens: document.dpop_bound_access_tokens.unwrap_or_default(),
        keys,
        display: ClientDisplay {
            client_name: Some(document.client_name),
            client_uri: document.client_uri,
            software_id: document.software_id,
            software_version: document.software_version,
            ..ClientDisplay::default()
        }
        .said(),
    })
}

/// Reads the authentication method and the keys. The default method is `none`, because the default of RFC 7591
/// needs a client secret.
fn authentication(document: &Document) -> Result<(ClientAuthMethod, Option<ClientKeys>), InvalidDocument> {
    let method = said(document.token_endpoint_auth_method.clone()).unwrap_or_else(|| "none".to_owned());
    let jwks_uri = said(document.jwks_uri.clone());
    match (method.as_str(), &document.jwks, &jwks_uri) {
        ("none", _, _) => Ok((ClientAuthMethod::None, None)),
        ("private_key_jwt", Some(jwks), None) => {
            Ok((ClientAuthMethod::PrivateKeyJwt, Some(ClientKeys::Inline(jwks.clone()))))
        }
        ("private_key_jwt", None, Some(uri)) if uri.starts_with("https://") => {
            Ok((ClientAuthMethod::PrivateKeyJwt, Some(ClientKeys::Uri(uri.clone()))))
        }
        ("private_key_jwt", _, _) => Err(InvalidDocument::Keys),
        _ => Err(InvalidDocument::Secret),
    }
}

/// The redirect URIs that can be used. Others are skipped, because one document can describe all products of a
/// vendor.
fn redirect_uris(sent: Vec<String>) -> Result<Vec<RedirectUri>, InvalidDocument> {
    let usable: Vec<RedirectUri> = sent
        .into_iter()
        .take(50)
        .filter_map(|text| RedirectUri::to_register(text).ok())
        .filter(|uri| uri.private_scheme().is_none())
        .collect();
    if usable.is_empty() { Err(InvalidDocument::RedirectUris) } else { Ok(usable) }
}

/// The grant types of the client. Grant types and response types must agree (RFC 7591 §2.1), and the client must
/// use authorization codes.
fn grant_types(
    asked: Option<&[String]>,
    response_types: Option<&[String]>,
) -> Result<Vec<GrantType>, InvalidDocument> {
    let granted = GrantType::granted(asked);
    let with_code = response_types.is_none_or(|types| types.iter().any(|kind| kind == "code"));
    if with_code && granted.contains(&GrantType::AuthorizationCode) {
        Ok(granted)
    } else {
        Err(InvalidDocument::Grants)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    const URL: &str = "https://client.example/oauth/client.json";

    fn id(text: &str) -> ClientId {
        ClientId::try_from(text.to_owned()).unwrap()
    }

    fn with(name: &str, value: Value) -> Result<ClientMetadata, InvalidDocument> {
        let mut document = json!({ "client_id": URL, "client_name": "Client", "redirect_uris": ["https://client.example/cb", "custom:x"] });
        document[name] = value;
        read(&id(URL), document.to_string().as_bytes())
    }

    #[test]
    fn a_small_document_is_a_public_client_that_stays_connected() {
        let metadata = with("unknown", json!(1)).unwrap();
        assert_eq!(metadata.auth_method, ClientAuthMethod::None);
        assert_eq!(metadata.grant_types, [GrantType::AuthorizationCode, GrantType::RefreshToken]);
        assert_eq!(metadata.redirect_uris.len(), 1);
    }

    #[test]
    fn a051_urls_that_are_not_plain_are_no_client() {
        for text in [
            "http://client.example/c.json",
            "https://client.example",
            "https://client.example/",
            "https://u@client.example/c.json",
            "https://client.example/c.json#f",
            "https://client.example/a/../c.json",
            "https://client.example/%2e%2e/c.json",
            "https://CLIENT.example/c.json",
            "https://client.example:443/c.json",
            "https://client.example./c.json",
            "https:client.example/c.json",
            "https://client.example\\c.json",
        ] {
            assert_eq!(url(&id(text)), Err(InvalidDocument::Url), "{text}");
        }
        assert!(url(&id(URL)).is_ok() && url(&id("https://client.example:8443/c")).is_ok());
    }

    #[test]
    fn a051_documents_that_contradict_themselves_are_refused() {
        let keys = json!({ "keys": [] });
        for (name, value, error) in [
            ("client_id", json!("https://client.example/oauth/client.json/"), InvalidDocument::ClientId),
            ("client_id", json!("https://evil.example/oauth/client.json"), InvalidDocument::ClientId),
            ("client_id", json!(1), InvalidDocument::Json),
            ("client_secret", json!("s"), InvalidDocument::Secret),
            ("client_secret_expires_at", json!(0), InvalidDocument::Secret),
            ("token_endpoint_auth_method", json!("client_secret_basic"), InvalidDocument::Secret),
            ("token_endpoint_auth_method", json!("client_secret_jwt"), InvalidDocument::Secret),
            ("token_endpoint_auth_method", json!("private_key_jwt"), InvalidDocument::Keys),
            ("redirect_uris", json!([]), InvalidDocument::RedirectUris),
            ("redirect_uris", json!(["http://client.example/cb"]), InvalidDocument::RedirectUris),
            ("grant_types", json!(["client_credentials"]), InvalidDocument::Grants),
            ("scope", json!("a\"b"), InvalidDocument::Scope),
        ] {
            assert_eq!(with(name, value.clone()).unwrap_err(), error, "{name}={value}");
        }
        assert!(with("jwks", keys).is_ok());
        for body in [&b""[..], b"[]", b"{}", b"<html>", b"\xff"] {
            assert_eq!(read(&id(URL), body).unwrap_err(), InvalidDocument::Json);
        }
    }

    proptest! {
        #[test]
        fn any_body_is_read_or_refused(body in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = read(&id(URL), &body);
        }
    }
}
