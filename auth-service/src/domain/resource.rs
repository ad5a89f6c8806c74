//! Protected resources (RFC 8707, RFC 9728): the URLs for which tokens are issued.

use std::fmt;

use serde::{Deserialize, Serialize};
use url::Url;

use super::host::{HostName, HostPattern, split_authority};
use super::path::UnambiguousPath;
use super::resource_query::ResourceQuery;

/// The URL scheme, `http` or `https`. The issuer and all protected hosts use the same one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scheme {
    /// Plain HTTP, which is only allowed on loopback.
    Http,
    /// HTTP over TLS, which can be used with any host.
    Https,
}

impl Scheme {
    /// The scheme as it is written in a URL.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }
}

/// A resource indicator: `scheme://authority[/path]` without trailing slash, query or fragment. The spelling
/// of the authority comes from the configuration.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ResourceUri(String);

impl ResourceUri {
    /// The URI as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The scheme and authority.
    pub fn origin(&self) -> &str {
        let path_at = self.0.match_indices('/').nth(2).map_or(self.0.len(), |(at, _)| at);
        self.0.get(..path_at).unwrap_or_default()
    }

    /// Reads a URL into the same form as [`ProtectedHosts::parse`], for callers without the list of protected
    /// hosts. The URL of an unprotected host does no harm, because it never equals a protected one.
    pub fn well_formed(text: &str) -> Result<Self, NotAResource> {
        let url = Url::parse(text).map_err(|_| NotAResource)?;
        let plain = matches!(url.scheme(), "http" | "https")
            && url.query().is_none()
            && url.fragment().is_none()
            && url.username().is_empty()
            && url.password().is_none();
        let (_, after_scheme) = text.split_once("://").ok_or(NotAResource)?;
        let path = after_scheme.find('/').and_then(|at| after_scheme.get(at..)).unwrap_or("/");
        let path = UnambiguousPath::of_target(path).map_err(|_| NotAResource)?;
        let origin = url.origin().ascii_serialization();
        if plain {
            Ok(Self(format!("{origin}{}", path.as_str().trim_end_matches('/'))))
        } else {
            Err(NotAResource)
        }
    }

    /// The host (the text of a [`HostName`]) and the path, which is empty or starts with `/`.
    pub fn host_and_path(&self) -> (&str, &str) {
        let after_scheme = self.0.split_once("://").map_or("", |(_, rest)| rest);
        let path_at = after_scheme.find('/').unwrap_or(after_scheme.len());
        let (authority, path) = after_scheme.split_at_checked(path_at).unwrap_or_default();
        // In an IPv6 literal, the colons of the address are inside the brackets.
        let host = match authority.rsplit_once(':') {
            Some((host, port)) if !port.contains(']') => host,
            _ => authority,
        };
        (host, path)
    }

    /// Whether a token for this resource is valid for `other`, which is the same resource or one below it.
    /// Whole path segments are compared.
    pub fn includes(&self, other: &Self) -> bool {
        other.0.strip_prefix(&self.0).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }
}

impl fmt::Display for ResourceUri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The string is not a valid resource URL.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a resource is an http or https URL without query, fragment, user name or dot segments")]
pub struct NotAResource;

/// The hosts whose requests are checked. They all use the same scheme.
#[derive(Debug, Clone)]
pub struct ProtectedHosts {
    scheme: Scheme,
    patterns: Vec<HostPattern>,
}

/// The resource of a request that names none. MCP 2025-03-26 has no `resource` parameter.
#[derive(Debug, Clone)]
pub enum DefaultResources {
    /// There is no default, so the client must name the resource.
    None,
    /// The whole host to which the request was sent.
    WholeHost,
    /// The listed resource that is on the host to which the request was sent.
    Listed(Vec<ResourceUri>),
}

impl DefaultResources {
    /// The default resource for requests that are sent to `host`.
    pub fn of_host(&self, host: &HostName, hosts: &ProtectedHosts) -> Option<ResourceUri> {
        let origin = hosts.origin(host)?;
        match self {
            Self::None => None,
            Self::WholeHost => Some(ResourceUri(origin)),
            Self::Listed(resources) => resources.iter().find(|resource| resource.origin() == origin).cloned(),
        }
    }
}

