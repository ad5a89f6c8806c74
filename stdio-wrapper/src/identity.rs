//! Who is calling: nobody in particular, whom the edge's headers name, or whom a signed assertion names. Whatever is
//! missing, doubled or wrong is a refusal, never an anonymous caller.

mod assertion;
mod headers;
mod jwks;

use std::sync::Arc;

use crate::config;
use crate::policy::UnmetRules;

pub use assertion::{Claims, Verifier};
pub use jwks::{Fetch, FetchError, Jwks, http_fetch};

/// Seconds since 1970, from outside, so that every expiry can be tested.
pub type Clock = Arc<dyn Fn() -> u64 + Send + Sync>;

/// A verified caller.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Caller {
    /// `sub`; empty only if nobody is told apart.
    pub subject: String,
    /// Name for people.
    pub username: String,
    /// The OAuth client.
    pub client_id: String,
    /// Groups of the subject.
    pub groups: Vec<String>,
    /// Granted scopes.
    pub scopes: Vec<String>,
    /// What the authorization service leaves to us to refuse. Only an assertion can say it.
    pub unmet_rules: UnmetRules,
    /// When the access token that the caller came with expires, in seconds since 1970.
    pub token_expires: Option<u64>,
}

impl Caller {
    /// Who has what is held, counted and remembered: the subject by way of this client.
    pub fn owner(&self) -> String {
        // No header value holds a line break, so the two parts cannot run into each other.
        format!("{}\n{}", self.subject, self.client_id)
    }

    /// Whether this caller may use a session of that owner: its user may (attack 108), by way of any client. A client that asks for
    /// more rights may register anew for that, and goes on in its session as another one.
    pub fn is_user_of(&self, owner: &str) -> bool {
        owner.split_once('\n').is_some_and(|(subject, _)| subject == self.subject)
    }
}

/// Why a caller is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// No identity where one is needed.
    #[error("The request names no caller: {0} is missing. It must come through the edge proxy.")]
    Missing(&'static str),
    /// The same header twice.
    #[error("The request has the header {0} more than once.")]
    Doubled(&'static str),
    /// A signature, time or name is wrong.
    #[error("The caller's assertion was refused: {0}.")]
    Invalid(&'static str),
    /// The keys cannot be had, so nothing can be checked.
    #[error(
        "The caller cannot be checked now, because the authorization service's keys are not available. Try again in a moment."
    )]
    Unavailable,
}

/// One header of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Header<'a> {
    /// Not there.
    Absent,
    /// Once, as text.
    One(&'a str),
    /// More than once, or not text.
    Ambiguous,
}

/// Finds out who calls.
#[derive(Debug)]
pub enum Authenticator {
    /// Nobody is told apart.
    None,
    /// `X-Auth-*`.
    Headers,
    /// `X-Auth-Assertion`.
    Assertion(Box<Verifier>),
}

impl Authenticator {
    /// The configured way.
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

    /// The caller of a request, by its headers.
    pub async fn caller<'h>(
        &self,
        header: &dyn Fn(&'static str) -> Header<'h>,
    ) -> Result<Arc<Caller>, Refused> {
        match self {
            Self::None => Ok(Arc::default()),
            Self::Headers => headers::read(header).map(Arc::new),
            Self::Assertion(verifier) => {
                let token = headers::required(header, "X-Auth-Assertion")?;
                verifier.verify(token).await
            }
        }
    }

    /// Whether callers can be checked now.
    pub async fn is_ready(&self) -> bool {
        match self {
            Self::Assertion(verifier) => verifier.is_ready().await,
            Self::None | Self::Headers => true,
        }
    }
}
