//! Finds settings whose names are misspelt.

use std::fmt;

use strsim::osa_distance;

/// A variable that is not a setting, and the settings with similar names. Its `Display` text is a sentence for
/// operators.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Misspelt {
    /// The name of the variable.
    pub given: String,
    /// The names of the settings, at least one.
    pub meant: Vec<String>,
}

impl fmt::Display for Misspelt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { given, meant } = self;
        write!(f, "{given}: there is no such setting. Did you mean {}?", meant.join(" or "))
    }
}

/// The names of a program's settings, and what distinguishes names that were meant for the program.
#[derive(Debug, Clone, Copy)]
pub struct Names<'a> {
    /// All names that are read, including those that end in `_FILE` if such variables are read.
    pub known: &'a [&'a str],
    /// The first words of names that no other program is likely to use, such as `ALLOWED`. A variable that begins
    /// with these words was meant as a setting, even if it resembles none.
    pub prefixes: &'a [&'a str],
    /// The settings of the other program of this project that begin with one of the prefixes. Both programs can
    /// have the same environment.
    pub others: &'a [&'a str],
}

/// The suffix of a variable that contains the path of a file with the setting's value.
const OF_FILE: &str = "_FILE";
/// Names that this project has for itself and its programs. No setting begins with one of them.
const PROJECT: [&str; 3] = ["MCP_GATE_", "AUTH_SERVICE_", "STDIO_WRAPPER_"];
/// Minimum length of a variable's name, without that suffix, that is compared with the settings. Short names are
/// too often similar by chance.
const MIN_LEN: usize = 6;
/// Minimum length of a variable's name that is compared for a warning.
const MIN_LEN_IN_DOUBT: usize = 5;
/// Minimum length of a variable's name that is compared with parts of longer setting names (`TOKEN_TTL` with
/// `ACCESS_TOKEN_TTL`).
const MIN_LEN_OF_PART: usize = 8;
/// Minimum length of a one-word setting that is recognized in lower case.
const MIN_LEN_OF_WORD: usize = 8;
/// Minimum length of a variable's name that is recognized with two mistakes.
const MIN_LEN_FOR_TWO: usize = 8;

/// Finds the variables in `given` that were meant as settings: their names are almost the name of a setting, or
/// begin with the words of [`Names::prefixes`], or consist of the project's name and that of a setting
/// (`MCP_GATE_ISSUER`). If they were ignored, a service could start with fewer restrictions than its operator
/// intended. The usual environment variables of other programs do not resemble any setting.
pub fn misspelt(names: &Names<'_>, given: impl IntoIterator<Item = String>) -> Vec<Misspelt> {
    let meant = |given: &str| -> Vec<String> {
        let almost = meant_by(names.known, given).or_else(|| after_project(names.known, given));
        match almost {
            Some(meant) => vec![meant.to_owned()],
            None => with_prefix(names, given),
        }
    };
    let almost = |given: String| {
        let meant = meant(&given);
        (!meant.is_empty()).then_some(Misspelt { given, meant })
    };
    given.into_iter().filter(|given| !is_of_other(names, given)).filter_map(almost).collect()
}

fn is_of_other(names: &Names<'_>, given: &str) -> bool {
    names.others.iter().any(|other| *other == given || without_ending(given) == Some(*other))
}

/// The setting whose name follows the project's name in `given`.
fn after_project<'a>(known: &[&'a str], given: &str) -> Option<&'a str> {
    let rest = PROJECT.iter().find_map(|project| given.strip_prefix(project))?;
    known.iter().find(|meant| **meant == rest).copied().or_else(|| meant_by(known, rest))
}

