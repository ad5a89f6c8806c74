//! The settings that decide who can become a client, and how long a client is kept.

use std::num::{NonZeroU32, NonZeroU64};
use std::path::Path;
use std::time::Duration;

use secrecy::SecretString;
use serde::Deserialize;

use crate::clients::documents::DocumentPolicy;
use crate::clients::hosts::{HostRule, InvalidHostRule};
use crate::domain::redirect_uri::RedirectUri;
use contract::files::{MAX_SETTING_LEN, read_regular};

use super::durations;
use super::{Environment, Lifetimes, Problems};

/// Who is allowed to register a client (RFC 7591 §3).
#[derive(Debug, Clone)]
pub enum RegistrationMode {
    /// Anyone, as MCP clients expect.
    Open,
    /// Anyone who has the initial access token in `REGISTRATION_TOKEN`.
    Token(SecretString),
    /// Nobody, because registration is disabled.
    Closed,
}

/// The settings for clients.
#[derive(Debug, Clone)]
pub struct ClientTerms {
    /// Who is allowed to register (`REGISTRATION`: `open`, `token` or `closed`, default `open`).
    pub registration: RegistrationMode,
    /// Allowed hosts of redirect URIs (`REGISTRATION_REDIRECT_HOSTS`). `*.example.com` stands for all hosts
    /// below a domain, and `localhost` for loopback. If empty, all hosts are allowed.
    pub redirect_hosts: Vec<HostRule>,
    /// Private-use schemes of desktop applications that are allowed in redirect URIs, besides https and
    /// loopback http (`REGISTRATION_REDIRECT_SCHEMES`, default `cursor,vscode,vscode-insiders,windsurf`).
    /// `none` allows no such scheme.
    pub redirect_schemes: Vec<String>,
    /// How long a client is kept if no user has ever allowed it (`CLIENT_UNUSED_TTL`, default 1 d).
    pub unused: Duration,
    /// How long an unused client is kept after its last use (`CLIENT_IDLE_TTL`, default 180 d). It must exceed
    /// `REFRESH_TOKEN_TTL`.
    pub idle: Duration,
    /// Lifetime of client secrets (`CLIENT_SECRET_TTL`, default 0). `None`, which is set as 0, means that they
    /// never expire.
    pub secret_lifetime: Option<Duration>,
    /// Maximum number of clients (`CLIENT_CEILING`, default 100000).
    pub ceiling: u64,
    /// Whether client metadata documents are supported (`CLIENT_METADATA_DOCUMENTS`: `on` or `off`, default
    /// `on`), and the hosts from which they are or are not accepted (`CLIENT_METADATA_HOSTS`,
    /// `CLIENT_METADATA_BLOCKED_HOSTS`). Hosts are written as `example.com` or `*.example.com`.
    pub documents: DocumentPolicy,
    /// Content of the PEM file with certificates that are trusted in addition to the system's when a client's
    /// document is fetched (`EXTRA_CA_FILE`).
    pub extra_roots: Option<Vec<u8>>,
    /// Maximum number of new clients per minute for one address and for one redirect host (`REGISTRATION_RATE`,
    /// default 60). The limit for all clients together is fifty times as high.
    pub rate: NonZeroU32,
}

impl ClientTerms {
    /// Maximum number of clients that no account has used.
    pub fn unused_ceiling(&self) -> u64 {
        self.ceiling.min(UNUSED_CEILING)
    }

    /// Maximum number of clients per account among those that only one to five accounts have used: one percent of
    /// the ceiling, but at least 10 and at most 200.
    pub fn sole_ceiling(&self) -> usize {
        usize::try_from(self.ceiling / 100).unwrap_or(usize::MAX).clamp(10, 200)
    }
}

const DEFAULT_CEILING: NonZeroU64 = NonZeroU64::MIN.saturating_add(99_999);

/// Maximum number of unused clients, even if `CLIENT_CEILING` is higher. At 8 kB each, they take up 80 MB.
const UNUSED_CEILING: u64 = 10_000;

#[derive(Default, Deserialize)]
struct Raw {
    registration: Option<String>,
    registration_token: Option<String>,
    registration_redirect_hosts: Option<String>,
    registration_redirect_schemes: Option<String>,
    registration_rate: Option<String>,
    client_unused_ttl: Option<String>,
    client_idle_ttl: Option<String>,
    client_secret_ttl: Option<String>,
    client_ceiling: Option<String>,
    client_metadata_documents: Option<String>,
    client_metadata_hosts: Option<String>,
    client_metadata_blocked_hosts: Option<String>,
    extra_ca_file: Option<String>,
}

