//! The environment variables. `NAME_FILE` variables are replaced by the content of the file, and empty ones
//! are dropped.

use std::collections::BTreeMap;
use std::path::Path;

use serde::de::DeserializeOwned;

use contract::files::read_setting;
use contract::settings::{Names, misspelt, perhaps_misspelt};

use super::{Problems, roots};

/// All variables of this service. A `…_FILE` variable is only read if its base name is in this list.
pub(super) const NAMES: &[&str] = &[
    "ACCESS_TOKEN_TTL",
    "ADDITIONAL_GRANTS",
    "ALLOWED_EMAIL_DOMAINS",
    "ALLOWED_GROUPS",
    "ALLOWED_ORIGINS",
    "ALLOWED_USERS",
    "CLIENT_CEILING",
    "CLIENT_IDLE_TTL",
    "CLIENT_METADATA_BLOCKED_HOSTS",
    "CLIENT_METADATA_DOCUMENTS",
    "CLIENT_METADATA_HOSTS",
    "CLIENT_SECRET_TTL",
    "EXTRA_CA_FILE",
    "CLIENT_UNUSED_TTL",
    "CODE_TTL",
    "DATA_DIR",
    "DEFAULT_RESOURCE",
    "DPOP",
    "EDGE_GRPC_LISTEN",
    "EDGE_LISTEN",
    "EDGE_SECRET",
    "TOKEN_CACHE_SIZE",
    "TOKEN_CACHE_TTL",
    "ISSUER",
    "LOGIN_SESSION_TTL",
    "LOG_FORMAT",
    "OFFLINE_ACCESS",
    "OPS_LISTEN",
    "POLICY_FILE",
    "PROTECTED_HOSTS",
    "PUBLIC_LISTEN",
    "REDIS_URL",
    "REFRESH_GRACE",
    "REFRESH_TOKEN_TTL",
    "REGISTRATION",
    "REGISTRATION_RATE",
    "REGISTRATION_REDIRECT_HOSTS",
    "REGISTRATION_REDIRECT_SCHEMES",
    "REGISTRATION_TOKEN",
    "REMEMBER_CONSENT",
    "REQUESTS_PER_SECOND",
    "REQUIRE_PUSHED_REQUESTS",
    "RUST_LOG",
    "SIGNING_ALGORITHM",
    "SIGNING_KEY_LEAD",
    "SIGNING_KEY_PERIOD",
    "STORE_KEY",
    "STORE_KEY_PREVIOUS",
    "TRUSTED_ISSUERS",
    "TRUSTED_PROXIES",
    "WORKERS",
];

/// The first words of variables that are meant for this service. Names of the store, the edge or a client are
/// too common.
const PREFIXES: &[&str] = &[
    "ALLOWED",
    "CLIENT_METADATA",
    "DPOP",
    "LOGIN_SESSION",
    "POLICY",
    "PROTECTED",
    "REGISTRATION",
    "STORE_KEY",
    "TOKEN_CACHE",
    "TRUSTED",
];

/// The settings of stdio-wrapper that begin with these words.
const OF_WRAPPER: &[&str] = &["ALLOWED_HOSTS"];

pub(super) struct Environment(BTreeMap<String, String>);

impl Environment {
    pub(super) fn new(
        variables: impl IntoIterator<Item = (String, String)>,
        problems: &mut Problems,
    ) -> Self {
        let given: BTreeMap<String, String> =
            variables.into_iter().filter(|(_, value)| !value.trim().is_empty()).collect();
        let mut values = BTreeMap::new();
        for &name in NAMES {
            let file_name = format!("{name}_FILE");
            match (given.get(name), given.get(&file_name)) {
                (Some(_), Some(_)) => {
                    problems.add_about(
                        &file_name,
                        format_args!("is set together with {name}; set only one of the two"),
                    );
                    problems.unknown.insert(name.to_owned());
                }
                (Some(value), None) => {
                    values.insert(name.to_owned(), value.trim().to_owned());
                }
                (None, Some(path)) => match read_setting(Path::new(path.trim())) {
                    Ok(text) => {
                        values.insert(name.to_owned(), text.trim().to_owned());
                    }
                    Err(error) => {
                        problems.add(
                            &file_name,
                            format_args!(
                                "cannot read {path}: {error}; name a file that this user can read and that contains {name}"
                            ),
                        );
                        problems.unknown.insert(name.to_owned());
                    }
                },
                (None, None) => {}
            }
        }
        let files: Vec<String> = NAMES.iter().map(|name| format!("{name}_FILE")).collect();
        let known: Vec<&str> = NAMES.iter().copied().chain(files.iter().map(String::as_str)).collect();
        let names = Names { known: &known, prefixes: PREFIXES, others: OF_WRAPPER };
        for misspelt in misspelt(&names, given.keys().cloned()) {
            problems.add_misspelt(&misspelt, |name| given.contains_key(name));
        }
        problems.doubts =
            perhaps_misspelt(&names, given.keys().cloned()).iter().map(ToString::to_string).collect();
        let value = |name| given.get(name).map(|value: &String| value.as_str());
        roots::check(value(roots::FILE), value(roots::DIRECTORIES), problems);
        Self(values)
    }

