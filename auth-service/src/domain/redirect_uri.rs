//! Redirect URIs: which can be registered, and when a requested URI matches a registered one.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use url::{Host, Url};

/// A redirect URI in its normal form. It uses https, or http on loopback (MCP authorization, "Communication
/// Security"; RFC 8252 §7.3), or the private-use scheme of a desktop application (RFC 8252 §7.1). The
/// operator decides which private-use schemes can be registered.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RedirectUri(String);

/// The reason why a string is not a redirect URI.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidRedirectUri {
    /// The string is not an absolute URI.
    #[error("a redirect URI must be an absolute URI")]
    NotAbsolute,
    /// The URI is not in its normal form. It contains, for example, upper-case letters, a default port, dot
    /// segments, a backslash or spaces.
    #[error("a redirect URI must be written in its normal form, which here is {0}")]
    NotNormal(String),
    /// The URI has a fragment, which RFC 6749 §3.1.2 forbids.
    #[error("a redirect URI must not have a fragment")]
    Fragment,
    /// The URI has a user name or password, as in `https://good@evil`.
    #[error("a redirect URI must not have a user name or password")]
    UserInfo,
    /// The scheme is neither https, nor http on loopback, nor the private-use scheme of a desktop
    /// application.
    #[error(
        "a redirect URI must use https, http on localhost, 127.0.0.1 or [::1], or a desktop application's own scheme followed by ://"
    )]
    Scheme,
    /// The host has a character such as `;`, which URL parsers accept but which has a meaning in a
    /// Content-Security-Policy.
    #[error("a redirect URI must have a host of letters, digits, dots and hyphens, or an address")]
    Host,
    /// The query has a parameter that the client could mistake for part of the authorization response.
    #[error(
        "a redirect URI must not have {0} in its query, because it is a parameter of the authorization response"
    )]
    PartOfAnswer(&'static str),
    /// The query has a character about which parsers disagree, so it is unclear where a parameter or its name
    /// ends.
    #[error("a redirect URI must not have ; or a control character in its query")]
    AmbiguousQuery,
    /// The URI has more than 2048 bytes.
    #[error("a redirect URI must not be longer than 2048 characters")]
    TooLong,
}

/// Parameters of authorization responses (RFC 6749 §4.1.2 and §4.2.2, RFC 9207 §2, other response types and
/// modes).
const ANSWER: [&str; 9] = [
    "code",
    "state",
    "iss",
    "error",
    "error_description",
    "error_uri",
    "response",
    "access_token",
    "id_token",
];

impl RedirectUri {
    /// Reads a URI that a client registers. Nothing in its query [can be mistaken for a response
    /// parameter](Self::could_be_answer).
    pub fn to_register(text: String) -> Result<Self, InvalidRedirectUri> {
        let uri = Self::try_from(text)?;
        match uri.could_be_answer() {
            Some(invalid) => Err(invalid),
            None => Ok(uri),
        }
    }

    /// Finds a part of the query that a client could mistake for a parameter of the authorization response. If a
    /// name occurs twice, some clients use the first value, some the last, and some both. Some ignore case, treat
    /// `;` like `&`, or drop other characters from a name. Others read a name as a path: they interpret `code[]`,
    /// `a[code]` and `code.x` as `code` or as an object that contains it.
    pub fn could_be_answer(&self) -> Option<InvalidRedirectUri> {
        let url = Url::parse(&self.0).ok()?;
        let controls = |(name, value): &(Cow<'_, str>, Cow<'_, str>)| {
            name.contains(char::is_control) || value.contains(char::is_control)
        };
        if url.query()?.contains(';') || url.query_pairs().any(|pair| controls(&pair)) {
            return Some(InvalidRedirectUri::AmbiguousQuery);
        }
        let known = |part: &str| {
            let name: String = part.chars().filter(|c| c.is_ascii_alphanumeric() || *c == '_').collect();
            ANSWER.into_iter().find(|known| name.eq_ignore_ascii_case(known))
        };
        url.query_pairs()
            .find_map(|(name, _)| name.split(['[', ']', '.']).find_map(known))
            .map(InvalidRedirectUri::PartOfAnswer)
    }

