//! What the client wants its user to be asked, `prompt` (`OpenID` Connect Core §3.1.2.1). Pure.

use crate::oauth::params::Params;

use super::request::Refusal;

/// The pages that a client wants shown, or not shown.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(in crate::oauth) struct Prompt {
    /// `none`: no page at all. What cannot be answered without one is refused.
    pub(in crate::oauth) none: bool,
    /// `login`, `select_account`: the login page, although somebody is signed in. Our login page is where another account
    /// is chosen.
    pub(in crate::oauth) login: bool,
    /// `consent`: the consent page, although all of it is allowed already.
    pub(in crate::oauth) consent: bool,
}

impl Prompt {
    /// The values that count here (`prompt_values_supported`).
    pub(in crate::oauth) const VALUES: [&str; 4] = ["none", "login", "consent", "select_account"];

    /// Reads the parameter. Values that mean nothing here are ignored, as unknown parameters are (RFC 6749 §3.1).
    pub(in crate::oauth) fn read(params: &Params) -> Result<Self, Refusal> {
        let mut prompt = Self::default();
        let mut others = false;
        for value in params.one("prompt")?.unwrap_or_default().split(' ').filter(|value| !value.is_empty()) {
            match value {
                "none" => prompt.none = true,
                "login" | "select_account" => prompt.login = true,
                "consent" => prompt.consent = true,
                _ => {}
            }
            others |= value != "none";
        }
        if prompt.none && others { Err(Refusal::Prompt) } else { Ok(prompt) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(value: &str) -> Result<Prompt, Refusal> {
        Prompt::read(&Params::of_query(&format!("prompt={value}")).unwrap())
    }

    #[test]
    fn each_value_asks_for_its_page_and_none_stands_alone() {
        let all = Prompt { none: false, login: true, consent: true };
        assert_eq!(read(""), Ok(Prompt::default()));
        assert_eq!(read("create"), Ok(Prompt::default()));
        assert_eq!(read("none"), Ok(Prompt { none: true, ..Prompt::default() }));
        assert_eq!(read("consent+login"), Ok(all));
        assert_eq!(read("select_account++consent"), Ok(all));
        for value in ["none+login", "consent+none", "none+create"] {
            assert_eq!(read(value), Err(Refusal::Prompt), "{value}");
        }
    }
}
