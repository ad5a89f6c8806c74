//! Who is the client? Authentication at the token endpoint (RFC 6749 §2.3, OAuth 2.1 §2.4).

use actix_web::HttpRequest;
use actix_web::http::header::AUTHORIZATION;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use secrecy::{ExposeSecret, SecretString};

use crate::domain::client::{Client, ClientId};
use crate::domain::opaque_token::TokenHash;
use crate::store::{Store, StoreError};

use super::params::{BadParams, Params};

/// Why a client is not authenticated.
#[derive(Debug, thiserror::Error)]
pub enum ClientAuthError {
    /// 401 `invalid_client`.
    #[error("{description}")]
    Invalid {
        /// For the client's developer.
        description: &'static str,
        /// The client tried HTTP Basic, so the answer must offer it (RFC 6749 §5.2).
        basic: bool,
    },
    /// 400 `invalid_request`.
    #[error(
        "the client authenticates in more than one way; use the Authorization header or the body, not both"
    )]
    TwoWays,
    /// 400 `invalid_request`.
    #[error(transparent)]
    Params(#[from] BadParams),
    /// 503.
    #[error(transparent)]
    Store(#[from] StoreError),
}

#[derive(Debug)]
struct Credentials {
    id: String,
    secret: Option<SecretString>,
    basic: bool,
}

/// Authenticates the client of a token request.
pub(super) async fn authenticate(
    request: &HttpRequest,
    params: &Params,
    store: &dyn Store,
) -> Result<Client, ClientAuthError> {
    let credentials = credentials(request, params)?;
    let basic = credentials.basic;
    let invalid = |description| ClientAuthError::Invalid { description, basic };
    let id = ClientId::try_from(credentials.id).map_err(|_| invalid("the client_id is malformed"))?;
    let unknown = "the client is unknown; it may have been removed, register again";
    let client = store.client(&id).await?.ok_or_else(|| invalid(unknown))?;
    match (&client.secret, &credentials.secret) {
        (None, None) => Ok(client),
        (Some(known), Some(given)) if known.hash == TokenHash::of(given.expose_secret().as_bytes()) => {
            Ok(client)
        }
        (Some(_), Some(_)) => Err(invalid("the client secret is wrong")),
        (Some(_), None) => Err(invalid("the client has a secret and must authenticate with it")),
        (None, Some(_)) => Err(invalid("the client is registered without a secret and must not send one")),
    }
}

fn credentials(request: &HttpRequest, params: &Params) -> Result<Credentials, ClientAuthError> {
    let body_id = params.one("client_id")?;
    let body_secret = params.one("client_secret")?;
    let malformed =
        ClientAuthError::Invalid { description: "the Authorization header is malformed", basic: true };
    let mut headers = request.headers().get_all(AUTHORIZATION);
    let Some(header) = headers.next() else {
        let missing = ClientAuthError::Invalid { description: "client_id is missing", basic: false };
        let id = body_id.ok_or(missing)?.to_owned();
        return Ok(Credentials { id, secret: body_secret.map(SecretString::from), basic: false });
    };
    if headers.next().is_some() || body_secret.is_some() {
        return Err(ClientAuthError::TwoWays);
    }
    let Some((id, secret)) = header.to_str().ok().and_then(basic_credentials) else {
        return Err(malformed);
    };
    if body_id.is_some_and(|other| other != id) {
        let description = "the client_id in the body is not the one in the Authorization header";
        return Err(ClientAuthError::Invalid { description, basic: true });
    }
    Ok(Credentials { id, secret: Some(secret), basic: true })
}

/// Reads HTTP Basic with both parts form-encoded (RFC 6749 §2.3.1).
fn basic_credentials(header: &str) -> Option<(String, SecretString)> {
    let (scheme, encoded) = header.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") || encoded.len() > 8192 {
        return None;
    }
    let text = String::from_utf8(STANDARD.decode(encoded.trim()).ok()?).ok()?;
    let (id, secret) = text.split_once(':')?;
    Some((form_decode(id)?, SecretString::from(form_decode(secret)?)))
}

fn form_decode(text: &str) -> Option<String> {
    let mut decoded = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        decoded.push(match byte {
            b'+' => b' ',
            b'%' => {
                let mut digit = || bytes.next().and_then(|digit| char::from(digit).to_digit(16));
                u8::try_from(digit()? << 4 | digit()?).ok()?
            }
            other => other,
        });
    }
    String::from_utf8(decoded).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn basic(text: &[u8]) -> String {
        format!("Basic {}", STANDARD.encode(text))
    }

    #[test]
    fn a035_basic_is_form_encoded_and_malformed_is_noticed() {
        let (id, secret) = basic_credentials(&basic(b"a%3Ab:c%20d+e%25")).unwrap();
        assert_eq!((id.as_str(), secret.expose_secret()), ("a:b", "c d e%"));
        let odd = ["Basic", "Basic ", "Basic !!!", "Bearer abc", ""].map(str::to_owned);
        for header in odd.into_iter().chain([
            basic(b"no colon"),
            basic(b"a:%zz"),
            basic(b"a:%4"),
            basic(b"\xff:\xff"),
            basic(b"%ff:a"),
        ]) {
            assert!(basic_credentials(&header).is_none(), "{header}");
        }
    }

    proptest! {
        #[test]
        fn any_header_is_read_or_refused(header in ".{0,60}", body in prop::collection::vec(any::<u8>(), 0..40)) {
            let _ = basic_credentials(&header);
            let _ = basic_credentials(&basic(&body));
        }
    }
}
