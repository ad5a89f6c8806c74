//! The `prompt` parameter, with which a client determines the pages that its user sees (`OpenID` Connect Core
//! §3.1.2.1). The module does no I/O.

use std::time::Duration;

use crate::domain::account::LoginSession;
use crate::domain::clock::UnixTime;
use crate::domain::opaque_token::TokenHash;
use crate::oauth::params::Params;

use super::authorization_request::Refusal;

/// The pages that a client wants to be shown or skipped.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "each is a separate value, and a client can send several")]
pub(super) struct Prompt {
    /// `none`: no page is shown, and a request that needs one is refused.
    pub(super) none: bool,
    /// `login`: the login page is shown even if the user is logged in.
    pub(super) login: bool,
    /// `select_account`: the login page is shown, because that is where the user chooses the account. A login for
    /// another request is not sufficient, because the user might want a different account for this one.
    pub(super) select_account: bool,
    /// `consent`: the consent page is shown even if the user has already allowed everything.
    pub(super) consent: bool,
}

/// Maximum age of a login that satisfies `prompt=login`. The browser returns from the login page with the same
/// request, which cannot be changed if it was pushed. Therefore, only the time shows that the user has just logged
/// in.
const FRESH: Duration = Duration::from_secs(60);

impl Prompt {
    /// Whether the client requests the login page even if the user is logged in.
    pub(super) fn wants_login(self) -> bool {
        self.login || self.select_account
    }

    /// Whether `session` satisfies this parameter for the authorization request with this query.
    pub(super) fn accepts(self, session: &LoginSession, query: &str, now: UnixTime) -> bool {
        let fresh = now.since(session.authenticated_at) < FRESH;
        let for_this = session.asked_by == Some(TokenHash::of(query.as_bytes()));
        (fresh || !self.wants_login()) && (for_this || !self.select_account)
    }

    /// The supported values, as published in `prompt_values_supported`.
    pub(super) const VALUES: [&str; 4] = ["none", "login", "consent", "select_account"];

    /// Reads the parameter. Unsupported values are ignored like unknown parameters (RFC 6749 §3.1).
    pub(super) fn read(params: &Params) -> Result<Self, Refusal> {
        let mut prompt = Self::default();
        let mut others = false;
        for value in params.one("prompt")?.unwrap_or_default().split(' ').filter(|value| !value.is_empty()) {
            match value {
                "none" => prompt.none = true,
                "login" => prompt.login = true,
                "select_account" => prompt.select_account = true,
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
        let consent = Prompt { consent: true, ..Prompt::default() };
        assert_eq!(read(""), Ok(Prompt::default()));
        assert_eq!(read("create"), Ok(Prompt::default()));
        assert_eq!(read("none"), Ok(Prompt { none: true, ..Prompt::default() }));
        assert_eq!(read("consent+login"), Ok(Prompt { login: true, ..consent }));
        assert_eq!(read("select_account++consent"), Ok(Prompt { select_account: true, ..consent }));
        for value in ["none+login", "consent+none", "none+create"] {
            assert_eq!(read(value), Err(Refusal::Prompt), "{value}");
        }
    }
}
