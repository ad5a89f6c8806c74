//! The consent page and its answer.

use actix_web::http::StatusCode;
use actix_web::{HttpRequest, HttpResponse, web};
use serde::{Deserialize, Serialize};

use crate::clients::UnknownClient;
use crate::domain::account::{Account, LoginSession, Subject};
use crate::domain::client::Client;
use crate::domain::clock::RandomUnavailable;
use crate::domain::consent::Consent;
use crate::domain::grant::{AuthorizationCode, GrantId};
use crate::domain::opaque_token::{TokenHash, TokenKind};
use crate::domain::resource::ResourceUri;
use crate::domain::scope::{Scope, ScopeToken};
use crate::identity::ticket::{BadTicket, Form};
use crate::keys::seal::CryptoFailure;
use crate::ops::audit;
use crate::pages::{BarredPage, ConsentPage, FormTarget, MessagePage, displayable, page};
use crate::state::AppState;
use crate::store::StoreError;

use super::authorize::{AuthorizationRefusal, AuthorizationRequest, refuse, see_other};
use super::params::{BadParams, Params};
use super::session;

/// What the ticket in the form holds: everything that the person was shown. The grant's identifier is fixed
/// when the page is made, so that one page makes one grant at most.
#[derive(Serialize, Deserialize)]
struct Asked {
    grant_id: GrantId,
    subject: Subject,
    request: AuthorizationRequest,
    pushed: Option<TokenHash>,
}

/// A request that was pushed, and the one grant that it makes.
pub(super) struct Pushed {
    pub(super) handle: TokenHash,
    pub(super) grant_id: GrantId,
}

/// Why the page cannot be made, or its answer not be taken.
#[derive(Debug, thiserror::Error)]
pub enum ConsentError {
    /// The form is broken.
    #[error("The form that was sent is broken: {0}.")]
    Params(#[from] BadParams),
    /// Nobody is logged in here any more.
    #[error("You are not signed in any more. Go back to the application and connect again.")]
    NoSession,
    /// See [`BadTicket`].
    #[error("This page cannot be used: {0}. Go back to the application and connect again.")]
    Ticket(#[from] BadTicket),
    /// A second answer to one question.
    #[error(
        "This page was answered already. Go back to the application; if it is not connected, connect again."
    )]
    AnsweredBefore,
    /// The client or its redirect URI is gone.
    #[error("The application was removed while this page was open. Connect it again.")]
    ClientGone,
    /// The rules do not let the person use what was asked for.
    #[error("This account may not use what the application asked for. Ask whoever runs this server.")]
    Barred,
    /// Neither allow nor deny.
    #[error("The form that was sent has no answer in it.")]
    NoDecision,
    /// Ours to mend.
    #[error("The service cannot be used at the moment. Try again in a minute.")]
    Unavailable,
}

