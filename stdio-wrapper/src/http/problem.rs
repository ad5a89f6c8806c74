//! Refusals: status, JSON-RPC error, and headers.

use std::time::Duration;

use actix_web::HttpResponse;
use actix_web::http::{StatusCode, header};

use crate::child::StartError;
use crate::identity::Refused;
use crate::legacy::OpenError;
use crate::protocol::{Code, Malformed, error_with_data};

/// Why a request is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Problem {
    pub(super) status: StatusCode,
    pub(super) code: Code,
    /// A sentence for the caller, without internal details.
    pub(super) message: String,
    /// The request id as JSON text, if it is known.
    pub(super) id: Option<Box<[u8]>>,
    pub(super) header: Option<(header::HeaderName, String)>,
    /// `data` of the JSON-RPC error, as JSON text.
    pub(super) data: Option<Box<str>>,
    /// Whether the connection is closed after this response.
    closes: bool,
}

impl Problem {
    pub(super) fn new(status: StatusCode, code: Code, message: impl Into<String>) -> Self {
        Self { status, code, message: message.into(), id: None, header: None, data: None, closes: false }
    }

    pub(super) fn bad_request(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, Code::InvalidRequest, message)
    }

    pub(super) fn forbidden(message: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, Code::Refused, message)
    }

    pub(super) fn no_session_id() -> Self {
        Self::bad_request(
            "The Mcp-Session-Id header is missing. Send initialize first, and then include the session id in every request.",
        )
    }

    /// The client opens a new session when it gets this error (2025-11-25, "Session Management").
    pub(super) fn no_such_session() -> Self {
        Self::new(
            StatusCode::NOT_FOUND,
            Code::SessionNotFound,
            "Session not found: it has ended, or the server was restarted. Send initialize to open a new one.",
        )
    }

    pub(super) fn too_large(limit: usize) -> Self {
        let message = format!(
            "The request body is over the limit of {limit} bytes. Send a smaller body, or ask the operator to raise MAX_BODY."
        );
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, Code::InvalidRequest, message)
    }

    /// The error for a user who has reached the maximum number of requests in progress. The connection is
    /// closed, because the limit is a share of the connections.
    pub(super) fn too_many_requests(limit: usize) -> Self {
        let message = format!(
            "You have {limit} requests and streams in progress here, which is the maximum for one user. Wait for some of them, or close unused streams. The operator can raise MAX_CONNECTIONS, of which one user can have a quarter."
        );
        let problem = Self::new(StatusCode::TOO_MANY_REQUESTS, Code::Refused, message);
        Self { closes: true, ..problem.retry_after(Duration::ZERO) }
    }

    pub(super) fn method_not_allowed(allow: &str) -> Self {
        let problem =
            Self::new(StatusCode::METHOD_NOT_ALLOWED, Code::Refused, "This method is not allowed here.");
        problem.with_header(header::ALLOW, allow)
    }

    pub(super) fn with_id(mut self, id: &str) -> Self {
        self.id = Some(id.as_bytes().into());
        self
    }

    pub(super) fn with_header(mut self, name: header::HeaderName, value: impl Into<String>) -> Self {
        self.header = Some((name, value.into()));
        self
    }

    pub(super) fn retry_after(self, wait: Duration) -> Self {
        self.with_header(header::RETRY_AFTER, (wait.as_secs() + 1).to_string())
    }

    pub(super) fn into_response(self) -> HttpResponse {
        let body = error_with_data(self.id.as_deref(), self.code, &self.message, self.data.as_deref());
        let mut response = HttpResponse::build(self.status);
        response.content_type("application/json").insert_header((header::CACHE_CONTROL, "no-store"));
        if let Some(header) = self.header {
            response.insert_header(header);
        }
        if self.closes {
            response.force_close();
        }
        response.body(body)
    }
}

impl From<Malformed> for Problem {
    fn from(error: Malformed) -> Self {
        let code = match error {
            Malformed::Json(_) => Code::ParseError,
            Malformed::Envelope(_) => Code::InvalidRequest,
        };
        Self::new(StatusCode::BAD_REQUEST, code, error.to_string())
    }
}

impl From<Refused> for Problem {
    fn from(error: Refused) -> Self {
        let message = error.to_string();
        match error {
            // If clocks differ, only the operator can help. A 401 would make clients ask their users to sign in for
            // each call.
            Refused::Unavailable | Refused::Early(_) | Refused::Late(_) => {
                Self::new(StatusCode::SERVICE_UNAVAILABLE, Code::Refused, message)
                    .retry_after(Duration::from_secs(4))
            }
            Refused::Doubled(_) | Refused::NotText(_) => Self::bad_request(message),
            // The client's own token is valid, because otherwise the edge would have refused it. Therefore a
            // challenge would not help.
            Refused::Missing(_) | Refused::Invalid(_) => {
                Self::new(StatusCode::UNAUTHORIZED, Code::Refused, message)
            }
        }
    }
}

impl From<OpenError> for Problem {
    fn from(error: OpenError) -> Self {
        let message = error.to_string();
        let unavailable = |seconds| {
            let problem = Self::new(StatusCode::SERVICE_UNAVAILABLE, Code::Refused, message.clone());
            problem.retry_after(Duration::from_secs(seconds))
        };
        match error {
            OpenError::OwnerFull(_) => {
                let problem = Self::new(StatusCode::TOO_MANY_REQUESTS, Code::Refused, message.clone());
                problem.retry_after(Duration::from_secs(9))
            }
            OpenError::Start(StartError::BackOff(rest) | StartError::Silent { rest, .. }) => {
                unavailable(rest.as_secs())
            }
            OpenError::Start(StartError::Command(_)) => Self::forbidden(message),
            // The error from the operating system is only logged.
            OpenError::Start(StartError::Spawn(_)) => Self::new(
                StatusCode::BAD_GATEWAY,
                Code::InternalError,
                "The MCP server could not be started.",
            ),
            OpenError::Start(StartError::NoRoom(_) | StartError::Busy(_))
            | OpenError::Full(_)
            | OpenError::Claimed
            | OpenError::Stopping
            | OpenError::Random => unavailable(4),
        }
    }
}