const MINUTE: Duration = Duration::from_secs(60);
const DAY: Duration = Duration::from_secs(86_400);

pub(super) fn read(environment: &Environment, lifetimes: &Lifetimes, problems: &mut Problems) -> ClientTerms {
    let raw: Raw = environment.concern(problems);
    let idle =
        durations::read("CLIENT_IDLE_TTL", raw.client_idle_ttl, DAY * 180, MINUTE, DAY * 3650, problems);
    // Uses are recorded to the hour, so a client must be kept at least two hours longer than its grants.
    let is_known = !problems.has("CLIENT_IDLE_TTL") && !problems.has("REFRESH_TOKEN_TTL");
    if is_known && idle < lifetimes.refresh_token + Duration::from_secs(7200) {
        let least = lifetimes.refresh_token.as_secs() + 7200;
        problems.add_about("CLIENT_IDLE_TTL", format_args!("must exceed REFRESH_TOKEN_TTL by two hours, or clients would expire before their grants; set it to at least {least}s"));
    }
    let secret = durations::read(
        "CLIENT_SECRET_TTL",
        raw.client_secret_ttl,
        Duration::ZERO,
        Duration::ZERO,
        DAY * 3650,
        problems,
    );
    ClientTerms {
        registration: mode(raw.registration.as_deref(), raw.registration_token, problems),
        redirect_hosts: rules(
            "REGISTRATION_REDIRECT_HOSTS",
            raw.registration_redirect_hosts,
            HostRule::parse_with_address,
            problems,
        ),
        redirect_schemes: schemes(raw.registration_redirect_schemes, problems),
        unused: durations::read("CLIENT_UNUSED_TTL", raw.client_unused_ttl, DAY, MINUTE, DAY * 90, problems),
        idle,
        secret_lifetime: Some(secret).filter(|ttl| !ttl.is_zero()),
        ceiling: number("CLIENT_CEILING", raw.client_ceiling, DEFAULT_CEILING, problems).get(),
        documents: DocumentPolicy {
            allowed: rules("CLIENT_METADATA_HOSTS", raw.client_metadata_hosts, HostRule::parse, problems),
            blocked: rules("CLIENT_METADATA_BLOCKED_HOSTS", raw.client_metadata_blocked_hosts, HostRule::parse, problems),
            off: is_off(raw.client_metadata_documents.as_deref(), problems),
        },
        extra_roots: raw.extra_ca_file.and_then(|path| {
            match read_regular(Path::new(&path), MAX_SETTING_LEN) {
                Ok(content) if has_certificate(&content) => return Some(content),
                Ok(_) => {
                    problems.add("EXTRA_CA_FILE", format_args!("{path} has no certificate in PEM form; name a file that has one"));
                }
                Err(error) => problems.add(
                    "EXTRA_CA_FILE",
                    format_args!("cannot read {path}: {error}; name a file of certificates in PEM that this user can read"),
                ),
            }
            None
        }),
        rate: number(
            "REGISTRATION_RATE",
            raw.registration_rate,
            NonZeroU32::MIN.saturating_add(59),
            problems,
        ),
    }
}

fn mode(mode: Option<&str>, token: Option<String>, problems: &mut Problems) -> RegistrationMode {
    match (mode, token) {
        (None | Some("open"), None) => RegistrationMode::Open,
        (Some("closed"), _) => RegistrationMode::Closed,
        (Some("token"), Some(token)) if token.len() >= 16 => {
            RegistrationMode::Token(SecretString::from(token))
        }
        (Some("token"), _) => {
            problems.add_about("REGISTRATION_TOKEN", "must have at least 16 characters when REGISTRATION is token; `openssl rand -hex 32` makes a good one");
            RegistrationMode::Closed
        }
        (None | Some("open"), Some(_)) => {
            problems.add_about(
                "REGISTRATION_TOKEN",
                "is set, but registration is open to anyone; set REGISTRATION=token as well",
            );
            RegistrationMode::Closed
        }
        (Some(other), _) => {
            problems.add(
                "REGISTRATION",
                format_args!("{other:?} is not a registration mode; write open, token or closed"),
            );
            RegistrationMode::Closed
        }
    }
}

