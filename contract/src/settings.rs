//! Finds settings whose names are misspelt.

use std::fmt;

use strsim::osa_distance;

/// A variable that is not a setting, and the settings whose names it almost has. It is displayed as a
/// sentence for operators.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Misspelt<'a> {
    /// The name of the variable.
    pub given: String,
    /// The names of the settings, at least one.
    pub meant: Vec<&'a str>,
}

impl fmt::Display for Misspelt<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { given, meant } = self;
        write!(f, "{given}: there is no such setting. Is {} meant?", meant.join(" or "))
    }
}

/// Minimum length of a name in which [`misspelt`] recognises a mistake. Short names are too often similar by
/// chance.
const MIN_LEN: usize = 6;
/// Minimum length of a name in which [`perhaps_misspelt`] recognises a mistake.
const MIN_LEN_IN_DOUBT: usize = 5;
/// Minimum length of a name that is compared with the ends of settings' names.
const MIN_LEN_OF_END: usize = 8;
/// From this length on, a name with two mistakes is recognised.
const MIN_LEN_FOR_TWO: usize = 8;

/// Finds the variables in `given` that almost have the name of a setting, but are none. If they were ignored,
/// a service could start with fewer restrictions than its operator has asked for. Variables of other
/// programs, which every environment has, are not similar to any setting.
pub fn misspelt<'a>(known: &[&'a str], given: impl IntoIterator<Item = String>) -> Vec<Misspelt<'a>> {
    let almost = |given: String| {
        // `NAME_FILE` also sets NAME, from a file.
        let names = [Some(given.as_str()), given.strip_suffix("_FILE")];
        let distance = |meant: &&'a str| names.iter().flatten().map(|name| osa_distance(name, meant)).min();
        let (distance, meant) = known.iter().filter_map(|meant| Some((distance(meant)?, *meant))).min()?;
        let allowed = match given.len() {
            ..MIN_LEN => 0,
            MIN_LEN..MIN_LEN_FOR_TWO => 1,
            MIN_LEN_FOR_TWO.. => 2,
        };
        (1..=allowed).contains(&distance).then_some(Misspelt { given, meant: vec![meant] })
    };
    given.into_iter().filter_map(almost).collect()
}

/// Finds the variables in `given` that resemble a setting less than those that [`misspelt`] finds: short
/// names with one mistake (`ISSUR`), and names that leave out the first words (`TOKEN_TTL`). Other programs
/// have such variables too, so these are no reason not to start. They are worth a warning.
pub fn perhaps_misspelt<'a>(known: &[&'a str], given: impl IntoIterator<Item = String>) -> Vec<Misspelt<'a>> {
    let resembles = |given: &str, meant: &str| {
        let has_one_mistake = (MIN_LEN_IN_DOUBT..MIN_LEN).contains(&given.len())
            && meant.len() >= MIN_LEN_IN_DOUBT
            && osa_distance(given, meant) == 1;
        let is_its_end = given.len() >= MIN_LEN_OF_END
            && given.contains('_')
            && meant.strip_suffix(given).is_some_and(|left_out| left_out.ends_with('_'));
        has_one_mistake || is_its_end
    };
    let perhaps = |given: String| {
        let meant: Vec<&str> = known.iter().copied().filter(|meant| resembles(&given, meant)).collect();
        let is_setting = known.contains(&given.as_str());
        (!is_setting && !meant.is_empty()).then_some(Misspelt { given, meant })
    };
    given.into_iter().filter_map(perhaps).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(given: &[&str]) -> Vec<(String, &'static str)> {
        let known = ["ACCESS_TOKEN_TTL", "ALLOWED_GROUPS", "ALLOWED_USERS", "DPOP", "REDIS_URL", "WORKERS"];
        let found = misspelt(&known, given.iter().map(|name| (*name).to_owned()));
        found.into_iter().map(|misspelt| (misspelt.given, misspelt.meant[0])).collect()
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
    fn short_names_and_ends_of_names_are_only_doubtful() {
        let known =
            ["ACCESS_TOKEN_TTL", "DPOP", "ISSUER", "LOG", "REFRESH_TOKEN_TTL", "RETRY", "TOKEN_TTL_MAX"];
        let doubts = |given: &str| {
            assert_eq!(misspelt(&known, [given.to_owned()]), [], "{given}");
            let found = perhaps_misspelt(&known, [given.to_owned()]);
            found.first().map(ToString::to_string)
        };
        assert_eq!(doubts("ISSUR").unwrap(), "ISSUR: there is no such setting. Is ISSUER meant?");
        assert_eq!(
            doubts("TOKEN_TTL").unwrap(),
            "TOKEN_TTL: there is no such setting. Is ACCESS_TOKEN_TTL or REFRESH_TOKEN_TTL meant?"
        );
        for other in
            ["ISSUER", "RETRY", "LOGS", "POP", "TTL", "EN_TTL", "USERS", "LANG", "PATH", "ACCESS_TOKEN", ""]
        {
            assert_eq!(doubts(other), None, "{other}");
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
