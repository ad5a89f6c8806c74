//! The check that edge proxies request. Each proxy has its own route and parser. The decision is the same for all
//! of them.
//!
//! [`check`], or [`envoy_grpc::service`] for gRPC, verifies that the check comes from a trusted edge proxy. The
//! parser for this proxy reads the client's request from the check, `decision` decides whether to allow the
//! request, and the answer is encoded in the form that the proxy expects.

mod answer;
pub mod caddy;
mod check_headers;
pub mod cors;
pub mod envoy;
pub mod envoy_grpc;
mod error;
mod forwarded;
mod headers;
pub mod nginx;
pub mod outcome;
mod own_pages;
mod possession;
#[cfg(test)]
mod properties;
mod refused_check;
mod request;
mod reserved;
pub mod traefik;

use std::net::IpAddr;

use actix_http::Request;
use actix_web::HttpResponse;
use actix_web::http::header::{HOST, HeaderMap, HeaderName, HeaderValue};
use actix_web::http::{Method, StatusCode};
use actix_web::web::Data;

use crate::domain::clock::UnixTime;
use crate::domain::resource::ResourceUri;
use crate::guard::client_address;
use crate::guard::pace::TooManyRequests;
use crate::policy::{Credentials, Decision, Operation, PolicyTarget, decide};
use crate::principal::{Known, RejectedToken};
use crate::state::AppState;

use answer::Answer;
use error::Distrust;
use outcome::Outcome;
use possession::Scheme;
use refused_check::RefusedCheck;

pub use answer::IDENTITY;
pub use error::CheckError;
pub use headers::Bearer;
pub use request::AccessRequest;

/// Header that contains `EDGE_SECRET`, with which the edge proxy authenticates.
static EDGE_SECRET: HeaderName = HeaderName::from_static("x-edge-secret");

/// Answers every request on the edge listener. It does not use a router, because a router would normalize the path
/// before it is checked, and would account for a large part of the time of a check (ADR 16).
pub async fn check(request: Request, state: Data<AppState>) -> HttpResponse {
    let target = request.uri().path_and_query().map_or("/", |target| target.as_str());
    let headers = &request.head().headers;
    let peer = request.peer_addr().map(|peer| peer.ip());
    let trusted = trust(peer, headers.get_all(&EDGE_SECRET).map(HeaderValue::as_bytes), &state);
    let Some(proxy) = Proxy::at(target) else {
        let refused = Answer::refuse(&trusted.err().unwrap_or(CheckError::UnknownProxy));
        RefusedCheck { peer, host: headers.get(HOST).map(HeaderValue::as_bytes) }.log(&refused);
        return counted(refused, &state).into_response();
    };
    if trusted.is_ok()
        && let Err(refused) = proxy.pace(peer, headers, &state).await
    {
        let mut answer = Answer::refuse(&refused.into());
        if let Ok(asked) = proxy.parse(request.method(), headers) {
            let_pages_read(&mut answer, &asked, &state);
        }
        return counted(answer, &state).into_response();
    }
    if trusted.is_ok()
        && matches!(proxy, Proxy::TraefikEntryPoint)
        && let Some(pass) = own_pages::pass(headers, &state)
    {
        metrics::counter!("mcp_gate_checks_total", "outcome" => Outcome::OwnPage.label()).increment(1);
        return pass;
    }
    let asked = trusted.and_then(|()| proxy.parse(request.method(), headers));
    let answer = match asked {
        Ok(asked) => decision(&asked, &state).await,
        Err(error) => Answer::refuse(&error),
    };
    RefusedCheck { peer, host: proxy.host(headers) }.log(&answer);
    proxy.words(counted(answer, &state)).into_response()
}

/// A proxy that sends checks over HTTP. The path of the check identifies the kind of proxy.
enum Proxy<'a> {
    Traefik,
    /// Traefik with the check at an entry point. It sends a check for every request, including requests that
    /// auth-service itself answers.
    TraefikEntryPoint,
    Caddy,
    Nginx,
    /// The value is the original request target, which follows the prefix.
    Envoy(&'a str),
}

impl<'a> Proxy<'a> {
    fn at(target: &'a str) -> Option<Self> {
        if let Some(original) = target.strip_prefix(envoy::PREFIX) {
            return Some(Self::Envoy(original));
        }
        match target.split_once('?').map_or(target, |(path, _)| path) {
            traefik::PATH => Some(Self::Traefik),
            traefik::ENTRY_POINT_PATH => Some(Self::TraefikEntryPoint),
            caddy::PATH => Some(Self::Caddy),
            nginx::PATH => Some(Self::Nginx),
            _ => None,
        }
    }