fn schemes(list: Option<String>, problems: &mut Problems) -> Vec<String> {
    let entries = hosts(&list.unwrap_or_else(|| "cursor,vscode,vscode-insiders,windsurf".to_owned()));
    if entries == ["none"] {
        return Vec::new();
    }
    for entry in &entries {
        // `RedirectUri` refuses schemes to which redirects are never allowed.
        if RedirectUri::try_from(format!("{entry}://application/callback")).is_err() {
            problems.add(
                "REGISTRATION_REDIRECT_SCHEMES",
                format_args!(
                    "{entry:?} is not the scheme of a desktop application; write schemes such as cursor or vscode, or none"
                ),
            );
        }
    }
    entries
}

fn rules(
    variable: &str,
    list: Option<String>,
    parse: fn(&str) -> Result<HostRule, InvalidHostRule>,
    problems: &mut Problems,
) -> Vec<HostRule> {
    let mut read = |entry: &String| match parse(entry) {
        Ok(rule) => Some(rule),
        Err(error) => {
            problems.add(variable, format_args!("{entry:?} cannot be used: {error}"));
            None
        }
    };
    hosts(&list.unwrap_or_default()).iter().filter_map(&mut read).collect()
}

fn is_off(text: Option<&str>, problems: &mut Problems) -> bool {
    match text {
        None | Some("on") => false,
        Some("off") => true,
        Some(other) => {
            problems.add(
                "CLIENT_METADATA_DOCUMENTS",
                format_args!("{other:?} is neither on nor off; write one of them"),
            );
            true
        }
    }
}

fn hosts(list: &str) -> Vec<String> {
    list.split(',').map(|host| host.trim().to_ascii_lowercase()).filter(|host| !host.is_empty()).collect()
}

fn number<T: std::str::FromStr + Copy>(
    variable: &str,
    text: Option<String>,
    default: T,
    problems: &mut Problems,
) -> T {
    let Some(text) = text else { return default };
    text.parse().unwrap_or_else(|_| {
        problems
            .add(variable, format_args!("{text:?} is not a whole number above zero; write one such as 100"));
        default
    })
}

/// Whether a file contains a certificate in PEM form (RFC 7468 §5). If it contains none, the library adds no
/// certificate and reports no error.
fn has_certificate(content: &[u8]) -> bool {
    let begin = b"-----BEGIN CERTIFICATE-----";
    content.windows(begin.len()).any(|window| window == begin)
}

#[cfg(test)]
mod tests {
    use crate::config::{Config, Problems};

    fn read(name: &str, value: &str) -> Result<Config, Problems> {
        let least = [("ISSUER", "http://localhost:8080"), ("PROTECTED_HOSTS", "localhost:8080")];
        let all = least.into_iter().chain([(name, value)]);
        Config::from_variables(all.map(|(name, value)| (name.to_owned(), value.to_owned())))
    }

    #[test]
    fn a_redirect_host_that_no_redirect_uri_can_have_is_a_problem() {
        for text in ["https://claude.ai", "claude.ai/", "localhost, claude.ai:443", "*.com"] {
            let told = read("REGISTRATION_REDIRECT_HOSTS", text).unwrap_err().to_string();
            assert!(told.contains("- REGISTRATION_REDIRECT_HOSTS: \""), "{told}");
        }
        let config =
            read("REGISTRATION_REDIRECT_HOSTS", "claude.ai, *.example.com, localhost, [::1]").unwrap();
        let hosts = config.clients.redirect_hosts;
        for host in ["claude.ai", "a.example.com", "localhost", "[::1]"] {
            assert!(hosts.iter().any(|rule| rule.matches(host)), "{host}");
        }
    }

    #[test]
    fn a_ceiling_of_no_clients_is_a_problem() {
        let told = read("CLIENT_CEILING", "0").unwrap_err().to_string();
        assert!(told.contains("CLIENT_CEILING") && told.contains("whole number above zero"), "{told}");
        assert_eq!(read("CLIENT_CEILING", "3").unwrap().clients.ceiling, 3);
        assert_eq!(read("REGISTRATION", "open").unwrap().clients.ceiling, 100_000);
    }
}
