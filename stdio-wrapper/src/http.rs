//! The MCP endpoints: decides which requests are accepted, identifies their callers, and chooses the format of
//! the response.

mod answer;
mod arrived;
mod body;
mod cors;
mod delete;
mod disconnect;
mod events;
mod get;
mod guard;
mod head;
mod incoming;
mod modern;
mod permit;
mod post;
mod problem;
mod refusal_log;
mod sse_2024;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use actix_web::http::Method;
use actix_web::http::header::{self, HeaderValue};
use actix_web::{HttpRequest, HttpResponse, web};
use contract::listener::hold;
use tokio::time::Instant;

use crate::budget::Memory;
use crate::child::{Pass, Placeholders, RateLimit};
use crate::config::{Config, Sites};
use crate::identity::{Authenticator, Caller, Clock};
use crate::legacy::{Session, Sessions};
use crate::metrics::Metrics;
use crate::modern::Servers;
use crate::offload::Offload;
use crate::places::{Place, Places};
use crate::policy::{Gate, ToolRules};
use crate::translate::{LegacyToModern, ModernToLegacy};

pub use guard::{Accepts, RequestHeaders};
use problem::Problem;
use refusal_log::RefusalLog;

/// The requests from one user can use 1/`SHARE` of the connections. Behind an edge, each request in progress uses
/// its own connection.
const SHARE: usize = 4;
/// Number of requests in progress that a user can always have.
const SMALLEST_SHARE: usize = 4;

/// The header with the session id.
const SESSION_ID: &str = "mcp-session-id";

/// The parts of the wrapper that handle requests.
#[derive(Clone)]
pub struct Backends {
    /// Sessions of the revisions with a handshake.
    pub sessions: Arc<Sessions>,
    /// The children of the stateless revision.
    pub modern: Arc<Servers>,
    /// The translation for stateless clients, if it is enabled.
    pub translation: Option<Arc<ModernToLegacy>>,
    /// The translation for clients with sessions, if it is enabled.
    pub legacy_to_modern: Option<Arc<LegacyToModern>>,
}

/// Everything that the request handlers need.
pub struct Endpoint {
    /// Sessions of the revisions with a handshake.
    pub sessions: Arc<Sessions>,
    /// The children of the stateless revision.
    pub modern: Arc<Servers>,
    /// The translation for stateless clients, if it is enabled.
    pub translation: Option<Arc<ModernToLegacy>>,
    /// The translation for clients with sessions, if it is enabled.
    pub legacy_to_modern: Option<Arc<LegacyToModern>>,
    clock: Clock,
    stream_grace: Duration,
    /// Identifies callers, as configured by `IDENTITY`.
    pub authenticator: Arc<Authenticator>,
    /// The counters of the wrapper.
    pub metrics: Arc<Metrics>,
    sites: Sites,
    groups: Vec<String>,
    tool_rules: Option<Arc<ToolRules>>,
    /// The resource identifier, for challenges.
    resource: Option<String>,
    /// The requests in progress for each user. A request counts from the time when its caller is identified
    /// until its response has been sent.
    under_way: Arc<Places>,
    max_under_way: usize,
    refusals: Mutex<RateLimit>,
    refusal_log: RefusalLog,
    bodies: incoming::Bodies,
    stream_after: Duration,
    timing: events::Timing,
}

impl Endpoint {
    /// Creates the endpoint from the backends and the settings that handlers need.
    pub fn new(
        config: &Config,
        backends: Backends,
        authenticator: Arc<Authenticator>,
        clock: Clock,
        metrics: Arc<Metrics>,
        (memory, offload): (&Memory, Arc<Offload>),
    ) -> Self {
        let resource = match &config.identity {
            crate::config::Identity::Assertion { resource, .. } => Some(resource.clone()),
            _ => None,
        };
        Self {
            sessions: backends.sessions,
            modern: backends.modern,
            translation: backends.translation,
            legacy_to_modern: backends.legacy_to_modern,
            clock,
            stream_grace: config.limits.stream_grace,
            authenticator,
            metrics,
            sites: config.sites.clone(),
            groups: config.groups.clone(),
            tool_rules: config.tool_rules.clone().map(Arc::new),
            resource,
            under_way: Arc::default(),
            max_under_way: (config.limits.max_connections / SHARE).max(SMALLEST_SHARE),
            refusals: Mutex::new(RateLimit::new(1, Instant::now())),
            refusal_log: RefusalLog::new(),
            bodies: incoming::Bodies::new(
                config.limits.max_body,
                config.limits.max_batch,
                Arc::clone(&memory.bodies),
                offload,
            ),
            stream_after: config.limits.stream_after,
            timing: events::Timing {
                keep_alive: config.limits.keep_alive,
                max_age: config.limits.stream_max_age,
                retry: config.limits.retry,
            },
        }
    }