    fn parse(&self, method: &Method, headers: &'a HeaderMap) -> Result<AccessRequest<'a>, CheckError> {
        match self {
            Self::Traefik | Self::TraefikEntryPoint => traefik::parse(headers),
            Self::Caddy => caddy::parse(headers),
            Self::Nginx => nginx::parse(headers),
            Self::Envoy(original) => envoy::parse(method, original, headers),
        }
    }

    /// The host that the client addressed, as the proxy has sent it, for the log.
    fn host<'h>(&self, headers: &'h HeaderMap) -> Option<&'h [u8]> {
        let name = match self {
            Self::Traefik | Self::TraefikEntryPoint | Self::Caddy => "x-forwarded-host",
            Self::Nginx => "x-original-url",
            Self::Envoy(_) => "host",
        };
        let value = headers.get(name)?.as_bytes();
        // nginx sends a whole URL, whose path and query can contain secrets.
        let is_url = matches!(self, Self::Nginx);
        if is_url { value.split(|byte| *byte == b'/').nth(2) } else { Some(value) }
    }

    /// Limits how many requests the client's address can send per second, for a proxy without a suitable limit
    /// (`guard/pace.rs`).
    async fn pace(
        &self,
        peer: Option<IpAddr>,
        headers: &HeaderMap,
        state: &AppState,
    ) -> Result<(), TooManyRequests> {
        if !matches!(self, Self::Traefik | Self::TraefikEntryPoint | Self::Caddy) {
            return Ok(());
        }
        let is_proxy = |address| state.config.trusted_edge.is_known(address);
        let address = peer.map(|peer| client_address::behind(peer, headers, is_proxy));
        // A trusted proxy's own address is not counted: it stands for every client whose address the proxy has not
        // sent.
        state.check_pace.admit(address.filter(|address| !is_proxy(*address))).await
    }

    fn words(&self, answer: Answer) -> Answer {
        match self {
            Self::Traefik | Self::TraefikEntryPoint | Self::Caddy => answer.in_words_of_traefik_and_caddy(),
            Self::Nginx => answer.in_words_of_nginx(),
            Self::Envoy(_) => answer,
        }
    }
}

fn counted(answer: Answer, state: &AppState) -> Answer {
    if answer.status == StatusCode::OK {
        state.allowed_checks.increment(1);
    } else {
        metrics::counter!("mcp_gate_checks_total", "outcome" => answer.outcome.label()).increment(1);
    }
    answer
}

/// Verifies that the check comes from an edge proxy: from a trusted address, and with the secret if one is
/// configured. A repeated `X-Edge-Secret` is refused.
fn trust<'a>(
    peer: Option<IpAddr>,
    mut secrets: impl Iterator<Item = &'a [u8]>,
    state: &AppState,
) -> Result<(), CheckError> {
    let secret = secrets.next();
    let doubled = secrets.next().is_some();
    let edge = &state.config.trusted_edge;
    let distrust = match peer.filter(|peer| edge.is_known(*peer)) {
        None => Distrust::UnknownPeer,
        Some(_) if doubled => Distrust::RepeatedSecret,
        Some(peer) if edge.trusts(peer, secret) => return Ok(()),
        Some(_) if secret.is_none() => Distrust::MissingSecret,
        Some(_) => Distrust::WrongSecret,
    };
    Err(CheckError::Untrusted(distrust))
}

/// Adds the headers that allow a web page to read a refusal that was decided before the request was read.
fn let_pages_read(answer: &mut Answer, asked: &AccessRequest<'_>, state: &AppState) {
    let origins = &state.config.allowed_origins;
    if let (Some(origin), Ok(resource)) = (&asked.origin, resource(asked, state))
        && origins.allow(origin, resource.origin())
    {
        answer.headers.extend(cors::on_answer(origins, origin));
    }
}

