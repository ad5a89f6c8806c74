//! The errors of the consent page, and how the user can continue after each of them.

use actix_web::http::StatusCode;

use crate::clients::UnknownClient;
use crate::clients::documents::{DocumentError, RETRY_AFTER_SECONDS};
use crate::domain::clock::RandomUnavailable;
use crate::guard::keyed_rate::TooFast;
use crate::identity::form_token::BadFormToken;
use crate::keys::seal::CryptoFailure;
use crate::oauth::after_form::Message;
use crate::oauth::params::BadParams;
use crate::pages::Link;
use crate::store::StoreError;

/// Why the consent page cannot be shown, or why the user's decision is not accepted.
#[derive(Debug, thiserror::Error)]
pub enum ConsentError {
    /// The parameters of the form are malformed.
    #[error(
        "Your answer was not accepted, because the form that was sent is broken: {0}. An earlier answer of yours is still valid."
    )]
    Params(#[from] BadParams),
    /// The user is no longer logged in.
    #[error(
        "Your answer was not accepted, because you are no longer signed in. An earlier answer of yours is still valid: if the application is connected, you can close this page."
    )]
    NoSession,
    /// The form token is not valid; see [`BadFormToken`].
    #[error(
        "Your answer was not accepted, because {0}. An earlier answer of yours is still valid: if the application is connected, you can close this page."
    )]
    FormToken(#[from] BadFormToken),
    /// A page is needed, but the client sent `prompt=none`.
    #[error("The application asked that no page be shown, and its request cannot be answered without one.")]
    PageRequired,
    /// The user has already answered this request.
    #[error(
        "You have already answered this question, and the application has received your first answer, which is still valid. If the application is connected and should be, you can close this page. If it should not be connected, disconnect it in the application."
    )]
    AnsweredBefore,
    /// The client or its redirect URI has been removed.
    #[error("The application was removed while this page was open. Connect it again.")]
    ClientGone,
    /// The client's metadata has changed since the page was shown.
    #[error("Your answer was not accepted, because the application has changed while this page was open.")]
    ClientChanged,
    /// The policy does not allow the user to access the requested resources.
    #[error(
        "This account is not allowed to use what the application requested. Ask the operator of this server."
    )]
    Barred,
    /// The form contains neither `allow` nor `deny`.
    #[error("Your answer was not accepted, because the form that was sent contains no answer.")]
    NoDecision,
    /// Too many codes were issued for the account.
    #[error("This account has connected applications too often in a short time. Try again in a minute.")]
    TooFast(TooFast),
    /// The user or the client has exceeded its own limit on fetches of the client's metadata document.
    #[error(
        "The application's description was fetched too often for it or for your network. Try again in ten seconds."
    )]
    FetchedTooFast,
    /// The store has lost data.
    #[error(
        "This service cannot be used until its operator has repaired it. Tell the operator. Afterwards, go back to the application and connect it again."
    )]
    NeedsOperator,
    /// The server failed, or the client's metadata document is not available at the moment.
    #[error("The service cannot be used at the moment. Try again in a minute.")]
    Unavailable,
}

impl From<StoreError> for ConsentError {
    fn from(error: StoreError) -> Self {
        tracing::error!(%error, "the store failed during consent");
        match error {
            StoreError::NeedsOperator(_) => Self::NeedsOperator,
            StoreError::Unavailable(_) | StoreError::Unreadable => Self::Unavailable,
        }
    }
}

impl From<UnknownClient> for ConsentError {
    fn from(error: UnknownClient) -> Self {
        match error {
            UnknownClient::Store(error) => error.into(),
            UnknownClient::Away(DocumentError::TooFast) => Self::FetchedTooFast,
            UnknownClient::Away(_) | UnknownClient::Random(_) => Self::Unavailable,
            UnknownClient::Unregistered | UnknownClient::Disabled | UnknownClient::Document(_) => {
                Self::ClientGone
            }
        }
    }
}

impl From<CryptoFailure> for ConsentError {
    fn from(_: CryptoFailure) -> Self {
        Self::Unavailable
    }
}

impl From<RandomUnavailable> for ConsentError {
    fn from(_: RandomUnavailable) -> Self {
        Self::Unavailable
    }
}

/// How the user can continue, if the error message does not state it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Help {
    /// The user can answer the same request again. If the consent page cannot be shown again, the client must
    /// start over.
    AskAgain,
    /// The user can answer again, but this is useful only if the application is not connected.
    IfNotConnected,
    /// The user cannot continue on this page.
    None,
}

impl ConsentError {
    fn status(&self) -> StatusCode {
        match self {
            Self::Params(_)
            | Self::NoSession
            | Self::FormToken(_)
            | Self::NoDecision
            | Self::PageRequired
            | Self::ClientGone
            | Self::ClientChanged => StatusCode::BAD_REQUEST,
            Self::AnsweredBefore => StatusCode::CONFLICT,
            Self::Barred => StatusCode::FORBIDDEN,
            Self::TooFast(_) | Self::FetchedTooFast => StatusCode::TOO_MANY_REQUESTS,
            Self::NeedsOperator | Self::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    fn title_and_help(&self) -> (&'static str, Help) {
        match self {
            Self::NoSession => ("Sign in again", Help::AskAgain),
            Self::Params(_) | Self::FormToken(_) | Self::NoDecision => {
                ("Please answer again", Help::AskAgain)
            }
            Self::ClientChanged => ("The application has changed", Help::AskAgain),
            Self::AnsweredBefore => ("You have already answered", Help::IfNotConnected),
            Self::Unavailable | Self::TooFast(_) | Self::FetchedTooFast => {
                ("This did not work", Help::AskAgain)
            }
            Self::NeedsOperator => ("This did not work", Help::None),
            Self::PageRequired | Self::ClientGone | Self::Barred => ("This cannot be allowed", Help::None),
        }
    }

    /// Seconds until a new attempt can succeed, if known. An error with a known delay is returned as the response
    /// to the form, so that the browser can send the form again.
    pub(super) fn retry_after(&self) -> Option<u64> {
        match self {
            Self::TooFast(limit) => Some(limit.retry_after_seconds),
            Self::FetchedTooFast => Some(RETRY_AFTER_SECONDS),
            _ => None,
        }
    }

    /// Builds the message for the user. `question` is the URL of a new consent page, if there is one.
    pub(super) fn message(&self, question: Option<&str>) -> Message {
        let (title, help) = self.title_and_help();
        let link = match help {
            Help::AskAgain => Some("Show the question again"),
            Help::IfNotConnected => Some("It is not connected: ask again"),
            Help::None => None,
        };
        let way_on = link.zip(question).map(|(text, url)| Link { text, url });
        let mut text = self.to_string();
        if way_on.is_none() && help != Help::None {
            text.push_str(" Otherwise go back to the application and connect it again.");
        }
        Message::new(self.status(), title, text, way_on)
    }
}
