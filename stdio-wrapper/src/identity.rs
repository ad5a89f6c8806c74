//! Identifies callers. Depending on `IDENTITY`, callers are not distinguished, or are identified by the edge's
//! headers or by a signed assertion. Anything missing, repeated or invalid is refused, and never results in an
//! anonymous caller.

mod assertion;
mod headers;
mod jwks;

use std::sync::Arc;

use crate::config;
use crate::policy::UnmetRules;

pub use assertion::Verifier;
pub use jwks::{Fetch, FetchError, Jwks, http_fetch};

/// Returns the seconds since 1970. It is a parameter, so that every expiry can be tested.
pub type Clock = Arc<dyn Fn() -> u64 + Send + Sync>;

/// A caller whose identity has been verified.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Caller {
    /// The `sub`. Empty only if callers are not distinguished.
    pub subject: String,
    /// The login name of the user.
    pub username: String,
    /// The `client_id` of the OAuth client.
    pub client_id: String,
    /// The groups of the subject.
    pub groups: Vec<String>,
    /// The scopes of the access token.
    pub scopes: Vec<String>,
    /// The rules that the caller does not meet. The wrapper enforces them on behalf of the authorization
    /// service. Only an assertion can contain them.
    pub unmet_rules: UnmetRules,
    /// The expiry of the caller's access token, in seconds since 1970.
    pub token_expires: Option<u64>,
}

impl Caller {
    /// The name of the principal for whom sessions, memory and requests are counted: the subject together with
    /// the client.
    pub fn owner(&self) -> String {
        // A header value cannot contain a line break, so the two parts are unambiguous.
        format!("{}\n{}", self.subject, self.client_id)
    }

    /// Whether this caller can use a session of `owner`. Every client of the same user can (attack 108),
    /// because a client that needs more rights might register again and continue its session as a different
    /// client.
    pub fn is_user_of(&self, owner: &str) -> bool {
        owner.split_once('\n').is_some_and(|(subject, _)| subject == self.subject)
    }
}

/// Why a caller is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// The request has no identity.
    #[error("The request does not identify a caller: {0} is missing. It must come through the edge proxy.")]
    Missing(&'static str),
    /// The same header occurs more than once.
    #[error("The request has the header {0} more than once.")]
    Doubled(&'static str),
    /// The header is not text.
    #[error("The header {0} of the request has a byte that is not ASCII, so it cannot be read reliably.")]
    NotText(&'static str),
    /// The signature, a time or a claim in the assertion is wrong.
    #[error("The caller's assertion was refused: {0}.")]
    Invalid(&'static str),
    /// According to this server's clock, the assertion was issued in the future. The value is the difference in
    /// seconds.
    #[error(
        "The caller's assertion was refused: according to this server's clock, it was issued {0} s in the future. The clocks of this server and of the authorization service differ. Their operator must set both, for example with NTP."
    )]
    Early(u64),
    /// The assertion has expired. The value is its age according to this server's clock, in seconds.
    #[error(
        "The caller's assertion was refused: it has expired, because according to this server's clock, it was issued {0} s ago. If the request is new, the clocks of this server and of the authorization service differ. Their operator must set both, for example with NTP."
    )]
    Late(u64),
    /// No keys are available, so no assertion can be verified.
    #[error(
        "The caller cannot be verified now, because the authorization service's keys are not available. Try again in a moment."
    )]
    Unavailable,
}

/// A header of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Header<'a> {
    /// The header is missing.
    Absent,
    /// The header occurs once, and is text.
    One(&'a str),
    /// The header occurs more than once.
    Repeated,
    /// The header occurs once, and contains a byte that is not ASCII. Parsers interpret such a byte differently
    /// (RFC 9110 §5.5).
    NotText,
}

impl Header<'_> {
    /// Describes what is wrong with a header that cannot be used.
    pub fn fault(&self, name: &str) -> Option<String> {
        match self {
            Self::Absent | Self::One(_) => None,
            Self::Repeated => Some(format!("There must be exactly one {name} header.")),
            Self::NotText => Some(format!("The {name} header has a byte that is not ASCII.")),
        }
    }
}

/// Identifies the callers of requests.
#[derive(Debug)]
pub enum Authenticator {
    /// Callers are not distinguished.
    None,
    /// Callers are identified by the `X-Auth-*` headers.
    Headers,
    /// Callers are identified by `X-Auth-Assertion`.
    Assertion(Box<Verifier>),
}

impl Authenticator {
    /// Creates an authenticator from the settings.
    pub fn new(identity: &config::Identity, fetch: Fetch, clock: Clock) -> Self {
        match identity {
            config::Identity::None => Self::None,
            config::Identity::Headers => Self::Headers,
            config::Identity::Assertion { issuer, resource, .. } => Self::Assertion(Box::new(Verifier::new(
                issuer.clone(),
                resource.clone(),
                Jwks::new(fetch),
                clock,
            ))),
        }
    }

    /// Identifies the caller of a request by its headers.
    pub async fn caller<'h>(
        &self,
        header: &dyn Fn(&'static str) -> Header<'h>,
    ) -> Result<Arc<Caller>, Refused> {
        match self {
            Self::None => Ok(Arc::default()),
            Self::Headers => headers::read(header).map(Arc::new),
            Self::Assertion(verifier) => {
                let token = headers::required(header, contract::headers::ASSERTION)?;
                verifier.verify(token).await
            }
        }
    }

    /// Whether callers can be identified now.
    pub async fn is_ready(&self) -> bool {
        match self {
            Self::Assertion(verifier) => verifier.is_ready().await,
            Self::None | Self::Headers => true,
        }
    }
}
