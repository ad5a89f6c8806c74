//! Validates the client metadata in a request (RFC 7591 §2), without I/O.

use serde::Deserialize;
use serde_json::{Value, json};
use url::Url;

use crate::domain::client::{ClientAuthMethod, ClientDisplay, ClientKeys, ClientMetadata, GrantType, said};
use crate::domain::error_code::ErrorCode;
use crate::domain::redirect_uri::{InvalidRedirectUri, RedirectUri};
use crate::domain::scope::Scope;

/// Why client metadata cannot be registered.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidMetadata {
    /// The body is not a JSON object, or a member has the wrong type.
    #[error("the body must be a JSON object of client metadata: {0}")]
    Json(String),
    /// There are no redirect URIs, or more than 20.
    #[error("redirect_uris must contain 1 to 20 URIs")]
    RedirectUriCount,
    /// A redirect URI cannot be used.
    #[error("the redirect URI {0:?} cannot be used: {1}")]
    RedirectUri(String, InvalidRedirectUri),
    /// The authentication method is not supported.
    #[error(
        "token_endpoint_auth_method must be none, client_secret_basic, client_secret_post or private_key_jwt"
    )]
    AuthMethod,
    /// The method is `private_key_jwt`, but there is not exactly one source of keys.
    #[error("private_key_jwt needs either jwks or an https jwks_uri")]
    Keys,
    /// The client requests no grant type that it could use here, or grant types and response types contradict each
    /// other.
    #[error(
        "grant_types must include authorization_code with response_types code, or another grant of this server"
    )]
    Grants,
    /// The scope does not follow the grammar of RFC 6749 §3.3.
    #[error("the scope is malformed")]
    Scope,
    /// The application type is neither `web` nor `native`.
    #[error("application_type must be web or native")]
    ApplicationType,
    /// A link is not an http or https URL, or it is too long.
    #[error("{0} must be an http or https URL of at most 2048 characters")]
    Link(&'static str),
    /// A string is longer than 512 bytes, or there are too many contacts.
    #[error("{0} is too long")]
    TooLong(&'static str),
    /// The metadata is larger than 8192 bytes in total.
    #[error("the metadata has more than 8192 bytes in total")]
    TooLarge,
    /// The client sent a software statement, which is not supported (RFC 7591 §2.3).
    #[error("software statements are not accepted here; register without one")]
    SoftwareStatement,
}

impl InvalidMetadata {
    /// The error code of the response (RFC 7591 §3.2.2).
    pub(super) fn code(&self) -> ErrorCode {
        match self {
            Self::RedirectUriCount | Self::RedirectUri(..) => ErrorCode::InvalidRedirectUri,
            Self::SoftwareStatement => ErrorCode::UnapprovedSoftwareStatement,
            _ => ErrorCode::InvalidClientMetadata,
        }
    }
}

/// Maximum size in bytes of a client's stored metadata.
const MAX_METADATA_SIZE: usize = 8 * 1024;

/// The members of the metadata that are used here. All others are ignored (RFC 7591 §2).
#[derive(Deserialize)]
struct SubmittedMetadata {
    redirect_uris: Option<Vec<String>>,
    token_endpoint_auth_method: Option<String>,
    grant_types: Option<Vec<String>>,
    response_types: Option<Vec<String>>,
    scope: Option<String>,
    application_type: Option<String>,
    dpop_bound_access_tokens: Option<bool>,
    software_statement: Option<Value>,
    jwks: Option<Value>,
    jwks_uri: Option<String>,
    #[serde(flatten)]
    display: ClientDisplay,
}

/// Reads and validates a request body. `catalogue` contains all scopes, and `offers` returns whether a grant type
/// is enabled.
pub(super) fn read(
    body: &[u8],
    catalogue: &Scope,
    offers: impl Fn(GrantType) -> bool,
) -> Result<ClientMetadata, InvalidMetadata> {
    let sent: SubmittedMetadata =
        serde_json::from_slice(body).map_err(|error| InvalidMetadata::Json(error.to_string()))?;
    let (application_type, display) = (said(sent.application_type), sent.display.said());
    if sent.software_statement.is_some() {
        return Err(InvalidMetadata::SoftwareStatement);
    }
    if application_type.as_deref().is_some_and(|kind| !matches!(kind, "web" | "native")) {
        return Err(InvalidMetadata::ApplicationType);
    }
    check_display(&display)?;
    let auth_method = auth_method(said(sent.token_endpoint_auth_method).as_deref())?;
    let keys = keys(auth_method, sent.jwks, said(sent.jwks_uri))?;
    let mut grant_types = grant_types(sent.grant_types.as_deref(), sent.response_types.as_deref())?;
    grant_types.retain(|grant_type| offers(*grant_type));
    let redirects = match sent.redirect_uris.unwrap_or_default() {
        // A client that does not use authorization codes, such as a device, does not need a redirect URI.
        none if none.is_empty() && !grant_types.contains(&GrantType::AuthorizationCode) => Vec::new(),
        sent => redirect_uris(sent)?,
    };
    if grant_types.iter().all(|grant_type| *grant_type == GrantType::RefreshToken) {
        return Err(InvalidMetadata::Grants);
    }
    let metadata = ClientMetadata {
        redirect_uris: redirects,
        auth_method,
        grant_types,
        scope: scope(sent.scope.as_deref(), catalogue)?,
        application_type,
        dpop_bound_access_tokens: sent.dpop_bound_access_tokens.unwrap_or_default(),
        keys,
        display,
    };
    let stored = serde_json::to_vec(&metadata).map_or(usize::MAX, |text| text.len());
    if stored > MAX_METADATA_SIZE { Err(InvalidMetadata::TooLarge) } else { Ok(metadata) }
}

/// Returns a string that identifies a public client by its metadata. It does not depend on the order of the
/// redirect URIs, or on the port of a loopback address, which the operating system chooses (RFC 8252 §7.3).
pub(super) fn canonical(metadata: &ClientMetadata) -> String {
    let mut redirect_uris: Vec<String> = metadata.redirect_uris.iter().map(RedirectUri::comparable).collect();
    redirect_uris.sort_unstable();
    redirect_uris.dedup();
    let ClientMetadata { auth_method, grant_types, scope, application_type, display, .. } = metadata;
    let mut members = vec![
        json!(redirect_uris),
        json!(auth_method),
        json!(grant_types),
        json!(scope),
        json!(application_type),
        json!(display),
    ];
    // The member is added only if it is set, so that clients that registered before it was supported keep their
    // identifiers.
    if metadata.dpop_bound_access_tokens {
        members.push(json!("dpop"));
    }
    Value::Array(members).to_string()
}

fn redirect_uris(sent: Vec<String>) -> Result<Vec<RedirectUri>, InvalidMetadata> {
    if sent.is_empty() || sent.len() > 20 {
        return Err(InvalidMetadata::RedirectUriCount);
    }
    let parse = |text: String| {
        RedirectUri::to_register(text.clone()).map_err(|error| InvalidMetadata::RedirectUri(text, error))
    };
    sent.into_iter().map(parse).collect()
}

/// Reads the authentication method. The default is the one in RFC 7591 §2, but most MCP clients request another
/// method.
fn auth_method(sent: Option<&str>) -> Result<ClientAuthMethod, InvalidMetadata> {
    match sent {
        Some("none") => Ok(ClientAuthMethod::None),
        None | Some("client_secret_basic") => Ok(ClientAuthMethod::ClientSecretBasic),
        Some("client_secret_post") => Ok(ClientAuthMethod::ClientSecretPost),
        Some("private_key_jwt") => Ok(ClientAuthMethod::PrivateKeyJwt),
        Some(_) => Err(InvalidMetadata::AuthMethod),
    }
}

/// Keys are used only with `private_key_jwt`, and the client must send exactly one of the two members (RFC 7591
/// §2).
fn keys(
    method: ClientAuthMethod,
    jwks: Option<Value>,
    uri: Option<String>,
) -> Result<Option<ClientKeys>, InvalidMetadata> {
    match (method, jwks, uri) {
        (ClientAuthMethod::PrivateKeyJwt, Some(set), None) => Ok(Some(ClientKeys::Inline(set))),
        (ClientAuthMethod::PrivateKeyJwt, None, Some(uri)) if uri.starts_with("https://") => {
            Ok(Some(ClientKeys::Uri(uri)))
        }
        (ClientAuthMethod::PrivateKeyJwt, _, _) => Err(InvalidMetadata::Keys),
        _ => Ok(None),
    }
}

/// The grant types of the client. Grant types and response types must agree (RFC 7591 §2.1), and one of the grant
/// types must use authorization codes or device codes.
fn grant_types(
    asked: Option<&[String]>,
    response_types: Option<&[String]>,
) -> Result<Vec<GrantType>, InvalidMetadata> {
    let granted = GrantType::granted(asked);
    let with_code = response_types.is_none_or(|types| types.iter().any(|kind| kind == "code"));
    let codes = granted.contains(&GrantType::AuthorizationCode);
    if if codes { with_code } else { granted.contains(&GrantType::DeviceCode) } {
        Ok(granted)
    } else {
        Err(InvalidMetadata::Grants)
    }
}

/// The part of the registered scope that exists on this server. An unknown name is not an error, because hosted
/// clients also register scopes of other servers.
fn scope(sent: Option<&str>, catalogue: &Scope) -> Result<Option<Scope>, InvalidMetadata> {
    let Some(text) = sent.filter(|text| !text.is_empty()) else { return Ok(None) };
    let kept = text.parse::<Scope>().map_err(|_| InvalidMetadata::Scope)?.within(catalogue);
    Ok(Some(kept).filter(|kept| !kept.is_empty()))
}

fn check_display(display: &ClientDisplay) -> Result<(), InvalidMetadata> {
    let links = [
        ("client_uri", &display.client_uri),
        ("logo_uri", &display.logo_uri),
        ("policy_uri", &display.policy_uri),
        ("tos_uri", &display.tos_uri),
    ];
    for (name, link) in links {
        let web = |text: &String| {
            text.len() <= 2048 && Url::parse(text).is_ok_and(|url| matches!(url.scheme(), "http" | "https"))
        };
        if !link.as_ref().is_none_or(web) {
            return Err(InvalidMetadata::Link(name));
        }
    }
    let texts = [
        ("client_name", &display.client_name),
        ("software_id", &display.software_id),
        ("software_version", &display.software_version),
    ];
    for (name, text) in texts {
        if text.as_ref().is_some_and(|text| text.len() > 512) {
            return Err(InvalidMetadata::TooLong(name));
        }
    }
    let contacts = display.contacts.as_deref().unwrap_or_default();
    if contacts.len() > 10 || contacts.iter().any(|contact| contact.len() > 512) {
        return Err(InvalidMetadata::TooLong("contacts"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn read(metadata: &Value) -> Result<ClientMetadata, InvalidMetadata> {
        super::read(metadata.to_string().as_bytes(), &"mcp".parse().unwrap(), |_| true)
    }

    fn with(name: &str, value: Value) -> Value {
        let mut metadata = json!({
            "redirect_uris": ["http://localhost:3000/cb"], "token_endpoint_auth_method": "none",
            "grant_types": ["authorization_code", "refresh_token"], "response_types": ["code"], "client_name": "Inspector",
        });
        metadata[name] = value;
        metadata
    }

    #[test]
    fn the_same_metadata_in_any_order_is_the_same_client() {
        let one = read(
            &json!({ "redirect_uris": ["https://a.example/1", "https://a.example/2"], "client_name": "x" }),
        )
        .unwrap();
        let two = read(&json!({ "client_name": "x", "unknown": 1, "redirect_uris": ["https://a.example/2", "https://a.example/1"] })).unwrap();
        assert_eq!(canonical(&one), canonical(&two));
        let other = read(&json!({ "redirect_uris": ["https://a.example/1"], "client_name": "x" })).unwrap();
        assert_ne!(canonical(&one), canonical(&other));
    }

    #[test]
    fn what_is_not_said_is_decided() {
        let read = read(&json!({ "redirect_uris": ["https://a.example/cb"] })).unwrap();
        assert_eq!(read.auth_method, ClientAuthMethod::ClientSecretBasic);
        assert_eq!(read.grant_types, [GrantType::AuthorizationCode, GrantType::RefreshToken]);
    }

    #[test]
    fn a004_a048_a052_what_cannot_be_honoured_is_refused() {
        let cases = [
            ("redirect_uris", json!([]), "invalid_redirect_uri"),
            ("redirect_uris", json!(["javascript:alert(1)"]), "invalid_redirect_uri"),
            ("redirect_uris", json!(["http://app.example/cb"]), "invalid_redirect_uri"),
            ("redirect_uris", json!("https://a.example/cb"), "invalid_client_metadata"),
            ("client_uri", json!("javascript:alert(1)"), "invalid_client_metadata"),
            ("logo_uri", json!("DATA:text/html,x"), "invalid_client_metadata"),
            ("policy_uri", json!("vbscript:x"), "invalid_client_metadata"),
            ("tos_uri", json!("nothing"), "invalid_client_metadata"),
            ("grant_types", json!(["implicit"]), "invalid_client_metadata"),
            ("grant_types", json!(["refresh_token"]), "invalid_client_metadata"),
            ("response_types", json!(["token"]), "invalid_client_metadata"),
            ("token_endpoint_auth_method", json!("private_key_jwt"), "invalid_client_metadata"),
            ("token_endpoint_auth_method", json!("tls_client_auth"), "invalid_client_metadata"),
            ("application_type", json!("toaster"), "invalid_client_metadata"),
            ("scope", json!("a\"b"), "invalid_client_metadata"),
            ("client_name", json!("x".repeat(513)), "invalid_client_metadata"),
            ("client_name", json!(7), "invalid_client_metadata"),
            ("software_statement", json!("eyJ"), "unapproved_software_statement"),
        ];
        for (name, value, code) in cases {
            assert_eq!(read(&with(name, value.clone())).unwrap_err().code().as_str(), code, "{name}={value}");
        }
        for body in [&b""[..], b"[]", b"{", b"null", b"\xff", b"{\"redirect_uris\":[1]}"] {
            assert!(super::read(body, &Scope::default(), |_| true).is_err());
        }
    }

    #[test]
    fn a053_a_web_application_has_https_redirects_but_for_loopback() {
        let web = |uri: &str| read(&json!({ "redirect_uris": [uri], "application_type": "web" }));
        assert_eq!(web("http://app.example/cb").unwrap_err().code(), ErrorCode::InvalidRedirectUri);
        assert!(web("https://app.example/cb").is_ok() && web("http://localhost:6274/oauth/callback").is_ok());
    }

    #[test]
    fn a046_unknown_and_privileged_members_are_ignored() {
        let read = read(&with("scope", json!("mcp:read admin"))).unwrap();
        assert_eq!(read.scope.unwrap().to_string(), "mcp:read");
        assert!(self::read(&with("client_id", json!("mine"))).is_ok());
        assert!(self::read(&with("is_admin", json!(true))).is_ok());
    }
}
