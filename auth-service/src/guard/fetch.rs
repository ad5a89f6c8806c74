//! Fetches a document from a URL that a stranger has chosen, without allowing server-side request forgery (attacks
//! 49 and 50).
//!
//! The URL must be https. Redirects are not followed, no proxy is used, and size and time are limited. This module
//! resolves names itself, and every address of a name must be public. The connection uses one of these addresses,
//! so a second lookup cannot return a different one.

use std::fmt;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::sync::Arc;
use std::time::Duration;

use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::header::{ACCEPT, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, HeaderMap};
use reqwest::redirect::Policy;
use reqwest::{Certificate, Client, StatusCode};
use tokio::sync::Semaphore;
use url::{Host, Url};

use crate::threads;
use contract::causes::in_one_line;

use super::addresses::is_public;
use super::in_flight::InFlight;

/// Time limit of a whole fetch, from the name lookup to the last byte
/// (draft-ietf-oauth-client-id-metadata-document).
const TIMEOUT: Duration = Duration::from_secs(5);

/// Maximum number of concurrent name lookups in each lane. A lookup occupies a thread while the system's resolver
/// waits for a name server, which can be longer than the time limit of a fetch.
const LOOK_UPS: usize = 12;
/// Maximum number of concurrent lookups of one name, so that a slow name server occupies only a few threads.
const LOOK_UPS_OF_ONE: u32 = 3;

/// Fetches documents from URLs that strangers have chosen.
#[derive(Debug, Clone)]
pub struct Fetcher {
    strangers: Client,
    known: Client,
    loopback: Loopback,
}

/// A group of fetches that share name lookups and connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lane {
    /// Fetches of URLs that anybody might have made up.
    Strangers,
    /// Fetches for clients in use, and for users who are logged in.
    Known,
}

/// Whether documents can also be fetched from loopback addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loopback {
    /// Loopback addresses are refused. This applies to every deployment in production.
    Refused,
    /// Loopback addresses are accepted, because the authorization server itself runs on loopback for
    /// development.
    Allowed,
}

/// A document that has been fetched but not parsed.
#[derive(Debug, Clone)]
pub struct Fetched {
    /// The content of the document.
    pub body: Vec<u8>,
    /// `max-age` of the `Cache-Control` header in seconds, or 0 if the document must not be stored.
    pub max_age: Option<u64>,
}

/// Why a document could not be fetched.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FetchError {
    /// The URL is not https, has a user name or password, or has a port that is not allowed.
    #[error("it is not an https URL on port 443 or above 1023, without user name and password")]
    Url,
    /// The host is not on the public internet.
    #[error("its host is not on the public internet")]
    Address,
    /// There was no response within the time limit.
    #[error("it cannot be reached within {} seconds: no such name, no connection, or no trusted certificate", TIMEOUT.as_secs())]
    Unreachable,
    /// The status is not 200. Redirects are not followed.
    #[error("its status is {0} instead of 200")]
    Status(u16),
    /// The Content-Type is not JSON.
    #[error("its Content-Type is not application/json")]
    ContentType,
    /// The document is larger than the limit, in bytes.
    #[error("it has more than {0} bytes")]
    TooLarge(usize),
}

/// The HTTPS client could not be created, for example because a root certificate is invalid.
#[derive(Debug, thiserror::Error)]
#[error(
    "no HTTPS client can be created: {0}. Check EXTRA_CA_FILE, SSL_CERT_FILE and SSL_CERT_DIR, and the certificates of the system"
)]
pub struct NoFetcher(String);

impl Fetcher {
    /// Creates a fetcher that trusts the system's root certificates and those in `extra_roots`, in PEM.
    pub fn new(loopback: Loopback, extra_roots: Option<&[u8]>) -> Result<Self, NoFetcher> {
        let failed = |error: reqwest::Error| NoFetcher(in_one_line(&error));
        let roots = extra_roots.map(Certificate::from_pem_bundle).transpose().map_err(failed)?;
        let client = || {
            let resolver = CheckedResolver::new(loopback);
            let builder = Client::builder()
                .dns_resolver(Arc::new(resolver))
                .https_only(true)
                .redirect(Policy::none())
                .no_proxy()
                .referer(false)
                .timeout(TIMEOUT)
                .connect_timeout(TIMEOUT)
                .pool_max_idle_per_host(0)
                .user_agent(concat!("mcp-gate/", env!("CARGO_PKG_VERSION")));
            match &roots {
                Some(roots) => builder.tls_certs_merge(roots.clone()).build(),
                None => builder.build(),
            }
        };
        let (strangers, known) = (client().map_err(failed)?, client().map_err(failed)?);
        Ok(Self { strangers, known, loopback })
    }

