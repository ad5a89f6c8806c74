//! Builds the answer to a check: identity headers or a challenge. The answer is the same for every proxy, and is
//! then encoded in the form that the proxy expects.

use std::borrow::Cow;
use std::sync::{Arc, LazyLock};

use actix_http::ConnectionType;
use actix_web::HttpResponse;
use actix_web::body::BoxBody;
use actix_web::http::StatusCode;
use actix_web::http::header::{
    CACHE_CONTROL, CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE,
};
use contract::assertion;
use serde_json::json;

use crate::domain::clock::UnixTime;
use crate::domain::resource::ResourceUri;
use crate::domain::scope::Scope;
use crate::dpop::ProofRefused;
use crate::guard::log_rate::LogRate;
use crate::guard::pace::TooManyRequests;
use crate::keys::dpop::ALGORITHMS;
use crate::keys::seal::CryptoFailure;
use crate::policy::{Denial, Policy};
use crate::principal::{self, Known};
use crate::state::AppState;

use super::error::CheckError;
use super::outcome::Outcome;
use super::possession::{NotProven, Scheme};
use super::request::AccessRequest;

/// Lifetime of an assertion. It covers one network hop and some clock skew.
const ASSERTION_LIFETIME: std::time::Duration = std::time::Duration::from_secs(60);

/// The `Retry-After` of a check that cannot be decided, in seconds. The service retries the store several times
/// per second, so a client can retry sooner than after the minute that is named in the message to its user.
const UNAVAILABLE_FOR: u16 = 5;

/// Rate limit for log lines that any client can cause with a single request.
static STORE_FAILED: LazyLock<LogRate> = LazyLock::new(LogRate::default);

static NO_STORE: (HeaderName, HeaderValue) = (CACHE_CONTROL, HeaderValue::from_static("no-store"));

/// Headers that identify the caller. Every answer that allows a request to a service contains all of them.
pub static IDENTITY: [HeaderName; principal::IDENTITY] = {
    let [subject, username, email, groups, client_id, scope, assertion] = contract::headers::ALL;
    [
        HeaderName::from_static(subject),
        HeaderName::from_static(username),
        HeaderName::from_static(email),
        HeaderName::from_static(groups),
        HeaderName::from_static(client_id),
        HeaderName::from_static(scope),
        HeaderName::from_static(assertion),
    ]
};

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Answer {
    /// 200 allows the request. Any other status denies it.
    pub(super) status: StatusCode,
    /// Values of the [`IDENTITY`] headers, in that order. They are present if and only if the status is 200, and
    /// are shared with the cache.
    pub(super) identity: Option<Arc<[HeaderValue; principal::IDENTITY]>>,
    /// The other headers: printable ASCII, each name once.
    pub(super) headers: Vec<(HeaderName, HeaderValue)>,
    /// A JSON object that explains a denial, or `None` for an empty body.
    pub(super) body: Option<String>,
    /// The result, for the metrics.
    pub(super) outcome: Outcome,
    /// The reason for the log, if the check cannot be decided.
    pub(super) refusal: Option<String>,
}

impl Answer {
    /// Allows the request: 200 with all identity headers. A header without a value is sent empty. If it were
    /// missing, a client's header with the same name would reach the service.
    pub(super) fn allow(
        known: &Known,
        resource: &ResourceUri,
        policy: &Policy,
        state: &AppState,
        now: UnixTime,
    ) -> Self {
        let principal = &known.principal;
        // All values, including the signed assertion, are created together and cached with the principal.
        let finish = || {
            let groups: Vec<&str> =
                principal.groups.iter().map(crate::domain::account::Group::as_str).collect();
            let scope = principal.scope.to_string();
            let email = principal.email.as_deref().unwrap_or_default();
            let claims = assertion::Claims {
                iss: state.config.site.issuer.as_str().into(),
                aud: resource.as_str().into(),
                sub: principal.subject.as_str().into(),
                username: principal.username.as_str().into(),
                email: email.into(),
                groups: groups.iter().map(|group| Cow::Borrowed(*group)).collect(),
                client_id: principal.client_id.as_str().into(),
                scope: scope.as_str().into(),
                iat: now.0,
                exp: now.plus(ASSERTION_LIFETIME).0,
                nbf: None,
                token_exp: Some(principal.expires_at.0),
                tool_rules: policy.unmet_rules(principal, resource),
            };
            let assertion = state.keys.sign(assertion::TYPE, &claims)?;
            let values = [
                principal.subject.as_str(),
                principal.username.as_str(),
                email,
                &groups.join(","),
                principal.client_id.as_str(),
                &scope,
                &assertion,
            ];
            Ok::<_, CryptoFailure>(values.map(|text| value(&one_line(text))))
        };
        let finished = known.identity.for_resource(resource, policy.epoch(), now, ASSERTION_LIFETIME, finish);
        let Ok(identity) = finished else {
            tracing::error!("an assertion could not be signed");
            return Self::unavailable();
        };
        let (identity, headers) = (Some(identity), Vec::new());
        Self {
            status: StatusCode::OK,
            identity,
            headers,
            body: None,
            outcome: Outcome::Allowed,
            refusal: None,
        }
    }