    /// The URI as it was registered.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether this registered URI matches a requested one. They are compared byte for byte, but on loopback
    /// without the port (RFC 8252 §7.3, OAuth 2.1 §2.3.1).
    pub fn matches(&self, requested: &Self) -> bool {
        self == requested
            || self
                .without_loopback_port()
                .is_some_and(|bare| requested.without_loopback_port() == Some(bare))
    }

    /// Whether any program on the user's machine could receive the response, by listening on loopback or by
    /// claiming the scheme (RFC 8252 §8.6).
    pub fn is_local(&self) -> bool {
        self.private_scheme().is_some() || Url::parse(&self.0).is_ok_and(|url| is_loopback_http(&url))
    }

    /// The scheme, if it is a private-use scheme of a desktop application.
    pub fn private_scheme(&self) -> Option<&str> {
        let (scheme, _) = self.0.split_once(':')?;
        Some(scheme).filter(|scheme| !matches!(*scheme, "http" | "https"))
    }

    /// Host and port for the consent page. For a private-use scheme, the scheme is included.
    pub fn display_host(&self) -> String {
        if self.private_scheme().is_some() {
            return Url::parse(&self.0)
                .map(|url| url[..url::Position::AfterPort].to_owned())
                .unwrap_or_default();
        }
        Url::parse(&self.0)
            .map(|url| url[url::Position::BeforeHost..url::Position::AfterPort].to_owned())
            .unwrap_or_default()
    }

    /// The URI with `pairs` appended to its query.
    pub fn with_query(&self, pairs: &[(&str, &str)]) -> String {
        // The URI was parsed on creation, so parsing does not fail here.
        let Ok(mut url) = Url::parse(&self.0) else {
            return self.0.clone();
        };
        url.query_pairs_mut().extend_pairs(pairs);
        url.into()
    }

    /// The form in which URIs are compared: on loopback, the port is removed.
    pub fn comparable(&self) -> String {
        self.without_loopback_port().unwrap_or_else(|| self.0.clone())
    }

    /// The host without port, which is compared with allow-lists.
    pub fn host(&self) -> String {
        Url::parse(&self.0).ok().and_then(|url| url.host_str().map(str::to_owned)).unwrap_or_default()
    }

    fn without_loopback_port(&self) -> Option<String> {
        let mut url = Url::parse(&self.0).ok().filter(is_loopback_http)?;
        url.set_port(None).ok()?;
        Some(url.into())
    }
}

fn is_loopback_http(url: &Url) -> bool {
    url.scheme() == "http"
        && match url.host() {
            Some(Host::Domain(name)) => name == "localhost",
            Some(Host::Ipv4(address)) => address == std::net::Ipv4Addr::LOCALHOST,
            // Only `[::1]` is accepted. Not every network stack treats a mapped address such as
            // `[::ffff:127.0.0.1]` as loopback.
            Some(Host::Ipv6(address)) => address == std::net::Ipv6Addr::LOCALHOST,
            None => false,
        }
}

/// Schemes that a browser handles itself, or passes to a program that is not an OAuth client.
const NEVER: [&str; 22] = [
    "about",
    "blob",
    "chrome",
    "chrome-extension",
    "data",
    "feed",
    "file",
    "filesystem",
    "ftp",
    "http",
    "intent",
    "jar",
    "javascript",
    "mailto",
    "ms-browser-extension",
    "resource",
    "sms",
    "tel",
    "vbscript",
    "view-source",
    "ws",
    "wss",
];

fn is_private_use(url: &Url, text: &str) -> bool {
    let scheme = url.scheme();
    !NEVER.contains(&scheme)
        && url.has_host()
        && text.len() > scheme.len() + 3
        && text[scheme.len()..].starts_with("://")
}

impl TryFrom<String> for RedirectUri {
    type Error = InvalidRedirectUri;