/// Path prefix of the protected resource metadata. The path of the resource follows it (RFC 9728 §3.1).
pub const WELL_KNOWN: &str = "/.well-known/oauth-protected-resource";

/// The resource indicator names no resource for which this server issues tokens (`invalid_target`, RFC 8707
/// §2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the resource is not the URL of a service that this server protects")]
pub struct UnknownResource;

impl ProtectedHosts {
    /// Creates the list of protected hosts.
    pub fn new(scheme: Scheme, patterns: Vec<HostPattern>) -> Self {
        Self { scheme, patterns }
    }

    /// The scheme of the URLs that clients use.
    pub fn scheme(&self) -> Scheme {
        self.scheme
    }

    /// The entries of `PROTECTED_HOSTS`.
    pub fn patterns(&self) -> &[HostPattern] {
        &self.patterns
    }

    /// The origin of a protected host, such as `https://mcp.example.com`. Returns `None` if the host is not
    /// protected.
    pub fn origin(&self, host: &HostName) -> Option<String> {
        self.url(host, "")
    }

    /// The resource at this host and path. Returns `None` if the host is not protected.
    pub fn resource(&self, host: &HostName, path: &UnambiguousPath) -> Option<ResourceUri> {
        self.url(host, path.as_str().trim_end_matches('/')).map(ResourceUri)
    }

    /// Builds the URL with a single allocation, because every check needs one.
    fn url(&self, host: &HostName, path: &str) -> Option<String> {
        let [name, port] = self.patterns.iter().find_map(|pattern| pattern.authority_for(host))?;
        Some([self.scheme.as_str(), "://", name, port, path].concat())
    }

    /// The URL of the metadata document for a request to `host` and `path`. The well-known prefix goes
    /// between host and path, and a path of a single slash is dropped (RFC 9728 §3.1).
    pub fn metadata_url(
        &self,
        host: &HostName,
        path: &UnambiguousPath,
        query: Option<ResourceQuery<'_>>,
    ) -> String {
        let origin = self.origin(host).unwrap_or_default();
        let path = Some(path.as_str()).filter(|path| *path != "/").unwrap_or_default();
        let query = query.map(|query| query.to_string()).unwrap_or_default();
        format!("{origin}{WELL_KNOWN}{path}{query}")
    }

    /// The `resource` value in the document at [`Self::metadata_url`]. It must be identical to the URL that the
    /// client called (RFC 9728 §3.3). [`Self::parse`] accepts it.
    pub fn described(
        &self,
        host: &HostName,
        path: &UnambiguousPath,
        query: Option<ResourceQuery<'_>>,
    ) -> Option<String> {
        let origin = self.origin(host)?;
        Some(match (path.as_str(), query) {
            ("/", None) => origin,
            (path, None) => format!("{origin}{path}"),
            (path, Some(query)) => format!("{origin}{path}{query}"),
        })
    }

