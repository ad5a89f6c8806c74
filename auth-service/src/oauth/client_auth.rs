//! Client authentication at the token endpoint and other endpoints (RFC 6749 §2.3, OAuth 2.1 §2.4).

use actix_web::HttpRequest;
use actix_web::http::header::{AUTHORIZATION, HeaderValue};
use actix_web_httpauth::headers::authorization::Basic;
use secrecy::{ExposeSecret, SecretString};

use crate::clients::UnknownClient;
use crate::clients::documents::DocumentError;
use crate::clients::fetch_rate::Caller;
use crate::domain::client::{Client, ClientAuthMethod, ClientId};
use crate::domain::clock::RandomUnavailable;
use crate::domain::opaque_token::TokenHash;
use crate::guard::client_address;
use crate::guard::keyed_rate::TooFast;
use crate::state::AppState;
use crate::store::StoreError;

use super::authorization;
use super::client_assertion::{self, AssertionError};
use super::params::{BadParams, Params};

/// Why a client could not be authenticated.
#[derive(Debug, thiserror::Error)]
pub enum ClientAuthError {
    /// The client is unknown, or its credentials are missing or wrong: 401 `invalid_client`.
    #[error("{description}")]
    Invalid {
        /// Explanation for the client's developer.
        description: String,
        /// Whether the client used HTTP Basic. If so, the response must include a Basic challenge (RFC 6749 §5.2).
        basic: bool,
    },
    /// The client used more than one authentication method: 400 `invalid_request`.
    #[error(
        "the client authenticates in more than one way; use the Authorization header or the body, not both"
    )]
    TwoWays,
    /// The parameters are malformed: 400 `invalid_request`.
    #[error(transparent)]
    Params(#[from] BadParams),
    /// There were too many client assertions: 429 `temporarily_unavailable`.
    #[error("too many client assertions from this client or network; try again in a minute")]
    TooFast(TooFast),
    /// The client's document or keys are currently unavailable: 503 `temporarily_unavailable`. With
    /// `invalid_client`, the client would discard its tokens.
    #[error("the client's metadata document or keys cannot be fetched at the moment: {0}")]
    Away(DocumentError),
    /// The clock is in doubt, so it is unknown whether the client's credentials have expired: 503
    /// `temporarily_unavailable`.
    #[error("the clock of this server is in doubt, so it is unknown what has expired; try again in a minute")]
    Undatable,
    /// The store failed: 503 `temporarily_unavailable`.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The random source failed: 503 `temporarily_unavailable`.
    #[error(transparent)]
    Random(#[from] RandomUnavailable),
}

#[derive(Debug)]
struct Credentials {
    id: ClientId,
    proof: Proof,
    basic: bool,
}

#[derive(Debug)]
enum Proof {
    None,
    Secret(SecretString),
    Assertion(String),
}

pub(super) async fn authenticate(
    request: &HttpRequest,
    params: &Params,
    state: &AppState,
) -> Result<Client, ClientAuthError> {
    let Credentials { id, proof, basic } = credentials(request, params)?;
    let now = state.now();
    let invalid = |description: String| ClientAuthError::Invalid { description, basic };
    let address = client_address::of(request, |address| state.config.trusted_edge.is_known(address));
    let found = state.clients.find(Caller::Stranger(address), &id, state.earliest()).await;
    let client = found.map_err(|error| match error {
        UnknownClient::Store(error) => ClientAuthError::Store(error),
        UnknownClient::Random(error) => ClientAuthError::Random(error),
        UnknownClient::Away(error) => ClientAuthError::Away(error),
        other => invalid(other.to_string()),
    })?;
    let problem = match (client.metadata.auth_method, proof) {
        (ClientAuthMethod::None, Proof::None) => return Ok(client),
        (ClientAuthMethod::None, _) => "the client is registered without credentials and must not send any",
        (ClientAuthMethod::PrivateKeyJwt, Proof::Assertion(assertion)) => {
            return match client_assertion::verify(&assertion, &client, address, state).await {
                Ok(()) => Ok(client),
                Err(AssertionError::TooFast(too_fast)) => Err(ClientAuthError::TooFast(too_fast)),
                Err(AssertionError::Store(error)) => Err(error.into()),
                Err(AssertionError::Time) if state.is_clock_in_doubt() => Err(ClientAuthError::Undatable),
                Err(AssertionError::Keys(error)) if error.is_temporary(client.last_used_at.is_some()) => {
                    Err(ClientAuthError::Away(error))
                }
                Err(error) => Err(invalid(error.to_string())),
            };
        }
        (ClientAuthMethod::PrivateKeyJwt, _) => "the client must authenticate with a client assertion",
        (_, Proof::Secret(given)) => match &client.secret {
            Some(known) if known.hash != TokenHash::of(given.expose_secret().as_bytes()) => {
                "the client secret is wrong"
            }
            Some(known) if known.expires_at.is_some_and(|end| end <= now) && state.is_clock_in_doubt() => {
                return Err(ClientAuthError::Undatable);
            }
            Some(known) if known.expires_at.is_some_and(|end| end <= now) => {
                "the client secret has expired; register again"
            }
            Some(_) => return Ok(client),
            None => "the client has no secret; register again",
        },
        (_, _) => "the client has a secret and must authenticate with it",
    };
    Err(invalid(problem.to_owned()))
}

fn credentials(request: &HttpRequest, params: &Params) -> Result<Credentials, ClientAuthError> {
    let invalid =
        |description: &str, basic| ClientAuthError::Invalid { description: description.to_owned(), basic };
    let id = |text: &str, basic| {
        ClientId::try_from(text.to_owned()).map_err(|_| invalid("the client_id is malformed", basic))
    };
    let body_id = params.one("client_id")?;
    let body_secret = params.one("client_secret")?;
    let assertion = params.one("client_assertion")?;
    let mut headers = request.headers().get_all(AUTHORIZATION);
    let header = headers.next();
    let ways = [header.is_some(), body_secret.is_some(), assertion.is_some()];
    if headers.next().is_some() || ways.iter().filter(|used| **used).count() > 1 {
        return Err(ClientAuthError::TwoWays);
    }
    if let Some(assertion) = assertion {
        if params.one("client_assertion_type")? != Some(client_assertion::ASSERTION_TYPE) {
            return Err(invalid(
                "client_assertion_type must be urn:ietf:params:oauth:client-assertion-type:jwt-bearer",
                false,
            ));
        }
        let claimed = client_assertion::claimed_client(assertion)
            .ok_or_else(|| invalid("the client assertion is malformed", false))?;
        if body_id.is_some_and(|other| other != claimed.as_str()) {
            return Err(invalid(
                "the client_id in the body is not the subject of the client assertion",
                false,
            ));
        }
        return Ok(Credentials { id: claimed, proof: Proof::Assertion(assertion.to_owned()), basic: false });
    }
    let Some(header) = header else {
        let id = id(body_id.ok_or_else(|| invalid("client_id is missing", false))?, false)?;
        let proof = body_secret.map_or(Proof::None, |secret| Proof::Secret(SecretString::from(secret)));
        return Ok(Credentials { id, proof, basic: false });
    };
    let read = basic_credentials(header);
    let (name, secret) = read.ok_or_else(|| invalid("the Authorization header is malformed", true))?;
    if body_id.is_some_and(|other| other != name) {
        return Err(invalid("the client_id in the body is not the one in the Authorization header", true));
    }
    Ok(Credentials { id: id(&name, true)?, proof: Proof::Secret(secret), basic: true })
}

/// Decodes HTTP Basic credentials, in which both parts are form-encoded (RFC 6749 §2.3.1).
pub(super) fn basic_credentials(header: &HeaderValue) -> Option<(String, SecretString)> {
    let basic: Basic = authorization::credentials("Basic", header)?;
    Some((
        form_decode(basic.user_id())?,
        SecretString::from(form_decode(basic.password().unwrap_or_default())?),
    ))
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
    use base64::Engine;
    use base64::engine::general_purpose::STANDARD;
    use proptest::prelude::*;

    use super::*;

    fn basic(text: &[u8]) -> String {
        format!("Basic {}", STANDARD.encode(text))
    }

    fn read(header: &str) -> Option<(String, SecretString)> {
        basic_credentials(&HeaderValue::from_str(header).ok()?)
    }

    #[test]
    fn a035_basic_is_form_encoded_and_malformed_is_noticed() {
        let (id, secret) = read(&basic(b"a%3Ab:c%20d+e%25")).unwrap();
        assert_eq!((id.as_str(), secret.expose_secret()), ("a:b", "c d e%"));
        let odd = ["Basic", "Basic ", "Basic !!!", "Bearer abc", ""].map(str::to_owned);
        for header in odd.into_iter().chain([
            basic(b"no colon"),
            basic(b"a:%zz"),
            basic(b"a:%4"),
            basic(b"\xff:\xff"),
            basic(b"%ff:a"),
        ]) {
            assert!(read(&header).is_none(), "{header}");
        }
    }

    proptest! {
        #[test]
        fn any_header_is_read_or_refused(header in ".{0,60}", body in prop::collection::vec(any::<u8>(), 0..40)) {
            let _ = read(&header);
            let _ = read(&basic(&body));
        }
    }
}
