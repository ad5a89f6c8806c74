//! Settings. They are read from the environment once, at startup, and all problems are reported together.

mod admission;
mod browsers;
mod clients;
mod dpop;
mod durations;
mod environment;
mod grants;
mod lifetimes;
mod listeners;
mod observability;
mod roots;
mod signing;
mod site;
mod storage;
mod trusted_edge;
mod trusted_issuers;

use std::collections::BTreeSet;
use std::fmt;
use std::net::SocketAddr;

use contract::settings::Misspelt;

pub use clients::{ClientTerms, RegistrationMode};
pub use grants::Grants;
pub use lifetimes::Lifetimes;
pub use listeners::Listeners;
pub use observability::{LogFormat, Observability};
pub use site::Site;
pub use storage::Storage;
pub use trusted_edge::TrustedEdge;
pub use trusted_issuers::TrustedIssuer;

use crate::domain::origin::AllowedOrigins;
use crate::domain::resource::ProtectedHosts;
use crate::dpop::DpopMode;
use crate::keys::set::RotationTerms;
use crate::policy::{LoadError, PolicySource};

use environment::Environment;

/// All settings of the service.
#[derive(Debug, Clone)]
pub struct Config {
    /// The addresses on which the service listens.
    pub listeners: Listeners,
    /// The issuer and the protected hosts.
    pub site: Site,
    /// The store and its keys.
    pub storage: Storage,
    /// The proxies whose checks are answered.
    pub trusted_edge: TrustedEdge,
    /// The web pages that are allowed to call the protected services.
    pub allowed_origins: AllowedOrigins,
    /// The users who are admitted to the services, and the policy file.
    pub policy: PolicySource,
    /// The rules for registration, and how long clients are kept.
    pub clients: ClientTerms,
    /// The grant types that the server supports.
    pub grants: Grants,
    /// The issuers whose assertions about users are accepted.
    pub trusted_issuers: Vec<TrustedIssuer>,
    /// The lifetimes of tokens, codes and sessions.
    pub lifetimes: Lifetimes,
    /// The signature algorithm for tokens, and the schedule of key rotation.
    pub signing: RotationTerms,
    /// Whether tokens can be bound to keys of clients (DPoP).
    pub dpop: DpopMode,
    /// The format and filter of the log.
    pub observability: Observability,
    /// One sentence for each variable that might be a misspelt setting.
    pub doubts: Vec<String>,
}

/// All problems with the settings. Each names the variable, the cause and the fix.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Problems {
    found: Vec<String>,
    /// The variables that have a problem.
    about: BTreeSet<String>,
    /// The settings that were given, but whose value is unknown, because their file cannot be read or their name is
    /// misspelt. This has been reported as a problem, so a missing or wrong value must not be reported as well.
    unknown: BTreeSet<String>,
    /// One sentence for each variable that might be a misspelt setting. These are reported together with the
    /// problems, but are not problems themselves.
    doubts: Vec<String>,
}

impl Problems {
    /// Adds a problem with the value of a variable.
    fn add(&mut self, variable: &str, problem: impl fmt::Display) {
        self.note(variable, format!("{variable}: {problem}"));
    }

    /// Adds a problem that is phrased as a predicate of the variable, such as `is not set`.
    fn add_about(&mut self, variable: &str, predicate: impl fmt::Display) {
        self.note(variable, format!("{variable} {predicate}"));
    }

    fn note(&mut self, variable: &str, problem: String) {
        if !self.unknown.contains(variable) {
            self.about.insert(variable.to_owned());
            self.found.push(problem);
        }
    }

    /// Adds a problem with the name of a variable. `is_given` returns whether a setting is also given correctly spelt.
    fn add_misspelt(&mut self, misspelt: &Misspelt, is_given: impl Fn(&str) -> bool) {
        self.found.push(misspelt.to_string());
        self.unknown.extend(misspelt.meant.iter().filter(|meant| !is_given(meant)).cloned());
    }

    /// Whether the value of a setting is wrong or unknown. Checks that combine it with other settings are then
    /// skipped.
    fn has(&self, variable: &str) -> bool {
        self.about.contains(variable) || self.unknown.contains(variable)
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = self.found.len();
        write!(f, "the settings have {count} problem{}:", if count == 1 { "" } else { "s" })?;
        let sentences = self.found.iter().chain(&self.doubts);
        // Continuation lines are indented, so that they do not look like separate problems.
        sentences.map(|sentence| sentence.replace('\n', "\n    ")).try_for_each(|it| write!(f, "\n  - {it}"))
    }
}

impl std::error::Error for Problems {}

