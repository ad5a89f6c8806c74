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

/// The suffix of a variable that contains the path of a file with the setting's value.
const OF_FILE: &str = "_FILE";
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

/// Finds the variables in `given` whose names are almost the name of a setting. If they were ignored, a service
/// could start with fewer restrictions than its operator intended. The usual environment variables of other
/// programs do not resemble any setting.
///
/// `known` contains all names that are read, including those that end in `_FILE` if such variables are read.
pub fn misspelt(known: &[&str], given: impl IntoIterator<Item = String>) -> Vec<Misspelt> {
    let almost = |given: String| {
        let meant = vec![meant_by(known, &given)?.to_owned()];
        Some(Misspelt { given, meant })
    };
    given.into_iter().filter_map(almost).collect()
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
    let allowed = match base.unwrap_or(&upper).len() {
        ..MIN_LEN => 0,
        MIN_LEN..MIN_LEN_FOR_TWO => 1,
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
/// missing words (`TOKEN_TTL`) or a word in the singular (`TRUSTED_PROXY`), and names with a missing or an
/// unnecessary `_FILE`. Other programs also have such variables, so they only cause a warning and do not prevent
/// the start.
pub fn perhaps_misspelt(known: &[&str], given: impl IntoIterator<Item = String>) -> Vec<Misspelt> {
    let perhaps = |given: String| {
        if known.contains(&given.as_str()) || meant_by(known, &given).is_some() {
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
    /// Returns the sentences about a certain and a merely probable misspelling, if there are any.
    fn of(given: &str) -> (Option<String>, Option<String>) {
        let told = |found: Vec<Misspelt>| found.first().map(ToString::to_string);
        let given = [given.to_owned()];
        (told(misspelt(&KNOWN, given.clone())), told(perhaps_misspelt(&KNOWN, given)))
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
            ("ISSUER_file", "ISSUER_FILE"),
            // The list does not contain `ALLOWED_USERS_FILE`, as for a program that does not read it.
            ("ALLOWED_USERS_FILE", "ALLOWED_USERS"),
            ("ALLOWED_USER_FILE", "ALLOWED_USERS"),
        ] {
            assert_eq!(of(given), (Some(sentence(given, meant)), None));
        }
    }

    #[test]
    fn what_could_be_the_variable_of_another_program_is_only_doubtful() {
        for (given, meant) in [
            ("ISSUR", "ISSUER"),
            ("ISSUR_FILE", "ISSUER_FILE"),
            ("issuer", "ISSUER"),
            ("Workers", "WORKERS"),
            ("TOKEN_TTL", "ACCESS_TOKEN_TTL or REFRESH_TOKEN_TTL"),
            ("TRUSTED_PROXY", "TRUSTED_PROXIES"),
            ("ALLOWED_DOMAIN", "ALLOWED_EMAIL_DOMAINS"),
            ("WORKERS_FILE", "WORKERS"),
            ("POLICY", "POLICY_FILE"),
        ] {
            assert_eq!(of(given), (None, Some(sentence(given, meant))));
        }
    }

    #[test]
    fn settings_and_variables_of_others_are_left_alone() {
        for other in KNOWN.into_iter().chain([
            "",
            "ACCESS_TOKEN",
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
            "NO_PROXY",
            "PATH",
            "PID_FILE",
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
            "worker",
        ]) {
            assert_eq!(of(other), (None, None), "{other}");
        }
    }
}