    /// Denies the request with 401 or 403. The challenge tells an MCP client where its user can log in (RFC 6750
    /// §3, RFC 9728 §5.1).
    pub(super) fn deny(denial: &Denial, scheme: Scheme, asked: &AccessRequest<'_>, state: &AppState) -> Self {
        let (status, error, scope) = match denial {
            // There is no challenge, because it would send the user to a consent page although consent cannot
            // change the result (RFC 6750 §3.1).
            Denial::Forbidden { reason } => {
                return Self::problem(StatusCode::FORBIDDEN, "access_denied", reason, Outcome::Forbidden);
            }
            Denial::Unauthenticated { scope } => (StatusCode::UNAUTHORIZED, None, scope),
            Denial::InvalidToken { reason, scope } => {
                (StatusCode::UNAUTHORIZED, Some(("invalid_token", *reason)), scope)
            }
            Denial::InsufficientScope { scope } => (
                StatusCode::FORBIDDEN,
                Some((
                    "insufficient_scope",
                    "the access token does not have a scope that this request needs",
                )),
                scope,
            ),
        };
        let metadata = asked.metadata_url(&state.config.site.protected_hosts);
        let challenge = challenge(scheme, error, &metadata, scope);
        let (code, reason) =
            error.unwrap_or(("unauthorized", "log in first: see resource_metadata in WWW-Authenticate"));
        let outcome = match denial {
            Denial::InsufficientScope { .. } => Outcome::InsufficientScope,
            _ => Outcome::Unauthenticated,
        };
        let mut answer = Self::problem(status, code, reason, outcome);
        answer.headers.push((WWW_AUTHENTICATE, value(&challenge)));
        answer
    }

    /// Denies a request without a valid proof of possession of the token's key. The status is 401 with the
    /// challenge of RFC 9449 §7.1, 429 if the account has sent too many proofs, or 503 if the proof cannot be checked.
    pub(super) fn unproven(
        unproven: &NotProven,
        resource: &ResourceUri,
        asked: &AccessRequest<'_>,
        state: &AppState,
    ) -> Self {
        if let NotProven::Proof(cause @ (ProofRefused::Store(_) | ProofRefused::Crypto(_))) = unproven {
            if let Some(left_out) = STORE_FAILED.admit() {
                tracing::error!(error = %cause, left_out, "a proof of possession could not be checked");
            }
            return Self::unavailable();
        }
        let (code, reason) = (unproven.code(), unproven.to_string());
        if let NotProven::Proof(ProofRefused::TooFast(seconds)) = unproven {
            let mut answer = Self::problem(StatusCode::TOO_MANY_REQUESTS, code, &reason, Outcome::Unproven);
            answer.headers.push((RETRY_AFTER, (*seconds).into()));
            return answer;
        }
        let metadata = asked.metadata_url(&state.config.site.protected_hosts);
        let policy = state.policy.now();
        let scope = policy.required_scope(resource);
        let challenge = challenge(Scheme::Dpop, Some((code, reason.as_str())), &metadata, scope);
        let mut answer = Self::problem(StatusCode::UNAUTHORIZED, code, &reason, Outcome::Unproven);
        answer.headers.push((WWW_AUTHENTICATE, value(&challenge)));
        if let Some(nonce) = unproven.nonce() {
            answer.headers.push((HeaderName::from_static("dpop-nonce"), value(nonce)));
        }
        answer
    }

