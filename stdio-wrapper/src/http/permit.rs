//! Whether the rules of the wrapper and of the authorization service allow a call, and the refusal if they do not.

use std::borrow::Cow;
use std::fmt::Write as _;

use actix_web::http::{StatusCode, header};
use url::Url;

use super::Endpoint;
use super::problem::Problem;
use crate::identity::Caller;
use crate::policy::{Decision, Denied, Permit, scopes_to_ask_for};
use crate::protocol::{Code, Message, peek_name};

/// Why a tool call is refused.
#[derive(Debug)]
pub(super) enum ToolRefusal {
    NeedsScopes(Vec<String>),
    WrongGroup,
    Malformed(String),
}

/// Returns a permit if the rules of the wrapper and of the authorization service allow the message. The rules
/// are applied to the body, because the child reads the body.
pub(super) fn permit<'m>(
    endpoint: &Endpoint,
    caller: &Caller,
    method: &'m str,
    message: &Message<'_>,
) -> Result<Permit<'m>, ToolRefusal> {
    let gate = endpoint.gate(caller);
    // A method with different case has already been refused by the parser.
    let is_call = method.eq_ignore_ascii_case("tools/call");
    let tool = if is_call && !gate.is_open() { Some(tool_name(message)?) } else { None };
    gate.pass(method, tool.as_deref()).map_err(|decision| {
        endpoint.metrics.tool_calls_refused_total.add();
        let (why, refusal) = match decision {
            Decision::NeedsScopes(scopes) => (
                format!("it needs the scope {}, which was not granted", scopes.join(" ")),
                ToolRefusal::NeedsScopes(scopes),
            ),
            Decision::WrongGroup | Decision::Allow => (
                "the rules do not allow it to this user, whatever the scopes are".to_owned(),
                ToolRefusal::WrongGroup,
            ),
        };
        endpoint.refusal_log.call(caller, method, tool.as_deref(), &why);
        refusal
    })
}

/// Refuses an `initialize` with a part that the rules deny. There are no rules for the method itself.
pub(super) fn check_initialize(
    endpoint: &Endpoint,
    caller: &Caller,
    message: &Message<'_>,
) -> Result<(), Problem> {
    let Some(denied) = Denied::of(message, &endpoint.gate(caller)) else { return Ok(()) };
    endpoint.refusal_log.call(caller, "initialize", None, denied.refusal());
    Err(Problem::forbidden(denied.refusal().to_owned()))
}

/// The name of the tool in a `tools/call`.
fn tool_name<'a>(message: &Message<'a>) -> Result<Cow<'a, str>, ToolRefusal> {
    let name = peek_name(message).map_err(|error| ToolRefusal::Malformed(error.to_string()))?;
    let malformed = |why: &str| ToolRefusal::Malformed(why.to_owned());
    let name = name.ok_or_else(|| malformed("tools/call needs `name`, a string."))?;
    if is_ambiguous(&name) {
        return Err(malformed(
            "`name` must have no control characters, and no spaces at its beginning or end.",
        ));
    }
    Ok(name)
}

/// Whether a server could mistake a name for another one: C programs stop at NUL, and some servers trim names.
fn is_ambiguous(name: &str) -> bool {
    // JavaScript also trims a byte order mark.
    let is_trimmed = |letter: char| letter.is_whitespace() || letter == '\u{feff}';
    name.contains(char::is_control) || name.starts_with(is_trimmed) || name.ends_with(is_trimmed)
}

impl ToolRefusal {
    pub(super) fn sentence(&self) -> String {
        match self {
            Self::NeedsScopes(scopes) => {
                format!("This tool or method needs the scope {}, which was not granted.", scopes.join(" "))
            }
            Self::WrongGroup => {
                "The rules of this server do not allow you to use this tool or method. Its operator can change them.".to_owned()
            },
            Self::Malformed(why) => why.clone(),
        }
    }

    pub(super) fn into_problem(self, endpoint: &Endpoint, caller: &Caller, query: &str, id: &str) -> Problem {
        let sentence = self.sentence();
        match self {
            Self::NeedsScopes(needed) => {
                // Clients request these scopes and try again (RFC 6750 §3.1).
                let scopes = scopes_to_ask_for(&needed, &caller.scopes);
                let mut challenge =
                    format!(r#"Bearer error="insufficient_scope", scope="{}""#, scopes.join(" "));
                if let Some(metadata) =
                    endpoint.resource.as_deref().and_then(|resource| metadata_url(resource, query))
                {
                    // Writing to a string cannot fail.
                    let _ = write!(challenge, r#", resource_metadata="{metadata}""#);
                }
                Problem::forbidden(sentence).with_header(header::WWW_AUTHENTICATE, challenge)
            }
            Self::WrongGroup => Problem::forbidden(sentence),
            Self::Malformed(_) => Problem::new(StatusCode::BAD_REQUEST, Code::InvalidParams, sentence),
        }
        .with_id(id)
    }
}

/// The URL of the protected resource metadata of a resource (RFC 9728 §3.1). It includes the query of the
/// request, because clients compare the metadata with the URL that they use.
fn metadata_url(resource: &str, query: &str) -> Option<String> {
    let url = Url::parse(resource).ok()?;
    let path = url.path().trim_end_matches('/');
    let origin = url.origin().ascii_serialization();
    let mut metadata = Url::parse(&format!("{origin}/.well-known/oauth-protected-resource{path}")).ok()?;
    metadata.set_query(Some(query).filter(|query| !query.is_empty()));
    // The URL is written into a quoted string, in which a backslash is an escape character (RFC 9110 §5.6.4).
    Some(String::from(metadata).replace('\\', "%5C"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_metadata_of_a_url_with_a_query_has_the_query_and_stays_inside_its_quotes() {
        let of = |query| metadata_url("https://mcp.example.com/notes/", query).unwrap();
        let bare = "https://mcp.example.com/.well-known/oauth-protected-resource/notes";
        assert_eq!(of(""), bare);
        assert_eq!(of("toolset=a&b=%20"), format!("{bare}?toolset=a&b=%20"));
        assert_eq!(of("a\"\\b"), format!("{bare}?a%22%5Cb"));
    }
}