    /// Reads a `resource` parameter (RFC 8707 §2). The comparison of scheme and host ignores case. A trailing
    /// slash or a query makes no difference. The scheme, host and port must match a protected host.
    pub fn parse(&self, text: &str) -> Result<ResourceUri, UnknownResource> {
        let (text, query) = text.split_once('?').unwrap_or((text, ""));
        ResourceQuery::parse(query).map_err(|_| UnknownResource)?;
        let url = Url::parse(text).map_err(|_| UnknownResource)?;
        let (_, after_scheme) = text.split_once("://").ok_or(UnknownResource)?;
        let path_at = after_scheme.find('/').unwrap_or(after_scheme.len());
        let (authority, path) = after_scheme.split_at_checked(path_at).ok_or(UnknownResource)?;
        let plain = url.fragment().is_none() && !authority.contains('@');
        // The path is taken from the text, because a URL parser would resolve the dot segments and escapes
        // that are refused here.
        let path = if path.is_empty() { "/" } else { path };
        let path = UnambiguousPath::of_target(path).map_err(|_| UnknownResource)?;
        let (host, _) = split_authority(authority).map_err(|_| UnknownResource)?;
        let resource = self.resource(&host, &path).ok_or(UnknownResource)?;
        let same_origin = Url::parse(resource.as_str()).is_ok_and(|ours| ours.origin() == url.origin());
        if plain && same_origin { Ok(resource) } else { Err(UnknownResource) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn hosts() -> ProtectedHosts {
        ProtectedHosts::new(
            Scheme::Https,
            vec!["mcp.example.com".parse().unwrap(), "*.tools.example:8443".parse().unwrap()],
        )
    }

    fn parsed(text: &str) -> Option<String> {
        hosts().parse(text).ok().map(|resource| resource.to_string())
    }

    #[test]
    fn resources_have_one_spelling() {
        for text in [
            "https://mcp.example.com/mcp",
            "HTTPS://MCP.Example.com/mcp",
            "https://mcp.example.com/mcp/",
            "https://mcp.example.com:443/mcp",
            "https://mcp.example.com/mcp?toolset=a",
            "https://mcp.example.com/mcp/?x=https://u@other.example//../%2e",
            "https://mcp.example.com/mcp?",
        ] {
            assert_eq!(parsed(text).as_deref(), Some("https://mcp.example.com/mcp"), "{text}");
        }
        for text in ["https://mcp.example.com", "https://mcp.example.com/", "https://mcp.example.com?x"] {
            assert_eq!(parsed(text).as_deref(), Some("https://mcp.example.com"), "{text}");
        }
        assert_eq!(
            parsed("https://time.tools.example:8443/mcp").as_deref(),
            Some("https://time.tools.example:8443/mcp")
        );
    }

    #[test]
    fn a_document_is_about_the_url_that_its_own_was_made_from() {
        let hosts = hosts();
        let (host, _) = split_authority("mcp.example.com").unwrap();
        for (path, query, metadata, described) in [
            ("/mcp", "", "/mcp", "/mcp"),
            ("/mcp", "toolset=a", "/mcp?toolset=a", "/mcp?toolset=a"),
            ("/mcp/", "", "/mcp/", "/mcp/"),
            ("/", "", "", ""),
            ("/", "x", "?x", "/?x"),
        ] {
            let path = UnambiguousPath::of_target(path).unwrap();
            let query = ResourceQuery::parse(query).unwrap();
            let url = hosts.metadata_url(&host, &path, query);
            assert_eq!(url, format!("https://mcp.example.com{WELL_KNOWN}{metadata}"));
            let described_url = hosts.described(&host, &path, query).unwrap();
            assert_eq!(described_url, format!("https://mcp.example.com{described}"));
            assert_eq!(hosts.parse(&described_url).ok(), hosts.resource(&host, &path));
        }
    }

    #[test]
    fn an_operator_spells_a_resource_as_clients_do() {
        for text in ["HTTPS://MCP.Example.com:443/mcp/", "https://mcp.example.com/mcp"] {
            assert_eq!(ResourceUri::well_formed(text), Ok(hosts().parse(text).unwrap()), "{text}");
        }
        for text in [
            "",
            "mcp",
            "ftp://a.example/",
            "https://a.example/?x",
            "https://u@a.example/",
            "https://a.example/../x",
        ] {
            assert_eq!(ResourceUri::well_formed(text), Err(NotAResource), "{text}");
        }
    }

    #[test]
    fn host_and_path_are_read_back() {
        let hosts = ProtectedHosts::new(
            Scheme::Http,
            vec!["[::1]:8080".parse().unwrap(), "[::2]".parse().unwrap(), "localhost:1".parse().unwrap()],
        );
        for (text, parts) in [
            ("http://[::1]:8080/mcp", ("[::1]", "/mcp")),
            ("http://[::2]/a/b:c", ("[::2]", "/a/b:c")),
            ("http://localhost:1", ("localhost", "")),
        ] {
            assert_eq!(hosts.parse(text).unwrap().host_and_path(), parts);
        }
        assert_eq!(
            self::hosts().parse("https://mcp.example.com/x").unwrap().host_and_path().0,
            "mcp.example.com"
        );
    }

    #[test]
    fn a060_what_is_not_protected_is_no_resource() {
        for text in [
            "",
            "mcp",
            "https://other.example/mcp",
            "http://mcp.example.com/mcp",
            "https://mcp.example.com:8443/mcp",
            "https://mcp.example.com/mcp#f",
            "https://mcp.example.com/mcp?x#f",
            "https://mcp.example.com/mcp#f?x",
            "https://mcp.example.com/mcp?a b",
            "https://mcp.example.com/mcp?a\"b",
            "https://other.example?.mcp.example.com/mcp",
            "https://u@mcp.example.com/mcp",
            "https://mcp.example.com/a/../mcp",
            "https://mcp.example.com//mcp",
            "https://time.tools.example/mcp",
            "https://mcp.example.com%2f/",
            "https://mcp.example.com\\@evil.example/",
            "https:mcp.example.com/mcp",
        ] {
            assert_eq!(parsed(text), None, "{text}");
        }
    }

    #[test]
    fn a_host_has_its_own_default_resource_or_none() {
        let hosts = hosts();
        let at = |defaults: &DefaultResources, host: &str| {
            let (host, _) = split_authority(host).unwrap();
            defaults.of_host(&host, &hosts).map(|resource| resource.to_string())
        };
        let listed = DefaultResources::Listed(vec![hosts.parse("https://mcp.example.com/mcp").unwrap()]);
        assert_eq!(at(&listed, "MCP.example.com:443").as_deref(), Some("https://mcp.example.com/mcp"));
        assert_eq!(at(&listed, "a.tools.example"), None);
        let whole = at(&DefaultResources::WholeHost, "a.tools.example");
        assert_eq!(whole.as_deref(), Some("https://a.tools.example:8443"));
        for defaults in [&DefaultResources::None, &DefaultResources::WholeHost, &listed] {
            assert_eq!(at(defaults, "evil.example"), None);
        }
        assert_eq!(at(&DefaultResources::None, "mcp.example.com"), None);
    }

    #[test]
    fn a061_inclusion_is_on_segment_boundary() {
        let resource = |text| hosts().parse(text).unwrap();
        let mcp = resource("https://mcp.example.com/mcp");
        assert!(mcp.includes(&resource("https://mcp.example.com/mcp/x")) && mcp.includes(&mcp));
        assert!(!mcp.includes(&resource("https://mcp.example.com/mcp-other")));
        assert!(!mcp.includes(&resource("https://mcp.example.com")));
        assert!(resource("https://mcp.example.com").includes(&mcp));
    }

    fn uri() -> impl Strategy<Value = ResourceUri> {
        let segments = prop::collection::vec("[a-b]{1,2}", 0..4);
        segments.prop_map(|segments| {
            let path = segments.into_iter().fold(String::new(), |path, segment| path + "/" + &segment);
            ResourceUri(format!("https://mcp.example{path}"))
        })
    }

    proptest! {
        #[test]
        fn a_resource_includes_what_is_below_it_by_whole_segments(a in uri(), b in uri(), c in uri()) {
            let segments = |uri: &ResourceUri| uri.0.split('/').map(str::to_owned).collect::<Vec<_>>();
            prop_assert_eq!(a.includes(&b), segments(&b).starts_with(&segments(&a)));
            prop_assert!(a.includes(&a));
            prop_assert!(!(a.includes(&b) && b.includes(&c)) || a.includes(&c));
            prop_assert!(!(a.includes(&b) && b.includes(&a)) || a == b);
        }

        #[test]
        fn what_is_read_stays_what_it_is_when_read_again(text in "(?i)https://mcp\\.example\\.com(:443)?(/[a-z%.;0-9]{0,6}){0,3}/?") {
            if let Ok(read) = hosts().parse(&text) {
                prop_assert_eq!(hosts().parse(read.as_str()), Ok(read.clone()));
                prop_assert!(!read.as_str().ends_with('/'));
            }
        }
    }
}
