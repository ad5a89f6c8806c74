//! Checks request headers before the request is processed. This module is pure.

use actix_web::HttpRequest;
use actix_web::http::header::{self, HeaderMap, HeaderName, HeaderValue};
use actix_web::http::{StatusCode, Uri};
use url::Url;

use super::problem::Problem;
use crate::config::Sites;
use crate::identity::Header;
use crate::modern::{self, Field, Fields};
use crate::protocol::{Code, EventId, Version};

// These names are parsed only once, because every request needs them.
/// The header with the revision (2025-06-18 and later).
static PROTOCOL_VERSION: HeaderName = HeaderName::from_static("mcp-protocol-version");
static SESSION_ID: HeaderName = HeaderName::from_static(super::SESSION_ID);
static LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");
static METHOD: HeaderName = HeaderName::from_static("mcp-method");
static NAME: HeaderName = HeaderName::from_static("mcp-name");

/// Maximum length of a header that is read before the caller is known, in bytes. The longest useful one is an
/// `Mcp-Name` with the URI of a resource.
const MAX_LEN: usize = 1024;

/// The `Accept` value of most SDKs. It is sufficient for POST and GET.
const USUAL: &str = "application/json, text/event-stream";

/// The media types that a client must accept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accepts {
    /// A POST can get either kind of response.
    JsonAndEvents,
    /// A GET gets an event stream.
    Events,
}

/// The headers of one request.
#[derive(Debug, Clone, Copy)]
pub struct RequestHeaders<'r> {
    headers: &'r HeaderMap,
    uri: &'r Uri,
}

impl<'r> RequestHeaders<'r> {
    /// The headers of a request.
    pub fn new(request: &'r HttpRequest) -> Self {
        Self { headers: request.headers(), uri: request.uri() }
    }

    /// The headers of a request from its parts, for tests and fuzzing.
    pub fn from_parts(headers: &'r HeaderMap, uri: &'r Uri) -> Self {
        Self { headers, uri }
    }

    /// Performs all header checks of a POST. The error is the HTTP status.
    pub fn verdict(self, sites: &Sites, accepts: Accepts) -> Result<(), u16> {
        let checks = || {
            self.check_site(sites)?;
            self.check_content()?;
            self.check_accept(accepts)?;
            self.check_version()?;
            self.last_event_id()?;
            self.session_id().map(|_| ())
        };
        checks().map_err(|problem: Problem| problem.status.as_u16())
    }

    /// Checks `Host` and `Origin` (attack 104, DNS rebinding).
    pub(super) fn check_site(self, sites: &Sites) -> Result<(), Problem> {
        self.check_lengths()?;
        let host = match self.one(&header::HOST) {
            Header::One(host) => host,
            Header::Absent => return Err(Problem::bad_request("The Host header is missing.")),
            other => return Err(unreadable("Host", other)),
        };
        // An absolute request target also contains a host (RFC 9112 §3.2.2).
        for host in [Some(host), self.uri.authority().map(actix_web::http::uri::Authority::as_str)]
            .into_iter()
            .flatten()
        {
            if !is_allowed_host(host, sites) {
                return Err(Problem::forbidden(
                    "The Host of this request is not served here. The operator can add it to ALLOWED_HOSTS.",
                ));
            }
        }
        match self.one(&header::ORIGIN) {
            Header::Absent => Ok(()),
            Header::One(origin) if is_allowed_origin(origin, sites) => Ok(()),
            _ => Err(Problem::forbidden(
                "The Origin of this request is not allowed. The operator can add it to ALLOWED_ORIGINS.",
            )),
        }
    }

    /// Refuses headers that are longer than any useful one, before a header is decoded or compared.
    fn check_lengths(self) -> Result<(), Problem> {
        let short = [
            &header::HOST,
            &header::ORIGIN,
            &header::ACCEPT,
            &header::CONTENT_TYPE,
            &header::CONTENT_ENCODING,
            &PROTOCOL_VERSION,
            &SESSION_ID,
            &LAST_EVENT_ID,
            &METHOD,
            &NAME,
        ];
        let mut long = self.headers.iter().filter(|(_, value)| value.len() > MAX_LEN);
        match long.find(|(name, _)| short.contains(name)) {
            None => Ok(()),
            Some((name, _)) => {
                Err(Problem::bad_request(format!("The header {name} is longer than {MAX_LEN} bytes.")))
            }
        }
    }

    /// The origin for CORS headers.
    pub(super) fn allowed_origin(self, sites: &Sites) -> Option<HeaderValue> {
        match self.one(&header::ORIGIN) {
            Header::One(origin) if is_allowed_origin(origin, sites) => HeaderValue::from_str(origin).ok(),
            _ => None,
        }
    }

