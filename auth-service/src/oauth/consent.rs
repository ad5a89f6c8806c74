//! The consent page, and the user's decision to allow or deny.

mod error;

use actix_web::http::StatusCode;
use actix_web::{HttpRequest, HttpResponse, web};
use serde::{Deserialize, Serialize};

use crate::clients::fetch_rate::Caller;
use crate::domain::account::{Account, LoginSession, Subject};
use crate::domain::client::Client;
use crate::domain::consent::{Approval, Consent};
use crate::domain::grant::AuthorizationCode;
use crate::domain::grant_id::GrantId;
use crate::domain::opaque_token::{TokenHash, TokenKind};
use crate::domain::resource::ResourceUri;
use crate::domain::scope::{Scope, ScopeToken};
use crate::guard::client_address;
use crate::identity::form_token::{BadFormToken, Form};
use crate::ops::audit;
use crate::pages::{BarredPage, ConsentPage, FormTarget, displayable, page};
use crate::state::AppState;
use crate::store::{Denial, Issuance, StoreError};

use super::authorization_error::refuse;
use super::authorization_request::{AuthorizationRequest, Refusal};
use super::params::Params;
use super::prompt::Prompt;
use super::responses::see_other;
use super::{responses, session};

pub use error::ConsentError;

/// The content of the form token: everything that was shown to the user. The grant's identifier is chosen when the
/// page is built, so that one page creates at most one grant.
#[derive(Serialize, Deserialize)]
struct ConsentRequest {
    grant_id: GrantId,
    subject: Subject,
    /// Digest of the client's metadata ([`ClientMetadata::digest`]). It includes the client's name, because the
    /// user bases the decision on this name.
    ///
    /// [`ClientMetadata::digest`]: crate::domain::client::ClientMetadata::digest
    client: TokenHash,
    request: AuthorizationRequest,
    pushed: Option<TokenHash>,
}

/// A pushed request, with the identifier of the only grant that it can create.
pub(super) struct Pushed {
    pub(super) handle: TokenHash,
    pub(super) grant_id: GrantId,
}

/// Shows what the client requests, and which part of it is new. If the user has already allowed this client
/// everything, and no other program can receive the response, the request is approved without a page.
pub(super) async fn ask(
    state: &AppState,
    client: &Client,
    known: Option<&Consent>,
    request: AuthorizationRequest,
    (pushed, prompt): (Option<Pushed>, Prompt),
    (session, account): (&LoginSession, &Account),
) -> Result<HttpResponse, ConsentError> {
    let barred = barred(account, &request.resources, state);
    let approval = approval_of(&request);
    let covered = known.is_some_and(|consent| consent.covers(&approval));
    let (grant_id, pushed) = match pushed {
        Some(pushed) => (pushed.grant_id, Some(pushed.handle)),
        None => (GrantId::new(state.random_bytes()?), None),
    };
    let (subject, digest) = (session.subject.clone(), client.metadata.digest());
    let asked = ConsentRequest { grant_id, subject, client: digest, request, pushed };
    // Any program on the user's machine can receive a response at a loopback address or a private-use scheme.
    // Therefore, every such request is shown to the user (RFC 8252 §8.6).
    if covered && barred.is_empty() && !prompt.consent && !asked.request.redirect_uri.is_local() {
        let scope = asked.request.scope.clone();
        let response = approve(state, asked, (session, account), client.clone()).await?;
        audit::Event::ConsentRemembered { user: account.into(), client_id: &client.id, scope: &scope }.emit();
        return Ok(response);
    }
    if prompt.none {
        return Err(ConsentError::PageRequired);
    }
    let form_token = state.form_tokens.issue(
        Form::Consent,
        session.id,
        state.now().plus(state.config.lifetimes.form),
        &asked,
    )?;
    let request = &asked.request;
    let target = FormTarget::MayLeave;
    if !barred.is_empty() {
        audit::Event::AccessDenied { user: account.into(), client_id: &client.id }.emit();
        let template = BarredPage {
            action: &state.config.site.issuer.endpoint("/consent"),
            form_token: &form_token,
            username: account.username.as_str(),
            resources: &barred,
        };
        return Ok(page(StatusCode::FORBIDDEN, &template, target));
    }
    let allowed = known.map(|consent| consent.known(&approval)).unwrap_or_default();
    let resources: Vec<String> = request.resources.iter().map(ToString::to_string).collect();
    let template = ConsentPage {
        action: &state.config.site.issuer.endpoint("/consent"),
        form_token: &form_token,
        username: account.username.as_str(),
        client_name: &displayable(client.metadata.display.client_name.as_deref().unwrap_or_default()),
        redirect_host: &request.redirect_uri.display_host(),
        loopback: request.redirect_uri.is_local(),
        resources: &resources,
        scopes: &scope_lines(&request.scope.beyond(&allowed), resources.len(), state),
        known_scopes: &scope_lines(&allowed, resources.len(), state),
    };
    Ok(page(StatusCode::OK, &template, target))
}

/// Returns the resources that the policy does not allow this user to access. The user cannot give consent for
/// them: every request with the resulting token would be refused, and the user would not learn why.
pub(super) fn barred(account: &Account, resources: &[ResourceUri], state: &AppState) -> Vec<String> {
    let policy = state.policy.now();
    let closed = |resource: &&ResourceUri| !policy.admits(account.into(), resource);
    resources.iter().filter(closed).map(ToString::to_string).collect()
}

