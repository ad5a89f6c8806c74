//! The check behind every edge proxy: one route and one parser for each proxy, one answer for all.

mod answer;
mod envoy;
mod request;

use actix_web::web::Data;
use actix_web::{HttpRequest, HttpResponse};

use crate::domain::resource::ResourceUri;
use crate::facts::{self, Facts, NoFacts};
use crate::policy::{Decision, Presented, decide};
use crate::state::AppState;

use request::{AccessRequest, Bearer, CheckError};

/// Header in which the edge proves that it is the edge.
const EDGE_SECRET: &str = "x-edge-secret";

/// Answers every request on the edge listener. Nothing is routed by pattern here: a router that normalises
/// paths would read the checked path before we do.
pub async fn check(request: HttpRequest, state: Data<AppState>) -> HttpResponse {
    let (response, outcome) = match answer(&request, &state).await {
        Ok(answered) => answered,
        Err(error) => (answer::refuse(&error), error.label()),
    };
    metrics::counter!("mcp_gate_checks_total", "outcome" => outcome).increment(1);
    response
}

async fn answer(request: &HttpRequest, state: &AppState) -> Result<(HttpResponse, &'static str), CheckError> {
    trust(request, state)?;
    let target = request.uri().path_and_query().map_or("/", |target| target.as_str());
    let checked = match target.strip_prefix(envoy::PREFIX) {
        Some(original) => envoy::parse(request, original)?,
        None => return Err(CheckError::UnknownProxy),
    };
    let resource = resource(&checked, state)?;
    decide_on(&checked, &resource, state).await
}

fn trust(request: &HttpRequest, state: &AppState) -> Result<(), CheckError> {
    let peer = request.peer_addr().ok_or(CheckError::Untrusted)?;
    let mut secrets = request.headers().get_all(EDGE_SECRET);
    let secret = secrets.next().map(actix_web::http::header::HeaderValue::as_bytes);
    let trusted = secrets.next().is_none() && state.config.trusted_edge.trusts(peer.ip(), secret);
    if trusted { Ok(()) } else { Err(CheckError::Untrusted) }
}

fn resource(checked: &AccessRequest, state: &AppState) -> Result<ResourceUri, CheckError> {
    let hosts = &state.config.site.protected_hosts;
    if checked.scheme.is_some_and(|scheme| scheme != hosts.scheme()) {
        return Err(CheckError::Scheme);
    }
    hosts.resource(&checked.host, &checked.path).ok_or(CheckError::UnknownHost)
}

async fn decide_on(
    checked: &AccessRequest,
    resource: &ResourceUri,
    state: &AppState,
) -> Result<(HttpResponse, &'static str), CheckError> {
    let now = state.now();
    let site = &state.config.site;
    let facts: Result<Facts, &'static str> = match &checked.bearer {
        Bearer::None => return Ok(conclude(checked, resource, Presented::Nothing, state)),
        Bearer::Malformed => Err("the Authorization header does not hold one Bearer token"),
        Bearer::Token(token) => {
            match facts::of_token(token, &state.keys, &site.issuer, state.store.as_ref(), now).await {
                Ok(facts) => Ok(facts),
                Err(NoFacts::Invalid) => Err("the access token is not valid"),
                Err(NoFacts::Expired) => Err("the access token has expired"),
                Err(NoFacts::Revoked) => Err("the access token has been revoked"),
                Err(NoFacts::Store(error)) => return Err(CheckError::Store(error)),
            }
        }
    };
    let presented = facts.as_ref().map_or_else(|reason| Presented::InvalidToken(reason), Presented::Token);
    Ok(conclude(checked, resource, presented, state))
}

fn conclude(
    checked: &AccessRequest,
    resource: &ResourceUri,
    presented: Presented<'_>,
    state: &AppState,
) -> (HttpResponse, &'static str) {
    match (decide(presented, &state.policy, resource), presented) {
        (Decision::Allow, Presented::Token(facts)) => answer::allow(facts, resource, state),
        (Decision::Deny(denial), _) => answer::deny(&denial, resource, &checked.host, state),
        // No rule allows what has no token. Should one ever, there is no identity to hand on.
        (Decision::Allow, _) => (answer::refuse(&CheckError::Untrusted), "error"),
    }
}