impl Config {
    /// Reads all settings from `variables`. Each can also be given as `NAME_FILE`, the path of a file that
    /// contains the value.
    pub fn from_variables(variables: impl IntoIterator<Item = (String, String)>) -> Result<Self, Problems> {
        Self::read(variables, |_, _| Ok(()))
    }

    /// Like [`Config::from_variables`], for a service that is about to start. The service must not start with an
    /// unusable policy file, so the problems with this file are reported together with all others.
    pub fn to_serve(variables: impl IntoIterator<Item = (String, String)>) -> Result<Self, Problems> {
        Self::read(variables, PolicySource::check)
    }

    fn read(
        variables: impl IntoIterator<Item = (String, String)>,
        check: impl FnOnce(&PolicySource, Option<&ProtectedHosts>) -> Result<(), LoadError>,
    ) -> Result<Self, Problems> {
        let mut problems = Problems::default();
        let environment = Environment::new(variables, &mut problems);
        let listeners = listeners::read(&environment, &mut problems);
        let site = site::read(&environment, &mut problems);
        let storage = storage::read(&environment, &mut problems);
        let trusted_edge = trusted_edge::read(&environment, &mut problems);
        let allowed_origins = browsers::read(&environment, &mut problems);
        let policy = admission::read(&environment, &mut problems);
        if let Err(error) = check(&policy, site.as_ref().map(|site| &site.protected_hosts)) {
            problems.add("POLICY_FILE", error);
        }
        let lifetimes = lifetimes::read(&environment, &mut problems);
        let clients = clients::read(&environment, &lifetimes, &mut problems);
        let signing = signing::read(&environment, &mut problems);
        let dpop = dpop::read(&environment, &mut problems);
        let trusted_issuers = trusted_issuers::read(&environment, &mut problems);
        let grants = grants::read(&environment, !trusted_issuers.is_empty(), &mut problems);
        let observability = observability::read(&environment, &mut problems);
        match site {
            Some(site) if problems.found.is_empty() => Ok(Self {
                doubts: problems.doubts,
                listeners,
                site,
                storage,
                trusted_edge,
                allowed_origins,
                policy,
                clients,
                grants,
                trusted_issuers,
                lifetimes,
                signing,
                dpop,
                observability,
            }),
            _ => Err(problems),
        }
    }

    /// Reads only the settings for policy: the policy source, and the protected hosts if they are set.
    pub fn policy_from_variables(
        variables: impl IntoIterator<Item = (String, String)>,
    ) -> Result<(PolicySource, Option<ProtectedHosts>), Problems> {
        let mut problems = Problems::default();
        let environment = Environment::new(variables, &mut problems);
        let source = admission::read(&environment, &mut problems);
        let hosts = site::read_hosts(&environment, &mut problems);
        if problems.found.is_empty() { Ok((source, hosts)) } else { Err(problems) }
    }

    /// Reads only `OPS_LISTEN`, the address where a running service responds to health checks.
    pub fn ops_listen_from_variables(
        variables: impl IntoIterator<Item = (String, String)>,
    ) -> Result<SocketAddr, Problems> {
        let mut problems = Problems::default();
        let ops =
            variables.into_iter().filter(|(name, _)| ["OPS_LISTEN", "OPS_LISTEN_FILE"].contains(&&**name));
        let environment = Environment::new(ops, &mut problems);
        let listeners = listeners::read(&environment, &mut problems);
        if problems.found.is_empty() { Ok(listeners.ops) } else { Err(problems) }
    }

    /// Reads only the settings of the store and of signing keys, which are all that operator commands need.
    pub fn storage_from_variables(
        variables: impl IntoIterator<Item = (String, String)>,
    ) -> Result<(Storage, RotationTerms), Problems> {
        let mut problems = Problems::default();
        let environment = Environment::new(variables, &mut problems);
        let storage = storage::read(&environment, &mut problems);
        let signing = signing::read(&environment, &mut problems);
        if problems.found.is_empty() { Ok((storage, signing)) } else { Err(problems) }
    }

