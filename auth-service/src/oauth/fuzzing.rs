//! Checks properties of the parsers with arbitrary input from strangers. The fuzz targets in `fuzz/` and the
//! property tests below call the same functions. A panic means that a property is violated.
#![expect(clippy::expect_used, clippy::missing_panics_doc, reason = "a panic reports a violated property")]

use std::sync::LazyLock;

use actix_web::http::header::{CONTENT_TYPE, HeaderValue};
use actix_web::test::TestRequest;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use secrecy::ExposeSecret;
use serde_json::{Value, json};

use crate::domain::client::{
    Client, ClientAuthMethod, ClientDisplay, ClientId, ClientMetadata, ClientOrigin, GrantType,
    RegistrationId,
};
use crate::domain::clock::{Clock, UnixTime};
use crate::domain::redirect_uri::RedirectUri;
use crate::domain::resource::{ProtectedHosts, Scheme};
use crate::keys::algorithm::SigningAlgorithm;
use crate::keys::set::{KeySet, RotationTerms};
use crate::keys::signing::KeyRing;
use crate::policy::Policy;

use super::authorization::MAX_CREDENTIALS_LEN;
use super::authorization_request::{AuthorizationRequest, redirect_uri_of};
use super::client_assertion::{accepted_header, claimed_client};
use super::client_auth::basic_credentials;
use super::params::Params;

const GOOD: [(&str, &str); 9] = [
    ("response_type", "code"),
    ("client_id", "c"),
    ("redirect_uri", "http://127.0.0.1:3000/cb"),
    ("code_challenge", "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM"),
    ("code_challenge_method", "S256"),
    ("resource", "https://mcp.example/mcp"),
    ("state", "s"),
    ("scope", "mcp mcp:read"),
    ("dpop_jkt", "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM"),
];

/// Returns a public client with two redirect URIs.
pub(super) fn client() -> Client {
    let redirects = ["https://app.example/cb?x=1", "http://127.0.0.1/cb"];
    Client {
        id: ClientId::try_from("c".to_owned()).expect("an identifier"),
        registration: RegistrationId::new([0; 32]),
        origin: ClientOrigin::Registration,
        issued_at: UnixTime(0),
        last_used_at: None,
        users: None,
        further_users: Vec::new(),
        kept_until: None,
        disabled: false,
        fingerprint: None,
        management: None,
        secret: None,
        metadata: ClientMetadata {
            redirect_uris: redirects.map(|text| text.to_owned().try_into().expect("a redirect URI")).to_vec(),
            auth_method: ClientAuthMethod::None,
            grant_types: vec![GrantType::AuthorizationCode, GrantType::RefreshToken],
            scope: None,
            application_type: None,
            dpop_bound_access_tokens: false,
            keys: None,
            display: ClientDisplay::default(),
        },
        operator: None,
    }
}

/// Checks the query of an authorization request. The first byte selects a parameter of a valid request, and the
/// rest of the input replaces its value. If the byte selects no parameter, the rest is the whole query. An
/// accepted request must not request more than the client is allowed, and its redirect URI must be registered.
pub fn authorize_query(bytes: &[u8]) {
    let Some((&which, rest)) = bytes.split_first() else { return };
    let text = String::from_utf8_lossy(rest);
    let query = match GOOD.get(usize::from(which)) {
        None => text.into_owned(),
        Some((changed, _)) => {
            let kept = GOOD.iter().filter(|(name, _)| name != changed).copied();
            url::form_urlencoded::Serializer::new(String::new())
                .extend_pairs(kept.chain([(*changed, &*text)]))
                .finish()
        }
    };
    let Ok(params) = Params::of_query(&query) else { return };
    let client = client();
    let Ok(Some(redirect_uri)) = redirect_uri_of(&params, &client) else { return };
    assert!(client.metadata.redirect_uris.iter().any(|known| known.matches(&redirect_uri)));
    let hosts = ProtectedHosts::new(Scheme::Https, vec!["mcp.example".parse().expect("a host")]);
    let policy = Policy::default();
    let read = AuthorizationRequest::within(&params, &client, redirect_uri, &hosts, &policy, false);
    let Ok(asked) = read else { return };
    assert!(!params.has_doubled());
    assert!(!asked.scope.is_empty() && policy.catalogue().covers(&asked.scope));
    assert!(!asked.resources.is_empty());
    for resource in &asked.resources {
        let url = url::Url::parse(resource.as_str()).expect("a resource is a URL");
        assert_eq!((url.scheme(), url.host_str(), url.port()), ("https", Some("mcp.example"), None));
        assert!(url.fragment().is_none() && url.username().is_empty() && url.password().is_none());
    }
    assert_eq!(asked.state.as_deref(), params.one("state").expect("not doubled"));
}

