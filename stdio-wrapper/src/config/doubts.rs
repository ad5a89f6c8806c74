//! Settings that are allowed together, but are probably a mistake. The wrapper starts, and logs a warning.

use super::options::Options;
use super::{Config, GROUP, Identity};

pub(super) fn of(config: &Config, options: &Options) -> Vec<String> {
    let mut doubts = Vec::new();
    if config.identity == Identity::None && !config.listen.ip().to_canonical().is_loopback() {
        doubts.push(format!(
            "IDENTITY is none, and LISTEN is {}, which is not a loopback address, so everybody who can reach this port \
             can call the MCP server. Set IDENTITY to assertion, or set LISTEN to 127.0.0.1:{}.",
            config.listen,
            config.listen.port()
        ));
    }
    let mode = match config.identity {
        Identity::None => Some("none"),
        Identity::Headers => Some("headers"),
        Identity::Assertion { .. } => None,
    };
    let urls =
        [("JWKS_URL", &options.jwks_url), ("ISSUER", &options.issuer), ("RESOURCE", &options.resource)];
    let is_set = urls.into_iter().filter(|(_, url)| url.known() != Some(&None));
    if let Some(mode) = mode {
        doubts.extend(is_set.map(|(name, _)| {
            format!(
                "{name} is set, but has no effect, because IDENTITY is {mode}. Set IDENTITY to assertion, or remove \
                 {name}."
            )
        }));
    }
    if !config.groups.is_empty() && !config.child.has(GROUP) {
        doubts.push(
            "GROUP_ORDER is set, but has no effect, because neither the command nor CHILD_ENV nor CHILD_CWD contains \
             {group}. Use {group}, or remove GROUP_ORDER."
                .to_owned(),
        );
    }
    let (grace, whole) = (config.child.stop_grace, config.limits.shutdown_timeout);
    if grace >= whole {
        doubts.push(format!(
            "STOP_GRACE ({} s) is not shorter than SHUTDOWN_TIMEOUT ({} s), so when the wrapper stops, a server that needs \
             all of its time is killed before. Raise SHUTDOWN_TIMEOUT, and the time that your container engine allows \
             (stop_grace_period).",
            grace.as_secs_f32(),
            whole.as_secs_f32()
        ));
    }
    doubts
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    fn doubts(args: &[&str]) -> Vec<String> {
        let options = Options::parse_from([&["stdio-wrapper"], args, &["--", "sh"]].concat());
        let path = |name: &str| (name == "PATH").then(|| "/usr/bin:/bin".to_owned());
        Config::new(&options, &path).unwrap().doubts(&options)
    }

    const URLS: [&str; 2] = ["--issuer=https://auth.example", "--resource=https://mcp.example/mcp"];
    const KEYS: &str = "--jwks-url=http://auth-service:9000/jwks";

    #[test]
    fn a104_a_server_that_everybody_on_the_network_can_call_is_told() {
        for listen in ["0.0.0.0:8080", "[::]:8080", "192.0.2.1:8080"] {
            let told = doubts(&["--listen", listen]);
            assert_eq!(told.len(), 1, "{told:?}");
            assert!(told[0].contains(&format!("LISTEN is {listen}")), "{told:?}");
            assert!(told[0].ends_with("or set LISTEN to 127.0.0.1:8080."), "{told:?}");
            assert_eq!(doubts(&["--listen", listen, "--identity=headers"]), [""; 0]);
        }
        for listen in ["127.0.0.1:8080", "127.8.9.1:80", "[::1]:8080", "[::ffff:127.0.0.1]:8080"] {
            assert_eq!(doubts(&["--listen", listen]), [""; 0], "{listen}");
        }
    }

    #[test]
    fn a_grace_period_that_does_not_fit_is_told() {
        let told = doubts(&["--stop-grace=15s"]);
        assert!(
            told[0].starts_with("STOP_GRACE (15 s) is not shorter than SHUTDOWN_TIMEOUT (10 s)"),
            "{told:?}"
        );
        assert_eq!(doubts(&["--stop-grace=15s", "--shutdown-timeout=40s"]), [""; 0]);
    }

    #[test]
    fn a_setting_without_effect_is_told() {
        let told = doubts(&URLS);
        assert_eq!(told.len(), 2, "{told:?}");
        assert!(
            told[0].starts_with("ISSUER is set, but has no effect, because IDENTITY is none."),
            "{told:?}"
        );
        assert!(told[1].ends_with("or remove RESOURCE."), "{told:?}");
        let told = doubts(&["--identity=headers", KEYS]);
        assert!(
            told[0].starts_with("JWKS_URL is set, but has no effect, because IDENTITY is headers."),
            "{told:?}"
        );
        assert_eq!(doubts(&[&URLS[..], &["--identity=assertion", KEYS]].concat()), [""; 0]);
        let told = doubts(&["--group-order=a,b"]);
        assert!(told[0].starts_with("GROUP_ORDER is set, but has no effect"), "{told:?}");
        assert_eq!(doubts(&["--group-order=a,b", "--identity=headers", "--cwd=/tmp/{group}"]), [""; 0]);
    }
}