/// The settings that can be meant by a name that begins with a prefix: those that it resembles or, if there are
/// none, all with the same prefix.
fn with_prefix(names: &Names<'_>, given: &str) -> Vec<String> {
    let upper = given.to_ascii_uppercase();
    let is_word = upper != given && !upper.contains('_');
    if names.known.contains(&given) || is_word || is_link(&upper) {
        return Vec::new();
    }
    let begins_with = |name: &str, prefix: &str| {
        name.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('_'))
    };
    let Some(prefix) = names.prefixes.iter().find(|prefix| begins_with(&upper, prefix)) else {
        return Vec::new();
    };
    let alike = || names.known.iter().filter(|meant| resembles(&upper, meant));
    let is_file = |name: &str| without_ending(name).is_some_and(|base| names.known.contains(&base));
    let all = || names.known.iter().filter(|meant| begins_with(meant, prefix) && !is_file(meant));
    let found = if alike().next().is_some() { alike().collect() } else { all().collect::<Vec<_>>() };
    found.into_iter().map(|meant| (*meant).to_owned()).collect()
}

/// Whether Kubernetes sets a variable of this name for each service in a namespace, such as
/// `POLICY_SERVICE_HOST` and `POLICY_PORT_80_TCP_ADDR` for the service `policy`.
fn is_link(name: &str) -> bool {
    name.ends_with("_PORT")
        || name.ends_with("_SERVICE_HOST")
        || name.contains("_SERVICE_PORT")
        || name
            .split_once("_PORT_")
            .is_some_and(|(_, rest)| rest.starts_with(|first: char| first.is_ascii_digit()))
}

/// The setting whose name is almost `given`.
fn meant_by<'a>(known: &[&'a str], given: &str) -> Option<&'a str> {
    let upper = given.to_ascii_uppercase();
    // A short word in lower case can be a variable of any program.
    let is_word = upper != given && !upper.contains('_');
    let is_long = upper.len() >= MIN_LEN_OF_WORD && known.contains(&upper.as_str());
    if known.contains(&given) || (is_word && !is_long) {
        return None;
    }
    let base = without_ending(&upper);
    // `_FILE` makes a name less likely to be similar by chance.
    let min_len = if base.is_some() { MIN_LEN_IN_DOUBT } else { MIN_LEN };
    let allowed = match base.unwrap_or(&upper).len() {
        len if len < min_len => 0,
        ..MIN_LEN_FOR_TWO => 1,
        MIN_LEN_FOR_TWO.. => 2,
    };
    let whole = known.iter().map(|meant| (osa_distance(&upper, meant), false, *meant));
    // A program that does not read `_FILE` variables would ignore the setting.
    let parts = known.iter().filter_map(|meant| Some((osa_distance(base?, meant), true, *meant)));
    let is_word = base.is_some_and(|base| !base.contains('_'));
    let (distance, is_part, meant) = whole.chain(parts).min()?;
    (distance <= allowed && !(distance == 0 && is_part && is_word)).then_some(meant)
}

/// Finds the variables in `given` that resemble a setting less than those that [`misspelt`] finds. These are short
/// names with one mistake (`ISSUR`), and short words in lower case (`issuer`). They also include names with
/// missing words (`TOKEN_TTL`) or a word in the singular, and names with a missing or an unnecessary `_FILE`.
/// Other programs also have such variables, so they only cause a warning and do not prevent the start.
pub fn perhaps_misspelt(names: &Names<'_>, given: impl IntoIterator<Item = String>) -> Vec<Misspelt> {
    let known = names.known;
    let perhaps = |given: String| {
        if known.contains(&given.as_str())
            || is_of_other(names, &given)
            || !misspelt(names, [given.clone()]).is_empty()
        {
            return None;
        }
        let upper = given.to_ascii_uppercase();
        let meant: Vec<String> = match known.iter().find(|meant| **meant == upper) {
            Some(meant) => vec![(*meant).to_owned()],
            // As above, a short word in lower case can be a variable of any program.
            None if upper != given && !upper.contains('_') => return None,
            None => known
                .iter()
                .filter(|meant| resembles(&upper, meant))
                .map(|meant| (*meant).to_owned())
                .collect(),
        };
        (!meant.is_empty()).then_some(Misspelt { given, meant })
    };
    given.into_iter().filter_map(perhaps).collect()
}