/// Decides whether a request is allowed, independently of the proxy that sent the check.
async fn decision(asked: &AccessRequest<'_>, state: &AppState) -> Answer {
    let resource = match resource(asked, state) {
        Ok(found) => found,
        Err(error) => return Answer::refuse(&error),
    };
    let origins = &state.config.allowed_origins;
    let Some(origin) = &asked.origin else {
        return decide_on(asked, &resource, state).await;
    };
    if !origins.allow(origin, resource.origin()) {
        return Answer::refuse(&CheckError::Origin);
    }
    if let (&Method::OPTIONS, Some(wanted)) = (&asked.method, asked.preflight) {
        return cors::preflight(origins, origin, wanted);
    }
    let mut answer = decide_on(asked, &resource, state).await;
    // These headers let a web page read why its request was denied. If the request is allowed, the service sets
    // them itself.
    if answer.status != StatusCode::OK {
        answer.headers.extend(cors::on_answer(origins, origin));
    }
    answer
}

fn resource(asked: &AccessRequest<'_>, state: &AppState) -> Result<ResourceUri, CheckError> {
    let hosts = &state.config.site.protected_hosts;
    if asked.scheme.is_some_and(|scheme| scheme != hosts.scheme()) {
        return Err(CheckError::Scheme);
    }
    hosts.resource(&asked.host, &asked.path).ok_or(CheckError::UnknownHost)
}

async fn decide_on(asked: &AccessRequest<'_>, resource: &ResourceUri, state: &AppState) -> Answer {
    // MCP does not use OPTIONS, and `decision` has answered preflights.
    if asked.method == Method::OPTIONS {
        return Answer::refuse(&CheckError::Method);
    }
    // The token and the assertion use the same reading of the clock. Only the check of the DPoP proof reads it
    // again.
    let now = state.now();
    let invalid = |reason| conclude(asked, resource, None, Credentials::InvalidToken(reason), state, now);
    let (token, scheme) = match asked.bearer {
        Bearer::None => {
            // Some clients discard their tokens when a refresh fails because the store cannot be written. After a
            // challenge, these clients would make their users log in, which would fail as well.
            if let Err(error) = Box::pin(state.try_write()).await {
                return Answer::refuse(&CheckError::Store(error));
            }
            return conclude(asked, resource, None, Credentials::Nothing, state, now);
        }
        Bearer::Malformed => {
            return invalid("the Authorization header does not contain exactly one access token");
        }
        Bearer::Token(token) => (token, Scheme::Bearer),
        Bearer::Bound(token) => (token, Scheme::Dpop),
    };
    let known = match state.principal_of(token, now).await {
        Ok(known) => known,
        Err(RejectedToken::Invalid | RejectedToken::Early { .. }) => {
            return invalid("the access token is not valid");
        }
        Err(RejectedToken::Expired) => return invalid("the access token has expired"),
        Err(RejectedToken::Revoked) => {
            return invalid("the access token was revoked, or its account or client is disabled");
        }
        Err(RejectedToken::Undatable) => return Answer::refuse(&CheckError::Undatable),
        Err(RejectedToken::Store(error)) => return Answer::refuse(&CheckError::Store(error)),
    };
    if let Err(unproven) = possession::check(asked, resource, scheme, token, &known.principal, state).await {
        return Answer::unproven(&unproven, resource, asked, state);
    }
    conclude(asked, resource, Some(&known), Credentials::Token(&known.principal), state, now)
}

fn conclude(
    asked: &AccessRequest<'_>,
    resource: &ResourceUri,
    known: Option<&Known>,
    presented: Credentials<'_>,
    state: &AppState,
    now: UnixTime,
) -> Answer {
    // The policy is read once, so a change during the check applies only to later requests.
    let policy = state.policy.now();
    let operation =
        Operation::of_headers(asked.mcp_protocol_version, asked.mcp_method, asked.mcp_name.as_deref());
    let wanted = PolicyTarget { resource, http_method: asked.method.as_str(), operation };
    match (decide(presented, &policy, &wanted), known) {
        (Decision::Allow, Some(known)) => Answer::allow(known, resource, &policy, state, now),
        (Decision::Deny(denial), _) => {
            // The challenge uses the same scheme as the request (RFC 9449 §7.1).
            let scheme = if matches!(asked.bearer, Bearer::Bound(_)) { Scheme::Dpop } else { Scheme::Bearer };
            Answer::deny(&denial, scheme, asked, state)
        }
        // No rule allows a request without a token. If one did, there would be no identity to send to the service.
        (Decision::Allow, _) => Answer::refuse(&CheckError::Untrusted(Distrust::NoIdentity)),
    }
}