impl From<StoreError> for ConsentError {
    fn from(error: StoreError) -> Self {
        tracing::error!(%error, "the store failed during consent");
        Self::Unavailable
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

impl ConsentError {
    fn response(&self) -> HttpResponse {
        let status = match self {
            Self::Params(_) | Self::NoSession | Self::Ticket(_) | Self::NoDecision | Self::ClientGone => {
                StatusCode::BAD_REQUEST
            }
            Self::AnsweredBefore => StatusCode::CONFLICT,
            Self::Barred => StatusCode::FORBIDDEN,
            Self::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        };
        page(
            status,
            &MessagePage { title: "Nothing was allowed", text: &self.to_string(), code: None },
            FormTarget::Ourselves,
        )
    }
}

/// Shows what the client asks for, and which part of it is new. When the person has allowed the same client all of it
/// before, and the answer goes where nobody else can be, there is nothing to ask.
pub(super) async fn ask(
    state: &AppState,
    client: Client,
    request: AuthorizationRequest,
    pushed: Option<Pushed>,
    session: &LoginSession,
    account: &Account,
) -> Result<HttpResponse, ConsentError> {
    let barred = barred(account, &request.resources, state);
    let known = known(state, &client, session).await?;
    let covered = known.as_ref().is_some_and(|consent| consent.covers(&request.scope, &request.resources));
    let (grant_id, pushed) = match pushed {
        Some(pushed) => (pushed.grant_id, Some(pushed.handle)),
        None => (GrantId::new(state.random_bytes()?), None),
    };
    let asked = Asked { grant_id, subject: session.subject.clone(), request, pushed };
    // Any program on the person's machine can answer at a loopback address, so there every request is shown (RFC 8252
    // §8.6).
    if covered && barred.is_empty() && !asked.request.redirect_uri.is_local() {
        let (subject, client_id, scope) = (&asked.subject, &client.id, &asked.request.scope);
        audit::Event::ConsentRemembered { subject, client_id, scope }.emit();
        return approve(state, asked, session, client).await;
    }
    let ticket = state.tickets.issue(
        Form::Consent,
        session.id,
        state.now().plus(state.config.lifetimes.form),
        &asked,
    )?;
    let request = &asked.request;
    let target = FormTarget::Client(&request.redirect_uri);
    if !barred.is_empty() {
        audit::Event::Barred { subject: &asked.subject, client_id: &client.id }.emit();
        let template = BarredPage {
            action: &state.config.site.issuer.endpoint("/consent"),
            ticket: &ticket,
            username: account.username.as_str(),
            resources: &barred,
        };
        return Ok(page(StatusCode::FORBIDDEN, &template, target));
    }
    let allowed = known.map(|consent| consent.known(&request.scope, &request.resources)).unwrap_or_default();
    let resources: Vec<String> = request.resources.iter().map(ToString::to_string).collect();
    let template = ConsentPage {
        action: &state.config.site.issuer.endpoint("/consent"),
        ticket: &ticket,
        username: account.username.as_str(),
        client_name: &displayable(client.metadata.display.client_name.as_deref().unwrap_or_default()),
        redirect_host: &request.redirect_uri.display_host(),
        loopback: request.redirect_uri.is_local(),
        resources: &resources,
        scopes: &scope_lines(&request.scope.beyond(&allowed), state),
        known_scopes: &scope_lines(&allowed, state),
    };
    Ok(page(StatusCode::OK, &template, target))
}

/// The resources that the rules do not let this person use at all. Whoever allows a client to use one would get a token
/// that opens nothing, and never learn why.
pub(super) fn barred(account: &Account, resources: &[ResourceUri], state: &AppState) -> Vec<String> {
    let policy = state.policy.now();
    let closed = |resource: &&ResourceUri| !policy.admits(account.into(), resource);
    resources.iter().filter(closed).map(ToString::to_string).collect()
}

/// What the person has allowed this client, as it is registered now.
async fn known(
    state: &AppState,
    client: &Client,
    session: &LoginSession,
) -> Result<Option<Consent>, StoreError> {
    if !state.config.grants.remember_consent {
        return Ok(None);
    }
    let known = state.store.consent(&session.subject, &client.id, state.now()).await?;
    Ok(known.filter(|consent| consent.is_to(client)))
}

/// Scopes as a person reads them.
pub(super) fn scope_lines(scope: &Scope, state: &AppState) -> Vec<String> {
    let policy = state.policy.now();
    let line = |token: &ScopeToken| match (token.as_str(), policy.description(token)) {
        (name, Some(words)) => format!("{name}: {words}"),
        ("offline_access", None) => "offline_access: to stay connected when you are away".to_owned(),
        (name, None) => name.to_owned(),
    };
    scope.tokens().map(line).collect()
}

/// `POST /consent`: allow or deny.
pub async fn decide(http: HttpRequest, body: web::Bytes, state: web::Data<AppState>) -> HttpResponse {
    match answer(&http, &body, &state).await {
        Ok(response) => response,
        Err(error) => error.response(),
    }
}

async fn answer(http: &HttpRequest, body: &[u8], state: &AppState) -> Result<HttpResponse, ConsentError> {
    let params = Params::of_form(http, body)?;
    let now = state.now();
    let (session, account) = session::of(http, state).await?.ok_or(ConsentError::NoSession)?;
    let ticket = params.one("ticket")?.unwrap_or_default();
    let asked: Asked = state.tickets.read(Form::Consent, session.id, now, ticket)?;
    let request = &asked.request;
    if asked.subject != session.subject {
        return Err(BadTicket::Foreign.into());
    }
    // The page may have been open for a while: both must still be there.
    let client = match state.clients.find(&request.client_id, now).await {
        Ok(client) if client.allows_redirect(&request.redirect_uri) => client,
        Err(UnknownClient::Store(error)) => return Err(error.into()),
        _ => return Err(ConsentError::ClientGone),
    };
    match params.one("decision")? {
        Some("allow") if !barred(&account, &request.resources, state).is_empty() => Err(ConsentError::Barred),
        Some("allow") => approve(state, asked, &session, client).await,
        Some("deny") => {
            if let Some(handle) = &asked.pushed {
                state.store.forget_pushed_request(handle).await?;
            }
            Ok(refuse(state, &request.redirect_uri, request.state.as_deref(), &AuthorizationRefusal::Denied))
        }
        _ => Err(ConsentError::NoDecision),
    }
}

async fn approve(
    state: &AppState,
    asked: Asked,
    session: &LoginSession,
    client: Client,
) -> Result<HttpResponse, ConsentError> {
    let request = asked.request;
    let token = state.new_token(TokenKind::AuthorizationCode)?;
    let used = state.client_use(client);
    let code = AuthorizationCode {
        grant_id: asked.grant_id,
        client_id: request.client_id,
        registration: used.client.registration.clone(),
        redirect_uri: request.redirect_uri,
        challenge: request.challenge,
        bound_to: request.bound_to,
        resources: request.resources,
        scope: request.scope,
        subject: asked.subject,
        authenticated_at: session.authenticated_at,
        expires_at: used.at.plus(state.config.lifetimes.code),
    };
    if !state.store.add_code(code.grant_id.as_str(), &token.hash(), &code, &used).await? {
        return Err(ConsentError::AnsweredBefore);
    }
    if let Some(handle) = &asked.pushed {
        state.store.forget_pushed_request(handle).await?;
    }
    if state.config.grants.remember_consent {
        let until = used.at.plus(state.config.lifetimes.refresh_token);
        let what = (&code.scope, code.resources.as_slice());
        state.store.add_consent(&code.subject, &used.client, what, used.at, until).await?;
    }
    audit::Event::ConsentGiven { subject: &code.subject, client_id: &code.client_id, scope: &code.scope }
        .emit();
    let mut pairs = vec![("code", token.expose())];
    pairs.extend(request.state.as_deref().map(|value| ("state", value)));
    pairs.push(("iss", state.config.site.issuer.as_str()));
    Ok(see_other(&code.redirect_uri.with_query(&pairs)))
}