/// Checks the form of a token request with its Content-Type. A second, independent parser must read the same
/// values.
pub fn token_form(bytes: &[u8]) {
    let (content_type, body) = match bytes.iter().position(|byte| *byte == 0) {
        Some(end) => (bytes.get(..end).unwrap_or_default(), bytes.get(end + 1..).unwrap_or_default()),
        None => (&b"application/x-www-form-urlencoded"[..], bytes),
    };
    let Ok(content_type) = HeaderValue::from_bytes(content_type) else { return };
    let request = TestRequest::default().insert_header((CONTENT_TYPE, content_type)).to_http_request();
    let Ok(params) = Params::of_form(&request, body) else { return };
    let pairs: Vec<_> = url::form_urlencoded::parse(body).into_owned().collect();
    assert!(pairs.len() <= 100);
    for (name, _) in &pairs {
        let values: Vec<_> =
            pairs.iter().filter(|(other, _)| other == name).map(|(_, v)| v.as_str()).collect();
        match params.one(name) {
            Ok(value) => {
                assert!(values.len() == 1 && value == values.first().copied().filter(|v| !v.is_empty()));
            }
            Err(_) => assert!(values.len() > 1),
        }
        assert!(params.has_doubled() || values.len() == 1 || name == "resource");
    }
    let again = params.encoded_without(&[], ("client_id", "c"));
    if pairs.len() < 100 {
        let again = Params::of_query(&again).expect("what we write we read");
        assert_eq!(again.one("client_id"), Ok(Some("c")));
    }
}

/// Checks the `Authorization` header of a client: the input as text, and its bytes in valid Base64. Credentials
/// must stay the same when they are encoded and read again.
pub fn basic_header(bytes: &[u8]) {
    for header in [String::from_utf8_lossy(bytes).into_owned(), format!("Basic {}", STANDARD.encode(bytes))] {
        let Ok(header) = HeaderValue::from_str(&header) else { continue };
        let Some((id, secret)) = basic_credentials(&header) else { continue };
        let form = |text: &str| url::form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>();
        let written = STANDARD.encode(format!("{}:{}", form(&id), form(secret.expose_secret())));
        // Percent-encoding can triple the length of the credentials, and credentials that are too long are
        // refused.
        if written.len() > MAX_CREDENTIALS_LEN {
            continue;
        }
        let again =
            HeaderValue::from_str(&format!("basic {written}")).expect("Base64 has visible characters");
        let (id_again, secret_again) = basic_credentials(&again).expect("what we write we read");
        assert_eq!((id_again.as_str(), secret_again.expose_secret()), (id.as_str(), secret.expose_secret()));
    }
}

struct Zero;

impl Clock for Zero {
    fn now(&self) -> UnixTime {
        UnixTime(0)
    }
}

/// A key ring, and a token that it has signed.
static RING: LazyLock<(KeyRing, String)> = LazyLock::new(|| {
    let terms = RotationTerms {
        algorithm: SigningAlgorithm::EdDsa,
        period: None,
        lead: std::time::Duration::from_secs(600),
    };
    let set = KeySet::first(&terms, UnixTime(0)).expect("a key");
    let ring = KeyRing::new(set, std::sync::Arc::new(Zero)).expect("a ring");
    let token =
        ring.sign("at+jwt", &json!({ "sub": "x", "aud": ["https://mcp.example/mcp"] })).expect("a token");
    (ring, token)
});

/// Checks a token: the input itself, and a valid token with some bytes replaced. Only the unchanged token must
/// verify.
pub fn jwt(bytes: &[u8]) {
    let (ring, good) = &*RING;
    let text = String::from_utf8_lossy(bytes);
    assert!(ring.verify::<Value>("at+jwt", &text).is_err());
    // The claims of an assertion are read before its signature is verified, so reading them must be safe for any
    // input.
    claimed_client(&text);
    if let Some(header) = accepted_header(&text) {
        assert!(header.crit.is_none());
    }
    let Some((&[high, low], patch)) = bytes.split_first_chunk() else { return };
    let mut changed = good.clone().into_bytes();
    let at = usize::from(u16::from_be_bytes([high, low])) % changed.len();
    for (old, new) in changed.iter_mut().skip(at).zip(patch) {
        *old = *new;
    }
    let Ok(changed) = String::from_utf8(changed) else { return };
    assert_eq!(ring.verify::<Value>("at+jwt", &changed).is_ok(), changed == *good, "{changed}");
    claimed_client(&changed);
}