    /// Refuses a check that cannot be decided. The status is never 200, and the body reveals no internals.
    pub(super) fn refuse(error: &CheckError) -> Self {
        let status = match error {
            CheckError::Store(cause) => {
                if let Some(left_out) = STORE_FAILED.admit() {
                    tracing::error!(error = %cause, left_out, "the store failed during a check");
                }
                return Self::unavailable();
            }
            CheckError::Undatable => return Self::unavailable(),
            CheckError::TooManyRequests(cause) => return Self::too_many_requests(*cause),
            CheckError::Untrusted(_) | CheckError::UnknownHost | CheckError::Origin => StatusCode::FORBIDDEN,
            CheckError::UnknownProxy => StatusCode::NOT_FOUND,
            CheckError::Method => StatusCode::METHOD_NOT_ALLOWED,
            CheckError::Missing(_)
            | CheckError::AmbiguousPath
            | CheckError::BadHost
            | CheckError::Scheme
            | CheckError::BadHeader(_)
            | CheckError::TooLong(_)
            | CheckError::ReservedHeader
            | CheckError::Rewritten => StatusCode::BAD_REQUEST,
        };
        let answer = Self::problem(status, "invalid_request", &error.to_string(), error.outcome());
        Self { refusal: Some(error.in_log()), ..answer }
    }

    fn too_many_requests(cause: TooManyRequests) -> Self {
        let (status, code) = (StatusCode::TOO_MANY_REQUESTS, "temporarily_unavailable");
        let mut answer = Self::problem(status, code, &cause.to_string(), Outcome::TooManyRequests);
        answer.headers.push((RETRY_AFTER, 1.into()));
        answer
    }

    pub(super) fn unavailable() -> Self {
        let mut answer = Self::problem(
            StatusCode::SERVICE_UNAVAILABLE,
            "temporarily_unavailable",
            "access cannot be checked at the moment; try again in a minute",
            Outcome::Unavailable,
        );
        answer.headers.push((RETRY_AFTER, UNAVAILABLE_FOR.into()));
        answer
    }

    fn problem(status: StatusCode, code: &str, description: &str, outcome: Outcome) -> Self {
        let headers = vec![NO_STORE.clone(), (CONTENT_TYPE, HeaderValue::from_static("application/json"))];
        let body = json!({ "error": code, "error_description": description }).to_string();
        Self { status, identity: None, headers, body: Some(body), outcome, refusal: None }
    }

    /// The identity headers. There are none if the request is denied.
    pub(super) fn identity_headers(&self) -> impl Iterator<Item = (&HeaderName, &HeaderValue)> {
        self.identity.iter().flat_map(|values| IDENTITY.iter().zip(values.iter()))
    }

    /// All headers of the response to a check over HTTP.
    pub(super) fn headers(&self) -> impl Iterator<Item = (&HeaderName, &HeaderValue)> {
        // A cache must never use the answer to one request for another request.
        let no_store = self.identity.as_ref().map(|_| &NO_STORE);
        let own = no_store.into_iter().chain(&self.headers).map(|(name, value)| (name, value));
        self.identity_headers().chain(own)
    }

    /// Builds the response for a proxy that sends status, headers and body of a denial to the client.
    pub(super) fn into_response(mut self) -> HttpResponse {
        let mut response = match self.body.take() {
            Some(body) => HttpResponse::with_body(self.status, BoxBody::new(body)),
            None => HttpResponse::new(self.status),
        };
        let headers = response.headers_mut();
        self.headers().for_each(|(name, value)| drop(headers.insert(name.clone(), value.clone())));
        if self.outcome == Outcome::Untrusted {
            // Otherwise, whoever is not the edge could send thousands of further checks on the same connection, and checks
            // of the edge would wait for their refusals.
            response.head_mut().set_connection_type(ConnectionType::Close);
        }
        response
    }

    /// Adapts the answer to nginx, which turns any status except 2xx, 401 and 403 into 500, and drops the body.
    pub(super) fn in_words_of_nginx(mut self) -> Self {
        if !matches!(self.status, StatusCode::OK | StatusCode::UNAUTHORIZED) {
            self.status = StatusCode::FORBIDDEN;
        }
        self
    }

