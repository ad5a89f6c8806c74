//! The users to whom a rule applies: by name, group or email domain.

use crate::domain::account::{Account, Group, Username};
use crate::domain::email::EmailDomain;
use crate::principal::Principal;

/// The properties of a user that rules can refer to.
#[derive(Debug, Clone, Copy)]
pub struct Person<'a> {
    /// The login name of the user.
    pub username: &'a Username,
    /// The user's email address, if it is known.
    pub email: Option<&'a str>,
    /// The current groups of the user.
    pub groups: &'a [Group],
}

impl<'a> From<&'a Principal> for Person<'a> {
    fn from(principal: &'a Principal) -> Self {
        Self { username: &principal.username, email: principal.email.as_deref(), groups: &principal.groups }
    }
}

impl<'a> From<&'a Account> for Person<'a> {
    fn from(account: &'a Account) -> Self {
        Self { username: &account.username, email: account.email.as_deref(), groups: &account.groups }
    }
}

/// Allow-lists of users. A user who is in one of them is allowed. If there are no lists, everybody is allowed. The
/// parser of each entry rejects empty strings and uses the same normalization as for accounts (attacks 79 and 85).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Who {
    /// Login names of allowed users.
    pub users: Vec<Username>,
    /// Groups whose members are allowed. The comparison is case-sensitive.
    pub groups: Vec<Group>,
    /// Domains of email addresses whose owners are allowed.
    pub email_domains: Vec<EmailDomain>,
}

impl Who {
    /// Whether there are no lists, so that everybody is allowed.
    pub fn is_everybody(&self) -> bool {
        self.users.is_empty() && self.groups.is_empty() && self.email_domains.is_empty()
    }

    /// Whether `person` is allowed by one of the lists.
    pub fn includes(&self, person: Person<'_>) -> bool {
        self.is_everybody()
            || self.users.contains(person.username)
            || self.groups.iter().any(|group| person.groups.contains(group))
            || person.email.is_some_and(|email| self.email_domains.iter().any(|domain| domain.has(email)))
    }
}

impl std::fmt::Display for Who {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let list = |texts: Vec<&str>| texts.join(", ");
        let mut parts = Vec::new();
        if !self.users.is_empty() {
            parts.push(format!("users {}", list(self.users.iter().map(Username::as_str).collect())));
        }
        if !self.groups.is_empty() {
            parts.push(format!("groups {}", list(self.groups.iter().map(Group::as_str).collect())));
        }
        if !self.email_domains.is_empty() {
            let domains: Vec<String> = self.email_domains.iter().map(ToString::to_string).collect();
            parts.push(format!("email domains {}", domains.join(", ")));
        }
        f.write_str(&if parts.is_empty() { "everybody".to_owned() } else { parts.join(" or ") })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn who(users: &[&str], groups: &[&str], domains: &[&str]) -> Who {
        Who {
            users: users.iter().map(|text| Username::try_from((*text).to_owned()).unwrap()).collect(),
            groups: groups.iter().map(|text| Group::try_from((*text).to_owned()).unwrap()).collect(),
            email_domains: domains.iter().map(|text| EmailDomain::parse(text).unwrap()).collect(),
        }
    }

    fn lets_in(who: &Who, name: &str, email: Option<&str>, groups: &[&str]) -> bool {
        let username = Username::try_from(name.to_owned()).unwrap();
        let groups: Vec<Group> =
            groups.iter().map(|text| Group::try_from((*text).to_owned()).unwrap()).collect();
        who.includes(Person { username: &username, email, groups: &groups })
    }

    #[test]
    fn any_list_that_names_a_person_lets_the_person_in() {
        let lists = who(&["ana"], &["ops"], &["example.com"]);
        assert!(lets_in(&lists, "Ana", None, &[]));
        assert!(lets_in(&lists, "bob", None, &["dev", "ops"]));
        assert!(lets_in(&lists, "bob", Some("bob@example.com"), &[]));
        assert!(!lets_in(&lists, "bob", Some("bob@example.org"), &["dev"]));
        assert!(lets_in(&Who::default(), "bob", None, &[]));
    }

    #[test]
    fn a085_nobody_gets_in_by_having_nothing() {
        for lists in [who(&["ana"], &[], &[]), who(&[], &["ops"], &[]), who(&[], &[], &["example.com"])] {
            assert!(!lets_in(&lists, "bob", None, &[]));
            assert!(!lets_in(&lists, "bob", Some(""), &[]));
        }
        // Groups are case-sensitive, unlike login names.
        assert!(!lets_in(&who(&[], &["ops"], &[]), "bob", None, &["Ops", "op", "opss"]));
    }

    #[test]
    fn a079_an_email_is_no_login_name_and_a_login_name_is_no_email() {
        assert!(!lets_in(&who(&[], &[], &["example.com"]), "bob@example.com", None, &[]));
        assert!(!lets_in(&who(&["bob@example.com"], &[], &[]), "bob", Some("bob@example.com"), &[]));
    }
}