/// Checks a redirect URI. An accepted URI must be unambiguous, and responses must be sent only to that URI.
pub fn redirect_uri(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let Ok(uri) = RedirectUri::try_from(text.to_owned()) else { return };
    assert_eq!(uri.as_str(), text);
    assert!(uri.matches(&uri));
    let url = url::Url::parse(text).expect("a redirect URI is a URL");
    assert!(
        url.has_host() && url.username().is_empty() && url.password().is_none() && url.fragment().is_none()
    );
    assert!(!matches!(url.scheme(), "javascript" | "data" | "file" | "blob" | "vbscript"));
    assert_eq!(url.scheme() == "http", uri.is_local() && uri.private_scheme().is_none());
    assert!(!text.contains(['\n', '\r', '\t', ' ', '"', '<', '>']), "{text}");
    let answer = url::Url::parse(&uri.with_query(&[("code", "a&b=c#d"), ("state", "\u{202e}\"")]))
        .expect("an answer is a URL");
    assert_eq!(
        (answer.scheme(), answer.host(), answer.port(), answer.path()),
        (url.scheme(), url.host(), url.port(), url.path())
    );
    assert!(answer.fragment().is_none());
    let said: Vec<_> = answer.query_pairs().collect();
    assert!(said.iter().any(|(name, value)| name == "code" && value == "a&b=c#d"), "{answer}");
    for other in ["https://app.example/cb", "http://127.0.0.1/cb", "http://localhost:1/cb"] {
        let other = RedirectUri::try_from(other.to_owned()).expect("a redirect URI");
        assert_eq!(uri.matches(&other), other.matches(&uri));
        assert!(!uri.matches(&other) || uri == other || uri.is_local());
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    /// Generates arbitrary bytes, and strings that consist of pieces that are significant to the parsers.
    fn input(pieces: &'static [&'static str]) -> impl Strategy<Value = Vec<u8>> {
        let piece = prop_oneof![
            4 => prop::sample::select(pieces).prop_map(|piece| piece.as_bytes().to_vec()),
            1 => "[a-z0-9]{1,6}".prop_map(String::into_bytes),
            1 => vec(any::<u8>(), 1..4),
        ];
        prop_oneof![1 => vec(any::<u8>(), 0..80), 4 => vec(piece, 0..12).prop_map(|pieces| pieces.concat())]
    }

    const QUERY: &[&str] = &[
        "\u{0}",
        "\u{2}",
        "\u{5}",
        "\u{7}",
        "\u{ff}",
        "response_type=code",
        "&",
        "=",
        "%",
        "%00",
        "+",
        "client_id=c",
        "resource=https%3A%2F%2Fmcp.example%2Fmcp",
        "https://mcp.example/",
        "https://mcp.example",
        "..",
        "/",
        "#",
        "@",
        "code_challenge_method=S256",
        "mcp:read",
        "mcp",
        " ",
        "state=",
        "http://127.0.0.1:1/cb",
        "https://app.example/cb?x=1",
        "code_challenge=E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM",
    ];
    const FORM: &[&str] = &[
        "application/x-www-form-urlencoded",
        ";",
        "charset=utf-8",
        "\u{0}",
        "grant_type=refresh_token",
        "&",
        "=",
        "%",
        "%41",
        "+",
        "client_id=",
        "resource=",
        "scope=",
        "code=",
    ];
    const BASIC: &[&str] =
        &["Basic ", "basic", " ", ":", "%", "%3A", "%zz", "+", "YTpi", "==", "mcp_x", "\u{ff}"];
    const JWT: &[&str] = &[
        ".",
        "eyJhbGciOiJub25lIn0",
        "eyJhbGciOiJFZERTQSIsInR5cCI6ImF0K2p3dCJ9",
        "e30",
        "=",
        "-",
        "_",
        "A",
        "\u{0}\u{0}",
        "{}",
    ];
    const URI: &[&str] = &[
        "https://",
        "http://",
        "javascript:",
        "cursor://",
        "app.example",
        "127.0.0.1",
        "localhost",
        "[::1]",
        ":",
        "3000",
        "/",
        "cb",
        "?",
        "x=1",
        "#",
        "@",
        "..",
        ";",
        "%2e",
        "%",
        "\\",
        "\n",
        "\t",
        "//",
        "HTTPS",
        ".",
        "xn--",
        "\u{fc}",
        "\"",
    ];

    proptest! {
        #![proptest_config(ProptestConfig { cases: 2_000, ..ProptestConfig::default() })]

        #[test]
        fn authorization_requests(bytes in input(QUERY)) { authorize_query(&bytes) }

        #[test]
        fn token_requests(bytes in input(FORM)) { token_form(&bytes) }

        #[test]
        fn a035_basic_headers(bytes in input(BASIC)) { basic_header(&bytes) }

        #[test]
        fn a058_tokens(bytes in input(JWT)) { jwt(&bytes) }

        #[test]
        fn a003_redirect_uris(bytes in input(URI)) { redirect_uri(&bytes) }
    }
}
