//! Checks a request in the stateless revision for errors, in the order that the specification prescribes
//! (2026-07-28, "Streamable HTTP", "Versioning"). This module is pure.

use std::borrow::Cow;

use super::header::{Field, Fields, NOT_TEXT, REPEATED, decode};
use super::{CAPABILITIES, LOG_LEVEL, PROTOCOL_VERSION, VERSION};
use crate::protocol::{Code, Kind, Malformed, Message, Span, object, progress_token, string};

/// Methods of earlier revisions that this revision has removed (SEP-2575).
const REMOVED: [&str; 5] =
    ["initialize", "ping", "logging/setLevel", "resources/subscribe", "resources/unsubscribe"];

/// Maximum size of a client's capabilities, in bytes. Known clients send a few hundred bytes. The capabilities
/// are kept together with everything that depends on them.
pub const MAX_CAPABILITIES: usize = 16 << 10;
/// Maximum length of the name of a tool, prompt, resource or task, in bytes of JSON text.
const MAX_NAME: usize = 8 << 10;

/// Which rules apply to a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Era {
    /// The rules of the stateless revision, with metadata in each request.
    Modern,
    /// The rules of the revisions with a handshake and a session.
    Legacy,
}

/// What is wrong with a request.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// The text is not a message, or two parsers could interpret it differently.
    #[error("{0}")]
    Malformed(String),
    /// A header is missing, or differs from the body.
    #[error("{0}")]
    Header(String),
    /// `_meta` lacks a required member.
    #[error("{0}")]
    Params(String),
    /// The revision is not supported.
    #[error("Unsupported protocol version (supported: {VERSION}).")]
    Version(String),
    /// The revision has removed this method.
    #[error("{0} does not exist in protocol version {VERSION}.")]
    Removed(String),
}

impl Fault {
    /// The HTTP status and the JSON-RPC error code.
    pub fn status(&self) -> (u16, Code) {
        match self {
            Self::Malformed(_) => (400, Code::InvalidRequest),
            Self::Header(_) => (400, Code::HeaderMismatch),
            Self::Params(_) => (400, Code::InvalidParams),
            Self::Version(_) => (400, Code::UnsupportedVersion),
            Self::Removed(_) => (404, Code::MethodNotFound),
        }
    }

    /// The `data` of the JSON-RPC error, as JSON text.
    pub fn data(&self) -> Option<String> {
        match self {
            Self::Version(requested) => {
                Some(serde_json::json!({"supported": [VERSION], "requested": requested}).to_string())
            }
            _ => None,
        }
    }
}

impl From<Malformed> for Fault {
    fn from(error: Malformed) -> Self {
        Self::Malformed(error.to_string())
    }
}

/// A request that has passed all checks that do not depend on a tool schema.
#[derive(Debug, Clone)]
pub struct Request<'a> {
    /// The message that contains the request.
    pub message: &'a Message<'a>,
    /// The method of the message.
    pub method: Cow<'a, str>,
    /// The position of its id.
    pub id: Span,
    /// The relevant members of its `_meta`.
    pub meta: Meta<'a>,
    /// The name of the tool, prompt, resource or task.
    pub name: Option<Cow<'a, str>>,
    /// The `arguments`, as JSON text.
    pub arguments: Option<&'a str>,
}

impl Request<'_> {
    /// The id, as JSON text.
    pub fn id_text(&self) -> &str {
        self.message.at(&self.id)
    }
}

/// The `_meta` of a request.
#[derive(Debug, Clone)]
pub struct Meta<'a> {
    /// The client's capabilities, as JSON text.
    pub capabilities: &'a str,
    /// The minimum level of the log messages that the client wants.
    pub log_level: Option<Cow<'a, str>>,
    /// The position of the progress token in the message.
    pub progress_token: Option<Span>,
}

/// Which rules apply to a message. `initialize` without the metadata of the stateless revision is always a
/// handshake, regardless of the revision that it requests.
pub fn era(message: &Message<'_>, version: Field<'_>) -> Result<Era, Fault> {
    let method = method(message);
    message.members(["_meta"])?;
    if let [Some(_)] = message.meta([PROTOCOL_VERSION])? {
        return Ok(Era::Modern);
    }
    if method == Some("initialize") {
        return Ok(Era::Legacy);
    }
    Ok(if is_modern_version(version) || method == Some("server/discover") {
        Era::Modern
    } else {
        Era::Legacy
    })
}

/// Whether the header contains this revision or a later one.
pub fn is_modern_version(version: Field<'_>) -> bool {
    let Field::One(text) = version else { return false };
    let is_date = text.len() == VERSION.len()
        && text.bytes().enumerate().all(|(index, byte)| match index {
            4 | 7 => byte == b'-',
            _ => byte.is_ascii_digit(),
        });
    is_date && text >= VERSION
}

