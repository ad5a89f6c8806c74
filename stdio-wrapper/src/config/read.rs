//! Converts options to settings. Every mistake results in one message with the variable, the cause and the fix.

use std::net::SocketAddr;

use contract::files::read_setting;

use super::given::Given;
use super::options::{IdentityMode, LogFormat, Options};
use super::reader::{Environment, Reader};
use super::types::Address;
use super::{Config, Identity, Sites, child, limits};
use crate::policy::ToolRules;

pub(super) fn config(options: &Options, environment: Environment<'_>) -> Result<Config, Vec<String>> {
    let mut read = Reader::default();
    let (listen, ops_listen) = (read.take(&options.listen), read.take(&options.ops_listen));
    if listen == ops_listen && listen.port() != 0 {
        read.problem(format!("LISTEN and OPS_LISTEN are both {listen}. Give them different ports."));
    }
    let identity = identity(&mut read, options);
    let config = Config {
        listen,
        ops_listen,
        workers: workers(read.take(&options.workers)),
        mcp_path: read.take(&options.mcp_path),
        legacy_sse: read.take(&options.legacy_sse),
        sites: sites(&mut read, options, listen),
        tool_rules: tool_rules(&mut read, options),
        identity,
        groups: read.take(&options.group_order),
        child: child::read(&mut read, options, environment),
        limits: limits::read(&mut read, options),
        shared: read.take(&options.shared),
        translate: read.take(&options.translate),
        prewarm: read.take(&options.prewarm),
        log: read.take(&options.log).unwrap_or_default().without_noise(),
        log_json: read.take(&options.log_format) == LogFormat::Json,
    };
    check_together(&mut read, options, &config);
    read.or_problems(config)
}

/// Checks settings that are wrong only in combination.
fn check_together(read: &mut Reader, options: &Options, config: &Config) {
    let names_caller = config.has_placeholders();
    if names_caller && options.identity.known() == Some(&IdentityMode::None) {
        read.problem(
            "The command, CHILD_ENV or CHILD_CWD has a placeholder such as {subject}, but IDENTITY is none, so no caller is known. \
             Set IDENTITY to assertion or headers, or remove the placeholder."
                .to_owned(),
        );
    }
    if names_caller && config.shared {
        read.problem(
            "SHARED is true, but the command, CHILD_ENV or CHILD_CWD has a placeholder that differs between callers. \
             Set SHARED to false, or remove the placeholder."
                .to_owned(),
        );
    }
    if names_caller && config.prewarm > 0 {
        read.problem(
            "PREWARM keeps children ready before the caller is known, but the command, CHILD_ENV or CHILD_CWD has a \
             placeholder for the caller. Set PREWARM to 0, or remove the placeholder."
                .to_owned(),
        );
    }
    if config.legacy_sse && ["/sse", "/messages"].contains(&config.mcp_path.as_str()) {
        read.problem(format!(
            "MCP_PATH is {}, which is reserved for LEGACY_SSE. Choose another MCP_PATH.",
            config.mcp_path
        ));
    }
}

/// The number of workers. One processor is reserved for the children, because calls would be slower if the
/// wrapper's threads used all processors.
fn workers(wanted: usize) -> usize {
    match wanted {
        0 => std::thread::available_parallelism().map_or(1, |all| all.get().saturating_sub(1).clamp(1, 4)),
        some => some,
    }
}

fn sites(read: &mut Reader, options: &Options, listen: SocketAddr) -> Sites {
    let (hosts, origins) = (read.take(&options.allowed_hosts), read.take(&options.allowed_origins));
    let is_any = |list: &[String]| list.iter().any(|entry| entry == "*");
    // Otherwise, any web page could call the server through the browser of a user who can reach the wrapper (attack
    // 104).
    let is_unproven = options.identity.known().is_some_and(|mode| *mode != IdentityMode::Assertion);
    if is_any(&origins) && is_unproven {
        read.problem(
            "ALLOWED_ORIGINS is *, which requires IDENTITY=assertion, because with other modes, a web page could act as a caller.",
        );
    }
    let is_loopback = listen.ip().is_loopback();
    let hosts = (!is_any(&hosts) && (!hosts.is_empty() || is_loopback))
        .then(|| hosts.iter().map(|host| host.to_ascii_lowercase()).collect());
    Sites { hosts, origins, loopback: is_loopback }
}