    /// Adapts the answer to a proxy that allows a request on any 2xx. The answer 204 to a preflight would send the
    /// request to the service. It occurs here only if the edge routes preflights incorrectly.
    pub(super) fn in_words_of_traefik_and_caddy(self) -> Self {
        if self.status.is_success() && self.status != StatusCode::OK {
            return Self::problem(
                StatusCode::FORBIDDEN,
                "invalid_request",
                "the edge must route OPTIONS to PUBLIC_LISTEN; see docs/forward-auth.md",
                self.outcome,
            );
        }
        self
    }
}

/// Builds the challenge. It contains an error code only if the request has credentials (RFC 6750 §3.1). With the
/// scheme DPoP, it lists the algorithms that proofs can use (RFC 9449 §7.1).
fn challenge(scheme: Scheme, error: Option<(&str, &str)>, metadata: &str, scope: &Scope) -> String {
    let problem = error
        .map(|(code, reason)| format!("error=\"{code}\", error_description=\"{reason}\", "))
        .unwrap_or_default();
    let rest = format!("resource_metadata=\"{metadata}\", scope=\"{scope}\"");
    match scheme {
        Scheme::Bearer => format!("Bearer {problem}{rest}"),
        Scheme::Dpop => format!("DPoP {problem}algs=\"{}\", {rest}", ALGORITHMS.join(" ")),
    }
}

/// Makes a header value from `text`, which must be printable ASCII.
pub(super) fn value(text: &str) -> HeaderValue {
    // The conversion cannot fail for printable ASCII. If it did fail, the header would be empty.
    HeaderValue::try_from(text).unwrap_or_else(|_| HeaderValue::from_static(""))
}

/// Percent-encodes `%` and all bytes that are not printable ASCII, so that a header value is one unambiguous line.
fn one_line(text: &str) -> String {
    let mut line = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b' '..=b'~' if byte != b'%' => line.push(char::from(byte)),
            other => {
                line.push('%');
                for nibble in [other >> 4, other & 15] {
                    line.extend(
                        char::from_digit(u32::from(nibble), 16).map(|digit| digit.to_ascii_uppercase()),
                    );
                }
            }
        }
    }
    line
}

#[cfg(test)]
impl Answer {
    /// An answer with this status and nothing else.
    pub(super) fn bare(status: StatusCode) -> Self {
        Self {
            status,
            identity: None,
            headers: vec![],
            body: None,
            outcome: Outcome::Malformed,
            refusal: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a087_a_header_value_stays_one_line() {
        assert_eq!(one_line("a b\r\nX-Auth-Groups: admin"), "a b%0D%0AX-Auth-Groups: admin");
        assert_eq!(one_line("100% é"), "100%25 %C3%A9");
        assert_eq!(one_line(""), "");
    }

    #[test]
    fn a_challenge_is_in_the_scheme_that_was_used() {
        let scope: Scope = "mcp".parse().unwrap();
        let lacking = Some(("insufficient_scope", "more"));
        assert_eq!(
            challenge(Scheme::Bearer, lacking, "https://a/m", &scope),
            "Bearer error=\"insufficient_scope\", error_description=\"more\", resource_metadata=\"https://a/m\", scope=\"mcp\""
        );
        let proving = challenge(Scheme::Dpop, lacking, "https://a/m", &scope);
        assert!(
            proving
                .starts_with("DPoP error=\"insufficient_scope\", error_description=\"more\", algs=\"EdDSA ")
        );
        assert!(proving.ends_with("\", resource_metadata=\"https://a/m\", scope=\"mcp\""), "{proving}");
        assert_eq!(
            challenge(Scheme::Bearer, None, "https://a/m", &scope),
            "Bearer resource_metadata=\"https://a/m\", scope=\"mcp\""
        );
    }

    #[test]
    fn nginx_hears_200_401_and_403_only() {
        for status in 100..600_u16 {
            let status = StatusCode::from_u16(status).unwrap();
            let answer = Answer::bare(status).in_words_of_nginx();
            assert!([200, 401, 403].contains(&answer.status.as_u16()));
            assert_eq!(answer.status == 200, status == 200);
        }
    }

    #[test]
    fn a081_no_success_but_200_reaches_a_proxy_that_passes_on_any() {
        for status in 200..300_u16 {
            let status = StatusCode::from_u16(status).unwrap();
            let answer = Answer::bare(status);
            assert_eq!(answer.in_words_of_traefik_and_caddy().status.is_success(), status == 200);
        }
    }
}