    /// Identifies the caller, and calls `handle` for the response. The request counts towards its user's limit
    /// until the response has been sent or aborted (attack 100). One user with slow calls, or with responses that
    /// are read slowly, must not occupy all connections.
    async fn answer(
        &self,
        request: &HttpRequest,
        handle: impl AsyncFnOnce(Arc<Caller>) -> Result<HttpResponse, Problem>,
    ) -> Result<HttpResponse, Problem> {
        let headers = RequestHeaders::new(request);
        headers.check_site(&self.sites)?;
        let caller = self.authenticator.caller(&|name| headers.identity(name)).await;
        let caller = caller.inspect_err(|refused| self.refusal_log.caller(refused, request.peer_addr()))?;
        let place = self.admit(&caller)?;
        Ok(handle(caller).await?.map_body(|_, body| hold(body, place)))
    }

    /// Reserves a slot for another request from a user. If all callers are one principal, no slot is needed,
    /// because no other user must be protected.
    fn admit(&self, caller: &Caller) -> Result<Option<Place>, Problem> {
        if caller.subject.is_empty() {
            return Ok(None);
        }
        let place = self.under_way.take(&caller.owner(), self.max_under_way);
        if place.is_none() && self.may_tell() {
            tracing::warn!(
                subject = caller.subject,
                limit = self.max_under_way,
                "the requests of a user take a quarter of MAX_CONNECTIONS, so more of them get 429"
            );
        }
        place.map(Some).ok_or_else(|| Problem::too_many_requests(self.max_under_way))
    }

    /// Whether another refusal can be logged. A refused client might retry any number of times.
    fn may_tell(&self) -> bool {
        self.refusals.lock().unwrap_or_else(PoisonError::into_inner).take(Instant::now()) != Pass::No
    }

    /// The session that the request refers to, if it belongs to the caller's user.
    fn session(&self, request: &HttpRequest, caller: &Caller) -> Result<Arc<Session>, Problem> {
        let id = RequestHeaders::new(request).session_id()?.ok_or_else(Problem::no_session_id)?;
        let session =
            self.find(id, caller).filter(|session| !session.is_sse()).ok_or_else(Problem::no_such_session)?;
        session.touch();
        Ok(session)
    }

    /// The session with this id, if the caller is allowed to use it.
    fn find(&self, id: &str, caller: &Caller) -> Option<Arc<Session>> {
        self.sessions.find(id, |owner| caller.is_user_of(owner), &self.placeholders(caller))
    }

    /// Determines which messages the caller is allowed to send to a child.
    fn gate(&self, caller: &Caller) -> Gate {
        Gate::new(&caller.unmet_rules, self.tool_rules.as_ref(), &caller.scopes, &caller.groups)
    }

    /// The time at which a stream of this caller must end: `STREAM_GRACE` after the expiry of the token that
    /// was used to open it (attack 86).
    fn until(&self, caller: &Caller) -> Option<Instant> {
        let rest = Duration::from_secs(caller.token_expires?.saturating_sub((self.clock)()));
        Instant::now().checked_add(rest + self.stream_grace)
    }