    fn try_from(text: String) -> Result<Self, InvalidRedirectUri> {
        if text.len() > 2048 {
            return Err(InvalidRedirectUri::TooLong);
        }
        let url = Url::parse(&text).map_err(|_| InvalidRedirectUri::NotAbsolute)?;
        if url.fragment().is_some() {
            return Err(InvalidRedirectUri::Fragment);
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(InvalidRedirectUri::UserInfo);
        }
        if url.scheme() != "https" && !is_loopback_http(&url) && !is_private_use(&url, &text) {
            return Err(InvalidRedirectUri::Scheme);
        }
        if !has_plain_host(&url) {
            return Err(InvalidRedirectUri::Host);
        }
        // After these checks, the URI has only one interpretation, so it is safe to compare URIs byte for byte.
        let normal = url.as_str();
        let bare_authority = url.path() == "/" && normal.strip_suffix('/') == Some(text.as_str());
        let tricky_path =
            url.path().contains("//") || url.path().contains(';') || has_encoded_delimiter(url.path());
        if (text != normal && !bare_authority) || tricky_path {
            return Err(InvalidRedirectUri::NotNormal(normal.to_owned()));
        }
        Ok(Self(text))
    }
}

fn has_plain_host(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => {
            name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_'))
        }
        Some(Host::Ipv4(_) | Host::Ipv6(_)) => true,
        None => false,
    }
}

/// Whether the path contains `%2e`, `%2f`, `%5c`, `%25` or `%00`, which another parser might decode into a
/// different path.
fn has_encoded_delimiter(path: &str) -> bool {
    let lower = path.to_ascii_lowercase();
    ["%2e", "%2f", "%5c", "%25", "%00"].iter().any(|sequence| lower.contains(sequence))
}