    /// The variables of one group of settings, as a struct of optional strings. The module of each group parses
    /// them.
    pub(super) fn concern<T: DeserializeOwned + Default>(&self, problems: &mut Problems) -> T {
        let pairs = self.0.iter().map(|(name, value)| (name.clone(), value.clone()));
        envy::from_iter(pairs).unwrap_or_else(|error| {
            problems.add("environment", error);
            T::default()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The report on these variables, and the number of problems in it.
    fn told(given: &[&str]) -> (String, usize) {
        let mut problems = Problems::default();
        let given = given.iter().map(|name| ((*name).to_owned(), "x".to_owned()));
        Environment::new(given, &mut problems);
        (problems.to_string(), problems.found.len())
    }

    #[test]
    fn a_misspelt_setting_is_a_problem() {
        let mut problems = Problems::default();
        let given = [("ALLOWED_GROUP", "staff"), ("PATH", "/bin"), ("ACESS_TOKEN_TTL", "")];
        Environment::new(given.map(|(name, value)| (name.to_owned(), value.to_owned())), &mut problems);
        let told = problems.to_string();
        assert!(told.contains("1 problem:") && told.contains("mean ALLOWED_GROUPS?"), "{told}");
    }

    #[test]
    fn other_letters_and_misspelt_names_of_files_are_problems() {
        for (given, meant) in [
            ("allowed_users", "ALLOWED_USERS"),
            ("Allowed_Users", "ALLOWED_USERS"),
            ("EDGE_SECRETX_FILE", "EDGE_SECRET_FILE"),
            ("EDGE_SECRET_FIL", "EDGE_SECRET_FILE"),
            ("EDGE_SECRET_file", "EDGE_SECRET_FILE"),
            ("TRUSTED_PROXY", "TRUSTED_PROXIES"),
            ("POLICY", "POLICY_FILE"),
            ("POLICY_PATH", "POLICY_FILE"),
            ("REGISTRATION_HOSTS", "REGISTRATION_REDIRECT_HOSTS"),
            ("DPOP_MODE", "DPOP"),
            ("MCP_GATE_ALLOWED_USERS", "ALLOWED_USERS"),
        ] {
            let (told, problems) = told(&[given]);
            assert!(problems == 1 && told.contains(&format!("Did you mean {meant}?")), "{told}");
        }
    }

    #[test]
    fn a_name_that_only_a_setting_can_have_is_a_problem_although_it_resembles_none() {
        for prefix in PREFIXES {
            let given = format!("{prefix}_QQQQQQQQ");
            let (told, problems) = told(&[&given]);
            assert!(problems == 1 && told.contains(&format!("Did you mean {prefix}")), "{told}");
        }
        let (told, _) = told(&["ALLOWED_PEOPLE"]);
        let names = ["ALLOWED_EMAIL_DOMAINS", "ALLOWED_GROUPS", "ALLOWED_ORIGINS", "ALLOWED_USERS"];
        assert!(told.contains(&format!("Did you mean {}?", names.join(" or "))), "{told}");
    }

    #[test]
    fn a_variable_that_could_be_a_misspelt_setting_or_another_programs_is_only_told() {
        for (given, meant) in
            [("ISSUR", "ISSUER"), ("TOKEN_TTL", "ACCESS_TOKEN_TTL or TOKEN_CACHE_TTL or REFRESH_TOKEN_TTL")]
        {
            let (told, problems) = told(&[given, "PATH"]);
            assert!(problems == 0 && told.contains(&format!("Did you mean {meant}?")), "{told}");
        }
    }

    #[test]
    fn variables_of_other_programs_are_not_told() {
        let others = [
            "ALLOWED_HOSTS",
            "CLIENT_FILE",
            "HOSTNAME",
            "HTTP_PROXY",
            "HTTPS_PROXY",
            "http_proxy",
            "no_proxy",
            "KUBERNETES_PORT_443_TCP_ADDR",
            "KUBERNETES_SERVICE_HOST",
            "LANG",
            "LC_ALL",
            "LOG_FILE",
            "LOG_LEVEL",
            "PATH",
            "REDIS_PORT_6379_TCP",
            "REDIS_SERVICE_HOST",
            "TZ",
            "XDG_RUNTIME_DIR",
        ];
        let (told, problems) = told(&others);
        assert!(problems == 0 && !told.contains("Did you mean"), "{told}");
    }
}