fn resembles(given: &str, meant: &str) -> bool {
    let (given_base, meant_base) = (without_ending(given), without_ending(meant));
    let is_alike = given_base.is_some() == meant_base.is_some();
    let (given, meant) = (given_base.unwrap_or(given), meant_base.unwrap_or(meant));
    if !is_alike {
        return given == meant && given.len() >= MIN_LEN_IN_DOUBT;
    }
    let has_one_mistake = (MIN_LEN_IN_DOUBT..MIN_LEN).contains(&given.len())
        && meant.len() >= MIN_LEN_IN_DOUBT
        && osa_distance(given, meant) == 1;
    has_one_mistake || (given.len() >= MIN_LEN_OF_PART && given.contains('_') && is_part(given, meant))
}

/// Whether `meant` contains all words of `given` in the same order, and both end with the same word, in the
/// singular or the plural.
fn is_part(given: &str, meant: &str) -> bool {
    let same = |a: &str, b: &str| singular(a) == singular(b);
    let mut words = meant.split('_');
    let has_last_word = given
        .rsplit('_')
        .next()
        .zip(meant.rsplit('_').next())
        .is_some_and(|(given, meant)| same(given, meant));
    has_last_word && given.split('_').all(|word| words.any(|other| same(word, other)))
}

fn singular(word: &str) -> String {
    match word.strip_suffix("IES") {
        Some(stem) => format!("{stem}Y"),
        None => word.strip_suffix('S').unwrap_or(word).to_owned(),
    }
}

fn without_ending(name: &str) -> Option<&str> {
    name.strip_suffix(OF_FILE)
}

#[cfg(test)]
mod tests {
    use super::*;

    const KNOWN: [&str; 15] = [
        "ACCESS_TOKEN_TTL",
        "ALLOWED_EMAIL_DOMAINS",
        "ALLOWED_GROUPS",
        "ALLOWED_GROUPS_FILE",
        "ALLOWED_USERS",
        "DPOP",
        "ISSUER",
        "ISSUER_FILE",
        "LOG",
        "POLICY_FILE",
        "REDIS_URL",
        "REFRESH_TOKEN_TTL",
        "REGISTRATION",
        "TRUSTED_PROXIES",
        "WORKERS",
    ];
    const NAMES: Names<'_> =
        Names { known: &KNOWN, prefixes: &["ALLOWED", "POLICY", "TRUSTED"], others: &["ALLOWED_HOSTS"] };

    /// Returns the sentences about a certain and a merely probable misspelling, if there are any.
    fn of(given: &str) -> (Option<String>, Option<String>) {
        let told = |found: Vec<Misspelt>| found.first().map(ToString::to_string);
        let given = [given.to_owned()];
        (told(misspelt(&NAMES, given.clone())), told(perhaps_misspelt(&NAMES, given)))
    }

    fn sentence(given: &str, meant: &str) -> String {
        format!("{given}: there is no such setting. Did you mean {meant}?")
    }

    #[test]
    fn a_name_with_one_or_two_mistakes_or_in_other_letters_is_recognised() {
        for (given, meant) in [
            ("ALLOWED_GROUP", "ALLOWED_GROUPS"),
            ("ACESS_TOKEN_TTL", "ACCESS_TOKEN_TTL"),
            ("ACCESS_TOKNE_TTL", "ACCESS_TOKEN_TTL"),
            ("ALLOWED_GRUPS_FILE", "ALLOWED_GROUPS_FILE"),
            ("WORKER", "WORKERS"),
            ("allowed_users", "ALLOWED_USERS"),
            ("Allowed_Users", "ALLOWED_USERS"),
            ("allowed_user", "ALLOWED_USERS"),
            ("registration", "REGISTRATION"),
            ("ALLOWED_GROUPSX_FILE", "ALLOWED_GROUPS_FILE"),
            ("ISSUERX_FILE", "ISSUER_FILE"),
            ("ALLOWED_GROUPS_FIL", "ALLOWED_GROUPS_FILE"),
            ("ISSUER_FIEL", "ISSUER_FILE"),
            ("ISSUR_FILE", "ISSUER_FILE"),
            ("POLCY_FILE", "POLICY_FILE"),
            ("ISSUER_file", "ISSUER_FILE"),
            // The list does not contain `ALLOWED_USERS_FILE`, as for a program that does not read it.
            ("ALLOWED_USERS_FILE", "ALLOWED_USERS"),
            ("ALLOWED_USER_FILE", "ALLOWED_USERS"),
            ("MCP_GATE_ALLOWED_USERS", "ALLOWED_USERS"),
            ("AUTH_SERVICE_ISSUER_FILE", "ISSUER_FILE"),
            ("STDIO_WRAPPER_WORKER", "WORKERS"),
        ] {
            assert_eq!(of(given), (Some(sentence(given, meant)), None));
        }
    }