impl From<RedirectUri> for String {
    fn from(uri: RedirectUri) -> Self {
        uri.0
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn uri(text: &str) -> RedirectUri {
        RedirectUri::try_from(text.to_owned()).unwrap()
    }

    fn refused(text: &str) -> bool {
        RedirectUri::try_from(text.to_owned()).is_err()
    }

    #[test]
    fn a001_a008_only_the_registered_bytes_match() {
        let registered = uri("https://app.example/cb?x=1");
        for other in [
            "https://app.example/cb",
            "https://app.example/cb?x=1&y=2",
            "https://app.example/cb/?x=1",
            "https://app.example.evil/cb?x=1",
            "https://app.example:8443/cb?x=1",
            "https://app.example/CB?x=1",
        ] {
            assert!(!registered.matches(&uri(other)), "{other}");
        }
        assert!(registered.matches(&registered.clone()));
        assert!(!uri("https://app.example").matches(&uri("https://app.example/")));
    }

    #[test]
    fn a002_a003_a004_tricks_cannot_be_registered_or_requested() {
        for text in [
            "https://good.example@evil.example/cb",
            "https://app.example/a/..;/cb",
            "https://app.example/%2e%2e/cb",
            "https://app.example\\@evil.example/cb",
            "https://app.example/c\tb",
            "https://app.example/cb\n",
            "https://app.example/cb#f",
            "https://app.example/cb#",
            "javascript:alert(1)",
            "javascript://x/%0aalert(1)",
            "view-source://x/y",
            "cursor:x",
            "cursor:///x",
            "CURSOR://x/y",
            "JaVaScRiPt:alert(1)",
            "data:text/html,x",
            "HTTPS://app.example/cb",
            "//app.example/cb",
            "/cb",
            "https:app.example/cb",
            "https://app.example:443/cb",
            "https://app.example/a//b",
            "file:///etc/passwd",
            "https://\"/cb",
            "https://a;script-src/cb",
            "https://a,b.example/cb",
            "https://a'b.example/cb",
            "https://*.example/cb",
            "cursor://a;b/cb",
            "http://app.example/cb",
            "",
        ] {
            assert!(refused(text), "{text}");
        }
    }

    #[test]
    fn a001_a_part_of_an_answer_cannot_be_registered() {
        let found = |query: &str| uri(&format!("https://app.example/cb{query}")).could_be_answer();
        for (query, name) in [
            ("?code=x", "code"),
            ("?a=b&state", "state"),
            ("?ISS=x", "iss"),
            ("?error[]=x", "error"),
            ("?c%6Fde=x", "code"),
            ("?code%20=x", "code"),
            ("?access_token=x", "access_token"),
            ("?.code=x", "code"),
            ("?%EF%BB%BFcode=x", "code"),
            ("?code%E2%80%8B=x", "code"),
            ("?code.x=1", "code"),
            ("?a[code]=1", "code"),
            ("?a.state=1", "state"),
        ] {
            assert_eq!(found(query), Some(InvalidRedirectUri::PartOfAnswer(name)), "{query}");
        }
        for query in ["?a=1;code=x", "?;", "?code%00=x", "?co%0Ade=x", "?a%0D%0Ab=x", "?a=%7F"] {
            assert_eq!(found(query), Some(InvalidRedirectUri::AmbiguousQuery), "{query}");
        }
        for query in ["", "?", "?x=code", "?codes=x", "?x%26code=y", "?provider=code&session=1", "?code2=x"] {
            assert_eq!(found(query), None, "{query}");
        }
        assert!(RedirectUri::to_register("cursor://x/cb?code=y".to_owned()).is_err());
    }

    #[test]
    fn a006_on_loopback_only_the_port_varies() {
        let registered = uri("http://127.0.0.1:3000/cb?x=1");
        assert!(registered.matches(&uri("http://127.0.0.1:54321/cb?x=1")));
        assert!(registered.matches(&uri("http://127.0.0.1/cb?x=1")));
        for other in [
            "http://localhost:3000/cb?x=1",
            "http://[::1]:3000/cb?x=1",
            "http://127.0.0.1:3000/cb",
            "http://127.0.0.1:3000/cb?x=2",
            "http://127.0.0.1:3000/other?x=1",
            "https://127.0.0.1:3000/cb?x=1",
        ] {
            assert!(!registered.matches(&uri(other)), "{other}");
        }
        for text in [
            "http://localhost.evil.example/cb",
            "http://127.0.0.1@evil.example/cb",
            "http://[::ffff:127.0.0.1]/cb",
            "http://2130706433/cb",
            "http://0x7f.1/cb",
            "http://127.1/cb",
            "http://127.0.0.2/cb",
            "http://localhost./cb",
        ] {
            assert!(refused(text), "{text}");
        }
        assert!(!uri("https://localhost/cb").matches(&uri("https://localhost:8443/cb")));
    }

    #[test]
    fn an_application_s_own_scheme_matches_exactly_and_counts_as_local() {
        let cursor = uri("cursor://anysphere.cursor-mcp/oauth/callback");
        assert!(cursor.is_local() && cursor.matches(&cursor.clone()));
        assert!(!cursor.matches(&uri("cursor://anysphere.cursor-mcp/oauth/callback2")));
        assert_eq!(cursor.display_host(), "cursor://anysphere.cursor-mcp");
        assert!(uri("http://127.0.0.1:1/cb").is_local() && !uri("https://app.example/cb").is_local());
    }

    proptest! {
        #[test]
        fn matching_is_equality_but_for_a_loopback_port(port in 1024_u16..65535, other in 1024_u16..65535, path in "[a-z]{1,8}") {
            let local = uri(&format!("http://localhost:{port}/{path}"));
            let elsewhere = uri(&format!("http://localhost:{other}/{path}"));
            prop_assert!(local.matches(&elsewhere));
            let remote = uri(&format!("https://a.example:{port}/{path}"));
            let elsewhere = uri(&format!("https://a.example:{other}/{path}"));
            prop_assert_eq!(remote.matches(&elsewhere), port == other);
        }

        #[test]
        fn parsing_never_panics_and_what_parses_is_its_own_normal_form(text in ".{0,60}") {
            if let Ok(parsed) = RedirectUri::try_from(text.clone()) {
                prop_assert_eq!(parsed.as_str(), text);
            }
        }
    }
}