    /// Checks the content type and content encoding.
    pub(super) fn check_content(self) -> Result<(), Problem> {
        let unsupported = |message| Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, Code::Refused, message);
        let is_json = match self.one(&header::CONTENT_TYPE) {
            Header::One(value) => essence(value).eq_ignore_ascii_case("application/json"),
            _ => false,
        };
        if !is_json {
            return Err(unsupported("The Content-Type must be application/json."));
        }
        // A compressed body could expand to a thousand times its size (attack 109).
        match self.one(&header::CONTENT_ENCODING) {
            Header::Absent => Ok(()),
            Header::One(coding) if coding.trim().eq_ignore_ascii_case("identity") => Ok(()),
            _ => Err(unsupported("Content-Encoding is not supported. Send the body without it.")),
        }
    }

    /// Checks the media types that the client accepts.
    pub(super) fn check_accept(self, accepts: Accepts) -> Result<(), Problem> {
        let wanted: &[&str] = match accepts {
            Accepts::JsonAndEvents => &["application/json", "text/event-stream"],
            Accepts::Events => &["text/event-stream"],
        };
        // Without the header, the client accepts anything (RFC 9110 §12.5.1).
        if matches!(self.one(&header::ACCEPT), Header::One(USUAL) | Header::Absent) {
            return Ok(());
        }
        let values = || self.headers.get_all(header::ACCEPT).filter_map(|value| value.to_str().ok());
        if wanted.iter().all(|media| values().any(|value| takes(value, media))) {
            return Ok(());
        }
        let mut message = format!("The client must accept {}.", wanted.join(" and "));
        if self.headers.get_all(header::ACCEPT).any(|value| value.to_str().is_err()) {
            message.push_str(" Its Accept header has a byte that is not ASCII.");
        }
        Err(Problem::new(StatusCode::NOT_ACCEPTABLE, Code::Refused, message))
    }

    /// Reads the revision in the header, which must be a revision with sessions.
    pub(super) fn check_version(self) -> Result<Option<Version>, Problem> {
        let text = match self.one(&PROTOCOL_VERSION) {
            Header::Absent => return Ok(None),
            Header::One(text) => text.trim(),
            other => return Err(unreadable("MCP-Protocol-Version", other)),
        };
        let known =
            || Version::ALL.iter().rev().map(|version| version.as_str()).collect::<Vec<_>>().join(", ");
        Version::parse(text).map(Some).ok_or_else(|| {
            // The code -32000 makes clients of later revisions fall back to `initialize`.
            let shown: String = text.chars().filter(char::is_ascii_graphic).take(40).collect();
            let message = format!("Unsupported protocol version: {shown} (supported versions: {}).", known());
            Problem::new(StatusCode::BAD_REQUEST, Code::Refused, message)
        })
    }

    /// Reads the session id. Returns `None` if there is none.
    pub(super) fn session_id(self) -> Result<Option<&'r str>, Problem> {
        match self.one(&SESSION_ID) {
            Header::Absent => Ok(None),
            Header::One(id) => Ok(Some(id)),
            other => Err(unreadable("Mcp-Session-Id", other)),
        }
    }

    /// Reads the id of the event after which a stream is resumed.
    pub(super) fn last_event_id(self) -> Result<Option<EventId>, Problem> {
        match self.one(&LAST_EVENT_ID) {
            Header::Absent => Ok(None),
            Header::One(text) => match EventId::parse(text.trim()) {
                Some(id) => Ok(Some(id)),
                None => Err(Problem::bad_request("The Last-Event-ID was not issued by this server.")),
            },
            other => Err(unreadable("Last-Event-ID", other)),
        }
    }

    /// The headers that repeat parts of the body (2026-07-28).
    pub fn fields(self) -> Fields<'r> {
        let params = self.headers.keys().filter_map(|name| {
            let token = name.as_str().strip_prefix("mcp-param-")?;
            Some((token.to_owned(), field(read_one(self.headers.get_all(name)))))
        });
        Fields {
            version: self.version(),
            method: field(self.one(&METHOD)),
            name: field(self.one(&NAME)),
            params: params.collect(),
        }
    }

    /// The revision in the header, even if it is unknown.
    pub(super) fn version(self) -> Field<'r> {
        field(self.one(&PROTOCOL_VERSION))
    }

    /// Whether the request can belong only to the stateless revision, which uses only POST.
    pub(super) fn is_stateless(self) -> bool {
        modern::is_modern_version(self.version()) && matches!(self.session_id(), Ok(None))
    }

    /// Reads a header for `identity`.
    pub(super) fn identity(self, name: &'static str) -> Header<'r> {
        read_one(self.headers.get_all(name))
    }

    fn one(self, name: &HeaderName) -> Header<'r> {
        read_one(self.headers.get_all(name))
    }
}

