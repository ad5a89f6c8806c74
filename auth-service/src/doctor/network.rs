//! Checks the host name, the connection, the certificate and the clock.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use reqwest::redirect::Policy;
use reqwest::{Certificate, Client};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};
use url::Url;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::domain::clock::UnixTime;

use super::{CannotExamine, Notes};

/// Remaining lifetime of a certificate, in seconds, below which it should already have been renewed.
const RENEWAL: u64 = 14 * 24 * 3600;
/// Maximum difference between clocks in seconds. With a larger one, tokens become valid too late or expire too
/// early.
const SKEW: u64 = 30;

/// The service, and how to reach it.
pub(super) struct Target {
    /// The URL without a trailing slash. This is the name of the resource.
    pub(super) url: String,
    /// Origin of the URL, such as `https://mcp.example.com`.
    pub(super) origin: String,
    /// Host and port as in the `Host` header, such as `mcp.example.com:8443`.
    pub(super) authority: String,
    /// Path of the URL, such as `/mcp`, or empty.
    pub(super) path: String,
    pub(super) host: String,
    pub(super) port: u16,
    /// HTTP client that follows no redirects and uses no proxy.
    pub(super) http: Client,
    /// For requests that no HTTP library would send. It is `None` if the URL is http.
    pub(super) tls: Option<TlsConnector>,
    /// Time limit for a response.
    pub(super) patience: Duration,
}

impl Target {
    pub(super) fn of(
        url: &Url,
        extra_roots: Option<&[u8]>,
        patience: Duration,
    ) -> Result<Self, CannotExamine> {
        let refuse = || CannotExamine::Url(url.clone());
        let is_plain =
            matches!(url.scheme(), "http" | "https") && url.query().is_none() && url.fragment().is_none();
        let (Some(host), Some(port), true) = (url.host_str(), url.port_or_known_default(), is_plain) else {
            return Err(refuse());
        };
        let path = url.path().trim_end_matches('/').to_owned();
        let origin = url.origin().ascii_serialization();
        let authority = origin.split_once("://").map(|(_, rest)| rest.to_owned()).ok_or_else(refuse)?;
        let failed = |error: &dyn std::fmt::Display| CannotExamine::Client(error.to_string());
        let builder = Client::builder().redirect(Policy::none()).no_proxy().timeout(patience);
        let builder = match extra_roots {
            Some(pem) => {
                builder.tls_certs_merge(Certificate::from_pem_bundle(pem).map_err(|error| failed(&error))?)
            }
            None => builder,
        };
        let http = builder.build().map_err(|error| failed(&error))?;
        let tls = match url.scheme() {
            "https" => Some(connector(extra_roots).map_err(|error| failed(&error))?),
            _ => None,
        };
        let host = host.to_owned();
        Ok(Self { url: format!("{origin}{path}"), origin, authority, path, host, port, http, tls, patience })
    }

    /// The path of the URL as a request target, which is never empty.
    pub(super) fn request_path(&self) -> &str {
        if self.path.is_empty() { "/" } else { &self.path }
    }

    /// Opens a TCP connection to the service, without TLS.
    pub(super) async fn dial(&self) -> std::io::Result<TcpStream> {
        let address = (self.host.trim_matches(['[', ']']), self.port);
        tokio::time::timeout(self.patience, TcpStream::connect(address)).await?
    }
}

/// Creates a TLS connector that trusts the system's certificates and the extra ones.
fn connector(extra_roots: Option<&[u8]>) -> Result<TlsConnector, Box<dyn std::error::Error>> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    for certificate in CertificateDer::pem_slice_iter(extra_roots.unwrap_or_default()) {
        roots.add(certificate?)?;
    }
    let provider = Arc::new(aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(config)))
}

/// Looks up the addresses of the host.
pub(super) async fn resolve(target: &Target, notes: &mut Notes<'_>) -> Option<Vec<IpAddr>> {
    let name = target.host.trim_matches(['[', ']']).to_owned();
    let found =
        tokio::time::timeout(target.patience, tokio::net::lookup_host((name.as_str(), target.port))).await;
    let mut addresses: Vec<IpAddr> = match found {
        Ok(Ok(addresses)) => addresses.map(|address: SocketAddr| address.ip()).collect(),
        Ok(Err(_)) | Err(_) => Vec::new(),
    };
    addresses.sort();
    addresses.dedup();
    if addresses.is_empty() {
        notes.problem(
            "dns",
            format!("{name} has no address"),
            "clients cannot find the service",
            "add an A or AAAA record for the host that points at the edge proxy",
        );
        return None;
    }
    let list: Vec<String> = addresses.iter().map(ToString::to_string).collect();
    notes.fine("dns", format!("{name} is {}", list.join(", ")));
    Some(addresses)
}