    /// Reads the log settings, for an operator command that runs without the service.
    pub fn log_from_variables(
        variables: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Observability, Problems> {
        let mut problems = Problems::default();
        let environment = Environment::new(variables, &mut problems);
        let observability = observability::read(&environment, &mut problems);
        if problems.found.is_empty() { Ok(observability) } else { Err(problems) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(variables: &[(&str, &str)]) -> Result<Config, Problems> {
        Config::from_variables(
            variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())),
        )
    }

    const LEAST: [(&str, &str); 2] =
        [("ISSUER", "http://localhost:8080"), ("PROTECTED_HOSTS", "localhost:8080")];

    #[test]
    fn two_settings_are_enough() {
        let config = read(&LEAST).unwrap();
        assert_eq!(config.listeners.public.to_string(), "127.0.0.1:9000");
        assert_eq!(config.lifetimes.access_token.as_secs(), 3600);
    }

    #[test]
    fn every_problem_is_in_one_list_that_names_the_variable() {
        let problems = read(&[
            ("ISSUER", "http://auth.example.com"),
            ("PROTECTED_HOSTS", "a b"),
            ("PUBLIC_LISTEN", "nowhere"),
            ("TRUSTED_PROXIES", "10.0.0.0/99"),
            ("ACCESS_TOKEN_TTL", "soon"),
            ("STORE_KEY", "short"),
            ("STORE_KEY_PREVIOUS", "short"),
            ("LOG_FORMAT", "xml"),
            ("RUST_LOG", "inof"),
            ("SIGNING_ALGORITHM", "HS256"),
            ("DPOP", "maybe"),
            ("SIGNING_KEY_LEAD", "1s"),
            ("SIGNING_KEY_PERIOD", "soon"),
            ("EDGE_SECRET", "x"),
            ("ALLOWED_ORIGINS", "https://a.example/x"),
            ("REDIS_URL", "http://localhost"),
            ("EDGE_SECRET_FILE", "/nonexistent"),
        ]);
        let text = problems.unwrap_err().to_string();
        for variable in [
            "ISSUER",
            "PROTECTED_HOSTS",
            "PUBLIC_LISTEN",
            "TRUSTED_PROXIES",
            "ALLOWED_ORIGINS",
            "ACCESS_TOKEN_TTL",
            "STORE_KEY",
            "STORE_KEY_PREVIOUS",
            "LOG_FORMAT",
            "RUST_LOG",
            "SIGNING_ALGORITHM",
            "DPOP",
            "SIGNING_KEY_LEAD",
            "SIGNING_KEY_PERIOD",
        ] {
            assert!(text.contains(&format!("- {variable}: ")), "{variable} in {text}");
        }
        assert!(text.contains("- EDGE_SECRET_FILE is set together with EDGE_SECRET; "), "{text}");
        assert!(text.contains("- REDIS_URL is not the address of a Redis; "), "{text}");
    }

    #[test]
    fn one_mistake_is_one_problem() {
        let redis = ("REDIS_URL", "redis://redis");
        let with = |given: &[(&'static str, &'static str)]| [&LEAST[1..], given].concat();
        for given in [
            vec![("ISSUER_FILE", "/nonexistent"), LEAST[1]],
            vec![("ISSUER_FILE", "/nonexistent"), LEAST[0], LEAST[1]],
            vec![("PROTECTED_HOST", "localhost:8080"), LEAST[0]],
            vec![("PROTECTED_HOSTS_FILE", "/nonexistent"), LEAST[0]],
            with(&[LEAST[0], redis, ("STORE_KEY_FILE", "/nonexistent")]),
            with(&[LEAST[0], redis, ("STORE_KEYS", "x")]),
            with(&[LEAST[0], ("REGISTRATION", "token"), ("REGISTRATION_TOKEN_FILE", "/nonexistent")]),
            with(&[LEAST[0], ("TRUSTED_PROXIES", "0.0.0.0/0"), ("EDGE_SECRET_FILE", "/nonexistent")]),
            with(&[LEAST[0], ("CLIENT_IDLE_TTL", "2d"), ("REFRESH_TOKEN_TTL", "a day")]),
            with(&[LEAST[0], ("CLIENT_IDLE_TTL", "a year")]),
            with(&[LEAST[0], ("SIGNING_KEY_LEAD", "an hour"), ("SIGNING_KEY_PERIOD", "1m")]),
            with(&[LEAST[0], ("PUBLIC_LISTEN", "8000"), ("EDGE_LISTEN", "127.0.0.1:9000")]),
            with(&[("ISSUER", "http://auth.example.com"), ("DEFAULT_RESOURCE", "http://localhost:8080/mcp")]),
            vec![
                ("ISSUER", "https://localhost:8080"),
                ("PROTECTED_HOSTS", "a b"),
                ("DEFAULT_RESOURCE", "https://a/mcp"),
            ],
        ] {
            let told = read(&given).unwrap_err().to_string();
            assert!(told.contains("have 1 problem:"), "{given:?}: {told}");
        }
    }

    #[test]
    fn redis_wants_a_key_that_all_replicas_have() {
        let redis: Vec<_> =
            LEAST.iter().copied().chain([("REDIS_URL", "redis://gate:hunter2@redis")]).collect();
        let text = read(&redis).unwrap_err().to_string();
        assert!(
            text.contains("- STORE_KEY is required with REDIS_URL") && !text.contains("hunter2"),
            "{text}"
        );
        let key = ("STORE_KEY", "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=");
        let config = read(&[redis, vec![key]].concat()).unwrap();
        assert!(config.storage.redis.is_some() && !format!("{config:?}").contains("hunter2"));
    }

    #[test]
    fn an_empty_variable_is_an_absent_one() {
        let empty =
            LEAST.iter().copied().chain([("EDGE_SECRET", ""), ("LOG_FORMAT", " ")]).collect::<Vec<_>>();
        assert!(read(&empty).is_ok());
        assert!(
            read(&[("ISSUER", ""), ("PROTECTED_HOSTS", "")]).unwrap_err().to_string().contains("2 problems")
        );
    }

    #[test]
    fn a_problem_reads_as_a_sentence_that_begins_with_its_variable() {
        let text = read(&[
            ("ISSUR", "https://auth.example.com"),
            ("CLIENT_IDLE_TTL", "1d"),
            ("CODE_TTL", "1h"),
            ("ACCESS_TOKEN_TTL", "1500ms"),
            ("EDGE_SECRET", "x"),
            ("TOKEN_CACHE_SIZE", "0"),
        ])
        .unwrap_err()
        .to_string();
        for part in [
            "- ISSUER is not set; set it to the public URL",
            "- PROTECTED_HOSTS is not set; set it to the hosts",
            "- CLIENT_IDLE_TTL must exceed REFRESH_TOKEN_TTL by two hours, or clients would expire before their grants; set it to at least 7783200s",
            "- CODE_TTL: \"1h\" is out of range; write a time from 5 to 600 seconds",
            "- ACCESS_TOKEN_TTL: \"1500ms\" is not a whole number of seconds; write it as 90s, 15m, 1h or 30d",
            "- EDGE_SECRET is shorter than 16 characters",
            "- TOKEN_CACHE_SIZE must be a number",
            "- ISSUR: there is no such setting. Did you mean ISSUER?",
        ] {
            assert!(text.contains(part), "{part} in {text}");
        }
    }

    #[test]
    fn a_secret_may_come_from_a_file() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "0123456789abcdef0123456789abcdef\n").unwrap();
        let path = file.path().to_str().unwrap();
        let variables: Vec<_> = LEAST.iter().copied().chain([("EDGE_SECRET_FILE", path)]).collect();
        assert!(read(&variables).unwrap().trusted_edge.secret.is_some());
    }

    #[test]
    fn two_listeners_with_one_address_are_named() {
        let with = |given: &[(&'static str, &'static str)]| read(&[&LEAST, given].concat());
        for given in [
            [("PUBLIC_LISTEN", "127.0.0.1:7000"), ("EDGE_LISTEN", "127.0.0.1:7000")],
            [("PUBLIC_LISTEN", "0.0.0.0:7000"), ("OPS_LISTEN", "127.0.0.1:7000")],
            [("EDGE_GRPC_LISTEN", "[::]:9002"), ("EDGE_LISTEN", "127.0.0.1:7000")],
        ] {
            let told = with(&given).unwrap_err().to_string();
            assert!(
                told.contains("1 problem") && told.contains("give each listener one of its own"),
                "{told}"
            );
        }
        for given in [
            [("PUBLIC_LISTEN", "127.0.0.1:0"), ("EDGE_LISTEN", "127.0.0.1:0")],
            [("PUBLIC_LISTEN", "127.0.0.2:7000"), ("EDGE_LISTEN", "127.0.0.1:7000")],
        ] {
            assert!(with(&given).is_ok(), "{given:?}");
        }
    }

    #[test]
    fn a_file_without_certificates_is_no_file_of_certificates() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "root:x:0:0:root:/root:/bin/sh\n").unwrap();
        let given = [&LEAST[..], &[("EXTRA_CA_FILE", file.path().to_str().unwrap())]].concat();
        let told = read(&given).unwrap_err().to_string();
        assert!(told.contains("EXTRA_CA_FILE") && told.contains("no certificate in PEM form"), "{told}");
    }

    #[test]
    fn plain_http_is_for_loopback_hosts_only() {
        let text = read(&[("ISSUER", "http://localhost:1"), ("PROTECTED_HOSTS", "mcp.example.com")])
            .unwrap_err()
            .to_string();
        assert!(text.contains("PROTECTED_HOSTS") && text.contains("https"), "{text}");
    }
}