    /// The values of the command's placeholders for this caller.
    fn placeholders(&self, caller: &Caller) -> Placeholders {
        let some = |text: &String| (!text.is_empty()).then(|| text.clone());
        let group = match (self.groups.as_slice(), caller.groups.as_slice()) {
            // Without a configured order, the group is unambiguous only if the caller has exactly one.
            ([], [only]) => Some(only.clone()),
            (order, groups) => order.iter().find(|group| groups.contains(group)).cloned(),
        };
        Placeholders { subject: some(&caller.subject), user: some(&caller.username), group }
    }
}

/// Adds the MCP endpoints to a server.
pub fn routes(
    endpoint: web::Data<Endpoint>,
    mcp_path: &str,
    legacy_sse: bool,
) -> impl FnOnce(&mut web::ServiceConfig) + use<> {
    let mcp_path = mcp_path.to_owned();
    move |service| {
        service.app_data(endpoint);
        service.route(&mcp_path, web::route().to(mcp));
        // The check of auth-service treats a path with and without a trailing slash as the same resource.
        if let Some(other) = other_spelling(&mcp_path) {
            service.route(&other, web::route().to(mcp));
        }
        if legacy_sse {
            service.route("/sse", web::route().to(sse));
            service.route("/messages", web::route().to(messages));
        }
        service.default_service(web::route().to(HttpResponse::NotFound));
    }
}

/// The path with a trailing slash added, or removed if it has one.
fn other_spelling(path: &str) -> Option<String> {
    match path.strip_suffix('/') {
        Some("") => None,
        Some(bare) => Some(bare.to_owned()),
        None => Some(format!("{path}/")),
    }
}

async fn mcp(request: HttpRequest, body: web::Payload, endpoint: web::Data<Endpoint>) -> HttpResponse {
    let answer = match *request.method() {
        Method::POST => {
            endpoint
                .answer(&request, async |caller| post::handle(&request, body, &endpoint, &caller).await)
                .await
        }
        Method::GET => {
            endpoint.answer(&request, async |caller| get::handle(&request, &endpoint, &caller)).await
        }
        Method::DELETE => {
            endpoint.answer(&request, async |caller| delete::handle(&request, &endpoint, &caller)).await
        }
        Method::OPTIONS => cors::preflight(&request, &endpoint),
        _ => Err(Problem::method_not_allowed("GET, POST, DELETE, OPTIONS")),
    };
    finish(&request, &endpoint, answer)
}

async fn sse(request: HttpRequest, endpoint: web::Data<Endpoint>) -> HttpResponse {
    let answer = match *request.method() {
        Method::GET => {
            endpoint
                .answer(&request, async |caller| sse_2024::stream(&request, &endpoint, &caller).await)
                .await
        }
        Method::OPTIONS => cors::preflight(&request, &endpoint),
        _ => Err(Problem::method_not_allowed("GET, OPTIONS")),
    };
    finish(&request, &endpoint, answer)
}

async fn messages(request: HttpRequest, body: web::Payload, endpoint: web::Data<Endpoint>) -> HttpResponse {
    let answer = match *request.method() {
        Method::POST => {
            let handle =
                async |caller: Arc<Caller>| sse_2024::message(&request, body, &endpoint, &caller).await;
            endpoint.answer(&request, handle).await
        }
        Method::OPTIONS => cors::preflight(&request, &endpoint),
        _ => Err(Problem::method_not_allowed("POST, OPTIONS")),
    };
    finish(&request, &endpoint, answer)
}

/// Counts the request, and adds the headers that a browser needs to read the response.
fn finish(request: &HttpRequest, endpoint: &Endpoint, answer: Result<HttpResponse, Problem>) -> HttpResponse {
    endpoint.metrics.http_requests_total.add();
    let mut response = answer.unwrap_or_else(|problem| {
        endpoint.metrics.http_refused_total.add();
        tracing::debug!(status = problem.status.as_u16(), why = problem.message, "request refused");
        problem.into_response()
    });
    if let Some(origin) = RequestHeaders::new(request).allowed_origin(&endpoint.sites) {
        let headers = response.headers_mut();
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        headers.append(header::VARY, HeaderValue::from_static("Origin"));
        let exposed = HeaderValue::from_static("Mcp-Session-Id, WWW-Authenticate, Retry-After");
        headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, exposed);
    }
    response
}