    /// Checks whether [`Fetcher::json`] would fetch the URL, without sending anything.
    pub fn check(&self, url: &Url) -> Result<(), FetchError> {
        check_url(url, self.loopback)
    }

    /// Fetches a JSON document of at most `limit` bytes.
    pub async fn json(&self, url: &Url, limit: usize, lane: Lane) -> Result<Fetched, FetchError> {
        self.check(url)?;
        let client = match lane {
            Lane::Strangers => &self.strangers,
            Lane::Known => &self.known,
        };
        let request = client.get(url.clone()).header(ACCEPT, "application/json");
        let mut response = request.send().await.map_err(|error| reason(&error))?;
        if response.status() != StatusCode::OK {
            return Err(FetchError::Status(response.status().as_u16()));
        }
        if !is_json(response.headers()) {
            return Err(FetchError::ContentType);
        }
        if declared_length(response.headers()).is_some_and(|length| length > limit) {
            return Err(FetchError::TooLarge(limit));
        }
        let max_age = max_age(response.headers());
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|error| reason(&error))? {
            if body.len() + chunk.len() > limit {
                return Err(FetchError::TooLarge(limit));
            }
            body.extend_from_slice(&chunk);
        }
        Ok(Fetched { body, max_age })
    }
}

fn check_url(url: &Url, loopback: Loopback) -> Result<(), FetchError> {
    let port = url.port().unwrap_or(443);
    let plain = url.scheme() == "https"
        && url.username().is_empty()
        && url.password().is_none()
        && (port == 443 || port > 1023);
    if !plain {
        return Err(FetchError::Url);
    }
    // An IP address in the URL is checked here, because it never reaches the resolver.
    let literal = match url.host() {
        Some(Host::Ipv4(address)) => Some(IpAddr::V4(address)),
        Some(Host::Ipv6(address)) => Some(IpAddr::V6(address)),
        Some(Host::Domain(_)) => None,
        None => return Err(FetchError::Url),
    };
    match literal {
        Some(address) if !may_reach(address, loopback) => Err(FetchError::Address),
        _ => Ok(()),
    }
}

fn may_reach(address: IpAddr, loopback: Loopback) -> bool {
    is_public(address) || (loopback == Loopback::Allowed && address.is_loopback())
}

/// Resolves names to allowed addresses. Resolving fails if any address of a name is forbidden.
struct CheckedResolver {
    loopback: Loopback,
    places: Arc<Semaphore>,
    names: InFlight<String>,
}

impl CheckedResolver {
    fn new(loopback: Loopback) -> Self {
        Self { loopback, places: Arc::new(Semaphore::new(LOOK_UPS)), names: InFlight::new(LOOK_UPS_OF_ONE) }
    }
}

/// The error for a name with a forbidden address. [`reason`] finds it in the chain of causes.
#[derive(Debug)]
struct ForbiddenAddress;

impl fmt::Display for ForbiddenAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the name has an address that is not on the public internet")
    }
}

impl std::error::Error for ForbiddenAddress {}

impl Resolve for CheckedResolver {
    fn resolve(&self, name: Name) -> Resolving {
        let (loopback, places) = (self.loopback, Arc::clone(&self.places));
        let of_this_name = self.names.enter_as(name.as_str().to_owned());
        Box::pin(async move {
            let of_this_name = of_this_name?;
            let place = places.acquire_owned().await?;
            // The thread releases the slot, because the lookup continues if its caller stops waiting.
            let look_up = move || {
                let found = (name.as_str(), 0).to_socket_addrs().map(Iterator::collect);
                drop((place, of_this_name));
                found
            };
            let found: Vec<SocketAddr> = threads::beside("look-up", "a name lookup", look_up).await??;
            // A single forbidden address is an error, because an attacker could mix allowed and forbidden
            // addresses and wait until a fetch uses a forbidden one.
            if found.is_empty() || !found.iter().all(|address| may_reach(address.ip(), loopback)) {
                return Err(Box::from(ForbiddenAddress));
            }
            Ok(Box::new(found.into_iter()) as Addrs)
        })
    }
}

fn reason(error: &reqwest::Error) -> FetchError {
    let mut cause: Option<&dyn std::error::Error> = Some(error);
    while let Some(current) = cause {
        if current.is::<ForbiddenAddress>() {
            return FetchError::Address;
        }
        cause = current.source();
    }
    FetchError::Unreachable
}

fn header<'a>(headers: &'a HeaderMap, name: &reqwest::header::HeaderName) -> &'a str {
    headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
}