/// Whether the edge responds and, if the URL is https, has a certificate that clients accept. Warns if the
/// certificate expires soon.
pub(super) async fn connect(target: &Target, now: UnixTime, notes: &mut Notes<'_>) -> bool {
    let stream = match target.dial().await {
        Ok(stream) => stream,
        Err(error) => {
            notes.problem(
                "connection",
                format!("{} does not respond: {error}", target.authority),
                "clients cannot reach the service",
                "start the edge proxy, open its port in the firewall, and make sure that the host's address \
                 is the edge's",
            );
            return false;
        }
    };
    notes.fine("connection", format!("{} answers", target.authority));
    let Some(connector) = &target.tls else {
        if target.host != "localhost" && !target.host.ends_with(".localhost") && !is_loopback(&target.host) {
            notes.problem(
                "tls",
                "the URL is plain http",
                "anyone on the network can read tokens, and MCP clients refuse the service",
                "give the edge a certificate and use https; plain http is only for this machine",
            );
        }
        return true;
    };
    let Ok(name) = ServerName::try_from(target.host.trim_matches(['[', ']']).to_owned()) else {
        return false;
    };
    match tokio::time::timeout(target.patience, connector.connect(name, stream)).await {
        Ok(Ok(stream)) => {
            let chain = stream.get_ref().1.peer_certificates().unwrap_or_default();
            expiry(chain.first().map(AsRef::as_ref), now, notes);
            true
        }
        failed => {
            let reason = match failed {
                Ok(Err(error)) => error.to_string(),
                _ => "no response in time".to_owned(),
            };
            notes.problem(
                "tls",
                format!("the certificate or handshake is refused: {reason}"),
                "clients refuse to connect",
                "serve a certificate for this host that has not expired, with its whole chain, from an authority that clients trust (or name your own with --ca-file)",
            );
            false
        }
    }
}

fn is_loopback(host: &str) -> bool {
    host.trim_matches(['[', ']']).parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

fn expiry(certificate: Option<&[u8]>, now: UnixTime, notes: &mut Notes<'_>) {
    let ends = certificate
        .and_then(|der| X509Certificate::from_der(der).ok())
        .and_then(|(_, certificate)| u64::try_from(certificate.validity().not_after.timestamp()).ok());
    let Some(ends) = ends else { return };
    let left = Duration::from_secs(ends.saturating_sub(now.0)).as_secs();
    let days = left / 86_400;
    if left < RENEWAL {
        notes.warning(
            "tls",
            format!("the certificate expires in {days} days"),
            "clients will refuse to connect after that",
            "renew it; a working ACME client renews it a month before it expires",
        );
    } else {
        notes.fine("tls", format!("the certificate is trusted, and valid for {days} days"));
    }
}

/// Compares the clock of the edge with the clock of this machine.
pub(super) async fn clock(target: &Target, now: UnixTime, notes: &mut Notes<'_>) {
    let Ok(response) = target.http.get(&target.url).send().await else { return };
    let date = response.headers().get("date").and_then(|value| value.to_str().ok());
    let Some(there) = date.and_then(http_date) else {
        return notes.warning(
            "clock",
            "the edge sends no Date header",
            "its clock cannot be compared with that of this machine",
            "make the edge send the Date header (RFC 9110 §6.6.1)",
        );
    };
    let apart = there.abs_diff(now.0);
    if apart > SKEW {
        notes.problem(
            "clock",
            format!("the clock of the edge differs by {apart} seconds from the clock of this machine"),
            "tokens and assertions are treated as expired or not yet valid",
            "run NTP on both machines",
        );
    } else {
        notes.fine("clock", format!("the clocks agree within {SKEW} seconds"));
    }
}

/// Reads an HTTP date such as `Sun, 06 Nov 1994 08:49:37 GMT`, as seconds since 1970.
fn http_date(text: &str) -> Option<u64> {
    use time::format_description::well_known::Rfc2822;
    let moment = time::OffsetDateTime::parse(&text.replace("GMT", "+0000"), &Rfc2822).ok()?;
    u64::try_from(moment.unix_timestamp()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_of_http_are_read() {
        assert_eq!(http_date("Sun, 06 Nov 1994 08:49:37 GMT"), Some(784_111_777));
        assert_eq!(http_date("yesterday"), None);
    }

    #[test]
    fn only_the_url_of_a_service_is_examined() {
        let target = |text: &str| Target::of(&Url::parse(text).unwrap(), None, Duration::from_secs(1));
        let good = target("https://MCP.example.com:8443/mcp/").ok().unwrap();
        assert_eq!((good.url.as_str(), good.path.as_str()), ("https://mcp.example.com:8443/mcp", "/mcp"));
        assert_eq!(good.authority, "mcp.example.com:8443");
        for text in ["ftp://a/mcp", "https://a/mcp?x", "https://a/mcp#x", "mailto:a@b"] {
            assert!(target(text).is_err(), "{text}");
        }
    }
}