/// The approval that the user gives by allowing the request.
fn approval_of(request: &AuthorizationRequest) -> Approval {
    Approval {
        redirect_uri: request.redirect_uri.clone(),
        scope: request.scope.clone(),
        resources: request.resources.clone(),
    }
}

/// Returns the remembered consent of this user, unless the client has changed since it was given.
pub(super) async fn known(
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

/// Formats scopes for the user, one line for each: the description and the name. `services` is the number of services
/// that the request is for.
pub(super) fn scope_lines(scope: &Scope, services: usize, state: &AppState) -> Vec<String> {
    let policy = state.policy.now();
    let line = |token: &ScopeToken| match (token.as_str(), policy.description(token, services)) {
        (name, Some(words)) => format!("{words} ({name})"),
        ("offline_access", None) => "To stay connected when you are away (offline_access)".to_owned(),
        (name, None) => name.to_owned(),
    };
    scope.tokens().map(line).collect()
}

/// `POST /consent`: handles the user's decision to allow or deny.
pub async fn decide(http: HttpRequest, body: web::Bytes, state: web::Data<AppState>) -> HttpResponse {
    match answer(&http, &body, &state).await {
        Ok(response) => response,
        Err(error) => {
            let message = error.message(question(&http, &body, &state).as_deref());
            match error.retry_after() {
                Some(seconds) => message.page_until(seconds),
                None => message.answer(&http, &state),
            }
        }
    }
}

/// Returns the URL of a new consent page for the same request, if there is one. A pushed request has none, because
/// it is removed when it is answered, and only its client can push it again.
fn question(http: &HttpRequest, body: &[u8], state: &AppState) -> Option<String> {
    let params = Params::of_form(http, body).ok()?;
    let asked: ConsentRequest = state.form_tokens.content(Form::Consent, params.one("form_token").ok()??)?;
    let query = asked.pushed.is_none().then(|| asked.request.query())?;
    // The encoded query can be longer than the one that the client sent.
    if query.len() > responses::QUERY_LIMIT {
        return None;
    }
    Some(state.config.site.issuer.endpoint(&format!("/authorize?{query}")))
}

async fn answer(http: &HttpRequest, body: &[u8], state: &AppState) -> Result<HttpResponse, ConsentError> {
    let params = Params::of_form(http, body)?;
    let now = state.now();
    let (session, account) = session::of(http, state).await?.ok_or(ConsentError::NoSession)?;
    let form_token = params.one("form_token")?.unwrap_or_default();
    let asked: ConsentRequest = state.form_tokens.read(Form::Consent, session.id, now, form_token)?;
    let request = &asked.request;
    if asked.subject != session.subject {
        return Err(BadFormToken::Foreign.into());
    }
    // The page might have been open for some time, so the client and its redirect URI are looked up again.
    let address = client_address::of(http, |address| state.config.trusted_edge.is_known(address));
    let client = state.clients.find(Caller::User(address), &request.client_id, state.earliest()).await?;
    if !client.allows_redirect(&request.redirect_uri) {
        return Err(ConsentError::ClientGone);
    }
    if client.metadata.digest() != asked.client {
        return Err(ConsentError::ClientChanged);
    }
    match params.one("decision")? {
        Some("allow") if !barred(&account, &request.resources, state).is_empty() => Err(ConsentError::Barred),
        Some("allow") => approve(state, asked, (&session, &account), client).await,
        Some("deny") => {
            // A page accepts only one decision. If the user has just allowed the request, the client must not
            // receive a denial as well.
            let until = now.plus(state.config.lifetimes.form);
            match state.store.deny(asked.grant_id.as_str(), until, now).await? {
                Denial::Denied => {}
                Denial::CodeIssued => return Err(ConsentError::AnsweredBefore),
            }
            if let Some(handle) = &asked.pushed {
                state.store.forget_pushed_request(handle).await?;
            }
            audit::Event::ConsentDenied { user: (&account).into(), client_id: &client.id }.emit();
            Ok(refuse(state, &request.redirect_uri, request.state.as_deref(), &Refusal::Denied))
        }
        _ => Err(ConsentError::NoDecision),
    }
}

async fn approve(
    state: &AppState,
    asked: ConsentRequest,
    (session, account): (&LoginSession, &Account),
    client: Client,
) -> Result<HttpResponse, ConsentError> {
    state.account_rate.admit_code(&asked.subject).map_err(ConsentError::TooFast)?;
    let approval = approval_of(&asked.request);
    let request = asked.request;
    let token = state.new_token(TokenKind::AuthorizationCode)?;
    let used = state.client_use(client, &asked.subject);
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
    match state.store.add_code(code.grant_id.as_str(), &token.hash(), &code, &used).await? {
        Issuance::Issued => {}
        Issuance::AnsweredBefore => return Err(ConsentError::AnsweredBefore),
        Issuance::ClientGone => return Err(ConsentError::ClientGone),
    }
    if let Some(handle) = &asked.pushed {
        state.store.forget_pushed_request(handle).await?;
    }
    if state.config.grants.remember_consent {
        let until = used.at.plus(state.config.lifetimes.refresh_token);
        state.store.add_consent(&approval, &used, until).await?;
    }
    audit::Event::ConsentGiven { user: account.into(), client_id: &code.client_id, scope: &code.scope }
        .emit();
    let mut pairs = vec![("code", token.expose())];
    pairs.extend(request.state.as_deref().map(|value| ("state", value)));
    pairs.push(("iss", state.config.site.issuer.as_str()));
    Ok(see_other(&code.redirect_uri.with_query(&pairs)))
}