fn is_json(headers: &HeaderMap) -> bool {
    let essence =
        header(headers, &CONTENT_TYPE).split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    essence == "application/json" || (essence.starts_with("application/") && essence.ends_with("+json"))
}

fn declared_length(headers: &HeaderMap) -> Option<usize> {
    header(headers, &CONTENT_LENGTH).parse().ok()
}

/// Reads the directives of `Cache-Control` (RFC 9111 §5.2.2) that matter for a single document.
fn max_age(headers: &HeaderMap) -> Option<u64> {
    let directives: Vec<String> = header(headers, &CACHE_CONTROL)
        .split(',')
        .map(|directive| directive.trim().to_ascii_lowercase())
        .collect();
    if directives.iter().any(|directive| directive == "no-store" || directive == "no-cache") {
        return Some(0);
    }
    directives.iter().find_map(|directive| directive.strip_prefix("max-age=")?.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(url: &str) -> Result<(), FetchError> {
        check_url(&Url::parse(url).unwrap(), Loopback::Refused)
    }

    #[test]
    fn a050_addresses_and_ports_in_a_url_are_checked_before_anything_is_sent() {
        for url in [
            "http://a.example/x",
            "https://u@a.example/x",
            "https://u:p@a.example/x",
            "https://a.example:22/x",
            "https://a.example:1023/x",
            "ftp://a.example/x",
        ] {
            assert_eq!(checked(url), Err(FetchError::Url), "{url}");
        }
        for url in [
            "https://127.0.0.1/x",
            "https://2130706433/x",
            "https://0x7f.1/x",
            "https://0177.0.0.1/x",
            "https://127.1/x",
            "https://[::1]/x",
            "https://[::ffff:127.0.0.1]/x",
            "https://169.254.169.254/x",
            "https://[fd00:ec2::254]/x",
            "https://0/x",
            "https://[::]/x",
            "https://127.0.0.1./x",
        ] {
            assert_eq!(checked(url), Err(FetchError::Address), "{url}");
        }
        for url in ["https://a.example/x", "https://a.example:8443/x", "https://1.1.1.1/x"] {
            assert_eq!(checked(url), Ok(()), "{url}");
        }
    }

    #[actix_web::test]
    async fn a050_a_name_that_leads_inside_is_not_connected_to() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let fetcher = Fetcher::new(Loopback::Refused, None).unwrap();
        let url = Url::parse(&format!("https://localhost:{port}/x")).unwrap();
        assert_eq!(fetcher.json(&url, 100, Lane::Strangers).await.unwrap_err(), FetchError::Address);
        // Some resolvers accept the name with a trailing dot, and others do not.
        let dotted = Url::parse(&format!("https://localhost.:{port}/x")).unwrap();
        assert!(matches!(
            fetcher.json(&dotted, 100, Lane::Strangers).await,
            Err(FetchError::Address | FetchError::Unreachable)
        ));
        let reached = tokio::time::timeout(Duration::from_millis(100), listener.accept()).await;
        assert!(reached.is_err(), "the listener was reached");
    }

    #[actix_web::test]
    async fn a050_one_name_takes_few_of_the_look_ups() {
        let resolver = CheckedResolver::new(Loopback::Allowed);
        let look_up = |name: &str| resolver.resolve(name.parse().unwrap());
        let under_way: Vec<_> = (0..LOOK_UPS_OF_ONE).map(|_| look_up("localhost")).collect();
        assert!(look_up("localhost").await.is_err());
        assert!(look_up("127.0.0.1").await.is_ok(), "another name has its own slots");
        drop(under_way);
        assert!(look_up("localhost").await.is_ok());
    }

    #[test]
    fn cache_headers_and_types_are_read() {
        let headers = |name: &str, value: &str| {
            let name: reqwest::header::HeaderName = name.parse().unwrap();
            HeaderMap::from_iter([(name, value.parse().unwrap())])
        };
        assert_eq!(max_age(&headers("cache-control", "public, Max-Age=60")), Some(60));
        assert_eq!(max_age(&headers("cache-control", "max-age=60, no-store")), Some(0));
        assert_eq!(max_age(&headers("cache-control", "max-age=soon")), None);
        for (value, json) in [
            ("application/json", true),
            ("Application/JSON; charset=utf-8", true),
            ("application/ld+json", true),
            ("text/html", false),
            ("text/json", false),
            ("text/plain", false),
            ("text/plain; charset=utf-8", false),
            ("application/octet-stream", false),
            ("", false),
        ] {
            assert_eq!(is_json(&headers("content-type", value)), json, "{value}");
        }
    }
}
