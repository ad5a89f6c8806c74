//! Checks a user name and password, and limits the work that strangers can cause with attempts.

use std::net::IpAddr;

use actix_web::HttpRequest;
use actix_web::http::StatusCode;
use secrecy::{ExposeSecret, SecretString};

use crate::domain::account::{Account, Username};
use crate::domain::opaque_token::TokenHash;
use crate::guard::client_address;
use crate::guard::login_rate::{Admission, Browser, TooManyAttempts};
use crate::identity::cookies::device;
use crate::identity::form_token::Form;
use crate::identity::password::{HashingError, Queue, RETRY_AFTER_SECONDS};
use crate::state::AppState;
use crate::store::StoreError;

/// Why an attempt to log in did not succeed.
#[derive(Debug, thiserror::Error)]
pub(super) enum NotProven {
    /// The name or the password is wrong. The message is the same for both, so that it does not reveal which names
    /// exist.
    #[error("The user name or the password is wrong.")]
    Wrong,
    /// There were too many attempts from one address or for one name. The value is the delay in seconds.
    #[error("There were too many attempts. Wait a minute, then try again.")]
    TooFast(u64),
    /// Too many attempts from one network are waiting.
    #[error(
        "Many people are signing in from your network at the moment. Wait a few seconds, then send the form again."
    )]
    Crowded,
    /// Too many attempts of all networks together are waiting.
    #[error("Many people are signing in at the moment. Wait a few seconds, then send the form again.")]
    Busy,
    /// The account could not be read from the store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The password could not be hashed or verified.
    #[error(transparent)]
    Hashing(HashingError),
}

impl From<HashingError> for NotProven {
    fn from(error: HashingError) -> Self {
        match error {
            HashingError::Busy => Self::Busy,
            HashingError::Failed => Self::Hashing(error),
        }
    }
}

impl From<TooManyAttempts> for NotProven {
    fn from(refused: TooManyAttempts) -> Self {
        match refused {
            TooManyAttempts::TooFast(too_fast) => Self::TooFast(too_fast.retry_after_seconds),
            TooManyAttempts::AtOnce(_) => Self::Crowded,
        }
    }
}

impl NotProven {
    /// The status of the form when it is shown again, and the number of seconds to wait before it is sent again,
    /// if any. It is `None` if the server has failed.
    pub(super) const fn again(&self) -> Option<(StatusCode, Option<u64>)> {
        match self {
            Self::Wrong => Some((StatusCode::FORBIDDEN, None)),
            Self::TooFast(seconds) => Some((StatusCode::TOO_MANY_REQUESTS, Some(*seconds))),
            Self::Crowded => Some((StatusCode::TOO_MANY_REQUESTS, Some(RETRY_AFTER_SECONDS))),
            Self::Busy => Some((StatusCode::SERVICE_UNAVAILABLE, Some(RETRY_AFTER_SECONDS))),
            Self::Store(_) | Self::Hashing(_) => None,
        }
    }
}

/// Returns the account with this name, if the password is correct.
pub(super) async fn account_of(
    http: &HttpRequest,
    state: &AppState,
    name: &str,
    password: SecretString,
) -> Result<Account, NotProven> {
    let Ok(name) = Username::try_from(name.to_owned()) else {
        // No account can have the submitted string as its name, and this is not a secret. The attempt counts against
        // its address. The response is delayed as long as a hash would take, but no hash is computed.
        let _admission = admit(http, state, None)?;
        state.passwords.pretend().await;
        return Err(NotProven::Wrong);
    };
    let (queue, admission) = admit(http, state, Some(&name))?;
    let account = state.store.account_named(&name).await?.filter(Account::may_log_in);
    let phc = account.as_ref().map(|account| account.password.phc.clone());
    // A one-time password contains no spaces, but copying it from a terminal or a message often adds some around
    // it.
    let password = match &account {
        Some(account) if account.password.one_time => password.expose_secret().trim().to_owned().into(),
        _ => password,
    };
    let proven = state.passwords.verify(phc, password, queue).await?;
    let account = account.filter(|_| proven).ok_or(NotProven::Wrong)?;
    state.login_rate.succeeded(admission);
    state.known_networks.note(&account.subject, address_of(http, state));
    Ok(account)
}

/// Verifies the password of an account with the same limits as a login. The attempt counts as a guess unless the
/// caller passes the returned value to [`crate::guard::login_rate::LoginRate::succeeded`].
pub(super) async fn prove(
    http: &HttpRequest,
    state: &AppState,
    account: &Account,
    password: SecretString,
) -> Result<Admission, NotProven> {
    let (queue, admission) = admit(http, state, Some(&account.username))?;
    let phc = Some(account.password.phc.clone());
    let proven = state.passwords.verify(phc, password, queue).await?;
    if proven { Ok(admission) } else { Err(NotProven::Wrong) }
}

/// Counts an attempt against the limits on guessing, and returns the queue in which it waits for its hash.
fn admit(
    http: &HttpRequest,
    state: &AppState,
    name: Option<&Username>,
) -> Result<(Queue, Admission), NotProven> {
    let browser = name.map_or(Browser::Stranger, |name| browser(http, state, name));
    let queue = match browser {
        Browser::KnownDevice => Queue::Known,
        Browser::Stranger => Queue::Strangers,
    };
    Ok((queue, state.login_rate.admit(name, address_of(http, state), browser)?))
}

/// The address from which an attempt comes. It is `None` if the peer of the connection is unknown.
pub(super) fn address_of(http: &HttpRequest, state: &AppState) -> Option<IpAddr> {
    client_address::of(http, |address| state.config.trusted_edge.is_known(address))
}

/// Whether this browser has already been used to log in to the account with this name.
fn browser(http: &HttpRequest, state: &AppState, name: &Username) -> Browser {
    let bound_to = TokenHash::of(name.as_str().as_bytes());
    let form_token = device::read(http, &state.config.site.issuer);
    let known = form_token.is_some_and(|form_token| {
        state.form_tokens.read::<()>(Form::Device, bound_to, state.now(), &form_token).is_ok()
    });
    if known { Browser::KnownDevice } else { Browser::Stranger }
}