    #[test]
    fn a_name_with_a_prefix_that_only_settings_have_is_meant_as_a_setting() {
        let all = "ALLOWED_EMAIL_DOMAINS or ALLOWED_GROUPS or ALLOWED_USERS";
        for (given, meant) in [
            ("ALLOWED_PEOPLE", all),
            ("allowed_people", all),
            ("ALLOWED", all),
            ("ALLOWED_PEOPLE_FILE", all),
            ("ALLOWED_DOMAIN", "ALLOWED_EMAIL_DOMAINS"),
            ("TRUSTED_PROXY", "TRUSTED_PROXIES"),
            ("TRUSTED_NETWORKS", "TRUSTED_PROXIES"),
            ("POLICY", "POLICY_FILE"),
            ("POLICY_PATH", "POLICY_FILE"),
        ] {
            assert_eq!(of(given), (Some(sentence(given, meant)), None), "{given}");
        }
    }

    #[test]
    fn what_could_be_the_variable_of_another_program_is_only_doubtful() {
        for (given, meant) in [
            ("ISSUR", "ISSUER"),
            ("issuer", "ISSUER"),
            ("Workers", "WORKERS"),
            ("TOKEN_TTL", "ACCESS_TOKEN_TTL or REFRESH_TOKEN_TTL"),
            ("WORKERS_FILE", "WORKERS"),
        ] {
            assert_eq!(of(given), (None, Some(sentence(given, meant))));
        }
    }

    #[test]
    fn settings_and_variables_of_others_are_left_alone() {
        for other in KNOWN.into_iter().chain([
            "",
            "ACCESS_TOKEN",
            "ALLOWED_HOSTS",
            "ALLOWED_HOSTS_FILE",
            "AUTH_SERVICE_PORT",
            "AUTH_SERVICE_SERVICE_HOST",
            "CA_FILE",
            "DPOP_URL",
            "DUMP_FILE",
            "EN_TTL",
            "HOME",
            "HOSTNAME",
            "HTTP_PROXY",
            "HTTPS_PROXY",
            "KUBERNETES_PORT_443_TCP_ADDR",
            "KUBERNETES_SERVICE_HOST",
            "LANG",
            "LC_ALL",
            "LOGS",
            "LOG_FILE",
            "LOG_LEVEL",
            "MCP_GATE_IMAGE",
            "MCP_GATE_TOOLS",
            "NO_PROXY",
            "PATH",
            "PID_FILE",
            "POLICY_PORT",
            "POLICY_PORT_80_TCP_ADDR",
            "POLICY_SERVICE_HOST",
            "POLICY_SERVICE_PORT_HTTP",
            "POP",
            "PROXY",
            "REDIS_PORT",
            "REDIS_SERVICE_HOST",
            "SSL_CERT_FILE",
            "TERM",
            "TTL",
            "USERS",
            "WORKDIR",
            "http_proxy",
            "no_proxy",
            "policy",
            "worker",
        ]) {
            assert_eq!(of(other), (None, None), "{other}");
        }
    }
}