fn read_one<'v>(mut values: impl Iterator<Item = &'v HeaderValue>) -> Header<'v> {
    match (values.next().map(HeaderValue::to_str), values.next()) {
        (None, _) => Header::Absent,
        (Some(Ok(text)), None) => Header::One(text),
        (Some(_), Some(_)) => Header::Repeated,
        (Some(Err(_)), None) => Header::NotText,
    }
}

/// The error for a request with an unusable header.
fn unreadable(name: &str, header: Header<'_>) -> Problem {
    Problem::bad_request(header.fault(name).unwrap_or_default())
}

fn field(header: Header<'_>) -> Field<'_> {
    match header {
        Header::Absent => Field::Absent,
        Header::One(text) => Field::One(text.trim_matches([' ', '\t'])),
        Header::Repeated => Field::Repeated,
        Header::NotText => Field::NotText,
    }
}

fn is_allowed_host(host: &str, sites: &Sites) -> bool {
    let Some(allowed) = &sites.hosts else { return true };
    let Some(name) = host_name(host) else { return false };
    let name = name.trim_end_matches('.').to_ascii_lowercase();
    allowed.contains(&name) || (sites.loopback && is_loopback(&name))
}

/// The host without its port. Returns `None` if anything other than a port follows the host (RFC 9110 §7.2).
fn host_name(host: &str) -> Option<&str> {
    let host = host.trim();
    let end = if host.starts_with('[') { host.find(']')? + 1 } else { host.find(':').unwrap_or(host.len()) };
    let (name, port) = host.split_at_checked(end)?;
    let is_port = port.strip_prefix(':').is_some_and(|port| port.bytes().all(|byte| byte.is_ascii_digit()));
    (port.is_empty() || is_port).then_some(name)
}

fn is_allowed_origin(origin: &str, sites: &Sites) -> bool {
    if sites.origins.iter().any(|known| known == "*") {
        return true;
    }
    let Some(parsed) = Url::parse(origin).ok().filter(|url| url.origin().is_tuple()) else {
        return false;
    };
    // `https://a.example/x` and `https://user@a.example` are not origins.
    if !parsed.origin().ascii_serialization().eq_ignore_ascii_case(origin) {
        return false;
    }
    let serialized = parsed.origin().ascii_serialization();
    sites.origins.contains(&serialized) || (sites.loopback && parsed.host_str().is_some_and(is_loopback))
}

/// Whether a name always resolves to this machine (RFC 6761 §6.3).
fn is_loopback(name: &str) -> bool {
    name == "localhost"
        || name.ends_with(".localhost")
        || name == "[::1]"
        || name.parse::<std::net::Ipv4Addr>().is_ok_and(|address| address.is_loopback())
}

fn essence(media: &str) -> &str {
    media.split(';').next().unwrap_or_default().trim()
}

/// Whether an `Accept` value includes a media type. Quality zero excludes it (RFC 9110 §12.5.1).
fn takes(accept: &str, media: &str) -> bool {
    let family = media.split('/').next().unwrap_or_default();
    accept.split(',').any(|range| {
        let name = essence(range);
        let is_match = name.eq_ignore_ascii_case(media)
            || name == "*/*"
            || name.strip_suffix("/*").is_some_and(|start| start.eq_ignore_ascii_case(family));
        let is_refused = || {
            let parameters = range.split(';').skip(1);
            parameters
                .filter_map(|parameter| parameter.trim().strip_prefix("q="))
                .any(|quality| quality.trim().parse::<f32>().is_ok_and(|quality| quality <= 0.0))
        };
        is_match && !is_refused()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sites(hosts: Option<&[&str]>, origins: &[&str], loopback: bool) -> Sites {
        let words = |list: &[&str]| list.iter().map(|word| (*word).to_owned()).collect();
        Sites { hosts: hosts.map(words), origins: words(origins), loopback }
    }

    fn check(lines: &[(&str, &str)], sites: &Sites) -> Result<(), u16> {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(HeaderName::try_from(*name).unwrap(), HeaderValue::from_str(value).unwrap());
        }
        let uri = Uri::from_static("/mcp");
        RequestHeaders::from_parts(&headers, &uri)
            .check_site(sites)
            .map_err(|problem| problem.status.as_u16())
    }

    #[test]
    fn any_origin_may_call_when_the_operator_says_so_but_only_one_at_a_time() {
        let any = sites(Some(&["mcp.example.com"]), &["*"], false);
        let host = ("host", "mcp.example.com");
        for origin in ["https://app.example", "null", "vscode-webview://x"] {
            assert_eq!(check(&[host, ("origin", origin)], &any), Ok(()), "{origin}");
        }
        assert_eq!(check(&[host, ("origin", "https://a"), ("origin", "https://b")], &any), Err(403));
        assert_eq!(check(&[("host", "evil.example"), ("origin", "https://a")], &any), Err(403));
    }

    #[test]
    fn a104_only_known_hosts_and_origins_pass() {
        let local = sites(Some(&[]), &[], true);
        let good = [("host", "127.0.0.1:8080"), ("origin", "http://localhost:6274")];
        assert_eq!(check(&good, &local), Ok(()));
        assert_eq!(check(&[("host", "app.localhost:1")], &local), Ok(()));
        assert_eq!(check(&[("host", "[::1]:8080")], &local), Ok(()));
        for host in [
            "evil.example.com",
            "evil.example.com:8080",
            "localhost.evil.example",
            "127.0.0.1.nip.io",
            "127.0.0.1@evil.example",
            "[::1].evil.example",
            "[::1]evil.example:80",
            "[::1]:80.evil.example",
            "[::1",
            "localhost:80:evil.example",
            "localhost:evil",
        ] {
            assert_eq!(check(&[("host", host)], &local), Err(403), "{host}");
        }
        for origin in [
            "null",
            "http://evil.example.com",
            "http://localhost.evil.example",
            "file://",
            "http://localhost/x",
            "http://u@localhost",
            "",
        ] {
            assert_eq!(check(&[("host", "localhost"), ("origin", origin)], &local), Err(403), "{origin}");
        }
        let doubled =
            [("host", "localhost"), ("origin", "http://localhost"), ("origin", "http://evil.example")];
        assert_eq!(check(&doubled, &local), Err(403));
        assert_eq!(check(&[("host", "localhost"), ("host", "evil.example")], &local), Err(400));
        assert_eq!(check(&[], &local), Err(400));
        let public = sites(Some(&["mcp.example.com"]), &["https://app.example.com"], false);
        assert_eq!(
            check(&[("host", "MCP.example.com:443"), ("origin", "https://app.example.com")], &public),
            Ok(())
        );
        assert_eq!(
            check(&[("host", "mcp.example.com"), ("origin", "http://app.example.com")], &public),
            Err(403)
        );
        assert_eq!(check(&[("host", "localhost")], &public), Err(403));
    }

    #[test]
    fn a_header_that_is_too_long_is_not_read() {
        let local = sites(Some(&[]), &[], true);
        for name in ["mcp-name", "mcp-method", "mcp-session-id", "last-event-id", "accept", "origin"] {
            let long = "a".repeat(MAX_LEN + 1);
            assert_eq!(check(&[("host", "localhost"), (name, &long)], &local), Err(400), "{name}");
            if name != "origin" {
                let longest = "a".repeat(MAX_LEN);
                assert_eq!(check(&[("host", "localhost"), (name, &longest)], &local), Ok(()), "{name}");
            }
        }
    }

    #[test]
    fn a_header_that_cannot_be_read_is_named_with_what_is_wrong() {
        let uri = Uri::from_static("/mcp");
        let told = |name: &'static str, values: &[&[u8]]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(HeaderName::from_static(name), HeaderValue::from_bytes(value).unwrap());
            }
            let headers = RequestHeaders::from_parts(&headers, &uri);
            let problems = [
                headers.check_site(&sites(None, &[], false)).err(),
                headers.check_version().err(),
                headers.session_id().err(),
                headers.last_event_id().err(),
                headers.check_accept(Accepts::Events).err(),
            ];
            problems.into_iter().flatten().map(|problem| problem.message).collect::<Vec<_>>().join("\n")
        };
        for (name, written) in [
            ("host", "Host"),
            ("mcp-protocol-version", "MCP-Protocol-Version"),
            ("mcp-session-id", "Mcp-Session-Id"),
            ("last-event-id", "Last-Event-ID"),
        ] {
            let text = told(name, &[b"caf\xc3\xa9"]);
            assert!(text.contains(&format!("The {written} header has a byte that is not ASCII.")), "{text}");
            assert!(!text.contains("exactly one"), "{text}");
            let text = told(name, &[b"a", b"caf\xc3\xa9"]);
            assert!(text.contains(&format!("There must be exactly one {written} header.")), "{text}");
        }
        assert!(told("accept", &[b"\xff"]).contains("Its Accept header has a byte that is not ASCII."));
    }

    #[test]
    fn accept_needs_both_media_types_and_honours_quality_zero() {
        assert!(takes("application/json, text/event-stream", "text/event-stream"));
        assert!(takes("*/*", "application/json"));
        assert!(takes("Text/*;q=0.5", "text/event-stream"));
        assert!(!takes("text/event-stream;q=0", "text/event-stream"));
        assert!(!takes("application/jsonp", "application/json"));
    }
}