fn identity(read: &mut Reader, options: &Options) -> Identity {
    let mode = read.take(&options.identity);
    let is_set = options.jwks_url.known() != Some(&None);
    match mode {
        IdentityMode::Headers => Identity::Headers,
        IdentityMode::Assertion => {
            let jwks_url = needed(read, "JWKS_URL", &options.jwks_url);
            // Requests also arrive over plain HTTP in that network, so TLS for only the keys would protect
            // nothing.
            if let Some(Address { text, url }) = &jwks_url
                && url.scheme() != "http"
            {
                read.problem(format!(
                    "JWKS_URL is `{text}`, but keys are only read over plain http, inside the deployment's own network. Use the authorization service's internal address, for example http://auth-service:9000/jwks."
                ));
            }
            let (issuer, resource) =
                (needed(read, "ISSUER", &options.issuer), needed(read, "RESOURCE", &options.resource));
            match (jwks_url, issuer, resource) {
                // Both are compared as exact text, so they are not normalized.
                (Some(jwks_url), Some(issuer), Some(resource)) => Identity::Assertion {
                    jwks_url: jwks_url.url,
                    issuer: issuer.text,
                    resource: resource.text,
                },
                _ => Identity::None,
            }
        }
        IdentityMode::None => {
            if options.identity.known().is_some() && is_set {
                read.problem(
                    "JWKS_URL is set, but IDENTITY is none, so assertions would not be verified and everybody would be served. Set IDENTITY to assertion, or remove JWKS_URL.",
                );
            }
            Identity::None
        }
    }
}

/// A URL that is needed to verify assertions.
fn needed(read: &mut Reader, name: &str, given: &Given<Option<Address>>) -> Option<Address> {
    if given.known() == Some(&None) {
        read.problem(format!("{name} is not set, but IDENTITY=assertion needs it. Set it to the full URL."));
    }
    read.take(given)
}

