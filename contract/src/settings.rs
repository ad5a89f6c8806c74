//! Names of settings that are misspelt.

use std::fmt;

use strsim::osa_distance;

/// A variable that is not a setting, and the setting whose name it almost has. It is displayed as a sentence for operators.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Misspelt<'a> {
    /// The name of the variable.
    pub given: String,
    /// The name of the setting.
    pub meant: &'a str,
}

impl fmt::Display for Misspelt<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { given, meant } = self;
        write!(f, "{given}: there is no such setting. Is {meant} meant?")
    }
}

/// Minimum length of a name that is compared. Short names are too often similar by chance.
const MIN_LEN: usize = 6;
/// From this length on, a name with two mistakes is recognised.
const MIN_LEN_FOR_TWO: usize = 8;

/// Finds the variables in `given` that almost have the name of a setting, but are none. If they were ignored, a service
/// could start with fewer restrictions than its operator has asked for. Variables of other programs, which every
/// environment has, are not similar to any setting.
pub fn misspelt<'a>(known: &[&'a str], given: impl IntoIterator<Item = String>) -> Vec<Misspelt<'a>> {
    let almost = |given: String| {
        // `NAME_FILE` is the setting NAME, too.
        let names = [Some(given.as_str()), given.strip_suffix("_FILE")];
        let distance = |meant: &&'a str| names.iter().flatten().map(|name| osa_distance(name, meant)).min();
        let (distance, meant) = known.iter().filter_map(|meant| Some((distance(meant)?, *meant))).min()?;
        let allowed = match given.len() {
            ..MIN_LEN => 0,
            MIN_LEN..MIN_LEN_FOR_TWO => 1,
            MIN_LEN_FOR_TWO.. => 2,
        };
        (1..=allowed).contains(&distance).then_some(Misspelt { given, meant })
    };
    given.into_iter().filter_map(almost).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(given: &[&str]) -> Vec<(String, &'static str)> {
        let known = ["ACCESS_TOKEN_TTL", "ALLOWED_GROUPS", "ALLOWED_USERS", "DPOP", "REDIS_URL", "WORKERS"];
        let found = misspelt(&known, given.iter().map(|name| (*name).to_owned()));
        found.into_iter().map(|misspelt| (misspelt.given, misspelt.meant)).collect()
    }

    #[test]
    fn a_name_with_one_or_two_mistakes_is_recognised() {
        for (given, meant) in [
            ("ALLOWED_GROUP", "ALLOWED_GROUPS"),
            ("ACESS_TOKEN_TTL", "ACCESS_TOKEN_TTL"),
            ("ACCESS_TOKNE_TTL", "ACCESS_TOKEN_TTL"),
            ("ALLOWED_GRUPS_FILE", "ALLOWED_GROUPS"),
            ("WORKER", "WORKERS"),
        ] {
            assert_eq!(of(&[given]), [(given.to_owned(), meant)]);
        }
    }

    #[test]
    fn settings_and_variables_of_others_are_left_alone() {
        let others = [
            "ALLOWED_GROUPS",
            "ALLOWED_GROUPS_FILE",
            "PATH",
            "POP",
            "HOME",
            "REDIS_PORT",
            "REDIS_SERVICE_HOST",
            "WORKDIR",
            "ACCESS_TOKEN",
            "",
        ];
        assert_eq!(of(&others), []);
    }
}