fn method<'m>(message: &'m Message<'_>) -> Option<&'m str> {
    match &message.kind {
        Kind::Request { method, .. } | Kind::Notification { method } => Some(method.as_ref()),
        Kind::Response { .. } => None,
    }
}

/// Checks a request, and returns its parts.
pub fn check<'a>(message: &'a Message<'a>, fields: &Fields<'_>) -> Result<Request<'a>, Fault> {
    let Kind::Request { method, id } = &message.kind else {
        return Err(Fault::Malformed("Only a request can be answered.".to_owned()));
    };
    let version = match fields.version {
        Field::One(version) => version,
        Field::Absent => return Err(Fault::Header("The MCP-Protocol-Version header is missing.".to_owned())),
        Field::Repeated => {
            return Err(Fault::Header("There must be exactly one MCP-Protocol-Version header.".to_owned()));
        }
        Field::NotText => {
            let why = "The MCP-Protocol-Version header has a byte that is not ASCII.";
            return Err(Fault::Header(why.to_owned()));
        }
    };
    let [meta, name, uri, task, arguments] =
        message.members(["_meta", "name", "uri", "taskId", "arguments"])?;
    let (meta, requested) = read_meta(message, meta)?;
    if requested != version {
        let why = "The MCP-Protocol-Version header differs from the version in `_meta`.";
        return Err(Fault::Header(why.to_owned()));
    }
    if requested != VERSION {
        return Err(Fault::Version(requested.chars().take(64).collect()));
    }
    check_header("Mcp-Method", fields.method, Some(method), false)?;
    let name = match method.as_ref() {
        "tools/call" | "prompts/get" => name,
        "resources/read" => uri,
        "tasks/get" | "tasks/update" | "tasks/cancel" => task,
        _ => None,
    };
    if name.is_some_and(|name| name.len() > MAX_NAME) {
        // No header can be that long.
        return Err(Fault::Header("The Mcp-Name header differs from the body.".to_owned()));
    }
    let name = name.and_then(string);
    if let Some(name) = &name {
        check_header("Mcp-Name", fields.name, Some(name), true)?;
    } else if method == "tools/call" || method == "prompts/get" || method == "resources/read" {
        // The body has no name that the header could repeat. The child decides how to handle such a body.
        check_header("Mcp-Name", fields.name, None, true)?;
    }
    if REMOVED.contains(&method.as_ref()) {
        return Err(Fault::Removed(method.clone().into_owned()));
    }
    Ok(Request { message, method: method.clone(), id: id.clone(), meta, name, arguments })
}

fn read_meta<'a>(message: &Message<'a>, meta: Option<&'a str>) -> Result<(Meta<'a>, Cow<'a, str>), Fault> {
    let missing =
        |what: &str| Fault::Params(format!("`_meta` lacks `{what}`, which is required in every request."));
    object(meta).ok_or_else(|| Fault::Params("The request has no `_meta` object.".to_owned()))?;
    let [version, capabilities, log_level, token] =
        message.meta([PROTOCOL_VERSION, CAPABILITIES, LOG_LEVEL, "progressToken"])?;
    let version = version.and_then(string).ok_or_else(|| missing(PROTOCOL_VERSION))?;
    let capabilities = object(capabilities).ok_or_else(|| missing(CAPABILITIES))?;
    if capabilities.len() > MAX_CAPABILITIES {
        let why = format!(
            "The client's capabilities have {} bytes. At most {MAX_CAPABILITIES} are accepted.",
            capabilities.len()
        );
        return Err(Fault::Params(why));
    }
    let progress_token = token.map_or(Ok(None), |token| progress_token(message, token))?;
    Ok((Meta { capabilities, log_level: log_level.and_then(string), progress_token }, version))
}

fn check_header(
    name: &str,
    field: Field<'_>,
    expected: Option<&str>,
    may_be_base64: bool,
) -> Result<(), Fault> {
    let fault = |why: &str| Err(Fault::Header(format!("The {name} header {why}.")));
    match (field, expected) {
        (Field::Repeated, _) => fault(REPEATED),
        (Field::NotText, _) if may_be_base64 => fault(NOT_TEXT),
        (Field::NotText, _) => fault("has a byte that is not ASCII"),
        (Field::Absent, Some(_)) => fault("is missing"),
        (Field::Absent, None) => Ok(()),
        (Field::One(_), None) => fault("has a value that the body does not have"),
        (Field::One(value), Some(expected)) => {
            let decoded = if may_be_base64 { decode(value) } else { Some(Cow::Borrowed(value)) };
            match decoded {
                None => fault("is marked as base64, but is not base64"),
                Some(value) if value == expected => Ok(()),
                Some(_) => fault("differs from the body"),
            }
        }
    }
}