fn tool_rules(read: &mut Reader, options: &Options) -> Option<ToolRules> {
    let path = read.take(&options.tool_rules)?;
    if options.identity.known() == Some(&IdentityMode::None) {
        read.problem(
            "TOOL_RULES is set, but IDENTITY is none, so no caller has any scope. Set IDENTITY to assertion or headers.",
        );
    }
    let name = path.display();
    match read_setting(&path) {
        Err(error) => read.problem(format!(
            "TOOL_RULES is `{name}`, which cannot be read: {error}. Use a file that contains TOML, and check its path and permissions."
        )),
        Ok(text) => match ToolRules::parse(&text) {
            Ok(rules) => return Some(rules),
            Err(error) => read.problem(format!(
                "TOOL_RULES is `{name}`, which is not a rule file: {}. See docs/stdio-wrapper.md.",
                error.trim()
            )),
        },
    }
    None
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    fn read(args: &[&str]) -> Result<Config, Vec<String>> {
        let options = Options::try_parse_from([&["stdio-wrapper"], args].concat()).unwrap();
        config(&options, &|name| match name {
            "PATH" => Some("/usr/bin:/bin".to_owned()),
            "SECRET_THING" => Some("s3cret".to_owned()),
            "LISTEN" => Some("127.0.0.1:1".to_owned()),
            _ => None,
        })
    }

    #[test]
    fn every_mistake_is_reported_at_once_and_names_its_variable() {
        let problems = read(&[
            "--listen",
            "here",
            "--max-body",
            "big",
            "--identity",
            "assertion",
            "--session-idle",
            "1y",
            "--",
            "no-such-program",
        ])
        .unwrap_err();
        for name in
            ["LISTEN", "MAX_BODY", "JWKS_URL", "ISSUER", "RESOURCE", "SESSION_IDLE", "no-such-program"]
        {
            assert!(problems.iter().any(|problem| problem.contains(name)), "{name}: {problems:?}");
        }
        assert!(problems.iter().all(|problem| problem.ends_with('.')), "{problems:?}");
    }

    #[test]
    fn one_mistake_is_one_problem() {
        let full = ["--issuer=https://auth.example", "--resource=https://mcp.example/x"];
        for args in [
            &["--cwd", "/tmp/{subjct}", "--identity=headers"][..],
            &["--identity", "asertion", "--jwks-url=http://auth:9000/jwks", "--cwd=/data/{user}"],
            &[&full[..], &["--identity=assertion", "--cwd=/data/{user}", "--allowed-origins=*"]].concat(),
            &["--listen", "8080", "--ops-listen=127.0.0.1:8080"],
            &["--max-sessions", "many"],
        ] {
            let problems = read(&[args, &["--", "sh"]].concat()).unwrap_err();
            assert_eq!(problems.len(), 1, "{args:?}: {problems:?}");
        }
    }

    #[test]
    fn a111_the_childs_environment_is_a_list_of_its_own() {
        let config = read(&["--env", "SECRET_THING", "--env", "MODE=x=y", "--", "sh"]).unwrap();
        let names: Vec<&str> = config.child.env.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["PATH", "SECRET_THING", "MODE"]);
        assert_eq!(config.child.env[2].1, "x=y");
        assert!(read(&["--env", "LISTEN", "--", "sh"]).unwrap_err()[0].contains("a setting of the wrapper"));
        assert!(read(&["--env", "MISSING", "--", "sh"]).unwrap_err()[0].contains("no such variable"));
    }

    #[test]
    fn placeholders_need_a_caller_and_a_child_each() {
        assert!(read(&["--", "sh", "{subject}"]).unwrap_err()[0].contains("IDENTITY"));
        let forgotten = read(&["--jwks-url", "http://auth-service:9000/jwks", "--", "sh"]).unwrap_err();
        assert!(forgotten[0].starts_with("JWKS_URL is set, but IDENTITY is none"), "{forgotten:?}");
        assert!(
            read(&["--identity", "headers", "--shared", "--", "sh", "{user}"]).unwrap_err()[0]
                .contains("SHARED")
        );
        assert!(
            read(&["--identity", "headers", "--prewarm", "1", "--", "sh", "{group}"]).unwrap_err()[0]
                .contains("PREWARM")
        );
        assert!(read(&["--identity", "headers", "--", "sh", "{group}"]).is_ok());
    }

    #[test]
    fn a_misspelt_placeholder_is_refused_with_those_that_there_are() {
        for (options, place) in [
            (["--env", "A=b", "--", "sh", "{subjct}.db"], "The command has `{subjct}`"),
            (["--env", "DATA=/x/{usr}", "--", "sh", "x"], "CHILD_ENV (--env) DATA has `{usr}`"),
            (["--cwd", "/my data/{groups}", "--", "sh", "x"], "CHILD_CWD has `{groups}`"),
        ] {
            let problems = read(&options).unwrap_err();
            let told = problems.iter().find(|problem| problem.contains(place));
            let told = told.unwrap_or_else(|| panic!("{place}: {problems:?}"));
            assert!(told.contains("{subject}, {user}, {group}") && told.contains("write `{="), "{told}");
        }
        assert!(read(&["--env", r#"A={"a":1}"#, "--", "sh", r#"{"a":1}"#, "{=word}"]).is_ok());
    }

    #[test]
    fn a103_two_callers_cannot_get_the_same_text_from_two_placeholders() {
        for (options, place) in [
            (["--env", "A=b", "--", "sh", "{user}-{group}.db"], "The command has `{user}` and `{group}`"),
            (
                ["--env", "DATA=/x/{subject}_{user}", "--", "sh", "x"],
                "DATA of the child has `{subject}` and `{user}`",
            ),
            (["--cwd", "/data/{group}{user}", "--", "sh", "x"], "CHILD_CWD has `{group}` and `{user}`"),
        ] {
            let problems = read(&[&["--identity", "headers"], &options[..]].concat()).unwrap_err();
            let told = problems.iter().find(|problem| problem.contains(place));
            let told = told.unwrap_or_else(|| panic!("{place}: {problems:?}"));
            assert!(told.contains("same text") && told.contains("such as `/`"), "{told}");
        }
        let good = ["--identity", "headers", "--env", "A={user}+{group}", "--cwd", "/data/{user}/{group}"];
        assert!(read(&[&good[..], &["--", "sh", "{user},{group}", "{user}", "{group}"]].concat()).is_ok());
    }

    #[test]
    fn an_assertion_needs_three_urls_and_keys_over_plain_http() {
        let urls = |jwks: &'static str| {
            read(&[
                "--identity=assertion",
                "--jwks-url",
                jwks,
                "--issuer=https://auth.example",
                "--resource=https://mcp.example/x",
                "--",
                "sh",
            ])
        };
        assert!(urls("http://auth-service:9000/jwks").is_ok());
        assert!(urls("https://auth.example/jwks").unwrap_err()[0].contains("plain http"));
        assert!(urls("file:///jwks").unwrap_err()[0].contains("JWKS_URL"));
    }

    #[test]
    fn loopback_is_closed_to_other_hosts_by_default() {
        assert_eq!(read(&["--", "sh"]).unwrap().sites.hosts, Some(Vec::new()));
        assert_eq!(read(&["--listen", "0.0.0.0:80", "--", "sh"]).unwrap().sites.hosts, None);
        assert_eq!(read(&["--allowed-hosts", "*", "--", "sh"]).unwrap().sites.hosts, None);
        assert!(read(&["--allowed-origins", "https://a.example/path", "--", "sh"]).is_err());
        for identity in ["none", "headers"] {
            let problems = read(&["--identity", identity, "--allowed-origins", "*", "--", "sh"]).unwrap_err();
            assert!(problems.iter().any(|problem| problem.contains("IDENTITY=assertion")), "{problems:?}");
        }
    }
}
